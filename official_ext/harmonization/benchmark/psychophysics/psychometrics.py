# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Sensitivity, psychometric functions, and distances between curves."""

import dataclasses
import math

import numpy as np
from scipy import optimize
from scipy import special

# Chance level with two alternatives.
GUESS = 0.5
# Upper bound of the lapse rate (Wichmann and Hill, 2001, use 0.06).
_MAX_LAPSE = 0.1
# Bounds of the threshold in log10 percent.
_THRESHOLDS = (-1.0, 3.0)
_SLOPES = (0.1, 100.0)
# Lower bound of probabilities, which keeps their logarithms finite.
_SMALLEST = 1e-12


def d_prime(hits, signals, false_alarms, noises):
  """Sensitivity d' = z(hit rate) - z(false alarm rate).

  The rates are (count + 0.5) / (number + 1), the log-linear correction
  (Hautus, "Corrections for extreme proportions and their biasing effects on
  estimated values of d'", Behavior Research Methods, 1995), so that d' is
  finite at rates of 0 and 1. z is the inverse of the normal distribution.

  Args:
    hits: number of responses 'animal' to animals; any shape.
    signals: number of animals.
    false_alarms: number of responses 'animal' to vehicles.
    noises: number of vehicles.

  Returns:
    d' in standard deviations, of the arguments' shape; NaN if there are no
    animals or no vehicles.
  """
  hits, signals, false_alarms, noises = (
    np.asarray(x, np.float64) for x in (hits, signals, false_alarms, noises)
  )
  value = special.ndtri((hits + 0.5) / (signals + 1.0)) - special.ndtri(
    (false_alarms + 0.5) / (noises + 1.0)
  )
  return np.where((signals > 0) & (noises > 0), value, np.nan)


@dataclasses.dataclass(frozen=True)
class Logistic:
  """A psychometric function of x = log10(percent revealed).

  p(x) = GUESS + (1 - GUESS - lapse) / (1 + exp(-slope (x - log_threshold)))

  Attributes:
    log_threshold: x at which p is halfway between chance and its upper
      asymptote; NaN if it cannot be determined.
    slope: of the logistic, per unit of x.
    lapse: 1 minus the upper asymptote.
    problem: why the threshold is NaN, or ''.
  """

  log_threshold: float
  slope: float
  lapse: float
  problem: str = ''

  @property
  def threshold(self) -> float:
    """The threshold in percent revealed."""
    return 10.0**self.log_threshold

  def __call__(self, percents) -> np.ndarray:
    """Returns the probability of a correct response at some percents."""
    return probability(
      np.log10(percents), self.log_threshold, self.slope, self.lapse
    )


def probability(x, log_threshold, slope, lapse):
  """Evaluates p(x) of `Logistic`; the arguments broadcast."""
  return GUESS + (1.0 - GUESS - lapse) * special.expit(
    slope * (np.asarray(x) - log_threshold)
  )


def _log_probabilities(x, log_threshold, slope, lapse):
  """Returns ln p and ln(1 - p), clipped to finite values."""
  p = np.clip(
    probability(x, log_threshold, slope, lapse), _SMALLEST, 1.0 - _SMALLEST
  )
  return np.log(p), np.log1p(-p)


def _negative_log_likelihood(parameters, x, correct, trials):
  log_threshold, log_slope, lapse = parameters
  right, wrong = _log_probabilities(
    x, log_threshold, math.exp(log_slope), lapse
  )
  return -np.sum(correct * right + (trials - correct) * wrong)


def _most_likely(x, correct, trials):
  """Fits many curves at once by grid search for the maximum likelihood.

  Args:
    x: (L,) log10 percents.
    correct: (R, L) numbers of correct responses.
    trials: (R, L) numbers of responses.

  Returns:
    (R, 3): threshold (log10 percent, in steps of 0.02), slope and lapse.
  """
  grid = np.stack(
    np.meshgrid(
      np.arange(_THRESHOLDS[0], _THRESHOLDS[1] + 0.01, 0.02),
      np.geomspace(*_SLOPES, 24),
      np.linspace(0.0, _MAX_LAPSE, 6),
    ),
    axis=-1,
  ).reshape(-1, 3)
  right, wrong = _log_probabilities(x[:, np.newaxis], *grid.T)
  return grid[np.argmax(correct @ right + (trials - correct) @ wrong, axis=1)]


def _inside(x, log_thresholds):
  """Replaces thresholds outside the range of x, extrapolations, by NaN."""
  shown = (x.min() <= log_thresholds) & (log_thresholds <= x.max())
  return np.where(shown, log_thresholds, np.nan)


def fit_logistic(percents, correct, trials) -> Logistic:
  """Fits a logistic by maximum likelihood.

  Chance is fixed at 0.5. The lapse rate is free in [0, 0.1], the slope in
  [0.1, 100] per log10 unit, and the threshold in 0.1 to 1000 percent. The
  search (scipy.optimize, L-BFGS-B) starts at the best point of a grid, because
  the likelihood can have several local maxima.

  Args:
    percents: (L,) percent revealed, above 0.
    correct: (L,) numbers of correct responses; may be fractions.
    trials: (L,) numbers of responses.

  Returns:
    The fitted function. If the fitted threshold is outside the range of the
    percents shown, it is NaN and `problem` gives the reason.

  Raises:
    ValueError: fewer than three levels have responses, or a level has more
      correct responses than responses.
  """
  percents, correct, trials = (
    np.asarray(v, np.float64) for v in (percents, correct, trials)
  )
  if np.any((correct < 0) | (correct > trials)):
    raise ValueError(
      f'correct is {correct} and trials is {trials}; expected '
      '0 <= correct <= trials.'
    )
  shown = trials > 0
  if shown.sum() < 3:
    raise ValueError(
      f'{shown.sum()} levels have responses; expected at least 3 for a '
      'psychometric function.'
    )
  x, correct, trials = np.log10(percents[shown]), correct[shown], trials[shown]
  (start,) = _most_likely(x, correct[np.newaxis], trials[np.newaxis])
  start[1] = math.log(start[1])
  found = optimize.minimize(
    _negative_log_likelihood,
    start,
    (x, correct, trials),
    'L-BFGS-B',
    bounds=(_THRESHOLDS, tuple(np.log(_SLOPES)), (0.0, _MAX_LAPSE)),
  ).x
  problem = (
    ''
    if np.isfinite(_inside(x, found[0]))
    else (
      'the fitted threshold is '
      f'{"below" if found[0] < x.min() else "above"} the percents that were '
      'shown'
    )
  )
  return Logistic(
    float(_inside(x, found[0])), math.exp(found[1]), float(found[2]), problem
  )


def thresholds(percents, correct, trials) -> np.ndarray:
  """Estimates the thresholds of many curves by grid search only.

  Args:
    percents: (L,) percent revealed, above 0.
    correct: (R, L) numbers of correct responses.
    trials: (R, L) numbers of responses.

  Returns:
    (R,) in percent, with an error of a few percent of the value, which is small
    enough for an interval; NaN outside the range of the percents shown.
  """
  x = np.log10(percents)
  return 10.0 ** _inside(x, _most_likely(x, correct, trials)[:, 0])


def l2(curves_a, curves_b):
  """Euclidean distance of accuracy curves, sqrt(sum over levels (a - b)^2).

  Args:
    curves_a: (..., L) accuracies in [0, 1].
    curves_b: likewise.

  Returns:
    (...); NaN if a level is NaN.
  """
  return np.sqrt(np.sum((np.asarray(curves_a) - curves_b) ** 2, axis=-1))


def _min_max(curves):
  """Rescales each curve to [0, 1]; NaN for a constant curve."""
  curves = np.asarray(curves, np.float64)
  low, high = (f(curves, axis=-1, keepdims=True) for f in (np.min, np.max))
  span = np.where(high > low, high - low, np.nan)
  return (curves - low) / span


def negative_log_mse(curves_a, curves_b):
  """-ln of the mean squared difference between curves rescaled to [0, 1].

  The rescaling maps each curve's minimum to 0 and maximum to 1, so that shapes
  are compared, not heights. The mean is clipped to at least 2.2e-16, the
  precision of float64, so that equal curves score 36.04 instead of infinity.

  Args:
    curves_a: (..., L) accuracies.
    curves_b: likewise.

  Returns:
    (...); NaN if a curve is constant or a level is NaN.
  """
  mse = np.mean((_min_max(curves_a) - _min_max(curves_b)) ** 2, axis=-1)
  return -np.log(np.maximum(mse, np.finfo(np.float64).eps))
