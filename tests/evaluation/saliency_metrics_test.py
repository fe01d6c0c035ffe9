# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the saliency metrics."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from official_ext.harmonization.evaluation import saliency_metrics
from tests import map_pairs


def _densities(maps, regularization=0.0):
  flat = (maps - np.minimum(maps.min(axis=(1, 2), keepdims=True), 0)).reshape(
    len(maps), -1
  )
  flat = flat / flat.sum(axis=1, keepdims=True)
  return (1 - regularization) * flat + regularization / flat.shape[1]


class SaliencyMetricsTest(parameterized.TestCase):
  @parameterized.named_parameters(*map_pairs.NAMED)
  def test_equal_scipy_and_sklearn(self, pairs):
    a, b = (np.asarray(m, np.float64) for m in pairs())
    p, q = _densities(b), _densities(a)
    regular = _densities(a, 0.01)
    found = {
      name: getattr(saliency_metrics, name)(a, b)
      for name in ('cc', 'nss', 'similarity', 'kl_divergence')
    }
    cut = b > np.percentile(b, 90, axis=(1, 2), keepdims=True)
    others = np.abs(b[::-1])
    shuffled = saliency_metrics.shuffled_auc(a, cut, others)
    for i in range(len(a)):
      x, y = a[i].ravel(), b[i].ravel()
      for name, expected in (
        ('cc', stats.pearsonr(x, y)[0]),
        ('nss', np.average(stats.zscore(x), weights=p[i])),
        ('similarity', np.minimum(p[i], q[i]).sum()),
        ('kl_divergence', stats.entropy(p[i], regular[i])),
      ):
        np.testing.assert_allclose(found[name][i], expected, atol=1e-9)
      np.testing.assert_allclose(
        shuffled[i],
        sklearn_metrics.roc_auc_score(
          np.repeat([1, 0], x.size),
          np.tile(x, 2),
          sample_weight=np.concatenate([cut[i].ravel(), others[i].ravel()]),
        ),
        atol=1e-9,
      )

  def test_equal_pysaliency_for_points(self):
    # The expected values are those of pysaliency 0.2.22, for ten points in
    # each of three images.
    y, x = np.mgrid[:6, :8]
    maps = np.stack([(3 * y + 5 * x * x + 7 * i) % 11 - 2.0 for i in range(3)])
    counts = np.zeros(maps.shape)
    for i in range(3):
      for k in range(10):
        counts[i, (5 * k + 3 * i) % 6, (3 * k * k + i) % 8] += 1
    others = counts.sum(axis=0) - counts
    for found, expected in (
      (
        saliency_metrics.nss(maps, counts),
        (-0.12356431038638056, 0.4564553131864981, -0.2905825897253659),
      ),
      (
        saliency_metrics.shuffled_auc(maps, counts, others),
        (0.4375, 0.6575, 0.455),
      ),
      (
        saliency_metrics.information_gain(maps, counts, others),
        (4.119802057484492, 2.314143941661927, 2.760811617590164),
      ),
      (
        saliency_metrics.cc(maps, counts),
        (-0.051664833641323536, 0.1908535542887468, -0.12149868445250296),
      ),
      (
        saliency_metrics.similarity(maps, counts),
        (0.13306451612903225, 0.20814479638009048, 0.15384615384615385),
      ),
      (
        saliency_metrics.kl_divergence(maps, counts),
        (2.4313531511438207, 2.040503430282269, 2.8949596344370065),
      ),
    ):
      np.testing.assert_allclose(found, expected, rtol=1e-12)

  def test_information_gain_is_a_difference_of_divergences(self):
    a, b = map_pairs.tied()
    baseline = b[::-1]
    gain = saliency_metrics.information_gain(a, b, baseline)
    nats = saliency_metrics.kl_divergence(
      baseline, b
    ) - saliency_metrics.kl_divergence(a, b)
    np.testing.assert_allclose(gain, nats / np.log(2))
    same = saliency_metrics.information_gain(baseline, b, baseline)
    np.testing.assert_array_equal(same, 0)

  def test_earth_movers_distance(self):
    points = np.zeros((2, 14, 14))
    points[0, 1, 3] = points[1, 9, 12] = 2.0  # In cells (0, 1) and (4, 6).
    found = saliency_metrics.earth_movers_distance(points, points[::-1])
    np.testing.assert_allclose(found, np.hypot(4, 5) / 7)
    same = saliency_metrics.earth_movers_distance(points, 3 * points)
    np.testing.assert_array_equal(same, 0)
    # Maps that vary along one axis only, on a grid that cuts pixels.
    a, b = np.random.default_rng(0).random((2, 5))
    found = saliency_metrics.earth_movers_distance(
      np.tile(a, (1, 3, 1)), np.tile(b, (1, 3, 1)), cells=2
    )
    halves = [
      np.array([v[0] + v[1] + v[2] / 2, v[2] / 2 + v[3] + v[4]]) for v in (a, b)
    ]
    expected = stats.wasserstein_distance([0.25, 0.75], [0.25, 0.75], *halves)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32

  def test_undefined(self):
    a, b = map_pairs.with_undefined()
    for found in (
      saliency_metrics.cc(a, b),
      saliency_metrics.nss(a, b),
      saliency_metrics.similarity(a, b),
      saliency_metrics.kl_divergence(a, b),
      saliency_metrics.information_gain(a, b, np.roll(b, 1, axis=2)),
      saliency_metrics.earth_movers_distance(a, b, cells=2),
    ):
      np.testing.assert_array_equal(np.isnan(found), [True] * 4 + [False])
    # No positives, or no negatives.
    maps, none = np.arange(8.0).reshape(2, 2, 2), np.zeros((2, 2, 2))
    for pair in ((none, maps), (maps, none)):
      found = saliency_metrics.shuffled_auc(maps, *pair)
      self.assertTrue(np.isnan(found).all())

  def test_shapes_are_checked(self):
    with self.assertRaisesRegex(ValueError, r'\(2, 3, 3\), \(2, 3, 4\)'):
      saliency_metrics.cc(np.ones((2, 3, 3)), np.ones((2, 3, 4)))


if __name__ == '__main__':
  absltest.main()
