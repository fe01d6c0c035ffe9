# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of runs that resume after they were killed."""

# Bazel: tags = ["training"]

import os
from unittest import mock

import tensorflow as tf
import tf_keras

from official_ext.harmonization import runner
from testing import fixtures
from tests import tiny_run


class ResumeTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.model_dir = os.path.join(self.get_temp_dir(), self.id().split('.')[-1])

  def _run(self, train_steps, killed_at=None):
    """Runs until the end or a kill; returns the steps of evaluations."""
    found = []

    def note(_):
      step = run.trainer.global_step.numpy()
      if step == killed_at:
        raise KeyboardInterrupt
      found.append(int(step))

    run = tiny_run.make_runner(
      self.model_dir,
      {
        'train_steps': train_steps,
        'steps_per_loop': 1,
        'summary_interval': 1,
        'checkpoint_interval': 1,
        'validation_interval': 3,
      },
      mode='train_and_eval',
      eval_actions=[note],
    )
    try:
      run.run()
    except KeyboardInterrupt:
      pass
    return found

  def test_evaluates_at_the_steps_of_a_run_that_was_not_killed(self):
    self.assertEqual(self._run(5), [3, 5])
    self.assertEqual(self._run(9, killed_at=9), [6])
    # All steps are done, but not evaluated.
    self.assertEqual(runner.step_to_resume(self.model_dir), 9)
    last = os.path.join(self.model_dir, 'ckpt-9.index')
    written = os.stat(last).st_mtime_ns
    self.assertEqual(self._run(9), [9])
    # The only copy is not written again.
    self.assertEqual(os.stat(last).st_mtime_ns, written)

  def test_checkpoints_that_were_not_finished_are_removed(self):
    folders = [
      os.path.join(self.model_dir, folder, name)
      for folder, name in (
        ('', 'ckpt-4_temp'),
        ('ema_checkpoints', 'average-4_temp'),
      )
    ]
    for folder in folders:
      os.makedirs(folder)
      with open(os.path.join(folder, 'part-0'), 'w') as f:
        f.write('half')
    self._run(1)
    for folder in folders:
      self.assertFalse(os.path.exists(folder))

  def test_a_new_run_starts_at_the_beginning(self):
    self.assertEqual(runner.step_to_resume(self.model_dir), 0)
    self.assertEqual(self._run(4, killed_at=3), [])
    self.assertEqual(self._run(4), [3, 4])

  def test_the_step_is_what_the_checkpoint_says(self):
    step = tf.Variable(7, dtype=tf.int64)
    for name, variables, expected in (
      ('best', {'global_step': step}, 7),
      ('ckpt-3', {'global_step': step}, 7),
      # Weights of another program.
      ('model.ckpt', {'v': tf.Variable(1.0)}, 0),
    ):
      folder = os.path.join(self.model_dir, name)
      path = tf.train.Checkpoint(**variables).write(f'{folder}/{name}')
      tf.compat.v1.train.update_checkpoint_state(folder, path)
      self.assertEqual(runner.step_to_resume(folder), expected)

  def test_a_checkpoint_of_another_network_is_refused(self):
    self._run(1)

    def larger(activation='swish'):
      network = tiny_run.network(activation)
      return tf_keras.Sequential(
        [
          tf_keras.Input([16, 16, 3]),
          *network.layers,
          tf_keras.layers.Dense(fixtures.CLASSES),
        ]
      )

    # In Model Garden the new layer would keep random weights.
    level = tf.get_logger().level
    with self.assertRaisesRegex(
      runner.RestoreError,
      'ckpt-1 is not a checkpoint of this network.*'
      'expected the task.model in params.yaml',
    ):
      tiny_run.make_runner(self.model_dir, {}, make_network=larger, mode='eval')
    tf.get_logger().setLevel(level)


class WorkersTest(tf.test.TestCase):
  def _check(self, workers, step):
    strategy = mock.Mock(spec=tf.distribute.MultiWorkerMirroredStrategy)
    spec = tf.train.ClusterSpec({'worker': workers})
    strategy.cluster_resolver.cluster_spec.return_value = spec
    runner.check_workers(strategy, step)

  def test_several_processes_start_but_do_not_go_on(self):
    self._check(['a:1', 'b:1'], 0)
    self._check(['a:1'], 8)
    with self.assertRaisesRegex(ValueError, 'step 8.*task.init_checkpoint'):
      self._check(['a:1', 'b:1'], 8)
    runner.check_workers(tf.distribute.OneDeviceStrategy('CPU:0'), 8)


class BestTest(tf.test.TestCase):
  def _forgets(self, text):
    path = os.path.join(self.get_temp_dir(), 'info.json')
    with open(path, 'w') as f:
      f.write(text)
    runner.forget_lost_best(self.get_temp_dir())
    return not os.path.exists(path)

  def test_a_best_score_stays_with_its_checkpoint_alone(self):
    score = '{"alignment": 0.5, "best_ckpt_global_step": 8.0}'
    self.assertTrue(self._forgets(score))
    step = tf.Variable(4, dtype=tf.int64)
    manager = tf.train.CheckpointManager(
      tf.train.Checkpoint(global_step=step), self.get_temp_dir(), 1
    )
    manager.save()
    self.assertTrue(self._forgets(score))
    step.assign(8)
    manager.save()
    self.assertFalse(self._forgets(score))
    self.assertTrue(self._forgets(score[:30]))
    runner.forget_lost_best(os.path.join(self.get_temp_dir(), 'nowhere'))


class SeedTest(tf.test.TestCase):
  def _logged(self, seed, step, **seeds):
    task = fixtures.experiment().task
    for name, value in seeds.items():
      task.override({name: {'seed': value}})
    # assertLogs fails if nothing is logged.
    with self.assertLogs('absl', 'INFO') as logs:
      runner.logging.info('start')
      runner.seed_at(seed, step, task)
    return ' '.join(logs.output[1:])

  def test_says_what_becomes_of_the_order_of_the_data(self):
    self.assertEqual(self._logged(7, 0), '')
    self.assertRegex(
      self._logged(7, 4),
      'after step 4.*start over in another '
      r'order, with the seed 7 \+ 4',
    )
    self.assertRegex(self._logged(None, 4), 'in another order')
    self.assertRegex(
      self._logged(None, 4, mapped_data=3),
      'in the same order as at step 0, because of task.mapped_data.seed',
    )

  def test_the_order_is_another_after_the_resume(self):
    task = fixtures.experiment().task
    draws = []
    for step in (0, 4, 4):
      runner.seed_at(7, step, task)
      draws.append(
        list(tf.data.Dataset.range(50).shuffle(50).as_numpy_iterator())
      )
    self.assertNotEqual(draws[0], draws[1])
    self.assertEqual(draws[1], draws[2])


if __name__ == '__main__':
  tf.test.main()
