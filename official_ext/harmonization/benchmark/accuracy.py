"""Top-1 accuracy, whether it is above chance, and ImageNet's accuracy.

Wrong preprocessing and wrong class orders are the commonest errors when
networks are compared, and both show as an accuracy at chance.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.evaluation import scores

# Of the test that accuracy is above chance.
SIGNIFICANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Chance:
  """What guessing would reach, and whether a network does better.

  Attributes:
    rate: the accuracy expected of a guess with the network's own habits.
    p_value: the probability that n such guesses are right as often as the
      network was.
  """

  rate: float
  p_value: float

  @property
  def is_at_chance(self) -> bool:
    """Whether the network cannot be told from guessing."""
    return self.p_value > SIGNIFICANCE


def chance(predictions: Sequence[int], labels: Sequence[int]) -> Chance:
  """Tests accuracy against guessing.

  If predictions had nothing to do with the images, one would be right with
  probability p = sum over classes of the class's share of the predictions times
  its share of the labels (the chance agreement of Cohen, "A coefficient of
  agreement for nominal scales", 1960). Unlike 1 / classes it holds when few
  classes occur, or when a network always says the same. The p-value is that of
  the one-sided binomial test, P(X >= hits), X ~ Binomial(n, p).

  Args:
    predictions: int (n,), class by image.
    labels: int (n,).

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


def measure(
  predictions: Sequence[int],
  labels: Sequence[int],
  *,
  preprocessing: str,
  model_preprocessing: str,
  details: dict[str, Any] | None = None,
):
  """Makes a score of top-1 accuracy, and a warning where it is at chance.

  Args:
    predictions: int (n,), class by image.
    labels: int (n,).
    preprocessing: of the images, in a line, for the score.
    model_preprocessing: the adapter's part of it, for the warning.
    details: whatever else belongs to the score.

  Returns:
    The `scores.Score` named 'top1', and a list of warnings, empty or of one.
  """
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  correct = (predictions == labels).astype(np.float64)
  test = chance(predictions, labels)
  score = scores.score(
    'top1',
    correct,
    preprocessing=preprocessing,
    details={
      'chance': test.rate,
      'chance_p_value': test.p_value,
      **(details or {}),
    },
  )
  if not test.is_at_chance:
    return score, []
  return score, [
    f'Top-1 accuracy is {score.value:.4f} on {score.n} images, which cannot '
    f'be told from guessing ({test.rate:.4f}; one-sided binomial test, p = '
    f'{test.p_value:.2g}). Wrong preprocessing, class order or label offset '
    f'is the usual cause; the preprocessing was: {model_preprocessing}.'
  ]


class ImageNet(protocol.Experiment):
  """Top-1 accuracy on labelled images without maps: ImageNet's validation set.

  Records have Model Garden's fields. The central 87.5 % of an image is resized
  to the model's input size (bilinear), as the host evaluates.
  """

  name = 'imagenet'
  title = 'ImageNet: accuracy'

  def __init__(self, source: labelled_images.Source, batch_size: int):
    """Initializes the experiment.

    Args:
      source: of the records, without maps.
      batch_size: on which no score depends.
    """
    self._source = source
    self._batch_size = batch_size

  def settings(self) -> dict[str, Any]:
    """What the scores depend on, but for the model."""
    return self._source.settings()

  def identity(self, digests: identity.Digests) -> dict[str, Any]:
    """See `results.Experiment`."""
    return {
      'protocol': f'{self.name} {self.version}',
      'data': self._source.contents(digests),
      'options': self._source.options(),
    }

  def run(
    self,
    adapter,
    progress: Callable[[int], Any],
    journal: journal_lib.Journal | None = None,
  ) -> protocol.Result:
    """Scores a model.

    Args:
      adapter: of the model, an `adapters.base.Adapter`.
      progress: called with the number of images of every batch.
      journal: see `results.Experiment`; its items are rows.

    Returns:
      The score 'top1', and a row per image.
    """
    rows = journal_lib.kept(journal)
    for batch in labelled_images.batches(
      self._source,
      adapter.input_size,
      adapter.input_size,
      adapter.scored_classes,
      self._batch_size,
      start=len(rows),
    ):
      predictions = predict(adapter.logits(adapter.preprocess(batch.images)))
      found = decision_rows(batch, predictions)
      rows += found
      if journal:
        journal.add(found)
      progress(len(found))
    if not rows:
      raise labelled_images.BadDataError(
        f'{self._source.input_path} holds no record.'
      )
    height, width = adapter.input_size
    score, warnings = measure(
      [row['prediction'] for row in rows],
      [row['label'] for row in rows],
      preprocessing=f'central 87.5 % resized to {height}x{width} (bilinear); '
      f'{adapter.preprocessing}',
      model_preprocessing=adapter.preprocessing,
      details={'limit': self._source.limit},
    )
    return protocol.Result(scores=[score], rows=rows, warnings=warnings)


def predict(logits: np.ndarray) -> np.ndarray:
  """The classes that logits name.

  Args:
    logits: float (B, K).

  Returns:
    int64 (B,).

  Raises:
    ValueError: a logit is NaN, so that there is no largest.
  """
  bad = np.flatnonzero(np.isnan(logits).any(axis=-1))
  if bad.size:
    raise ValueError(
      f'The model gave NaN for {bad.size} of {len(logits)} images of a '
      'batch: it cannot be scored.'
    )
  return np.argmax(logits, axis=-1)


def decision_rows(
  batch: labelled_images.Batch, predictions: np.ndarray
) -> list[dict[str, Any]]:
  """Says of each image where it is from and what the model took it for.

  Args:
    batch: the images.
    predictions: int (B,).

  Returns:
    A row per image: file, record, label, prediction, correct.
  """
  return [
    {
      'file': file,
      'record': index,
      'label': int(label),
      'prediction': int(prediction),
      'correct': int(label == prediction),
    }
    for (file, index), label, prediction in zip(
      batch.places, batch.labels, predictions
    )
  ]
