# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of own, shuffled and specific alignment."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import specificity
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import numpy_metrics

_N, _SIDE = 12, 7
_GROUPS = [0, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8]
_CLASSES = [0, 0, 0, 0, 1, 1, 2, 2, 2, 1, 3, 2]


def _maps(seed=0, n=_N):
  """Returns model and human maps with ties that agree about an image."""
  rng = np.random.default_rng(seed)
  human = np.round(rng.normal(size=(n, _SIDE, _SIDE)), 1)
  common = rng.normal(size=(_SIDE, _SIDE))
  model = 0.5 * human + rng.normal(size=human.shape) + common
  return np.round(model, 1), human + 0.5 * common


def _correlations(model, human):
  """Returns SciPy's rank correlation of each model map with each human map."""
  return np.array(
    [
      [stats.spearmanr(m.ravel(), h.ravel()).statistic for h in human]
      for m in model
    ]
  )


def _specific(k, admissible):
  """Computes the definition by pairs."""
  return np.mean(np.diag(k)) - np.mean(k[admissible])


def _measure(model, human, **options):
  return specificity.measure(
    numpy_metrics.unit_ranks(model), numpy_metrics.unit_ranks(human), **options
  )


def _admissible(groups, classes=None, partners='all'):
  groups = np.asarray(groups)
  found = groups[:, np.newaxis] != groups
  if partners != 'all':
    label = np.asarray(classes)
    same = label[:, np.newaxis] == label
    found &= same if partners == 'same class' else ~same
  return found


class MeasureTest(parameterized.TestCase):
  def test_equals_a_double_loop_over_pairs(self):
    model, human = _maps()
    k = _correlations(model, human)
    found = _measure(model, human)
    others = ~np.eye(_N, dtype=bool)
    np.testing.assert_allclose(found.own, np.diag(k), atol=1e-6)
    for i in range(_N):
      self.assertAlmostEqual(
        found.outward[i], k[i][others[i]].mean(), delta=1e-6
      )
      self.assertAlmostEqual(
        found.inward[i], k[:, i][others[i]].mean(), delta=1e-6
      )
    self.assertAlmostEqual(found.shuffled, k[others].mean(), delta=1e-6)
    self.assertAlmostEqual(found.specific, _specific(k, others), delta=1e-6)
    np.testing.assert_allclose(
      found.influence,
      np.diag(k) - found.outward - found.inward + found.outward.mean(),
      atol=1e-6,
    )

  @parameterized.parameters('all', 'same class', 'other class')
  def test_groups_and_classes_decide_which_pairs_count(self, partners):
    model, human = _maps(1)
    k = _correlations(model, human)
    admissible = _admissible(_GROUPS, _CLASSES, partners)
    has = admissible.any(axis=1)
    found = _measure(
      model, human, groups=_GROUPS, classes=_CLASSES, partners=partners
    )
    expected = np.diag(k)[has].mean() - k[admissible].mean()
    self.assertAlmostEqual(found.specific, expected, delta=1e-6)
    self.assertAlmostEqual(np.nanmean(found.influence), expected, delta=1e-6)
    np.testing.assert_array_equal(np.isnan(found.influence), ~has)
    np.testing.assert_array_equal(np.isnan(found.inward), ~has)
    # The image of the group 7 is the only one of its class.
    self.assertEqual(has.all(), partners != 'same class')

  def test_images_without_ranks_enter_nothing(self):
    model, human = _maps(2)
    model[3] = 1.0
    human[7, 0, 0] = np.nan
    kept = [i for i in range(_N) if i not in (3, 7)]
    found = _measure(model, human)
    expected = _measure(model[kept], human[kept])
    self.assertAlmostEqual(found.specific, expected.specific, places=9)
    np.testing.assert_allclose(found.influence[kept], expected.influence)
    for values in (found.own, found.outward, found.inward, found.influence):
      self.assertTrue(np.isnan(values[[3, 7]]).all())

  def test_a_map_that_ignores_the_image_is_not_specific(self):
    _, human = _maps(3, 50)
    model = np.broadcast_to(
      np.arange(_SIDE**2).reshape(_SIDE, _SIDE), human.shape
    )
    found = _measure(model, human)
    self.assertAlmostEqual(found.specific, 0, delta=1e-7)
    # Own - shuffled varies between images; their influence hardly does.
    naive = statistics.mean(found.own - found.outward)
    estimate = statistics.mean(found.influence)
    self.assertLess(estimate.standard_error, 0.05 * naive.standard_error)

  def test_fewer_than_two_groups_have_no_others(self):
    model, human = _maps(4, 3)
    for found in (
      _measure(model[:1], human[:1]),
      _measure(model, human, groups=[5, 5, 5]),
      _measure(model * np.nan, human),
    ):
      self.assertTrue(np.isnan(found.specific) and np.isnan(found.shuffled))
      self.assertTrue(np.isnan(found.influence).all())
    self.assertFalse(np.isnan(_measure(model[:1], human[:1]).own).any())

  def test_wrong_shapes_and_partners_are_refused(self):
    model, human = _maps()
    with self.assertRaisesRegex(ValueError, r'\(12, 49\) and \(11, 49\)'):
      _measure(model, human[1:])
    with self.assertRaisesRegex(ValueError, "'nobody'"):
      _measure(model, human, classes=_CLASSES, partners='nobody')
    with self.assertRaisesRegex(ValueError, 'classes is None'):
      _measure(model, human, partners='same class')


class InfluenceTest(absltest.TestCase):
  def test_standard_error_is_near_that_of_a_jackknife_over_groups(self):
    model, human = _maps(5, 60)
    groups = (
      np.arange(60) // 2 * 2
    )  # Pairs of frames, which resemble each other.
    groups[40:] = np.arange(40, 60)
    for pair in range(0, 40, 2):
      human[pair + 1] = human[pair] + 0.1 * human[pair + 1]
      model[pair + 1] = model[pair] + 0.1 * model[pair + 1]
    k = _correlations(model, human)
    left_out = []
    for one in np.unique(groups):
      kept = groups != one
      admissible = _admissible(groups[kept])
      left_out.append(_specific(k[np.ix_(kept, kept)], admissible))
    count = len(left_out)
    jackknife = np.sqrt((count - 1) * np.var(left_out))
    found = statistics.mean(
      _measure(model, human, groups=groups).influence, groups
    )
    self.assertAlmostEqual(found.standard_error / jackknife, 1, delta=0.06)

  def test_intervals_cover_the_truth(self):
    rng = np.random.default_rng(0)
    covered, ratios, trials, n, size = 0, [], 300, 30, 64

    def draw(count):
      """Returns maps with a common part whose strength varies."""
      own = rng.normal(size=(count, size))
      common = np.linspace(-2, 2, size)
      strength = rng.uniform(0, 2, (2, count, 1))
      human = own + strength[0] * common + rng.normal(size=own.shape)
      model = own + strength[1] * common + 2 * rng.normal(size=own.shape)
      for maps in (human, model):
        maps -= maps.mean(axis=1, keepdims=True)
        maps /= np.linalg.norm(maps, axis=1, keepdims=True)
      return model, human

    truth = specificity.measure(*draw(20000)).specific
    for _ in range(trials):
      found = specificity.measure(*draw(n))
      estimate = statistics.mean(found.influence)
      covered += estimate.low <= truth <= estimate.high
      naive = statistics.mean(found.own - found.outward)
      ratios.append(naive.standard_error / estimate.standard_error)
    self.assertBetween(covered / trials, 0.92, 0.98)
    self.assertGreater(np.mean(ratios), 1.1)


class OtherMapsTest(absltest.TestCase):
  def test_is_the_mean_over_all_choices_of_other_images(self):
    _, human = _maps(6, 5)
    groups = [0, 1, 1, 2, 3]
    ranks = numpy_metrics.unit_ranks(human)
    k = ranks @ ranks.T
    admissible = _admissible(groups)
    choices = [np.flatnonzero(row) for row in admissible]
    found = []
    for chosen in itertools.product(*choices):
      shown = k[list(chosen)]
      found.append(_specific(shown, admissible))
    measured = specificity.measure(
      specificity.other_maps(ranks, groups), ranks, groups
    )
    self.assertAlmostEqual(measured.specific, np.mean(found), delta=1e-6)
    self.assertLess(measured.specific, 0)


class PartialCorrelationTest(absltest.TestCase):
  def test_equals_the_correlation_of_residuals(self):
    model, human = _maps(7)
    covariate = np.arange(_SIDE**2) % 11
    ranks = [
      np.array([stats.rankdata(m.ravel()) for m in maps])
      for maps in (model, human)
    ]
    third = stats.rankdata(covariate)
    expected = []
    for a, b in zip(*ranks):
      residuals = [
        r - np.polyval(np.polyfit(third, r, 1), third) for r in (a, b)
      ]
      expected.append(np.corrcoef(*residuals)[0, 1])
    with_third = [
      [np.corrcoef(row, third)[0, 1] for row in rows] for rows in ranks
    ]
    own = np.diag(_correlations(model, human))
    found = specificity.partial_correlation(own, *with_third)
    np.testing.assert_allclose(found, expected, atol=1e-9)

  def test_the_covariate_itself_has_none(self):
    found = specificity.partial_correlation(
      [0.5, 0.5, 0.5], [1 - 1e-8, -1, 0.3], [0.5, 0.5, 1]
    )
    self.assertTrue(np.isnan(found).all())


if __name__ == '__main__':
  absltest.main()
