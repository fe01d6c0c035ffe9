# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks that clicks were made in the frame in which they are read."""

from collections.abc import Callable, Iterable

import numpy as np

from official_ext.harmonization.data.maps import clicks

# Fewer clicks may miss a part of their images by chance.
_ENOUGH = 20
# Images that people click on are not smaller than this.
_SMALLEST = 32
# An image is suspicious if it is larger than the range of all clicks by this
# factor. Of 20 clicks around the centre of images (standard deviation a fifth
# of a side), at least one is outside that range in 94 % of cases; of 100
# clicks, in nearly all.
_ROOM = 1.25


def check(
  rows: Iterable[tuple[str, clicks.ParticipantClicks]],
  size_of: Callable[[str], tuple[int, int] | None],
  frame: int | None,
):
  """Checks some rows of clicks before all are used.

  Args:
    rows: images and rows of clicks; unreadable ones are ignored.
    size_of: returns height and width of an image as people see it, or None if
      it cannot be read.
    frame: side of the square in whose pixels clicks are given; 0 for the pixels
      of the image; None if it is unknown, which means the same but is checked.

  Raises:
    ValueError: most clicks are outside, or they seem to have been made in a
      frame that is smaller than the image.
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
      f'--clicks: {outside} of the {total} clicks that were inspected are '
      f'outside {where}; expected most inside. Give the side of the square '
      'that people clicked in with --click_frame, or another --image_dir.'
    )
  if total and fractions > total / 2:
    raise ValueError(
      f'--clicks: {fractions} of the {total} clicks that were inspected are '
      'between 0 and 1, and seem to be fractions of the width and height; '
      'expected pixels. Multiply x by the width and y by the height.'
    )
  if frame is not None or total < _ENOUGH or min(reached) < _SMALLEST:
    return
  known = [size for size in sizes.values() if size]
  larger = sum(h >= _ROOM * height and w >= _ROOM * width for h, w in known)
  if larger > len(known) / 2:
    raise ValueError(
      f'--clicks: none of {total} clicks is beyond x = {width:.0f}, y = '
      f'{height:.0f}, but {larger} of {len(known)} images are larger by a '
      'quarter or more; people seem to have clicked in a smaller frame. Give '
      'its side to scale the clicks, such as --click_frame=256, or '
      '--click_frame=0 if they are in the pixels of the images.'
    )
