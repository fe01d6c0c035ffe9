# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of accuracy curves and their bootstrap against closed forms."""

# Bazel: size = "large"

import math
import unittest

import numpy as np

from official_ext.harmonization.benchmark.psychophysics import accuracy_curves
from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.benchmark.psychophysics import psychometrics
from official_ext.harmonization.data.stimuli import stimulus_files

_RESAMPLES = 4000


def _images(animals, vehicles):
  return accuracy_curves.ExperimentImages(
    [(f'a{i}', 'animal') for i in range(animals)]
    + [(f'v{i}', 'vehicle') for i in range(vehicles)]
  )


def _trials(images, participants, levels, is_right):
  """All participants see all stimuli; `is_right(participant, image, level)`."""
  trials = []
  for participant in range(participants):
    for image, place in images.index.items():
      target, other = 'animal', 'vehicle'
      if not images.animal[place]:
        target, other = other, target
      for level in levels:
        right = is_right(participant, image, level)
        trials.append(
          human_trials.Trial(
            str(participant), level, image, target, target if right else other
          )
        )
  return trials


class DrawTest(unittest.TestCase):
  def test_images_are_resampled_within_their_target(self):
    images = _images(6, 3)
    weights = images.resample(_RESAMPLES, np.random.default_rng(0))
    np.testing.assert_array_equal(weights[:, images.animal].sum(axis=1), 6)
    np.testing.assert_array_equal(weights[:, ~images.animal].sum(axis=1), 3)
    # With replacement, one of 6 is missing with probability (5 / 6)^6.
    self.assertAlmostEqual(
      (weights[:, images.animal] == 0).mean(), (5 / 6) ** 6, 2
    )

  def test_an_image_has_one_target(self):
    with self.assertRaisesRegex(ValueError, 'Image x'):
      accuracy_curves.ExperimentImages([('x', 'animal'), ('x', 'vehicle')])


class ResampleTest(unittest.TestCase):
  def resample(self, images, trials, levels):
    rng = np.random.default_rng(0)
    answers = accuracy_curves.ResponseCounts(trials, images, levels)
    weights = images.resample(_RESAMPLES, rng)
    return answers.resample(weights, answers.draw(_RESAMPLES, rng))

  def test_spread_over_participants(self):
    images = _images(2, 2)
    trials = _trials(images, 20, (0, 10), lambda p, image, level: p < 15)
    curves = self.resample(images, trials, (0, 10))
    # All responses of a participant are resampled together: a binomial of 20.
    np.testing.assert_allclose(
      curves.std(axis=0), math.sqrt(0.75 * 0.25 / 20), rtol=0.05
    )
    np.testing.assert_array_equal(curves[:, 0], curves[:, 1])

  def test_spread_over_images(self):
    images = _images(10, 10)
    trials = _trials(
      images, 3, (0, 10), lambda p, image, level: int(image[1:]) < 7
    )
    curves = self.resample(images, trials, (0, 10))
    np.testing.assert_allclose(
      curves.std(axis=0), math.sqrt(0.7 * 0.3 / 20), rtol=0.05
    )
    np.testing.assert_array_equal(curves[:, 0], curves[:, 1])

  def test_targets_differ_without_adding_spread(self):
    images = _images(10, 10)
    trials = _trials(images, 1, (0,), lambda p, image, level: image[0] == 'a')
    np.testing.assert_array_equal(self.resample(images, trials, (0,)), 0.5)
    images = _images(7, 13)
    trials = _trials(images, 1, (0,), lambda p, image, level: image[0] == 'v')
    np.testing.assert_array_equal(self.resample(images, trials, (0,)), 13 / 20)

  def test_a_level_without_resampled_participants_is_undefined(self):
    images = _images(2, 1)
    trials = _trials(images, 1, (0, 10), lambda *_: True)
    trials = [t for t in trials if t.level == 0 or t.image == 'a0']
    curves = self.resample(images, trials, (0, 10))
    np.testing.assert_array_equal(curves[:, 0], 1.0)
    # a0 is one of two animals.
    self.assertAlmostEqual(np.isnan(curves[:, 1]).mean(), 0.25, 1)


class SplitHalfTest(unittest.TestCase):
  def test_equal_and_opposite_participants(self):
    images = _images(2, 2)
    equal = accuracy_curves.ResponseCounts(
      _trials(images, 6, (0, 10), lambda p, image, level: level),
      images,
      (0, 10),
    )
    self.assertEqual(equal.split_half(psychometrics.l2, 0), (0.0, 0.0, 0.0))
    opposite = accuracy_curves.ResponseCounts(
      _trials(images, 2, (0, 10), lambda p, image, level: p), images, (0, 10)
    )
    self.assertAlmostEqual(
      opposite.split_half(psychometrics.l2, 0)[0], math.sqrt(2)
    )
    single = accuracy_curves.ResponseCounts(
      _trials(images, 1, (0,), lambda *_: True), images, (0,)
    )
    self.assertTrue(np.isnan(single.split_half(psychometrics.l2, 0)).all())

  def test_interval_covers_halves_of_other_people(self):
    # Participants differ in one number, so that the difference of two halves is
    # normal with variance 2 s^2 / (P / 2).
    images, rng = _images(50, 50), np.random.default_rng(0)
    participants, covered = 16, 0
    expected = math.sqrt(2 / math.pi) * math.sqrt(2 / (participants / 2))
    for _ in range(40):
      skill = np.round(50 + 10 * rng.standard_normal(participants))
      answers = accuracy_curves.ResponseCounts(
        _trials(
          images,
          participants,
          (0,),
          lambda p, image, level, s=skill: images.index[image] < s[p],
        ),
        images,
        (0,),
      )
      value, low, high = answers.split_half(psychometrics.l2, 0)
      self.assertLess(low, value)
      covered += low <= 0.1 * expected <= high
    # 38 of 40 are expected.
    self.assertGreaterEqual(covered, 33)

  def test_few_participants_have_no_interval(self):
    images = _images(2, 2)
    answers = accuracy_curves.ResponseCounts(
      _trials(images, 3, (0,), lambda p, image, level: p), images, (0,)
    )
    value, low, high = answers.split_half(psychometrics.l2, 0)
    self.assertGreater(value, 0.0)
    self.assertTrue(math.isnan(low) and math.isnan(high))


class ThresholdTest(unittest.TestCase):
  levels = (0, 20, 40, 60, 80, 100)

  def experiment(self, rng, participants=12, images=40):
    """People whose log10 thresholds are normal with mean 1 and sd 0.25."""
    shown = _images(images // 2, images // 2)
    percents = np.array([stimulus_files.percent(x) for x in self.levels])
    places = 1.0 + 0.25 * rng.standard_normal(participants)
    p = psychometrics.probability(
      np.log10(percents)[:, np.newaxis], places, 5.0, 0.02
    )
    right = rng.random((images, *p.shape)) < p
    column = {level: i for i, level in enumerate(self.levels)}
    answers = accuracy_curves.ResponseCounts(
      _trials(
        shown,
        participants,
        self.levels,
        lambda who, image, level: right[shown.index[image], column[level], who],
      ),
      shown,
      self.levels,
    )
    return answers, shown

  def test_participants_are_resampled(self):
    # By symmetry in the logarithm, people's mean threshold is 10 %.
    rng, covered, widths = np.random.default_rng(0), [], []
    for _ in range(30):
      answers, shown = self.experiment(rng)
      weights = shown.resample(100, rng)
      drawn = answers.draw(100, rng)
      # As if these participants were all there are.
      fixed = np.ones_like(drawn)
      ends = [
        accuracy_curves.interval(answers.thresholds(weights, d), 0.95)[:2]
        for d in (drawn, fixed)
      ]
      covered.append([low <= 10.0 <= high for low, high in ends])
      widths.append([math.log10(high / low) for low, high in ends])
    people, images_only = np.mean(covered, axis=0)
    self.assertGreaterEqual(people, 0.8)
    self.assertLessEqual(images_only, 0.75)
    # Nearly four standard errors of the mean of twelve.
    np.testing.assert_allclose(
      np.mean(widths, axis=0)[0], 4 * 0.25 / math.sqrt(12), rtol=0.25
    )

  def test_a_network_is_a_single_participant(self):
    images = _images(20, 20)
    answers = accuracy_curves.ResponseCounts(
      _trials(images, 1, self.levels, lambda p, image, level: level > 40),
      images,
      self.levels,
    )
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(answers.draw(5, rng), np.ones((5, 1)))
    found = answers.thresholds(images.resample(5, rng), answers.draw(5, rng))
    self.assertEqual(found.shape, (5,))

  def test_too_few_levels(self):
    images = _images(2, 2)
    answers = accuracy_curves.ResponseCounts(
      _trials(images, 2, (0, 10), lambda *_: True), images, (0, 10)
    )
    found = answers.thresholds(np.ones((3, 4)), np.ones((3, 2)))
    self.assertTrue(np.isnan(found).all())


class IntervalTest(unittest.TestCase):
  def test_quantiles_of_what_is_defined(self):
    low, high, undefined = accuracy_curves.interval(
      [*np.arange(101.0), math.nan], 0.9
    )
    np.testing.assert_allclose((low, high, undefined), (5.0, 95.0, 1))

  def test_no_interval_if_most_values_are_undefined(self):
    low, high, undefined = accuracy_curves.interval(
      [1.0, math.nan, math.nan], 0.9
    )
    self.assertTrue(math.isnan(low) and math.isnan(high))
    self.assertEqual(undefined, 2)


if __name__ == '__main__':
  unittest.main()
