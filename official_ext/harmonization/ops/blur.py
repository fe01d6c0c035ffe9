"""The blur that the ClickMe release gives to its human maps."""

import numpy as np
import tensorflow as tf, tf_keras

_WORKING_SIZE = 64
_KERNEL_SIZE = 10
_SIGMA = 10.


def _released_kernel() -> np.ndarray:
  """The 10x10 Gaussian of the release: columns -5..4, rows 4..-5."""
  columns = np.arange(-_KERNEL_SIZE // 2, _KERNEL_SIZE // 2)
  rows = columns[::-1]
  kernel = np.exp(-(columns[np.newaxis, :]**2 + rows[:, np.newaxis]**2) /
                  (2. * _SIGMA**2))
  return kernel / kernel.sum()


def blur_maps(maps: tf.Tensor, output_size) -> tf.Tensor:
  """Blurs human maps as the released ClickMe loader does.

  A map is resized to 64x64 (bilinear), filtered by a 10x10 Gaussian of
  sigma 10 with zero padding, and resized to `output_size` (bilinear). The
  kernel is nearly a box and off-centre by half a cell, as released
  (`harmonization` 0.0.9, `common/clickme_dataset.py`); it is kept because
  published scores depend on it.

  Args:
    maps: float `Tensor` of shape (B, H, W, 1), any value range.
    output_size: (height, width) of the result.

  Returns:
    float32 `Tensor` of shape (B, height, width, 1).
  """
  kernel = tf.constant(
      _released_kernel()[:, :, np.newaxis, np.newaxis], tf.float32)
  maps = tf.image.resize(maps, [_WORKING_SIZE, _WORKING_SIZE])
  maps = tf.nn.conv2d(maps, kernel, strides=1, padding='SAME')
  return tf.image.resize(maps, output_size)
