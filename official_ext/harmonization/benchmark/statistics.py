# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Intervals and tests for means over images, for pairs and for proportions.

estimate = statistics.mean(found.influence, groups)
estimate.low, estimate.value, estimate.high
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from numpy import typing as npt
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean with its uncertainty; NaN where it is undefined.

  Attributes:
    value: the mean.
    low: lower end of its interval.
    high: upper end of its interval.
    standard_error: of the mean.
    p: of the two-sided test that the mean is 0.
    n: number of values.
  """

  value: float
  low: float
  high: float
  standard_error: float
  p: float
  n: int


def mean(
  values: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> Estimate:
  """Estimates a mean from values that are independent between groups.

  The interval is Student's t over groups, with the standard error that allows
  for dependence within a group (Liang and Zeger, Biometrika 73, 1986). Without
  groups it is the usual t-interval of a mean.

  Args:
    values: (n,), one per image; NaN values are excluded.
    groups: (n,), the group of each image; by default, each is its own.
    confidence: of the interval, between 0 and 1.

  Returns:
    The estimate. Fewer than two groups do not show how much the mean varies;
    all but value and n are NaN then.
  """
  values = np.asarray(values, np.float64)
  group = np.arange(len(values)) if groups is None else np.asarray(groups)
  is_defined = ~np.isnan(values)
  values, group = values[is_defined], group[is_defined]
  n = len(values)
  if not n:
    return Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
  value = float(values.mean())
  _, index = np.unique(group, return_inverse=True)
  deviations = np.bincount(index, values - value)
  k = len(deviations)
  if k < 2:
    return Estimate(value, math.nan, math.nan, math.nan, math.nan, n)
  error = math.sqrt(k / (k - 1) * np.sum(deviations**2)) / n
  return t_estimate(value, error, k - 1, n, confidence)


def t_estimate(
  value: float, error: float, freedom: float, n: int, confidence: float
) -> Estimate:
  """Makes an estimate whose interval and test are Student's t.

  Args:
    value: the mean, or a difference of means.
    error: its standard error.
    freedom: degrees of freedom of the error.
    n: number of values.
    confidence: of the interval.

  Returns:
    The estimate. Without any error, p is 1 for the value 0, and otherwise 0.
  """
  half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * error
  if error:
    p = float(2 * stats.t.sf(abs(value) / error, freedom))
  else:
    p = float(value == 0)
  return Estimate(value, value - half, value + half, error, p, n)


def difference(
  a: npt.ArrayLike,
  b: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> Estimate:
  """Estimates the mean of a - b over the images that have both.

  Args:
    a: (n,), one value per image, NaN where undefined.
    b: (n,), of the same images.
    groups: (n,), as in `mean`.
    confidence: of the interval.

  Returns:
    The estimate; `p` is that of the paired test.
  """
  values = np.asarray(a, np.float64) - np.asarray(b, np.float64)
  return mean(values, groups, confidence)


def difference_of_means(
  a: npt.ArrayLike,
  b: npt.ArrayLike,
  a_groups: npt.ArrayLike | None = None,
  b_groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> Estimate:
  """Estimates mean(a) - mean(b) for two sets of images.

  The interval and the test are Welch's (Biometrika 34, 1947): variances may
  differ, and the degrees of freedom are those of Satterthwaite. As in `mean`,
  standard errors are those of groups. If a group has images in both sets, the
  covariance that it causes is part of the standard error.

  Args:
    a: (n_a,), one value per image; NaN values are excluded.
    b: (n_b,), the same for other images.
    a_groups: (n_a,), the group of each image; by default, each is its own.
    b_groups: (n_b,), with the same numbers for the same groups.
    confidence: of the interval.

  Returns:
    The estimate, where n is the number of values of both sets. All but value
    and n are NaN if a set has fewer than two groups.

  Raises:
    ValueError: only one set has groups.
  """
  if (a_groups is None) != (b_groups is None):
    raise ValueError(
      'difference_of_means: one set has groups and the other does not; '
      'expected both or neither. Pass both.'
    )
  values = [np.asarray(v, np.float64) for v in (a, b)]
  if a_groups is None or b_groups is None:
    ends = len(values[0]), len(values[0]) + len(values[1])
    groups = [np.arange(ends[0]), np.arange(*ends)]
  else:
    groups = [np.asarray(a_groups), np.asarray(b_groups)]
  parts = [mean(v, g, confidence) for v, g in zip(values, groups)]
  value, n = parts[0].value - parts[1].value, parts[0].n + parts[1].n
  if any(math.isnan(part.standard_error) for part in parts):
    return Estimate(value, math.nan, math.nan, math.nan, math.nan, n)
  # What each group adds to the error of the difference.
  _, index = np.unique(np.concatenate(groups), return_inverse=True)
  error_of = np.zeros(index.max() + 1)
  freedom = []
  starts = (0, len(values[0]))
  for sign, v, part, start in zip((1, -1), values, parts, starts):
    is_defined = ~np.isnan(v)
    of_set = index[start : start + len(v)][is_defined]
    k = len(np.unique(of_set))
    np.add.at(
      error_of,
      of_set,
      sign * math.sqrt(k / (k - 1)) * (v[is_defined] - part.value) / part.n,
    )
    freedom.append(k - 1)
  error = math.sqrt(np.sum(error_of**2))
  squares = [part.standard_error**2 for part in parts]
  if not error:
    return Estimate(value, value, value, 0.0, float(value == 0), n)
  degrees = sum(squares) ** 2 / sum(
    square**2 / f for square, f in zip(squares, freedom)
  )
  return t_estimate(value, error, degrees, n, confidence)


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjusts p-values for the number of tests.

  The method is Holm's (Scandinavian Journal of Statistics 6, 1979).

  Args:
    p_values: of the tests; NaN values are not counted as tests.

  Returns:
    The adjusted p-values in the same order; NaN stays NaN.
  """
  p = np.asarray(p_values, np.float64)
  found = np.full(len(p), np.nan)
  order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
  scaled = p[order] * np.arange(len(order), 0, -1)
  found[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
  return found.tolist()


def p_text(p: float) -> str:
  """Formats a p-value for a table: '0.031', or '< 0.0001'."""
  return '< 0.0001' if p < 1e-4 else f'{p:.2g}'


def p_words(p: float) -> str:
  """Formats a p-value for a sentence: 'p = 0.031', or 'p < 0.0001'."""
  text = p_text(p)
  return f'p {text}' if text.startswith('<') else f'p = {text}'


def wilson(
  successes: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
  """Computes Wilson's score interval of a proportion (1927).

  A bootstrap does not cover proportions near 0 or 1: if all of 20 answers are
  correct, each resample is too.

  Args:
    successes: in 0..n.
    n: number of independent trials.
    confidence: of the interval.

  Returns:
    The lower and upper end; NaN if n is 0.
  """
  if not n:
    return math.nan, math.nan
  interval = stats.binomtest(int(successes), int(n)).proportion_ci(
    confidence, method='wilson'
  )
  return float(interval.low), float(interval.high)


def bounded(
  p: float, low: float, high: float, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
  """Makes an interval of a proportion that stays between 0 and 1.

  Wilson's interval has the proportions q with |p - q| <= z sqrt(q (1 - q) / n).
  Here, the observed variance replaces that of n independent trials, which gives
  an effective number of trials (Korn and Graubard, Survey Methodology 24,
  1998), and Student's t replaces z. With the half width h of the t-interval,

    |p - q| <= h sqrt(q (1 - q) / (p (1 - p))).

  Args:
    p: the proportion.
    low: lower end of its t-interval.
    high: upper end.
    trials: number of independent trials, such as groups of images, for Wilson's
      interval if they do not vary.
    confidence: of that interval.

  Returns:
    The lower and upper end; NaN if the t-interval is.
  """
  half = (high - low) / 2
  if math.isnan(half):
    return math.nan, math.nan
  # Equal values may differ by rounding.
  if not 0 < p < 1 or half < 1e-9:
    return wilson(round(p * trials), trials, confidence)
  w = half**2 / (p * (1 - p))
  centre = (p + w / 2) / (1 + w)
  distance = math.sqrt(w * p * (1 - p) + w**2 / 4) / (1 + w)
  return centre - distance, centre + distance


def proportion(
  hits: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> tuple[float, float]:
  """Makes an interval of a proportion of images.

  Args:
    hits: (n,), 1 or 0 for each image; NaN values are excluded.
    groups: (n,), the group of each image; by default, each is its own.
    confidence: of the interval.

  Returns:
    The lower and upper end: Wilson's if each image is its own group, otherwise
    `bounded` with the variance over groups.
  """
  hits = np.asarray(hits, np.float64)
  is_defined = ~np.isnan(hits)
  n = int(is_defined.sum())
  group = np.arange(len(hits)) if groups is None else np.asarray(groups)
  count = len(np.unique(group[is_defined]))
  if count == n:
    return wilson(int(np.nansum(hits)), n, confidence)
  found = mean(hits, group, confidence)
  return bounded(found.value, found.low, found.high, count, confidence)


def proportion_method(groups: npt.ArrayLike | None = None) -> str:
  """Names the interval that `proportion` makes, for captions."""
  if groups is None or len(np.unique(groups)) == len(np.asarray(groups)):
    return 'Wilson'
  return 'Wilson with the variance over groups of images'
