# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of alignment as a part of what people reach."""

import math
import os
from unittest import mock

from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import normalization
from official_ext.harmonization.benchmark import specificity
from studies import ceiling_coverage
from studies import coverage
from studies import participant_coverage
from studies import seed_coverage

_NAN = math.nan


def _values(n=40, seed=0):
  """Influences and people's values of n images, correlated by image."""
  rng = np.random.default_rng(seed)
  quality = rng.normal(0, 0.1, n)
  e = 0.2 + quality + rng.normal(0, 0.05, n)
  s = 0.5 + quality + rng.normal(0, 0.05, n)
  b = 2 * s / (1 + s)
  f = 0.1 + rng.normal(0, 0.02, n)
  return e, s, b, f


class RatioTest(tf.test.TestCase, parameterized.TestCase):
  def test_is_the_ratio_of_means(self):
    e, s, b, f = _values()
    found = normalization.controlled(e, s, b, f)
    expected = e.mean() / (np.sqrt(b.mean()) * (1 - f.mean() / s.mean()))
    self.assertAllClose(found.value, expected, rtol=1e-12)
    self.assertEqual((found.n, found.reason), (40, ''))
    person = normalization.controlled_person(e, s, f)
    self.assertAllClose(person.value, e.mean() / (s.mean() - f.mean()))

  def test_uses_the_root_of_the_mean(self):
    e, s, b, f = _values()
    # Weak agreement: a third of the images have a negative Spearman-Brown.
    b = np.where(np.arange(40) % 3 == 0, -0.1, b)
    found = normalization.controlled(e, s, b, f)
    self.assertAllClose(
      found.value, e.mean() / (np.sqrt(b.mean()) * (1 - f.mean() / s.mean()))
    )

  @parameterized.parameters('controlled', 'controlled_person')
  def test_interval_is_that_of_a_jackknife(self, name):
    # The jackknife computes the statistic again without each image. The floor
    # is the mean over pairs of a matrix of all images.
    e, s, b, _ = _values(60, 1)
    rng = np.random.default_rng(2)
    effect = rng.normal(0, 0.05, 60)
    pairs = 0.1 + effect[:, None] + effect + 0.02 * rng.normal(size=(60, 60))
    pairs = (pairs + pairs.T) / 2

    def statistic(kept):
      inner = pairs[np.ix_(kept, kept)]
      f = (inner.sum(1) - np.diag(inner)) / (len(kept) - 1)
      if name == 'controlled':
        return normalization.controlled(e[kept], s[kept], b[kept], f)
      return normalization.controlled_person(e[kept], s[kept], f)

    everyone = np.arange(60)
    found = statistic(everyone)
    without = [statistic(np.delete(everyone, i)).value for i in everyone]
    low, high = normalization.user_interval(
      found.value, dict(enumerate(without))
    )
    self.assertAllClose(found.low, low, atol=0.04 * (high - low))
    self.assertAllClose(found.high, high, atol=0.04 * (high - low))

  def test_difference_of_two_networks_is_that_of_a_jackknife(self):
    e, s, b, f = _values(60, 1)
    other = 0.7 * e + np.random.default_rng(4).normal(0, 0.05, 60)
    groups = np.arange(60) // 2

    def difference(kept):
      # The floors of single images stay, so that their weights are not tested.
      flat = np.full(len(kept), f.mean())
      first, second = (
        normalization.controlled(x[kept], s[kept], b[kept], flat)
        for x in (e, other)
      )
      return second.value - first.value

    flat = np.full(60, f.mean())
    first, second = (
      normalization.controlled(x, s, b, flat, groups) for x in (e, other)
    )
    found = normalization.statistics.difference(
      second.values, first.values, groups
    )
    self.assertAllClose(found.value, difference(np.arange(60)), rtol=1e-9)
    without = {i: difference(np.flatnonzero(groups != i)) for i in range(30)}
    low, high = normalization.user_interval(found.value, without)
    self.assertAllClose(
      (found.low, found.high), (low, high), atol=0.04 * (high - low)
    )
    # Without pairing by image, the interval would be wider.
    unpaired = np.hypot(second.high - second.value, first.high - first.value)
    self.assertLess(found.high - found.value, 0.8 * unpaired)

  def test_excludes_images_without_all_values(self):
    e, s, b, f = _values()
    groups = np.arange(40) // 2
    expected = normalization.controlled(e[2:], s[2:], b[2:], f[2:], groups[2:])
    e[0], f[1] = _NAN, _NAN
    found = normalization.controlled(e, s, b, f, groups)
    self.assertEqual(found.n, 38)
    self.assertAllEqual(np.isnan(found.values), np.arange(40) < 2)
    self.assertAllClose(np.nanmean(found.values), found.value)
    self.assertAllClose(
      (found.value, found.low, found.high),
      (expected.value, expected.low, expected.high),
    )
    with self.assertRaisesRegex(ValueError, r'\(40,\).*\(39,\)'):
      normalization.controlled_person(e, s[1:], f[1:])

  def test_is_undefined_where_the_denominator_may_be_0(self):
    e, s, b, f = _values()
    for values, reason in (
      ((e, s - 0.41, b, f), r'reaches 0'),
      ((e, s - 0.6, b, f), r'do not agree.*-0\.\d+'),
      ((e, s, b - 0.9, f), r'do not agree'),
      ((e, s, b, f * _NAN), r'no image'),
      ((e[:1], s[:1], b[:1], f[:1]), r'1 image in'),
    ):
      found = normalization.controlled(*values)
      self.assertTrue(math.isnan(found.value))
      self.assertTrue(math.isnan(found.low))
      self.assertRegex(found.reason, reason)
      self.assertTrue(np.isnan(found.values).all())
      self.assertLen(found.values, len(values[0]))
    found = normalization.controlled_person(e, f + 0.3 * s, f)
    self.assertEqual(found.reason, '')
    found = normalization.controlled_person(e, f - 0.01, f)
    self.assertRegex(found.reason, r'-0\.010.*reaches 0')
    self.assertEqual(found.n, 40)

  def test_jackknife_over_users(self):
    # For a mean, the jackknife gives the usual standard error.
    values = np.random.default_rng(3).normal(size=12)
    without = {str(i): np.delete(values, i).mean() for i in range(12)}
    found = normalization.user_interval(values.mean(), without)
    expected = normalization.statistics.mean(values)
    self.assertAllClose(found, (expected.low, expected.high))
    without['3'] = _NAN
    self.assertAllEqual(
      np.isnan(normalization.user_interval(0.0, without)), [True, True]
    )


class SimulationTest(tf.test.TestCase):
  def test_noise_free_network_reaches_1(self):
    truth = ceiling_coverage.population(ceiling_coverage.Setting(), 2000)
    self.assertAllClose(truth['controlled'], 0.992, atol=0.01)
    # Other denominators are not what a noise-free network reaches.
    self.assertAllClose(truth['controlled_person'], 1.89, atol=0.03)
    self.assertGreater(truth['over split-half minus floor'], 1.4)
    self.assertLess(truth['over the upper ceiling'], 0.65)

  def test_weak_agreement(self):
    # Images with a negative Spearman-Brown have no root.
    setting = ceiling_coverage.Setting(noise=6.0, participants=4)
    truth = ceiling_coverage.population(setting, 2000)
    self.assertGreater(truth['negative Spearman-Brown'], 0.15)
    self.assertAllClose(truth['controlled'], 0.94, atol=0.04)

  def test_intervals_cover(self):
    settings = {'weak agreement': ceiling_coverage.SETTINGS['weak agreement']}
    output = os.path.join(self.get_temp_dir(), 'results', 'coverage.json')
    ceiling_coverage.run(settings, 150, 4000, output)
    results = ceiling_coverage.run(settings, 200, 4000, output)
    self.assertEqual(results, files.read_json(output))
    (result,) = results.values()
    self.assertEqual(result['done'], 200)
    covered = {
      name: count['covered'] / count['defined']
      for name, count in result['counts'].items()
    }
    for name in ('controlled', 'controlled_person'):
      self.assertBetween(covered[name], 0.91, 0.99)
    self.assertLess(covered['controlled_person, ceiling exact'], 0.85)
    self.assertIn('| weak agreement | ', ceiling_coverage.table(results))

  def test_crossed_participants(self):
    setting = participant_coverage.Setting(
      images=12, participants=4, splits=2, pixels=16, users=8
    )
    output = os.path.join(self.get_temp_dir(), 'crossed', 'coverage.json')
    with mock.patch.object(participant_coverage, '_POPULATION', 20):
      participant_coverage.run({'few': setting}, 2, output)
      results = participant_coverage.run({'few': setting}, 3, output)
    self.assertEqual(results, files.read_json(output))
    self.assertEqual(results['few']['done'], 3)
    self.assertLen(results['few']['counts'], 8)
    self.assertIn('| few | ', participant_coverage.table(results))


class SeedCoverageTest(tf.test.TestCase):
  def test_the_influence_is_that_of_the_statistic(self):
    model, human = (
      coverage.unit_ranks(m)
      for m in np.random.default_rng(0).normal(size=(2, 6, 20))
    )
    self.assertAllClose(
      coverage.influence(model, human),
      specificity.measure(model, human).influence,
    )

  def test_intervals_over_seeds_cover(self):
    name = 'both vary, 5 runs, 20 images'
    output = os.path.join(self.get_temp_dir(), 'results', 'seeds.json')
    setting = {name: seed_coverage.SETTINGS[name]}
    seed_coverage.run(setting, 50, output)
    result = seed_coverage.run(setting, 150, output)[name]
    self.assertEqual(result, files.read_json(output)[name])
    self.assertBetween(result['covered']['mean'] / 150, 0.91, 0.99)
    self.assertBetween(result['covered']['difference'] / 150, 0.91, 1.0)
    self.assertIn(f'| {name} | ', seed_coverage.table({name: result}))


if __name__ == '__main__':
  tf.test.main()
