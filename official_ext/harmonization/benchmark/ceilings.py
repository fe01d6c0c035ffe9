"""How well people agree with each other: ceilings and floors of alignment.

All of it is computed from raw maps, one per participant and image, with the
score that models get. What a ceiling is depends on how it was taken: halves of
the participants against each other (as the ClickMe 2.0 tools do), or one
participant against the others. The floor scores people against people who saw
another image: what remains is what all maps share, such as their centre.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import (
  Any,
  Protocol,
)
import zlib

import numpy as np

from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import scores

# From maps (B, H, W) and (B, H, W) to scores (B,), NaN where undefined.
ScoreFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
# From maps (B, H, W) to maps (B, H, W).
BlurFunction = Callable[[np.ndarray], np.ndarray]

# Pairs of maps that are held at a time.
_CHUNK = 32

_MEASURED = ('split_half', 'leave_one_out', 'floor')
# What is known of an image: what is measured, and what follows.
MEASURES = ('split_half', 'spearman_brown', 'leave_one_out', 'floor')


def spearman(maps_a: np.ndarray, maps_b: np.ndarray) -> np.ndarray:
  """Spearman's rank correlation, the score of `host_metrics`."""
  return numpy_metrics.alignment_scores(maps_a, maps_b)['spearman']


def spearman_brown(reliability):
  """Predicts the agreement of all participants from that of their halves.

  Spearman, "Correlation calculated from faulty data", and Brown, "Some
  experimental results in the correlation of mental abilities", both 1910:
  2 r / (1 + r). It holds for Pearson's correlation and is an approximation for
  ranks. Below zero, where it would leave [-1, 1], it is mirrored.

  Args:
    reliability: r between halves, a number or an array.

  Returns:
    r between two groups of twice the size, in [-1, 1].
  """
  return 2.0 * reliability / (1.0 + np.abs(reliability))


def _halves(generator, participants: int, splits: int, resample: bool):
  """Draws halves: how often each participant is in either, (splits, P) each."""
  order = generator.permuted(
    np.tile(np.arange(participants), (splits, 1)), axis=1
  )
  half = participants // 2
  first = (order < half).astype(np.float64)
  halves = [first, 1.0 - first]
  if resample:
    halves = [
      h + generator.multinomial(half, h / h.sum(-1, keepdims=True))
      for h in halves
    ]
  return halves


def _average(
  maps: np.ndarray, counts: np.ndarray, blur: BlurFunction | None
) -> np.ndarray:
  """Averages maps (P, H, W), each as often as counts (B, P) say: (B, H, W)."""
  # Sums first: those of whole numbers are exact, so that ties stay ties.
  sums = counts.astype(np.float32) @ maps.reshape(len(maps), -1)
  means = sums / counts.sum(-1, keepdims=True, dtype=np.float32)
  means = means.reshape(len(counts), *maps.shape[1:])
  return means if blur is None else blur(means)


def _maps(maps) -> np.ndarray:
  """Checks raw maps and returns them as float32."""
  maps = np.asarray(maps, np.float32)
  if maps.ndim != 3 or len(maps) < 2:
    raise ValueError(
      f'Maps of shape {maps.shape}: (participants, H, W) of at '
      'least two participants are expected.'
    )
  return maps


def _chunks(total: int) -> Iterator[int]:
  """Yields how many pairs come next."""
  for start in range(0, total, _CHUNK):
    yield min(_CHUNK, total - start)


def split_half_scores(
  maps: np.ndarray,
  *,
  score: ScoreFunction = spearman,
  blur: BlurFunction | None = None,
  iterations: int = 100,
  resample: bool = False,
  seed: Any = 0,
) -> np.ndarray:
  """Scores random halves of the participants against each other.

  Of an odd number of participants the second half has one more.

  Args:
    maps: (P, H, W), one per participant of an image.
    score: of two batches of maps.
    blur: of the halves' means. One that is linear may as well have been applied
      to `maps`, which is cheaper.
    iterations: how many halvings.
    resample: whether P // 2 draws with replacement from a half are added to it,
      as the ClickMe 2.0 tools do.
    seed: of the halvings.

  Returns:
    float64 (iterations,), NaN where a half's map has no score.

  Raises:
    ValueError: there are fewer than two participants.
  """
  maps = _maps(maps)
  generator = np.random.default_rng(seed)
  found = []
  for splits in _chunks(iterations):
    halves = _halves(generator, len(maps), splits, resample)
    found.append(score(*(_average(maps, half, blur) for half in halves)))
  return np.concatenate(found)


def leave_one_out_scores(
  maps: np.ndarray,
  *,
  score: ScoreFunction = spearman,
  blur: BlurFunction | None = None,
) -> np.ndarray:
  """Scores each participant against the mean of the others.

  Args:
    maps: (P, H, W), one per participant of an image.
    score: of two batches of maps.
    blur: of the participant's map and of the others' mean.

  Returns:
    float64 (P,), NaN where a map has no score.

  Raises:
    ValueError: there are fewer than two participants.
  """
  maps = _maps(maps)
  everyone = np.eye(len(maps))
  found, start = [], 0
  for size in _chunks(len(maps)):
    alone = everyone[start : start + size]
    found.append(
      score(*(_average(maps, c, blur) for c in (alone, 1.0 - alone)))
    )
    start += size
  return np.concatenate(found)


def other_image_scores(
  maps: np.ndarray,
  others: Sequence[np.ndarray],
  *,
  score: ScoreFunction = spearman,
  blur: BlurFunction | None = None,
  iterations: int = 100,
  resample: bool = False,
  seed: Any = 0,
) -> np.ndarray:
  """Scores half of an image's participants against half of another image's.

  Args:
    maps: (P, H, W), one per participant of the image.
    others: the same of other images, of the same H and W; one is drawn for each
      iteration.
    score: of two batches of maps.
    blur: of the halves' means.
    iterations: how many pairs of halves.
    resample: as in `split_half_scores`.
    seed: of the draws.

  Returns:
    float64 (iterations,), NaN where a half's map has no score.

  Raises:
    ValueError: there are fewer than two participants, or the images differ in
      size.
  """
  maps, others = _maps(maps), [_maps(other) for other in others]
  for other in others:
    if other.shape[1:] != maps.shape[1:]:
      raise ValueError(
        f'Maps of {maps.shape[1:]} and {other.shape[1:]}: a '
        'floor needs maps of one size, so resize them first.'
      )
  generator = np.random.default_rng(seed)
  drawn = generator.integers(len(others), size=iterations)
  found = []
  for i, times in sorted(collections.Counter(drawn.tolist()).items()):
    for splits in _chunks(times):
      own, _ = _halves(generator, len(maps), splits, resample)
      _, theirs = _halves(generator, len(others[i]), splits, resample)
      found.append(
        score(_average(maps, own, blur), _average(others[i], theirs, blur))
      )
  return np.concatenate(found)


class Source(Protocol):
  """Raw maps by image."""

  def names(self) -> Sequence[str]:
    """Returns the images, in an order that is always the same."""

  def participants(self, name: str) -> int:
    """Returns how many participants' maps an image has."""

  def maps(self, name: str) -> np.ndarray:
    """Returns an image's maps (P, H, W); H and W are those of all images."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How agreement is measured.

  Attributes:
    iterations: halvings of each image's participants, and as many for the
      floor.
    resample: whether halves are resampled to full size.
    min_participants: an image with fewer is named, and not scored.
    group: that many images, and less than twice as many, are held at a time,
      put together at random; the other image of the floor is one of them.
    seed: of all draws. An image's halvings depend on it and the image's name
      alone.
  """

  iterations: int = 100
  resample: bool = False
  min_participants: int = 5
  group: int = 16
  seed: int = 0

  def __post_init__(self):
    for name, least in (
      ('iterations', 1),
      ('min_participants', 2),
      ('group', 2),
    ):
      if getattr(self, name) < least:
        raise ValueError(
          f'{name} is {getattr(self, name)}: give at least {least}.'
        )


def plan(
  source: Source, settings: Settings
) -> tuple[list[list[str]], list[dict[str, Any]]]:
  """Sorts out which images can be measured, and which together.

  Args:
    source: of the maps.
    settings: how agreement is measured.

  Returns:
    Groups of images, and the rows of those with too few participants.
  """
  enough, rows = [], []
  for name in source.names():
    participants = source.participants(name)
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
  # Of nearly one size: an image alone would have no other.
  groups = [
    [enough[i] for i in part]
    for part in np.array_split(order, count)
    if len(part)
  ]
  return groups, rows


def _row(
  name: str, participants: int, found: Mapping[str, np.ndarray], note: str = ''
) -> dict[str, Any]:
  """Makes the row of an image from its scores (n,) by what is measured."""
  row = {'image': name, 'participants': participants}
  for measured in _MEASURED:
    values = found.get(measured, np.empty(0))
    defined = values[~np.isnan(values)]
    row[measured] = float(defined.mean()) if len(defined) else math.nan
    row[f'{measured}_undefined'] = len(values) - len(defined)
    if measured == 'split_half':
      row['spearman_brown'] = spearman_brown(row[measured])
  return {**row, 'note': note}


def measure(
  source: Source,
  group: Sequence[str],
  settings: Settings,
  *,
  score: ScoreFunction = spearman,
  blur: BlurFunction | None = None,
) -> list[dict[str, Any]]:
  """Measures the agreement of people on the images of one group.

  Args:
    source: of the maps.
    group: images, from `plan`; their maps are all held.
    settings: how agreement is measured.
    score: of two batches of maps.
    blur: of means of maps, where it was not applied to the maps.

  Returns:
    A row for each image: `image`, `participants`, the mean of what is defined
    of `split_half`, `leave_one_out` and `floor`, how many of their scores are
    undefined (`split_half_undefined` ...), `spearman_brown` of the first, and a
    `note`, empty. The floor of an image without another is NaN.

  Raises:
    ValueError: the images differ in size.
  """
  maps = {name: source.maps(name) for name in group}
  halving = {
    'score': score,
    'blur': blur,
    'iterations': settings.iterations,
    'resample': settings.resample,
  }
  rows = []
  for name in group:
    seed = settings.seed, zlib.crc32(name.encode())
    found = {
      'split_half': split_half_scores(maps[name], seed=seed, **halving),
      'leave_one_out': leave_one_out_scores(maps[name], score=score, blur=blur),
    }
    others = [maps[other] for other in group if other != name]
    if others:
      found['floor'] = other_image_scores(
        maps[name], others, seed=(*seed, 1), **halving
      )
    rows.append(_row(name, len(maps[name]), found))
  return rows


def summarize(
  rows: Sequence[Mapping[str, Any]],
  settings: Settings,
  *,
  preprocessing: str,
  confidence: float = 0.95,
  resamples: int = 1000,
) -> dict[str, scores.Score]:
  """Averages over images.

  Args:
    rows: of all images, from `plan` and `measure`.
    settings: how agreement was measured.
    preprocessing: how the maps were made, in a line.
    confidence: of the interval over images.
    resamples: of the bootstrap over images.

  Returns:
    A score by each of `MEASURES`. An image with too few participants is among
    its undefined ones, and its name in the details.
  """
  left_out = sorted(row['image'] for row in rows if row['note'])
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
    'too_few_participants': left_out,
  }
  return {
    name: scores.score(
      name,
      [row[name] for row in rows],
      preprocessing=preprocessing,
      confidence=confidence,
      resamples=resamples,
      seed=settings.seed,
      details=details,
    )
    for name in MEASURES
  }
