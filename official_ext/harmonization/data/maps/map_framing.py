"""What a human map shows of its image, and whether their shapes agree."""

from absl import flags
import numpy as np

from official_ext.harmonization import option_values

FRAMINGS = option_values.FRAMINGS
# How far a side may be from what the image's shape makes it: it is rounded when
# a picture is resized, and a hundredth is invisible.
_ROUNDING = 0.5
_SLACK = 0.01


def define_flag():
  """Defines --framing."""
  flags.DEFINE_enum(
    'framing',
    'same',
    FRAMINGS,
    'What a map shows: what its '
    "image shows; the image squeezed to the map's shape; or "
    "the image's largest central square.",
  )


def _agree(rows: int, columns: int, height: int, width: int) -> bool:
  """Whether one factor brings an image to a map's shape, but for the slack."""
  scales = [
    (
      (side - _ROUNDING - _SLACK * side) / of,
      (side + _ROUNDING + _SLACK * side) / of,
    )
    for side, of in ((rows, height), (columns, width))
  ]
  return max(low for low, _ in scales) <= min(high for _, high in scales)


def check(rows: int, columns: int, height: int, width: int):
  """Refuses a map that does not show what its image shows.

  Args:
    rows: of the map.
    columns: of the map.
    height: of the image.
    width: of the image.

  Raises:
    ValueError: their aspect ratios differ.
  """
  if _agree(rows, columns, height, width):
    return
  hint = (
    '; its rows and columns may be exchanged'
    if _agree(columns, rows, height, width)
    else ''
  )
  raise ValueError(
    f'map of {rows}x{columns} pixels, image of {height}x{width}{hint}; '
    'expected the same aspect ratio. Say by --framing if the map shows the '
    'image stretched, or its central square'
  )


def fit(
  values: np.ndarray, height: int, width: int, framing: str
) -> np.ndarray:
  """Gives a map the framing of an image.

  Args:
    values: (h, w), the map.
    height: of the image.
    width: of the image.
    framing: 'same', the map shows what the image shows; 'stretched', the image
      was squeezed to the map's shape, so the map goes with it as it is;
      'center_crop', it shows the largest central square of the image.

  Returns:
    The map in the image's framing. What lies outside a central square, where
    nobody could click, is 0.

  Raises:
    ValueError: the framing is 'same', but the shapes are not; or the map is to
      be a square, and is not.
  """
  rows, columns = values.shape
  if framing == 'stretched':
    return values
  if framing == 'same':
    check(rows, columns, height, width)
    return values
  if rows != columns:
    raise ValueError(
      f'map of {rows}x{columns} pixels; no central square has that shape'
    )
  short = min(height, width)
  canvas = np.zeros(
    (round(rows * height / short), round(rows * width / short)), values.dtype
  )
  top, left = (canvas.shape[0] - rows) // 2, (canvas.shape[1] - rows) // 2
  canvas[top : top + rows, left : left + rows] = values
  return canvas
