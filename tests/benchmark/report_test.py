# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the report: tables, plots and the self-contained page."""

import ast
import base64
import csv
import dataclasses
import html
import html.parser
import io
import json
import math
import os
import re
import statistics
from unittest import mock

from absl.testing import parameterized
from matplotlib import colors
import numpy as np
from PIL import Image
from scipy import stats
import tensorflow as tf

from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark import subgroups as subgroups_lib
from official_ext.harmonization.benchmark.protocols import clickme
from official_ext.harmonization.benchmark.report import answer
from official_ext.harmonization.benchmark.report import curves
from official_ext.harmonization.benchmark.report import differences
from official_ext.harmonization.benchmark.report import examples
from official_ext.harmonization.benchmark.report import explainers
from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.benchmark.report import further_scores
from official_ext.harmonization.benchmark.report import leaderboard
from official_ext.harmonization.benchmark.report import matched_conditions
from official_ext.harmonization.benchmark.report import page
from official_ext.harmonization.benchmark.report import people as people_lib
from official_ext.harmonization.benchmark.report import score_correlations
from official_ext.harmonization.benchmark.report import subgroups
from official_ext.harmonization.benchmark.report import trade_off
from official_ext.harmonization.benchmark.report import writer
from official_ext.harmonization.evaluation import panels
from official_ext.harmonization.evaluation import scores
from tests.benchmark import report_results as made

_EVIL = '<script>alert("x")</script>&\'|'


def _model(name, accuracy, rho, **more):
  return made.model(
    name,
    imagenet=made.result({'top1': accuracy}),
    clickme=made.result({'spearman': rho, 'dice': 0.2}, ceiling=0.5, **more),
  )


def _pair(first, second, score, difference, p, **more):
  """Makes a comparison over 100 images whose differences have sd = .2."""
  variance = repeated_runs.Variance(0.0004, math.nan, math.nan, 100, [1, 1])
  estimate = repeated_runs.Estimate(
    difference,
    difference - 0.02,
    difference + 0.02,
    0.01,
    p,
    100,
    variance=variance,
  )
  made_of = run_results.PairComparison.of(
    estimate,
    protocol='clickme',
    score=score,
    first=first,
    second=second,
    **more,
  )
  return dataclasses.replace(made_of, p_holm=2 * p)


def _page(report):
  return page.render(report, page.sections(report, 'nowhere'))


def _square():
  """Returns models at the corners of a square and inside, and a far twin."""
  return [
    _model('inside', 0.5, 0.25),
    _model('a', 0.4, 0.2),
    _model('b', 0.6, 0.2),
    _model('c', 0.6, 0.3),
    _model('d', 0.4, 0.3),
    _model('twin', 0.9, 0.45),
  ]


class LeaderboardTest(parameterized.TestCase):
  def test_ranked_by_alignment_undefined_last(self):
    models = [
      _model('low', 0.9, 0.1),
      _model('none', 0.5, float('nan')),
      _model('high', 0.2, 0.3),
    ]
    shown = leaderboard.columns(models)
    self.assertEqual(
      [m.name for m in leaderboard.ranked(models, shown)],
      ['high', 'low', 'none'],
    )
    self.assertEqual(
      leaderboard.ranking_column(shown).title, 'ClickMe alignment'
    )

  def test_cells_are_divided_by_the_ceiling(self):
    model = _model('one', 0.9, 0.1)
    cells = {
      c.title: leaderboard.cell(model, c).text()
      for c in leaderboard.columns([model])
    }
    self.assertEqual(
      cells,
      {
        'ImageNet top-1': '0.900 [0.880, 0.920]',
        'ClickMe alignment': '0.200 [0.160, 0.240]',
        'ClickMe Dice': '0.200 [0.180, 0.220]',
      },
    )

  def test_missing_and_undefined_scores_are_dashes(self):
    models = [
      _model('one', 0.9, float('nan')),
      made.model('two', imagenet=made.result({'top1': 0.5})),
    ]
    lines = leaderboard.as_markdown(models).splitlines()
    rows = [re.sub(' +', ' ', line) for line in lines]
    self.assertEqual(rows[2], '| one | 0.900 | - |')
    self.assertEqual(rows[3], '| two | 0.500 | - |')

  def test_csv_holds_every_number(self):
    rows = list(
      csv.DictReader(
        io.StringIO(leaderboard.as_csv([_model(_EVIL, 0.9, 1 / 3)]))
      )
    )
    self.assertEqual(rows[0]['model'], _EVIL)
    self.assertEqual(float(rows[0]['clickme_spearman']), 1 / 3)
    self.assertEqual(float(rows[0]['clickme_spearman_normalized']), 1 / 3 / 0.5)
    self.assertEqual(rows[0]['clickme_spearman_n'], '500')
    self.assertEqual(rows[0]['imagenet_top1_ceiling'], '')

  def test_markdown_names_cannot_break_the_table(self):
    table = leaderboard.as_markdown([_model('a|b', 0.9, 0.3)])
    self.assertIn('| a\\|b ', table)

  def test_text_lines_up(self):
    first, *_ = leaderboard.as_text(_square()).split('\n\n')
    starts = {line.rfind(line.split()[-1]) for line in first.splitlines()[1:]}
    self.assertLen(starts, 1)


def _explained(name, **values):
  """Makes a model with saliency metrics."""
  scores = {key: made.score(key, value) for key, value in values.items()}
  return _model(
    name, 0.5, 0.2, explainers={'gradient': results.Explained(scores, [])}
  )


class ExplainersTest(parameterized.TestCase):
  def test_networks_twins_and_order(self):
    def explained(explainer, value, seconds):
      scores = {
        name: made.score(name, value)
        for name in ('own', 'shuffled', 'specific')
      }
      return made.result(
        {'spearman': value},
        explainers={explainer: results.Explained(scores, [], seconds)},
      )

    squared = 'clickme.smoothgrad_squared'
    models = []
    for name, values in (('a', (0.1, 0.5)), ('b', (0.2, 0.4)), ('t', (0, 0.3))):
      models.append(_model(name, 0.5, 0.2))
      models[-1].results = {
        'clickme': explained('gradient', values[0], 0.01),
        squared: explained('smoothgrad_squared', values[1], 0.25),
      }
    models[2].settings['random_twin_of'] = 'a'
    one = run_results.RankCorrelation(-1, -1, -1)
    agreement = run_results.Agreement(
      'clickme', 'gradient', 'smoothgrad_squared', 'ba', 'ab', 9, 9, one, one, 0
    )
    report = made.report(
      models,
      protocols={
        name: run_results.MeasuredProtocol(name, made.map_settings())
        for name in ('clickme', squared)
      },
      agreements=[agreement],
    )
    table, correlations, words = explainers.section(report)
    cells = [[c.text for c in row] for row in table.cells()]
    self.assertEqual(
      [[row[0], row[1], row[4], row[5]] for row in cells],
      [
        ['b', 'gradient', '0.200', '0.01'],
        ['b', 'smoothgrad_squared', '0.400', '0.25'],
        ['a', 'gradient', '0.100', '0.01'],
        ['a', 'smoothgrad_squared', '0.500', '0.25'],
        ['random weights', 'gradient', '0.000', '0.01'],
        ['random weights', 'smoothgrad_squared', '0.300', '0.25'],
      ],
    )
    self.assertEqual(correlations.rows[0][1].text, '-1.00')
    self.assertIn('b, a under gradient, and a, b under', words.items[0])
    self.assertIn(
      'With 2 networks, a rank correlation says little', words.items[0]
    )
    # The first table shows only specific of the second explainer.
    shown = leaderboard.headlines(leaderboard.columns(models))
    self.assertEqual(
      [c.score for c in shown if c.protocol == squared], ['specific']
    )
    # All explainers are in one place of results.json.
    found = report.to_json()['models'][0]['experiments']['clickme']
    self.assertEqual([*found['explainers']], ['gradient', 'smoothgrad_squared'])


class FurtherScoresTest(parameterized.TestCase):
  def test_table_apart_with_dashes_for_earlier_versions(self):
    models = [_explained('new', auc=0.7, nss=1.25), _model('old', 0.4, 0.1)]
    table, meanings = further_scores.tables(models, 'clickme')
    self.assertEqual(table.titles, ['model', 'AUC', 'NSS'])
    self.assertEqual(
      [[c.text for c in row] for row in table.cells()],
      [['new', '0.700', '1.250'], ['old', '-', '-']],
    )
    self.assertLen(meanings.items, 2)
    self.assertEmpty(further_scores.tables(models[1:], 'clickme'))
    main = leaderboard.of_protocol(leaderboard.columns(models), 'clickme')
    self.assertEqual([c.score for c in main], ['spearman', 'dice'])
    self.assertNotIn('AUC', leaderboard.as_text(models))
    rows = csv.DictReader(io.StringIO(leaderboard.as_csv(models)))
    self.assertEqual([r['clickme_auc'] for r in rows], ['0.7', ''])


class ScoreCorrelationsTest(parameterized.TestCase):
  def test_equal_scipy(self):
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    y[3] = y[4]
    rho, low, high = score_correlations.spearman(x, y)
    self.assertAlmostEqual(rho, stats.spearmanr(x, y).statistic)
    # Fisher's interval of Pearson's r, with the wider standard error.
    scale = math.sqrt(1 + rho**2 / 2)
    ends = stats.norm.interval(0.95, math.atanh(rho), scale / math.sqrt(6))
    np.testing.assert_allclose((low, high), np.tanh(ends))
    rho, low, high = score_correlations.spearman(x, -x)
    self.assertEqual((rho, math.isnan(low)), (-1, True))
    self.assertTrue(math.isnan(score_correlations.spearman(x, 0 * x)[0]))

  def test_coverage(self):
    rng = np.random.default_rng(1)
    # The rank correlation that belongs to Pearson's .6.
    truth = 6 / math.pi * math.asin(0.6 / 2)
    hits = 0
    for _ in range(300):
      x, z = rng.normal(size=(2, 12))
      _, low, high = score_correlations.spearman(x, 0.6 * x + 0.8 * z)
      hits += low <= truth <= high
    self.assertBetween(hits / 300, 0.91, 0.99)

  def test_networks_only_and_at_least_five(self):
    auc, nss = [0.5, 0.6, 0.7, 0.8, 0.9], [2.0, 1.0, 3.0, 4.0, 5.0]
    models = [
      _explained(f'net{i}', auc=a, nss=b)
      for i, (a, b) in enumerate(zip(auc, nss))
    ]
    control = _explained('control-centre', auc=0.1, nss=9.0)
    control.settings = {'spec': 'control:centre'}
    twin = _explained('random-net0-0', auc=0.1, nss=9.0)
    twin.settings = {'spec': 'keras:x', 'random_twin_of': 'net0'}
    self.assertEmpty(score_correlations.section([*models[1:], control, twin]))
    found = {
      (c.a.score, c.b.score): c
      for c in score_correlations.correlations([*models, control, twin])
    }
    self.assertAlmostEqual(found['auc', 'nss'].rho, 0.9)
    self.assertEqual(found['auc', 'nss'].n, 5)
    self.assertTrue(math.isnan(found['top1', 'auc'].rho))
    words, table = score_correlations.section([*models, control, twin])
    self.assertIn('over 5 networks', words.text)
    self.assertEqual(table.titles, ['score', '1', '2', '3', '4', '5'])
    last = table.cells()[-1]
    self.assertEqual(
      [c.text for c in last], ['5 ClickMe NSS', '-', '-', '-', '0.90', '1']
    )
    text = score_correlations.as_csv(list(found.values()))
    self.assertIn('clickme_auc,clickme_nss,0.8999', text)


class TradeOffTest(parameterized.TestCase):
  def test_hull_is_that_of_the_ordinary_models(self):
    points = trade_off.points(_square(), [('a', 'twin')])
    self.assertEqual([p.name for p in points if p.is_twin], ['twin'])
    corners = trade_off.hull([p for p in points if not p.is_twin])
    # Alignment is divided by the ceiling of 0.5.
    self.assertEqual(
      {(round(x, 6), round(y, 6)) for x, y in corners},
      {(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)},
    )

  def test_shades_the_hull(self):
    plot = trade_off.draw(_square(), [('a', 'twin')]).axes[0]
    (shade,) = plot.patches
    np.testing.assert_allclose(shade.get_xy().max(0), (0.6, 0.6))
    np.testing.assert_allclose(shade.get_xy().min(0), (0.4, 0.4))

  def test_no_hull_without_an_area(self):
    line = [_model(str(i), 0.1 * i, 0.05 * i) for i in range(4)]
    for count in (0, 1, 2, 4):
      self.assertIsNone(trade_off.hull(trade_off.points(line[:count], [])))

  def test_arrows_join_twins(self):
    plot = trade_off.draw(_square(), [('a', 'twin'), ('b', 'lost')]).axes[0]
    arrows = [a for a in plot.texts if a.arrow_patch is not None]
    self.assertLen(arrows, 1)
    np.testing.assert_allclose(arrows[0].xyann, (0.4, 0.4))
    np.testing.assert_allclose(arrows[0].xy, (0.9, 0.9))

  def test_arrows_are_solid_if_the_difference_is_significant(self):
    twins = [('a', 'twin'), ('b', 'c'), ('c', 'd')]
    pairs = [
      _pair('a', 'twin', 'spearman', 0.25, 0.001),
      _pair('b', 'c', 'spearman', 0.1, 0.2),
      _pair('c', 'd', 'dice', 0.1, 0.001),
    ]
    plot = trade_off.draw(_square(), twins, pairs=pairs).axes[0]
    styles = [
      a.arrow_patch.get_linestyle() for a in plot.texts if a.arrow_patch
    ]
    self.assertEqual(styles, ['-', '--', '--'])
    words = [t.get_text() for t in plot.get_legend().get_texts()]
    self.assertContainsSubset(
      ['alignment differs (p < .05, Holm)', 'not significant', 'not tested'],
      words,
    )

  def test_names_do_not_overlap(self):
    picture = trade_off.draw(_square(), [])
    names = [t for t in picture.axes[0].texts if t.get_text()]
    self.assertLen(names, 6)
    boxes = [t.get_window_extent() for t in names]
    for i, box in enumerate(boxes):
      self.assertFalse(any(box.overlaps(other) for other in boxes[:i]))

  def test_accuracy_of_labelled_images_without_imagenet(self):
    models = [
      made.model('one', clickme=made.result({'spearman': 0.3, 'top1': 0.8}))
    ]
    accuracy, alignment = trade_off.axes_of(models)
    self.assertEqual(
      (accuracy.protocol, alignment.normalized), ('clickme', False)
    )
    self.assertIsNone(trade_off.axes_of([made.model('none')]))

  def test_models_without_both_scores_are_excluded(self):
    models = [_model('one', 0.5, 0.2), _model('two', 0.5, float('nan'))]
    self.assertEqual([p.name for p in trade_off.points(models, [])], ['one'])


class CurvesTest(parameterized.TestCase):
  def _draw(self, count):
    models = {f'm{i}': made.curve(0.5) for i in range(count)}
    return curves.draw(models, made.curve(0.3), [('m0', 'm1')]).axes[0]

  def test_draws_models_and_people(self):
    plot = self._draw(2)
    lines = {line.get_label(): line for line in plot.get_lines()}
    np.testing.assert_allclose(
      lines['people'].get_ydata(), made.curve(0.3).accuracy
    )
    np.testing.assert_allclose(lines['m1'].get_xdata()[:-1], made.PERCENTS[:-1])
    self.assertGreater(lines['m1'].get_xdata()[-1], 100)
    self.assertEqual(
      [t.get_text() for t in plot.get_legend().get_texts()],
      ['m0', 'm1', 'people'],
    )

  def test_many_models_share_the_legend_of_their_kind(self):
    plot = self._draw(20)
    self.assertEqual(
      [t.get_text() for t in plot.get_legend().get_texts()],
      ['ordinary models', 'harmonized models', 'people'],
    )

  def test_colours_are_legible_and_distinct(self):

    def luminance(colour):  # WCAG 2.2, "relative luminance".
      rgb = np.array(colors.to_rgb(colour))
      return np.dot(
        [0.2126, 0.7152, 0.0722],
        np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4),
      )

    for theme in (figures.LIGHT, figures.DARK):
      self.assertLen(set(theme.lines), 10)
      for colour in (*theme.lines, theme.ordinary, theme.twin, theme.human):
        low, high = sorted([luminance(colour), luminance(theme.ground)])
        self.assertGreaterEqual((high + 0.05) / (low + 0.05), 3.0, colour)
      rgb = [255 * np.array(colors.to_rgb(c)) for c in theme.lines]
      self.assertGreater(
        min(np.linalg.norm(a - b) for i, a in enumerate(rgb) for b in rgb[:i]),
        50,
      )
    plot = self._draw(10)
    lines = plot.get_lines()[:10]
    self.assertLen({line.get_color() for line in lines}, 10)
    self.assertLen({line.get_marker() for line in lines}, 10)

  def test_a_model_called_people_keeps_its_line_in_the_legend(self):
    models = {'people': made.curve(0.5)}
    plot = curves.draw(models, made.curve(0.3), []).axes[0]
    labels = [t.get_text() for t in plot.get_legend().get_texts()]
    self.assertEqual(labels, ['people', 'people'])


class PsychophysicsTest(parameterized.TestCase):
  """Tests of curves, thresholds and sensitivities."""

  def _models(self, **human):
    details = dict(bootstrap='images and participants', n_participants=7)
    scores = {
      'psychophysics_accuracy': made.score(
        'psychophysics_accuracy', 0.8, bootstrap='images'
      ),
      'psychophysics_l2': made.score(
        'psychophysics_l2', 0.4, people_split_half=0.125, **details
      ),
    }
    d_prime = [0.1 * i for i in range(12)]
    first = made.curve(
      0.5, threshold=12.5, threshold_interval=[11.25, 14.0], d_prime=d_prime
    )
    second = made.curve(
      0.5,
      threshold=math.nan,
      threshold_interval=[math.nan, math.nan],
      d_prime=[math.nan, *d_prime[1:]],
      logistic={'problem': 'it is too high'},
    )
    people = made.curve(
      0.3,
      threshold=6.75,
      threshold_interval=[6.5, 7.0],
      d_prime=[1.5] * 12,
      n=[9] * 12,
      **human,
    )
    return [
      made.model(
        name,
        imagenet=made.result({'top1': 0.5}),
        psychophysics=made.result(
          {}, scores=scores, curves={'model': c, 'human': people}
        ),
      )
      for name, c in (('one', first), ('two', second))
    ]

  def test_tables(self):
    models = self._models()
    *_, table = leaderboard.as_text(models).split('\n\n')
    columns, one, two, people = [
      re.split(r' {2,}', line) for line in table.splitlines()
    ]
    self.assertEqual(
      columns[3:],
      [
        'Psychophysics threshold (% revealed)',
        "Psychophysics d' (mean of levels)",
      ],
    )
    self.assertEqual(
      one[1:],
      [
        '0.800 [0.780, 0.820]',
        '0.400 [0.380, 0.420]',
        '12.500 [11.250, 14.000]',
        '0.550',
      ],
    )
    self.assertEqual(two[3:], ['-', '-'])
    accuracy = np.mean(made.curve(0.3).accuracy)
    self.assertIn('split halves', people[0])
    self.assertEqual(
      people[1:], [f'{accuracy:.3f}', '0.125', '6.750 [6.500, 7.000]', '1.500']
    )
    rows = list(csv.DictReader(io.StringIO(leaderboard.as_csv(models))))
    self.assertEqual(
      [
        rows[0][f'psychophysics_psychophysics_{name}']
        for name in (
          'threshold',
          'threshold_low',
          'd_prime',
          'l2_people',
          'threshold_people',
          'd_prime_people',
        )
      ],
      [
        '12.5',
        '11.25',
        str(statistics.fmean(0.1 * np.arange(12))),
        '0.125',
        '6.75',
        '1.5',
      ],
    )
    self.assertEqual(rows[1]['psychophysics_psychophysics_threshold'], '')

  def test_page(self):
    text = html.unescape(_page(made.report(self._models())))
    for words in (
      '12.500',
      '[11.250, 14.000]',
      '>6.750<',
      '>0.125<',
      'two: no threshold, because it is too high',
      "Sensitivity d'",
      '<td>1.10</td>',
      'one standard error over the 7 participants',
    ):
      self.assertIn(words, text)
    text = _page(made.report(self._models(standard_error=[math.nan] * 12)))
    self.assertNotIn('standard error', text)

  def _compared(self, *names):
    """Makes models with scores of version 2, as they are stored."""
    models = self._models()[: len(names)]
    for i, (name, model) in enumerate(zip(names, models)):
      model.name = name
      of_people = {
        'value': 0.2,
        'low': 0.11,
        'high': 0.31,
        'interval': 'bootstrapped over images and participants',
      }
      more = {
        'psychophysics_l2': {
          'people': {**of_people, 'interval': 'jackknife over participants'}
        },
        'psychophysics_log_threshold_ratio': {'p': 0.0001},
        **{
          f'psychophysics_{measure}': {
            'p': 0.002,
            'people': of_people,
            'difference': {
              'value': -0.05,
              'low': -0.08,
              'high': None,
              'p': 0.01 * (i + 1),
            },
            'participants': {'zoe': 0.25, 'ann': None, 'bob': 0.3},
          }
          for measure in (
            'error_consistency',
            'observed_consistency',
            'accuracy_difference',
          )
        },
      }
      stored = model.results['psychophysics']
      scores = {
        name: made.score(
          name, 0.15, bootstrap='images and participants', **details
        )
        for name, details in more.items()
      }
      model.results['psychophysics'] = dataclasses.replace(
        stored, scores={**stored.scores, **scores}
      )
    return models

  def test_people_against_people_next_to_models(self):
    models = self._compared('one', 'two')
    found = {m.name: m.results['psychophysics'] for m in models}
    distances, consistency, participants = people_lib.tables(found)
    one = [(c.text, c.note) for c in distances.cells()[0]]
    self.assertEqual(one[1][0], '0.150')
    self.assertEqual(one[2], ('0.200', '[0.110, 0.310]'))
    self.assertEqual(one[4][0], '< .001')
    one, two = [[c.text for c in row] for row in consistency.cells()]
    # Holm: the smaller of two p-values counts twice.
    self.assertEqual(one, ['one', '0.150', '0.002', '0.200', '-0.050', '0.020'])
    self.assertEqual(two[-1], '0.020')
    self.assertEqual(consistency.cells()[0][4].note, '')
    rows = [[c.text for c in row] for row in participants.cells()]
    self.assertEqual(rows[0][:2], ['mean of 3', '0.200'])
    self.assertEqual([r[0] for r in rows[1:]], ['bob', 'zoe', 'ann'])
    self.assertEqual(rows[3][1], '-')
    text = html.unescape(_page(made.report(models)))
    self.assertIn('between two random halves of the participants', text)

  def test_people_of_version_2_have_intervals(self):
    models = self._compared('one')
    words = leaderboard.intervals(models, leaderboard.columns(models))
    for part in (
      'L2 (small is good) of people: 95 % intervals, jackknife',
      'threshold (% revealed) of people: 95 % intervals, bootstrapped over '
      'images and participants',
      'threshold (% revealed): 95 % intervals, bootstrapped over images;',
    ):
      self.assertIn(part, words)
    # It is computed in the same way for models and people.
    self.assertNotIn('consistency (κ) of people', words)
    (row,) = [
      r for r in leaderboard.as_text(models).splitlines() if 'halves' in r
    ][-1:]
    self.assertIn('0.200 [0.110, 0.310]', row)

  def test_many_participants_are_one_row(self):
    models = self._compared('one')
    for score in models[0].results['psychophysics'].scores.values():
      if 'participants' in score.details:
        score.details['participants'].update({str(i): 0.1 for i in range(60)})
    *_, table = people_lib.tables({'one': models[0].results['psychophysics']})
    self.assertLen(table.rows, 1)
    self.assertIn('63 participants', table.caption)

  def test_captions_say_what_was_drawn(self):
    models = self._models()
    shown = leaderboard.columns(models)
    self.assertEqual(
      leaderboard.intervals(models, shown[:2]),
      'In brackets, 95 % intervals, bootstrapped over images.',
    )
    self.assertEqual(
      leaderboard.intervals(models, [shown[0], shown[2]]),
      'In brackets: ImageNet top-1: 95 % intervals, bootstrapped over images;'
      ' Psychophysics L2 (small is good): 95 % intervals, bootstrapped over '
      'images and participants.',
    )
    found = models[0].results['imagenet'].scores
    found['top1'] = dataclasses.replace(found['top1'], confidence=0.9)
    # A row whose interval has another method is named.
    mixed = leaderboard.intervals(models, shown[:1])
    self.assertRegex(mixed, r'top-1 of \S+: 9\d % intervals')
    self.assertRegex(mixed, r'top-1: 9\d % intervals')
    self.assertEqual(leaderboard.intervals([], shown), '')

  def test_curves_of_early_versions_add_no_columns(self):
    model = made.model(
      'old',
      psychophysics=made.result(
        {'psychophysics_accuracy': 0.7},
        curves={'model': made.curve(0.5)},
      ),
    )
    self.assertLen(leaderboard.columns([model]), 1)
    _page(made.report([model]))


class PanelsTest(tf.test.TestCase):
  def test_models_of_similar_names_each_have_a_panel(self):
    folder = self.get_temp_dir()
    models = [
      made.model(
        name,
        clickme=made.result(
          {}, examples=(made.write_examples(folder, f'{i}.npz', i))
        ),
      )
      for i, name in enumerate(('a net', 'a  net', 'human map'))
    ]
    (picture,) = examples.draw(folder, models, 'clickme')
    (one,) = examples.draw(folder, models[:1], 'clickme')
    widths = [Image.open(io.BytesIO(p.png)).width for p in (picture, one)]
    # An image, the human map, and a panel for each model.
    self.assertAllClose(widths[0] / widths[1], 5 / 3, atol=0.02)

  def test_panels_show_agreement_and_decisions(self):
    folder = self.get_temp_dir()
    models = [
      made.model(
        name,
        clickme=made.result(
          {},
          examples=made.write_examples(folder, f'{name}.npz', 0),
          table=f'{name}.csv',
        ),
      )
      for name in ('new', 'old')
    ]
    rows = [
      {'label': 2, 'prediction': 2, 'own': 0.5, 'outward': -0.25},
      {'label': 0, 'prediction': 1, 'own': math.nan, 'outward': math.nan},
      {'label': 1, 'prediction': 10, 'own': 0.125, 'outward': 0.0},
      {'label': 1, 'prediction': 1, 'own': 0.7, 'outward': 0.7},
    ]
    scores.write_rows(os.path.join(folder, 'new.csv'), rows)
    # Tables of early versions lack own and outward.
    scores.write_rows(
      os.path.join(folder, 'old.csv'),
      [{'label': r['label'], 'prediction': 1} for r in rows],
    )
    names = {2: 'a tabby cat with a long name', 0: '$dog$', 1: 'bird'}
    with mock.patch.object(
      panels, 'draw', side_effect=panels.draw, autospec=True
    ) as drawn:
      (picture,) = examples.draw(folder, models, 'clickme', names)
    grounds = [call.kwargs['ground'] for call in drawn.call_args_list]
    self.assertEqual(grounds, [figures.LIGHT.ground, figures.DARK.ground])
    _, _, _, captions, notes = drawn.call_args.args
    self.assertEqual(captions, ['a tabby cat wit…', '$dog$', 'bird'])
    self.assertEqual(
      notes,
      [
        [],
        [
          'own 0.50, out -0.25\na tabby cat wit… ✓',
          'own -, out -\nbird ✗',
          'own 0.12, out 0.00\nclass 10 ✗',
        ],
        ['bird ✗', 'bird ✗', 'bird ✓'],
      ],
    )
    self.assertIn('correct (✓) or wrong (✗)', picture.caption)


class AnswerTest(parameterized.TestCase):
  def test_undefined_comparisons(self):
    nan = math.nan

    def report(difference):
      return made.report(
        [_model('net', 0.5, 0.1)],
        comparisons=[
          run_results.Comparison.of(
            repeated_runs.Estimate(value, nan, nan, nan, nan, 1),
            protocol='clickme',
            model='net',
            control=control,
          )
          for control, value in (
            ('control-noise', nan),
            ('control-sobel', difference),
          )
        ],
      )

    (sentence,) = answer.sentences(report(nan))
    self.assertIn('specific alignment is undefined', sentence)
    (sentence,) = answer.sentences(report(0.25))
    self.assertIn(
      'control-sobel: +0.250 (no interval), over 1 image.', sentence
    )
    for value in (nan, 0.25):
      (table,) = answer.section(report(value))
      self.assertNotRegex(str(table.cells()), r'\bnan\b')


class InputSizesTest(parameterized.TestCase):
  def _models(self, values):
    """Makes networks of 224 pixels; values by name and input size."""
    found = []
    for (name, size), value in values.items():
      explained = results.Explained(
        {'specific': made.score('specific', value)}, []
      )
      model = made.model(
        f'{name}@{size}' if size else name,
        clickme=made.result({}, explainers={'gradient': explained}),
      )
      if size:
        model.settings['input_size_of'] = name
        model.adapter = dataclasses.replace(
          model.adapter, input_size=[size, size]
        )
      found.append(model)
    return found

  def test_order_of_networks(self):
    values = {
      ('a', 0): 0.3,
      ('b', 0): 0.2,
      ('fixed', 0): 0.1,
      ('a', 160): 0.25,
      ('b', 160): 0.22,
      ('b', 96): 0.2,
    }
    (table,) = matched_conditions.input_sizes(self._models(values), 'clickme')
    self.assertEqual(table.titles[1:], ['own size', '96 x 96', '160 x 160'])
    cells = {row[0].text: [c.text for c in row[1:]] for row in table.rows}
    self.assertEqual(cells['a'], ['0.300', '-', '0.250'])
    self.assertEqual(cells['b'], ['0.200', '0.200', '0.220'])
    self.assertEqual(table.rows[0][1].note, '[0.280, 0.320]')
    self.assertNotIn('The order', table.caption)  # Only b has all sizes.
    self.assertIn('own size only, which is fixed: fixed.', table.caption)
    for a, words in ((0.21, 'is the same at all input'), (0.19, 'depends on')):
      values['a', 96] = a
      (table,) = matched_conditions.input_sizes(self._models(values), 'clickme')
      self.assertIn(f'The order of the networks {words}', table.caption)
      self.assertIn('It compares a, b, which have all sizes', table.caption)
    own = {k: v for k, v in values.items() if not k[1]}
    self.assertEqual(
      matched_conditions.input_sizes(self._models(own), 'clickme'), []
    )

  def test_not_among_the_networks(self):
    models = self._models({('a', 0): 0.3, ('a', 160): 0.25})
    found = page.sections(made.report(models), '')
    tables = {s.id: [b for b in s.blocks if b.kind == 'table'] for s in found}
    self.assertLen(tables['leaderboard'][0].rows, 1)
    titles = [table.titles[0] for table in tables['clickme']]
    self.assertIn('specific, by input size', titles)

  def test_sections_show_the_mean_of_runs(self):
    models = self._models({('a', 0): 0.3, ('a', 160): 0.2, ('mean', 0): 0.3})
    models[0].settings['group'] = 'mean'
    models[-1].settings['runs'] = ['a']
    with mock.patch.object(
      clickme.ClickMeProtocol, 'sections', return_value=[]
    ) as made_sections:
      page.sections(made.report(models), '')
      (found, _), _ = made_sections.call_args
      self.assertEqual([*found], ['mean'])
      for model in models:  # Curves have no mean.
        stored = dataclasses.replace(model.results['clickme'], explainers=None)
        model.results['clickme'] = stored
      page.sections(made.report(models), '')
      (found, _), _ = made_sections.call_args
      self.assertEqual([*found], ['a'])


class SubgroupsTest(parameterized.TestCase):
  def _report(self, **more):
    models = [
      _model(name, 0.5, rho) for name, rho in (('low', 0.1), ('high', 0.3))
    ]
    control = _model('control-contrast', 0.5, 0.2)
    control.settings = {'spec': 'control:contrast', 'files': {}}

    def subgroup(model, kind, name, value, low, high, n, **fields):
      return subgroups_lib.Subgroup(
        'clickme',
        model,
        kind,
        name,
        value,
        low,
        high,
        **{'p': math.nan, 'n': n, 'n_undefined': 0, **fields},
      )

    nan = math.nan
    return made.report(
      [*models, control],
      subgroups=[
        subgroup('low', 'all', 'all images', 0.1, 0.0, 0.2, 9, n_undefined=1),
        subgroup('low', 'class', '4', 0.1, nan, nan, 1),
        subgroup('high', 'all', 'all images', 0.3, 0.2, 0.4, 10),
        subgroup('high', 'answer', 'correct', nan, nan, nan, 0),
        subgroup(
          'high', 'answer', 'correct minus wrong', 0.25, -1, 2, 10, p=0.03125
        ),
        subgroup('high', 'class', '4', -0.5, -0.75, -0.25, 3),
        subgroup('control-contrast', 'all', 'all images', 0.2, 0.1, 0.3, 10),
      ],
      **more,
    )

  def test_tables(self):
    kinds, classes = subgroups.tables(self._report(), 'clickme', {4: 'a bird'})
    self.assertEqual(
      kinds.titles, ['images', 'high', 'low', 'control-contrast']
    )
    cells = [[(c.text, c.note) for c in row] for row in kinds.cells()]
    self.assertEqual(
      cells,
      [
        [
          ('all images', ''),
          ('0.300', '[0.200, 0.400]\nn = 10'),
          ('0.100', '[0.000, 0.200]\nn = 9 (1 undefined)'),
          ('0.200', '[0.100, 0.300]\nn = 10'),
        ],
        [('correct', ''), ('-', 'n = 0'), ('-', ''), ('-', '')],
        [
          ('correct minus wrong', ''),
          ('+0.250', '[-1.000, 2.000]\nn = 10\np = 0.031'),
          ('-', ''),
          ('-', ''),
        ],
      ],
    )
    self.assertIn('does not have', kinds.caption)
    self.assertEqual(
      [(c.text, c.note) for c in classes.cells()[0]],
      [
        ('class 4', 'a bird'),
        ('-0.500', '[-0.750, -0.250]\nn = 3'),
        ('0.100', 'n = 1'),
        ('-', ''),
      ],
    )
    self.assertEqual(subgroups.tables(self._report(), 'clicktionary'), [])

  def test_page_has_subgroups_and_the_data_card(self):
    card = run_results.DataCard(
      'the zoo', _EVIL, {'files (2)': 'ab' * 32}, 10, 9, 3, {4: 'a bird'}
    )
    report = self._report()
    report = dataclasses.replace(
      report,
      protocols={
        name: dataclasses.replace(p, card=card)
        for name, p in report.protocols.items()
      },
    )
    text = _page(report)
    for words in (
      '<h3>Data card</h3>',
      '<dt>origin</dt><dd>the zoo</dd>',
      '<dt>human maps</dt><dd>9</dd>',
      f'<dd>{"ab" * 32}</dd>',
      '<small>a bird</small>',
      'by kind of image',
    ):
      self.assertIn(words, text)
    self.assertNotIn(_EVIL, text)
    content = report.to_json()
    self.assertEqual(content['experiments']['clickme']['card']['maps'], 9)
    self.assertLen(content['subgroups'], 7)
    self.assertIsNone(content['subgroups'][0]['p'])


class _References(html.parser.HTMLParser):
  """Collects references, tags and texts of a page."""

  _ATTRIBUTES = ('src', 'srcset', 'href', 'data', 'action', 'poster', 'cite')

  def __init__(self):
    super().__init__()
    self.references, self.tags, self.alts, self.ids = [], [], [], []
    self.open, self.css = [], ''

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    for name, value in attrs:
      if name in self._ATTRIBUTES:
        self.references.append(value)
      if name == 'id':
        self.ids.append(value)
      if name.startswith('on') or name == 'style':
        self.css += value
    if tag == 'img':
      self.alts.append(dict(attrs).get('alt', ''))
    if tag not in ('meta', 'img', 'source'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, tag

  def handle_data(self, data):
    if self.open[-1:] == ['style']:
      self.css += data


class ReportTest(tf.test.TestCase):
  def _write(self, report):
    folder = self.get_temp_dir()
    written = writer.write(folder, report)
    with open(os.path.join(folder, writer.PAGE), encoding='utf-8') as f:
      return folder, [os.path.basename(w) for w in written], f.read()

  def _report(self):
    folder = self.get_temp_dir()
    models = [
      _model(
        _EVIL,
        0.4,
        0.2,
        warnings=[_EVIL],
        table=_EVIL,
        examples=made.write_examples(folder, 'a.npz', 0),
      ),
      _model('twin', 0.5, 0.3),
      _model('other', 0.6, 0.25),
    ]
    models[1].results['psychophysics'] = made.result(
      {'psychophysics_l2': 0.4}, curves={'model': made.curve(0.5)}
    )
    failure = run_results.Failure(
      'lost', _EVIL, 'clickme', f'ValueError: {_EVIL}', 'x'
    )
    return made.report(
      models, [(_EVIL, 'twin')], [failure], command=_EVIL, limit=7
    )

  def test_page_refers_to_nothing_outside(self):
    _, written, text = self._write(self._report())
    self.assertContainsSubset(
      [
        'results.json',
        'leaderboard.txt',
        'leaderboard.md',
        'leaderboard.csv',
        'trade_off.png',
        'curves.png',
        'panels_clickme_1.png',
        'report.html',
      ],
      written,
    )
    found = _References()
    found.feed(text)
    found.close()
    self.assertEqual(found.open, [])
    outside = [
      r
      for r in found.references
      if not r.startswith(('data:image/png;base64,', '#'))
    ]
    self.assertEqual(outside, [])
    self.assertNotIn('url(', found.css)
    self.assertNotIn('@import', found.css)
    self.assertEmpty(
      {'script', 'link', 'iframe', 'base', 'object'}.intersection(found.tags)
    )
    # Two plots, one of them also narrow, and the panels, in two themes; all can
    # be decoded.
    pictures = [r for r in found.references if r.startswith('data:')]
    self.assertLen(pictures, 8)
    for picture in pictures:
      Image.open(io.BytesIO(base64.b64decode(picture.partition(',')[2]))).load()
    self.assertLen(found.alts, 3)
    self.assertTrue(all(len(alt) > 20 for alt in found.alts))
    self.assertContainsSubset(
      [r[1:] for r in found.references if r.startswith('#')], found.ids
    )

  def test_everything_is_escaped(self):
    _, _, text = self._write(self._report())
    self.assertNotIn('<script', text)
    self.assertGreater(text.count('&lt;script&gt;alert(&#34;x&#34;)'), 5)

  def test_failures_warnings_and_missing_protocols_are_listed(self):
    _, _, text = self._write(self._report())
    for words in (
      '3 models scored, 1 failure',
      'Only the first 7 records',
      'no --clicktionary',
      'ValueError: ',
      '>Warnings<',
    ):
      self.assertIn(words, text)

  def test_no_dictionary_is_read_by_a_name(self):
    # Results are typed; JSON ends where they are read.
    folder = os.path.dirname(page.__file__)
    names = [name for name in os.listdir(folder) if name.endswith('.py')]
    self.assertContainsSubset(['page.py', 'leaderboard.py'], names)
    for name in names:
      with open(os.path.join(folder, name), encoding='utf-8') as f:
        tree = ast.parse(f.read())
      for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
          is_name = isinstance(getattr(node.slice, 'value', None), str)
          self.assertFalse(is_name, f'{name}, line {node.lineno}')

  def test_results_are_strict_json(self):
    report = made.report([_model('one', math.inf, float('nan'))])
    folder, _, _ = self._write(report)
    with open(os.path.join(folder, 'results.json')) as f:
      text = f.read()

    def refuse(word):
      raise AssertionError(word)

    found = json.loads(text, parse_constant=refuse)
    score = found['models'][0]['experiments']['clickme']['scores']['spearman']
    self.assertIsNone(score['value'])
    self.assertEqual(
      found['experiments']['clickme']['settings']['explainer'], 'gradient'
    )

  def test_without_any_scored_model(self):
    failure = run_results.Failure('lost', 'x', 'clickme', 'no', 'x')
    _, written, text = self._write(made.report([], failures=[failure]))
    self.assertEqual(written, ['results.json', 'report.html'])
    self.assertIn('No model was scored', text)

  def test_both_themes_are_drawn(self):
    picture = figures.themed_picture(
      lambda theme: trade_off.draw(_square(), [], theme),
      '',
      '',
      '',
      lambda theme: trade_off.draw(_square(), [], theme, width=3.9),
    )
    corners = [
      Image.open(io.BytesIO(png)).convert('RGB').getpixel((1, 1))
      for png in (picture.png, picture.dark_png, *picture.narrow)
    ]
    self.assertEqual(corners, 2 * [(255, 255, 255), (0x1B, 0x1D, 0x21)])

  def test_twins_are_compared(self):
    models = [_model('a', 0.5, 0.2), _model('b', 0.6, 0.3)]
    text = _page(made.report(models, [('a', 'b')]))
    self.assertRegex(text, r'(?s)a → b.*\+0\.100')
    self.assertIn('0.400 → 0.600', text)
    self.assertNotIn('p, Holm', text)

  def test_differences_have_intervals_and_tests(self):
    models = [_model(n, 0.5, 0.2) for n in 'abc']
    pairs = [
      _pair('a', 'b', 'spearman', 0.04, 0.01),
      _pair('a', 'c', 'spearman', 0.04, 0.01, over_seeds=True),
    ]
    table = differences.table(models, [('a', 'b')], pairs)
    rows = {(r[0], r[1]): r[2:] for r in table.rows}
    # Divided by the ceiling of 0.5, as the column is.
    self.assertEqual(
      rows['a → b', 'ClickMe alignment'],
      ['0.400 → 0.400', '+0.080*', '[0.040, 0.120]', '0.01', '0.02'],
    )
    self.assertEqual(
      rows['a → c', 'ClickMe alignment'][1:3], ['+0.080', '[0.040, 0.120]']
    )
    self.assertEqual(
      rows['a → b', 'ImageNet top-1'][1:], ['+0.000', '-', '-', '-']
    )
    self.assertIn('except where a network has fewer', table.caption)
    table = differences.table(models, [], pairs[:1])
    self.assertIn('not estimable with fewer than 5 runs', table.caption)
    self.assertEqual(table.rows[-1][3], '+0.080')
    found = made.report(models, pairs=pairs).to_json()['pairs']
    self.assertEqual([c['is_significant'] for c in found], [True, True])
    self.assertIsNone(found[0]['variance']['seeds'])

  def test_power(self):
    models = [_model(n, 0.5, 0.2) for n in 'ab']
    pair = _pair('a', 'b', 'spearman', 0.04, 0.01)
    table = differences.power_table(made.report(models, pairs=[pair]))
    ((name, *cells),) = table.rows
    self.assertEqual(name, 'ClickMe alignment: b - a')
    # sd = .2: R's power.t.test(sd=.2, power=.8, type='paired', delta=...).
    self.assertEqual([c.text for c in cells], ['3,142', '787', '128'])
    self.assertEqual(cells[0].note, 'runs: not estimable')
    # Four images of each group.
    grouped = dataclasses.replace(pair, n=400)
    table = differences.power_table(made.report(models, pairs=[grouped]))
    self.assertEqual(table.rows[0][3].text, '512')
    parts = repeated_runs.Variance(0.0004, 0.0009, 0.0001, 100, [5, 5])
    seeds = dataclasses.replace(pair, variance=parts)
    table = differences.power_table(made.report(models, pairs=[seeds]))
    self.assertEqual(table.rows[0][1].text, 'no number suffices with 5 runs')
    self.assertEqual(
      table.rows[0][2].note, 'runs: no number suffices with 100 images'
    )
    self.assertRegex(table.rows[0][3].note, r'^runs: \d+$')
    # Without pairs, the best network against the nearest control.
    compared = [
      run_results.Comparison.of(
        repeated_runs.Estimate(
          difference, 0, 0, 1, 1, 100, variance=pair.variance
        ),
        protocol='clickme',
        model=name,
        control=f'control-{control}',
      )
      for name in 'ab'
      for control, difference in (('noise', 0.3), ('sobel', 0.1))
    ]
    report = made.report(models, comparisons=compared)
    table = differences.power_table(report)
    self.assertEqual(
      [r[0] for r in table.rows], ['specific: a - control-sobel']
    )
    self.assertIn('What differences could be detected', _page(report))
    self.assertIsNone(differences.power_table(made.report(models)))


if __name__ == '__main__':
  tf.test.main()
