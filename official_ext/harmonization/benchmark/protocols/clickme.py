"""WHERE people look: the ClickMe and Clicktionary protocols.

A model's map of each image is compared with the human map: Spearman's rank
correlation with average ranks, and Dice and IoU of both maps cut strictly above
their 90th percentile (Fel et al., NeurIPS 2022; `harmonization` 0.0.9,
`evaluation/clickme.py`). Alignment is the mean rank correlation over the score
that people reach.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import accuracy
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import scores

# Height and width that maps are compared at, as released.
RELEASED_SIZE = 224
METRICS = ('spearman', 'dice', 'iou')
_EXAMPLES = 6
_TITLES = {
  'clickme': 'ClickMe: where people look',
  'clicktionary': 'Clicktionary: where people look',
}


class _OnePass:
  """An adapter's gradients that keep the logits of the same pass."""

  def __init__(self, adapter, inputs: np.ndarray):
    self._adapter = adapter
    self._inputs = inputs
    self._logits = None

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the labels' logits with respect to inputs, for explainers."""
    if inputs is not self._inputs:
      return self._adapter.gradients(inputs, labels)
    self._logits, gradients = self._adapter.logits_and_gradients(inputs, labels)
    return gradients

  def logits(self) -> np.ndarray:
    """Of the inputs; computed now if no explainer asked for them."""
    if self._logits is None:
      self._logits = self._adapter.logits(self._inputs)
    return self._logits


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes maps (bilinear), which leaves those of that size as they are.

  Args:
    maps: float (B, H, W).
    size: (height, width).

  Returns:
    float32 (B, height, width).
  """
  maps = np.asarray(maps, np.float32)
  return tf.image.resize(maps[..., np.newaxis], size).numpy()[..., 0]


class ClickMeProtocol(protocol.Experiment):
  """Alignment with human maps, and accuracy on the same images."""

  def __init__(
    self,
    name: str,
    source: labelled_images.Source,
    *,
    batch_size: int,
    ceiling: float | None = None,
    explainer: str = 'gradient',
    comparison_size: int | None = RELEASED_SIZE,
  ):
    """Initializes the experiment.

    Args:
      name: 'clickme' or 'clicktionary'.
      source: of the records.
      batch_size: on which no score depends.
      ceiling: the mean rank correlation that counts as 1; None where people's
        own is not known.
      explainer: one of `explainers.EXPLAINERS`.
      comparison_size: height and width that maps are compared at; None for
        each model's own input size.
    """
    self.name = name
    self.title = _TITLES[name]
    self._source = source
    self._batch_size = batch_size
    self._ceiling = ceiling
    self._explainer = explainer
    self._comparison_size = comparison_size

  def settings(self) -> dict[str, Any]:
    """What the scores depend on, but for the model."""
    return {
      **self._source.settings(),
      'ceiling': self._ceiling,
      'explainer': self._explainer,
      'comparison_size': self._comparison_size or 'native',
    }

  def identity(self, digests: identity.Digests) -> dict[str, Any]:
    """See `results.Experiment`; a ceiling only changes what is shown."""
    return {
      'protocol': f'{self.name} {self.version}',
      'data': self._source.contents(digests),
      'options': {
        **self._source.options(),
        'explainer': self._explainer,
        'comparison_size': self._comparison_size or 'native',
      },
    }

  def present(self, stored: Mapping[str, Any]) -> dict[str, Any]:
    """See `results.Experiment`: of another ceiling."""
    return {
      **stored,
      'spearman': scores.over_ceiling(stored['spearman'], self._ceiling),
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
      The scores 'spearman', 'dice', 'iou' and 'top1', a row per image, and
      examples.

    Raises:
      labelled_images.BadDataError: a record cannot be used, or there is none.
    """
    size = (
      adapter.input_size
      if self._comparison_size is None
      else (self._comparison_size,) * 2
    )
    rows, examples = journal_lib.kept(journal), None
    resumed = bool(rows)
    if resumed:  # The pictures were in the memory of a process that ended.
      for batch in self._batches(adapter, size):
        maps, _ = self._explain(adapter, batch, size)
        examples = _extend(examples, batch, maps, size)
        if len(examples.images) == _EXAMPLES:
          break
    for batch in self._batches(adapter, size, start=len(rows)):
      maps, predictions = self._explain(adapter, batch, size)
      found = _rows(batch, maps, predictions)
      rows += found
      if journal:
        journal.add(found)
      if not resumed:
        examples = _extend(examples, batch, maps, size)
      progress(len(maps))
    if not rows:
      raise labelled_images.BadDataError(
        f'{self._source.input_path} holds no record.'
      )
    return self._result(adapter, rows, examples, size)

  def _batches(self, adapter, size, start: int = 0):
    return labelled_images.batches(
      self._source,
      adapter.input_size,
      size,
      adapter.scored_classes,
      self._batch_size,
      start,
    )

  def _explain(self, adapter, batch, size):
    """The model's maps at the comparison size, and its decisions."""
    inputs = adapter.preprocess(batch.images)
    one_pass = _OnePass(adapter, inputs)
    explain = explainers.get(self._explainer, one_pass.gradients)
    maps = explainers.explain(
      explain, inputs, batch.targets(adapter.scored_classes)
    )
    return resize_maps(maps, size), accuracy.predict(one_pass.logits())

  def _result(self, adapter, rows, examples, size) -> protocol.Result:
    """Scores from the rows of all images."""
    preprocessing = self._preprocessing(adapter, size)
    details = {
      'compared_at': list(size),
      'explainer': self._explainer,
      'limit': self._source.limit,
    }
    measured = [
      scores.score(
        metric,
        [row[metric] for row in rows],
        ceiling=self._ceiling if metric == 'spearman' else None,
        preprocessing=preprocessing,
        details=details,
      )
      for metric in METRICS
    ]
    top1, warnings = accuracy.measure(
      [row['prediction'] for row in rows],
      [row['label'] for row in rows],
      preprocessing=preprocessing,
      model_preprocessing=adapter.preprocessing,
      details={'limit': self._source.limit},
    )
    return protocol.Result(
      scores=[*measured, top1],
      rows=rows,
      warnings=warnings + _undefined(measured[0]),
      examples=examples,
    )

  def _preprocessing(self, adapter, size) -> str:
    """What became of images and maps before they were compared, in a line."""
    source, blurred = self._source, ''
    if source.blur:
      blurred = '64x64, 10x10 Gaussian of sigma 10{}, '.format(
        ' (centred)' if source.blur_kernel == 'centred' else ''
      )
    if source.resize() == 'antialias':
      blurred = f'antialiased, {blurred}'
    return (
      'whole image resized to {}x{} (bilinear); '.format(*adapter.input_size)
      + f'{adapter.preprocessing}; human map: {blurred}'
      + '{}x{}; model map: {}, {}x{}'.format(*size, self._explainer, *size)
    )


def _rows(batch, maps, predictions):
  """A row per image: where it is from, its decision and its scores."""
  rows = accuracy.decision_rows(batch, predictions)
  measured = numpy_metrics.alignment_scores(maps, batch.maps)
  for i, row in enumerate(rows):
    row.update({metric: float(measured[metric][i]) for metric in METRICS})
  return rows


def _extend(examples, batch, maps, size):
  """The first images of all batches, for pictures."""
  missing = _EXAMPLES - (0 if examples is None else len(examples.images))
  if missing <= 0:
    return examples
  shown = np.round(tf.image.resize(batch.images[:missing], size).numpy())
  new = protocol.Examples(
    np.clip(shown, 0, 255).astype(np.uint8),
    batch.maps[:missing],
    maps[:missing],
  )
  if examples is None:
    return new
  return protocol.Examples(
    *(
      np.concatenate([getattr(examples, name), getattr(new, name)])
      for name in ('images', 'human', 'model')
    )
  )


def _undefined(spearman: scores.Score) -> list[str]:
  """A warning where images have no score."""
  if not spearman.n_undefined:
    return []
  return [
    f'{spearman.n_undefined} of {spearman.n + spearman.n_undefined} images '
    "have no rank correlation, because the human or the model's map is "
    'constant or not finite: they are left out of the mean.'
  ]
