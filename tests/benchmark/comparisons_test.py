# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the comparisons of networks with controls and with each other."""

import dataclasses
import itertools
import os
import shutil
import tempfile

from absl.testing import absltest
import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import comparisons
from official_ext.harmonization.benchmark import explainer_agreement
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import network_pairs
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_groups
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import scores

_FACTS = results.AdapterFacts([8, 8], 3, 'none')


def _folder(case):
  """Returns a new folder, which the test removes."""
  folder = tempfile.mkdtemp()
  case.addCleanup(shutil.rmtree, folder, ignore_errors=True)
  return folder


class _Protocol:
  name, has_controls = 'clickme', True
  image_values = {
    'specific': ('influence',),
    'shuffled': ('own', 'influence'),
    'top1': ('correct',),
    'lost': ('not in the table',),
  }

  def with_people(self, table):
    return table


def _score(name, value, spread=0.1):
  return scores.Score(
    name, value, 20, 1, value - spread, value + spread, 0.95, None, ''
  )


class CompareTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = _folder(self)
    rng = np.random.default_rng(0)
    self.values = {
      'good': 0.4 + 0.1 * rng.normal(size=20),
      'bad': -0.2 + 0.1 * rng.normal(size=20),
      'control-centre': 0.01 * rng.normal(size=20),
      'control-sobel': 0.38 + 0.1 * rng.normal(size=20),
      'random-good-0': 0.1 * rng.normal(size=20),
      'random-good-1': 0.1 * rng.normal(size=12),
    }

  def _model(self, name):
    values = self.values[name]
    scores.write_rows(
      os.path.join(self.folder, f'{name}.csv'),
      [
        {'file': 'f', 'record': i, 'name': '', 'influence': v, 'group': i // 2}
        for i, v in enumerate(values)
      ],
    )
    settings = {'spec': f'keras:{name}'}
    if name.startswith('control-'):
      settings['spec'] = 'control:' + name.removeprefix('control-')
    if name.startswith('random-'):
      settings['random_twin_of'] = 'good'
    explained = results.Explained({}, {})
    stored = results.StoredResult(
      {}, {}, f'{name}.csv', explainers={'gradient': explained}
    )
    return results.ModelResults(name, settings, _FACTS, {'clickme': stored})

  def _compare(self):
    models = [self._model(name) for name in self.values]
    found = comparisons.compare(self.folder, models, [_Protocol()])
    return {(c.model, c.control): c for c in found}

  def test_each_network_with_each_control(self):
    found = self._compare()
    self.assertCountEqual(
      found,
      [
        ('good', 'control-centre'),
        ('good', 'control-sobel'),
        ('good', 'random-good'),
        ('bad', 'control-centre'),
        ('bad', 'control-sobel'),
      ],
    )
    good, sobel = (
      self.values[n].reshape(10, 2).mean(axis=1)
      for n in ('good', 'control-sobel')
    )
    c = found['good', 'control-sobel']
    # With equal groups, the test is that of the groups' means.
    self.assertAlmostEqual(c.p, stats.ttest_rel(good, sobel).pvalue)
    self.assertAlmostEqual(c.difference, (good - sobel).mean())
    self.assertEqual(c.n, 20)
    self.assertFalse(c.beats or c.is_below)
    self.assertTrue(found['good', 'control-centre'].beats)
    for control in ('control-centre', 'control-sobel'):
      self.assertTrue(found['bad', control].is_below)
      self.assertFalse(found['bad', control].beats)
    adjusted = statistics.holm([c.p for c in found.values()])
    self.assertEqual([c.p_holm for c in found.values()], adjusted)

  def test_random_twins_count_as_their_mean_on_common_images(self):
    c = self._compare()['good', 'random-good']
    twins = [self.values[f'random-good-{i}'][:12] for i in range(2)]
    expected = self.values['good'][:12] - np.mean(twins, axis=0)
    self.assertAlmostEqual(c.difference, expected.mean())
    self.assertEqual(c.n, 12)

  def test_results_without_influences_are_not_compared(self):
    model = self._model('good')
    stored = results.StoredResult({}, {}, 'missing.csv')
    old = results.ModelResults(
      'old', {'spec': 'x:y'}, _FACTS, {'clickme': stored}
    )
    found = comparisons.compare(
      self.folder, [model, old, self._model('control-centre')], [_Protocol()]
    )
    self.assertEqual([c.model for c in found], ['good'])


class AgreementTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = _folder(self)

  def _compare(self, first, second, groups):
    """Compares explainers by influences of (networks, n) values."""
    models = []
    for i, pair in enumerate(zip(first, second)):
      stored = {}
      for protocol, explainer, values in zip(
        ('clickme', 'clickme.other'), ('gradient', 'other'), pair
      ):
        path = f'{i}.{protocol}.csv'
        scores.write_rows(
          os.path.join(self.folder, path),
          [
            {'file': 'f', 'record': k, 'influence': v, 'group': groups[k]}
            for k, v in enumerate(values)
          ],
        )
        stored[protocol] = results.StoredResult(
          {}, {}, path, explainers={explainer: results.Explained({}, {})}
        )
      models.append(
        results.ModelResults(f'n{i}', {'spec': 'keras:a'}, _FACTS, stored)
      )
    protocols = [_Protocol(), _Protocol()]
    protocols[1].name = 'clickme.other'
    (found,) = explainer_agreement.compare(self.folder, models, protocols)
    return found

  def test_equals_scipy_on_the_common_images(self):
    rng = np.random.default_rng(1)
    groups = np.array([0, 0, 1, 2, 3, 4, 4, 5, 6, 7])
    first = rng.normal(size=(5, 10))
    # The second explainer was measured on fewer images.
    second = first[:, :8] + rng.normal(0, 1, (5, 8))
    found = self._compare(first, second, groups)
    pair = [first[:, :8].mean(axis=1), second.mean(axis=1)]
    self.assertAlmostEqual(found.spearman.value, stats.spearmanr(*pair)[0])
    self.assertAlmostEqual(found.kendall.value, stats.kendalltau(*pair)[0])
    self.assertEqual((found.images, found.groups), (8, 6))
    self.assertEqual(list(found.order), [f'n{i}' for i in np.argsort(-pair[1])])
    self.assertTrue(found.order_changes)
    drawn, same = [], 0
    rng = np.random.default_rng(1)
    for _ in range(2000):
      images = [
        k
        for group in rng.integers(6, size=6)
        for k in np.flatnonzero(groups[:8] == group)
      ]
      pair = [x[:, images].mean(axis=1) for x in (first, second)]
      drawn.append(stats.spearmanr(*pair)[0])
      same += list(np.argsort(pair[0])) == list(np.argsort(pair[1]))
    self.assertAlmostEqual(
      found.spearman.low, np.percentile(drawn, 2.5), delta=0.101
    )
    self.assertAlmostEqual(
      found.spearman.high, np.percentile(drawn, 97.5), delta=0.101
    )
    self.assertAlmostEqual(found.same_order, same / 2000, delta=0.05)

  def test_opposite_orders_and_undefined_correlations(self):
    rng = np.random.default_rng(0)
    first = np.arange(3)[:, None] + 0.1 * rng.normal(size=(3, 6))
    found = self._compare(first, -first, np.arange(6))
    for c in (found.spearman, found.kendall):
      self.assertEqual([c.value, c.low, c.high], [-1, -1, -1])
    self.assertEqual(found.same_order, 0)
    self.assertEqual(list(found.networks), ['n2', 'n1', 'n0'])
    one_group = self._compare(first, first, np.zeros(6, int))
    self.assertEqual(one_group.spearman.value, 1)
    self.assertTrue(
      np.isnan([one_group.spearman.low, one_group.same_order]).all()
    )
    equal = self._compare(first, 0 * first, np.arange(6))
    self.assertTrue(np.isnan(equal.kendall.value))


class GroupTest(absltest.TestCase):
  """Runs of one network, and another network, on 12 images."""

  def setUp(self):
    super().setUp()
    self.folder = _folder(self)
    rng = np.random.default_rng(1)
    names = [*(f'seed-{i}' for i in range(5)), 'other', 'control-sobel']
    self.own = dict(zip(names, 0.5 + 0.1 * rng.normal(size=(7, 12))))
    self.influence = dict(zip(names, 0.3 + 0.1 * rng.normal(size=(7, 12))))
    self.influence['seed-1'][3] = np.nan
    self.groups = np.repeat(range(6), 2)
    self.hits = dict(zip(names, rng.integers(0, 2, size=(7, 12))))
    self.models = [self._model(name) for name in names]
    twin = self._model('seed-0')
    twin.name = 'random-net-0'
    twin.settings = {'spec': 'x:seed-0', 'random_twin_of': 'seed-0'}
    self.models.append(twin)

  def _model(self, name):
    scores.write_rows(
      os.path.join(self.folder, f'{name}.csv'),
      [
        {
          'file': 'f',
          'record': i,
          'name': '',
          'correct': self.hits[name][i],
          'own': self.own[name][i],
          'influence': self.influence[name][i],
          'group': self.groups[i],
        }
        for i in range(12)
      ],
    )
    settings = {'spec': f'keras:{name}'}
    if name.startswith('seed'):
      settings['group'] = 'net'
    if name.startswith('control'):
      settings['spec'] = 'control:sobel'
    specific = np.nanmean(self.influence[name])
    one = {'specific': _score('specific', specific)}
    smoothed = results.Smoothed(5, *3 * [_score('own', specific)])
    stored = results.StoredResult(
      {'top1': _score('top1', 0.5), 'l2': _score('l2', specific, 0.2)},
      {},
      f'{name}.csv',
      explainers={'gradient': results.Explained(one, [smoothed])},
      warnings=['dark'] if name == 'seed-2' else [],
    )
    return results.ModelResults(name, settings, _FACTS, {'clickme': stored})

  def _with_means(self, skipped=()):
    models = [m for m in self.models if m.name not in skipped]
    return run_groups.with_means(models, [_Protocol()], self.folder)

  def _runs(self, values, count=5):
    return np.array([values[f'seed-{i}'] for i in range(count)])

  def test_runs_are_one_row_with_the_uncertainty_of_seeds(self):
    models = self._with_means()
    self.assertEqual([m.name for m in models if m.is_network], ['other', 'net'])
    net = models[-1]
    self.assertEqual(net.runs, [f'seed-{i}' for i in range(5)])
    self.assertEqual(models[-2].twin_of, 'net')
    found = net.results['clickme']
    self.assertEqual(found.warnings, ['seed-2: dark'])
    score = found.explainers['gradient'].scores['specific']
    expected = repeated_runs.mean(self._runs(self.influence), self.groups)
    self.assertEqual(
      (score.value, score.low, score.high, score.n, score.n_undefined),
      (expected.value, expected.low, expected.high, 11, 10),
    )
    self.assertIn('over the seeds of 5 runs', score.interval_method)
    # Without values of images, images count as if they were not shared.
    l2 = found.scores['l2']
    values = [np.nanmean(v) for v in self._runs(self.influence)]
    self.assertAlmostEqual(l2.value, np.mean(values))
    variance = (0.2 / 1.959964) ** 2 + np.var(values, ddof=1) / 5
    self.assertAlmostEqual(l2.high - l2.value, 2.776445 * variance**0.5, 5)
    (smoothed,) = found.explainers['gradient'].by_width
    self.assertAlmostEqual(smoothed.own.value, np.mean(values))

  def test_fewer_than_five_runs(self):
    net = self._with_means(['seed-4'])[-1]
    score = net.results['clickme'].scores['top1']
    hits = self._runs(self.hits, 4).mean(axis=0)
    expected = statistics.mean(hits, self.groups)
    self.assertEqual((score.low, score.high), (expected.low, expected.high))
    self.assertIn('seeds: not estimable with 4 runs', score.interval_method)

  def test_proportions_stay_between_0_and_1(self):
    for hits in self.hits.values():
      hits[:] = 1
    self.hits['seed-0'][7] = 0
    for model in (self._model(name) for name in self.hits):
      old = next(m for m in self.models if m.name == model.name)
      top1 = dataclasses.replace(
        model.results['clickme'].scores['top1'], details={'interval': 'Wilson'}
      )
      model.results['clickme'].scores['top1'] = top1
      self.models[self.models.index(old)] = model
    score = self._with_means()[-1].results['clickme'].scores['top1']
    estimate = repeated_runs.mean(self._runs(self.hits), self.groups)
    self.assertGreater(estimate.high, 1)
    np.testing.assert_allclose(
      (score.low, score.high),
      statistics.bounded(59 / 60, estimate.low, estimate.high, 6),
    )
    self.assertBetween(score.high, 59 / 60, 1)
    self.assertStartsWith(score.interval_method, 'Wilson with the variance')
    self.hits['seed-0'][7] = 1
    self._model('seed-0')
    score = self._with_means()[-1].results['clickme'].scores['top1']
    self.assertEqual((score.low, score.high), statistics.wilson(6, 6))

  def test_what_people_reach_stays(self):
    for i, model in enumerate(self.models[:5]):
      specific = model.results['clickme'].explainers['gradient'].scores
      specific['controlled'] = dataclasses.replace(
        _score('controlled', 0.5 + i / 10),
        details={
          'participants_interval': [0.4 + i / 10, 0.6 + i / 10],
          'denominator': 0.4,
        },
      )
    for skipped, ends in ((), [0.6, 0.8]), (['seed-4'], [0.55, 0.75]):
      found = self._with_means(skipped)[-1].results['clickme'].explainers
      details = found['gradient'].scores['controlled'].details
      np.testing.assert_allclose(details['participants_interval'], ends)
      self.assertEqual(details['denominator'], 0.4)
    del specific['controlled'].details['participants_interval']
    found = self._with_means()[-1].results['clickme'].explainers
    details = found['gradient'].scores['controlled'].details
    self.assertNotIn('participants_interval', details)

  def test_one_run_keeps_its_interval(self):
    models = self._with_means([f'seed-{i}' for i in range(1, 5)])
    (run,) = (m for m in models if m.name == 'seed-0')
    one, mean = (m.results['clickme'].scores['top1'] for m in (run, models[-1]))
    self.assertEqual((mean.low, mean.high), (one.low, one.high))
    self.assertEqual(mean.details['runs'], 1)
    self.assertIn('seeds: not estimable with 1 run', mean.interval_method)

  def test_a_group_is_compared_with_controls(self):
    found = comparisons.compare(self.folder, self._with_means(), [_Protocol()])
    by_names = {(c.model, c.control): c for c in found}
    self.assertCountEqual(
      by_names,
      [
        ('other', 'control-sobel'),
        ('net', 'control-sobel'),
        ('net', 'random-net'),
      ],
    )
    expected = repeated_runs.mean(
      self._runs(self.influence) - self.influence['control-sobel'], self.groups
    )
    c = by_names['net', 'control-sobel']
    self.assertEqual((c.p, c.variance), (expected.p, expected.variance))
    self.assertEqual(c.n, 11)

  def test_pairs(self):
    pairs = [('other', 'net'), ('other', 'seed-0'), ('other', 'missing')]
    found = network_pairs.compare(
      self.folder, self._with_means(), [_Protocol()], [*pairs, *pairs]
    )
    by_key = {(c.second, c.score): c for c in found}
    self.assertLen(found, 6)
    self.assertCountEqual(
      by_key,
      itertools.product(('net', 'seed-0'), ('specific', 'shuffled', 'top1')),
    )
    c = by_key['seed-0', 'shuffled']
    shuffled = {n: self.own[n] - self.influence[n] for n in ('seed-0', 'other')}
    by_group = {n: v.reshape(6, 2).mean(axis=1) for n, v in shuffled.items()}
    expected = stats.ttest_rel(by_group['seed-0'], by_group['other'])
    self.assertAlmostEqual(c.p, expected.pvalue)
    # From the first network to the second.
    self.assertAlmostEqual(
      c.difference, np.mean(shuffled['seed-0'] - shuffled['other'])
    )
    self.assertAlmostEqual(c.low, expected.confidence_interval().low)
    self.assertFalse(c.over_seeds)
    for score in ('specific', 'top1'):
      of_score = [by_key[n, score] for n in ('net', 'seed-0')]
      self.assertEqual(
        [c.p_holm for c in of_score], statistics.holm([c.p for c in of_score])
      )

  def test_equal_differences_show_nothing(self):
    self.hits['seed-0'] = self.hits['other']
    self.models = [self._model(name) for name in ('seed-0', 'other')]
    found = network_pairs.compare(
      self.folder, self.models, [_Protocol()], [('other', 'seed-0')]
    )
    top1, specific = (
      next(c for c in found if c.score == score)
      for score in ('top1', 'specific')
    )
    self.assertEqual((top1.difference, top1.n), (0, 12))
    for value in (top1.low, top1.high, top1.p, top1.p_holm):
      self.assertTrue(np.isnan(value))
    self.assertFalse(top1.is_significant)
    self.assertEqual(specific.p_holm, specific.p)

  def test_two_groups_are_compared_over_seeds(self):
    for model in list(self.models[:5]):
      again = self._model(model.name)
      again.name, again.settings['group'] = f'{model.name}-b', 'second'
      self.models.append(again)
    (c,) = [
      c
      for c in network_pairs.compare(
        self.folder, self._with_means(), [_Protocol()], [('net', 'second')]
      )
      if c.score == 'top1'
    ]
    self.assertTrue(c.over_seeds)
    self.assertEqual((c.difference, c.p), (0, 1))
    hits = self._runs(self.hits)
    expected = repeated_runs.difference(hits, hits, self.groups)
    self.assertEqual((c.low, c.high), (expected.low, expected.high))
    self.assertLess(c.low, 0)

  def test_names(self):
    models = model_specs.parse_all(
      ['keras:a.h5?group=net', 'keras:b.h5?group=net', 'keras:c.h5']
    )
    self.assertEqual(model_specs.rows(models), ['net', 'c'])
    twins = model_specs.random_twins(models, 2)
    self.assertEqual(
      [(t.name, t.twin_of) for t in twins],
      [
        ('random-net-0', 'a'),
        ('random-net-1', 'a'),
        ('random-c-0', 'c'),
        ('random-c-1', 'c'),
      ],
    )
    self.assertEqual(models[0].settings()['group'], 'net')
    self.assertNotIn('group', twins[0].settings())
    for specs, words in (
      (['keras:a.h5?group=C', 'keras:c.h5'], 'is the name of the model'),
      (['keras:a.h5?name=control-sobel'], 'the name of a control'),
      (['keras:a.h5?group=control-sobel'], 'of a control.*group=NAME'),
      (['mg:a', 'mg:b?name=Random-a-0'], 'Random-a-0 is .* a random twin'),
      (['mg:a?group=g', 'mg:b?group=random-g'], 'random-g is .* random twin'),
      (['keras:a.h5?group=a/b'], 'the group would be called'),
    ):
      with self.assertRaisesRegex(protocol_lib.SettingsError, words):
        model_specs.parse_all(specs)


if __name__ == '__main__':
  absltest.main()
