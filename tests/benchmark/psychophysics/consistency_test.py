# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of error consistency against scikit-learn, by hand, in simulations."""

# Bazel: size = "large"

import math
import unittest

import numpy as np
from scipy import stats
from sklearn import metrics

from official_ext.harmonization.benchmark.psychophysics import consistency


def _observers(right):
  """Returns arguments of `agreement` for observers who have seen everything."""
  right = np.asarray(right, np.float32)
  return right, np.ones(right.shape, bool)


def _kappa(a, b):
  return consistency.agreement(*_observers([[a, b]])).error_consistency[0, 1]


class AgreementTest(unittest.TestCase):
  def test_by_hand(self):
    # Both right 20 times, only the first 5, only the second 10, neither 15.
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    found = consistency.agreement(*_observers([[first, second]]))
    # Observed 35 / 50 = .7; expected .5 * .6 + .5 * .4 = .5; kappa .2 / .5.
    self.assertAlmostEqual(found.error_consistency[0, 1], 0.4)
    self.assertAlmostEqual(found.observed_consistency[0, 1], 0.7)
    self.assertAlmostEqual(found.accuracy_difference[0, 1], 0.01)
    for values in found:
      np.testing.assert_allclose(values, values.T)

  def test_equals_scikit_learn(self):
    rng = np.random.default_rng(0)
    for _ in range(50):
      a, b = rng.random((2, 60)) < rng.random((2, 1))
      b = np.where(rng.random(60) < rng.random(), a, b)
      expected = metrics.cohen_kappa_score(a, b)
      if not math.isnan(expected):
        self.assertAlmostEqual(_kappa(a, b), expected, 6)

  def test_weights_count_images_repeatedly(self):
    rng = np.random.default_rng(0)
    right, seen = _observers(rng.random((3, 4, 20)) < 0.7)
    weights = rng.integers(0, 3, 20)
    copies = [x.repeat(weights, axis=2) for x in (right, seen)]
    for found, expected in zip(
      consistency.agreement(right, seen, weights),
      consistency.agreement(*copies),
    ):
      np.testing.assert_allclose(found, expected)

  def test_only_shared_trials_count(self):
    rng = np.random.default_rng(0)
    right, seen = _observers(rng.random((2, 2, 30)) < 0.6)
    seen[0, 0, :10] = seen[0, 1, 20:] = False
    found = consistency.agreement(right, seen)
    kept = slice(10, 20)
    a, b = right[0, :, kept], right[1]
    parts = [consistency.agreement(*_observers(x[np.newaxis])) for x in (a, b)]
    self.assertAlmostEqual(
      found.observed_consistency[0, 1],
      (
        10 * parts[0].observed_consistency[0, 1]
        + 30 * parts[1].observed_consistency[0, 1]
      )
      / 40,
    )
    seen[0, 0, :20] = seen[1, 0] = False
    seen[0, 1, 20:] = False
    for values in consistency.agreement(right, seen):
      self.assertTrue(math.isnan(values[0, 1]))

  def test_both_always_right_is_undefined(self):
    self.assertTrue(math.isnan(_kappa([1, 1, 1], [1, 1, 1])))
    # One is always right: no more agreement than chance.
    self.assertEqual(_kappa([1, 1, 1], [1, 1, 0]), 0.0)

  def test_bounds(self):
    rng = np.random.default_rng(0)
    right = rng.random((5, 1, 40)) < 0.7
    same = consistency.agreement(*_observers(right.repeat(2, axis=1)))
    self.assertEqual(same.error_consistency[0, 1], 1.0)
    self.assertEqual(same.observed_consistency[0, 1], 1.0)
    self.assertEqual(same.accuracy_difference[0, 1], 0.0)
    self.assertEqual(_kappa([1, 1, 0, 0], [0, 0, 1, 1]), -1.0)

  def test_independent_observers(self):
    # Accuracy rises with the level for both, which must not count.
    rng = np.random.default_rng(0)
    p = np.array([[0.55, 0.5], [0.75, 0.65], [0.95, 0.98]])[..., np.newaxis]
    kappas = [
      consistency.agreement(
        *_observers(rng.random((3, 2, 50)) < p)
      ).error_consistency[0, 1]
      for _ in range(500)
    ]
    self.assertLess(abs(np.mean(kappas)), 3 * stats.sem(kappas))
    # The same trials pooled over levels agree beyond chance.
    right = rng.random((3, 2, 5000)) < p
    pooled = _kappa(*right.transpose(1, 0, 2).reshape(2, -1))
    self.assertGreater(pooled, 0.1)


class CompareTest(unittest.TestCase):
  def people(self, rng, participants, images=40, levels=2, shared=0.5):
    """Participants who all find the same images difficult."""
    hard = rng.random((levels, 1, images)) < 0.4
    own = rng.random((levels, participants, images)) < 0.4
    use = rng.random((levels, participants, images)) < shared
    return ~np.where(use, hard, own)

  def compare(self, model, people, resamples=50, seed=0):
    rng = np.random.default_rng(seed)
    images, participants = people.shape[2], people.shape[1]
    return consistency.compare(
      _observers(model),
      _observers(people),
      rng.multinomial(images, np.full(images, 1 / images), resamples),
      rng.multinomial(
        participants, np.full(participants, 1 / participants), resamples
      ),
    )

  def test_means_over_pairs(self):
    rng = np.random.default_rng(0)
    people = self.people(rng, 4, levels=1)
    model = rng.random((1, 1, 40)) < 0.6
    found = self.compare(model, people)
    each = people[0]
    kappa = metrics.cohen_kappa_score
    self.assertAlmostEqual(
      found.model.error_consistency,
      np.mean([kappa(model[0, 0], a) for a in each]),
      6,
    )
    rows = [
      np.mean([kappa(a, b) for j, b in enumerate(each) if i != j])
      for i, a in enumerate(each)
    ]
    np.testing.assert_allclose(
      found.participants.error_consistency, rows, atol=1e-6
    )
    self.assertAlmostEqual(found.people.error_consistency, np.mean(rows), 6)

  def test_a_network_like_people_does_not_differ(self):
    # The network is one more participant: p of the difference is uniform.
    rng = np.random.default_rng(1)
    p, differences = [], []
    for seed in range(40):
      everyone = self.people(rng, 9)
      found = self.compare(everyone[:, :1], everyone[:, 1:], 60, seed)
      differences.append(
        found.model.error_consistency - found.people.error_consistency
      )
      p.append(
        consistency.p_value(
          found.resampled_model.error_consistency
          - found.resampled_people.error_consistency
        )
      )
    self.assertLess(abs(np.mean(differences)), 3 * stats.sem(differences))
    self.assertLessEqual(np.mean(np.array(p) < 0.05), 0.15)

  def test_copies_of_a_participant_do_not_agree_with_each_other(self):
    # Independent participants: kappa 0, in each resample also.
    rng = np.random.default_rng(2)
    people = self.people(rng, 6, images=400, shared=0.0)
    found = self.compare(people[:, :1], people[:, 1:], 200)
    values = found.resampled_people.error_consistency
    self.assertLess(abs(np.mean(values)), 0.05)

  def test_the_interval_is_over_participants(self):
    # Half of the participants decide as the network does, half independently.
    # kappa is about 1 or 0, so that its mean has the spread of a binomial;
    # resampled trials alone would give a fraction of that.
    rng = np.random.default_rng(3)
    model = rng.random((3, 1, 400)) < 0.6
    people = rng.random((3, 10, 400)) < 0.6
    people[:, :5] = model
    found = self.compare(model, people, 400)
    self.assertAlmostEqual(
      np.std(found.resampled_model.error_consistency),
      math.sqrt(0.25 / 10),
      delta=0.02,
    )

  def test_coverage_of_the_mean_over_participants(self):
    # Participant h copies the network on a share s_h of the trials, so that
    # kappa is s_h (all accuracies are equal); its mean over people is .4.
    rng, covered = np.random.default_rng(4), 0
    for seed in range(40):
      model = rng.random((2, 1, 60)) < 0.6
      share = rng.uniform(0.1, 0.7, (1, 12, 1))
      people = np.where(
        rng.random((2, 12, 60)) < share, model, rng.random((2, 12, 60)) < 0.6
      )
      found = self.compare(model, people, 100, seed)
      low, high = np.quantile(
        found.resampled_model.error_consistency, (0.025, 0.975)
      )
      covered += low <= 0.4 <= high
    # 38 of 40 are expected.
    self.assertGreaterEqual(covered, 34)


class PValueTest(unittest.TestCase):
  def test_counts_the_rarer_side(self):
    values = np.arange(-2, 97)  # 99 values, of which 3 are at most 0.
    self.assertAlmostEqual(consistency.p_value(values), 2 * 4 / 100)
    self.assertAlmostEqual(consistency.p_value(-values), 2 * 4 / 100)
    self.assertEqual(consistency.p_value([0.0] * 10), 1.0)
    self.assertTrue(math.isnan(consistency.p_value([math.nan, math.nan, 1.0])))


if __name__ == '__main__':
  unittest.main()
