"""The blur that the ClickMe release gives to its human maps.

Both of its steps have a variant, since both do something that one would not
choose: `released` resizing skips pixels, so that a map of single fixations
vanishes, and the `released` kernel moves a map by half a cell.
"""

import numpy as np
import tensorflow as tf

from official_ext.harmonization import option_values

# How maps come to the size that is filtered: as released, by two pixels a side
# wherever they lie, or by all of them.
RESIZES = option_values.MAP_RESIZES
KERNELS = option_values.BLUR_KERNELS
# Height and width of the maps that are filtered, in cells.
WORKING_SIZE = 64

_KERNEL_SIZE = 10
_SIGMA = 10.0


def _released_filter(offsets: np.ndarray) -> np.ndarray:
  """One axis of the release's Gaussian, as a matrix to multiply cells with.

  Args:
    offsets: the ten taps' places in the Gaussian. The first is laid four cells
      before the cell that is summed for, as `tf.nn.conv2d` pads.

  Returns:
    float32 (64, 64): row i holds the weights that cell i takes from the others.
    Cells outside the map count as 0.
  """
  taps = np.exp(-(offsets**2) / (2.0 * _SIGMA**2))
  matrix = sum(
    weight * np.eye(WORKING_SIZE, k=offset)
    for weight, offset in zip(taps / taps.sum(), range(-4, _KERNEL_SIZE - 4))
  )
  return matrix.astype(np.float32)


def to_cells(maps: tf.Tensor, map_resize: str = 'released') -> tf.Tensor:
  """Resizes maps to the size that is blurred, bilinearly.

  Args:
    maps: `Tensor` of shape (B, H, W, 1), any real dtype.
    map_resize: 'released' samples the map between two pixels a side; of 256
      pixels a side, three quarters of all are not looked at. 'antialias'
      averages over all pixels, and keeps the map's mean. They are the same
      where the map is not larger than 64x64.

  Returns:
    float32 `Tensor` of shape (B, 64, 64, 1).
  """
  return tf.image.resize(
    maps, [WORKING_SIZE, WORKING_SIZE], antialias=map_resize == 'antialias'
  )


def blur_cells(cells: tf.Tensor, kernel: str = 'released') -> tf.Tensor:
  """Filters 64x64 maps by the release's 10x10 Gaussian of sigma 10.

  The kernel's columns are -5..4 and its rows 4..-5, with zero padding: nearly a
  box, as released (`harmonization` 0.0.9, `common/blur.py`). It is off-centre:
  a map moves by -.46 cells in y and -.54 in x, which are -1.6 and -1.9 of 224
  pixels. It is kept because published scores depend on it. A Gaussian is a
  product of its axes, so that two small matrices do it.

  Args:
    cells: float32 `Tensor` of shape (B, 64, 64, 1), any value range.
    kernel: 'released', or 'centred', the mean of the released kernel and its
      mirror images: a little wider (3 % in variance), and moving nothing.

  Returns:
    float32 `Tensor` of shape (B, 64, 64, 1).
  """
  cells = tf.cast(cells, tf.float32)  # An array or lists, too.
  columns = np.arange(-_KERNEL_SIZE // 2, _KERNEL_SIZE // 2)
  rows = columns[::-1]
  down, across = _released_filter(rows), _released_filter(columns)
  if kernel == 'centred':
    down, across = ((m + m.T) / 2.0 for m in (down, across))
  blurred = tf.matmul(down, cells[..., 0])
  blurred = tf.matmul(blurred, across, transpose_b=True)
  return blurred[..., tf.newaxis]


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
