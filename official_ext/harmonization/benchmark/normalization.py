# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Alignment as a part of what people reach, with the uncertainty of both.

`specific` (see `specificity`) is divided by what people reach on the same
images. Two observers serve as the unit:

  controlled: an observer without noise. The map of all participants correlates
    with itself measured again by b (Spearman-Brown), hence with the map without
    noise by u = sqrt(b). The part f / s of this agreement is shared by all
    images, with f the correlation of halves of two images (the floor) and s
    that of halves of one image. The denominator is u (1 - f / s).
  controlled_person: one participant. The denominator is the correlation of a
    participant with the mean of the others, minus the same with the others of
    other images.

b, s, f and the correlations are means over images. The ratio is that of the
means, and u is the root of the mean: at weak agreement, many images have a
negative Spearman-Brown, which has no root, and a small denominator would
dominate a mean of ratios.

  found = normalization.controlled(
      influence, split_half, spearman_brown, floor, groups)
  found.value, found.low, found.high, found.reason
"""

from collections.abc import Mapping
import dataclasses
import math

import numpy as np
from numpy import typing as npt

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import statistics


@dataclasses.dataclass(frozen=True)
class Normalized:
  """A ratio of means and its uncertainty.

  Attributes:
    value: the ratio; NaN where it is undefined.
    low: lower end of its interval over images.
    high: upper end.
    n: number of images with all values.
    denominator: what people reach, with its interval.
    reason: why the ratio is undefined, in one sentence; '' if it is defined.
    values: float64, what each image contributes: the mean is `value`, and the
      spread is its uncertainty, so that two networks can be compared by their
      differences. NaN for images without all values, or if it is undefined.
  """

  value: float
  low: float
  high: float
  n: int
  denominator: statistics.Estimate
  reason: str
  values: np.ndarray


def controlled(
  influence: npt.ArrayLike,
  split_half: npt.ArrayLike,
  spearman_brown: npt.ArrayLike,
  floor: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> Normalized:
  """Divides `specific` by that of an observer without noise.

  The interval is that of the delta method, with model and people paired by
  image: participants are nested in images, so that their noise is part of the
  images' values.

  Args:
    influence: (n,), e_i of `specificity`.
    split_half: (n,), correlations of halves of the participants of each image.
    spearman_brown: (n,), the same, corrected to all participants.
    floor: (n,), correlations of half of an image's participants with half of
      another image's, as in `ceilings`.
    groups: (n,), the group of each image; by default, each is its own.
    confidence: of the interval.

  Returns:
    The ratio. Images with a NaN in any of the values are excluded.
  """
  e, s, b, f = _complete(influence, split_half, spearman_brown, floor)
  if np.isnan(e).all():
    return _undefined('no image has all values', e)
  mean_s, mean_b, mean_f = (np.nanmean(v) for v in (s, b, f))
  if mean_s <= 0 or mean_b <= 0:
    return _undefined(
      f'halves of the participants do not agree: their mean correlation is '
      f'{mean_s:.3f}, corrected to all participants {mean_b:.3f}',
      e,
    )
  u, specific_part = math.sqrt(mean_b), 1 - mean_f / mean_s
  # First-order expansion around the means.
  denominator = (
    u * specific_part
    + specific_part / (2 * u) * (b - mean_b)
    + u * mean_f / mean_s**2 * (s - mean_s)
    - u / mean_s * (floor_influence(f) - mean_f)
  )
  return _ratio(e, denominator, groups, confidence)


def controlled_person(
  influence: npt.ArrayLike,
  leave_one_out: npt.ArrayLike,
  leave_one_out_shuffled: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
) -> Normalized:
  """Divides `specific` by that of one participant.

  Args:
    influence: (n,), e_i of `specificity`.
    leave_one_out: (n,), correlations of a participant with the others.
    leave_one_out_shuffled: (n,), the same with the others of another image.
    groups: (n,), the group of each image; by default, each is its own.
    confidence: of the interval.

  Returns:
    The ratio, as from `controlled`.
  """
  e, one, shuffled = _complete(influence, leave_one_out, leave_one_out_shuffled)
  if np.isnan(e).all():
    return _undefined('no image has all values', e)
  denominator = one - floor_influence(shuffled)
  return _ratio(e, denominator, groups, confidence)


def denominators(means: Mapping[str, float]) -> dict[str, float]:
  """Returns what the ratios divide by, from means over images.

  Args:
    means: by the names of `ceilings.MEASURES`.

  Returns:
    By ratio, `controlled` and `controlled_person`; NaN where it is undefined or
    not positive.
  """
  s, b, f = (means[k] for k in ('split_half', 'spearman_brown', 'floor'))
  found = {
    'controlled': math.sqrt(b) * (1 - f / s) if s > 0 and b > 0 else math.nan,
    'controlled_person': means['leave_one_out']
    - means['leave_one_out_shuffled'],
  }
  return {k: v if v > 0 else math.nan for k, v in found.items()}


def floor_influence(floor: npt.ArrayLike) -> np.ndarray:
  """Returns each image's contribution to the mean of a floor.

  A floor is a symmetric function of two images, so that an image enters with
  its own pairs and as the other image of the rest (a U-statistic of order 2,
  see `specificity`).

  Args:
    floor: (n,), the mean over the pairs of each image; NaN is ignored.

  Returns:
    float64 (n,), values whose mean is that of the floor.
  """
  floor = np.asarray(floor, np.float64)
  defined = floor[~np.isnan(floor)]
  return 2 * floor - (defined.mean() if len(defined) else math.nan)


def user_interval(
  value: float,
  without: Mapping[str, float],
  confidence: float = 0.95,
) -> tuple[float, float]:
  """Computes a jackknife interval over participants who saw several images.

  Participants whose ids repeat across images make these images dependent. The
  interval over images does not show this; it is reported next to it.

  Args:
    value: the statistic with all participants.
    without: by user id, the statistic computed again without that user.
    confidence: of the interval.

  Returns:
    Lower and upper end, from Student's t and the jackknife's standard error
    (Efron and Tibshirani, 1993, ch. 11); NaN for fewer than two users, or if
    the statistic is undefined without one of them.
  """
  values = np.asarray(list(without.values()), np.float64)
  count = len(values)
  if count < 2:
    return math.nan, math.nan
  # The jackknife's standard error is that of the mean of pseudo-values.
  pseudo = statistics.mean(
    (count - 1) * (values.mean() - values), None, confidence
  )
  if pseudo.n < count:
    return math.nan, math.nan
  return value + pseudo.low, value + pseudo.high


def _complete(*values: npt.ArrayLike) -> list[np.ndarray]:
  """Returns the values with NaN for images that lack one of them."""
  columns = [np.asarray(v, np.float64) for v in values]
  shapes = [c.shape for c in columns]
  if len(shapes[0]) != 1 or len(set(shapes)) > 1:
    raise ValueError(
      f'The values have the shapes {shapes}; expected one number per image for '
      'each. Match them by image first.'
    )
  is_missing = np.isnan(columns).any(0)
  return [np.where(is_missing, np.nan, c) for c in columns]


def _undefined(
  reason: str,
  values: np.ndarray,
  denominator: statistics.Estimate | None = None,
) -> Normalized:
  nan, n = math.nan, int(np.count_nonzero(~np.isnan(values)))
  if denominator is None:
    denominator = statistics.mean([])
  unknown = np.full(len(values), nan)
  return Normalized(nan, nan, nan, n, denominator, reason, unknown)


def _ratio(
  numerator: np.ndarray,
  denominator: np.ndarray,
  groups: npt.ArrayLike | None,
  confidence: float,
) -> Normalized:
  """Divides the means of contributions; the delta method gives the interval."""
  below = statistics.mean(denominator, groups, confidence)
  if math.isnan(below.low):
    return _undefined(
      f'{choices.plural(below.n, "image")} in one group cannot show how sure '
      'the denominator is',
      denominator,
      below,
    )
  if below.low <= 0:
    return _undefined(
      f'people agree too little on what is specific to an image: the '
      f'denominator is {below.value:.3f}, in [{below.low:.3f}, '
      f'{below.high:.3f}], which reaches 0',
      denominator,
      below,
    )
  value = np.nanmean(numerator) / below.value
  values = value + (numerator - value * denominator) / below.value
  found = statistics.mean(values, groups, confidence)
  return Normalized(
    found.value, found.low, found.high, found.n, below, '', values
  )
