"""The harmonized image-classification task.

Read `train_step` from top to bottom: it is the whole method. What it does not
say is the stock task's.
"""

import math
from typing import Any

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
from official_ext.harmonization.dataloaders import labels as label_lib
from official_ext.harmonization.dataloaders import mapped_source
from official_ext.harmonization.dataloaders import mixing as mixing_lib
from official_ext.harmonization.dataloaders import pipelines
from official_ext.harmonization.dataloaders import plain_source
from official_ext.harmonization.dataloaders import sources
from official_ext.harmonization.losses import (
  harmonization as harmonization_losses,
)
from official_ext.harmonization.modeling import keras_application
from official_ext.harmonization.ops import double_backward
from official_ext.harmonization.ops import saliency as saliency_ops
from official_ext.harmonization.tasks import alignment_evaluation
from official_ext.harmonization.tasks import guards
from official_ext.harmonization.tasks import poison

_LOSS_METRICS = ('classification_loss', 'harmonization_loss')
_BAD_RECORDS = alignment_evaluation.BAD_RECORDS


@task_factory.register_task_cls(exp_cfg.HarmonizedImageClassificationTask)
class HarmonizedImageClassificationTask(
  image_classification.ImageClassificationTask
):
  """Image classification whose saliency is pulled towards human maps.

  With `task.harmonization.enabled` False this is the stock task, inputs and
  all. A batch is as `dataloaders.sources` describes it.
  """

  def __init__(self, params, *args, **kwargs):
    """Checks the configuration before anything is built.

    Args:
      params: a `configs.HarmonizedImageClassificationTask`.
      *args: of the host's task.
      **kwargs: of the host's task.

    Raises:
      ValueError: the configuration cannot work; see `configs.checks`.
    """
    task_checks.check(params)
    super().__init__(params, *args, **kwargs)
    self._harmonization = params.harmonization
    self._evaluation = None
    self.poison = None  # The `poison.Record` of training.
    if params.harmonization.enabled:
      guards.check_strategy()
      self._evaluation = alignment_evaluation.Evaluation(
        params, self.logging_dir
      )

  def initialize(self, model: tf_keras.Model):
    """Loads the weights that training starts from.

    Args:
      model: of `build_model`.
    """
    super().initialize(model)
    keras_application.initialize(model, self.task_config)

  # ---- Inputs ----

  def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
    """Builds the joint dataset of the two training or validation sources.

    Args:
      params: `task.train_data` or `task.validation_data`: which of the two is
        told by its `is_training`, and its batch size is that of both sources.
      input_context: of the distribution strategy.

    Returns:
      A dataset of batches as `dataloaders.sources` describes them.
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
    mapped = sources.mapped_rows(
      per_replica, self._harmonization.mapped_fraction
    )
    logging.info(
      "Mapped fraction: %d of the %d images of a replica's batch come from "
      'task.mapped_data, %.4g (task.harmonization.mapped_fraction is %g).',
      mapped,
      per_replica,
      mapped / per_replica,
      self._harmonization.mapped_fraction,
    )
    mapped_data = self._read_mapped(
      self.task_config.mapped_data.replace(
        global_batch_size=mapped * replicas,
        drop_remainder=True,
        enable_tf_data_service=params.enable_tf_data_service,
        tf_data_service_address=params.tf_data_service_address,
        # Jobs of one name would be taken for one and the same.
        tf_data_service_job_name=(f'{params.tf_data_service_job_name}_mapped'),
      ),
      input_context,
    )
    plain_data = None
    if mapped < per_replica:
      checks.require_source(params, 'task.train_data')
      plain_data = self._read_plain(
        params.replace(
          global_batch_size=(per_replica - mapped) * replicas,
          drop_remainder=True,
        ),
        input_context,
      )
    return sources.join_for_training(mapped_data, plain_data)

  def _build_validation_inputs(self, params, input_context):
    replicas = input_context.num_replicas_in_sync if input_context else 1
    per_replica = checks.per_replica_batch_size(
      params, 'task.validation_data', replicas
    )
    size = dict(
      global_batch_size=params.global_batch_size, drop_remainder=False
    )
    mapped_params = self.task_config.mapped_validation_data
    mapped = plain = None
    if checks.has_source(mapped_params):
      mapped = self._read_mapped(mapped_params.replace(**size), input_context)
    if checks.has_source(params):
      plain = self._read_plain(params.replace(**size), input_context)
    return sources.join_for_evaluation(
      mapped,
      plain,
      batch_size=per_replica,
      replicas=replicas // pipelines.count(input_context),
    )

  def _read_mapped(self, params, input_context):
    """Batches of images and {labels, heatmaps, heatmap_weights}."""
    return mapped_source.read(
      params,
      self.task_config.model,
      soft_labels=self.task_config.losses.soft_labels,
      input_context=input_context,
    )

  def _read_plain(self, params, input_context):
    """The host's batches of (images, labels), checked, labels unsmoothed."""
    field = 'train' if params.is_training else 'validation'
    classes = self.task_config.model.num_classes
    # Mixed labels no longer say which were wrong: the host mixes after that.
    dataset = label_lib.shift(
      plain_source.read(
        self, params.replace(mixup_and_cutmix=None), input_context
      ),
      classes,
      getattr(self.task_config, f'{field}_label_offset'),
      source=f'task.{field}_data ({params.input_path or params.tfds_name}, '
      f'task.{field}_label_offset)',
    )
    mixing = params.mixup_and_cutmix
    if mixing:
      draws = None
      if pipelines.number(input_context):
        draws = pipelines.draws(
          pipelines.own_seed(params, 'mixing', input_context)
        )
      dataset = mixing_lib.mix_unmapped(dataset, mixing, classes, draws)
    elif params.is_training and self.task_config.losses.soft_labels:
      dataset = dataset.map(
        lambda images, labels: (images, self._one_hot(labels))
      )
    return dataset.prefetch(tf.data.AUTOTUNE)

  # ---- Labels ----

  def _one_hot(self, labels: tf.Tensor) -> tf.Tensor:
    """Class numbers as one-hot rows; soft labels as they are."""
    if labels.dtype.is_floating:
      return labels
    return tf.one_hot(labels, self.task_config.model.num_classes)

  def _loss_labels(self, labels: tf.Tensor) -> tf.Tensor:
    """Labels as the stock `build_losses` wants them."""
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
      training: whether for training or for validation.

    Returns:
      Streaming metrics. A score is there only if the data to take it on are.
    """
    if not self._harmonization.enabled:
      return super().build_metrics(training)
    if training:
      self.poison = poison.Record()
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
    """Returns the names of what an evaluation logs: all that can be best."""
    names = {metric.name for metric in self.build_metrics(training=False)}
    if self._evaluation:
      return names | self._evaluation.report_logs()
    return names | {'validation_loss'}

  def process_metrics(self, metrics, labels, model_outputs, **kwargs):
    """Updates the stock training metrics; those of harmonization are apart."""
    super().process_metrics(
      [m for m in metrics if m.name not in (*_LOSS_METRICS, _BAD_RECORDS)],
      labels,
      model_outputs,
      **kwargs,
    )

  # ---- Steps ----

  def _weight(self, step: tf.Tensor) -> tf.Tensor:
    """The weight of the harmonization loss at a step."""
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
    """Does forward, saliency and backward.

    Args:
      inputs: images and batch, as `dataloaders.sources` describes them; with
        harmonization off, what the stock task takes.
      model: the network.
      optimizer: its optimizer.
      metrics: of `build_metrics(training=True)`.

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
      poison.record(self.poison, poison.marks(training_loss=logs[self.loss]))
      return logs

    guards.check_statistics(self.task_config, model, batch['heatmaps'].shape[0])
    labels = self._loss_labels(batch['labels'])
    # Outside of the conditional, in which replicas cannot meet.
    divide_by = harmonization_losses.denominator(
      batch['heatmap_weights'],
      self._harmonization.normalization,
      images.shape[0],
    )
    arguments = (images, batch, labels, divide_by, model, optimizer)
    interval = self._harmonization.interval
    with tf.init_scope():
      step = optimizer.iterations  # The first look may create the variable.
    if interval == 1:
      results = self._backward(*arguments, harmonize=True)
    else:
      results = tf.cond(
        step % interval == 0,
        lambda: self._backward(*arguments, harmonize=True),
        lambda: self._backward(*arguments, harmonize=False),
      )
    (
      gradients,
      logits,
      loss,
      classification,
      harmonization,
      measured,
      marked,
    ) = results
    optimizer.apply_gradients(list(zip(gradients, model.trainable_variables)))
    poison.record(self.poison, marked)

    if metrics:
      # As the stock step does: scores, unlike saliency, may be probabilities.
      scores = alignment_evaluation.outputs_of(logits, self.task_config.model)
      self.process_metrics(metrics, labels, scores)
      updates = dict(
        zip(_LOSS_METRICS, ((classification,), (harmonization, measured)))
      )
      for metric in metrics:
        if metric.name in updates:
          metric.update_state(*updates[metric.name])
    return {self.loss: loss}

  def _backward(
    self, images, batch, labels, divide_by, model, optimizer, harmonize
  ):
    """One forward and backward pass, with the harmonization loss or without.

    Returns:
      The gradients of the trainable variables, the logits, the whole loss and
      its two parts, whether the second was measured, and `poison.marks`.
    """
    options = self._harmonization
    float16 = isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
    harmonization = tf.constant(0.0)
    with tf.GradientTape() as tape:
      if harmonize:
        mapped = batch['heatmaps'].shape[0]
        logits, saliency, aux_losses = saliency_ops.training_maps(
          model,
          images,
          self._one_hot(batch['labels'])[:mapped],
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
      # A saliency that overflowed comes back as a gradient that is not finite:
      # the optimizer leaves the step out and lowers its scale, down to 1.
      lowers = optimizer.dynamic & (optimizer.loss_scale > 1.0)
      overflow = lowers & ~tf.math.is_finite(harmonization)
      loss = tf.where(overflow, classification, loss)
      harmonization = tf.where(overflow, 0.0, harmonization)
      measured &= ~overflow
    marked = poison.marks(
      lowers,
      regularization=aux_losses,
      logits=logits,
      classification_loss=classification,
      harmonization_loss=harmonization,
      gradients=gradients,
    )
    # The host's recovery looks at the loss, and has to see bad gradients too.
    loss = tf.where(tf.reduce_any(marked), math.nan, loss)
    return (
      gradients,
      logits,
      loss,
      classification,
      harmonization,
      measured,
      marked,
    )

  def validation_step(
    self,
    inputs: tuple[Any, Any],
    model: tf_keras.Model,
    metrics: list[Any] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Scores accuracy on plain batches, alignment and accuracy on mapped ones.

    Rows that only fill up a batch count nowhere.

    Args:
      inputs: images and batch, as `dataloaders.sources` describes them; with
        harmonization off, what the stock task takes.
      model: the network.
      metrics: of `build_metrics(training=False)`.

    Returns:
      A dictionary of logs: every image's scores, for
      `aggregate_logs`. All means are in metrics.
    """
    if not self._harmonization.enabled:
      return super().validation_step(inputs, model, metrics)
    _, batch = inputs
    return self._evaluation.step(
      inputs, self._one_hot(batch['labels']), model, metrics or []
    )

  def aggregate_logs(self, state=None, step_outputs=None):
    """Keeps every image's scores, on the host; see the host's task."""
    if self._evaluation:
      return self._evaluation.aggregate(state, step_outputs)
    return super().aggregate_logs(state, step_outputs)

  def reduce_aggregated_logs(self, aggregated_logs, global_step=None):
    """Reports on every image's scores, on the host; see the host's task."""
    if self._evaluation:
      return self._evaluation.reduce(aggregated_logs, global_step)
    return super().reduce_aggregated_logs(aggregated_logs, global_step)
