"""What cannot work, known once strategy and optimizer are."""

import functools

from absl import logging
from official.modeling import optimization
import tensorflow as tf
import tf_keras

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)

# Below as many images, their own batch statistics change saliency maps too
# much: docs/performance.md, "How many mapped images their own statistics need".
_ENOUGH_FOR_STATISTICS = 32


def check_strategy():
  """Refuses a strategy whose replicas do not meet.

  Raises:
    ValueError: this is one.
  """
  if isinstance(
    tf.distribute.get_strategy(),
    tf.distribute.experimental.ParameterServerStrategy,
  ):
    raise ValueError(
      'runtime.distribution_strategy is parameter_server: its workers do not '
      'wait for each other, but the loss counts the maps of all replicas and '
      'a score every image once. Use mirrored, multi_worker_mirrored or tpu, '
      'or set task.harmonization.enabled to False.'
    )


def check_optimizer(optimizer: tf_keras.optimizers.Optimizer):
  """Refuses what the host would leave out in silence.

  Args:
    optimizer: of the training.

  Raises:
    ValueError: it averages weights under a float16 loss scale.
  """
  inner = getattr(optimizer, 'inner_optimizer', None)
  if isinstance(inner, optimization.ExponentialMovingAverage):
    raise ValueError(
      'trainer.optimizer_config.ema is set and '
      'runtime.mixed_precision_dtype is float16: the host would leave the '
      'moving average out. Use bfloat16 or float32, or set ema to null.'
    )


def check_replicas(config: exp_cfg.HarmonizedImageClassificationTask):
  """Refuses what TensorFlow cannot do on several replicas.

  Args:
    config: of the task.

  Raises:
    ValueError: replicas would have to meet where not all of them come.
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
      f'{strategy.num_replicas_in_sync} replicas: other than on a TPU, '
      'replicas cannot meet in a part of the step that is not always run. '
      'Set one of the two back to 1 or False.'
    )


@functools.cache  # One warning per setting, whatever is traced how often.
def _warn_of_few_maps(mapped: int, counted: int):
  logging.warning(
    "task.harmonization.batch_norm is 'mapped', and batch statistics for the "
    'saliency maps are those of %d images (%d with a map in a replica); '
    'expected %d or more, since with fewer the maps change a good deal with '
    "the images beside them. Set batch_norm to 'inference', or use larger "
    'batches, a larger task.harmonization.mapped_fraction or '
    'task.model.norm_activation.use_sync_bn.',
    counted,
    mapped,
    _ENOUGH_FOR_STATISTICS,
  )


def check_statistics(
  config: exp_cfg.HarmonizedImageClassificationTask,
  model: tf_keras.Model,
  mapped: int,
):
  """Warns where few images have batch statistics of their own.

  Args:
    config: of the task.
    model: the network.
    mapped: images with a map in a replica's batch.
  """
  layers = [m for m in model.submodules if hasattr(m, 'moving_variance')]
  if config.harmonization.batch_norm != 'mapped' or not layers:
    return
  counted = mapped
  if all(getattr(layer, 'synchronized', False) for layer in layers):
    counted *= tf.distribute.get_strategy().num_replicas_in_sync
  if counted < _ENOUGH_FOR_STATISTICS:
    _warn_of_few_maps(mapped, counted)
