# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of accuracy and its test against chance."""

import itertools

from absl.testing import absltest
import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import accuracy
from official_ext.harmonization.evaluation import scores


def _measure(predictions, labels):
  return accuracy.measure(
    predictions, labels, preprocessing='all of it', model_preprocessing='BGR'
  )


class ChanceTest(absltest.TestCase):
  def test_equals_enumeration_of_all_outcomes(self):
    predictions, labels = [0, 0, 0, 1], [0, 0, 1, 2]
    found = accuracy.chance(predictions, labels)
    # Shares of predictions 3/4, 1/4, 0; of labels 2/4, 1/4, 1/4.
    self.assertAlmostEqual(found.rate, 0.75 * 0.5 + 0.25 * 0.25)
    rate = found.rate
    expected = sum(
      np.prod([rate if hit else 1 - rate for hit in hits])
      for hits in itertools.product((0, 1), repeat=4)
      if sum(hits) >= 2
    )
    self.assertAlmostEqual(found.p_value, expected)

  def test_guesses_are_at_chance_and_predictions_are_not(self):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    guessed = rng.integers(0, 10, 200)
    known = np.where(rng.random(200) < 0.3, labels, guessed)
    self.assertTrue(accuracy.chance(guessed, labels).is_at_chance)
    self.assertFalse(accuracy.chance(known, labels).is_at_chance)

  def test_always_the_same_class_is_at_chance(self):
    labels = np.array([7] * 60 + [8] * 40)
    self.assertTrue(accuracy.chance(np.full(100, 7), labels).is_at_chance)

  def test_significance_level(self):
    # At most one of a hundred guessers is above chance by the test.
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, (1000, 60))
    guessed = rng.integers(0, 5, (1000, 60))
    above = [
      not accuracy.chance(g, y).is_at_chance for g, y in zip(guessed, labels)
    ]
    self.assertLess(np.mean(above), 0.02)

  def test_warning_names_the_preprocessing(self):
    score, warnings = _measure([1, 2, 3, 4], [0, 1, 2, 3])
    self.assertEqual((score.value, score.n), (0.0, 4))
    self.assertLen(warnings, 1)
    self.assertIn('BGR', warnings[0])
    labels = list(range(10))
    score, warnings = _measure(labels, labels)
    self.assertEqual((score.value, warnings), (1.0, []))
    self.assertAlmostEqual(score.details['chance'], 0.1)


class ProportionTest(absltest.TestCase):
  def test_wilson_by_hand(self):
    # All of 20: [n / (n + z^2), 1], z = 1.96.
    score = accuracy.proportion('top1', [True] * 20, preprocessing='')
    self.assertAlmostEqual(score.low, 20 / (20 + 1.959964**2), 6)
    self.assertEqual((score.value, score.high, score.n), (1.0, 1.0, 20))
    self.assertEqual(score.interval_method, 'Wilson')
    score, _ = _measure([0, 1, 1, 0], [0, 1, 0, 1])
    # (p + z^2 / 2n) / (1 + z^2 / n) +- z sqrt(p q / n + z^2 / 4n^2) / (...).
    z2 = 1.959964**2
    half = np.sqrt(z2 * (0.25 / 4 + z2 / 64)) / (1 + z2 / 4)
    self.assertAlmostEqual(score.low, 0.5 - half, 6)
    self.assertAlmostEqual(score.high, 0.5 + half, 6)

  def test_coverage_where_the_bootstrap_fails(self):
    n, p = 20, 0.98
    ends = np.array(
      [
        (s.low, s.high)
        for s in (
          accuracy.proportion('top1', np.arange(n) < k, preprocessing='')
          for k in range(n + 1)
        )
      ]
    )
    covers = (ends[:, 0] <= p) & (p <= ends[:, 1])
    # Exact: the sum of the probabilities of the counts that cover.
    coverage = stats.binom.pmf(np.arange(n + 1), n, p)[covers].sum()
    self.assertGreaterEqual(coverage, 0.93)
    bootstrap = [
      scores.bootstrap_interval(np.arange(n) < k, resamples=200)
      for k in range(n + 1)
    ]
    covers = np.array([low <= p <= high for low, high in bootstrap])
    coverage = stats.binom.pmf(np.arange(n + 1), n, p)[covers].sum()
    self.assertLess(coverage, 0.4)


class AmongTopTest(absltest.TestCase):
  def test_rank_of_the_label(self):
    logits = np.array([[6.0, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]])
    self.assertEqual(
      [list(accuracy.among_top(logits, [c, c])) for c in (4, 5, 0)],
      [[True, True], [False, True], [True, False]],
    )
    self.assertEqual(list(accuracy.among_top(logits, [0, 0], 1)), [True, False])

  def test_a_constant_network_does_not_profit(self):
    self.assertFalse(accuracy.among_top(np.zeros((3, 9)), [0, 4, 8]).any())


class PredictTest(absltest.TestCase):
  def test_nan_is_refused(self):
    logits = np.array([[1.0, 3.0], [np.nan, 0.0]])
    self.assertEqual(list(accuracy.predict(logits[:1])), [1])
    with self.assertRaisesRegex(ValueError, 'NaN for 1 of 2'):
      accuracy.predict(logits)


if __name__ == '__main__':
  absltest.main()
