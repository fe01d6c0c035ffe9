# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Means over runs of one network that differ in their seed, and over images.

A score of one run varies with the images only. A statement on the network, that
is, on the way it was trained, must also allow for the seed: another run of the
same training has another score. Runs and images are crossed, since all runs see
the same images. With value x_ri of run r and image i,

  x_ri = mean + seed_r + image_i + both_ri,

the mean over R runs and n images has the variance s²/R + i²/n + b²/(R n). The
three terms are estimated from sums over runs, over images, and the rest:

  images = variance between the images' means over runs / n
  seeds = variance between the runs' means over images / R
  both = residual variance / (R n)
  variance = max(images + seeds - both, images, seeds)

since `images` and `seeds` each contain `both` once. This is the two-way
cluster-robust variance (Cameron, Gelbach and Miller, Journal of Business &
Economic Statistics 29, 2011). It equals 2 (images + seeds) - v, where v is the
variance of the bootstrap that draws runs and images at once, which contains
`both` three times (Owen, "The pigeonhole bootstrap", Annals of Applied
Statistics 1, 2007; the corrected variance is that of Schütt et al., eLife 12,
2023, e82566). No draws are needed, because for a mean v is known exactly.

Intervals are Student's t with the degrees of freedom of Satterthwaite (1946)
for this combination of mean squares. `studies.seed_coverage` simulates their
coverage.

  estimate = repeated_runs.mean(influence_of_runs, groups)  # (R, n), (n,)
  estimate.low, estimate.value, estimate.high, estimate.over_seeds
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from numpy import typing as npt

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import statistics

# With fewer runs, the variance between them is too uncertain to be used.
LEAST_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Variance:
  """The parts of the variance of a mean, or of a difference of two means.

  Attributes:
    images: between images (groups of images), with all runs as they are.
    seeds: between runs, with all images as they are; NaN with fewer than
      `LEAST_RUNS`.
    both: of what is specific to a run and an image; contained once in each of
      the others; NaN as for `seeds`.
    groups: number of groups of images.
    runs: number of runs of each network, one or two numbers.
  """

  images: float
  seeds: float
  both: float
  groups: int
  runs: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Estimate(statistics.Estimate):
  """A mean over runs and images with its uncertainty.

  Attributes:
    over_seeds: whether the uncertainty includes that of the seeds. Otherwise it
      holds for these runs only.
    variance: its parts; None where the uncertainty is undefined.
  """

  over_seeds: bool = False
  variance: Variance | None = None


def not_estimable(runs: int) -> str:
  """Says why an interval does not include the variance between seeds."""
  return (
    f'seeds: not estimable with {choices.plural(runs, "run")}, expected at '
    f'least {LEAST_RUNS}'
  )


def mean(
  values: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> Estimate:
  """Estimates the mean over all runs of a network, and over images.

  Args:
    values: (R, n), the value of each run and image. Images with a NaN in any
      run are excluded.
    groups: (n,), the group of each image; by default, each is its own.
    confidence: of the interval, between 0 and 1.

  Returns:
    The estimate. With fewer than `LEAST_RUNS` runs, it is that of the images'
    means over these runs (`statistics.mean`).

  Raises:
    ValueError: the values are not of shape (R, n).
  """
  return _estimate([_matrix(values)], groups, confidence)


def difference(
  a: npt.ArrayLike,
  b: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> Estimate:
  """Estimates the mean difference a - b of two networks on the same images.

  Images are paired; the seeds of the two networks are independent.

  Args:
    a: (R_a, n), as in `mean`.
    b: (R_b, n), of the same images.
    groups: (n,), as in `mean`.
    confidence: of the interval.

  Returns:
    The estimate. It is over seeds if both networks have `LEAST_RUNS` runs.

  Raises:
    ValueError: the values are not of shape (R, n), or n differs.
  """
  a, b = _matrix(a), _matrix(b)
  if a.shape[1] != b.shape[1]:
    raise ValueError(
      f'The networks have values of {a.shape[1]} and {b.shape[1]} images; '
      'expected the same images. Match them first.'
    )
  return _estimate([a, b], groups, confidence)


def _matrix(values: npt.ArrayLike) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.ndim != 2:
    raise ValueError(
      f'The values have the shape {values.shape}; expected (runs, images).'
    )
  return values


def _estimate(
  networks: Sequence[np.ndarray],
  groups: npt.ArrayLike | None,
  confidence: float,
) -> Estimate:
  """Estimates the mean of the first network minus that of the second."""
  n = networks[0].shape[1]
  is_defined = ~np.any([np.isnan(x).any(axis=0) for x in networks], axis=0)
  group = np.arange(n) if groups is None else np.asarray(groups)
  group = np.unique(group[is_defined], return_inverse=True)[1]
  networks = [x[:, is_defined] for x in networks]
  runs = [len(x) for x in networks]
  by_image = networks[0].mean(axis=0)
  if len(networks) == 2:
    by_image = by_image - networks[1].mean(axis=0)
  found = statistics.mean(by_image, group, confidence)
  count = len(np.unique(group))
  if math.isnan(found.standard_error):
    return Estimate(**dataclasses.asdict(found))
  images = found.standard_error**2
  if min(runs) < LEAST_RUNS:
    parts = Variance(images, math.nan, math.nan, count, runs)
    return Estimate(**dataclasses.asdict(found), variance=parts)

  seeds = [x.mean(axis=1).var(ddof=1) / len(x) for x in networks]
  both = [_both(x, group, count) for x in networks]
  parts = Variance(images, sum(seeds), sum(both), count, runs)
  variance, df = combine(parts, seeds, both)
  crossed = statistics.t_estimate(
    found.value, math.sqrt(variance), df, found.n, confidence
  )
  return Estimate(
    **dataclasses.asdict(crossed), over_seeds=True, variance=parts
  )


def _both(values: np.ndarray, group: np.ndarray, count: int) -> float:
  """Returns the variance of the mean due to the residuals of (R, n) values."""
  runs, n = values.shape
  residuals = (
    values
    - values.mean(axis=0)
    - values.mean(axis=1, keepdims=True)
    + values.mean()
  )
  sums = [np.bincount(group, row, count) for row in residuals]
  corrected = runs / (runs - 1) * count / (count - 1)
  return float(corrected * np.sum(np.square(sums)) / (runs * n) ** 2)


def combine(
  parts: Variance,
  seeds: Sequence[float] | None = None,
  both: Sequence[float] | None = None,
) -> tuple[float, float]:
  """Adds the parts of a variance.

  Args:
    parts: with variances of seeds.
    seeds: the variance of each network's seeds; by default, all networks have
      equal shares of `parts.seeds`.
    both: likewise.

  Returns:
    The variance and its degrees of freedom.
  """
  share = 1 / len(parts.runs)
  seeds = seeds or [parts.seeds * share for _ in parts.runs]
  both = both or [parts.both * share for _ in parts.runs]
  free = [runs - 1 for runs in parts.runs]
  of_images = parts.groups - 1
  squared_images = parts.images**2 / of_images
  squared_seeds = sum(v**2 / f for v, f in zip(seeds, free))
  squared_both = sum(v**2 / (f * of_images) for v, f in zip(both, free))
  variance = parts.images + parts.seeds - parts.both
  squared = squared_images + squared_seeds + squared_both
  # One source of variance cannot be smaller with the other than without it.
  for one, its_square in (
    (parts.images, squared_images),
    (parts.seeds, squared_seeds),
  ):
    if one > variance:
      variance, squared = one, its_square
  # The approximation can be below the degrees of freedom of any part.
  least = float(min(*free, of_images))
  return variance, max(variance**2 / squared, least) if squared else least
