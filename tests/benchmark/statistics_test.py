# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of intervals and tests for means, pairs and proportions."""

import math

from absl.testing import absltest
import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import statistics


class MeanTest(absltest.TestCase):
  def test_equals_scipys_t_test(self):
    values = np.random.default_rng(0).normal(0.3, 1, 15)
    expected = stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.9)
    found = statistics.mean([*values, math.nan], confidence=0.9)
    self.assertAlmostEqual(found.value, values.mean())
    self.assertAlmostEqual(found.low, interval.low)
    self.assertAlmostEqual(found.high, interval.high)
    self.assertAlmostEqual(found.p, expected.pvalue)
    self.assertAlmostEqual(found.standard_error, stats.sem(values))
    self.assertEqual(found.n, 15)

  def test_copies_in_a_group_add_nothing(self):
    values = np.random.default_rng(1).normal(size=10)
    once = statistics.mean(values)
    thrice = statistics.mean(np.repeat(values, 3), np.repeat(range(10), 3))
    for field in ('value', 'low', 'high', 'standard_error', 'p'):
      self.assertAlmostEqual(getattr(once, field), getattr(thrice, field))

  def test_one_group_has_no_interval(self):
    for values, groups in (([1.0], None), ([1.0, 3.0], [4, 4])):
      found = statistics.mean(values, groups)
      self.assertEqual(found.value, np.mean(values))
      self.assertTrue(math.isnan(found.low) and math.isnan(found.p))
    self.assertTrue(math.isnan(statistics.mean([math.nan]).value))

  def test_equal_values_are_certain(self):
    self.assertEqual(statistics.mean([0.5, 0.5]).p, 0)
    self.assertEqual(statistics.mean([0.0, 0.0]).p, 1)


class DifferenceTest(absltest.TestCase):
  def test_equals_scipys_paired_test(self):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 12))
    expected = stats.ttest_rel(a, b).pvalue
    found = statistics.difference([*a, math.nan, 1], [*b, 1, math.nan])
    self.assertAlmostEqual(found.p, expected)
    self.assertEqual(found.n, 12)


class HolmTest(absltest.TestCase):
  def test_the_example_of_the_method(self):
    found = statistics.holm([0.01, 0.04, math.nan, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, math.nan, 0.06, 0.02])
    self.assertEqual(statistics.holm([0.9, 0.8]), [1.0, 1.0])
    self.assertEqual(statistics.holm([]), [])


class WilsonTest(absltest.TestCase):
  def test_the_closed_form(self):
    z = stats.norm.ppf(0.975)
    for k, n in ((20, 20), (0, 5), (7, 31)):
      p = k / n
      centre = (p + z * z / (2 * n)) / (1 + z * z / n)
      half = (
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
      )
      low, high = statistics.wilson(k, n)
      self.assertAlmostEqual(low, centre - half)
      self.assertAlmostEqual(high, centre + half)
    self.assertTrue(math.isnan(statistics.wilson(0, 0)[0]))

  def test_covers_proportions_near_one(self):
    p, n = 0.98, 20
    counts = np.arange(n + 1)
    covers = [
      low <= p <= high
      for low, high in (statistics.wilson(k, n) for k in counts)
    ]
    self.assertGreater(np.sum(stats.binom.pmf(counts, n, p) * covers), 0.93)


if __name__ == '__main__':
  absltest.main()
