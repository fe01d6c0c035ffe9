# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of runs with values that are not finite."""

# Bazel: tags = ["training"]

import os

from absl.testing import parameterized
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from official_ext.harmonization.tasks import nonfinite
from testing import fixtures
from tests import devices
from tests import tiny_run

_NAN = float('nan')


def _map_of(value, rows=slice(0, 4)):
  """Returns a batch in which the maps of some rows have one value."""
  images, batch = tiny_run.good_batch()
  maps = batch['heatmaps'].numpy()
  maps[rows] = value
  return images, {**batch, 'heatmaps': tf.constant(maps)}


def _image_of(value):
  images, batch = tiny_run.good_batch()
  return tf.fill(images.shape, tf.constant(value)), batch


def _root_network():
  # At 0 the first derivative is 0 and the second infinite.
  return tiny_run.network(lambda x: tf.pow(tf.abs(x), 1.5))


class RunTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.model_dir = os.path.join(self.get_temp_dir(), self.id().split('.')[-1])

  def _runner(self, trials=0, **kwargs):
    trainer = {
      'train_steps': 8,
      'recovery_max_trials': trials,
      **kwargs.pop('trainer', {}),
    }
    return tiny_run.make_runner(self.model_dir, trainer, **kwargs)

  def _assert_checkpoint(self, step):
    """Checks step and finite values of the last checkpoint."""
    path = tf.train.latest_checkpoint(self.model_dir)
    self.assertEqual(os.path.basename(path), f'ckpt-{step}')
    self.assertNotEmpty(tf.io.gfile.glob(path + '*'))
    steps = [
      int(p.split('-')[-1].split('.')[0])
      for p in tf.io.gfile.glob(self.model_dir + '/ckpt-*')
    ]
    self.assertEqual(max(steps), step)
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
      value = reader.get_tensor(name)
      if getattr(value, 'dtype', None) in (np.float32, np.int64):
        self.assertTrue(np.isfinite(value).all(), name)

  @parameterized.named_parameters(
    (
      'map',
      6,
      _map_of,
      _NAN,
      {},
      'Step 6: harmonization_loss is not finite, then gradients.',
    ),
    (
      'image',
      5,
      _image_of,
      float('inf'),
      {},
      'Step 5: logits is not finite, then classification_loss, '
      'harmonization_loss, gradients.',
    ),
    # All losses are finite, but the last step makes the weights infinite.
    (
      'second_order',
      8,
      _image_of,
      0.0,
      {'make_network': _root_network},
      'Step 8: gradients is not finite.',
    ),
    (
      'between',
      7,
      _map_of,
      _NAN,
      {'harmonization': {'interval': 3}},
      'Step 7: harmonization_loss is not finite, then gradients.',
    ),
    (
      'stock_step',
      7,
      _image_of,
      _NAN,
      {'harmonization': {'weight': 0.0}},
      'Step 7: training_loss is not finite.',
    ),
    (
      'stock_task',
      7,
      _image_of,
      _NAN,
      {'harmonization': {'enabled': False}},
      'The loss was not finite in one of the steps 5 to 8.',
    ),
  )
  def test_is_named_and_no_checkpoint_follows(
    self, step, make, value, options, report
  ):
    run = self._runner(batches={step: make(value)}, **options)
    with self.assertRaisesRegex(RuntimeError, 'loss value is NaN'):
      run.run()
    self.assertEqual(run.guard.report, report)
    self._assert_checkpoint(4)

  def test_recovery_returns_to_a_checkpoint_and_continues(self):
    run = self._runner(trials=1, batches={6: _map_of(_NAN)})
    run.run()
    self.assertEqual(run.guard.report, '')
    self.assertEqual(run.trainer.global_step.numpy(), 8)
    self._assert_checkpoint(8)

  def test_the_bad_one_of_two_replicas_is_named(self):
    run = self._runner(
      strategy=devices.two_replicas(), batches={6: _map_of(_NAN, slice(2, 4))}
    )
    with self.assertRaisesRegex(RuntimeError, 'loss value is NaN'):
      run.run()
    self.assertEqual(
      run.guard.report,
      'Step 6: harmonization_loss is not finite, then '
      'gradients; on replicas [1] of 0..1.',
    )
    self._assert_checkpoint(4)

  @parameterized.parameters(-1, 0)
  def test_weights_are_looked_at(self, trials):
    # The schedule has no boundary after the last step.
    rate = {
      'type': 'step_cosine_with_offset',
      'step_cosine_with_offset': {'boundaries': [0, 1], 'values': [0.1, 0.1]},
    }
    run = self._runner(
      trials=trials,
      trainer={
        'steps_per_loop': 1,
        'summary_interval': 1,
        'optimizer_config': {'learning_rate': rate},
      },
    )
    report = (
      'Trainable weights are not finite after step 2, although all losses '
      'since step 2 were finite. The learning rate is nan.'
    )
    # Without Model Garden's recovery, the guard ends the run.
    with self.assertRaisesRegex(
      RuntimeError, 'loss value is NaN' if trials == 0 else report
    ):
      run.run()
    self.assertEqual(run.guard.report, report)
    self._assert_checkpoint(1)

  def test_without_a_checkpoint_to_go_back_to_the_run_ends(self):
    run = self._runner(trials=3, batches={1: _map_of(_NAN)})
    with self.assertRaisesRegex(RuntimeError, 'Step 1: harmonization_loss'):
      run.run()
    self.assertIsNone(tf.train.latest_checkpoint(self.model_dir))
    self.assertEmpty(tf.io.gfile.glob(self.model_dir + '/ckpt-*'))

  def test_black_images_flat_maps_and_flat_saliency_are_finite(self):

    def flat_network():
      model = tiny_run.network()
      model.layers[-1].kernel.assign(tf.zeros_like(model.layers[-1].kernel))
      return model

    run = self._runner(
      make_network=flat_network,
      batches={2: _map_of(0.0), 3: _map_of(1.0), 5: _image_of(0.0)},
    )
    run.run()
    self.assertEqual(run.guard.report, '')
    self._assert_checkpoint(8)


class RecordTest(tf.test.TestCase, parameterized.TestCase):
  def test_keeps_the_first_step_of_each_cause_until_it_is_read(self):
    record = nonfinite.Record()
    good = nonfinite.marks()
    maps = nonfinite.marks(harmonization_loss=tf.constant([1.0, _NAN]))
    weights = nonfinite.marks(regularization=[1.0, tf.constant(float('inf'))])
    for marked in (good, maps, good, tf.logical_or(maps, weights), good):
      record.update(marked)
    ages = dict(zip(nonfinite.CAUSES, record.read()[0]))
    self.assertEqual(
      (ages.pop('harmonization_loss'), ages.pop('regularization')), (3.0, 1.0)
    )
    self.assertTrue(np.isnan(list(ages.values())).all())
    self.assertTrue(np.isnan(record.read()).all())

  def test_float16_overflow_is_marked_once_the_scale_is_one(self):
    tf_keras.mixed_precision.set_global_policy('mixed_float16')
    self.addCleanup(tf_keras.mixed_precision.set_global_policy, 'float32')
    task = tiny_run.Task(fixtures.experiment().task)
    model = task.build_model()
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
      tf_keras.optimizers.SGD(0.01), initial_scale=4.0
    )
    optimizer.build(model.trainable_variables)
    metrics = task.build_metrics(training=True)
    before = model.get_weights()
    step = tf.function(task.train_step)
    losses, marked = [], []
    for _ in range(3):
      losses.append(step(_map_of(_NAN), model, optimizer, metrics)['loss'])
      marked.append(not np.isnan(task.nonfinite.read()).all())
    self.assertEqual(marked, [False, False, True])
    self.assertAllEqual(np.isfinite(losses), [True, True, False])
    # Skipped steps do not count in the mean.
    found = {m.name: m for m in metrics}['harmonization_loss']
    self.assertEqual(found.count, 1.0)
    self.assertAllEqual(model.get_weights()[0], before[0])
    step(tiny_run.good_batch(), model, optimizer, metrics)
    self.assertTrue(np.isnan(task.nonfinite.read()).all())

  def test_a_bad_gradient_shows_in_the_loss_that_recovery_reads(self):
    task = tiny_run.Task(fixtures.experiment().task, make_network=_root_network)
    losses = [
      task.train_step(batch, task.build_model(), tf_keras.optimizers.SGD(), [])[
        'loss'
      ]
      for batch in (tiny_run.good_batch(), _image_of(0.0))
    ]
    self.assertAllEqual(np.isfinite(losses), [True, False])

  def test_a_stock_task_has_no_record(self):
    task = task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(enabled=False).task
    )
    task.build_metrics(training=True)
    self.assertIsNone(task.nonfinite)


if __name__ == '__main__':
  tf.test.main()
