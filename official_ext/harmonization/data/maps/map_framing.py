# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks and changes what a human map shows of its image."""

import numpy as np

# Tolerances for the sides of a map, in pixels and as a part of the side: sides
# are rounded when an image is resized, and a hundredth is invisible.
_ROUNDING = 0.5
_SLACK = 0.01


def _agree(rows: int, columns: int, height: int, width: int) -> bool:
  """Whether a map and an image have the same aspect ratio, within tolerance."""
  scales = [
    (
      (side - _ROUNDING - _SLACK * side) / of,
      (side + _ROUNDING + _SLACK * side) / of,
    )
    for side, of in ((rows, height), (columns, width))
  ]
  return max(low for low, _ in scales) <= min(high for _, high in scales)


def check(rows: int, columns: int, height: int, width: int):
  """Checks that a map and its image have the same aspect ratio.

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
    'expected the same aspect ratio. Set --framing if the map shows the '
    'image stretched, or its central square'
  )


def fit(
  values: np.ndarray, height: int, width: int, framing: str
) -> np.ndarray:
  """Converts a map so that it shows the same as its image.

  Args:
    values: the map, (h, w).
    height: of the image.
    width: of the image.
    framing: 'same' if the map shows the same as the image; 'stretched' if the
      image was stretched to the map's shape; 'center_crop' if the map shows the
      largest central square of the image.

  Returns:
    The map, unchanged for 'same' and 'stretched'. For 'center_crop' it is
    extended with zeros, since nobody could click outside the square.

  Raises:
    ValueError: the aspect ratios differ although the framing is 'same', or the
      map is not a square although it is 'center_crop'.
  """
  rows, columns = values.shape
  if framing == 'stretched':
    return values
  if framing == 'same':
    check(rows, columns, height, width)
    return values
  if rows != columns:
    raise ValueError(
      f'map of {rows}x{columns} pixels; expected a square for '
      '--framing=center_crop'
    )
  short = min(height, width)
  canvas = np.zeros(
    (round(rows * height / short), round(rows * width / short)), values.dtype
  )
  top, left = (canvas.shape[0] - rows) // 2, (canvas.shape[1] - rows) // 2
  canvas[top : top + rows, left : left + rows] = values
  return canvas
