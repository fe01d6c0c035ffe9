"""From people's clicks to a map of what they found important.

The steps and numbers are those of the ClickMe 2.0 data tools: clicks are
counted at the pixel (y, x), averaged over participants and blurred twice with
a flat disc of 21 pixels on images of 256; an earlier version used a Gaussian
with sigma sqrt(21).
"""

import collections
from collections.abc import Sequence
import dataclasses
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from official_ext.harmonization import option_values
from official_ext.harmonization.data.maps import click_points

BLURS = option_values.CLICK_BLURS
_DISC = 21
_LARGEST_DISC = 51
_SHORT_SIDE = 256
_SIGMA = np.sqrt(21.0)


@dataclasses.dataclass(frozen=True)
class Row:
  """What one participant clicked on one image.

  Attributes:
    user: the participant.
    clicks: as recorded, see `click_points.read`.
    place: file and row, for messages.
    label: the image's class as recorded, or empty.
    catch_trial: the part of the participant's catch trials that was passed, or
      None where there were none.
    is_mobile: whether the participant used a phone; None where the file does
      not say so for this row.
    problem: why the row cannot be used, or empty.
  """

  user: str
  clicks: str | tuple[Sequence[float], Sequence[float]]
  place: str = ''
  label: str = ''
  catch_trial: float | None = None
  is_mobile: bool | None = False
  problem: str = ''


@dataclasses.dataclass(frozen=True)
class Rules:
  """Which clicks count, and how they become a map.

  Attributes:
    min_clicks: of a participant on the image; who has fewer is left out.
    max_clicks: of a participant on the image, the first ones; 0 for all.
    min_participants: an image with fewer is left out.
    min_catch_trial: participants below it are left out, where it is known.
    drop_mobile: whether participants on phones are left out.
    blur: 'disc' or 'gaussian'.
  """

  min_clicks: int = 1
  max_clicks: int = 0
  min_participants: int = 5
  min_catch_trial: float = 0.95
  drop_mobile: bool = False
  blur: str = 'disc'

  def __post_init__(self):
    if not 0 <= self.min_catch_trial <= 1:
      raise ValueError(
        f'--min_catch_trial is {self.min_catch_trial}; expected a part of '
        'the catch trials, from 0 to 1. Write 0.95 for 95 %.'
      )


class ClickMap(NamedTuple):
  """A map and what it was made of.

  Attributes:
    values: float64 (H, W); None where too few participants are left.
    clicks: how many are in it.
    participants: how many people made them.
    left_out: how many clicks or rows were left out, by reason.
    unreadable: of rows that could not be read, place and reason.
  """

  values: np.ndarray | None
  clicks: int
  participants: int
  left_out: collections.Counter
  unreadable: list[tuple[str, str]]


def parse(clicks) -> np.ndarray:
  """Returns the places of clicks; see `click_points.read`.

  Args:
    clicks: as recorded.

  Returns:
    float64 (n, 2), x and y of each click in pixels.

  Raises:
    ValueError: they cannot be read.
  """
  return click_points.read(clicks).places


def disc_width(height: int, width: int) -> int:
  """The disc's width for an image: 21 at 256, odd, at most 51.

  Args:
    height: of the map.
    width: of the map.

  Returns:
    Pixels.
  """
  scaled = _DISC * min(height, width) / _SHORT_SIDE
  return max(1, min(_LARGEST_DISC, 2 * int(scaled // 2) + 1))


def disc_sum(counts: np.ndarray, width: int) -> np.ndarray:
  """Sums, around every pixel, what lies in a disc; zero outside the frame.

  A disc is a stack of horizontal runs, and a run's sum is a difference of
  cumulative sums: whole numbers stay whole, and zeros zero.

  Args:
    counts: int64 (H, W).
    width: of the disc, odd; it holds the pixels within width // 2 of its
      centre.

  Returns:
    int64 (H, W).
  """
  height, length = counts.shape
  radius = width // 2
  # One column of zeros more: the sum of what lies before the first pixel.
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


def blur(counts: np.ndarray, kind: str = 'disc') -> np.ndarray:
  """Blurs a map of counts as either version of the ClickMe 2.0 tools does.

  Args:
    counts: int64 (H, W), clicks at each pixel.
    kind: 'disc', a flat disc that is applied twice, or 'gaussian'.

  Returns:
    float64 (H, W).

  Raises:
    ValueError: there is no such kind.
  """
  if kind == 'gaussian':
    return ndimage.gaussian_filter(
      counts.astype(np.float64), _SIGMA, mode='constant'
    )
  if kind != 'disc':
    raise ValueError(f'No blur {kind}: there are {" and ".join(BLURS)}.')
  width = disc_width(*counts.shape)
  area = disc_sum(np.pad([[1]], width // 2), width).sum()
  return disc_sum(disc_sum(counts, width), width) / float(area) ** 2


class Participants(NamedTuple):
  """Who clicked where on an image.

  Attributes:
    points: by participant, int64 (n, 2), x and y of each click that counts.
    left_out: how many clicks or rows were left out, by reason.
    unreadable: of rows that could not be read, place and reason.
  """

  points: dict[str, np.ndarray]
  left_out: collections.Counter
  unreadable: list[tuple[str, str]]


def participants(
  rows: Sequence[Row], height: int, width: int, rules: Rules
) -> Participants:
  """Sorts out the clicks on one image.

  Args:
    rows: of this image, in the order in which they were recorded.
    height: of the frame that the clicks were made in.
    width: of that frame.
    rules: which clicks count.

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
      row.catch_trial >= rules.min_catch_trial
    ):
      left_out['rows: catch trials not passed'] += 1
    elif rules.drop_mobile and row.is_mobile:
      left_out['rows: made on a phone'] += 1
    elif row.user in taken:
      left_out['rows: participant again on the same image'] += 1
    else:
      if rules.drop_mobile and row.is_mobile is None:
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
      if len(points) < rules.min_clicks:
        left_out['rows: too few clicks'] += 1
        continue
      if rules.max_clicks:
        left_out['clicks: past --max_clicks'] += max(
          0, len(points) - rules.max_clicks
        )
        points = points[: rules.max_clicks]
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
  rows: Sequence[Row], height: int, width: int, rules: Rules
) -> ClickMap:
  """Makes the map of one image.

  Args:
    rows: of this image, in the order in which they were recorded.
    height: of the frame that the clicks were made in, and of the map.
    width: of that frame.
    rules: which clicks count, and how they become a map.

  Returns:
    The map, or None in its place, and what was skipped.
  """
  people = participants(rows, height, width, rules)
  clicks = sum(len(points) for points in people.points.values())
  values = None
  if clicks and len(people.points) >= rules.min_participants:
    counts = count(np.concatenate(list(people.points.values())), height, width)
    values = blur(counts, rules.blur) / len(people.points)
  return ClickMap(
    values, clicks, len(people.points), people.left_out, people.unreadable
  )
