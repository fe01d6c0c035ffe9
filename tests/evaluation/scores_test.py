# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of scores: intervals, fields and files."""

import csv
import json
import math
import os
import sys
import tracemalloc
from unittest import mock

from absl.testing import parameterized
import numpy as np
from scipy import stats
import tensorflow as tf

from official_ext.harmonization.evaluation import scores

NAN = float('nan')


class BootstrapTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(0.5, 0.9, 0.95)
  def test_agrees_with_scipy(self, confidence):
    values = np.random.default_rng(0).gamma(1.0, size=60)
    expected = stats.bootstrap(
      (values,),
      np.mean,
      confidence_level=confidence,
      n_resamples=40000,
      method='percentile',
      rng=np.random.default_rng(1),
    ).confidence_interval
    # The error of a quantile of 40,000 means is below a hundredth of theirs.
    error = 0.03 * stats.sem(values)
    self.assertAllClose(
      scores.bootstrap_interval(values, confidence=confidence, resamples=40000),
      (expected.low, expected.high),
      atol=error,
      rtol=0,
    )

  def test_equals_the_closed_form_for_normal_values(self):
    n = 4000
    values = np.random.default_rng(2).normal(0.3, 0.2, n)
    low, high = scores.bootstrap_interval(values, resamples=4000)
    half = 1.959964 * values.std() / np.sqrt(n)
    self.assertAllClose(low, values.mean() - half, atol=0.06 * half, rtol=0)
    self.assertAllClose(high, values.mean() + half, atol=0.06 * half, rtol=0)

  def test_coverage(self):
    values = np.random.default_rng(3).normal(size=(400, 50))
    hits = 0
    for row in values:
      low, high = scores.bootstrap_interval(row, confidence=0.8, resamples=200)
      hits += low <= 0 <= high
    # A percentile interval of 50 values is a little narrow; three standard
    # errors of the count are 24.
    self.assertBetween(hits, 320 - 32, 320 + 24)

  def test_nan_is_excluded_and_the_seed_decides(self):
    values = np.random.default_rng(4).random(30)
    gaps = np.insert(values, (0, 7, 30), NAN)
    interval = scores.bootstrap_interval(values)
    self.assertEqual(scores.bootstrap_interval(gaps), interval)
    self.assertNotEqual(scores.bootstrap_interval(values, seed=1), interval)

  def test_too_few_values_have_no_interval(self):
    for values in ([], [0.5], [NAN, NAN], [NAN, 0.5]):
      self.assertAllEqual(
        np.isnan(scores.bootstrap_interval(values)), [True, True]
      )
    self.assertEqual(scores.bootstrap_interval([0.5, 0.5]), (0.5, 0.5))

  def test_a_resample_has_as_many_values(self):
    # The mean of two values sampled from (0, 1) is 0, .5, .5 or 1.
    self.assertEqual(
      scores.bootstrap_interval([0.0, 1.0], confidence=0.4), (0.5, 0.5)
    )

  def test_memory_is_bounded(self):
    values = np.random.default_rng(5).random(50000)
    tracemalloc.start()
    low, high = scores.bootstrap_interval(values, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    self.assertLess(low, high)
    # All samples at once would take 80 MB.
    self.assertLess(peak, 20e6)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, 'Score 1 of 2 is inf'):
      scores.bootstrap_interval([0.0, float('inf')])
    with self.assertRaisesRegex(ValueError, r'shape \(2, 1\)'):
      scores.bootstrap_interval([[0.0], [1.0]])
    with self.assertRaisesRegex(ValueError, 'confidence is 95'):
      scores.bootstrap_interval([0.0, 1.0], confidence=95)
    with self.assertRaisesRegex(ValueError, 'resamples is 0'):
      scores.bootstrap_interval([0.0, 1.0], resamples=0)


class ScoreTest(tf.test.TestCase):
  def test_fields(self):
    values = [0.2, NAN, 0.4, 0.6, NAN]
    made = scores.score(
      'rho',
      values,
      ceiling=0.5,
      preprocessing='none, 224',
      details={'maps': np.float32(3)},
    )
    self.assertAllClose((made.value, made.normalized), (0.4, 0.8))
    self.assertEqual((made.n, made.n_undefined), (3, 2))
    self.assertEqual((made.low, made.high), scores.bootstrap_interval(values))
    self.assertAllClose(
      (made.normalized_low, made.normalized_high),
      (made.low / 0.5, made.high / 0.5),
    )
    read = json.loads(json.dumps(made.to_json(), allow_nan=False))
    self.assertEqual(read['preprocessing'], 'none, 224')
    self.assertEqual(read['details'], {'maps': 3.0})
    self.assertAllClose(read['normalized'], 0.8)
    self.assertEqual((read['n'], read['n_undefined']), (3, 2))

  def test_no_value_is_nan_and_not_zero(self):
    for values in ([], [NAN, NAN], np.array([NAN])):
      made = scores.score('rho', values, ceiling=0.5, preprocessing='none')
      self.assertTrue(math.isnan(made.value) and math.isnan(made.normalized))
      self.assertEqual((made.n, made.n_undefined), (0, len(values)))
      read = json.loads(json.dumps(made.to_json(), allow_nan=False))
      self.assertIsNone(read['value'])
      self.assertIsNone(read['normalized_low'])

  def test_without_a_ceiling_nothing_is_normalized(self):
    made = scores.score('rho', [0.2, 0.4], preprocessing='none')
    self.assertIsNone(made.normalized)
    self.assertIsNone(made.to_json()['normalized_high'])

  def test_a_ceiling_is_positive(self):
    for ceiling in (0.0, -0.1, NAN, float('inf')):
      with self.assertRaisesRegex(ValueError, 'ceiling of rho'):
        scores.score('rho', [0.2], ceiling=ceiling, preprocessing='none')

  def test_json_safe(self):
    value = {
      1: (np.array([[1.0, NAN]]), np.int64(3), np.bool_(True)),
      'far': [float('inf'), -np.inf],
      'none': None,
    }
    self.assertEqual(
      json.loads(json.dumps(scores.json_safe(value), allow_nan=False)),
      {'1': [[[1.0, None]], 3, True], 'far': ['inf', '-inf'], 'none': None},
    )
    with self.assertRaisesRegex(TypeError, 'of type set'):
      scores.json_safe({'a': {1}})


class RowsTest(tf.test.TestCase):
  _ROWS = [
    {'image': 'a, b\n"c"', 'rho': np.float32(0.25), 'n': np.int64(4)},
    {'image': 'ü', 'rho': NAN, 'note': 'x'},
  ]

  def _path(self, name):
    return os.path.join(self.get_temp_dir(), self.id(), name)

  def test_csv(self):
    path = self._path('a.csv')
    scores.write_rows(path, self._ROWS[:1])
    scores.write_rows(path, self._ROWS)
    with open(path, newline='', encoding='utf-8') as f:
      read = list(csv.DictReader(f))
    self.assertEqual(
      read,
      [
        {'image': 'a, b\n"c"', 'rho': '0.25', 'n': '4', 'note': ''},
        {'image': 'ü', 'rho': 'nan', 'n': '', 'note': 'x'},
      ],
    )
    self.assertEqual(os.listdir(os.path.dirname(path)), ['a.csv'])

  def test_parquet(self):
    try:
      from pyarrow import parquet
    except ImportError:
      self.skipTest('pyarrow is not installed. To install it, run: make setup')
    path = self._path('a.parquet')
    scores.write_rows(path, self._ROWS)
    table = parquet.read_table(path)
    self.assertEqual(table.column_names, ['image', 'rho', 'n', 'note'])
    self.assertEqual(table['n'].to_pylist(), [4, None])
    # NaN, an undefined score, does not become null, a missing one.
    self.assertEqual(table['rho'].null_count, 0)
    self.assertAllEqual(table['rho'].to_pylist(), [0.25, NAN])
    with self.assertRaisesRegex(ValueError, 'a.parquet: column n mixes'):
      scores.write_rows(path, [{'n': 1}, {'n': 'one'}])
    self.assertEqual(parquet.read_table(path)['n'], table['n'])

  def test_json(self):
    path = self._path('a.json')
    scores.write_json(path, {'rho': np.float32(NAN), 'n': [np.int64(3)]})
    with open(path, encoding='utf-8') as f:
      self.assertEqual(json.load(f), {'rho': None, 'n': [3]})
    with self.assertRaisesRegex(TypeError, 'of type object'):
      scores.write_json(path, {'rho': object()})
    self.assertEqual(os.listdir(os.path.dirname(path)), ['a.json'])

  def test_no_rows(self):
    path = self._path('a.csv')
    scores.write_rows(path, [])
    with open(path, encoding='utf-8') as f:
      self.assertEqual(f.read().strip(), '')

  def test_parquet_without_pyarrow(self):
    with mock.patch.dict(sys.modules, {'pyarrow': None}):
      with self.assertRaisesRegex(ImportError, 'pip install pyarrow'):
        scores.write_rows(self._path('a.parquet'), self._ROWS)

  def test_a_failed_write_leaves_the_old_table(self):
    path = self._path('a.csv')
    scores.write_rows(path, [{'a': 1}])
    with mock.patch.object(tf.io.gfile, 'rename', side_effect=OSError):
      with self.assertRaises(OSError):
        scores.write_rows(path, [{'a': 2}])
    with open(path, encoding='utf-8') as f:
      self.assertEqual(f.read(), 'a\n1\n')


if __name__ == '__main__':
  tf.test.main()
