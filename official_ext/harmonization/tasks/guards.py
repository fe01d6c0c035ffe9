"""What cannot work, known once strategy and optimizer are."""

import tensorflow as tf, tf_keras

from official.modeling import optimization
from official_ext.harmonization.configs import (
    harmonized_image_classification as exp_cfg)


def check_strategy():
  """Refuses a strategy whose replicas do not meet.

  Raises:
    ValueError: this is one.
  """
  if isinstance(tf.distribute.get_strategy(),
                tf.distribute.experimental.ParameterServerStrategy):
    raise ValueError(
        'runtime.distribution_strategy is parameter_server: its workers do not '
        'wait for each other, but the loss counts the maps of all replicas and '
        'a score every image once. Use mirrored, multi_worker_mirrored or tpu, '
        'or set task.harmonization.enabled to False.')


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
        'moving average out. Use bfloat16 or float32, or set ema to null.')


def check_replicas(config: exp_cfg.HarmonizedImageClassificationTask):
  """Refuses what TensorFlow cannot do on several replicas.

  Args:
    config: of the task.

  Raises:
    ValueError: replicas would have to meet where not all of them come.
  """
  strategy = tf.distribute.get_strategy()
  if (config.harmonization.interval > 1 and
      strategy.num_replicas_in_sync > 1 and
      not isinstance(strategy, tf.distribute.TPUStrategy) and
      config.model.norm_activation.use_sync_bn):
    raise ValueError(
        f'task.harmonization.interval is {config.harmonization.interval} and '
        'task.model.norm_activation.use_sync_bn is True on '
        f'{strategy.num_replicas_in_sync} replicas: other than on a TPU, '
        'replicas cannot meet in a part of the step that is not always run. '
        'Set one of the two back to 1 or False.')
