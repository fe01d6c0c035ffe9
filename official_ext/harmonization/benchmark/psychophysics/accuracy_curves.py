# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Accuracy curves of people and networks, and their bootstrap.

Responses are counted by participant, image and level; a network is a single
participant. The bootstrap resamples images within each target, with all levels
of an image, and independently participants, with all their responses (Owen,
"The pigeonhole bootstrap", 2007). Single trials are never resampled: those of a
participant depend on each other, as do those of an image. Levels are fixed by
the experiment and are not resampled either.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.benchmark.psychophysics import psychometrics
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores

# Elements of a product of weights and counts in memory at a time.
_CHUNK = 1 << 22
# Resamples for the interval of the threshold, each of which is compared with
# 30,000 functions of a grid.
_THRESHOLD_RESAMPLES = 200


class ExperimentImages:
  """The I images of an experiment and their targets.

  Attributes:
    index: position of each image, by its identifier.
    animal: bool (I,), whether the target is animal.
  """

  def __init__(self, targets: Iterable[tuple[str, str]]):
    """Collects the images.

    Args:
      targets: (image, target) pairs, in which images may occur repeatedly.

    Raises:
      ValueError: an image has two targets.
    """
    known = {}
    for image, target in targets:
      if known.setdefault(image, target) != target:
        raise ValueError(
          f'Image {image} is both animal and vehicle; expected one target. '
          'Make the category in the human trials agree with the folder or '
          'class of the stimuli.'
        )
    self.index = {image: i for i, image in enumerate(sorted(known))}
    self.animal = np.array(
      [known[image] == stimulus_files.ANIMAL for image in self.index]
    )

  def resample(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns bootstrap weights of the images, float32 (resamples, I)."""
    weights = np.zeros((resamples, len(self.animal)), np.float32)
    for group in (self.animal, ~self.animal):
      weights[:, group] = bootstrap_weights(int(group.sum()), resamples, rng)
    return weights


def bootstrap_weights(
  count: int, resamples: int, rng: np.random.Generator
) -> np.ndarray:
  """Resamples `count` items with replacement.

  Args:
    count: number of items, and of draws per resample.
    resamples: number of resamples.
    rng: random generator.

  Returns:
    (resamples, count): how often each item was drawn.
  """
  if not count:
    return np.zeros((resamples, 0))
  return rng.multinomial(count, np.full(count, 1.0 / count), resamples)


@dataclasses.dataclass(frozen=True)
class Curve:
  """Accuracy by level.

  Attributes:
    levels: the L levels, from 0, 10, ..., 100, 200.
    accuracy: (L,), in [0, 1].
    standard_error: (L,), over participants; over images for a network.
    n: (L,), number of responses; 0 if unknown.
    d_prime: (L,), of all responses pooled; NaN if unknown.
    logistic: fitted to all levels except the full image.
    threshold_interval: bootstrap interval of its threshold, or NaN.
  """

  levels: Sequence[int]
  accuracy: np.ndarray
  standard_error: np.ndarray
  n: np.ndarray
  d_prime: np.ndarray
  logistic: psychometrics.Logistic
  threshold_interval: tuple[float, float] = (math.nan, math.nan)

  @property
  def threshold(self) -> float:
    """Percent revealed at the logistic's threshold, or NaN."""
    return self.logistic.threshold

  @property
  def percents(self) -> np.ndarray:
    """Percent revealed at each level; 100 for the full image."""
    return _percents(self.levels)

  def to_json(self) -> dict[str, Any]:
    """Returns the fields and properties as a dictionary for strict JSON."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return scores.json_safe(
      {
        **fields,
        'logistic': dataclasses.asdict(self.logistic),
        'threshold': self.threshold,
        'percents': self.percents,
      }
    )


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Divides in float64; NaN where b is 0."""
  return np.divide(
    a, b, out=np.full(a.shape, np.nan), where=b > 0, dtype=np.float64
  )


def _percents(levels: Sequence[int]) -> np.ndarray:
  return np.array([stimulus_files.percent(level) for level in levels])


def _partial(levels: Sequence[int]) -> np.ndarray:
  """Returns a mask of the levels other than the full image; bool (L,)."""
  return np.array([level != stimulus_files.FULL for level in levels])


def fit(levels: Sequence[int], correct, trials) -> psychometrics.Logistic:
  """Fits a logistic to all levels except the full image, which has no percent.

  Args:
    levels: the L levels.
    correct: (L,) numbers of correct responses.
    trials: (L,) numbers of responses.

  Returns:
    The fitted function; NaN and the reason if fewer than 3 levels remain.
  """
  kept = _partial(levels)
  if kept.sum() < 3:
    return psychometrics.Logistic(
      math.nan, math.nan, math.nan, 'fewer than 3 levels beside the full image'
    )
  return psychometrics.fit_logistic(
    _percents(levels)[kept], np.asarray(correct)[kept], np.asarray(trials)[kept]
  )


class ResponseCounts:
  """Responses counted by participant, image and level.

  Attributes:
    names: the P participants, sorted.
    participants: P.
  """

  def __init__(
    self,
    trials: Sequence[human_trials.Trial],
    images: ExperimentImages,
    levels: Sequence[int],
  ):
    """Counts the responses.

    Args:
      trials: of these images and levels only.
      images: of the experiment.
      levels: the L levels.
    """
    self._images = images
    self._levels = list(levels)
    self.names = sorted({trial.participant for trial in trials})
    participants = {p: i for i, p in enumerate(self.names)}
    self.participants = len(participants)
    column = {level: i for i, level in enumerate(levels)}
    # (images, participants, levels).
    shape = (len(images.index), self.participants, len(column))
    self._count, self._right = (np.zeros(shape, np.float32) for _ in range(2))
    cells = tuple(
      np.array(
        [
          (images.index[t.image], participants[t.participant], column[t.level])
          for t in trials
        ]
      ).T
    )
    np.add.at(self._count, cells, 1)
    np.add.at(self._right, cells, [t.response == t.target for t in trials])

  def draw(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Resamples the participants; a single one is always drawn.

    Args:
      resamples: number R of resamples.
      rng: random generator.

    Returns:
      int (R, P): how often each participant was drawn.
    """
    return bootstrap_weights(self.participants, resamples, rng)

  def proportions(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `consistency.agreement` compares.

    Returns:
      The proportion of correct responses, float32 (L, P, I), 0 where there are
      none, and whether there are any, bool (L, P, I).
    """
    right, count = (x.transpose(2, 1, 0) for x in (self._right, self._count))
    return np.nan_to_num(_divide(right, count)).astype(np.float32), count > 0

  def curve(self) -> Curve:
    """Computes the accuracy curve, without the interval of its threshold."""
    right, count = (
      x.sum(axis=0, dtype=np.float64) for x in (self._right, self._count)
    )
    each = _divide(right, count)
    accuracy = np.nanmean(each, axis=0)
    n = count.sum(axis=0)
    if self.participants > 1:
      # Not every participant sees every level.
      seen = (~np.isnan(each)).sum(axis=0)
      spread = np.nansum((each - accuracy) ** 2, axis=0)
      error = np.sqrt(_divide(spread, (seen - 1.0) * seen))
    else:
      error = np.sqrt(accuracy * (1.0 - accuracy) / n)
    logistic = fit(self._levels, right.sum(axis=0), n)
    return Curve(
      self._levels,
      accuracy,
      error,
      n,
      self._d_prime(),
      logistic,
    )

  def _d_prime(self):
    """Returns the sensitivity of all responses pooled, (L,)."""
    right, count = (
      x.sum(axis=1, dtype=np.float64) for x in (self._right, self._count)
    )
    animal = self._images.animal
    signals, noises = count[animal].sum(axis=0), count[~animal].sum(axis=0)
    return psychometrics.d_prime(
      right[animal].sum(axis=0),
      signals,
      noises - right[~animal].sum(axis=0),
      noises,
    )

  def _resampled_counts(self, image_weights, drawn):
    """Yields correct responses and responses of some resamples at a time.

    Args:
      image_weights: (R, I).
      drawn: (R, P).

    Yields:
      A slice of r resamples, two float32 arrays (r, P, L), and the slice's part
      of `drawn` as (r, P, 1).
    """
    images, participants, levels = self._count.shape
    rows = max(1, _CHUNK // (participants * levels))
    for start in range(0, len(image_weights), rows):
      part = slice(start, start + rows)
      right, count = (
        (image_weights[part] @ x.reshape(images, -1)).reshape(
          -1, participants, levels
        )
        for x in (self._right, self._count)
      )
      yield part, right, count, drawn[part, :, np.newaxis]

  def resample(
    self, image_weights: np.ndarray, drawn: np.ndarray
  ) -> np.ndarray:
    """Returns accuracy curves of bootstrap resamples.

    Args:
      image_weights: (R, I) bootstrap weights of the images.
      drawn: (R, P) of the participants, from `draw`.

    Returns:
      float64 (R, L); NaN if no resampled participant saw a level.
    """
    curves = np.empty((len(image_weights), len(self._levels)))
    for part, right, count, times in self._resampled_counts(
      image_weights, drawn
    ):
      weights = times * (count > 0)
      each = np.nan_to_num(_divide(right, count))
      curves[part] = _divide(
        (each * weights).sum(axis=1), weights.sum(axis=1).astype(float)
      )
    return curves

  def thresholds(
    self, image_weights: np.ndarray, drawn: np.ndarray
  ) -> np.ndarray:
    """Returns fitted thresholds of bootstrap resamples, in percent.

    Args:
      image_weights: (R, I) bootstrap weights of the images. Only the first 200
        resamples are used.
      drawn: (R, P) of the participants, from `draw`.

    Returns:
      float64 (min(R, 200),), NaN outside the percents shown; all NaN with fewer
      than three levels beside the full image.
    """
    image_weights = image_weights[:_THRESHOLD_RESAMPLES]
    kept = _partial(self._levels)
    found = np.full(len(image_weights), np.nan)
    if kept.sum() < 3:
      return found
    for part, right, count, times in self._resampled_counts(
      image_weights, drawn[:_THRESHOLD_RESAMPLES]
    ):
      found[part] = psychometrics.thresholds(
        _percents(self._levels)[kept],
        (right * times).sum(axis=1)[:, kept],
        (count * times).sum(axis=1)[:, kept],
      )
    return found

  def split_half(
    self, measure, seed: int, splits: int = 100, confidence: float = 0.95
  ) -> tuple[float, float, float]:
    """Compares random halves of the participants with each other.

    The interval comes from the jackknife over participants: each in turn is
    removed from its half in all splits. A bootstrap would put copies of a
    participant into both halves, which makes them more alike than they are.

    Args:
      measure: function of two arrays of curves (splits, L).
      seed: of the splits.
      splits: number of splits.
      confidence: of the interval.

    Returns:
      The mean over the splits with a defined value, or NaN, as for a single
      participant, and the lower and upper end of its interval, NaN for fewer
      than four participants. Half of the participants are noisier than all.
    """
    if self.participants < 2:
      return math.nan, math.nan, math.nan
    rng = np.random.default_rng(seed)
    each = _divide(
      *(x.sum(axis=0, dtype=np.float64) for x in (self._right, self._count))
    )
    seen, half = ~np.isnan(each), self.participants // 2
    each = np.nan_to_num(each)
    order = rng.permuted(
      np.tile(np.arange(self.participants), (splits, 1)), axis=1
    )
    members = np.zeros((2, splits, self.participants))
    halves = order[:, :half], order[:, half : 2 * half]
    for side, part in zip(members, halves):
      np.put_along_axis(side, part, 1.0, axis=1)

    def mean(members):
      curves = _divide(members @ each, members @ seen.astype(float))
      values = measure(*curves)
      values = values[~np.isnan(values)]
      return float(values.mean()) if len(values) else math.nan

    value = mean(members)
    if self.participants < 4:
      return value, math.nan, math.nan
    kept = 1.0 - np.eye(self.participants)
    without = np.array([mean(members * others) for others in kept])
    p = self.participants
    error = math.sqrt((p - 1) / p * np.sum((without - without.mean()) ** 2))
    margin = float(stats.t.ppf(0.5 + confidence / 2, p - 1)) * error
    return value, value - margin, value + margin


class TabulatedAccuracy:
  """Accuracy by level from a table, with the methods of `ResponseCounts`."""

  def __init__(self, table: human_trials.Accuracies, levels: Sequence[int]):
    """Selects levels of a table.

    Args:
      table: accuracy and standard error by level.
      levels: the L levels to use.
    """
    self._levels = list(levels)
    self._accuracy = np.array([table.accuracy[level] for level in levels])
    self._error = np.array([table.standard_error[level] for level in levels])

  def curve(self) -> Curve:
    """Returns the accuracies; all levels have equal weight in the logistic."""
    unknown = np.full(len(self._levels), np.nan)
    return Curve(
      self._levels,
      self._accuracy,
      self._error,
      np.zeros(len(self._levels)),
      unknown,
      fit(self._levels, self._accuracy, np.ones(len(unknown))),
    )

  def draw(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns standard normal noise, (R, L)."""
    return rng.standard_normal((resamples, len(self._levels)))

  def resample(
    self, image_weights: np.ndarray, drawn: np.ndarray
  ) -> np.ndarray:
    """Samples curves from normal distributions with the standard errors.

    An unknown standard error counts as 0.

    Args:
      image_weights: unused.
      drawn: (R, L), from `draw`.

    Returns:
      float64 (R, L), clipped to [0, 1].
    """
    del image_weights
    return np.clip(
      self._accuracy + drawn * np.nan_to_num(self._error), 0.0, 1.0
    )

  def thresholds(
    self, image_weights: np.ndarray, drawn: np.ndarray
  ) -> np.ndarray:
    """Returns NaN (R,), because the numbers of responses are unknown."""
    del drawn
    return np.full(len(image_weights[:_THRESHOLD_RESAMPLES]), np.nan)

  def split_half(
    self, measure, seed: int, confidence: float = 0.95
  ) -> tuple[float, float, float]:
    """Returns NaN, because the participants are unknown."""
    del measure, seed, confidence
    return math.nan, math.nan, math.nan


def interval(values, confidence: float) -> tuple[float, float, int]:
  """Computes a percentile interval from bootstrap values.

  Args:
    values: (R,), NaN for resamples whose value is undefined.
    confidence: of the interval.

  Returns:
    The lower and upper end, NaN if fewer than half of the values are defined,
    and the number of undefined values.
  """
  values = np.asarray(values)
  defined = values[~np.isnan(values)]
  undefined = len(values) - len(defined)
  if not len(defined) or undefined > len(defined):
    return math.nan, math.nan, undefined
  tail = (1.0 - confidence) / 2.0
  low, high = np.quantile(defined, (tail, 1.0 - tail))
  return float(low), float(high), undefined
