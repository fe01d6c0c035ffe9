# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of what the study of the digits measures and reports."""

# Bazel: tags = ["training"]
# Bazel: data = ["//:train"]
# Bazel: data = ["//studies:plans"]
# Bazel: data = ["//studies:results"]

import io
import json
import os
from unittest import mock

import numpy as np
from official.vision.ops import preprocess_ops
from scipy import stats
import tensorflow as tf
import yaml

from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.data.records import digits
from official_ext.harmonization.data.stimuli import reveal
from studies import digit_decisions
from studies import study
from studies import study_report

_SIZE = 32


def _scores(value):
  metrics = [*study_report.COLUMNS, 'revealed_5']
  return {m: value * (i + 1) / 10 for i, m in enumerate(metrics)}


class ReportTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()
    rng = np.random.default_rng(0)
    self.runs = {
      f'{network}, {kind}': {s: _scores(rng.random()) for s in range(4)}
      for network in ('ResNet', 'ViT')
      for kind in ('baseline', 'harmonized')
    }

  def test_interval_is_students(self):
    values = np.random.default_rng(1).random(5)
    mean, half = study_report.interval(values)
    self.assertAllClose(
      (mean - half, mean + half),
      stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values)),
    )
    self.assertTrue(np.isnan(study_report.interval([0.5])[1]))

  def test_differences_are_of_the_same_seed(self):
    base, twin = self.runs['ViT, baseline'], self.runs['ViT, harmonized']
    del base[1]
    found = study_report.differences(base, twin, 'accuracy')
    self.assertAllClose(
      found, [twin[s]['accuracy'] - base[s]['accuracy'] for s in (0, 2, 3)]
    )
    values = [twin[s]['accuracy'] for s in (0, 2, 3)]
    expected = stats.ttest_rel(
      values, [base[s]['accuracy'] for s in (0, 2, 3)]
    ).confidence_interval()
    mean, half = study_report.interval(found)
    self.assertAllClose(
      (mean - half, mean + half), (expected.low, expected.high)
    )

  def test_a_setting_is_compared_with_its_own_baseline(self):
    seeds = {
      'baseline': (0, 1),
      'weight 1': (1,),
      'weight 1, warm-up': (0, 1),
      'half mapped, by map': (0,),
      'half mapped, baseline': (0,),
      'weight 2': (2,),
    }
    self.assertEqual(
      study_report.baselines({n: dict.fromkeys(s) for n, s in seeds.items()}),
      {
        'weight 1': 'baseline',
        'weight 1, warm-up': 'baseline',
        'half mapped, by map': 'half mapped, baseline',
      },
    )
    del seeds['baseline']
    self.assertEqual(
      study_report.baselines({n: dict.fromkeys(s) for n, s in seeds.items()}),
      {'half mapped, by map': 'half mapped, baseline'},
    )

  def test_curves_are_of_settings_of_the_study(self):
    with open('studies/plans/ablations.yaml') as f:
      settings = yaml.safe_load(f)['settings']
    for curves in study_report.CURVES.values():
      for names in curves.values():
        self.assertContainsSubset(names.values(), settings)
    runs = {name: {s: _scores(s / 4) for s in range(3)} for name in settings}
    picture = os.path.join(self.folder, 'curves.png')
    study_report.draw_curves(picture, runs)
    self.assertEqual(tf.io.decode_png(tf.io.read_file(picture)).shape[-1], 4)

  def test_files(self):
    path = os.path.join(self.folder, 'twins.jsonl')
    with open(path, 'w') as f:
      for setting, seeds in self.runs.items():
        for seed, scores in seeds.items():
          f.write(
            json.dumps({'setting': setting, 'seed': seed, 'scores': scores})
            + '\n'
          )
    runs = study_report.read(path)
    self.assertEqual(runs, self.runs)
    self.assertEqual(study_report.table(runs).count('\n'), 2 + 4)
    text = study_report.table_of_differences(runs)
    self.assertEqual(text.count('\n'), 2 + 2)
    changes = study_report.differences(
      runs['ViT, baseline'], runs['ViT, harmonized'], 'accuracy'
    )
    self.assertIn(f'{changes.mean():+.3f} ± ', text.splitlines()[-1])
    self.assertEndsWith(text.splitlines()[-1], f', {(changes > 0).sum()} |')
    for draw in (
      study_report.draw_trade_off,
      study_report.draw_revealed,
      study_report.draw_ablations,
    ):
      picture = os.path.join(self.folder, f'{draw.__name__}.png')
      draw(picture, runs)
      self.assertEqual(tf.io.decode_png(tf.io.read_file(picture)).shape[-1], 4)


class StudyTest(tf.test.TestCase):
  """Of the grid: what is trained is the driver's, and not trained here."""

  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()
    self.output = os.path.join(self.folder, 'results', 'small.jsonl')
    self.path = os.path.join(self.folder, 'small.yaml')
    self.plan = {
      'experiment': 'e',
      'config_file': 'c.yaml',
      'seeds': [0, 1],
      'common': {'a': 1},
      'settings': {
        'first': {},
        'second': {'a': 2},
        'third': {'starts_from': 'first', 'b': 3},
      },
    }
    self.trained = []
    self.broken = ()
    self.made_with = {'code': 'x'}
    self.real, self.real_train = study.made_with, study.train
    self.enter_context(
      mock.patch.object(
        study, 'made_with', lambda config_file: dict(self.made_with)
      )
    )
    self.enter_context(mock.patch.object(study, 'train', self._train))

  def _train(self, plan, overrides, seed, model_dir):
    self.assertEqual(plan, self.plan)
    name = os.path.basename(model_dir)
    self.trained.append((name, overrides))
    if name in self.broken:
      raise study.RunError('not finite')
    os.makedirs(model_dir)
    with open(os.path.join(model_dir, 'checkpoint'), 'w') as f:
      f.write(name)
    return _scores(seed + overrides['a'])

  def _run(self):
    with open(self.path, 'w') as f:
      yaml.safe_dump(self.plan, f, sort_keys=False)
    self.trained.clear()
    grid = study.Study(self.path, self.output, self.folder)
    for setting, seed in grid.grid:
      grid.run(setting, seed, keep=False)
    return study_report.read(self.output)

  def test_every_setting_of_every_seed_is_trained_once(self):
    start = os.path.join(self.folder, 'small', 'first-0')
    found = self._run()
    self.assertEqual(
      found,
      {
        name: {s: _scores(s + a) for s in (0, 1)}
        for name, a in (('first', 1), ('second', 2), ('third', 1))
      },
    )
    self.assertEqual(
      self.trained[:3],
      [
        ('first-0', {'a': 1}),
        ('second-0', {'a': 2}),
        ('third-0', {'a': 1, 'b': 3, 'task.init_checkpoint': start}),
      ],
    )
    # What runs start from is kept, the others are not.
    self.assertCountEqual(
      os.listdir(os.path.dirname(start)), ['first-0', 'first-1']
    )
    with open(self.output) as f:
      lines = f.readlines()
    with open(self.output, 'w') as f:
      f.writelines(lines[:4])
    self.assertEqual(self._run(), found)
    self.assertEqual(
      [name for name, _ in self.trained], ['second-1', 'third-1']
    )

  def test_a_failed_run_has_a_line_and_the_next_goes_on(self):
    self.broken = ('first-0',)
    found = self._run()
    self.assertEqual(
      {name: list(seeds) for name, seeds in found.items()},
      {'first': [1], 'second': [0, 1], 'third': [1]},
    )
    with open(self.output) as f:
      errors = {
        (line['setting'], line['seed']): line['error']
        for line in map(json.loads, f)
        if 'error' in line
      }
    self.assertEqual(errors['first', 0], 'not finite')
    self.assertIn('first-0, from which', errors['third', 0])
    self._run()
    self.assertEmpty(self.trained)

  def test_the_driver_is_called_and_its_failure_told(self):
    model_dir = os.path.join(self.folder, 'run')
    with mock.patch.object(study.subprocess, 'run') as driver:
      driver.return_value.returncode = 3
      with self.assertRaisesRegex(study.RunError, f'code 3: see {model_dir}.l'):
        self.real_train(
          self.plan,
          {'a.b': 1e-5, 'c': 'x/*', 'd': True, 'e': 'x'},
          7,
          model_dir,
        )
    command = driver.call_args.args[0]
    self.assertEqual(command[1], 'train.py')
    self.assertContainsSubset(
      [
        '--experiment=e',
        '--config_file=c.yaml',
        '--seed=7',
        f'--model_dir={model_dir}',
      ],
      command,
    )
    values = dict(v.split('=') for v in command[-1].split('=', 1)[1].split(','))
    self.assertEqual(
      {k: yaml.safe_load(v) for k, v in values.items()},
      {'a.b': 1e-5, 'c': 'x/*', 'd': True, 'e': 'x'},
    )

  def test_a_start_has_to_stand_above(self):
    self.plan['settings']['third']['starts_from'] = 'fist'
    with self.assertRaisesRegex(ValueError, "'third' starts_from 'fist',"):
      self._run()

  def test_results_of_something_else_are_refused(self):
    self._run()
    self.made_with['code'] = 'y'
    with self.assertRaisesRegex(ValueError, "'first', seed 0, .*code x"):
      self._run()
    self.made_with['code'] = 'x'
    self.plan['settings']['second']['a'] = 5
    with self.assertRaisesRegex(ValueError, "'second', seed 0, .*override"):
      self._run()
    self.assertEmpty(self.trained)

  def _edit(self, change):
    with open(self.output, encoding='utf-8') as f:
      text = f.read()
    with open(self.output, 'w', encoding='utf-8') as f:
      f.write(change(text))

  def test_damaged_edited_and_mixed_lines_are_named(self):
    self._run()
    with open(self.output, encoding='utf-8') as f:
      whole = f.read()
    first = whole.splitlines(keepends=True)[0]
    for change, message in (
      (lambda t: t[:-9], 'line 6: truncated'),
      (lambda t: 'x' + t, 'line 1: truncated or not'),
      (lambda t: '[1]\n' + t, 'line 1: not a run of a study'),
      (lambda t: t + '{"setting": "a", "seed": 0}\n', 'line 7: not a run'),
      (
        lambda t: t.replace('"accuracy": ', '"accuracy": 9', 1),
        "line 1: 'first', seed 0, was edited",
      ),
      (lambda t: t + first, "line 7: 'first', seed 0, occurs twice"),
      (
        lambda t: (
          t
          + json.dumps(
            {
              'setting': 'new',
              'seed': 0,
              'overrides': {},
              'scores': {},
              'made_with': {'code': 'z'},
            }
          )
          + '\n'
        ),
        "code was 'x' and is now 'z'",
      ),
    ):
      self._edit(lambda _: whole)
      self._edit(change)
      for read in (study_report.read, lambda _: self._run()):
        with self.assertRaisesRegex(ValueError, f'small.jsonl.*{message}'):
          read(self.output)
    self._edit(lambda _: whole)
    self._run()
    self.assertEmpty(self.trained)

  def test_lines_of_before_are_unverified(self):
    self._run()
    with open(self.output, encoding='utf-8') as f:
      lines = [json.loads(line) for line in f]
    self.assertTrue(all(line.pop('digest') for line in lines))
    self._edit(lambda _: ''.join(json.dumps(x) + '\n' for x in lines))
    self.made_with['versions'] = {'numpy': '9'}
    with mock.patch.object(study_report.sys, 'stderr', io.StringIO()) as told:
      self._run()
    self.assertIn('6 lines are unverified', told.getvalue())
    self.assertEmpty(self.trained)

  def test_processes_share_a_study(self):
    os.makedirs(os.path.join(self.folder, 'small'))
    with claims.Claim(os.path.join(self.folder, 'small', 'first-0.claim')):
      found = self._run()
    # Neither the one that is being trained, nor what starts from it.
    self.assertEqual(
      {name: list(seeds) for name, seeds in found.items()},
      {'second': [0, 1], 'first': [1], 'third': [1]},
    )
    self.assertEqual(
      {name: list(seeds) for name, seeds in self._run().items()},
      {'second': [0, 1], 'first': [1, 0], 'third': [1, 0]},
    )
    self.assertEqual([name for name, _ in self.trained], ['first-0', 'third-0'])

  def test_other_weights_to_start_from(self):
    self._run()
    with open(
      os.path.join(self.folder, 'small', 'first-1', 'checkpoint'), 'a'
    ) as f:
      f.write('other')
    self._edit(lambda text: ''.join(text.splitlines(keepends=True)[:-1]))
    with self.assertRaisesRegex(study.RunError, 'other weights'):
      self._run()

  def test_a_start_that_is_gone_is_named_before_the_first_run(self):
    self._run()
    os.remove(os.path.join(self.folder, 'small', 'first-1', 'checkpoint'))
    self.plan['seeds'] = [2, 1]
    self.plan['settings']['fourth'] = {'starts_from': 'first'}
    with self.assertRaisesRegex(study.RunError, "'first', seed 1, from"):
      self._run()
    self.assertEmpty(self.trained)

  def test_made_with_names_code_and_configuration(self):
    config = os.path.join(self.folder, 'c.yaml')
    manifest = os.path.join(self.folder, 'manifest.json')
    for path in (config, manifest):
      with open(path, 'w') as f:
        f.write('{"seed": 0}')
    made_with = self.real
    with mock.patch.object(study, '_MANIFEST', manifest):
      found = made_with(config)
      self.assertEqual(found['digits'], {'seed': 0})
      with open(config, 'a') as f:
        f.write(' ')
      changed = made_with(config)
      with mock.patch.object(study, '_CODE', 'studies'):
        other = made_with(config)
      os.makedirs(os.path.join(self.folder, 'val'))
      shard = os.path.join(self.folder, 'val', 'val-0.tfrecords')
      with open(shard, 'w') as f:
        f.write('labels')
      records = made_with(config)
    self.assertEqual(
      {k for k in records if records[k] != changed[k]}, {'records'}
    )
    self.assertEqual(changed['code'], found['code'])
    self.assertNotEqual(changed['config'], found['config'])
    self.assertNotEqual(other['code'], found['code'])
    with self.assertRaisesRegex(FileNotFoundError, 'make_digits_clickme'):
      with mock.patch.object(study, '_MANIFEST', manifest + '.gone'):
        made_with(config)


class DecisionsTest(tf.test.TestCase):
  def test_measures_the_digits(self):
    folder = self.get_temp_dir()
    digits.make(folder, 1, 12, 1)
    pattern = os.path.join(folder, '{0}', '{0}-*.tfrecords')
    val, swapped = pattern.format('val'), pattern.format('swapped')
    images, maps, labels = digit_decisions.records(val, _SIZE)
    self.assertEqual(images.shape, (12, _SIZE, _SIZE, 3))
    run = mock.Mock()
    run.config.task.model.input_size = [_SIZE, _SIZE, 3]
    seen = []

    def model(batch, training):
      """Knows as many of the labels as it was called before."""
      self.assertFalse(training)
      seen.append(
        batch.numpy() * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB
      )
      return tf.one_hot(
        np.where(np.arange(12) < len(seen), labels, -1), 10, off_value=0.1
      )

    run.model = model
    scores = digit_decisions.measure(run, val, swapped)
    run.use_averages.assert_called_once_with()
    levels = digit_decisions.LEVELS
    zeros = set(np.flatnonzero(labels == 0))  # Of equal scores 0's is taken.
    self.assertEqual(
      list(scores), ['swapped_accuracy', *(f'revealed_{k}' for k in levels)]
    )
    for count, score in enumerate(scores.values(), 1):
      self.assertAllClose(score, len(zeros | set(range(count))) / 12)
    _, shown = digit_decisions.stimuli(val, _SIZE)
    expected = [digit_decisions.records(swapped, _SIZE)[0]]
    self.assertNotAllClose(expected[0], images)
    for batch, pictures in zip(
      seen, expected + [shown[k] for k in levels], strict=True
    ):
      self.assertAllClose(batch, pictures, atol=0.01)
    grey = np.round(reveal.grey(images))
    ink_shown = []
    for level in digit_decisions.LEVELS:
      same = shown[level][..., 0] == grey
      self.assertTrue((same.mean((1, 2)) >= level / 100 - 1e-3).all())
      # Elsewhere is the ground, which is the image by chance alone.
      self.assertLess(same.mean(), level / 100 + 0.05)
      peaks = maps.reshape(12, -1).argmax(-1)
      self.assertTrue(same.reshape(12, -1)[np.arange(12), peaks].all())
      ink_shown.append(same[maps > 128].mean())
    self.assertAllEqual(ink_shown, sorted(ink_shown))
    self.assertLess(ink_shown[0], 0.5)
    self.assertGreater(ink_shown[-1], 0.99)


if __name__ == '__main__':
  tf.test.main()
