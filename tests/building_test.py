# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that a setting with which nothing can be built is named."""

# Bazel: tags = ["training"]

from unittest import mock

from absl.testing import parameterized
import tensorflow as tf
import tf_keras

from official_ext.harmonization import building
from official_ext.harmonization import experiment_parser
from testing import fixtures


def _check(parts, **settings):
  """Builds parts of a tiny experiment with changed settings."""
  code = fixtures.experiment()
  params = code.replace()
  experiment_parser.override(params, settings, 'test')
  building.check(params, code, parts)


class CheckTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(
    (
      {'model': {'backbone': {'resnet': {'model_id': 11}}}},
      'task.model.backbone.resnet.model_id is 11, with which the network '
      f'cannot be built .*default, {fixtures.RESNET}',
    ),
    (
      {
        'model': {
          'backbone': {'type': 'mobilenet', 'mobilenet': {'model_id': 'x'}}
        }
      },
      "task.model.backbone.mobilenet.model_id is 'x', with which the network",
    ),
    (
      {
        'model': {
          'norm_activation': {'activation': 'rulo'},
          'dropout_rate': 0.1,
        }
      },
      "task.model.norm_activation.activation is 'rulo'.*default, 'relu'",
    ),
    (
      {'losses': {'one_hot': False}, 'model': {'kernel_initializer': 'x'}},
      "task.model.kernel_initializer is 'x'",
    ),
    ({'model': {'num_classes': 1}}, 'task.model.num_classes is 1; expected'),
  )
  def test_the_network(self, task, message):
    with self.assertRaisesRegex(ValueError, f'^{message}'):
      _check(building.NETWORK, task=task)

  @parameterized.parameters(
    (
      {'optimizer': {'sgd': {'momentum': 3.0}}},
      r'trainer.optimizer_config.optimizer.sgd.momentum is 3.0, .*\[0, 1\].*'
      'default, 0.9',
    ),
    (
      {'learning_rate': {'step_cosine_with_offset': {'values': [0.1]}}},
      r'trainer.optimizer_config.learning_rate.step_cosine_with_offset.values '
      r'is \[0.1\], with which the learning rate is not defined',
    ),
    (
      {
        'learning_rate': {
          'step_cosine_with_offset': {'boundaries': [0, 10, 20, 30, 40]}
        }
      },
      r'trainer.optimizer_config.learning_rate.step_cosine_with_offset.bounda'
      r'ries is \[0, 10, .*the learning rate of step \d+ would be nan',
    ),
  )
  def test_the_optimizer(self, changes, message):
    with self.assertRaisesRegex(ValueError, f'^{message}') as caught:
      _check(
        [
          p
          for p in building.ALL
          if 'learning' in p.fault or 'optimizer' in p.fault
        ],
        trainer={'optimizer_config': changes},
      )
    self.assertNotIn('0x', str(caught.exception))

  def test_the_data(self):
    with self.assertRaisesRegex(
      ValueError,
      "^task.mapped_data.file_type is 'csv', with which training "
      "data cannot be read .*default, 'tfrecord'",
    ):
      _check(
        [p for p in building.ALL if 'data' in p.fault],
        task={'mapped_data': {'file_type': 'csv'}},
      )

  def test_a_step_is_traced_and_its_layer_named(self):
    with self.assertRaisesRegex(
      ValueError, "^A training step cannot run: layer 'shrink' .*"
    ):
      with mock.patch.object(
        building.task_factory, 'get_task', lambda task: _TaskWithResizing(task)
      ):
        _check(building.ALL)

  def test_what_can_be_built(self):
    _check(building.SCHEDULE + building.NETWORK)


class _TaskWithResizing(
  building.task_factory._REGISTERED_TASK_CLS[type(fixtures.experiment().task)]
):
  """A task whose network resizes images in a way without a gradient."""

  def build_model(self):
    return tf_keras.Sequential(
      [
        tf_keras.Input([32, 32, 3]),
        tf_keras.layers.Resizing(8, 8, interpolation='area', name='shrink'),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(fixtures.CLASSES),
      ]
    )


class StrategyTest(tf.test.TestCase):
  def test_devices_that_are_not_there(self):
    runtime = fixtures.experiment().runtime
    for name in ('mirrored', 'one_device', 'multi_worker_mirrored'):
      runtime.override({'distribution_strategy': name, 'num_gpus': 1})
      with self.assertRaisesRegex(
        ValueError, 'runtime.num_gpus is 1; expected at most 0'
      ):
        building.make_strategy(runtime)
    runtime.override({'distribution_strategy': 'tpu', 'num_gpus': 0})
    with (
      mock.patch.object(
        building.distribute_utils,
        'get_distribution_strategy',
        side_effect=ValueError('Please provide a TPU Name'),
      ),
      self.assertRaisesRegex(
        ValueError,
        "runtime.distribution_strategy is 'tpu' and "
        'runtime.tpu is None, which fails .*TPU Name',
      ),
    ):
      building.make_strategy(runtime)

  def test_reason(self):
    @tf.function
    def fails():
      raise ValueError('weight is 5: set it to 1')

    try:
      fails()
    except ValueError as e:
      self.assertTrue(building.is_traced(e))
      self.assertEqual(building.reason(e), 'weight is 5: set it to 1')
    self.assertEqual(building.reason(KeyError(11)), 'KeyError: 11')


if __name__ == '__main__':
  tf.test.main()
