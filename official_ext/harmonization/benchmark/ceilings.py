# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Ceilings and floors of alignment: how well people agree with each other.

They are computed from raw maps, one per participant and image, with the same
score as for models. A ceiling depends on its definition: random halves of the
participants against each other (as in the ClickMe 2.0 tools), or one
participant against the mean of the others. The floor compares people with
people who saw another image; it measures what all maps have in common, such as
a bias to the centre.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any, Protocol
import zlib

from etils import epy
import numpy as np

from official_ext.harmonization import cli

# Lazy, because the command imports this module for the flags in `Settings`.
with epy.lazy_imports():
  from official_ext.harmonization.benchmark import normalization
  from official_ext.harmonization.benchmark import statistics
  from official_ext.harmonization.evaluation import numpy_metrics
  from official_ext.harmonization.evaluation import scores

# From maps (B, H, W) and (B, H, W) to scores (B,), NaN if undefined.
ScoreFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
# From maps (B, H, W) to maps (B, H, W).
BlurFunction = Callable[[np.ndarray], np.ndarray]

# Pairs of maps in memory at a time.
_CHUNK = 32

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


def spearman(maps_a: np.ndarray, maps_b: np.ndarray) -> np.ndarray:
  """Spearman's rank correlation of maps (B, H, W); float64 (B,)."""
  return numpy_metrics.alignment_scores(maps_a, maps_b)['spearman']


def spearman_brown(reliability):
  """Predicts the reliability of all participants from that of halves.

  Spearman, "Correlation calculated from faulty data", and Brown, "Some
  experimental results in the correlation of mental abilities", both 1910:
  2 r / (1 + r). The formula holds for Pearson's correlation and approximates
  rank correlations. For r < 0 it would leave [-1, 1], so that its odd extension
  2 r / (1 + |r|) is used.

  Args:
    reliability: correlation r between halves, a number or an array.

  Returns:
    The predicted correlation between groups of twice the size, in [-1, 1].
  """
  return 2.0 * reliability / (1.0 + np.abs(reliability))


def _random_halves(generator, participants: int, splits: int, resample: bool):
  """Returns the participants' weights in each half, two arrays (splits, P)."""
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
  """Returns means (B, H, W) of maps (P, H, W), weighted by counts (B, P)."""
  # Sums before the division: sums of integers are exact, so ties remain ties.
  sums = counts.astype(np.float32) @ maps.reshape(len(maps), -1)
  means = sums / counts.sum(-1, keepdims=True, dtype=np.float32)
  means = means.reshape(len(counts), *maps.shape[1:])
  return means if blur is None else blur(means)


def _maps(maps) -> np.ndarray:
  """Checks the shape of raw maps and returns them as float32."""
  maps = np.asarray(maps, np.float32)
  if maps.ndim != 3 or len(maps) < 2:
    raise ValueError(
      f'The maps have shape {maps.shape}; expected (participants, H, W) with '
      'at least two participants.'
    )
  return maps


def _chunks(total: int) -> Iterator[int]:
  """Yields the sizes of the chunks that a total is processed in."""
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

  If the number of participants is odd, the second half has one more.

  Args:
    maps: (P, H, W), one per participant of an image.
    score: compares two batches of maps.
    blur: applied to the halves' means. It is cheaper to apply a linear blur to
      `maps` instead.
    iterations: number of splits.
    resample: whether to add to each half P // 2 participants drawn from it with
      replacement, as the ClickMe 2.0 tools do.
    seed: of the splits.

  Returns:
    float64 (iterations,), NaN if the score is undefined.

  Raises:
    ValueError: there are fewer than two participants.
  """
  maps = _maps(maps)
  generator = np.random.default_rng(seed)
  found = []
  for splits in _chunks(iterations):
    halves = _random_halves(generator, len(maps), splits, resample)
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
    score: compares two batches of maps.
    blur: applied to the participant's map and to the others' mean.

  Returns:
    float64 (P,), NaN if the score is undefined.

  Raises:
    ValueError: there are fewer than two participants.
  """
  maps = _maps(maps)
  everyone = np.eye(len(maps))
  found, start = [], 0
  for size in _chunks(len(maps)):
    one = everyone[start : start + size]
    found.append(score(*(_average(maps, c, blur) for c in (one, 1.0 - one))))
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
    others: maps (P', H, W) of each other image, of which one is drawn for each
      iteration.
    score: compares two batches of maps.
    blur: applied to the halves' means.
    iterations: number of pairs of halves.
    resample: as in `split_half_scores`.
    seed: of the random choices.

  Returns:
    float64 (iterations,), NaN if the score is undefined.

  Raises:
    ValueError: there are fewer than two participants, or the images differ in
      size.
  """
  maps, others = _maps(maps), [_maps(other) for other in others]
  for other in others:
    if other.shape[1:] != maps.shape[1:]:
      raise ValueError(
        f'Maps of two images have the sizes {maps.shape[1:]} and '
        f'{other.shape[1:]}; expected one size for the floor. Resize them.'
      )
  generator = np.random.default_rng(seed)
  drawn = generator.integers(len(others), size=iterations)
  found = []
  for i, times in sorted(collections.Counter(drawn.tolist()).items()):
    for splits in _chunks(times):
      own, _ = _random_halves(generator, len(maps), splits, resample)
      _, theirs = _random_halves(generator, len(others[i]), splits, resample)
      found.append(
        score(_average(maps, own, blur), _average(others[i], theirs, blur))
      )
  return np.concatenate(found)


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
      row['spearman_brown'] = float(spearman_brown(row[measured]))
  return {**row, 'note': note}


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Agreement on one image, and what the other images are compared with.

  Attributes:
    scores: (n,), by measure.
    means: (4, H * W), mean unit ranks of first halves, second halves, single
      participants and of the others; NaN if all are undefined.
  """

  scores: dict[str, np.ndarray]
  means: np.ndarray


def _compare(
  maps: np.ndarray, weights: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks weighted sums of maps, which have the ranks of means.

  Args:
    maps: float32 (P, H, W).
    weights: float32 (n, 2, P), of the maps in the two sums of each pair.
    counts: int (m, 2 n), how often each sum is in each of the means.

  Returns:
    The correlation of each pair, float64 (n,), and the means of the unit ranks
    without those that are undefined, float32 (m, H * W).
  """
  flat = maps.reshape(len(maps), -1)
  products = np.empty(len(weights))
  means = np.zeros((len(counts), flat.shape[1]), np.float32)
  totals = np.zeros(len(counts))
  # Arrays that are used again; new ones would take as long as the ranks.
  sums = np.empty((_CHUNK, flat.shape[1]), np.float32)
  ranks = np.empty_like(sums)
  for start in range(0, len(weights), _CHUNK // 2):
    part = weights[start : start + _CHUNK // 2].reshape(-1, len(maps))
    number = len(part)
    np.matmul(part, flat, out=sums[:number])
    found = numpy_metrics.counted_unit_ranks(
      sums[:number].reshape(number, *maps.shape[1:]), out=ranks[:number]
    )
    products[start : start + number // 2] = _products(found[::2], found[1::2])
    is_undefined = np.isnan(found[:, 0])
    found[is_undefined] = 0
    times = counts[:, 2 * start : 2 * start + number] * ~is_undefined
    used = np.flatnonzero(times.any(1))
    means[used] += times[used].astype(np.float32) @ found
    totals += times.sum(1)
  means /= np.where(totals, totals, np.nan).astype(np.float32)[:, np.newaxis]
  return products, means


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns correlations of rows of unit ranks (n, N), float64 (n,)."""
  # Sums in parts, because those in float32 lose digits.
  parts = (len(a), int(np.gcd(a.shape[1], 1 << 10)), -1)
  sums = np.einsum('ijk,ijk->ij', a.reshape(parts), b.reshape(parts))
  return sums.sum(1, dtype=np.float64)


def seed_of(name: str, settings: 'Settings') -> tuple[int, int]:
  """Returns the seed of the splits of an image's participants."""
  return settings.seed, zlib.crc32(name.encode())


def agreements(
  maps: np.ndarray,
  settings: 'Settings',
  seed: Any,
  keep: Sequence[np.ndarray] | None = None,
) -> list[Agreement]:
  """Measures agreement on one image, for one or several sets of participants.

  Each different pair of halves is ranked once: few participants have few.

  Args:
    maps: (P, H, W), one per participant.
    settings: how agreement is measured.
    seed: of the splits, from `seed_of`.
    keep: bool (P,) each, the participants whose agreement is measured; they
      remain in their halves. By default once, for all of them.

  Returns:
    The agreement of each set.
  """
  maps = _maps(maps)
  generator = np.random.default_rng(seed)
  halves = [
    _random_halves(generator, len(maps), splits, settings.resample)
    for splits in _chunks(settings.iterations)
  ]
  first, second = (np.concatenate(part) for part in zip(*halves))
  one = np.eye(len(maps))
  sets = [np.ones(len(maps), bool)] if keep is None else keep
  # Two for each set: pairs of halves, and of participants and the others.
  compared = [
    pair
    for kept in sets
    for pair in (
      (first * kept, second * kept),
      (one[kept], (1 - one[kept]) * kept),
    )
  ]
  pairs = np.concatenate([np.stack(pair, axis=1) for pair in compared])
  # Each pair in one order, because two halves occur in both.
  at = (pairs[:, 0] != pairs[:, 1]).argmax(1)[:, np.newaxis, np.newaxis]
  is_swapped = (
    np.diff(np.take_along_axis(pairs, at, 2)[..., 0], axis=1)[:, 0] > 0
  )
  pairs[is_swapped] = pairs[is_swapped, ::-1]
  weights, rows = np.unique(pairs, axis=0, return_inverse=True)
  rows = rows.ravel()
  # How often each half of each different pair is in each mean.
  sections = np.cumsum([len(a) for a, _ in compared])[:-1]
  counts = np.stack(
    [
      np.bincount(part, minlength=2 * len(weights))
      for place in zip(
        np.split(2 * rows + is_swapped, sections),
        np.split(2 * rows + ~is_swapped, sections),
      )
      for part in place
    ]
  )
  products, means = _compare(maps, weights.astype(np.float32), counts)
  values = [products[part] for part in np.split(rows, sections)]
  return [
    Agreement(
      {'split_half': values[2 * i], 'leave_one_out': values[2 * i + 1]},
      means[4 * i : 4 * i + 4],
    )
    for i in range(len(sets))
  ]


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
    agreements(reader.maps(name), settings, seed_of(name, settings))[0]
    for name in group
  ]
  return rows_of([(name, reader.participants(name)) for name in group], found)


def rows_of(
  images: Sequence[tuple[str, int]], found: Sequence[Agreement]
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
