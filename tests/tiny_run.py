# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Runs Model Garden's trainer for seconds: four images, two layers."""

import tensorflow as tf
import tf_keras

from official_ext.harmonization import runner
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures


def good_batch():
  """A training batch, as `dataloaders.joint_batches` describes it."""
  return tf.random.stateless_normal([4, 16, 16, 3], [1, 2]), {
    'labels': tf.range(4) % fixtures.CLASSES,
    'heatmaps': tf.random.stateless_uniform([4, 16, 16], [3, 4]) ** 3,
    'heatmap_weights': tf.ones([4]),
    'valid': tf.ones([4]),
  }


def network(activation='swish'):
  """Returns a network of two regularized layers: convolution and dense."""
  layers = tf_keras.layers
  l2 = tf_keras.regularizers.L2(1e-3)
  return tf_keras.Sequential(
    [
      tf_keras.Input([16, 16, 3]),
      layers.Conv2D(4, 3, use_bias=False, kernel_regularizer=l2),
      layers.Activation(activation),
      layers.GlobalAveragePooling2D(),
      layers.Dense(fixtures.CLASSES, kernel_regularizer=l2),
    ]
  )


class Task(task_lib.HarmonizedImageClassificationTask):
  """The task on `good_batch`, except for some steps.

  Attributes:
    batches: other batches, by step, counted from 1 in the order in which the
      process reads them.
    make_network: function that builds the network.
  """

  def __init__(self, params, batches=None, make_network=network):
    super().__init__(params)
    self.batches = batches or {}
    self.make_network = make_network

  def build_model(self):
    return self.make_network()

  def build_inputs(self, params, input_context=None):
    harmonized = self.task_config.harmonization.enabled
    dataset = None
    for step in range(1, max(self.batches, default=0) + 2):
      images, batch = self.batches.get(step, good_batch())
      one = tf.data.Dataset.from_tensor_slices(
        (images, batch if harmonized else batch['labels'])
      )
      dataset = one if dataset is None else dataset.concatenate(one)
    if params.is_training:
      dataset = dataset.concatenate(one.repeat())
    rows = (
      4
      if input_context is None
      else (input_context.get_per_replica_batch_size(4))
    )
    return dataset.batch(rows, drop_remainder=True)

  def build_metrics(self, training=True):
    return super().build_metrics(training=True) if training else []

  def validation_step(self, inputs, model, metrics=None):
    return {self.loss: tf.reduce_mean(model(inputs[0], training=False) ** 2)}

  def aggregate_logs(self, state=None, step_outputs=None):
    return None


def make_runner(
  model_dir,
  trainer,
  batches=None,
  make_network=network,
  strategy=None,
  mode='train',
  harmonization=None,
  **actions,
):
  """Builds a runner.

  Args:
    model_dir: folder of the run.
    trainer: values to override in the configuration of the trainer.
    batches: see `Task`.
    make_network: see `Task`.
    strategy: one CPU by default.
    mode: mode of Model Garden's runner.
    harmonization: fields of `Harmonization`.
    **actions: `train_actions` and `eval_actions` of Model Garden's runner.

  Returns:
    A `runner.Runner`.
  """
  config = fixtures.experiment(**(harmonization or {}))
  config.trainer.override(
    {
      'steps_per_loop': 4,
      'summary_interval': 4,
      'checkpoint_interval': 4,
      'optimizer_config': {
        'optimizer': {'type': 'sgd', 'sgd': {'momentum': 0.9}},
        'learning_rate': {
          'type': 'constant',
          'constant': {'learning_rate': 0.01},
        },
        'warmup': {'type': None},
      },
    }
  )
  config.trainer.override(trainer)
  tf_keras.utils.set_random_seed(0)
  strategy = strategy or tf.distribute.OneDeviceStrategy('CPU:0')
  with strategy.scope():
    task = Task(config.task, batches, make_network)
  return runner.Runner(strategy, task, mode, config, model_dir, **actions)


def train(model_dir):
  """Trains 12 steps with a moving average of the weights."""
  runner.seed_at(
    0, runner.step_to_resume(model_dir), fixtures.experiment().task
  )
  make_runner(
    model_dir,
    {
      'train_steps': 12,
      'steps_per_loop': 1,
      'summary_interval': 1,
      'checkpoint_interval': 2,
      'validation_interval': 4,
      'max_to_keep': 99,
      'optimizer_config': {'ema': {'average_decay': 0.9}},
    },
    mode='train_and_eval',
    harmonization={'interval': 2, 'warmup_steps': 8},
  ).run()
