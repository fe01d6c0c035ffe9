# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of intervals and tests for means, pairs and proportions."""

import itertools
import math

from absl.testing import absltest
import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import power
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import statistics


class MeanTest(absltest.TestCase):
  def test_text_of_p_values(self):
    self.assertEqual(statistics.p_text(0.0312), '0.031')
    self.assertEqual(statistics.p_text(9.9e-5), '< 0.0001')
    self.assertEqual(statistics.p_words(0.49), 'p = 0.49')
    self.assertEqual(statistics.p_words(0.0), 'p < 0.0001')

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


class DifferenceOfMeansTest(absltest.TestCase):
  def test_equals_scipys_welch_test(self):
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.5, 1, 9), rng.normal(0, 3, 14)
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.9)
    found = statistics.difference_of_means(
      [*a, math.nan], [math.nan, *b], confidence=0.9
    )
    self.assertAlmostEqual(found.value, a.mean() - b.mean())
    self.assertAlmostEqual(found.low, interval.low)
    self.assertAlmostEqual(found.high, interval.high)
    self.assertAlmostEqual(found.p, expected.pvalue)
    self.assertEqual(found.n, 23)

  def test_copies_in_a_group_add_nothing(self):
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=6), rng.normal(size=8)
    once = statistics.difference_of_means(a, b)
    twice = statistics.difference_of_means(
      np.repeat(a, 2),
      np.repeat(b, 2),
      np.repeat(range(6), 2),
      np.repeat(range(10, 18), 2),
    )
    for field in ('value', 'low', 'high', 'standard_error', 'p'):
      self.assertAlmostEqual(getattr(once, field), getattr(twice, field))

  def test_groups_in_both_sets_make_pairs(self):
    rng = np.random.default_rng(5)
    a = rng.normal(size=10)
    b = a + 0.1 * rng.normal(size=10)
    found = statistics.difference_of_means(a, b, range(10), range(10))
    self.assertAlmostEqual(found.standard_error, stats.sem(a - b))

  def test_one_group_has_no_interval(self):
    found = statistics.difference_of_means([1.0], [2.0, 4.0])
    self.assertEqual((found.value, found.n), (-2.0, 3))
    self.assertTrue(math.isnan(found.low) and math.isnan(found.p))
    self.assertTrue(
      math.isnan(statistics.difference_of_means([], [1.0, 2.0]).value)
    )
    with self.assertRaisesRegex(ValueError, 'both or neither'):
      statistics.difference_of_means([1.0], [2.0], [0])


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


def _bootstrap_variance(values, draws_runs, draws_images):
  """Returns the exact variance of the mean over all bootstrap samples."""
  r, n = (range(size) for size in values.shape)
  rows = list(itertools.product(r, repeat=len(r))) if draws_runs else [list(r)]
  columns = (
    list(itertools.product(n, repeat=len(n))) if draws_images else [list(n)]
  )
  means = [values[list(row)].mean(axis=0)[np.array(columns)] for row in rows]
  return np.var(np.mean(means, axis=-1))


class BoundedTest(absltest.TestCase):
  def test_wilsons_if_each_image_is_its_own_group(self):
    hits = np.array([1, 1, 0, 1, np.nan, 1, 1, 1])
    expected = stats.binomtest(6, 7).proportion_ci(method='wilson')
    for groups in (None, 'abcdefgh'):
      groups = groups and list(groups)
      found = statistics.proportion(hits, groups)
      np.testing.assert_allclose(found, (expected.low, expected.high))
      self.assertEqual(statistics.proportion_method(groups), 'Wilson')

  def test_ends_are_those_of_the_definition(self):
    p, half = 0.95, 0.08
    found = statistics.bounded(p, p - half, p + half, 20)
    for q in found:
      limit = half * np.sqrt(q * (1 - q) / (p * (1 - p)))
      self.assertAlmostEqual(abs(p - q), limit)
    self.assertBetween(found[0], 0, p)
    self.assertBetween(found[1], p, 1)
    # All right, or all images alike: as 20 independent images.
    for p in (0, 0.5, 1):
      expected = statistics.wilson(int(20 * p), 20)
      self.assertEqual(statistics.bounded(p, p, p, 20), expected)
      rounded = statistics.bounded(p, p - 1e-16, p + 1e-16, 20)
      self.assertEqual(rounded, expected)
    self.assertTrue(np.isnan(statistics.bounded(1, np.nan, np.nan, 1)).all())

  def test_frames_of_a_video_are_not_independent(self):
    # Equal frames tell as much as one of them.
    hits = np.repeat([1, 0, 1, 1, 1, 1, 0, 1, 1, 1], 3)
    groups = np.repeat(range(10), 3)
    found = statistics.proportion(hits, groups)
    q = statistics.mean(hits[::3]).high - 0.8
    centre = (0.8 + q**2 / 0.32) / (1 + q**2 / 0.16)
    self.assertAlmostEqual(np.mean(found), centre)
    alone = statistics.wilson(24, 30)
    self.assertGreater(found[1] - found[0], 1.5 * (alone[1] - alone[0]))
    self.assertIn('over groups', statistics.proportion_method(groups))
    self.assertEqual(
      statistics.proportion(np.ones(30), groups), statistics.wilson(10, 10)
    )

  def test_covers_where_the_t_interval_leaves_the_range(self):
    rng = np.random.default_rng(0)
    outside = covered = 0
    for _ in range(400):
      # Three runs, whose answers to an image agree in part.
      chance = rng.beta(9, 1, 30)
      values = (rng.random((3, 30)) < chance).mean(axis=0)
      t = statistics.mean(values)
      low, high = statistics.bounded(t.value, t.low, t.high, 30)
      outside += t.high > 1
      covered += low <= 0.9 <= high
    self.assertGreater(outside, 10)
    self.assertBetween(covered / 400, 0.92, 0.98)


class RepeatedRunsTest(absltest.TestCase):
  def test_parts_are_those_of_the_bootstrap_that_draws_runs_and_images(self):
    runs, n = 5, 3
    values = np.random.default_rng(3).normal(size=(runs, n))
    parts = repeated_runs.mean(values).variance
    # A bootstrap has no correction for the means being estimated.
    images = parts.images * (n - 1) / n
    seeds = parts.seeds * (runs - 1) / runs
    both = parts.both * (n - 1) / n * (runs - 1) / runs
    by_images = _bootstrap_variance(values, False, True)
    by_runs = _bootstrap_variance(values, True, False)
    at_once = _bootstrap_variance(values, True, True)
    self.assertAlmostEqual(by_images, images)
    self.assertAlmostEqual(by_runs, seeds)
    self.assertAlmostEqual(
      2 * (by_images + by_runs) - at_once, images + seeds - both
    )

  def test_mean_squares(self):
    # The analysis of variance of runs and images without replication.
    rng = np.random.default_rng(9)
    runs, n = 6, 11
    values = rng.normal(size=(runs, 1)) + rng.normal(size=(runs, n))
    values += 2 * rng.normal(size=n)
    by_run, by_image = values.mean(axis=1), values.mean(axis=0)
    rest = values - by_run[:, np.newaxis] - by_image + values.mean()
    squares = (
      n * by_run.var(ddof=1),
      runs * by_image.var(ddof=1),
      np.sum(rest**2) / ((runs - 1) * (n - 1)),
    )
    total = squares[0] + squares[1] - squares[2]
    free = (runs - 1, n - 1, (runs - 1) * (n - 1))
    df = total**2 / sum(s**2 / f for s, f in zip(squares, free))
    found = repeated_runs.mean(values)
    expected = stats.t.interval(
      0.95, df, values.mean(), math.sqrt(total / (runs * n))
    )
    np.testing.assert_allclose((found.low, found.high), expected)

  def test_only_seeds_vary(self):
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.5, 1, 6), rng.normal(0, 2, 9)
    wide = [np.repeat(x[:, np.newaxis], 7, axis=1) for x in (a, b)]
    found = repeated_runs.difference(*wide)
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval()
    self.assertAlmostEqual(found.p, expected.pvalue)
    self.assertAlmostEqual(found.low, interval.low)
    self.assertAlmostEqual(found.high, interval.high)
    self.assertTrue(found.over_seeds)

  def test_few_runs_say_nothing_on_seeds(self):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(4, 12)), rng.normal(size=(6, 12))
    a[1, 3] = math.nan
    groups = np.arange(12) // 2
    found = repeated_runs.difference(a, b, groups)
    expected = statistics.difference(a.mean(axis=0), b.mean(axis=0), groups)
    for field in ('value', 'low', 'high', 'p', 'n', 'standard_error'):
      self.assertEqual(getattr(found, field), getattr(expected, field))
    self.assertFalse(found.over_seeds)
    self.assertTrue(math.isnan(found.variance.seeds))
    self.assertIn('not estimable with 4 runs', repeated_runs.not_estimable(4))

  def test_copies_in_a_group_add_nothing(self):
    values = np.random.default_rng(6).normal(size=(5, 8))
    once = repeated_runs.mean(values)
    thrice = repeated_runs.mean(
      np.repeat(values, 3, axis=1), np.repeat(range(8), 3)
    )
    for field in ('value', 'low', 'high', 'p'):
      self.assertAlmostEqual(getattr(once, field), getattr(thrice, field))
    self.assertAlmostEqual(once.variance.both, thrice.variance.both)

  def test_variance_is_at_least_that_of_one_source(self):
    # Residuals dominate, so that the sum minus `both` is often too small.
    rng = np.random.default_rng(7)
    for _ in range(20):
      parts = repeated_runs.mean(rng.normal(size=(5, 6))).variance
      variance, df = repeated_runs.combine(parts)
      self.assertGreaterEqual(variance, max(parts.images, parts.seeds))
      self.assertGreaterEqual(df, 4)


class PowerTest(absltest.TestCase):
  def _of_images(self, deviation, n):
    return repeated_runs.Variance(
      deviation**2 / n, math.nan, math.nan, n, [1, 1]
    )

  def test_equals_rs_power_t_test(self):
    # power.t.test(delta=d, sd=1, power=.8, type='paired') in R 4.
    for d, expected in ((0.5, 33.37), (0.2, 198.15), (1.0, 9.94)):
      needed = power.images_needed(d, self._of_images(1.0, 20))
      self.assertEqual(needed, math.ceil(expected))
    found = power.power(0.5, self._of_images(1.0, 34))
    self.assertAlmostEqual(found, 0.8078, 4)
    self.assertAlmostEqual(power.power(0.0, self._of_images(1.0, 9)), 0.05)
    with self.assertRaisesRegex(ValueError, 'not estimable with 1 run,'):
      power.runs_needed(0.1, self._of_images(1.0, 20))

  def test_simulated_power_of_images_and_seeds(self):
    # Variances of seeds, images and the rest, per network.
    seed, image, rest, runs, n, delta = 0.02, 0.06, 0.1, 6, 30, 0.25
    parts = repeated_runs.Variance(
      2 * (image / n + rest / (runs * n)),
      2 * (seed / runs + rest / (runs * n)),
      2 * rest / (runs * n),
      n,
      [runs, runs],
    )
    needed = power.runs_needed(delta, parts)
    self.assertLess(needed, 40)
    rng, hits = np.random.default_rng(8), 0
    for _ in range(400):
      a, b = (
        seed**0.5 * rng.normal(size=(needed, 1))
        + image**0.5 * rng.normal(size=n)
        + rest**0.5 * rng.normal(size=(needed, n))
        for _ in range(2)
      )
      hits += repeated_runs.difference(a + delta, b).p < 0.05
    self.assertBetween(hits / 400, 0.74, 0.88)
    self.assertGreater(power.images_needed(delta / 2, parts) or 10**9, n)
    # Seeds differ by more than any number of images can average out.
    self.assertIsNone(power.images_needed(0.01, parts))
    self.assertIsNone(power.runs_needed(0.01, parts))

  def test_another_size_has_the_variance_of_its_size(self):
    parts = repeated_runs.Variance(0.05, 0.03, 0.01, 20, [5])
    found = power.scaled(parts, 40, 2)
    self.assertAlmostEqual(found.images, 0.04 / 2 + 0.01 / 4)
    self.assertAlmostEqual(found.seeds, 0.02 / 2 + 0.01 / 4)
    self.assertAlmostEqual(found.both, 0.01 / 4)
    self.assertEqual((found.groups, found.runs), (40, [10]))


if __name__ == '__main__':
  absltest.main()
