# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests stress/kill_and_resume.py: one small run, killed twice."""

# Bazel: size = "large"
# Bazel: tags = ["slow"]

import os

import numpy as np
import pytest
import tensorflow as tf

from stress import kill_and_resume
from tests import forked
from tests import tiny_run


def _train(model_dir):
  os.environ.update(kill_and_resume.ENVIRONMENT)
  tiny_run.train(model_dir)


def _start(model_dir, log):
  return forked.start(_train, model_dir, out=log.fileno(), err=log.fileno())


@pytest.mark.slow
class KillTest(tf.test.TestCase):
  def test_a_killed_run_equals_an_uninterrupted_one(self):
    folder = self.get_temp_dir()
    unbroken = kill_and_resume.Run(_start, os.path.join(folder, 'unbroken'))
    unbroken.finish()
    points = kill_and_resume.killed_run(
      kill_and_resume.Run(_start, os.path.join(folder, 'killed')),
      2,
      unbroken,
      np.random.default_rng(1),
      ('checkpoint', 'step'),
    )
    self.assertLen(points, 2)
    for point in points:
      self.assertIn(point['signal'], ('SIGKILL', 'SIGTERM'))
      self.assertEqual(point['differs'], [])
    last = points[-1]
    self.assertEqual(last['final_step'], 12)
    self.assertGreater(last['final_tensors'], 10)
    for name in (
      'final_differs',
      'best_differs',
      'logs_that_differ',
      'logs_missing',
    ):
      self.assertEqual(last[name], [], name)
    self.assertGreaterEqual(last['said_that_data_start_over'], last['resumed'])
    self.assertGreater(last['resumed'], 0)


class CompareTest(tf.test.TestCase):
  def test_one_bit_and_one_name_are_seen(self):
    one = {'a': np.float32([1.0, 2.0]), 'b': np.int64(3)}
    self.assertEqual(kill_and_resume.differences(one, dict(one)), [])
    other = {'a': np.nextafter(one['a'], np.float32(9.0)), 'c': np.int64(3)}
    self.assertEqual(kill_and_resume.differences(one, other), ['a', 'b', 'c'])

  def test_reads_the_logs_of_model_garden(self):
    path = os.path.join(self.get_temp_dir(), 'log')
    with open(path, 'w') as f:
      f.write(
        'train | step:      2 | steps/sec:    0.1 | output: \n'
        "    {'accuracy': np.float32(0.25),\n"
        "     'learning_rate': 0.5}\n"
        ' eval | step:      2 | running complete evaluation...\n'
        ' eval | step:      2 | eval time:    1.0 sec | output: '
        "{'alignment': np.float32(nan)}\n"
      )
    self.assertEqual(
      kill_and_resume.logged([path]),
      {
        ('train', 2): [{'accuracy': '0.25', 'learning_rate': '0.5'}],
        ('eval', 2): [{'alignment': 'nan'}],
      },
    )


if __name__ == '__main__':
  tf.test.main()
