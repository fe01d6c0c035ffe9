# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Turns people's clicks into a map of what they found important.

The steps and numbers are those of the ClickMe 2.0 data tools: clicks are
counted at the pixel (y, x), averaged over participants and blurred twice with
a flat disc of 21 pixels on images of 256; an earlier version used a Gaussian
with sigma sqrt(21).
"""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from official_ext.harmonization.data.maps import click_points
from official_ext.harmonization.data.maps import map_options

_DISC = 21
_LARGEST_DISC = 51
_SHORT_SIDE = 256
_SIGMA = np.sqrt(21.0)
# Sums over the whole map are faster for more clicks.
_MANY_CLICKS = 1000


@dataclasses.dataclass(frozen=True)
class ParticipantClicks:
  """The clicks of one participant on one image.

  Attributes:
    user: the participant.
    clicks: as recorded, see `click_points.read`.
    place: file and row, for messages.
    label: the recorded class of the image, or empty.
    catch_trial: the part of the catch trials that the participant passed; None
      without such a column, NaN if the value is missing.
    is_mobile: whether the participant used a phone; None if the value is
      missing.
    problem: why the row cannot be used, or empty.
  """

  user: str
  clicks: str | tuple[Sequence[float], Sequence[float]]
  place: str = ''
  label: str = ''
  catch_trial: float | None = None
  is_mobile: bool | None = False
  problem: str = ''


class ClickMap(NamedTuple):
  """The map of an image, and what it was made from.

  Attributes:
    values: float64 (H, W); None if too few participants are left.
    clicks: number of clicks in the map.
    participants: number of people who made them.
    left_out: numbers of skipped clicks and rows, by reason.
    unreadable: place of and reason for each unreadable row.
  """

  values: np.ndarray | None
  clicks: int
  participants: int
  left_out: collections.Counter
  unreadable: list[tuple[str, str]]


def parse(clicks) -> np.ndarray:
  """Returns the positions of clicks; see `click_points.read`.

  Args:
    clicks: as recorded.

  Returns:
    float64 (n, 2), x and y of each click in pixels.

  Raises:
    ValueError: they cannot be read.
  """
  return click_points.read(clicks).places


def disc_width(height: int, width: int) -> int:
  """Returns the width of the disc in pixels: 21 at 256, odd, at most 51.

  Args:
    height: of the map.
    width: of the map.
  """
  scaled = _DISC * min(height, width) / _SHORT_SIDE
  return max(1, min(_LARGEST_DISC, 2 * int(scaled // 2) + 1))


def disc_sum(counts: np.ndarray, width: int) -> np.ndarray:
  """Sums counts over a disc around every pixel, with zeros outside the map.

  A disc is a stack of horizontal runs, and the sum over a run is a difference
  of cumulative sums. The result is therefore exact, and zeros stay zero.

  Args:
    counts: int64 (H, W).
    width: of the disc, odd. The disc contains the pixels within width // 2 of
      its centre.

  Returns:
    int64 (H, W).
  """
  height, length = counts.shape
  radius = width // 2
  # The additional first column is the sum over no pixels.
  before = np.zeros((height + 2 * radius, length + 1), np.int64)
  np.cumsum(counts, axis=1, out=before[radius : radius + height, 1:])
  columns = np.arange(length)
  total = np.zeros((height, length), np.int64)
  for dy in range(-radius, radius + 1):
    half = math.isqrt(radius**2 - dy**2)
    rows = before[radius + dy : radius + dy + height]
    total += rows[:, np.minimum(columns + half + 1, length)]
    total -= rows[:, np.maximum(columns - half, 0)]
  return total


@functools.lru_cache(maxsize=4096)
def _stamp(
  width: int, above: int, below: int, left: int, right: int
) -> np.ndarray:
  """Returns what a click adds to a map that is summed over two discs.

  Args:
    width: of the disc.
    above: rows of the map above the click, at most width // 2 of which count,
      because the sum over the first disc is 0 outside the map.
    below: rows below it.
    left: columns left of it.
    right: columns right of it.

  Returns:
    int64, the sums around the click, as far as the map reaches.
  """
  reach = 2 * (width // 2)
  above, below, left, right = (
    reach if side >= width // 2 else side
    for side in (above, below, left, right)
  )
  counts = np.zeros((above + 1 + below, left + 1 + right), np.int64)
  counts[above, left] = 1
  return disc_sum(disc_sum(counts, width), width)


def click_density(
  points: np.ndarray, height: int, width: int, kind: str = 'disc'
) -> np.ndarray:
  """Computes `blur(count(points))`, bit for bit, in less time.

  What a click adds does not depend on the others, so that the sums over discs
  are made of one stamp per click. They are whole numbers, in any order exact.

  Args:
    points: int64 (n, 2), x and y.
    height: of the map.
    width: of the map.
    kind: as for `blur`.

  Returns:
    float64 (height, width).
  """
  if kind != 'disc' or len(points) > _MANY_CLICKS:
    return blur(count(points, height, width), kind)
  disc = disc_width(height, width)
  radius = disc // 2
  total = np.zeros((height, width), np.int64)
  for x, y in points.tolist():
    sides = (y, height - 1 - y, x, width - 1 - x)
    stamp = _stamp(disc, *(min(side, radius) for side in sides))
    # Next to an edge, the stamp ends there; elsewhere it is cut off here.
    top, bottom, left, right = (
      side if side < radius else 2 * radius for side in sides
    )
    skip_top, skip_left = max(0, top - y), max(0, left - x)
    rows = slice(y - top + skip_top, y + bottom + 1)
    columns = slice(x - left + skip_left, x + right + 1)
    part = total[rows, columns]
    part += stamp[
      skip_top : skip_top + part.shape[0],
      skip_left : skip_left + part.shape[1],
    ]
  return total / float(_disc_area(disc)) ** 2


@functools.lru_cache
def _disc_area(width: int) -> int:
  return int(disc_sum(np.pad([[1]], width // 2), width).sum())


def blur(counts: np.ndarray, kind: str = 'disc') -> np.ndarray:
  """Blurs a map of counts like a version of the ClickMe 2.0 tools.

  Args:
    counts: number of clicks at each pixel, int64 (H, W).
    kind: 'disc', a flat disc that is applied twice, or 'gaussian'.

  Returns:
    float64 (H, W).

  Raises:
    ValueError: the kind is unknown.
  """
  if kind == 'gaussian':
    return ndimage.gaussian_filter(
      counts.astype(np.float64), _SIGMA, mode='constant'
    )
  if kind != 'disc':
    raise ValueError(f'blur is {kind!r}; expected disc or gaussian.')
  width = disc_width(*counts.shape)
  return (
    disc_sum(disc_sum(counts, width), width) / float(_disc_area(width)) ** 2
  )


class Participants(NamedTuple):
  """The clicks of each participant on an image.

  Attributes:
    points: x and y of the clicks that count, int64 (n, 2), by participant.
    left_out: numbers of skipped clicks and rows, by reason.
    unreadable: place of and reason for each unreadable row.
  """

  points: dict[str, np.ndarray]
  left_out: collections.Counter
  unreadable: list[tuple[str, str]]


def participants(
  rows: Sequence[ParticipantClicks],
  height: int,
  width: int,
  click_filter: map_options.ClickFilter,
) -> Participants:
  """Filters the clicks on one image.

  Args:
    rows: of this image, in the order in which they were recorded.
    height: of the frame in which the clicks were made.
    width: of that frame.
    click_filter: which clicks count.

  Returns:
    The clicks of each participant, and what was skipped.
  """
  left_out = collections.Counter()
  unreadable = []
  taken = {}
  for row in rows:
    if row.problem:
      left_out['rows: unreadable'] += 1
      unreadable.append((row.place, row.problem))
    elif row.catch_trial is not None and not (
      row.catch_trial >= click_filter.min_catch_trial
    ):
      left_out['rows: catch trials not passed'] += 1
    elif click_filter.drop_mobile and row.is_mobile:
      left_out['rows: made on a phone'] += 1
    elif row.user in taken:
      left_out['rows: participant again on the same image'] += 1
    else:
      if click_filter.drop_mobile and row.is_mobile is None:
        left_out['rows: taken, not known whether made on a phone'] += 1
      try:
        found = click_points.read(row.clicks)
        points = np.floor(found.places)
        left_out['clicks: without a place (null)'] += found.nulls
      except ValueError as e:
        left_out['rows: unreadable'] += 1
        unreadable.append((row.place, str(e)))
        continue
      inside = ((points >= 0) & (points < (width, height))).all(-1)
      left_out['clicks: outside the image'] += int((~inside).sum())
      points = points[inside].astype(np.int64)
      if len(points) < click_filter.min_clicks:
        left_out['rows: too few clicks'] += 1
        continue
      if click_filter.max_clicks:
        left_out['clicks: past --max_clicks'] += max(
          0, len(points) - click_filter.max_clicks
        )
        points = points[: click_filter.max_clicks]
      taken[row.user] = points
  return Participants(taken, +left_out, unreadable)


def count(points: np.ndarray, height: int, width: int) -> np.ndarray:
  """Counts clicks at each pixel.

  Args:
    points: int64 (n, 2), x and y.
    height: of the map.
    width: of the map.

  Returns:
    int64 (height, width).
  """
  counts = np.zeros((height, width), np.int64)
  x, y = points.T
  np.add.at(counts, (y, x), 1)
  return counts


def click_map(
  rows: Sequence[ParticipantClicks],
  height: int,
  width: int,
  click_filter: map_options.ClickFilter,
) -> ClickMap:
  """Makes the map of one image.

  Args:
    rows: of this image, in the order in which they were recorded.
    height: of the frame in which the clicks were made, and of the map.
    width: of that frame.
    click_filter: which clicks count, and how they become a map.

  Returns:
    The map, if enough participants are left, and what was skipped.
  """
  people = participants(rows, height, width, click_filter)
  clicks = sum(len(points) for points in people.points.values())
  values = None
  if clicks and len(people.points) >= click_filter.min_participants:
    points = np.concatenate(list(people.points.values()))
    values = click_density(points, height, width, click_filter.blur)
    values /= len(people.points)
  return ClickMap(
    values, clicks, len(people.points), people.left_out, people.unreadable
  )
