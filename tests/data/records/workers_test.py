# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of processes that share work."""

# Bazel: tags = ["subprocess"]

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from official_ext.harmonization.data.records import workers
from testing import processes
from tests.data import jobs


def _is_running(pid):
  """Whether a process is there, and more than a name in a table."""
  try:
    with open(f'/proc/{pid}/stat') as f:
      return f.read().rpartition(')')[2].split()[0] != 'Z'
  except FileNotFoundError:
    return False


class WorkersTest(unittest.TestCase):
  def run_jobs(self, work, count):
    done = []
    found = list(
      workers.run(work, [(i,) for i in range(5)], count, done.append)
    )
    return sorted(found), sum(done)

  def test_results_and_progress(self):
    for count in (1, 2, 9):
      self.assertEqual(
        self.run_jobs(jobs.square, count), ([0, 1, 4, 9, 16], 10)
      )

  def test_an_error_is_that_of_the_job(self):
    for count in (1, 2):
      with self.assertRaisesRegex(ValueError, '^job 2 failed$'):
        self.run_jobs(jobs.fail, count)
    self.assertEqual(multiprocessing.active_children(), [])

  def test_a_worker_that_is_killed_is_an_error(self):
    with self.assertRaisesRegex(ChildProcessError, 'killed.*--workers'):
      self.run_jobs(jobs.die, 2)

  def test_who_stops_asking_does_not_wait(self):
    before = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
      results = workers.run(
        jobs.wait, [(folder, 0.0), (folder, 60.0)], 2, print
      )
      next(results)
      results.close()
    self.assertLess(time.monotonic() - before, 40)
    self.assertEqual(multiprocessing.active_children(), [])

  def end(self, how):
    """Starts a parent with workers and ends it; returns what it printed."""
    with tempfile.TemporaryDirectory() as folder:
      parent = subprocess.Popen(
        [sys.executable, jobs.__file__, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A background job passes on that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(
          signal.SIGINT, signal.default_int_handler
        ),
        env=processes.environment(),
      )
      while len(pids := [p.name for p in pathlib.Path(folder).iterdir()]) < 2:
        self.assertIsNone(parent.poll())
        time.sleep(0.02)
      self.assertTrue(all(map(_is_running, pids)))
      time.sleep(0.5)  # One of them is idle by then.
      how(parent.pid)
      parent.wait()
      end = time.monotonic() + 20
      while any(map(_is_running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    left = [int(pid) for pid in pids if _is_running(pid)]
    for pid in left:  # Or they would keep the pipe open.
      os.kill(pid, signal.SIGKILL)
    self.assertEqual(left, [])
    return parent.communicate()[1]

  def test_workers_end_with_their_parent(self):
    for number in (signal.SIGKILL, signal.SIGTERM):
      self.end(lambda pid, number=number: os.kill(pid, number))

  def test_ctrl_c_ends_all_and_only_the_parent_says_so(self):
    errors = self.end(lambda pid: os.killpg(pid, signal.SIGINT))
    self.assertEqual(errors.count('Traceback'), 1, errors)
    self.assertNotIn('SpawnProcess', errors)
    self.assertIn('KeyboardInterrupt', errors)


if __name__ == '__main__':
  unittest.main()
