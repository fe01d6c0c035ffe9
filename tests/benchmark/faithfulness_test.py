# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of deletion, insertion and the randomization of weights."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import integrate
from scipy import special
from scipy import stats

from official_ext.harmonization.benchmark import faithfulness
from official_ext.harmonization.benchmark import statistics

_SIDE = 10
_N = _SIDE * _SIDE
_STEP = 1 / faithfulness.STEPS


class _Linear:
  """A network f(x) = sum w x whose pixels add known shares to the score.

  Replacing the k most important pixels by the fill lowers the score from 1 to
  ((N - k) / N)^2.
  """

  def __init__(self, seed=0):
    rng = np.random.default_rng(seed)
    shares = (2 * np.arange(1, _N + 1) - 1) / _N**2
    self.shares = rng.permutation(shares).reshape(_SIDE, _SIDE)
    self.image = rng.uniform(1, 2, (_SIDE, _SIDE, 3)).astype(np.float32)
    self.fill = np.zeros_like(self.image)
    self.weights = self.shares[..., np.newaxis] / (3 * self.image)

  def score(self, images):
    return np.einsum('nhwc,hwc->n', images, self.weights)[:, np.newaxis]

  def areas(self, ranked):
    found = faithfulness.areas(self.score, self.image, self.fill, ranked)
    return found.deletion.item(), found.insertion.item()


class AreasTest(parameterized.TestCase):
  def test_right_order_of_a_linear_network(self):
    linear = _Linear()
    ranked = faithfulness.order(linear.shares, np.random.default_rng(0))
    deletion, insertion = linear.areas(ranked)
    # The integral of (1 - f)^2 is 1/3; the trapezoidal rule adds h^2 / 6.
    self.assertAlmostEqual(deletion, 1 / 3 + _STEP**2 / 6, places=6)
    self.assertAlmostEqual(insertion, 2 / 3 - _STEP**2 / 6, places=6)
    fractions = np.linspace(0, 1, faithfulness.STEPS + 1)
    expected = integrate.trapezoid((1 - fractions) ** 2, fractions)
    self.assertAlmostEqual(deletion, expected, places=6)
    # The least important pixels first: insertion and deletion change places.
    reverse = linear.areas(ranked[::-1])
    np.testing.assert_allclose(reverse, (insertion, deletion), atol=1e-6)

  def test_no_order_exceeds_the_right_one(self):
    linear, rng = _Linear(), np.random.default_rng(1)
    best = linear.areas(faithfulness.order(linear.shares, rng))
    for _ in range(20):
      deletion, insertion = linear.areas(rng.permutation(_N))
      self.assertGreater(deletion, best[0])
      self.assertLess(insertion, best[1])

  def test_noise_has_the_expected_areas(self):
    linear, rng = _Linear(), np.random.default_rng(2)
    found = np.array([linear.areas(rng.permutation(_N)) for _ in range(300)])
    for areas in (*found.T, found[:, 1] - found[:, 0] + 0.5):
      self.assertGreater(stats.ttest_1samp(areas, 0.5).pvalue, 0.001)

  def test_difference_of_noise_is_zero_for_any_network(self):
    # A steep sigmoid: deletion and insertion of noise are both far from .5.
    linear, rng = _Linear(), np.random.default_rng(3)

    def score(images):
      return special.expit(40 * (linear.score(images) - 0.8))

    ranks = [rng.permutation(_N) for _ in range(200)]
    found = [
      faithfulness.areas(score, linear.image, linear.fill, r) for r in ranks
    ]
    deletion, insertion = np.array(found)[..., 0].T
    self.assertLess(deletion.mean(), 0.3)
    self.assertGreater(stats.ttest_rel(insertion, deletion).pvalue, 0.001)

  def test_versions_by_a_loop(self):
    linear = _Linear()
    other = np.random.default_rng(1).uniform(size=linear.image.shape)
    ranked = np.random.default_rng(2).permutation(_N)
    found = faithfulness.versions(linear.image, other, ranked)
    self.assertEqual(found.shape, (2, faithfulness.STEPS - 1, _SIDE, _SIDE, 3))
    for step in range(1, faithfulness.STEPS):
      deleted, inserted = linear.image.copy(), other.copy()
      for pixel in ranked[: step * _N // faithfulness.STEPS]:
        place = divmod(pixel, _SIDE)
        deleted[place], inserted[place] = other[place], linear.image[place]
      np.testing.assert_allclose(found[0, step - 1], deleted, rtol=1e-6)
      np.testing.assert_allclose(found[1, step - 1], inserted, rtol=1e-6)

  def test_equal_pixels_have_a_random_order(self):
    saliency = np.zeros((_SIDE, _SIDE))
    saliency[3, 4] = 1
    places = []
    for seed in range(200):
      ranked = faithfulness.order(saliency, np.random.default_rng(seed))
      self.assertEqual(ranked[0], 34)
      self.assertCountEqual(ranked, range(_N))
      places.append(np.flatnonzero(ranked == 0).item())
    # The first pixel of the others is anywhere, not second.
    p = stats.kstest(np.array(places) / _N, stats.uniform.cdf).pvalue
    self.assertGreater(p, 0.001)

  @parameterized.parameters(0.0, np.nan, np.inf)
  def test_maps_without_order(self, value):
    saliency = np.zeros((_SIDE, _SIDE))
    saliency[0, 0] = value
    rng = np.random.default_rng(0)
    self.assertIsNone(faithfulness.order(saliency, rng))


class ImagesTest(absltest.TestCase):
  def test_fills(self):
    rng = np.random.default_rng(0)
    image, other = rng.uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)
    found = faithfulness.fills(image, other)
    self.assertSequenceEqual(list(found), faithfulness.FILLS)
    np.testing.assert_allclose(
      found['mean'], np.broadcast_to(image.mean((0, 1)), image.shape)
    )
    np.testing.assert_array_equal(found['other'], other)
    # A Gaussian of sigma s reduces the variance of noise by 4 pi s^2.
    inside = found['blur'][40:-40, 40:-40]
    ratio = image.var() / inside.var()
    self.assertBetween(ratio / (4 * np.pi * 100), 0.8, 1.25)

  def test_partners(self):
    groups = np.random.default_rng(0).integers(0, 4, 40)
    found = faithfulness.partners(groups)
    self.assertTrue((groups[found] != groups).all())
    np.testing.assert_array_equal(found, faithfulness.partners(groups))
    self.assertCountEqual(faithfulness.partners(np.arange(40)), range(40))
    with self.assertRaisesRegex(ValueError, 'one group'):
      faithfulness.partners([1, 1])

  def test_class_scores(self):
    logits = np.array([[1.0, 3.0, 2.0], [1000.0, 0.0, 999.0]])
    found = faithfulness.class_scores(logits, 2)
    expected = [np.exp(2) / np.exp([1, 2, 3]).sum(), special.expit(-1)]
    np.testing.assert_allclose(found[:, 0], expected)
    np.testing.assert_array_equal(found[:, 1], [2, 999])
    others = faithfulness.highest_other_class(logits, np.array([1, 2]))
    np.testing.assert_array_equal(others, [2, 0])


class RandomizationTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('same_map', 1.0, 0.1, True),
    ('same_map_for_all_images', 1.0, 1.0, True),
    ('other_map', 0.1, 0.1, False),
    ('edges_in_part', 0.7, 0.1, True),
    ('common_centre', 0.6, 0.6, False),
  )
  def test_fails(self, rho, unrelated, fails):
    noise = np.random.default_rng(0).normal(0, 0.05, (2, 50))
    rhos = np.clip(rho + noise[0], -1, 1)
    found = faithfulness.fails_randomization(
      statistics.mean(rhos),
      statistics.mean(rhos - np.clip(unrelated + noise[1], -1, 1)),
    )
    self.assertEqual(found, fails)

  def test_unknown_does_not_fail(self):
    unknown = statistics.mean([np.nan] * 3)
    self.assertFalse(faithfulness.fails_randomization(unknown, unknown))

  def test_correlations(self):
    a, b = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).round(1)
    b[2] = 1
    expected = [stats.spearmanr(a[i].ravel(), b[i].ravel())[0] for i in (0, 1)]
    found = faithfulness.correlations(a, b)
    np.testing.assert_allclose(found[:2], expected)
    self.assertTrue(np.isnan(found[2]))


if __name__ == '__main__':
  absltest.main()
