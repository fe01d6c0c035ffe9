# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that damaged records never cause silence, crashes or vague errors."""

# Bazel: tags = ["subprocess"]

import sys

from absl.testing import parameterized
import tensorflow as tf

from stress.mutations import isolated
from stress.mutations import readings
from stress.mutations import records
from stress.mutations import runs
from stress.mutations import trials

# Each kind of damage once, after the first two rounds, which contain the
# largest images. The other formats have the same decoders.
_NUMBERS = {'canonical': range(84, 126), 'clickme_per_category': range(52, 78)}


class MutatedRecordsTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(_NUMBERS.items())
  def test_every_mutation_is_a_pair_or_an_error_with_a_name(
    self, record_format, numbers
  ):
    found = runs.Runs(self.get_temp_dir()).run(record_format, 1, numbers)
    self.assertEqual({r[0] for r in found}, set(numbers))
    for result in found:
      self.assertIn(result[3], trials.GOOD, result)
      self.assertIn(result[2], trials.PIPELINES, result)
    self.assertLen(found, len(numbers) * len(trials.PIPELINES))
    untouched = {r[3] for r in found if r[1] == 'none'}
    self.assertEqual(untouched, {trials.UNCHANGED})
    for outcome in (trials.CHANGED, trials.NAMED, trials.SKIPPED):
      self.assertIn(outcome, {r[3] for r in found})

  def test_the_same_seed_gives_the_same_mutation(self):
    for number in (1, 4, 33, 42):
      one, same, other = (records.draw('clickme', s, number) for s in (5, 5, 6))
      self.assertEqual(one, same)
      self.assertEqual(one.kind, other.kind)
      self.assertNotEqual(one.data, other.data)


class ReadingsTest(tf.test.TestCase):
  def test_wrong_numbers_are_seen(self):
    fields = records.valid('clickme', 0)
    run = trials.Trials(self.get_temp_dir(), 'clickme')
    good = records.serialize(fields)
    (event,) = run.evaluate('evaluation, fail', [good])
    reading = readings.read('clickme', good)
    self.assertEqual(run.differences(event, reading), '')
    for name, message in (
      ('images', 'image that'),
      ('heatmaps', 'map that'),
      ('labels', 'label'),
      ('heatmap_weights', 'weight'),
    ):
      changed = {
        **event,
        name: event[name] + 1 if name == 'labels' else event[name] * 0.8,
      }
      self.assertIn(message, run.differences(changed, reading))
    self.assertIn('label 4', run.differences(event, reading._replace(label=4)))


_PROCESS = """
import json, os, sys, time
for line in sys.stdin:
  job = json.loads(line)
  print(json.dumps({'at': 'a place'}), flush=True)
  if 3 in job['numbers']:
    os.abort()
  if 5 in job['numbers']:
    time.sleep(60)
  print(json.dumps({'results': [[n, 'k', 'p', job['say'], '']
                                for n in job['numbers']]}), flush=True)
"""


class IsolatedTest(tf.test.TestCase):
  def test_crashes_and_hangs_have_their_record(self):
    reader = isolated.Reader([sys.executable, '-c', _PROCESS], timeout=1.0)
    good = isolated.run(reader, [0, 1], say='named')
    self.assertEqual(good, [[n, 'k', 'p', 'named', ''] for n in (0, 1)])
    found = isolated.run(reader, [2, 3, 4, 5, 6], say='named')
    self.assertEqual(
      [r[3] for r in found], ['named', 'crash', 'named', 'hang', 'named']
    )
    self.assertIn('in a place, exit code -6', found[1][4])
    reader.close()


if __name__ == '__main__':
  tf.test.main()
