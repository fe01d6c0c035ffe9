# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of ceilings with participants of known agreement."""

import collections
import dataclasses
import math
import zlib

from absl.testing import parameterized
import numpy as np
from scipy import ndimage
from scipy import stats
import tensorflow as tf

from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.benchmark import participant_agreement
from official_ext.harmonization.benchmark import user_jackknife
from official_ext.harmonization.evaluation import ceilings as earlier_ceilings

_SIDE = 48
# Largest error of a correlation over 48 x 48 pixels.
_ERROR = 1 / _SIDE


def _gaussian(rng, participants, noise, common=0.0, shared=None):
  """Maps (P, H, W): signal of variance 1 plus noise plus a common part."""
  signal = rng.normal(size=(_SIDE, _SIDE))
  if shared is not None:
    signal = signal + common * shared
  return signal + noise * rng.normal(size=(participants, _SIDE, _SIDE))


def _pearson(maps_a, maps_b):
  return np.array(
    [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(maps_a, maps_b)]
  )


def _of_ranks(pearson):
  """Spearman's correlation of normal values (Pearson 1907)."""
  return 6 / np.pi * np.arcsin(pearson / 2)


class _Maps:
  """Maps in memory."""

  def __init__(self, maps):
    self._maps = maps

  def names(self):
    return sorted(self._maps)

  def participants(self, name):
    return len(self._maps[name])

  def maps(self, name):
    return self._maps[name]


class ClosedFormTest(tf.test.TestCase, parameterized.TestCase):
  def _mean(self, scores_of, participants, images=12, noise=2.0):
    rng = np.random.default_rng(0)
    return np.mean(
      [scores_of(_gaussian(rng, participants, noise)) for _ in range(images)]
    )

  @parameterized.parameters((10, 5, 5), (7, 3, 4), (2, 1, 1))
  def test_halves(self, participants, first, second):
    # The noise variance of a mean of k maps is divided by k.
    a, b = (1 / np.sqrt(1 + 4 / k) for k in (first, second))
    for score, expected in (
      (_pearson, a * b),
      (participant_agreement.spearman, _of_ranks(a * b)),
    ):
      found = self._mean(
        lambda m, score=score: participant_agreement.split_half_scores(
          m, score=score, iterations=40
        ),
        participants,
      )
      self.assertAllClose(found, expected, atol=_ERROR)

  def test_spearman_brown_predicts_twice_as_many(self):
    # r between two groups of 10 is 1 / (1 + 4 / 10).
    halves = self._mean(
      lambda m: participant_agreement.split_half_scores(m, score=_pearson), 10
    )
    self.assertAllClose(
      participant_agreement.spearman_brown(halves), 1 / 1.4, atol=_ERROR
    )
    self.assertAllClose(
      participant_agreement.spearman_brown(np.array([0, 1, 0.5, -1, -0.5])),
      [0, 1, 2 / 3, -1, -2 / 3],
    )

  def test_resampled_halves_are_noisier(self):
    # Participant i of k is in the mean 1 + m_i times of 2 k, where m is a
    # multinomial of k draws: E[sum (1 + m_i)^2] = 5 k - 1.
    k = 5
    r = 1 / (1 + 4 * (5 * k - 1) / (2 * k) ** 2)
    found = self._mean(
      lambda m: participant_agreement.split_half_scores(
        m, score=_pearson, resample=True
      ),
      2 * k,
    )
    self.assertAllClose(found, r, atol=_ERROR)
    # Halves without resampling differ by more than the tolerance.
    self.assertGreater(1 / (1 + 4 / k) - r, 0.03)

  def test_leave_one_out(self):
    r = 1 / np.sqrt(5.0 * (1 + 4 / 9))
    self.assertAllClose(
      self._mean(participant_agreement.leave_one_out_scores, 10),
      _of_ranks(r),
      atol=_ERROR,
    )

  def test_floor(self):
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(_SIDE, _SIDE))
    for common, participants in ((0.0, 10), (1.5, 10), (1.5, 4)):
      images = [
        _gaussian(rng, participants, 2.0, common, shared) for _ in range(12)
      ]
      found = np.mean(
        [
          participant_agreement.other_image_scores(
            m, images[:i] + images[i + 1 :]
          )
          for i, m in enumerate(images)
        ]
      )
      r = common**2 / (common**2 + 1 + 4 / (participants // 2))
      self.assertAllClose(found, _of_ranks(r), atol=1.5 * _ERROR)


def _halves(participants, iterations, resample):
  """Returns how often each participant is in either half, (iterations, P)."""
  found = []

  def record(first, second):
    for part, size in ((first, participants // 2), (second, 0)):
      # Participant i clicked pixel i only, so the mean map holds the weights.
      size = participants if resample else size or -(-participants // 2)
      found.append(np.round(part[:, 0] * size))
    return np.zeros(len(first))

  participant_agreement.split_half_scores(
    np.eye(participants)[:, np.newaxis],
    score=record,
    iterations=iterations,
    resample=resample,
  )
  return np.concatenate(found[::2]), np.concatenate(found[1::2])


class HalvesTest(tf.test.TestCase):
  def test_halves_are_disjoint_random_and_complete(self):
    a, b = _halves(5, 4000, resample=False)
    self.assertAllEqual(a + b, np.ones((4000, 5)))
    self.assertAllEqual(a.sum(-1), [2] * 4000)
    self.assertAllClose(a.mean(0), [0.4] * 5, atol=0.03)
    # All ten pairs occur.
    self.assertLen(np.unique(a, axis=0), 10)

  def test_resampled_halves_stay_within_their_half(self):
    a, b = _halves(6, 500, resample=True)
    self.assertAllEqual(a * b, np.zeros((500, 6)))
    self.assertAllEqual(a.sum(-1), [6] * 500)
    self.assertAllEqual(((a > 0) | (b > 0)).all(-1), [True] * 500)
    self.assertEqual(a.max(), 4)

  def test_each_pair_of_halves_is_what_scipy_says(self):
    maps = np.random.default_rng(2).integers(0, 3, (2, 8, 8))
    expected = stats.spearmanr(maps[0].ravel(), maps[1].ravel())[0]
    self.assertAllClose(
      participant_agreement.split_half_scores(maps, iterations=70),
      [expected] * 70,
    )
    self.assertAllClose(
      participant_agreement.leave_one_out_scores(maps), [expected] * 2
    )

  def test_a_linear_blur_may_come_first(self):
    rng = np.random.default_rng(3)
    maps = (rng.random((6, 32, 32)) < 0.02).astype(np.float64)

    def blur(batch):
      return ndimage.gaussian_filter(batch, (0, 2, 2))

    for scores_of in (
      participant_agreement.split_half_scores,
      participant_agreement.leave_one_out_scores,
      lambda m, **k: participant_agreement.other_image_scores(m, [m], **k),
    ):
      self.assertAllClose(
        scores_of(maps, blur=blur), scores_of(blur(maps)), atol=1e-3
      )
      self.assertNotAllClose(scores_of(maps, blur=blur), scores_of(maps))

  def test_undefined_halves_are_nan(self):
    maps = np.zeros((2, 8, 8))
    maps[0, 0, 0] = 1
    self.assertAllEqual(
      np.isnan(participant_agreement.split_half_scores(maps, iterations=3)),
      [True] * 3,
    )

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, 'at least two participants'):
      participant_agreement.split_half_scores(np.zeros((1, 8, 8)))
    with self.assertRaisesRegex(ValueError, r'\(8, 8\) and \(8, 9\)'):
      participant_agreement.other_image_scores(
        np.zeros((2, 8, 8)), [np.zeros((2, 8, 9))]
      )
    for field in ('iterations', 'min_participants', 'group'):
      with self.assertRaisesRegex(ValueError, f'{field} is 0'):
        ceilings.Settings(**{field: 0})


class MeasureTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(4)
    self.maps = {
      f'image{i:02}': _gaussian(rng, 5 + i % 3, 1.0) for i in range(11)
    }
    self.maps['few'] = _gaussian(rng, 4, 1.0)
    self.maps['flat'] = np.zeros((5, _SIDE, _SIDE))
    self.settings = ceilings.Settings(iterations=8, group=4)

  def _rows(self, maps, settings):
    source = _Maps(maps)
    groups, rows = ceilings.plan(source, settings)
    for group in groups:
      rows += ceilings.measure(source, group, settings)
    return {row['image']: row for row in rows}

  def test_every_image_is_scored_once_or_named(self):
    groups, rows = ceilings.plan(_Maps(self.maps), self.settings)
    self.assertCountEqual(sum(groups, []), set(self.maps) - {'few'})
    self.assertNotEqual(sum(groups, []), sorted(sum(groups, [])))
    self.assertTrue(all(4 <= len(g) <= 7 for g in groups))
    self.assertEqual([r['image'] for r in rows], ['few'])
    self.assertIn('5 are needed', rows[0]['note'])
    rows = self._rows(self.maps, self.settings)
    self.assertCountEqual(rows, self.maps)
    self.assertEqual(rows['flat']['split_half_undefined'], 8)
    self.assertTrue(math.isnan(rows['flat']['spearman_brown']))
    row = rows['image00']
    self.assertBetween(row['floor'], -0.1, 0.1)
    self.assertBetween(row['leave_one_out'], 0.4, row['spearman_brown'])
    self.assertAllClose(
      row['spearman_brown'], 2 * row['split_half'] / (1 + row['split_half'])
    )

  def test_a_single_image_has_no_floor(self):
    row = self._rows({'a': self.maps['image00']}, self.settings)['a']
    self.assertTrue(math.isnan(row['floor']))
    self.assertGreater(row['split_half'], 0.3)

  def test_splits_depend_only_on_the_image(self):
    fewer = {name: self.maps[name] for name in ('image03', 'image07')}
    a, b = (self._rows(m, self.settings)['image03'] for m in (fewer, self.maps))
    self.assertEqual(a['split_half'], b['split_half'])
    seed = dataclasses.replace(self.settings, seed=1)
    self.assertNotEqual(
      self._rows(fewer, seed)['image03']['split_half'], a['split_half']
    )

  def test_summary_lists_skipped_images(self):
    rows = list(self._rows(self.maps, self.settings).values())
    made = ceilings.summarize(rows, self.settings, preprocessing='none')
    self.assertCountEqual(made, (*ceilings.MEASURES, ceilings.UPPER))
    upper = made.pop(ceilings.UPPER)
    # The root of the mean, not the mean of the roots.
    for end in ('value', 'low', 'high'):
      self.assertAllClose(
        getattr(upper, end), getattr(made['spearman_brown'], end) ** 0.5
      )
    for name, score in made.items():
      self.assertEqual((score.n, score.n_undefined), (11, 2))
      self.assertAllClose(score.value, np.nanmean([row[name] for row in rows]))
      self.assertLess(score.low, score.value)
    details = made['floor'].to_json()['details']
    self.assertEqual(details['too_few_participants'], ['few'])
    self.assertEqual(details['images'], 13)
    self.assertEqual(details['participants_per_image']['least'], 5)
    self.assertEqual(
      details['maps'], sum(len(m) for n, m in self.maps.items() if n != 'few')
    )

  def test_values_are_those_of_single_scores(self):
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(_SIDE, _SIDE))
    maps = {
      name: np.round(10 * np.maximum(_gaussian(rng, p, 1.5, 1.0, shared), 0))
      for name, p in (('a', 5), ('b', 7), ('c', 2))
    }
    for resample in (False, True):
      settings = ceilings.Settings(
        iterations=40, group=3, resample=resample, min_participants=2
      )
      rows = self._rows(maps, settings)
      for name, values in maps.items():
        halves = participant_agreement.split_half_scores(
          values,
          iterations=40,
          resample=resample,
          seed=(0, zlib.crc32(name.encode())),
        )
        row = rows[name]
        self.assertAllClose(row['split_half'], halves.mean(), rtol=1e-6)
        self.assertAllClose(
          row['leave_one_out'],
          participant_agreement.leave_one_out_scores(values).mean(),
          rtol=1e-6,
        )
        others = [values for other, values in maps.items() if other != name]
        floor = participant_agreement.other_image_scores(
          values, others, iterations=600, resample=resample
        )
        self.assertAllClose(row['floor'], floor.mean(), atol=0.02)
        people, rest = [], []
        for other in others:
          for one, two in ((values, other), (other, values)):
            sums = two.sum(0) - two
            people += [m for m in one for _ in sums]
            rest += [*sums] * len(one)
        # Each other image counts once, and both ways.
        products = participant_agreement.spearman(
          np.stack(people), np.stack(rest)
        )
        sizes = [len(values) * len(other) for other in others for _ in 'ab']
        means = [p.mean() for p in np.split(products, np.cumsum(sizes)[:-1])]
        self.assertAllClose(
          row['leave_one_out_shuffled'], np.mean(means), atol=1e-6
        )

  def test_interval_of_a_floor_allows_for_both_images(self):
    rng = np.random.default_rng(6)
    rows = [
      {
        'image': str(i),
        'participants': 5,
        'note': '',
        **dict.fromkeys(ceilings.MEASURES, value),
      }
      for i, value in enumerate(rng.normal(size=50))
    ]
    made = ceilings.summarize(rows, ceilings.Settings(), preprocessing='none')
    floor, halves = made['floor'], made['split_half']
    self.assertAllClose(floor.value, halves.value)
    self.assertAllClose(floor.high - floor.low, 2 * (halves.high - halves.low))
    self.assertAllClose(
      floor.details['standard_error'], 2 * halves.details['standard_error']
    )

  def test_nothing_to_measure(self):
    source = _Maps({'few': self.maps['few']})
    groups, rows = ceilings.plan(source, self.settings)
    self.assertEqual(groups, [])
    made = ceilings.summarize(rows, self.settings, preprocessing='none')
    self.assertTrue(math.isnan(made['split_half'].value))
    self.assertEqual(made['split_half'].n_undefined, 1)


class JackknifeTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(7)
    shared = rng.normal(size=(_SIDE, _SIDE))
    self.users = {'a': 'uvwxy', 'b': 'vwxyz', 'c': 'rstux'}
    self.maps = {
      name: np.maximum(_gaussian(rng, 5, 1.0, 1.0, shared), 0)
      for name in self.users
    }
    self.settings = ceilings.Settings(iterations=6, group=3)
    self.groups = user_jackknife.assign(dict.fromkeys('rstuvwxyz', 2), 50)

  def _measure(self):
    reader = _Maps(self.maps)
    reader.users = lambda name: self.users[name]
    sums = user_jackknife.measure(
      reader, list(self.maps), self.settings, self.groups
    )
    return user_jackknife.Replicates.of([sums])

  def _means(self, maps):
    rows = ceilings.measure(_Maps(maps), list(maps), self.settings)
    return {m: np.mean([r[m] for r in rows]) for m in ceilings.MEASURES}

  def test_without_a_participant(self):
    found = self._measure()
    self.assertLen(found.without, 9)
    self.assertAllClose(found.everyone, self._means(self.maps), rtol=1e-6)
    for user in 'xz':
      without = found.without[self.groups[user]]
      expected = self._means(
        {
          name: maps[[u != user for u in self.users[name]]]
          for name, maps in self.maps.items()
        }
      )
      # These have no random halves.
      for name in ('leave_one_out', 'leave_one_out_shuffled'):
        self.assertAllClose(without[name], expected[name], rtol=1e-6)
        self.assertNotAllClose(without[name], found.everyone[name], rtol=1e-6)
      self.assertNotEqual(without['split_half'], found.everyone['split_half'])

  def test_halves_stay_the_same(self):
    # The halves do not change without a participant whose map is empty.
    self.maps['a'][4] = 0
    self.users['b'], self.users['c'] = 'vwxtz', 'rstuq'
    found = self._measure()
    for name in ('split_half', 'floor'):
      self.assertAllClose(
        found.without[self.groups['y']][name], found.everyone[name], rtol=1e-6
      )

  def test_groups(self):
    self.assertEqual(user_jackknife.assign({'a': 1, 'b': 1}, 50), {})
    self.assertLen(set(self.groups.values()), 9)
    seen = {str(i): 2 for i in range(1000)}
    groups = user_jackknife.assign(seen, 50)
    sizes = collections.Counter(groups.values())
    self.assertEqual((len(sizes), set(sizes.values())), (50, {20}))

  def test_means_are_over_all_parts(self):
    parts = [
      {
        '': dict.fromkeys(ceilings.MEASURES, (6.0, 3)),
        '0': dict.fromkeys(ceilings.MEASURES, (4.0, 3)),
      },
      {'': dict.fromkeys(ceilings.MEASURES, (5.0, 1))},
    ]
    found = user_jackknife.Replicates.of(parts)
    self.assertEqual(found.everyone['floor'], 11 / 4)
    self.assertEqual(found.without['0']['floor'], 9 / 4)
    self.assertEqual(
      user_jackknife.Replicates.from_json(found.to_json()), found
    )


class NamesTest(tf.test.TestCase):
  def test_names_of_earlier_versions(self):
    for name in ('spearman_brown', 'split_half_scores', 'other_image_scores'):
      expected = getattr(participant_agreement, name)
      self.assertIs(getattr(ceilings, name), expected)
      self.assertIs(getattr(earlier_ceilings, name), expected)


if __name__ == '__main__':
  tf.test.main()
