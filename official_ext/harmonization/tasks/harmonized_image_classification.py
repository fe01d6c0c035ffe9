# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The harmonized image-classification task.

Read `train_step` from top to bottom: it is the whole method. Everything else is
the stock task.
"""

import math
from typing import Any, NamedTuple

from absl import logging
from official.core import task_factory
from official.vision.tasks import image_classification
import tensorflow as tf
import tf_keras

from official_ext.harmonization.configs import checks
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.configs import task_checks
from official_ext.harmonization.dataloaders import images_with_maps
from official_ext.harmonization.dataloaders import images_without_maps
from official_ext.harmonization.dataloaders import joint_batches
from official_ext.harmonization.dataloaders import labels as label_lib
from official_ext.harmonization.dataloaders import mixing as mixing_lib
from official_ext.harmonization.dataloaders import pipelines
from official_ext.harmonization.losses import (
  harmonization as harmonization_losses,
)
from official_ext.harmonization.modeling import keras_application
from official_ext.harmonization.ops import double_backward
from official_ext.harmonization.ops import saliency as saliency_ops
from official_ext.harmonization.tasks import alignment_evaluation
from official_ext.harmonization.tasks import guards
from official_ext.harmonization.tasks import nonfinite

_LOSS_METRICS = ('classification_loss', 'harmonization_loss')
_BAD_RECORDS = alignment_evaluation.BAD_RECORDS


class _BackwardPass(NamedTuple):
  """Results of `_backward`.

  Attributes:
    gradients: of the trainable variables, unscaled.
    logits: float32 (B, classes).
    loss: the whole loss, NaN if anything is not finite.
    classification_loss: the stock loss.
    harmonization_loss: 0 in steps without it.
    is_measured: bool scalar, whether the harmonization loss was computed.
    nonfinite: the result of `nonfinite.marks`.
  """

  gradients: list[tf.Tensor]
  logits: tf.Tensor
  loss: tf.Tensor
  classification_loss: tf.Tensor
  harmonization_loss: tf.Tensor
  is_measured: tf.Tensor
  nonfinite: tf.Tensor


@task_factory.register_task_cls(exp_cfg.HarmonizedImageClassificationTask)
class HarmonizedImageClassificationTask(
  image_classification.ImageClassificationTask
):
  """Image classification whose saliency maps are trained to match human maps.

  With `task.harmonization.enabled` False this is the stock task, including its
  inputs. Otherwise batches are as `dataloaders.joint_batches` describes them.
  """

  def __init__(self, params, *args, **kwargs):
    """Checks the configuration before anything is built.

    Args:
      params: a `configs.HarmonizedImageClassificationTask`.
      *args: arguments of the stock task.
      **kwargs: arguments of the stock task.

    Raises:
      ValueError: the configuration is invalid; see `configs.task_checks`.
    """
    task_checks.check(params)
    super().__init__(params, *args, **kwargs)
    self._harmonization = params.harmonization
    self._evaluation = None
    self.nonfinite = None  # A `nonfinite.Record`, made by `build_metrics`.
    if params.harmonization.enabled:
      guards.check_strategy()
      self._evaluation = alignment_evaluation.Evaluation(
        params, self.logging_dir
      )

  def initialize(self, model: tf_keras.Model):
    """Loads the weights that training starts from.

    Args:
      model: the result of `build_model`.
    """
    super().initialize(model)
    keras_application.initialize(model, self.task_config)

  # ---- Inputs ----

  def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
    """Builds the joint dataset of images with and without maps.

    Args:
      params: `task.train_data` or `task.validation_data`. Its `is_training`
        decides which pair of datasets is read, and its batch size is theirs.
      input_context: `tf.distribute.InputContext`, if there is a strategy.

    Returns:
      A dataset of batches as `dataloaders.joint_batches` describes them.
    """
    if not self._harmonization.enabled:
      return super().build_inputs(params, input_context)
    if params.is_training:
      return self._build_training_inputs(params, input_context)
    return self._build_validation_inputs(params, input_context)

  def _build_training_inputs(self, params, input_context):
    replicas = input_context.num_replicas_in_sync if input_context else 1
    per_replica = checks.per_replica_batch_size(
      params, 'task.train_data', replicas
    )
    checks.require_source(self.task_config.mapped_data, 'task.mapped_data')
    with_map = joint_batches.rows_with_map(
      per_replica, self._harmonization.mapped_fraction
    )
    logging.info(
      "%d of the %d images of a replica's batch come from task.mapped_data, a "
      'fraction of %.4g (task.harmonization.mapped_fraction is %g).',
      with_map,
      per_replica,
      with_map / per_replica,
      self._harmonization.mapped_fraction,
    )
    images_with_map = self._read_with_maps(
      self.task_config.mapped_data.replace(
        global_batch_size=with_map * replicas,
        drop_remainder=True,
        enable_tf_data_service=params.enable_tf_data_service,
        tf_data_service_address=params.tf_data_service_address,
        # The service would merge two jobs of the same name.
        tf_data_service_job_name=(f'{params.tf_data_service_job_name}_mapped'),
      ),
      input_context,
    )
    images_without_map = None
    if with_map < per_replica:
      checks.require_source(params, 'task.train_data')
      images_without_map = self._read_without_maps(
        params.replace(
          global_batch_size=(per_replica - with_map) * replicas,
          drop_remainder=True,
        ),
        input_context,
      )
    return joint_batches.join_for_training(images_with_map, images_without_map)

  def _build_validation_inputs(self, params, input_context):
    replicas = input_context.num_replicas_in_sync if input_context else 1
    per_replica = checks.per_replica_batch_size(
      params, 'task.validation_data', replicas
    )
    size = dict(
      global_batch_size=params.global_batch_size, drop_remainder=False
    )
    mapped_params = self.task_config.mapped_validation_data
    with_map = without_map = None
    if checks.has_source(mapped_params):
      with_map = self._read_with_maps(
        mapped_params.replace(**size), input_context
      )
    if checks.has_source(params):
      without_map = self._read_without_maps(
        params.replace(**size), input_context
      )
    return joint_batches.join_for_evaluation(
      with_map,
      without_map,
      batch_size=per_replica,
      replicas=replicas // pipelines.count(input_context),
    )

  def _read_with_maps(self, params, input_context):
    """Reads batches of images and {labels, heatmaps, heatmap_weights}."""
    return images_with_maps.read(
      params,
      self.task_config.model,
      soft_labels=self.task_config.losses.soft_labels,
      input_context=input_context,
    )

  def _read_without_maps(self, params, input_context):
    """Reads Model Garden's batches of (images, labels), labels unsmoothed."""
    field = 'train' if params.is_training else 'validation'
    classes = self.task_config.model.num_classes
    # Labels are checked before they are mixed, since a mixed label no longer
    # shows that a class was out of range.
    dataset = label_lib.shift(
      images_without_maps.read(
        self, params.replace(mixup_and_cutmix=None), input_context
      ),
      classes,
      getattr(self.task_config, f'{field}_label_offset'),
      name=f'task.{field}_data ({params.input_path or params.tfds_name}, '
      f'task.{field}_label_offset)',
    )
    mixing = params.mixup_and_cutmix
    if mixing:
      seeds = None
      if pipelines.number(input_context):
        seeds = pipelines.example_seeds(
          pipelines.own_seed(params, 'mixing', input_context)
        )
      dataset = mixing_lib.mix_without_maps(dataset, mixing, classes, seeds)
    elif params.is_training and self.task_config.losses.soft_labels:
      dataset = dataset.map(
        lambda images, labels: (images, self._one_hot(labels))
      )
    return dataset.prefetch(tf.data.AUTOTUNE)

  # ---- Labels ----

  def _one_hot(self, labels: tf.Tensor) -> tf.Tensor:
    """Converts class numbers to one-hot rows; keeps soft labels."""
    if labels.dtype.is_floating:
      return labels
    return tf.one_hot(labels, self.task_config.model.num_classes)

  def _loss_labels(self, labels: tf.Tensor) -> tf.Tensor:
    """Converts labels to those that the stock `build_losses` expects."""
    losses = self.task_config.losses
    if losses.soft_labels:
      smoothing = exp_cfg.label_smoothing(self.task_config)
      classes = self.task_config.model.num_classes
      return self._one_hot(labels) * (1.0 - smoothing) + smoothing / classes
    return self._one_hot(labels) if losses.one_hot else labels

  # ---- Metrics ----

  def build_metrics(
    self, training: bool = True
  ) -> list[tf_keras.metrics.Metric]:
    """Builds the stock metrics and those of harmonization.

    Args:
      training: whether the metrics are for training or for validation.

    Returns:
      Streaming metrics. Those of a validation dataset are only built if the
      configuration names its data.
    """
    if not self._harmonization.enabled:
      return super().build_metrics(training)
    if training:
      self.nonfinite = nonfinite.Record()
      metrics = super().build_metrics(training)
      if self.task_config.mapped_data.on_bad_record == 'skip':
        metrics.append(tf_keras.metrics.Sum(_BAD_RECORDS, dtype=tf.float32))
      if self._harmonization.weight:
        metrics += [
          tf_keras.metrics.Mean(name, dtype=tf.float32)
          for name in _LOSS_METRICS
        ]
      return metrics
    return self._evaluation.build_metrics(super().build_metrics(training))

  def evaluation_logs(self) -> set[str]:
    """Returns the names of all metrics that an evaluation logs."""
    names = {metric.name for metric in self.build_metrics(training=False)}
    if self._evaluation:
      return names | self._evaluation.report_logs()
    return names | {'validation_loss'}

  def process_metrics(self, metrics, labels, model_outputs, **kwargs):
    """Updates the stock training metrics, and only those."""
    super().process_metrics(
      [m for m in metrics if m.name not in (*_LOSS_METRICS, _BAD_RECORDS)],
      labels,
      model_outputs,
      **kwargs,
    )

  # ---- Steps ----

  def _weight(self, step: tf.Tensor) -> tf.Tensor:
    """Returns the weight of the harmonization loss at a step."""
    weight = tf.constant(self._harmonization.weight, tf.float32)
    if self._harmonization.warmup_steps:
      weight *= tf.minimum(
        1.0, tf.cast(step, tf.float32) / self._harmonization.warmup_steps
      )
    return weight

  def train_step(
    self,
    inputs: tuple[Any, Any],
    model: tf_keras.Model,
    optimizer: tf_keras.optimizers.Optimizer,
    metrics: list[Any] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Takes one training step: forward, saliency, backward, update.

    Args:
      inputs: images and batch, as `dataloaders.joint_batches` describes them;
        the stock task's inputs if harmonization is disabled.
      model: the network.
      optimizer: the optimizer of its variables.
      metrics: the result of `build_metrics(training=True)`.

    Returns:
      A dictionary of logs.
    """
    if not self._harmonization.enabled:
      return super().train_step(inputs, model, optimizer, metrics)
    images, batch = inputs
    guards.check_optimizer(optimizer)
    guards.check_replicas(self.task_config)
    for metric in metrics or []:
      if metric.name == _BAD_RECORDS:
        metric.update_state(batch['bad_records'])
    if not self._harmonization.weight:
      stock_labels = (
        self._loss_labels(batch['labels'])
        if self.task_config.losses.soft_labels
        else batch['labels']
      )
      logs = super().train_step(
        (images, stock_labels), model, optimizer, metrics
      )
      nonfinite.record(
        self.nonfinite, nonfinite.marks(training_loss=logs[self.loss])
      )
      return logs

    guards.check_statistics(self.task_config, model, batch['heatmaps'].shape[0])
    labels = self._loss_labels(batch['labels'])
    # It sums over replicas, which cannot communicate inside a conditional.
    divide_by = harmonization_losses.denominator(
      batch['heatmap_weights'],
      self._harmonization.normalization,
      images.shape[0],
    )
    arguments = (images, batch, labels, divide_by, model, optimizer)
    interval = self._harmonization.interval
    with tf.init_scope():
      step = optimizer.iterations  # The first access creates the variable.
    if interval == 1:
      backward = self._backward(*arguments, harmonize=True)
    else:
      backward = tf.cond(
        step % interval == 0,
        lambda: self._backward(*arguments, harmonize=True),
        lambda: self._backward(*arguments, harmonize=False),
      )
    optimizer.apply_gradients(
      list(zip(backward.gradients, model.trainable_variables))
    )
    nonfinite.record(self.nonfinite, backward.nonfinite)

    if metrics:
      # As in the stock step, metrics may use probabilities; saliency never
      # does.
      scores = alignment_evaluation.outputs_of(
        backward.logits, self.task_config.model
      )
      self.process_metrics(metrics, labels, scores)
      updates = {
        'classification_loss': (backward.classification_loss,),
        # The second argument is a weight: steps without the loss do not count.
        'harmonization_loss': (
          backward.harmonization_loss,
          backward.is_measured,
        ),
      }
      for metric in metrics:
        if metric.name in updates:
          metric.update_state(*updates[metric.name])
    return {self.loss: backward.loss}

  def _backward(
    self, images, batch, labels, divide_by, model, optimizer, harmonize
  ) -> _BackwardPass:
    """Runs a forward and backward pass, optionally with harmonization loss."""
    options = self._harmonization
    float16 = isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
    harmonization = tf.constant(0.0)
    with tf.GradientTape() as tape:
      if harmonize:
        with_map = batch['heatmaps'].shape[0]
        logits, saliency, aux_losses = saliency_ops.training_maps(
          model,
          images,
          self._one_hot(batch['labels'])[:with_map],
          batch_norm=options.batch_norm,
          reduction=options.saliency,
          saliency_target=options.saliency_target,
          loss_scale=optimizer.loss_scale if float16 else None,
        )
        harmonization = harmonization_losses.harmonization_loss(
          saliency,
          batch['heatmaps'],
          batch['heatmap_weights'],
          levels=options.levels,
          standardization=options.standardization,
          divide_by=divide_by,
        )
      else:
        logits = tf.cast(model(images, training=True), tf.float32)
        aux_losses = model.losses
      classification = self.build_losses(
        labels=labels, model_outputs=logits, aux_losses=aux_losses
      )
      weight = options.interval * self._weight(optimizer.iterations)
      loss = classification + weight * harmonization
      # The optimizer sums gradients over replicas.
      scaled_loss = loss / tf.distribute.get_strategy().num_replicas_in_sync
      if float16:
        scaled_loss = optimizer.get_scaled_loss(scaled_loss)
    gradients = double_backward.gradients(tape, scaled_loss, model)
    measured, lowers = tf.constant(harmonize), tf.constant(False)
    if float16:
      gradients = optimizer.get_unscaled_gradients(gradients)
      # If the saliency overflowed, the gradients are not finite either. The
      # optimizer then skips the step and lowers its scale, down to 1, so this
      # is not an error.
      lowers = optimizer.dynamic & (optimizer.loss_scale > 1.0)
      overflow = lowers & ~tf.math.is_finite(harmonization)
      loss = tf.where(overflow, classification, loss)
      harmonization = tf.where(overflow, 0.0, harmonization)
      measured &= ~overflow
    marked = nonfinite.marks(
      lowers,
      regularization=aux_losses,
      logits=logits,
      classification_loss=classification,
      harmonization_loss=harmonization,
      gradients=gradients,
    )
    # Model Garden's recovery reads only the loss, so bad gradients must show
    # in it.
    loss = tf.where(tf.reduce_any(marked), math.nan, loss)
    return _BackwardPass(
      gradients=gradients,
      logits=logits,
      loss=loss,
      classification_loss=classification,
      harmonization_loss=harmonization,
      is_measured=measured,
      nonfinite=marked,
    )

  def validation_step(
    self,
    inputs: tuple[Any, Any],
    model: tf_keras.Model,
    metrics: list[Any] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Measures accuracy on all batches, and alignment on those with maps.

    Padding rows do not count.

    Args:
      inputs: images and batch, as `dataloaders.joint_batches` describes them;
        the stock task's inputs if harmonization is disabled.
      model: the network.
      metrics: the result of `build_metrics(training=False)`.

    Returns:
      The scores of each image, for `aggregate_logs`. Means are in `metrics`.
    """
    if not self._harmonization.enabled:
      return super().validation_step(inputs, model, metrics)
    _, batch = inputs
    return self._evaluation.step(
      inputs, self._one_hot(batch['labels']), model, metrics or []
    )

  def aggregate_logs(self, state=None, step_outputs=None):
    """Collects the scores of each image, on the CPU."""
    if self._evaluation:
      return self._evaluation.aggregate(state, step_outputs)
    return super().aggregate_logs(state, step_outputs)

  def reduce_aggregated_logs(self, aggregated_logs, global_step=None):
    """Reports the scores of each image, on the CPU."""
    if self._evaluation:
      return self._evaluation.reduce(aggregated_logs, global_step)
    return super().reduce_aggregated_logs(aggregated_logs, global_step)
