"""The blur that the ClickMe release gives to its human maps."""

import numpy as np
import tensorflow as tf, tf_keras

# Height and width of the maps that are filtered, in cells.
WORKING_SIZE = 64

_KERNEL_SIZE = 10
_SIGMA = 10.


def _released_filter(offsets: np.ndarray) -> np.ndarray:
  """One axis of the release's Gaussian, as a matrix to multiply cells with.

  Args:
    offsets: the ten taps' places in the Gaussian. The first is laid four cells
      before the cell that is summed for, as `tf.nn.conv2d` pads.

  Returns:
    float32 (64, 64): row i holds the weights that cell i takes from the others.
    Cells outside the map count as 0.
  """
  taps = np.exp(-offsets**2 / (2. * _SIGMA**2))
  matrix = sum(
      weight * np.eye(WORKING_SIZE, k=offset)
      for weight, offset in zip(taps / taps.sum(), range(-4, _KERNEL_SIZE - 4)))
  return matrix.astype(np.float32)


def blur_cells(cells: tf.Tensor) -> tf.Tensor:
  """Filters 64x64 maps by the release's 10x10 Gaussian of sigma 10.

  The kernel's columns are -5..4 and its rows 4..-5, with zero padding: nearly a
  box, and off-centre by half a cell, as released (`harmonization` 0.0.9,
  `common/blur.py`). It is kept because published scores depend on it. A
  Gaussian is a product of its axes, so that two small matrices do it.

  Args:
    cells: float32 `Tensor` of shape (B, 64, 64, 1), any value range.

  Returns:
    float32 `Tensor` of shape (B, 64, 64, 1).
  """
  columns = np.arange(-_KERNEL_SIZE // 2, _KERNEL_SIZE // 2)
  rows = columns[::-1]
  blurred = tf.matmul(_released_filter(rows), cells[..., 0])
  blurred = tf.matmul(blurred, _released_filter(columns), transpose_b=True)
  return blurred[..., tf.newaxis]


def blur_maps(maps: tf.Tensor, output_size) -> tf.Tensor:
  """Blurs human maps as the released ClickMe loader does.

  A map is resized to 64x64 (bilinear), filtered (`blur_cells`), and resized to
  `output_size` (bilinear).

  Args:
    maps: float `Tensor` of shape (B, H, W, 1), any value range.
    output_size: (height, width) of the result.

  Returns:
    float32 `Tensor` of shape (B, height, width, 1).
  """
  cells = tf.image.resize(maps, [WORKING_SIZE, WORKING_SIZE])
  return tf.image.resize(blur_cells(cells), output_size)
