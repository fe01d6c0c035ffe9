"""Tests of what the study of the digits measures and reports."""

import json
import os
from unittest import mock

import numpy as np
from scipy import stats
import tensorflow as tf, tf_keras
import yaml

from benchmarks import decisions
from benchmarks import study_report
from official_ext.harmonization.data import make_digits_clickme
from official_ext.harmonization.data import stimuli

_SIZE = 32


def _scores(value):
  metrics = [*study_report._COLUMNS, 'revealed_5']
  return {m: value + i / 100 for i, m in enumerate(metrics)}


class ReportTest(tf.test.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()
    rng = np.random.default_rng(0)
    self.runs = {
        f'{network}, {kind}': {s: _scores(rng.random()) for s in range(4)}
        for network in ('ResNet', 'ViT') for kind in ('baseline', 'harmonized')
    }

  def test_interval_is_students(self):
    values = np.random.default_rng(1).random(5)
    mean, half = study_report.interval(values)
    self.assertAllClose((mean - half, mean + half), stats.t.interval(
        .95, 4, loc=values.mean(), scale=stats.sem(values)))
    self.assertTrue(np.isnan(study_report.interval([.5])[1]))

  def test_differences_are_of_the_same_seed(self):
    base, twin = self.runs['ViT, baseline'], self.runs['ViT, harmonized']
    del base[1]
    found = study_report.differences(base, twin, 'accuracy')
    self.assertAllClose(
        found, [twin[s]['accuracy'] - base[s]['accuracy'] for s in (0, 2, 3)])
    values = [twin[s]['accuracy'] for s in (0, 2, 3)]
    expected = stats.ttest_rel(
        values, [base[s]['accuracy'] for s in (0, 2, 3)]).confidence_interval()
    mean, half = study_report.interval(found)
    self.assertAllClose((mean - half, mean + half),
                        (expected.low, expected.high))

  def test_a_setting_is_compared_with_its_own_baseline(self):
    names = ('baseline', 'weight 1', 'weight 1, warm-up', 'half mapped, by map',
             'half mapped, baseline')
    self.assertEqual(
        study_report.baselines(dict.fromkeys(names)),
        {'weight 1': 'baseline', 'weight 1, warm-up': 'baseline',
         'half mapped, by map': 'half mapped, baseline'})

  def test_curves_are_of_settings_of_the_study(self):
    with open('benchmarks/studies/ablations.yaml') as f:
      settings = yaml.safe_load(f)['settings']
    runs = {name: {s: _scores(s / 4) for s in range(3)} for name in settings}
    picture = os.path.join(self.folder, 'curves.png')
    study_report.draw_curves(picture, runs)
    self.assertEqual(tf.io.decode_png(tf.io.read_file(picture)).shape[-1], 4)

  def test_files(self):
    path = os.path.join(self.folder, 'twins.jsonl')
    with open(path, 'w') as f:
      for setting, seeds in self.runs.items():
        for seed, scores in seeds.items():
          f.write(json.dumps(
              {'setting': setting, 'seed': seed, 'scores': scores}) + '\n')
    runs = study_report.read(path)
    self.assertEqual(runs, self.runs)
    self.assertEqual(study_report.table(runs).count('\n'), 2 + 4)
    text = study_report.table_of_differences(runs)
    self.assertEqual(text.count('\n'), 2 + 2)
    changes = study_report.differences(
        runs['ViT, baseline'], runs['ViT, harmonized'], 'accuracy')
    self.assertIn(f'{changes.mean():+.3f} ± ', text.splitlines()[-1])
    self.assertEndsWith(text.splitlines()[-1], f', {(changes > 0).sum()} |')
    for draw in (study_report.draw_trade_off, study_report.draw_revealed,
                 study_report.draw_ablations):
      picture = os.path.join(self.folder, f'{draw.__name__}.png')
      draw(picture, runs)
      self.assertEqual(tf.io.decode_png(tf.io.read_file(picture)).shape[-1], 4)


class DecisionsTest(tf.test.TestCase):

  def test_measures_the_digits(self):
    folder = self.get_temp_dir()
    make_digits_clickme.make(folder, 1, 12, 1)
    pattern = os.path.join(folder, '{0}', '{0}-*.tfrecords')
    val, swapped = pattern.format('val'), pattern.format('swapped')
    images, maps, labels = decisions._records(val, _SIZE)
    self.assertEqual(images.shape, (12, _SIZE, _SIZE, 3))
    run = mock.Mock()
    run.config.task.model.input_size = [_SIZE, _SIZE, 3]
    # A network that answers with one class, whatever it sees.
    run.model = lambda batch, training: tf.one_hot(
        tf.fill([len(batch)], int(labels[0])), 10)
    scores = decisions.measure(run, val, swapped)
    self.assertAllClose(list(scores.values()),
                        [np.mean(labels == labels[0])] * len(scores))
    self.assertLen(scores, 1 + len(decisions.LEVELS))
    _, shown = decisions._stimuli(val, _SIZE)
    grey = np.round(stimuli.grey(images))
    ink_shown = []
    for level in decisions.LEVELS:
      same = shown[level][..., 0] == grey
      self.assertTrue((same.mean((1, 2)) >= level / 100 - 1e-3).all())
      peaks = maps.reshape(12, -1).argmax(-1)
      self.assertTrue(same.reshape(12, -1)[np.arange(12), peaks].all())
      ink_shown.append(same[maps > 128].mean())
    self.assertAllEqual(ink_shown, sorted(ink_shown))
    self.assertLess(ink_shown[0], .5)
    self.assertGreater(ink_shown[-1], .99)


if __name__ == '__main__':
  tf.test.main()
