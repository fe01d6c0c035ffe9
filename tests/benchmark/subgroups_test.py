# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of specific alignment by kinds and classes of images."""

import math

from absl.testing import absltest
import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import subgroups


def _rows(count=60, seed=0):
  """Makes a table of images; some have no value."""
  rng = np.random.default_rng(seed)
  return [
    {
      'influence': math.nan if i % 10 == 9 else rng.normal(0.2, 0.3),
      'group': i,
      'label': int(label),
      'correct': int(rng.random() < 0.4),
      'map_extent': rng.uniform(0.05, 0.8),
    }
    for i, label in enumerate(rng.choice([3, 397, 398, 900], count))
  ]


def _named(found):
  return {(s.kind, s.name): s for s in found}


class SubgroupsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.rows = _rows()
    self.found = _named(subgroups.measure(self.rows, 1000, 'clickme', 'one'))

  def _values(self, is_in):
    values = [r['influence'] for r in self.rows if is_in(r)]
    return [v for v in values if not math.isnan(v)]

  def _check(self, key, is_in):
    values, found = self._values(is_in), self.found[key]
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose(
      [found.value, found.low, found.high],
      [np.mean(values), interval.low, interval.high],
    )
    self.assertEqual(found.n, len(values))
    count = sum(map(is_in, self.rows))
    self.assertEqual(found.n_undefined, count - len(values))
    self.assertEqual((found.protocol, found.model), ('clickme', 'one'))

  def test_each_kind_equals_scipys_t_interval(self):
    low, high = np.quantile(
      [r['map_extent'] for r in self.rows], (1 / 3, 2 / 3)
    )
    for key, is_in in (
      (('all', 'all images'), lambda r: True),
      (('answer', 'correct'), lambda r: r['correct']),
      (('answer', 'wrong'), lambda r: not r['correct']),
      # 397 is ImageNet's last animal.
      (('animacy', 'animals'), lambda r: r['label'] in (3, 397)),
      (('animacy', 'other classes'), lambda r: r['label'] in (398, 900)),
      (('extent', 'small human maps'), lambda r: r['map_extent'] <= low),
      (('extent', 'large human maps'), lambda r: r['map_extent'] > high),
      (('class', '398'), lambda r: r['label'] == 398),
    ):
      with self.subTest(key=key):
        self._check(key, is_in)
    sizes = [
      sum((s.n, s.n_undefined))
      for (kind, name), s in self.found.items()
      if kind == 'extent' and 'minus' not in name
    ]
    self.assertEqual(sizes, [20, 20, 20])

  def test_subgroups_average_to_the_score(self):
    for kind in ('answer', 'animacy', 'extent', 'class'):
      parts = [
        s
        for (k, name), s in self.found.items()
        if k == kind and ' minus ' not in name
      ]
      self.assertAlmostEqual(
        np.average([s.value for s in parts], weights=[s.n for s in parts]),
        self.found['all', 'all images'].value,
      )

  def test_differences_are_welchs(self):
    found = self.found['answer', 'correct minus wrong']
    expected = stats.ttest_ind(
      self._values(lambda r: r['correct']),
      self._values(lambda r: not r['correct']),
      equal_var=False,
    )
    interval = expected.confidence_interval()
    np.testing.assert_allclose(
      [found.low, found.high, found.p],
      [interval.low, interval.high, expected.pvalue],
    )

  def test_only_what_the_table_tells(self):
    # As text, and without answers and sizes, as of a control.
    rows = [
      {k: str(r[k]) for k in ('influence', 'group', 'label')} for r in self.rows
    ]
    found = _named(subgroups.measure(rows, 10))
    self.assertEqual({kind for kind, _ in found}, {'all', 'class'})
    self.assertAlmostEqual(
      found['class', '3'].value, self.found['class', '3'].value
    )
    # An empty subgroup is not 0.
    rows = [{**r, 'label': 900} for r in self.rows]
    animals = _named(subgroups.measure(rows, 1001))['animacy', 'animals']
    self.assertTrue(math.isnan(animals.value))
    self.assertEqual((animals.n, animals.n_undefined), (0, 0))

  def test_runs_of_one_network_are_averaged_by_image(self):
    one, two = (
      [
        {'file': 'f', 'record': i, 'group': i, 'label': 0, 'correct': 1}
        | {'influence': value}
        for i, value in values.items()
      ]
      for values in ({0: 0.0, 1: 0.5, 2: 9.0}, {1: 0.75, 0: 0.25})
    )
    self.assertIs(subgroups.mean_rows([one]), one)
    rows = subgroups.mean_rows([one, two])
    self.assertEqual([r['influence'] for r in rows], [0.125, 0.625])
    self.assertEqual(
      {kind for kind, _ in _named(subgroups.measure(rows, 2))}, {'all', 'class'}
    )

  def test_the_largest_classes_have_rows(self):
    labels = [i for i in range(30) for _ in range(1 + (i % 5))]
    rows = [
      {'influence': float(label), 'group': i, 'label': label}
      for i, label in enumerate(labels)
    ]
    found = [
      s for s in subgroups.measure(rows, 50) if s.kind == subgroups.CLASS
    ]
    self.assertLen(found, 21)
    self.assertEqual([s.name for s in found[:2]], ['4', '9'])
    self.assertEqual(
      [s.n for s in found[:20]], sorted([s.n for s in found[:20]], reverse=True)
    )
    self.assertEqual(sum(s.n for s in found), len(labels))

  def test_intervals_cover_the_truth(self):
    # Products k_ij = row_i + column_j + noise, plus s_i where i = j, with s
    # around .1 in one subgroup and around .4 in the other one.
    rng = np.random.default_rng(1)
    n, covered = 30, []
    truth = {'correct': 0.1, 'wrong': 0.4, 'correct minus wrong': -0.3}
    for _ in range(300):
      correct = np.arange(n) < 10
      s = np.where(correct, 0.1, 0.4) + 0.2 * rng.normal(size=n)
      k = rng.normal(size=(n, 1)) + rng.normal(size=n)
      k += 0.3 * rng.normal(size=(n, n)) + np.diag(s)
      own = np.diag(k)
      out, into = ((k.sum(axis) - own) / (n - 1) for axis in (1, 0))
      influence = own - out - into + out.mean()
      found = _named(
        subgroups.measure(
          [
            {'influence': v, 'group': i, 'label': 0, 'correct': int(c)}
            for i, (v, c) in enumerate(zip(influence, correct))
          ],
          2,
        )
      )
      covered.append(
        [
          found['answer', name].low <= value <= found['answer', name].high
          for name, value in truth.items()
        ]
      )
    for rate in np.mean(covered, axis=0):
      self.assertBetween(rate, 0.92, 0.98)


if __name__ == '__main__':
  absltest.main()
