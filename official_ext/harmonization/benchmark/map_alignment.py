# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Alignment of a model's maps with human maps, batch by batch.

A model's map of each image is compared with the human map: Spearman's rank
correlation with average ranks, and Dice and IoU of both maps cut strictly above
their 90th percentile (Fel et al., NeurIPS 2022; `harmonization` 0.0.9,
`evaluation/clickme.py`).
"""

from collections.abc import Mapping, Sequence
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import accuracy
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import scores

METRICS = ('spearman', 'dice', 'iou')
_EXAMPLES = 6


class OnePass:
  """A network for explainers that keeps the logits of one batch.

  The pass that computes the gradients of that batch also computes its logits.
  """

  def __init__(self, adapter, inputs: np.ndarray):
    """Initializes it.

    Args:
      adapter: of the model.
      inputs: float32 (B, h, w, 3), whose logits are kept.
    """
    self._adapter = adapter
    self._inputs = inputs
    self._logits = None

  def __getattr__(self, name: str) -> Any:
    """Returns what else the adapter has, such as `activations`."""
    return getattr(self._adapter, name)

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns gradients of the labels' logits, (B, h, w, 3)."""
    if inputs is not self._inputs:
      return self._adapter.gradients(inputs, labels)
    self._logits, gradients = self._adapter.logits_and_gradients(inputs, labels)
    return gradients

  def logits(self, inputs: np.ndarray) -> np.ndarray:
    """Returns logits, (B, C); those that are kept are computed only once."""
    if inputs is not self._inputs:
      return self._adapter.logits(inputs)
    if self._logits is None:
      self._logits = self._adapter.logits(self._inputs)
    return self._logits


def resize_maps(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes maps (bilinear); maps that have the size already do not change.

  Args:
    maps: float (B, H, W).
    size: (height, width).

  Returns:
    float32 (B, height, width).
  """
  maps = np.asarray(maps, np.float32)
  return tf.image.resize(maps[..., np.newaxis], size).numpy()[..., 0]


def explain(
  adapter,
  batch: labelled_images.Batch,
  explainer: str,
  size: Sequence[int],
  **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
  """Computes a model's maps and predictions in one pass where possible.

  Args:
    adapter: of the model.
    batch: the images.
    explainer: its name, see `explainers.get`.
    size: (height, width) of the maps.
    **options: of the explainer.

  Returns:
    Maps, float32 (B, height, width), and predicted classes, int64 (B,).

  Raises:
    ValueError: a logit is NaN.
  """
  inputs = adapter.preprocess(batch.images)
  one_pass = OnePass(adapter, inputs)
  maps = explainers.explain(
    explainers.get(explainer, one_pass, **options),
    inputs,
    batch.targets(adapter.scored_classes),
  )
  return resize_maps(maps, size), accuracy.predict(one_pass.logits(inputs))


def rows(
  batch: labelled_images.Batch,
  maps: np.ndarray | None,
  predictions: np.ndarray | None,
) -> list[dict[str, Any]]:
  """Compares maps with the human maps.

  Args:
    batch: the images with human maps (B, H, W).
    maps: the model's maps, of the same shape, or None.
    predictions: int (B,), the model's classes, or None.

  Returns:
    A row per image: file, record, name, pixels (a digest), label, prediction,
    correct, spearman, dice, iou and map_extent, the part of the image that the
    human map covers (`numpy_metrics.extents`). A control has no predictions,
    and one that is made of human maps has no scores yet.
  """
  found = accuracy.decision_rows(batch, predictions)
  for row, name, image in zip(found, batch.names or (), batch.images):
    row['name'] = name
    row['pixels'] = hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()
  recorded = batch.unblurred
  if recorded is None:
    recorded = batch.human_maps()
  for row, extent in zip(found, numpy_metrics.extents(recorded)):
    row['map_extent'] = float(extent)
  if maps is None:
    return found
  measured = numpy_metrics.alignment_scores(maps, batch.human_maps())
  for i, row in enumerate(found):
    row.update({metric: float(measured[metric][i]) for metric in METRICS})
  return found


def measure(
  found: Sequence[Mapping[str, Any]],
  *,
  ceiling: float | None,
  preprocessing: str,
  details: Mapping[str, Any],
) -> tuple[list[scores.Score], list[str]]:
  """Averages the rows of all images.

  Args:
    found: rows of `rows`.
    ceiling: the mean rank correlation that counts as 1, or None.
    preprocessing: of the images and maps, in one line.
    details: further facts about the scores.

  Returns:
    The scores 'spearman', 'dice' and 'iou', and warnings.
  """
  made = [
    scores.score(
      metric,
      [row[metric] for row in found],
      ceiling=ceiling if metric == 'spearman' else None,
      preprocessing=preprocessing,
      details=details,
    )
    for metric in METRICS
  ]
  spearman = made[0]
  if not spearman.n_undefined:
    return made, []
  return made, [
    f'{spearman.n_undefined} of {len(found)} images have no rank correlation, '
    "because the human or the model's map is constant or not finite. They are "
    'excluded from the mean.'
  ]


def extend_examples(
  examples: results.Examples | None,
  batch: labelled_images.Batch,
  maps: np.ndarray | None,
  size: Sequence[int],
) -> results.Examples | None:
  """Adds images of a batch until there are six.

  Args:
    examples: of the batches before; None for the first.
    batch: the images with human maps.
    maps: the model's maps, or None for a control without maps.
    size: (height, width) of the maps, to which images are resized.

  Returns:
    The examples.
  """
  if maps is None:
    return None
  missing = _EXAMPLES - (0 if examples is None else len(examples.images))
  if examples is not None and missing <= 0:
    return examples
  shown = np.round(tf.image.resize(batch.images[:missing], size).numpy())
  new = results.Examples(
    np.clip(shown, 0, 255).astype(np.uint8),
    batch.human_maps()[:missing],
    maps[:missing],
  )
  if examples is None:
    return new
  return results.Examples(
    np.concatenate([examples.images, new.images]),
    np.concatenate([examples.human, new.human]),
    np.concatenate([examples.model, new.model]),
  )


def has_all_examples(examples: results.Examples | None) -> bool:
  """Whether there are six examples."""
  return examples is not None and len(examples.images) >= _EXAMPLES
