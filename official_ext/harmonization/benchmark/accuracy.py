# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Top-1 and top-5 accuracy, and whether top-1 is above chance.

Wrong preprocessing and a wrong order of classes are the most common errors when
networks are compared, and both result in an accuracy at chance.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np
from numpy import typing as npt
from scipy import stats

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import scores

# Level of the test that accuracy is above chance.
SIGNIFICANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Chance:
  """The accuracy of guessing, and a test whether a network exceeds it.

  Attributes:
    rate: the expected accuracy of guesses with the same class frequencies as
      the network's predictions.
    p_value: the probability that n such guesses are correct at least as often
      as the network.
  """

  rate: float
  p_value: float

  @property
  def is_at_chance(self) -> bool:
    """Whether the accuracy does not differ significantly from guessing."""
    return self.p_value > SIGNIFICANCE


def chance(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> Chance:
  """Tests accuracy against guessing.

  If predictions were independent of the images, one would be correct with
  probability p = sum over classes of the class's share of the predictions times
  its share of the labels (the chance agreement of Cohen, "A coefficient of
  agreement for nominal scales", 1960). Unlike 1 / classes, this holds when few
  classes occur or a network always predicts the same class. The p-value is that
  of the one-sided binomial test, P(X >= hits), X ~ Binomial(n, p).

  Args:
    predictions: int (n,), classes.
    labels: int (n,), classes.

  Returns:
    The rate p and the p-value.
  """
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  n = len(labels)
  size = 1 + int(max(predictions.max(), labels.max()))
  rate = (
    float(
      np.bincount(predictions, minlength=size)
      @ np.bincount(labels, minlength=size)
    )
    / n**2
  )
  hits = int(np.sum(predictions == labels))
  return Chance(rate, float(stats.binom.sf(hits - 1, n, rate)))


def proportion(
  name: str,
  successes: npt.ArrayLike,
  *,
  preprocessing: str,
  groups: npt.ArrayLike | None = None,
  confidence: float = 0.95,
  details: Mapping[str, Any] | None = None,
) -> scores.Score:
  """Makes a score from one success or failure per image.

  Args:
    name: what was measured.
    successes: bool (n,), one per image.
    preprocessing: of the images, in one line.
    groups: (n,), the group of each image; by default, images are independent.
    confidence: of the interval, see `statistics.proportion`.
    details: further facts about the score.

  Returns:
    The proportion of successes; NaN without images.
  """
  successes = np.asarray(successes, bool)
  n = len(successes)
  low, high = statistics.proportion(successes, groups, confidence)
  return scores.Score(
    name,
    float(successes.mean()) if n else math.nan,
    n=n,
    n_undefined=0,
    low=low,
    high=high,
    confidence=confidence,
    ceiling=None,
    preprocessing=preprocessing,
    details={
      'interval': statistics.proportion_method(groups),
      **(details or {}),
    },
  )


def measure(
  predictions: npt.ArrayLike,
  labels: npt.ArrayLike,
  *,
  preprocessing: str,
  model_preprocessing: str,
  groups: npt.ArrayLike | None = None,
  details: dict[str, Any] | None = None,
) -> tuple[scores.Score, list[str]]:
  """Computes top-1 accuracy, and warns if it is at chance.

  Args:
    predictions: int (n,), classes.
    labels: int (n,), classes.
    preprocessing: of the images, in one line, for the score.
    model_preprocessing: the adapter's part of it, for the warning.
    groups: (n,), as in `proportion`.
    details: further facts about the score.

  Returns:
    The score 'top1' with Wilson's interval, and a list of at most one warning.
  """
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  test = chance(predictions, labels)
  score = proportion(
    'top1',
    predictions == labels,
    preprocessing=preprocessing,
    groups=groups,
    details={
      'chance': test.rate,
      'chance_p_value': test.p_value,
      **(details or {}),
    },
  )
  if not test.is_at_chance:
    return score, []
  return score, [
    f'Top-1 accuracy is {score.value:.4f} on '
    f'{choices.plural(score.n or 0, "image")}, not '
    f'significantly above guessing ({test.rate:.4f}; one-sided binomial test, '
    f'p = {test.p_value:.2g}, not below {SIGNIFICANCE}). The usual cause is a '
    'wrong preprocessing, class '
    f'order or label offset; the preprocessing was: {model_preprocessing}.'
  ]


def predict(logits: np.ndarray) -> np.ndarray:
  """Returns the class of the largest logit of each image.

  Args:
    logits: float (B, K).

  Returns:
    int64 (B,).

  Raises:
    ValueError: a logit is NaN.
  """
  bad = np.flatnonzero(np.isnan(logits).any(axis=-1))
  if bad.size:
    raise ValueError(
      f'The model returned NaN for {bad.size} of {len(logits)} images of a '
      'batch; expected finite logits.'
    )
  return np.argmax(logits, axis=-1)


def among_top(
  logits: np.ndarray, labels: npt.ArrayLike, k: int = 5
) -> np.ndarray:
  """Says whether an image's label is among the k largest logits.

  A logit that equals the label's counts as larger, so that a constant network
  does not profit from ties.

  Args:
    logits: float (B, K), with K > k.
    labels: int (B,), classes.
    k: how many classes count.

  Returns:
    bool (B,).
  """
  own = np.take_along_axis(logits, np.asarray(labels)[:, np.newaxis], axis=1)
  return np.sum(logits >= own, axis=1) <= k


def decision_rows(
  batch: labelled_images.Batch, predictions: np.ndarray | None
) -> list[dict[str, Any]]:
  """Makes rows of the table of images.

  Args:
    batch: the images.
    predictions: int (B,), classes; None for a control, which has none.

  Returns:
    A row per image: file, record, label, prediction, correct.
  """
  rows = [
    {'file': file, 'record': index, 'label': int(label)}
    for (file, index), label in zip(batch.locations, batch.labels)
  ]
  if predictions is not None:
    for row, prediction in zip(rows, predictions):
      row['prediction'] = int(prediction)
      row['correct'] = int(row['label'] == prediction)
  return rows
