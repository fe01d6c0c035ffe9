# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the alignment metrics in NumPy."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import ndimage
from scipy import stats
from sklearn import metrics as sklearn_metrics

from official_ext.harmonization.evaluation import numpy_metrics
from tests import map_pairs


class AlignmentTest(parameterized.TestCase):
  @parameterized.named_parameters(*map_pairs.NAMED)
  def test_equals_scipy_and_numpy(self, pairs):
    a, b = pairs()
    found = numpy_metrics.alignment_scores(a, b)
    for i, (x, y) in enumerate(zip(a, b)):
      self.assertAlmostEqual(
        found['spearman'][i],
        stats.spearmanr(x.ravel(), y.ravel())[0],
        places=12,
      )
      x, y = x > np.percentile(x, 90), y > np.percentile(y, 90)
      both = np.sum(x & y)
      self.assertEqual(found['dice'][i], 2 * both / (x.sum() + y.sum()))
      self.assertEqual(found['iou'][i], both / np.sum(x | y))

  @parameterized.parameters(0.0, 37.0, 50.0, 75.0, 99.0, 100.0)
  def test_cuts_as_numpy_does(self, percentile):
    a, b = map_pairs.tied()
    found = numpy_metrics.alignment_scores(a, b, percentile)['dice']
    for i, (x, y) in enumerate(zip(a, b)):
      x, y = x > np.percentile(x, percentile), y > np.percentile(y, percentile)
      if x.sum() + y.sum():
        self.assertEqual(found[i], 2 * np.sum(x & y) / (x.sum() + y.sum()))
      else:
        self.assertTrue(np.isnan(found[i]))

  def test_zeros_of_both_signs_are_ties(self):
    a, b = map_pairs.tied()
    signed = b * np.where(np.arange(b[0].size) % 2, 1, -1).reshape(b[0].shape)
    signed = np.where(b == 0, signed, b)
    self.assertTrue(np.any(np.signbit(signed)))
    np.testing.assert_array_equal(
      numpy_metrics.alignment_scores(a, signed)['spearman'],
      numpy_metrics.alignment_scores(a, b)['spearman'],
    )

  def test_undefined(self):
    a, b = map_pairs.with_undefined()
    for scores in (
      numpy_metrics.alignment_scores(a, b),
      numpy_metrics.localization_scores(a, b),
    ):
      for values in scores.values():
        np.testing.assert_array_equal(np.isnan(values), [True] * 4 + [False])

  def test_empty_cuts(self):
    full, point = np.zeros((1, 5, 5)), np.zeros((1, 5, 5))
    full[0, :2], point[0, 0, 0] = 1.0, 1.0
    found = numpy_metrics.alignment_scores(full, full)
    self.assertTrue(np.isnan(found['dice'][0]) and np.isnan(found['iou'][0]))
    self.assertAlmostEqual(found['spearman'][0], 1.0)
    self.assertEqual(numpy_metrics.alignment_scores(full, point)['dice'], 0.0)
    found = numpy_metrics.localization_scores(point, full)
    self.assertTrue(np.isnan([found['auc'], found['pointing']]).all())
    # The one positive pixel is above 15 of the other 24 and equal to 9.
    found = numpy_metrics.localization_scores(full, point)
    self.assertEqual(found['auc'], (15 + 9 / 2) / 24)

  def test_shapes_are_checked(self):
    with self.assertRaisesRegex(ValueError, r'\(2, 3, 3\) and \(2, 3, 4\)'):
      numpy_metrics.alignment_scores(np.ones((2, 3, 3)), np.ones((2, 3, 4)))


class ExtentsTest(absltest.TestCase):
  def test_the_size_of_a_part(self):
    maps = np.zeros((2, 10, 20))
    maps[0, 2:6, 3:8], maps[1, :, :5] = 1.0, 1.0
    np.testing.assert_allclose(numpy_metrics.extents(maps), [0.1, 0.25])
    np.testing.assert_allclose(
      numpy_metrics.extents(7 - 3 * -maps), [0.1, 0.25]
    )

  def test_a_gaussian_covers_its_effective_area(self):
    y, x = np.mgrid[-50:51, -50:51]
    sigmas = np.array([3.0, 6.0])[:, np.newaxis, np.newaxis]
    maps = np.exp(-(x**2 + y**2) / (2 * sigmas**2))
    np.testing.assert_allclose(
      numpy_metrics.extents(maps),
      4 * np.pi * sigmas.ravel() ** 2 / 101**2,
      rtol=1e-6,
    )

  def test_follows_the_size_of_what_was_clicked(self):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] - 31.5
    radii, maps = rng.uniform(4, 28, 40), np.zeros((40, 64, 64))
    for radius, one in zip(radii, maps):
      inside = np.argwhere(x**2 + y**2 < radius**2)
      clicks = inside[rng.integers(len(inside), size=30)]
      np.add.at(one, tuple(clicks.T), 1)
    maps = ndimage.uniform_filter(maps, (0, 7, 7))
    half = (maps > maps.max((1, 2), keepdims=True) / 2).mean((1, 2))
    found = stats.spearmanr(radii, numpy_metrics.extents(maps))[0]
    self.assertGreater(found, 0.97)
    self.assertLess(stats.spearmanr(radii, half)[0], 0.9)

  def test_undefined(self):
    maps = np.ones((3, 4, 4))
    maps[1, 0, 0], maps[2, 0, 0] = np.inf, 2.0
    found = numpy_metrics.extents(maps)
    np.testing.assert_array_equal(np.isnan(found), [True, True, False])
    with self.assertRaisesRegex(ValueError, r'\(4, 4\)'):
      numpy_metrics.extents(np.ones((4, 4)))


class LocalizationTest(parameterized.TestCase):
  @parameterized.named_parameters(*map_pairs.NAMED)
  def test_equals_sklearn(self, pairs):
    a, b = pairs()
    found = numpy_metrics.localization_scores(a, b)
    for i, (x, y) in enumerate(zip(a, b)):
      cut = (y > np.percentile(y, 90)).ravel()
      self.assertAlmostEqual(
        found['auc'][i],
        sklearn_metrics.roc_auc_score(cut, x.ravel()),
        places=12,
      )
      self.assertEqual(found['pointing'][i], cut[np.argmax(x)])

  def test_pointing_takes_the_first_maximum(self):
    model, human = np.zeros((2, 4, 4)), np.zeros((2, 4, 4))
    model[0, 1, 1] = model[0, 2, 2] = model[1, 1, 1] = 1.0
    human[0, 2, 2] = human[1, 1, 1] = 1.0
    np.testing.assert_array_equal(
      numpy_metrics.localization_scores(model, human)['pointing'], [0.0, 1.0]
    )


class CountedRanksTest(parameterized.TestCase):
  def test_correlations_are_those_of_scipy(self):
    rng = np.random.default_rng(3)
    clicks = rng.random((4, 96, 96)) < 0.01
    # Zeros far from all clicks, and values over many orders of magnitude.
    clicks[:, :40] = False
    maps = ndimage.gaussian_filter(
      clicks.astype(np.float32), (0, 4.0, 4.0), truncate=4.0
    )
    self.assertGreater(np.sum(maps == 0), 1000)
    ranks = numpy_metrics.counted_unit_ranks(maps)
    for i, j in ((0, 1), (2, 3)):
      self.assertAlmostEqual(
        float(ranks[i].astype(float) @ ranks[j]),
        stats.spearmanr(maps[i].ravel(), maps[j].ravel())[0],
        delta=3e-6,
      )
    np.testing.assert_allclose(
      np.linalg.norm(ranks.astype(float), axis=1), 1, rtol=1e-6
    )

  def test_maps_that_need_sorting_are_sorted(self):
    rng = np.random.default_rng(4)
    maps = rng.random((9, 32, 32)).astype(np.float32)
    maps[0] = np.round(3 * maps[0])  # Ties.
    maps[1] -= 0.5
    maps[2] = 1000 + maps[2]
    maps[3, 0, 0] = 1e30
    maps[4, 0, 0] = np.nan
    maps[5, 0, 0] = np.inf
    maps[6], maps[7] = 0, 2
    maps[8] = 0
    maps[8, 5, 5] = 1
    found = numpy_metrics.counted_unit_ranks(maps)
    expected = numpy_metrics.unit_ranks(maps)
    self.assertEqual(
      np.flatnonzero(np.isnan(expected[:, 0])).tolist(), [4, 5, 6, 7]
    )
    # Ranks of neighbouring levels may differ by a few places of 1,024.
    np.testing.assert_allclose(found, expected, atol=5e-4)


if __name__ == '__main__':
  absltest.main()
