# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""How many images and seeds a study needs to detect a difference.

The power of the paired t-test against a true difference is that of the
noncentral t distribution (Cohen, "Statistical Power Analysis for the Behavioral
Sciences", 1988, chapter 2), with the standard error that the observed parts of
the variance have for another number of images or runs (`repeated_runs`):

  variance = images (G/G') + seeds (R/R') - both (G R / G' R'), as far as known.

  power.images_needed(0.02, estimate.variance)  # groups of images
  power.runs_needed(0.02, estimate.variance)  # runs of each network
"""

from collections.abc import Callable
import dataclasses
import math

from scipy import stats

from official_ext.harmonization.benchmark import repeated_runs

POWER, LEVEL = 0.8, 0.05
# Studies that would need more are not planned with these numbers.
_MOST = 10**7


def power(
  difference: float, parts: repeated_runs.Variance, level: float = LEVEL
) -> float:
  """Computes the probability of a significant two-sided test.

  Args:
    difference: the true one.
    parts: of the variance of its estimate. Without the variance of seeds, the
      test is over images only.
    level: of significance.

  Returns:
    The power, between 0 and 1.
  """
  if math.isnan(parts.seeds):
    variance, df = parts.images, float(parts.groups - 1)
  else:
    variance, df = repeated_runs.combine(parts)
  if not variance:
    return 1.0 if difference else level
  shift = abs(difference) / math.sqrt(variance)
  critical = float(stats.t.ppf(1 - level / 2, df))
  # Far from 0, where the power is 1, scipy's noncentral t returns NaN.
  if shift > critical + 10:
    return 1.0
  upper = stats.nct.sf(critical, df, shift)
  return float(upper + stats.nct.cdf(-critical, df, shift))


def scaled(
  parts: repeated_runs.Variance, groups: int, factor: float = 1.0
) -> repeated_runs.Variance:
  """Returns the parts of the variance for a study of another size.

  Args:
    parts: as observed.
    groups: number of groups of images.
    factor: by which the number of runs of each network changes.

  Returns:
    The parts.
  """
  by_images = parts.groups / groups
  is_known = not math.isnan(parts.seeds)
  # What images add in addition to runs has `both` removed before it is scaled.
  both = parts.both if is_known else 0.0
  own_images = max(parts.images - both, 0.0) * by_images
  new_both = both * by_images / factor
  return dataclasses.replace(
    parts,
    images=own_images + new_both,
    seeds=max(parts.seeds - both, 0.0) / factor + new_both
    if is_known
    else math.nan,
    both=new_both if is_known else math.nan,
    groups=groups,
    runs=[max(2, round(runs * factor)) for runs in parts.runs]
    if is_known
    else parts.runs,
  )


def images_needed(
  difference: float,
  parts: repeated_runs.Variance,
  target: float = POWER,
  level: float = LEVEL,
) -> int | None:
  """Returns the number of groups of images that detect a difference.

  Args:
    difference: the true one, not 0.
    parts: of the variance that was observed; the runs remain as they are.
    target: the power.
    level: of significance.

  Returns:
    The smallest number; None if no number suffices with so few runs.
  """
  return _smallest(
    lambda n: power(difference, scaled(parts, n), level) >= target
  )


def runs_needed(
  difference: float,
  parts: repeated_runs.Variance,
  target: float = POWER,
  level: float = LEVEL,
) -> int | None:
  """Returns the number of runs of each network that detect a difference.

  Args:
    difference: the true one, not 0.
    parts: of the variance that was observed, with that of seeds; the images
      remain as they are.
    target: the power.
    level: of significance.

  Returns:
    The smallest number; None if no number suffices with so few images.

  Raises:
    ValueError: the variance of seeds was not estimated.
  """
  if math.isnan(parts.seeds):
    raise ValueError(repeated_runs.not_estimable(min(parts.runs)))
  # A mean number of runs, as their variances add up.
  observed = len(parts.runs) / sum(1 / runs for runs in parts.runs)

  def suffices(runs):
    planned = scaled(parts, parts.groups, runs / observed)
    planned = dataclasses.replace(planned, runs=[runs] * len(parts.runs))
    return power(difference, planned, level) >= target

  return _smallest(suffices)


def _smallest(suffices: Callable[[int], bool]) -> int | None:
  """Returns the smallest number, at least 2, for which a condition holds."""
  high = 2
  while not suffices(high):
    high *= 2
    if high > _MOST:
      return None
  low = high // 2
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if suffices(middle) else (middle, high)
  return high
