# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of claims and journals."""

import json
import os
import socket
import tempfile
import threading
import time
from unittest import mock

from absl.testing import absltest

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import journal


class ClaimsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enter_context(tempfile.TemporaryDirectory())
    self.path = os.path.join(self.folder, 'one.claim')

  def _edit(self, **facts):
    """Makes the claim that of another process."""
    with open(self.path) as f:
      facts = {**json.load(f), 'token': 'another', **facts}
    with open(self.path, 'w') as f:
      json.dump(facts, f)

  def _others(self, **facts):
    claims.Claim(self.path).__enter__()._end.set()
    self._edit(**facts)

  def test_one_process_at_a_time(self):
    for _ in range(2):
      with claims.Claim(self.path) as claim:
        claim.check()
        with self.assertRaisesRegex(
          claims.Taken, f'{socket.gethostname()}, process {os.getpid()}'
        ):
          with claims.Claim(self.path):
            pass
      self.assertFalse(os.path.exists(self.path))

  def test_claim_of_another_host_expires_without_heartbeat(self):
    self._others(machine='elsewhere', pid=1)
    with self.assertRaises(claims.Taken):
      claims.Claim(self.path).__enter__()
    self._edit(heartbeat=time.time() - 60)
    with self.assertRaises(claims.Taken):
      claims.Claim(self.path).__enter__()
    self._edit(heartbeat=time.time() - 130)
    with claims.Claim(self.path):
      pass

  def test_claim_of_an_ended_local_process_is_taken_over(self):
    # A process id that was reused, and one without a process.
    for facts in ({'started': 'before'}, {'pid': 2**22 + 1}):
      self._others(**facts)
      with claims.Claim(self.path):
        pass

  def test_files_that_are_not_claims_are_ignored(self):
    for text in ('', '[]', '{"host": "a"}', '{'):
      with open(self.path, 'w') as f:
        f.write(text)
      with claims.Claim(self.path):
        pass

  def test_a_process_notices_that_its_claim_was_taken_over(self):
    with claims.Claim(self.path) as claim:
      self._edit(host='node7', pid=5)
      with self.assertRaisesRegex(claims.Taken, 'node7, process 5'):
        claim.check()
    self.assertTrue(os.path.exists(self.path))

  def test_heartbeat(self):
    with mock.patch.object(claims, '_BEAT', 0.02), claims.Claim(self.path):
      with open(self.path) as f:
        first = json.load(f)['heartbeat']
      deadline = time.monotonic() + 10
      while time.monotonic() < deadline:
        with open(self.path) as f:
          if json.load(f)['heartbeat'] > first:
            return
      self.fail('no beat')

  def test_only_one_of_many_takes_over(self):
    self._others(pid=2**22 + 1)
    taken, start = [], threading.Barrier(8)
    end = threading.Event()

    def take():
      start.wait()
      try:
        with claims.Claim(self.path):
          taken.append(1)
          end.wait(10)
      except claims.Taken:
        taken.append(0)
        if len(taken) == 8:
          end.set()

    read_json = files.read_json

    def slowly(*args):  # Without a lock, all would read the same claim.
      found = read_json(*args)
      time.sleep(0.05)
      return found

    self.enter_context(mock.patch.object(files, 'read_json', slowly))
    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    self.assertEqual(sum(taken), 1)


class JournalTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.path = os.path.join(folder, 'a.jsonl')

  def _open(self, **identity):
    return journal.Journal(self.path, identity)

  def test_resumes_after_the_last_complete_batch(self):
    first = self._open(data=1)
    first.add([{'value': float('nan')}, {'value': 0.1}])
    first.add([{'value': 1 / 3}])
    with open(self.path, 'a') as f:
      f.write('{"start": 3, "items": [{"val')
    again = self._open(data=1)
    self.assertEqual(again.items[1:], [{'value': 0.1}, {'value': 1 / 3}])
    self.assertEqual((again.begun, again.note), (first.begun, ''))
    again.add([{'value': 4.0}])
    self.assertLen(self._open(data=1).items, 4)
    again.end()
    self.assertFalse(os.path.exists(self.path))

  def test_items_of_two_processes_count_once(self):
    first, second = self._open(), self._open()
    for writer, item in ((first, 1), (second, 1), (first, 2), (second, 2)):
      writer.add([item])
    self.assertEqual(self._open().items, [1, 2])

  def test_another_identity_is_discarded_with_a_reason(self):
    self._open(data=1).add([1])
    other = self._open(data=2)
    self.assertEqual(other.items, [])
    self.assertIn('data was 1 and is now 2', other.note)
    with open(self.path, 'w') as f:
      f.write('no journal')
    self.assertIn('damaged', self._open(data=2).note)


if __name__ == '__main__':
  absltest.main()
