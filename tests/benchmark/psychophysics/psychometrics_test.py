# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of psychometric functions, against closed forms and scipy."""

import math
import unittest

import numpy as np
from scipy import special
from scipy import stats

from official_ext.harmonization.benchmark.psychophysics import psychometrics

PERCENTS = np.logspace(0, 2, 11)


class DPrimeTest(unittest.TestCase):
  def test_closed_form(self):
    # 30.5 / 41 and 10.5 / 41 are symmetric, so d' = 2 z(30.5 / 41).
    found = psychometrics.d_prime(30, 40, 10, 40)
    self.assertAlmostEqual(float(found), 2 * stats.norm.ppf(30.5 / 41), 12)

  def test_perfect_and_chance_and_reversed(self):
    found = psychometrics.d_prime([40, 20, 0], 40, [0, 20, 40], 40)
    best = 2 * stats.norm.ppf(40.5 / 41)
    np.testing.assert_allclose(found, [best, 0.0, -best], atol=1e-12)

  def test_bias_does_not_count(self):
    # Two observers of d' = 1.5 whose criteria differ, with many trials.
    n = 10**7
    for criterion in (-1.0, 0.0, 1.0):
      hits, false_alarms = (
        n * stats.norm.sf(criterion - m) for m in (1.5, 0.0)
      )
      self.assertAlmostEqual(
        float(psychometrics.d_prime(hits, n, false_alarms, n)), 1.5, 5
      )

  def test_undefined_without_one_target(self):
    self.assertTrue(
      np.isnan(psychometrics.d_prime([3, 0], [5, 0], [0, 1], [0, 4])).all()
    )


class LogisticTest(unittest.TestCase):
  def test_formula(self):
    function = psychometrics.Logistic(1.0, 3.0, 0.02)
    expected = 0.5 + 0.48 / (1 + np.exp(-3.0 * (np.log10(PERCENTS) - 1.0)))
    np.testing.assert_allclose(function(PERCENTS), expected, rtol=1e-12)
    self.assertAlmostEqual(float(function(10.0)), 0.5 + 0.48 / 2)
    self.assertAlmostEqual(function.threshold, 10.0)

  def test_known_parameters_are_recovered_from_expected_counts(self):
    trials = np.full(11, 1000.0)
    for threshold, slope, lapse in (
      (4.0, 4.0, 0.0),
      (20.0, 8.0, 0.03),
      (50.0, 3.0, 0.05),
    ):
      true = psychometrics.Logistic(math.log10(threshold), slope, lapse)
      found = psychometrics.fit_logistic(
        PERCENTS, true(PERCENTS) * trials, trials
      )
      self.assertEqual(found.problem, '')
      self.assertLess(abs(found.threshold / threshold - 1.0), 0.01)
      self.assertLess(abs(found.slope / slope - 1.0), 0.05)
      self.assertLess(abs(found.lapse - lapse), 0.01)

  def test_threshold_of_a_simulated_observer(self):
    rng = np.random.default_rng(0)
    p = psychometrics.Logistic(1.0, 5.0, 0.02)(PERCENTS)
    found = [
      psychometrics.fit_logistic(
        PERCENTS, rng.binomial(200, p), np.full(11, 200)
      ).threshold
      for _ in range(20)
    ]
    self.assertLess(abs(np.mean(found) - 10.0), 0.5)
    self.assertGreater(np.std(found), 0.1)

  def test_many_curves_at_once(self):
    p = psychometrics.Logistic(1.2, 4.0, 0.01)(PERCENTS)
    correct = np.random.default_rng(1).binomial(200, p, (10, 11))
    trials = np.full((10, 11), 200)
    correct[3] = 200
    found = psychometrics.thresholds(PERCENTS, correct, trials)
    expected = [
      psychometrics.fit_logistic(PERCENTS, c, t).threshold
      for c, t in zip(correct, trials)
    ]
    np.testing.assert_allclose(found, expected, rtol=0.08)
    self.assertTrue(np.isnan(found[3]))

  def test_no_threshold_for_a_constant_curve(self):
    trials = np.full(11, 100)
    always = psychometrics.fit_logistic(PERCENTS, trials, trials)
    self.assertTrue(math.isnan(always.threshold))
    self.assertIn('below', always.problem)
    never = psychometrics.fit_logistic(PERCENTS, trials * 0.5, trials)
    self.assertTrue(math.isnan(never.threshold))
    self.assertIn('above', never.problem)

  def test_levels_without_responses_do_not_count(self):
    p = psychometrics.Logistic(1.0, 5.0, 0.0)(PERCENTS)
    trials = np.full(11, 100.0)
    trials[[2, 7]] = 0
    found = psychometrics.fit_logistic(PERCENTS, p * trials, trials)
    self.assertLess(abs(found.threshold - 10.0), 0.2)

  def test_refusals(self):
    with self.assertRaisesRegex(ValueError, 'at least 3'):
      psychometrics.fit_logistic([1, 10, 100], [1, 1, 0], [1, 1, 0])
    with self.assertRaisesRegex(ValueError, 'trials is .1. 1. 2..'):
      psychometrics.fit_logistic([1, 10, 100], [1, 1, 3], [1, 1, 2])


class DistanceTest(unittest.TestCase):
  def test_l2_is_the_norm(self):
    a, b = np.random.default_rng(0).random((2, 5, 12))
    np.testing.assert_allclose(
      psychometrics.l2(a, b), np.linalg.norm(a - b, axis=1)
    )
    self.assertEqual(psychometrics.l2(a[0], a[0]), 0.0)
    self.assertTrue(np.isnan(psychometrics.l2(a[0], np.full(12, np.nan))))

  def test_negative_log_mse(self):
    a, b = np.array([0.5, 0.6, 1.0]), np.array([0.2, 0.4, 0.4])
    mse = ((0 - 0) ** 2 + (0.2 - 1) ** 2 + (1 - 1) ** 2) / 3
    self.assertAlmostEqual(
      float(psychometrics.negative_log_mse(a, b)), -math.log(mse)
    )

  def test_shape_counts_and_height_does_not(self):
    a = special.expit(np.linspace(-4, 4, 11))
    np.testing.assert_allclose(
      psychometrics.negative_log_mse(a, 0.5 + 0.2 * a),
      -math.log(np.finfo(float).eps),
    )

  def test_flat_curves_are_undefined(self):
    flat = np.full(11, 0.7)
    values = psychometrics.negative_log_mse(
      np.stack([flat, np.arange(11.0)]), np.arange(11.0)[::-1]
    )
    self.assertTrue(np.isnan(values[0]))
    self.assertTrue(np.isfinite(values[1]))


if __name__ == '__main__':
  unittest.main()
