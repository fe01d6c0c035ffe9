# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of reading human responses from CSV files."""

import math
import pathlib
import tempfile
import unittest

from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores

_HEAD = 'subj,session,trial,rt,object_response,category,condition,imagename\n'


class HumanTrialsTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = pathlib.Path(folder.name) / 'people.csv'

  def read(self, text):
    self.path.write_text(text)
    return human_trials.read(str(self.path))

  def assert_refused(self, text, *words):
    with self.assertRaises(ValueError) as caught:
      self.read(text)
    for word in (str(self.path), *words):
      self.assertIn(word, str(caught.exception))

  def test_trials(self):
    found = self.read(
      _HEAD + 'a,1,1,.4,animal,animal,10,x/10_dog3.png\n'
      'a,1,2,.5,non-animal,animal,full,full_dog3.png\n'
      'b,1,1,NaN,Vehicle,nonanimal,200,20_car1.png\n'
      'b,1,2,.3,na,animal,0,0_dog3.png\n'
    )
    self.assertEqual(found.n_no_answer, 1)
    trial = human_trials.Trial
    self.assertEqual(
      found.trials,
      [
        trial('a', 10, 'dog3', 'animal', 'animal'),
        trial('a', stimulus_files.FULL, 'dog3', 'animal', 'vehicle'),
        trial('b', stimulus_files.FULL, 'car1', 'vehicle', 'vehicle'),
      ],
    )

  def test_column_names_in_other_case_and_further_columns(self):
    found = self.read(
      'Subj,imagename,condition,category,object_response,age\n'
      '1,whatever,100.0,vehicle,object,7\n'
    )
    self.assertEqual(
      found.trials[0],
      human_trials.Trial('1', 100, 'whatever', 'vehicle', 'vehicle'),
    )

  def test_tables_of_other_programs(self):
    lines = _HEAD + 'é,1,1,.4,animal,animal,10,10_dog3.png\n'
    lines = lines.replace(',', ';')
    for encoding in ('utf-8-sig', 'utf-16', 'utf-16-be'):
      self.path.write_bytes(lines.replace('\n', '\r').encode(encoding))
      found = human_trials.read(str(self.path))
      self.assertEqual([t.participant for t in found.trials], ['é'])
    self.path.write_bytes(lines.encode('latin-1'))
    with self.assertRaisesRegex(ValueError, 'people.csv, line 2: byte 0xe9'):
      human_trials.read(str(self.path))
    self.assert_refused(_HEAD.replace('rt', 'subj'), '2 columns subj')
    self.assert_refused(
      _HEAD + 'a,1,1,.4,animal,animal,10,10_dog,3.png\n',
      'line 2',
      '9 cells under 8 columns',
    )

  def test_round_trip_of_a_networks_rows(self):
    rows = [
      human_trials.row(
        'net', i, f'{level}_{target}{i}.png', target, answer, level
      )
      for i, (target, answer, level) in enumerate(
        [('animal', 'vehicle', '30'), ('vehicle', 'vehicle', 'full')]
      )
    ]
    self.assertEqual(tuple(rows[0]), human_trials.COLUMNS)
    self.assertEqual(_HEAD.strip(), ','.join(human_trials.COLUMNS))
    scores.write_rows(str(self.path), rows)
    found = human_trials.read(str(self.path)).trials
    self.assertEqual(
      found,
      [
        human_trials.Trial('net', 30, 'animal0', 'animal', 'vehicle'),
        human_trials.Trial('net', 200, 'vehicle1', 'vehicle', 'vehicle'),
      ],
    )

  def test_accuracies(self):
    found = self.read('level,accuracy,standard_error\n0,.5,.02\nfull,1,\n')
    self.assertEqual(found.accuracy, {0: 0.5, 200: 1.0})
    self.assertEqual(found.standard_error[0], 0.02)
    self.assertTrue(math.isnan(found.standard_error[200]))
    without = self.read('level,accuracy\n10,.75\n')
    self.assertEqual(without.accuracy, {10: 0.75})
    self.assertTrue(math.isnan(without.standard_error[10]))

  def test_refusals_name_the_line(self):
    good = 'a,1,1,.4,animal,animal,10,10_dog3.png\n'
    for row, *words in (
      ('a,1,1,.4,dog,animal,10,10_dog3.png', 'object_response', "'dog'"),
      ('a,1,1,.4,animal,dog,10,10_dog3.png', 'category', "'dog'"),
      ('a,1,1,.4,animal,animal,15,10_dog3.png', 'condition', "'15'"),
      ('a,1,1,.4,animal,animal,,10_dog3.png', 'condition'),
      (',1,1,.4,animal,animal,10,10_dog3.png', 'subj'),
      ('a,1,1,.4,animal,animal,10', 'imagename'),
    ):
      with self.subTest(row):
        self.assert_refused(_HEAD + good + row + '\n', 'line 3', *words)

  def test_two_observers_of_one_name(self):
    # The tables of two modules whose functions are both called net.
    rows = [
      human_trials.row('net', 1, '10_dog3.png', 'animal', answer, '10')
      for answer in ('animal', 'vehicle')
    ]
    scores.write_rows(str(self.path), rows)
    with self.assertRaisesRegex(
      ValueError, "line 3: subj 'net'.*10_dog3.png .*line 2.*different"
    ):
      human_trials.read(str(self.path))
    rows[1]['subj'] = 'other.net'
    scores.write_rows(str(self.path), rows)
    self.assertEqual(
      [t.participant for t in human_trials.read(str(self.path)).trials],
      ['net', 'other.net'],
    )
    for other in (
      'a,1,1,.4,animal,animal,10,x/10_dog3.png\n',
      'a,1,1,.4,na,animal,10,10_dog3.png\n',
    ):
      self.assert_refused(
        _HEAD + 'a,1,1,.4,animal,animal,10,10_dog3.png\n' + other,
        'line 3',
        'line 2',
      )
    # A repeated trial with another number.
    self.assertEqual(
      len(
        self.read(
          _HEAD + 'a,1,1,.4,animal,animal,10,10_dog3.png\n'
          'a,1,2,.4,animal,animal,10,10_dog3.png\n'
          'a,2,1,.4,animal,animal,10,10_dog3.png\n'
        ).trials
      ),
      3,
    )

  def test_refusals_of_accuracies(self):
    for text, *words in (
      ('0,50', 'line 2', "'50'"),
      ('0,nan', 'line 2'),
      ('5,.5', 'line 2', "'5'"),
      ('0,.5\n0,.6', 'line 3', 'twice'),
      ('', 'no rows'),
    ):
      with self.subTest(text):
        self.assert_refused('level,accuracy\n' + text + '\n', *words)

  def test_refusals_of_files(self):
    self.assert_refused('', 'columns []')
    self.assert_refused('subj,accuracy\n', 'accuracy', 'imagename')
    self.assert_refused(_HEAD, 'no trial with a response')
    self.assert_refused(
      _HEAD + 'a,1,1,,na,animal,10,10_dog3.png\n',
      'no trial with a response',
    )


if __name__ == '__main__':
  unittest.main()
