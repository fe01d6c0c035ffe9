# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Ceilings and floors of alignment: how well people agree with each other.

They are means over images of `participant_agreement`, which is computed from
raw maps, one per participant and image, with the same score as for models. A
ceiling depends on its definition: random halves of the participants against
each other (as in the ClickMe 2.0 tools), or one participant against the mean of
the others. The floor compares people with people who saw another image; it
measures what all maps have in common, such as a bias to the centre.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, Protocol
import zlib

from etils import epy
import numpy as np

from official_ext.harmonization import cli
from official_ext.harmonization.benchmark import participant_agreement

# Lazy, because the command imports this module for the flags in `Settings`.
with epy.lazy_imports():
  from official_ext.harmonization.benchmark import normalization
  from official_ext.harmonization.benchmark import statistics
  from official_ext.harmonization.evaluation import scores

_MEASURED = ('split_half', 'floor', 'leave_one_out', 'leave_one_out_shuffled')
# The measures of an image: those above and what is derived from them.
MEASURES = (
  'split_half',
  'spearman_brown',
  'floor',
  'leave_one_out',
  'leave_one_out_shuffled',
)
# Means over pairs of images; each image enters as both parts of a pair.
SHUFFLED = ('floor', 'leave_one_out_shuffled')
# The correlation that a map without noise has with the map of all participants.
UPPER = 'upper_ceiling'

# The names by which earlier versions documented them.
spearman = participant_agreement.spearman
spearman_brown = participant_agreement.spearman_brown
split_half_scores = participant_agreement.split_half_scores
leave_one_out_scores = participant_agreement.leave_one_out_scores
other_image_scores = participant_agreement.other_image_scores


class MapReader(Protocol):
  """Reads the raw maps of each image."""

  def names(self) -> Sequence[str]:
    """Returns the names of the images, always in the same order."""
    ...

  def participants(self, name: str) -> int:
    """Returns the number of participants of an image."""
    ...

  def maps(self, name: str) -> np.ndarray:
    """Returns the maps of an image, (P, H, W), with one H, W for all images."""
    ...


@dataclasses.dataclass(frozen=True)
class Settings:
  """How agreement is measured.

  Attributes:
    iterations: number of splits of each image's participants.
    resample: whether halves are resampled to full size.
    min_participants: images with fewer are listed, but not scored.
    group: images are measured in random groups of at least this size and less
      than twice this size. The other images for the floor come from the same
      group.
    seed: of all random choices. The splits of an image depend only on the seed
      and the image's name.
  """

  iterations: int = cli.flag(
    100, "Random splits of each image's participants.", at_least=1
  )
  resample: bool = cli.flag(
    False, 'Resample halves to full size, as the ClickMe 2.0 tools do.'
  )
  min_participants: int = 5
  group: int = 16
  seed: int = cli.flag(0, 'Seed of all random choices.', at_least=0)

  def __post_init__(self):
    for name, least in (
      ('iterations', 1),
      ('min_participants', 2),
      ('group', 2),
    ):
      if getattr(self, name) < least:
        raise ValueError(
          f'{name} is {getattr(self, name)}; expected at least {least}.'
        )


def plan(
  reader: MapReader, settings: Settings
) -> tuple[list[list[str]], list[dict[str, Any]]]:
  """Divides the images into groups.

  Args:
    reader: of the maps.
    settings: how agreement is measured.

  Returns:
    The groups of images, and the rows of images with too few participants.
  """
  enough, rows = [], []
  for name in reader.names():
    participants = reader.participants(name)
    if participants >= settings.min_participants:
      enough.append(name)
    else:
      rows.append(
        _row(
          name,
          participants,
          {},
          f'too few participants: {settings.min_participants} are needed',
        )
      )
  order = np.random.default_rng(settings.seed).permutation(len(enough))
  count = max(1, len(enough) // settings.group)
  # Groups of nearly equal size: an image in a group of one would have no floor.
  groups = [
    [enough[i] for i in part]
    for part in np.array_split(order, count)
    if len(part)
  ]
  return groups, rows


def _row(
  name: str, participants: int, found: Mapping[str, np.ndarray], note: str = ''
) -> dict[str, Any]:
  """Returns the row of an image from its scores (n,) by measure."""
  row = {'image': name, 'participants': participants}
  for measured in _MEASURED:
    values = found.get(measured, np.empty(0))
    defined = values[~np.isnan(values)]
    row[measured] = float(defined.mean()) if len(defined) else math.nan
    row[f'{measured}_undefined'] = len(values) - len(defined)
    if measured == 'split_half':
      reliability = participant_agreement.spearman_brown(row[measured])
      row['spearman_brown'] = float(reliability)
  return {**row, 'note': note}


def seed_of(name: str, settings: Settings) -> tuple[int, int]:
  """Returns the seed of the splits of an image's participants."""
  return settings.seed, zlib.crc32(name.encode())


def _with_others(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Correlates mean unit ranks of images with those of other images.

  Args:
    a: (n, N), such as of first halves.
    b: (n, N), such as of second halves.

  Returns:
    float64 (n, n - 1), both ways on average.
  """
  pairs = a.astype(np.float64) @ b.astype(np.float64).T
  pairs = (pairs + pairs.T) / 2
  others = ~np.eye(len(pairs), dtype=bool)
  return pairs[others].reshape(len(pairs), -1)


def measure(
  reader: MapReader, group: Sequence[str], settings: Settings
) -> list[dict[str, Any]]:
  """Measures agreement on the images of one group by rank correlation.

  Args:
    reader: of the maps.
    group: images from `plan`.
    settings: how agreement is measured.

  Returns:
    A row for each image: `image`, `participants`, the means of the defined
    scores of each measure, the numbers of undefined scores
    (`split_half_undefined` ...), `spearman_brown` of `split_half`, and an empty
    `note`. `floor` and `leave_one_out_shuffled` are means over the other images
    of the group and all pairs of their halves or participants; they are NaN
    without another image.

  Raises:
    ValueError: the images differ in size.
  """
  found = [
    participant_agreement.agreements(
      reader.maps(name),
      iterations=settings.iterations,
      resample=settings.resample,
      seed=seed_of(name, settings),
    )[0]
    for name in group
  ]
  return rows_of([(name, reader.participants(name)) for name in group], found)


def rows_of(
  images: Sequence[tuple[str, int]],
  found: Sequence[participant_agreement.Agreement],
) -> list[dict[str, Any]]:
  """Makes rows of the agreement on the images of one group.

  Args:
    images: name and number of participants of each.
    found: the agreement on each.

  Returns:
    Rows, as from `measure`.

  Raises:
    ValueError: as `measure`.
  """
  if len({agreement.means.shape for agreement in found}) > 1:
    raise ValueError(
      f'The maps of {images[0][0]!r} and of other images differ in size; '
      'expected one size. Resize them.'
    )
  first, second, one, rest = np.stack(
    [agreement.means for agreement in found], axis=1
  )
  floor, shuffled = _with_others(first, second), _with_others(one, rest)
  return [
    _row(
      *image,
      {
        **found[i].scores,
        'floor': floor[i],
        'leave_one_out_shuffled': shuffled[i],
      },
    )
    for i, image in enumerate(images)
  ]


def summarize(
  rows: Sequence[Mapping[str, Any]],
  settings: Settings,
  *,
  preprocessing: str,
  confidence: float = 0.95,
  resamples: int = 1000,
) -> 'dict[str, scores.Score]':
  """Averages the measures over images.

  Args:
    rows: of all images, from `plan` and `measure`.
    settings: how agreement was measured.
    preprocessing: how the maps were made, in one line.
    confidence: of the intervals over images.
    resamples: number of bootstrap resamples over images.

  Returns:
    A score for each of `MEASURES`, and `UPPER`. Images with too few
    participants count as undefined and are listed in the details, with the
    standard error of the mean.
  """
  too_few = sorted(row['image'] for row in rows if row['note'])
  people = [row['participants'] for row in rows if not row['note']]
  details = {
    **dataclasses.asdict(settings),
    'images': len(rows),
    'maps': sum(people),
    'participants_per_image': {
      'least': min(people, default=0),
      'mean': float(np.mean(people)) if people else math.nan,
      'most': max(people, default=0),
    },
    'too_few_participants': too_few,
  }
  found = {}
  for name in MEASURES:
    values = np.array([row[name] for row in rows], np.float64)
    if name in SHUFFLED:
      values = normalization.floor_influence(values)
    found[name] = scores.score(
      name,
      values,
      preprocessing=preprocessing,
      confidence=confidence,
      resamples=resamples,
      seed=settings.seed,
      details={
        **details,
        'standard_error': statistics.mean(values).standard_error,
      },
    )
  found[UPPER] = _upper_ceiling(found['spearman_brown'])
  return found


def _upper_ceiling(reliability: 'scores.Score') -> 'scores.Score':
  """Returns the root of the mean Spearman-Brown, NaN where that is negative."""
  value, low, high = (
    math.sqrt(x) if x >= 0 else math.nan
    for x in (reliability.value, reliability.low, reliability.high)
  )
  error = reliability.details['standard_error']
  return dataclasses.replace(
    reliability,
    name=UPPER,
    value=value,
    low=low,
    high=high,
    details={
      **reliability.details,
      # By the derivative of the root.
      'standard_error': error / (2 * value) if value else math.nan,
    },
  )
