# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Agreement between the participants of an image: split halves, leave-one-out.

The functions that end in `_scores` take any score of two batches of maps.
`agreements` measures Spearman's rank correlation only, many times as fast.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any

from etils import epy
import numpy as np

# Lazy, because a command imports this module before it parses its flags.
with epy.lazy_imports():
  from official_ext.harmonization.evaluation import numpy_metrics

# From maps (B, H, W) and (B, H, W) to scores (B,), NaN if undefined.
ScoreFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
# From maps (B, H, W) to maps (B, H, W).
BlurFunction = Callable[[np.ndarray], np.ndarray]

# Pairs of maps in memory at a time.
_CHUNK = 32


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


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Agreement on an image, and what other images are compared with.

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


def agreements(
  maps: np.ndarray,
  *,
  iterations: int,
  resample: bool,
  seed: Any,
  keep: Sequence[np.ndarray] | None = None,
) -> list[Agreement]:
  """Measures rank correlations, for one or several sets of participants.

  Each different pair of halves is ranked once: few participants have few.

  Args:
    maps: (P, H, W), one per participant.
    iterations: number of splits.
    resample: as in `split_half_scores`.
    seed: of the splits.
    keep: bool (P,) each, the participants whose agreement is measured; they
      remain in their halves. By default once, for all of them.

  Returns:
    The agreement of each set.
  """
  maps = _maps(maps)
  generator = np.random.default_rng(seed)
  halves = [
    _random_halves(generator, len(maps), splits, resample)
    for splits in _chunks(iterations)
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
