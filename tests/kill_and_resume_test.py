# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests stress/kill_and_resume.py: one small run, killed twice."""

# Bazel: size = "large"
# Bazel: tags = ["slow"]

import os
import sys

import numpy as np
import pytest
import tensorflow as tf

from stress import kill_and_resume
from tests import tiny_run  # The program that is killed.

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


@pytest.mark.slow
class KillTest(tf.test.TestCase):
  def test_a_killed_run_equals_an_uninterrupted_one(self):
    folder = self.get_temp_dir()
    path = os.pathsep.join([_ROOT] + [p for p in sys.path if p])
    command = ['env', f'PYTHONPATH={path}', sys.executable, tiny_run.__file__]
    unbroken = kill_and_resume.Run(command, os.path.join(folder, 'unbroken'))
    unbroken.finish()
    points = kill_and_resume.killed_run(
      kill_and_resume.Run(command, os.path.join(folder, 'killed')),
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
