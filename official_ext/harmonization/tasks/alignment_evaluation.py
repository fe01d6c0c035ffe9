# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Evaluation of accuracy and human alignment, one batch at a time.

A batch has images that all have maps, or all have none. Each valid image counts
once.
"""

from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from official_ext.harmonization.configs import checks
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.evaluation import metrics as alignment_metrics
from official_ext.harmonization.evaluation import shuffled as shuffled_lib
from official_ext.harmonization.ops import saliency as saliency_ops
from official_ext.harmonization.tasks import alignment_report

BAD_RECORDS = 'bad_records'

_SCORES = alignment_metrics.ImageScores._fields


class Measured(NamedTuple):
  """What `measure` computes of a batch. Without maps, all but `logits` is 0.

  Attributes:
    logits: float32 (B, classes).
    with_map: float32 (B,), 1 if an image has a map and is valid.
    saliency: float32 (B, H, W), the maps of `logits_and_maps`.
    scores: (B,) each.
    ranks: (B, H * W) each.
  """

  logits: tf.Tensor
  with_map: tf.Tensor
  saliency: tf.Tensor
  scores: alignment_metrics.ImageScores
  ranks: alignment_metrics.UnitRanks


def explainer_words(harmonization: exp_cfg.Harmonization) -> str:
  """Describes the maps that an evaluation scores."""
  if harmonization.evaluation_explainer == 'gradient':
    return "gradient of the label's logit, abs_max over channels"
  return (
    f'{harmonization.evaluation_explainer}, '
    f'{harmonization.explainer_samples} samples'
  )


def logits_and_maps(
  model: tf_keras.Model,
  images: tf.Tensor,
  one_hot: tf.Tensor,
  records: tf.Tensor,
  harmonization: exp_cfg.Harmonization,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Computes logits and the maps that an evaluation scores.

  Args:
    model: the network.
    images: (B, H, W, 3).
    one_hot: float32 (B, classes), the labels.
    records: int32 (B, 2), as `dataloaders.joint_batches` describes them.
    harmonization: its `evaluation_explainer` is 'gradient' for the release's
      evaluation map, the largest magnitude of the gradient over colour
      channels, or 'smoothgrad_squared', whose cost is `explainer_samples`
      gradients and a forward pass.

  Returns:
    The logits (B, classes) and the maps (B, H, W), float32.
  """
  if harmonization.evaluation_explainer == 'gradient':
    return saliency_ops.saliency_maps(
      model, images, one_hot, reduction='abs_max', training=False
    )
  return saliency_ops.smoothgrad_squared(
    model,
    images,
    one_hot,
    records,
    samples=harmonization.explainer_samples,
  )


def measure(
  model: tf_keras.Model,
  images: tf.Tensor,
  one_hot: tf.Tensor,
  batch: Mapping[str, tf.Tensor],
  harmonization: exp_cfg.Harmonization,
) -> Measured:
  """Computes logits and, for a batch with maps, saliency maps and their scores.

  A batch without maps costs a forward pass.

  Args:
    model: the network.
    images: (B, H, W, 3).
    one_hot: float32 (B, classes), the labels.
    batch: as `dataloaders.joint_batches` describes it.
    harmonization: says which maps are scored.

  Returns:
    The results of all images, padding included.
  """

  def step_with_maps():
    logits, saliency = logits_and_maps(
      model, images, one_hot, batch['records'], harmonization
    )
    scores, ranks = alignment_metrics.scores_and_ranks(
      saliency, batch['heatmaps']
    )
    return Measured(logits, batch['valid'], saliency, scores, ranks)

  def step_without_maps():
    logits = tf.cast(model(images, training=False), tf.float32)
    zeros = tf.zeros_like(batch['valid'])
    saliency = tf.zeros_like(batch['heatmaps'])
    ranks = tf.reshape(saliency, [-1, math.prod(saliency.shape[1:])])
    return Measured(
      logits,
      zeros,
      saliency,
      alignment_metrics.ImageScores(*[zeros] * len(_SCORES)),
      alignment_metrics.UnitRanks(ranks, ranks),
    )

  has_maps = tf.reduce_any(batch['heatmap_weights'] > 0)
  return tf.cond(has_maps, step_with_maps, step_without_maps)


def outputs_of(logits: tf.Tensor, model_config) -> tf.Tensor:
  """Returns the outputs that the stock metrics use.

  Args:
    logits: float32 (B, classes).
    model_config: `task.model` of the configuration.

  Returns:
    Probabilities if `output_softmax` is set, otherwise the logits. Losses and
    saliency use the logits in both cases.
  """
  # Not every model configuration has the field.
  softmax = getattr(model_config, 'output_softmax', False)
  return tf.nn.softmax(logits, axis=-1) if softmax else logits


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def _alignment_updates(
  measured: Measured, labels: tf.Tensor
) -> dict[str, tuple[Any, ...]]:
  """Maps names of alignment metrics to the arguments of `update_state`."""
  logits, with_map, _, scores, ranks = measured
  undefined = tf.cast(tf.math.is_nan(scores.spearman), tf.float32)
  return {
    'clickme_accuracy': (labels, logits, with_map),
    'alignment': (scores.spearman, with_map),
    **{
      f'alignment_{name}': (values, with_map)
      for name, values in scores._asdict().items()
    },
    'alignment_shuffled': (ranks, scores.spearman, with_map),
    'alignment_specific': (),
    'alignment_n': (with_map * (1.0 - undefined),),
    'alignment_n_undefined': (with_map * undefined,),
  }


class Evaluation:
  """Evaluates both validation datasets, and reports."""

  def __init__(
    self, config: exp_cfg.HarmonizedImageClassificationTask, folder: str | None
  ):
    """Initializes the evaluation.

    Args:
      config: the task's configuration.
      folder: folder for the report's files; '' or None to write none.
    """
    self._config = config
    self._report = None
    if checks.has_source(config.mapped_validation_data):
      self._report = alignment_report.Report(config, folder)

  def build_metrics(
    self, stock_metrics: list[tf_keras.metrics.Metric]
  ) -> list[tf_keras.metrics.Metric]:
    """Builds the streaming metrics of the datasets that are configured.

    Args:
      stock_metrics: metrics of the stock task.

    Returns:
      The metrics of both datasets.
    """
    config, metrics = self._config, []
    if checks.has_source(config.validation_data):
      metrics += stock_metrics
      metrics.append(tf_keras.metrics.Mean('validation_loss', dtype=tf.float32))
      metrics.append(tf_keras.metrics.Sum('accuracy_n', dtype=tf.float32))
    if checks.has_source(config.mapped_validation_data):
      if config.mapped_validation_data.on_bad_record == 'skip':
        metrics.append(tf_keras.metrics.Sum(BAD_RECORDS, dtype=tf.float32))
      shuffled = shuffled_lib.ShuffledAlignment(
        math.prod(config.model.input_size[:2]), 'alignment_shuffled'
      )
      metrics += [
        tf_keras.metrics.SparseCategoricalAccuracy('clickme_accuracy'),
        alignment_metrics.AlignmentScore(
          'alignment', ceiling=self._report.ceiling
        ),
        *(
          alignment_metrics.AlignmentScore(f'alignment_{name}')
          for name in _SCORES
        ),
        shuffled,
        shuffled_lib.SpecificAlignment(shuffled, 'alignment_specific'),
        tf_keras.metrics.Sum('alignment_n', dtype=tf.float32),
        tf_keras.metrics.Sum('alignment_n_undefined', dtype=tf.float32),
      ]
    return metrics

  def report_logs(self) -> set[str]:
    """Returns the names of the logs that the report adds to the metrics."""
    return self._report.log_names() if self._report else set()

  def step(
    self,
    inputs: tuple[tf.Tensor, Mapping[str, tf.Tensor]],
    one_hot: tf.Tensor,
    model: tf_keras.Model,
    metrics: list[tf_keras.metrics.Metric],
  ) -> dict[str, Any]:
    """Scores one batch.

    Args:
      inputs: images and batch, as `dataloaders.joint_batches` describes them.
      one_hot: float32 (B, classes), the labels.
      model: the network.
      metrics: the result of `build_metrics`.

    Returns:
      Values for the report, which are collected on the CPU.
    """
    images, batch = inputs
    measured = measure(
      model, images, one_hot, batch, self._config.harmonization
    )
    logits, with_map, saliency, scores, _ = measured
    without_map = batch['valid'] - with_map
    updates = {
      'validation_loss': (self._losses(one_hot, logits, model), without_map),
      'accuracy_n': (without_map,),
      BAD_RECORDS: (batch['bad_records'],),
      **_alignment_updates(measured, batch['labels']),
    }
    losses = self._config.losses
    stock_labels = (
      one_hot if losses.one_hot or losses.soft_labels else batch['labels']
    )
    outputs = outputs_of(logits, self._config.model)
    for metric in metrics:
      metric.update_state(
        *updates.get(metric.name, (stock_labels, outputs, without_map))
      )
    if not self._report:
      return {}
    return self._report.step_logs(
      scores, images, saliency, logits, batch, with_map
    )

  def _losses(self, one_hot, logits, model):
    """Returns the stock validation loss per image."""
    losses = self._config.losses
    loss = tf_keras.losses.categorical_crossentropy(
      one_hot,
      logits,
      from_logits=True,
      label_smoothing=losses.label_smoothing if losses.one_hot else 0.0,
    )
    if model.losses:
      loss += tf.add_n(model.losses)
    return losses.loss_weight * loss

  def aggregate(self, state, step_outputs):
    """See `alignment_report.Report.aggregate`; None without with_map images."""
    return self._report and self._report.aggregate(state, step_outputs)

  def reduce(self, state, step):
    """Calls `alignment_report.Report.reduce`."""
    return self._report.reduce(state, step)
