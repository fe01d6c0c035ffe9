# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The blur that the ClickMe release gives to its human maps.

Both of its steps have a corrected variant: `released` resizing skips pixels, so
that a map of single fixations can vanish, and the `released` kernel shifts a
map by half a cell.
"""

import numpy as np
import tensorflow as tf

from official_ext.harmonization import option_values

# How maps are resized to the size that is filtered: from the two nearest pixels
# per axis, as released, or from all pixels.
RESIZES = option_values.MAP_RESIZES
KERNELS = option_values.BLUR_KERNELS
# Height and width of the maps that are filtered, in cells.
WORKING_SIZE = 64

_KERNEL_SIZE = 10
_SIGMA = 10.0


def _released_filter(offsets: np.ndarray) -> np.ndarray:
  """Returns one axis of the release's Gaussian as a matrix.

  Args:
    offsets: positions of the ten taps in the Gaussian. The first tap weights
      the cell four cells before the output cell, as `tf.nn.conv2d` pads.

  Returns:
    float32 (64, 64): row i has the weights of all cells for output cell i.
    Cells outside the map count as 0.
  """
  taps = np.exp(-(offsets**2) / (2.0 * _SIGMA**2))
  matrix = np.zeros((WORKING_SIZE, WORKING_SIZE))
  for weight, offset in zip(taps / taps.sum(), range(-4, _KERNEL_SIZE - 4)):
    matrix += weight * np.eye(WORKING_SIZE, k=offset)
  return matrix.astype(np.float32)


def filters(kernel: str = 'released') -> tuple[np.ndarray, np.ndarray]:
  """Returns the Gaussian of `blur_cells` as a matrix for each axis.

  Args:
    kernel: one of `KERNELS`.

  Returns:
    float32 (64, 64), for rows and for columns: the filtered cells are
    `rows @ cells @ columns.T`.
  """
  columns = np.arange(-_KERNEL_SIZE // 2, _KERNEL_SIZE // 2)
  found = _released_filter(columns[::-1]), _released_filter(columns)
  if kernel == 'centred':
    found = tuple((m + m.T) / 2.0 for m in found)
  return found


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def to_cells(maps: tf.Tensor, map_resize: str = 'released') -> tf.Tensor:
  """Resizes maps to the size that is blurred, bilinearly.

  Args:
    maps: `Tensor` of shape (B, H, W, 1), any real dtype.
    map_resize: 'released' interpolates between the two nearest pixels per axis;
      in a map of 256x256 it ignores three quarters of the pixels. 'antialias'
      averages over all pixels, and keeps the map's mean. The two agree for maps
      up to 64x64.

  Returns:
    float32 `Tensor` of shape (B, 64, 64, 1).
  """
  return tf.image.resize(
    maps, [WORKING_SIZE, WORKING_SIZE], antialias=map_resize == 'antialias'
  )


@tf.autograph.experimental.do_not_convert
def blur_cells(cells: tf.Tensor, kernel: str = 'released') -> tf.Tensor:
  """Filters 64x64 maps with the release's 10x10 Gaussian of sigma 10.

  The kernel's columns are -5..4 and its rows 4..-5, with zero padding: nearly a
  box, as released (`harmonization` 0.0.9, `common/blur.py`). It is off-centre
  and shifts a map by -0.46 cells in y and -0.54 in x, which are -1.6 and -1.9
  of 224 pixels. It is kept because published scores depend on it. The kernel is
  separable, so two matrix products apply it.

  Args:
    cells: float32 `Tensor` of shape (B, 64, 64, 1), any value range.
    kernel: 'released', or 'centred', the mean of the released kernel and its
      mirror images, which is slightly wider (3 % in variance) and does not
      shift maps.

  Returns:
    float32 `Tensor` of shape (B, 64, 64, 1).
  """
  cells = tf.cast(cells, tf.float32)  # Also converts arrays and lists.
  down, across = filters(kernel)
  blurred = tf.matmul(down, cells[..., 0])
  blurred = tf.matmul(blurred, across, transpose_b=True)
  return blurred[..., tf.newaxis]


@tf.autograph.experimental.do_not_convert
def blur_maps(
  maps: tf.Tensor,
  output_size,
  map_resize: str = 'released',
  kernel: str = 'released',
) -> tf.Tensor:
  """Blurs human maps, by default as the released ClickMe loader does.

  A map is resized to 64x64 (`to_cells`), filtered (`blur_cells`), and resized
  to `output_size` (bilinear).

  Args:
    maps: float `Tensor` of shape (B, H, W, 1), any value range.
    output_size: (height, width) of the result.
    map_resize: one of `RESIZES`.
    kernel: one of `KERNELS`.

  Returns:
    float32 `Tensor` of shape (B, height, width, 1).
  """
  cells = to_cells(maps, map_resize)
  return tf.image.resize(blur_cells(cells, kernel), output_size)
