# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the scores of specific alignment, and of the store of maps."""

import os
import shutil
import tempfile

from absl.testing import absltest
import numpy as np
from scipy import ndimage
from scipy import stats
from sklearn import metrics as sklearn_metrics

from official_ext.harmonization.benchmark import map_store
from official_ext.harmonization.benchmark import saliency_scores
from official_ext.harmonization.benchmark import specific_alignment
from official_ext.harmonization.benchmark import statistics

_SIZE = (28, 28)


def _folder(case):
  """Returns a new folder, which the test removes."""
  folder = tempfile.mkdtemp()
  case.addCleanup(shutil.rmtree, folder, ignore_errors=True)
  return folder


def _store(case, count=6, seed=0):
  """Returns a store of maps that agree about the image, and its maps."""
  rng = np.random.default_rng(seed)
  human = rng.uniform(size=(count, *_SIZE)).astype(np.float32)
  model = human + rng.normal(size=human.shape).astype(np.float32)
  store = map_store.MapStore(
    _folder(case), ('model', 'human', 'released'), _SIZE
  )
  store.add(model=model[:4], human=human[:4], released=human[:4])
  store.add(model=model[4:], human=human[4:], released=human[4:])
  return store, model, human


def _images(count=6, groups=None):
  return specific_alignment.Images(
    np.arange(count) if groups is None else np.array(groups),
    np.arange(count) % 2,
  )


def _by_hand(model, human, groups, width):
  """Computes own, shuffled and specific by pairs with SciPy."""
  sigma = width * _SIZE[0] / 224
  blurred = [
    [ndimage.gaussian_filter(m, sigma, mode='reflect') for m in maps]
    for maps in (model, human)
  ]
  k = np.array(
    [
      [stats.spearmanr(a.ravel(), b.ravel()).statistic for b in blurred[1]]
      for a in blurred[0]
    ]
  )
  other = np.not_equal.outer(groups, groups)
  own, shuffled = np.diag(k).mean(), k[other].mean()
  return own, shuffled, own - shuffled


class MeasureTest(absltest.TestCase):
  def test_both_maps_are_blurred_alike(self):
    store, model, human = _store(self)
    images = _images(groups=[0, 0, 1, 2, 3, 4])
    found, rows = specific_alignment.measure(store, images, 'x / 255')
    widths = [s.width for s in found.by_width]
    self.assertEqual(widths, list(specific_alignment.WIDTHS))
    for measured in found.by_width:
      expected = _by_hand(model, human, images.groups, measured.width)
      for name, value in zip(('own', 'shuffled', 'specific'), expected):
        self.assertAlmostEqual(getattr(measured, name).value, value, delta=2e-6)
    ranked = found.by_width[widths.index(specific_alignment.RANKED)].specific
    self.assertEqual(found.scores['specific'], ranked)
    self.assertIn('sigma = 10 px', found.scores['specific'].preprocessing)
    self.assertAlmostEqual(
      np.mean([row['influence'] for row in rows]), ranked.value
    )
    self.assertEqual([row['group'] for row in rows], [0, 0, 1, 2, 3, 4])

  def test_controls_made_of_human_maps(self):
    store, _, human = _store(self, 12)
    images = _images(12)
    people = specific_alignment.HumanRanks()
    found = {
      name: specific_alignment.measure(store, images, '', name, people)[0]
      for name in ('mean-map', 'other-maps', 'noise')
    }
    rest = np.stack([np.delete(human, i, 0).mean(axis=0) for i in range(12)])
    expected = _by_hand(rest, human, images.groups, 0)
    for name, value in zip(('own', 'shuffled', 'specific'), expected):
      self.assertAlmostEqual(
        getattr(found['mean-map'].by_width[0], name).value, value, delta=1e-5
      )
    # The mean map is itself the covariate of one partial correlation.
    given = found['mean-map'].scores['given_mean_map']
    self.assertTrue(np.isnan(given.value))
    self.assertEqual(given.n_undefined, 12)
    for name in ('mean-map', 'other-maps'):
      self.assertLess(found[name].scores['specific'].value, 0)
    noise = found['noise'].scores['specific']
    error = (noise.high - noise.low) / 2 / stats.t.ppf(0.975, 11)
    self.assertLess(abs(noise.value), 3 * error)

  def test_a_constant_map_has_no_score(self):
    store, _, _ = _store(self)
    store.add(
      model=np.ones((1, *_SIZE)),
      human=np.ones((1, *_SIZE)),
      released=np.ones((1, *_SIZE)),
    )
    found, rows = specific_alignment.measure(store, _images(7), '')
    self.assertEqual(found.scores['specific'].n, 6)
    self.assertEqual(found.scores['specific'].n_undefined, 1)
    self.assertTrue(np.isnan(rows[6]['own']))


class SaliencyScoresTest(absltest.TestCase):
  def test_equal_a_loop_over_pairs(self):
    store, model, human = _store(self)
    images = _images(groups=[0, 0, 1, 2, 3, 4])
    found, rows = saliency_scores.measure(store, images, '', has_emd=True)
    model, human = (specific_alignment.blur(m, 10) for m in (model, human))
    cuts = [h > np.percentile(h, 90) for h in human]
    pairs = np.array(
      [[_auc(s, a, b) for b in cuts] for s, a in zip(model, cuts)]
    )
    other = np.not_equal.outer(images.groups, images.groups)
    self.assertAlmostEqual(found['shuffled_auc'].value, pairs[other].mean(), 6)
    model -= np.minimum(model.min(axis=(1, 2), keepdims=True), 0)
    for i, row in enumerate(rows):
      self.assertAlmostEqual(row['shuffled_auc'], pairs[i][other[i]].mean(), 6)
      self.assertAlmostEqual(row['auc'], _auc(model[i], cuts[i], ~cuts[i]), 6)
      self.assertEqual(row['pointing'], cuts[i].flat[model[i].argmax()])
      p, q, b = (
        m.ravel() / m.sum(dtype=np.float64)
        for m in (human[i], model[i], human[other[i]].mean(axis=0))
      )
      q, b = (0.99 * m + 0.01 / m.size for m in (q, b))
      self.assertAlmostEqual(
        row['information_gain'], np.sum(p * np.log2(q / b)), 6
      )
      self.assertAlmostEqual(row['kl'], stats.entropy(p, q), 6)
      self.assertGreater(row['emd'], 0)
    for name in ('auc', 'information_gain', 'nss', 'cc', 'kl', 'sim', 'emd'):
      self.assertAlmostEqual(
        found[name].value, np.mean([row[name] for row in rows])
      )
    pointing, hits = found['pointing'], [row['pointing'] for row in rows]
    self.assertEqual(
      (pointing.low, pointing.high), statistics.proportion(hits, images.groups)
    )
    self.assertIn('over groups of images', pointing.interval_method)

  def test_blind_maps(self):
    store, _, _ = _store(self, 12)
    images = _images(12)
    # The mean map is the baseline itself.
    found, _ = saliency_scores.measure(store, images, '', 'mean-map')
    gain = found['information_gain']
    self.assertEqual((gain.value, gain.low, gain.high), (0, 0, 0))
    found, _ = saliency_scores.measure(store, images, '', 'noise')
    self.assertLess(abs(found['shuffled_auc'].value - 0.5), 0.05)
    # Of all other images, each is once its own negative.
    found, _ = saliency_scores.measure(store, images, '', 'other-maps')
    self.assertLess(found['shuffled_auc'].value, 0.5)
    self.assertGreater(found['shuffled_auc'].value, 0.4)
    self.assertEqual(found['pointing'].n, 12)
    # One map for all images is exactly at chance, and surely so.
    store = map_store.MapStore(_folder(self), ('model', 'human'), _SIZE)
    rng = np.random.default_rng(0)
    store.add(
      model=np.tile(rng.random(_SIZE), (12, 1, 1)),
      human=rng.random((12, *_SIZE)),
    )
    blind = saliency_scores.measure(store, images, '')[0]['shuffled_auc']
    for value in (blind.low, blind.value, blind.high):
      self.assertAlmostEqual(value, 0.5, 6)

  def test_the_interval_of_shuffled_auc_is_that_of_a_jackknife(self):
    store, model, human = _store(self, 12)
    found, rows = saliency_scores.measure(store, _images(12), '')
    score = found['shuffled_auc']
    # Networks are compared by these values of the images.
    influence = [row['shuffled_auc_influence'] for row in rows]
    interval = stats.ttest_1samp(influence, 0).confidence_interval()
    self.assertAlmostEqual(np.mean(influence), score.value)
    self.assertAlmostEqual(interval.low, score.low)
    model, human = (specific_alignment.blur(m, 10) for m in (model, human))
    cuts = [h > np.percentile(h, 90) for h in human]
    pairs = np.array(
      [[_auc(s, a, b) for b in cuts] for s, a in zip(model, cuts)]
    )
    without = []
    for i in range(12):
      rest = np.delete(np.delete(pairs, i, 0), i, 1)
      without.append(rest[~np.eye(11, dtype=bool)].mean())
    error = np.sqrt(11 / 12 * np.sum((without - np.mean(without)) ** 2))
    half = (score.high - score.low) / 2 / stats.t.ppf(0.975, 11)
    self.assertAlmostEqual(half / error, 1, delta=0.15)

  def test_a_constant_map_has_no_score(self):
    store, _, _ = _store(self)
    flat = np.ones((1, *_SIZE))
    store.add(model=flat, human=flat, released=flat)
    found, rows = saliency_scores.measure(store, _images(7), '')
    for name, score in found.items():
      self.assertEqual((score.n, score.n_undefined), (6, 1), name)
      self.assertTrue(np.isnan(rows[6][name]), name)


def _auc(values, positives, negatives):
  """Computes AUC of pixels that may be both positive and negative."""
  return sklearn_metrics.roc_auc_score(
    np.repeat([1, 0], values.size),
    np.tile(values.ravel(), 2),
    sample_weight=np.concatenate([positives.ravel(), negatives.ravel()]),
  )


class GroupsTest(absltest.TestCase):
  def test_names_and_pixels_join_images(self):
    found = specific_alignment.groups(
      ['a', 'a', 'b', '', '', 'c', 'b'], ['1', '2', '3', '3', '4', '4', '5']
    )
    np.testing.assert_array_equal(
      found == found[:, np.newaxis],
      np.array([0, 0, 1, 1, 2, 2, 1])
      == np.array([0, 0, 1, 1, 2, 2, 1])[:, np.newaxis],
    )


class MapStoreTest(absltest.TestCase):
  def test_maps_come_back_in_order_and_are_removed(self):
    store, model, _ = _store(self)
    with store:
      self.assertLen(store, 6)
      np.testing.assert_array_equal(store.read('model'), model)
      store.keep(5)
      np.testing.assert_array_equal(store.read('model'), model[:5])
      folder = os.path.dirname(store.read('model').filename)
    self.assertFalse(os.path.exists(folder))

  def test_maps_survive_an_interruption(self):
    folder = os.path.join(_folder(self), 'maps')
    with self.assertRaises(KeyboardInterrupt):
      with map_store.MapStore(folder, ['model'], (2, 3)) as store:
        store.add(model=np.ones((4, 2, 3)))
        raise KeyboardInterrupt
    # A batch that was only partly written does not count.
    with open(os.path.join(folder, 'model.float32'), 'ab') as f:
      f.write(b'123')
    store = map_store.MapStore(folder, ['model'], (2, 3))
    self.assertLen(store, 4)
    store.keep(3)
    store.add(model=np.zeros((1, 2, 3)))
    np.testing.assert_array_equal(store.read('model').sum((1, 2)), [6, 6, 6, 0])

  def test_maps_of_another_size_are_refused(self):
    with map_store.MapStore(None, ['model'], (2, 3)) as store:
      self.assertEmpty(store.read('model'))
      with self.assertRaisesRegex(ValueError, r'\(3, 2\).*\(2, 3\)'):
        store.add(model=np.ones((1, 3, 2)))


if __name__ == '__main__':
  absltest.main()
