"""Accuracy by level, of people and networks, and its bootstrap.

Answers are counted by participant, image and level. A network is one
participant. The bootstrap draws images anew within each target, with all
levels of an image together, and independently participants, with all answers
of each (Owen, "The pigeonhole bootstrap", 2007). Levels are not drawn: they
are the experiment's, not a sample.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.benchmark.psychophysics import psychometrics
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores

# Numbers of a product of weights and counts that are held at a time.
_CHUNK = 1 << 22
# Each is compared with 30,000 functions.
_THRESHOLD_RESAMPLES = 200


class Images:
  """The images of an experiment, in order, and their targets.

  Attributes:
    index: place of each image.
    animal: bool (I,), whether it is one.
  """

  def __init__(self, targets: Iterable[tuple[str, str]]):
    """Initializes the images.

    Args:
      targets: (image, target) pairs, in which images come up again.

    Raises:
      ValueError: an image has two targets.
    """
    known = {}
    for image, target in targets:
      if known.setdefault(image, target) != target:
        raise ValueError(
          f'Image {image} is the picture of an animal in one place and of a '
          "vehicle in another: people's category and the stimuli's folder "
          'or class must agree.'
        )
    self.index = {image: i for i, image in enumerate(sorted(known))}
    self.animal = np.array(
      [known[image] == stimulus_files.ANIMAL for image in self.index]
    )

  def draw(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns how often each image is drawn; float32 (resamples, I)."""
    weights = np.zeros((resamples, len(self.animal)), np.float32)
    for group in (self.animal, ~self.animal):
      weights[:, group] = draw(int(group.sum()), resamples, rng)
    return weights


def draw(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
  """Draws `count` of `count` things with replacement, many times.

  Args:
    count: of the things.
    resamples: how many times.
    rng: source of the draws.

  Returns:
    How often each was drawn; (resamples, count).
  """
  if not count:
    return np.zeros((resamples, 0))
  return rng.multinomial(count, np.full(count, 1.0 / count), resamples)


@dataclasses.dataclass(frozen=True)
class Curve:
  """Accuracy by level.

  Attributes:
    levels: L of them, 0, 10, ..., 100, 200.
    accuracy: (L,), in [0, 1].
    standard_error: (L,), over participants; of a network, over images.
    n: (L,), number of answers; 0 where it is not known.
    d_prime: (L,), of all answers together; NaN where they are not known.
    logistic: fitted to all levels but the full image.
    threshold_interval: bootstrap interval of its threshold; NaN if none.
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
    """Percent revealed at which the logistic is halfway up; NaN if none."""
    return self.logistic.threshold

  @property
  def percents(self) -> np.ndarray:
    """Percent revealed at each level; 100 for the full image."""
    return _percents(self.levels)

  def to_json(self) -> dict[str, Any]:
    """Returns all of it, as strict JSON can hold it."""
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
  """Says which levels are not the full image; bool (L,)."""
  return np.array([level != stimulus_files.FULL for level in levels])


def fit(levels: Sequence[int], correct, trials) -> psychometrics.Logistic:
  """Fits a logistic to all levels but the full image, which has no percent.

  Args:
    levels: L of them.
    correct: (L,) right answers.
    trials: (L,) answers.

  Returns:
    The function; with NaN and the reason where fewer than 3 levels are left.
  """
  kept = _partial(levels)
  if kept.sum() < 3:
    return psychometrics.Logistic(
      math.nan, math.nan, math.nan, 'fewer than 3 levels beside the full image'
    )
  return psychometrics.fit_logistic(
    _percents(levels)[kept], np.asarray(correct)[kept], np.asarray(trials)[kept]
  )


class Answers:
  """Answers counted by participant, image and level."""

  def __init__(
    self,
    trials: Sequence[human_trials.Trial],
    images: Images,
    levels: Sequence[int],
  ):
    """Counts the answers.

    Args:
      trials: of these levels and images.
      images: of the experiment.
      levels: L of them.
    """
    self._images = images
    self._levels = list(levels)
    participants = {
      p: i
      for i, p in enumerate(sorted({trial.participant for trial in trials}))
    }
    self.participants = len(participants)
    place = {level: i for i, level in enumerate(levels)}
    shape = (len(images.index), self.participants, len(place))
    self._count, self._right = (np.zeros(shape, np.float32) for _ in range(2))
    at = tuple(
      np.array(
        [
          (images.index[t.image], participants[t.participant], place[t.level])
          for t in trials
        ]
      ).T
    )
    np.add.at(self._count, at, 1)
    np.add.at(self._right, at, [t.response == t.target for t in trials])

  def curve(self, image_weights: np.ndarray, confidence: float) -> Curve:
    """Returns the accuracy of these answers.

    Args:
      image_weights: (R, I), how often resamples drew each image; the interval
        of the threshold is taken over the first 200.
      confidence: of that interval.
    """
    right, count = (
      x.sum(axis=0, dtype=np.float64) for x in (self._right, self._count)
    )
    each = _divide(right, count)
    accuracy = np.nanmean(each, axis=0)
    n = count.sum(axis=0)
    if self.participants > 1:
      # Of those who saw a level: not everybody sees every one.
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
      self._threshold_interval(image_weights, logistic, confidence),
    )

  def _d_prime(self):
    """Sensitivity of all answers together, for each level."""
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

  def resample(
    self, image_weights: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    """Returns curves of answers drawn anew.

    Args:
      image_weights: (R, I), how often each image was drawn.
      rng: draws the participants; a single one stays.

    Returns:
      float64 (R, L); NaN where nobody who was drawn saw a level.
    """
    images, participants, levels = self._count.shape
    curves = np.empty((len(image_weights), levels))
    rows = max(1, _CHUNK // (participants * levels))
    for start in range(0, len(curves), rows):
      drawn = image_weights[start : start + rows]
      right, count = (
        (drawn @ x.reshape(images, -1)).reshape(-1, participants, levels)
        for x in (self._right, self._count)
      )
      weights = draw(participants, len(drawn), rng)[..., np.newaxis] * (
        count > 0
      )
      each = np.nan_to_num(_divide(right, count))
      curves[start : start + rows] = _divide(
        (each * weights).sum(axis=1), weights.sum(axis=1).astype(float)
      )
    return curves

  def split_half(self, measure, seed: int, splits: int = 100) -> float:
    """How far people are from people: halves of the participants compared.

    Args:
      measure: of two arrays of curves (splits, L).
      seed: of the splits.
      splits: how many.

    Returns:
      The mean over the splits that have a value; NaN if none has one, as with a
      single participant. Halves are noisier than all people together.
    """
    if self.participants < 2:
      return math.nan
    rng = np.random.default_rng(seed)
    each = _divide(
      *(x.sum(axis=0, dtype=np.float64) for x in (self._right, self._count))
    )
    seen, half = ~np.isnan(each), self.participants // 2
    order = rng.permuted(
      np.tile(np.arange(self.participants), (splits, 1)), axis=1
    )
    curves = []
    for part in (order[:, :half], order[:, half : 2 * half]):
      total = np.nan_to_num(each)[part].sum(axis=1)
      curves.append(_divide(total, seen[part].sum(axis=1)))
    values = measure(*curves)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan

  def _threshold_interval(self, image_weights, logistic, confidence):
    """Bootstrap interval of the threshold in percent, over images."""
    if logistic.problem:
      return math.nan, math.nan
    kept = _partial(self._levels)
    percents = _percents(self._levels)[kept]
    weights = image_weights[:_THRESHOLD_RESAMPLES]
    right, count = (
      weights @ x.sum(axis=1)[:, kept] for x in (self._right, self._count)
    )
    return interval(
      psychometrics.thresholds(percents, right, count), confidence
    )[:2]


class Known:
  """Accuracies per level, of answers that are not at hand."""

  def __init__(self, table: human_trials.Accuracies, levels: Sequence[int]):
    """Takes some levels of a table.

    Args:
      table: accuracy and standard error by level.
      levels: which of them.
    """
    self._levels = list(levels)
    self._accuracy = np.array([table.accuracy[level] for level in levels])
    self._error = np.array([table.standard_error[level] for level in levels])

  def curve(self, image_weights: np.ndarray, confidence: float) -> Curve:
    """Returns the accuracies; all levels weigh the same in the logistic.

    Args:
      image_weights: of no use here, nor is the next.
      confidence: of an interval.
    """
    del image_weights, confidence  # Without trials there is no interval.
    unknown = np.full(len(self._levels), np.nan)
    return Curve(
      self._levels,
      self._accuracy,
      self._error,
      np.zeros(len(self._levels)),
      unknown,
      fit(self._levels, self._accuracy, np.ones(len(unknown))),
    )

  def resample(
    self, image_weights: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    """Returns normal draws with the standard errors; without one, no spread.

    Args:
      image_weights: (R, I), only for R: whose images these were is not known.
      rng: source of the draws.

    Returns:
      float64 (R, L), kept in [0, 1].
    """
    noise = rng.standard_normal((len(image_weights), len(self._levels)))
    return np.clip(
      self._accuracy + noise * np.nan_to_num(self._error), 0.0, 1.0
    )

  def split_half(self, measure, seed: int) -> float:
    """Returns NaN: people cannot be compared with people here."""
    del measure, seed
    return math.nan


def interval(values, confidence: float) -> tuple[float, float, int]:
  """Percentile interval of what resamples gave.

  Args:
    values: (R,), NaN where a resample has no value.
    confidence: of the interval.

  Returns:
    Its ends, NaN where fewer than half of the resamples have a value, and how
    many have none.
  """
  values = np.asarray(values)
  defined = values[~np.isnan(values)]
  undefined = len(values) - len(defined)
  if not len(defined) or undefined > len(defined):
    return math.nan, math.nan, undefined
  tail = (1.0 - confidence) / 2.0
  low, high = np.quantile(defined, (tail, 1.0 - tail))
  return float(low), float(high), undefined
