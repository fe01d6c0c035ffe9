# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the comparisons of networks with controls."""

import os
import shutil
import tempfile

from absl.testing import absltest
import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import comparisons
from official_ext.harmonization.benchmark import results
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


if __name__ == '__main__':
  absltest.main()
