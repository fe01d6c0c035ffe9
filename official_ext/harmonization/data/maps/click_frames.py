"""Whether clicks were made in the frame that they are read in."""

from collections.abc import Callable, Iterable

import numpy as np

from official_ext.harmonization.data.maps import clicks

# Fewer clicks may leave a part of their images untouched by chance.
_ENOUGH = 20
# No picture that people click on has fewer pixels a side.
_SMALLEST = 32
# So much greater than all clicks reach must an image be to look suspicious. Of
# 20 clicks around the middle of images (standard deviation a fifth of a side),
# one or more lie beyond in 94 cases of 100; of 100 clicks, in nearly all.
_ROOM = 1.25


def check(
  rows: Iterable[tuple[str, clicks.Row]],
  size_of: Callable[[str], tuple[int, int] | None],
  frame: int | None,
):
  """Looks at some rows of clicks before all are used.

  Args:
    rows: images and rows of clicks; those that cannot be read are passed over.
    size_of: returns height and width of an image as people see it, or None
      where it cannot be had.
    frame: side of the square in whose pixels clicks are given; 0 where they are
      given in the image's own; None where nobody has said it, so that these are
      assumed.

  Raises:
    ValueError: most clicks lie outside, or they seem to have been made in a
      frame smaller than the image.
  """
  sizes, total, outside, fractions = {}, 0, 0, 0
  reached = np.zeros(2)
  for image, row in rows:
    if image not in sizes:
      sizes[image] = (frame, frame) if frame else size_of(image)
    if sizes[image] is None:
      continue
    try:
      points = clicks.parse(row.clicks)
    except ValueError:
      continue
    if not len(points):
      continue
    small = ((points >= 0) & (points <= 1)).all(-1)
    fractions += int((small & (points % 1 > 0).any(-1)).sum())
    points = np.floor(points)
    inside = ((points >= 0) & (points < sizes[image][::-1])).all(-1)
    total += len(points)
    outside += len(points) - int(inside.sum())
    reached = np.maximum(reached, points.max(0) + 1)
  width, height = reached
  where = f'the square of --click_frame={frame}' if frame else 'their images'
  if outside > total / 2:
    raise ValueError(
      f'--clicks: {outside} of the {total} clicks that were looked at lie '
      f'outside {where}; expected most inside. Give the side of the square '
      'that people clicked in by --click_frame, or the right --image_dir.'
    )
  if total and fractions > total / 2:
    raise ValueError(
      f'--clicks: {fractions} of the {total} clicks that were looked at lie '
      'between 0 and 1: they seem to be fractions of the width and height; '
      'expected pixels. Multiply x by the width and y by the height.'
    )
  if frame is not None or total < _ENOUGH or min(reached) < _SMALLEST:
    return
  known = [size for size in sizes.values() if size]
  larger = sum(h >= _ROOM * height and w >= _ROOM * width for h, w in known)
  if larger > len(known) / 2:
    raise ValueError(
      f'--clicks: none of {total} clicks lies beyond x = {width:.0f}, y = '
      f'{height:.0f}, but {larger} of {len(known)} images are larger by a '
      'quarter or more: people seem to have clicked in a smaller frame. Give '
      'its side, such as --click_frame=256, and clicks are scaled; or '
      '--click_frame=0 if they are in the pixels of the images.'
    )
