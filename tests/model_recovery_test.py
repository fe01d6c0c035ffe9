# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the study that finds the network behind simulated clicks."""

import csv
import gzip
import os
import tempfile
import types

from absl.testing import absltest
import numpy as np
from scipy import ndimage
from scipy import stats

from official_ext.harmonization.benchmark import specificity
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import saliency_metrics
from studies import model_recovery
from studies import recovery_report
from studies import recovery_scores
from studies import simulated_people

_SIZE = 12


def _maps(seed, count=8):
  """Smooth positive maps, some pixels of which are equal."""
  noise = np.random.default_rng(seed).random((count, _SIZE, _SIZE))
  smooth = ndimage.gaussian_filter(noise, (0, 2, 2))
  return np.round(smooth - smooth.min(), 3).astype(np.float32)


def _metric(name, model, human):
  """One metric of maps (B, H, W) by the modules of the benchmark."""
  if name == 'spearman' or name == 'dice':
    return numpy_metrics.alignment_scores(model, human)[name]
  if name in ('auc', 'pointing'):
    return numpy_metrics.localization_scores(model, human)[name]
  if name == 'kl':
    return -saliency_metrics.kl_divergence(model, human)
  return getattr(saliency_metrics, name)(model, human)


class ScoresTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.model, self.human = _maps(0), _maps(1) + _maps(0)
    self.human[2] = 1.0  # A constant map is undefined.
    self.model[3, 0, 0] = np.nan
    self.groups = [0, 1, 2, 3, 4, 4, 5, 0]
    self.subsets = np.ones((3, 8), bool)
    self.subsets[1, :4] = self.subsets[2, 1:] = False
    self.found = recovery_scores.scores(
      recovery_scores.model_features(self.model),
      recovery_scores.human_features(self.human),
      self.subsets,
      self.groups,
    )

  def test_each_metric_equals_the_benchmarks(self):
    for name in recovery_scores.METRICS:
      values = _metric(name, self.model, self.human)
      for subset, mean in zip(self.subsets[:2], self.found[name]):
        np.testing.assert_allclose(
          mean, np.nanmean(values[subset]), rtol=1e-5, err_msg=name
        )

  def test_specific_metrics_equal_a_double_loop(self):
    for name in recovery_scores.METRICS:
      if f'specific {name}' not in self.found:
        continue
      for subset, found in zip(
        self.subsets[:2], self.found[f'specific {name}']
      ):
        own, others = [], []
        for i in np.flatnonzero(subset):
          for j in np.flatnonzero(subset):
            value = _metric(name, self.model[i : i + 1], self.human[j : j + 1])
            # Images without a map enter neither mean.
            if {i, j} & {2, 3}:
              continue
            if i == j:
              own += [*value]
            elif self.groups[i] != self.groups[j]:
              others += [*value]
        np.testing.assert_allclose(
          found, np.mean(own) - np.mean(others), atol=1e-5, err_msg=name
        )

  def test_specific_rank_correlation_is_that_of_the_benchmark(self):
    expected = specificity.measure(
      numpy_metrics.unit_ranks(self.model),
      numpy_metrics.unit_ranks(self.human),
      self.groups,
    )
    self.assertAlmostEqual(
      self.found['specific spearman'][0], expected.specific, places=6
    )

  def test_fewer_than_two_images_have_no_score(self):
    self.assertTrue(np.isnan(self.found['spearman'][2]))
    self.assertTrue(np.isnan(self.found['specific spearman'][2]))


class PeopleTest(absltest.TestCase):
  def test_clicks_follow_the_map(self):
    importance = np.array([[1.0, 0.0], [-2.0, 3.0]])
    taken = []
    original = clicks.click_map
    with absltest.mock.patch.object(
      clicks,
      'click_map',
      lambda rows, *rest: taken.append(rows) or original(rows, *rest),
    ):
      maps = simulated_people.human_maps(importance, (1, 40), clicks=50, seed=0)
    x, y = (
      np.concatenate([row.clicks[k] for row in taken[-1]]) for k in (0, 1)
    )
    half = simulated_people.FRAME / 2
    counts = np.histogram2d(y, x, bins=[[0, half, 2 * half]] * 2)[0]
    self.assertEqual(counts[0, 1] + counts[1, 0], 0)
    share = counts[0, 0] / counts.sum()
    self.assertLess(abs(share - 0.25), 4 * np.sqrt(0.25 * 0.75 / counts.sum()))
    # Poisson's mean, within 4 standard errors.
    self.assertLess(abs(counts.sum() - 2000), 4 * np.sqrt(2000))
    # Uniform within the pixel.
    inside = x[(x < half) & (y < half)] / half
    self.assertGreater(stats.kstest(inside, 'uniform').pvalue, 1e-4)
    np.testing.assert_allclose(
      maps[1].sum(), len(taken[0][0].clicks[0]), rtol=0.1
    )

  def test_a_larger_group_contains_the_smaller_one(self):
    importance = np.random.default_rng(0).random((8, 8))
    two = simulated_people.human_maps(importance, (1, 2), clicks=5, seed=3)
    again = simulated_people.human_maps(importance, (2,), clicks=5, seed=3)
    other = simulated_people.human_maps(importance, (2,), clicks=5, seed=4)
    np.testing.assert_array_equal(two[2], again[2])
    self.assertFalse(np.array_equal(two[2], other[2]))
    self.assertTrue((2 * two[2] - two[1] >= -1e-12).all())

  def test_a_map_without_a_positive_pixel_has_no_clicks(self):
    for value in (0.0, -1.0, np.nan):
      self.assertIsNone(
        simulated_people.human_maps(
          np.full((4, 4), value), (2,), clicks=5, seed=0
        )
      )


class _Folder:
  """Maps of three networks; people see as one of them, with noise."""

  truths = ['a', 'b', 'c']
  rows = ['a', 'b', 'c', 'random-a-0']
  n, groups = 12, np.arange(12)
  settings = types.SimpleNamespace(
    explainers=('gradient', 'smoothgrad'),
    participants=(2, 10),
    clicks=30,
    size=_SIZE,
  )

  def key(self, name, explainer):
    return None if (name, explainer) == ('c', 'smoothgrad') else [name]

  def maps(self, name, explainer):
    noise = 0.02 * _maps(self.rows.index(name) + 10, self.n)
    return _maps(self.rows.index(name), self.n) + noise * (
      explainer == 'smoothgrad'
    )

  def people(self, truth, explainer):
    del explainer
    maps = _maps(self.rows.index(truth), self.n)
    return {
      f'{kind}-{number}': maps + _maps(99, self.n) / number
      for kind in ('plain', 'released')
      for number in (2, 10)
    }


class StudyTest(absltest.TestCase):
  def test_subsets_are_disjoint_and_of_each_size(self):
    members, sizes = model_recovery.subsets([3, 4, 8], 8)
    self.assertEqual(sizes.tolist(), [3, 3, 4, 4, 8])
    self.assertEqual(members.sum(1).tolist(), [3, 3, 4, 4, 8])
    self.assertFalse((members[0] & members[1]).any())

  def test_ranks_share_ties_and_put_undefined_values_last(self):
    np.testing.assert_array_equal(
      model_recovery.ranks(np.array([1.0, 3.0, np.nan, 3.0])), [3, 1.5, 4, 1.5]
    )

  def test_truths_that_people_see_as_come_first(self):
    folder = self.enter_context(tempfile.TemporaryDirectory())
    study = model_recovery.Study(_Folder(), [4, 12], folder)
    path = os.path.join(folder, 'rows.csv.gz')
    truths = model_recovery.write_rows(study.rows(), path)
    with gzip.open(path, 'rt') as f:
      rows = list(csv.DictReader(f))
    self.assertLessEqual(
      {
        'truth',
        'candidate',
        'explainer',
        'score',
        'images',
        'participants',
        'rank',
      },
      {*rows[0]},
    )
    best = [
      row
      for row in rows
      if (row['score'], row['blur'], row['images']) == ('spearman', '5', '12')
    ]
    for row in best:
      is_truth = row['truth'] == row['candidate']
      self.assertEqual(float(row['rank_of_all']) == 1, is_truth, row)
      self.assertEqual(row['first'] == 'nan', row['candidate'] == 'random-a-0')
    # A network without a map by an explainer does not compete.
    self.assertNotIn(
      ('c', 'smoothgrad'), {(r['candidate'], r['explainer']) for r in rows}
    )
    recovery_report.write(truths, folder, study.candidates, {'a': 0.5})
    with open(os.path.join(folder, 'recovery.md')) as f:
      self.assertIn('| spearman, blur 5 px | 1.00 [', f.read())
    # A second study uses the finished parts.
    with absltest.mock.patch.object(recovery_scores, 'scores', None):
      list(model_recovery.Study(_Folder(), [4, 12], folder).rows())

  def test_recovery_is_a_mean_over_truths_with_their_interval(self):
    rows = [
      {
        'truth': truth,
        'truth_explainer': seen,
        'explainer': 'gradient',
        'score': 'spearman',
        'blur': 10,
        'images': 20,
        'participants': 2,
        'first': first,
        'rank': 2 - first,
        'first_of_all': 0.0,
        'rank_of_all': 3.0,
      }
      for truth, firsts in zip('abcd', ([1, 1], [1, 0], [0, 0], [1, 0]))
      for seen, first in zip(('smoothgrad', 'occlusion'), firsts)
    ]
    (found,) = recovery_report.recovery(rows)
    self.assertEqual(found['clicks_from'], recovery_report.OTHERS)
    self.assertEqual(found['recovery'], 0.5)
    self.assertEqual(found['mean_rank'], 1.5)
    # Four truths with the means 1, .5, 0, .5.
    half = stats.t.ppf(0.975, 3) * np.std([1, 0.5, 0, 0.5], ddof=1) / 2
    w = half**2 / 0.25
    distance = np.sqrt(w * 0.25 + w**2 / 4) / (1 + w)
    np.testing.assert_allclose(
      [found['low'], found['high']], [0.5 - distance, 0.5 + distance]
    )
    self.assertEqual(found['low_of_all'], 0)


if __name__ == '__main__':
  absltest.main()
