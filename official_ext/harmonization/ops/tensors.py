# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Conversion of arguments of public functions to tensors."""

import tensorflow as tf


def floating(values) -> tf.Tensor:
  """Converts values to a tensor of floating-point numbers.

  Args:
    values: a value that `tf.convert_to_tensor` accepts: a `Tensor` or variable,
      a NumPy array, nested lists of numbers or booleans.

  Returns:
    A `Tensor`, cast to float32 unless it is floating-point.
  """
  values = tf.convert_to_tensor(values)
  return values if values.dtype.is_floating else tf.cast(values, tf.float32)
