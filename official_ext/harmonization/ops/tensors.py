"""What public functions of tensors take for one."""

import tensorflow as tf


def floating(values) -> tf.Tensor:
  """Converts values to a tensor of floating-point numbers.

  Args:
    values: whatever `tf.convert_to_tensor` takes: a `Tensor` or variable, a
      NumPy array, nested lists of numbers or truth values.

  Returns:
    A `Tensor`: as it is where it is floating-point, else cast to float32.
  """
  values = tf.convert_to_tensor(values)
  return values if values.dtype.is_floating else tf.cast(values, tf.float32)
