# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks that need the strategy, the optimizer or the network."""

import functools

from absl import logging
from official.modeling import optimization
import tensorflow as tf
import tf_keras

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)

# With fewer images, their batch statistics change saliency maps too much: see
# docs/performance.md, "How many images are enough for their own statistics".
_ENOUGH_FOR_STATISTICS = 32


def check_strategy():
  """Checks that the replicas of the current strategy work in step.

  Raises:
    ValueError: the strategy is ParameterServerStrategy.
  """
  if isinstance(
    tf.distribute.get_strategy(),
    tf.distribute.experimental.ParameterServerStrategy,
  ):
    raise ValueError(
      'runtime.distribution_strategy is parameter_server, whose workers do '
      'not wait for each other; expected mirrored, multi_worker_mirrored or '
      'tpu, since the loss counts the maps of all replicas and a score counts '
      'each image once. Choose one of them, or set '
      'task.harmonization.enabled to False.'
    )


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def check_optimizer(optimizer: tf_keras.optimizers.Optimizer):
  """Checks that Model Garden will update the moving average of the weights.

  Args:
    optimizer: the optimizer of the training.

  Raises:
    ValueError: weights are averaged under a float16 loss scale, where Model
      Garden silently skips the average.
  """
  inner = getattr(optimizer, 'inner_optimizer', None)
  if isinstance(inner, optimization.ExponentialMovingAverage):
    raise ValueError(
      'trainer.optimizer_config.ema is set and '
      'runtime.mixed_precision_dtype is float16, with which Model Garden '
      'skips the moving average; expected bfloat16 or float32, or ema null.'
    )


@tf.autograph.experimental.do_not_convert
def check_replicas(config: exp_cfg.HarmonizedImageClassificationTask):
  """Checks that replicas only communicate where all of them do.

  Args:
    config: the task's configuration.

  Raises:
    ValueError: synchronized batch normalization is inside a conditional, where
      only TPUs can synchronize.
  """
  strategy = tf.distribute.get_strategy()
  if (
    config.harmonization.interval > 1
    and strategy.num_replicas_in_sync > 1
    and not isinstance(strategy, tf.distribute.TPUStrategy)
    and config.model.norm_activation.use_sync_bn
  ):
    raise ValueError(
      f'task.harmonization.interval is {config.harmonization.interval} and '
      'task.model.norm_activation.use_sync_bn is True on '
      f'{strategy.num_replicas_in_sync} replicas; expected only one of them, '
      'since GPUs and CPUs cannot synchronize in a part of the step that does '
      'not always run. Set interval to 1 or use_sync_bn to False.'
    )


@functools.cache  # One warning per setting, however often a step is traced.
def _warn_of_few_maps(with_map: int, counted: int):
  logging.warning(
    "task.harmonization.batch_norm is 'mapped', and the batch statistics for "
    'saliency maps are those of %d images (%d with a map per replica); '
    'expected %d or more, since with fewer images the maps depend strongly on '
    "the rest of the batch. Set batch_norm to 'inference', or use larger "
    'batches, a larger task.harmonization.mapped_fraction or '
    'task.model.norm_activation.use_sync_bn.',
    counted,
    with_map,
    _ENOUGH_FOR_STATISTICS,
  )


@tf.autograph.experimental.do_not_convert
def check_statistics(
  config: exp_cfg.HarmonizedImageClassificationTask,
  model: tf_keras.Model,
  with_map: int,
):
  """Warns if batch statistics for saliency maps are those of few images.

  Args:
    config: the task's configuration.
    model: the network.
    with_map: number of images with a map in a replica's batch.
  """
  layers = [m for m in model.submodules if hasattr(m, 'moving_variance')]
  if config.harmonization.batch_norm != 'mapped' or not layers:
    return
  counted = with_map
  if all(getattr(layer, 'synchronized', False) for layer in layers):
    counted *= tf.distribute.get_strategy().num_replicas_in_sync
  if counted < _ENOUGH_FOR_STATISTICS:
    _warn_of_few_maps(with_map, counted)
