"""Tests of the benchmark's loop: resuming, failing, and what it keeps."""

import csv
import json
import os
import weakref

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation import benchmark
from official_ext.harmonization.evaluation import labelled_images
from official_ext.harmonization.evaluation import results
from official_ext.harmonization.evaluation import scores
from tests.evaluation import fakes


class _Experiment:
  """Scores the length of a model's name, and counts its runs."""

  def __init__(self, name, error=None, **settings):
    self.name, self.title = name, name.title()
    self._error, self._settings = error, settings
    self.scored = []

  def settings(self):
    return self._settings

  def run(self, adapter, progress):
    self.scored.append(adapter.name)
    if self._error and adapter.name == 'bad':
      raise type(self._error)(*self._error.args)
    progress(2)
    values = np.array([len(adapter.name), float('nan')])
    maps = np.stack([np.eye(4), np.full((4, 4), np.nan)])
    return results.Result(
        scores=[scores.score('length', values, preprocessing='none')],
        rows=[{'value': v} for v in values],
        warnings=['beware'],
        examples=results.Examples(np.zeros((2, 4, 4, 3), np.uint8), maps, maps))


def _build(spec):
  if spec == 'mg:broken':
    raise OSError('no such weights')
  return fakes.Adapter(spec=spec)


def _models(*names):
  return [benchmark.parse_model(f'mg:{name}') for name in names]


class BenchmarkTest(tf.test.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()

  def _run(self, experiments, models, build=_build, rescore=False):
    return benchmark.Benchmark(experiments, self.folder, build,
                               rescore).run(models)

  def _path(self, name):
    return os.path.join(self.folder, 'models', name)

  def test_writes_scores_tables_and_examples(self):
    outcome = self._run([_Experiment('first', size=3)], _models('one'))
    with open(self._path('one.json')) as f:
      self.assertEqual(json.load(f), outcome['models'][0])
    found = outcome['models'][0]
    self.assertEqual(found['settings']['spec'], 'mg:one')
    self.assertEqual(found['adapter']['preprocessing'], 'pixels / 255 - 0.5')
    first = found['experiments']['first']
    self.assertEqual(first['settings'], {'size': 3})
    self.assertEqual(first['scores']['length']['value'], 3)
    self.assertEqual(first['scores']['length']['n_undefined'], 1)
    self.assertEqual(first['warnings'], ['beware'])
    with open(os.path.join(self.folder, first['table'])) as f:
      self.assertEqual([row['value'] for row in csv.DictReader(f)],
                       ['3.0', 'nan'])
    kept = benchmark.read_examples(os.path.join(self.folder,
                                                first['examples']))
    np.testing.assert_array_equal(kept.human[0], 255 * np.eye(4))
    np.testing.assert_array_equal(kept.human[1], np.zeros((4, 4)))
    self.assertEqual([f for f in os.listdir(self._path(''))
                      if f.endswith('.partial')], [])

  def test_what_is_finished_is_not_scored_again(self):
    first, second = _Experiment('first'), _Experiment('second')
    before = self._run([first], _models('one', 'two'))
    again = self._run([first, second], _models('one', 'two', 'three'))
    self.assertEqual(first.scored, ['one', 'two', 'three'])
    self.assertEqual(second.scored, ['one', 'two', 'three'])
    self.assertEqual(again['models'][0]['experiments']['first'],
                     before['models'][0]['experiments']['first'])

    def build(spec):
      raise AssertionError(f'{spec} is finished')

    done = self._run([first], _models('one', 'two', 'three'), build)
    self.assertEqual(done['failures'], [])
    self.assertEqual([list(m['experiments']) for m in done['models']],
                     [['first']] * 3)

  def test_other_settings_are_refused_or_scored_again(self):
    self._run([_Experiment('first', limit=8), _Experiment('second')],
              _models('one'))
    changed = [_Experiment('first', limit=None), _Experiment('second')]
    with self.assertRaisesRegex(
        benchmark.SettingsError,
        r'one\.json .*first \(limit: 8 then, None now\).*--rescore'):
      self._run(changed, _models('one'))
    self.assertEqual(changed[0].scored, [])
    outcome = self._run(changed, _models('one'), rescore=True)
    self.assertEqual((changed[0].scored, changed[1].scored), (['one'], []))
    self.assertEqual(
        outcome['models'][0]['experiments']['first']['settings'],
        {'limit': None})

  def test_a_model_that_was_trained_on_is_another(self):
    run = os.path.join(self.folder, 'run')
    os.makedirs(run)

    def write(name, content):
      with open(os.path.join(run, name), 'w') as f:
        f.write(content)

    write('checkpoint', 'model-1')
    write('events', 'x')
    models = [benchmark.parse_model(f'mg:{run}')]
    self._run([_Experiment('first')], models)
    write('events', 'xyz')
    self._run([_Experiment('first')], models)
    write('checkpoint', 'model-20')
    with self.assertRaisesRegex(benchmark.SettingsError, 'the model .*files'):
      self._run([_Experiment('first')], models)

  def test_a_failure_does_not_lose_the_others(self):
    experiments = [_Experiment('first'),
                   _Experiment('second', ValueError('x<y'))]
    outcome = self._run(experiments, _models('broken', 'bad', 'good'))
    self.assertEqual(
        [(f['name'], f['experiment'], f['error']) for f in outcome['failures']],
        [('broken', 'the model cannot be opened', 'OSError: no such weights'),
         ('bad', 'second', 'ValueError: x<y')])
    self.assertEqual([(m['name'], list(m['experiments']))
                      for m in outcome['models']],
                     [('bad', ['first']), ('good', ['first', 'second'])])
    with open(outcome['failures'][1]['traceback']) as f:
      self.assertIn('in run', f.read())
    # What failed is tried again, and nothing else.
    for experiment in experiments:
      experiment.scored.clear()
    self._run(experiments, _models('broken', 'bad', 'good'))
    self.assertEqual([e.scored for e in experiments], [[], ['bad']])
    # What then works leaves no failure behind.
    self._run([_Experiment('first'), _Experiment('second')], _models('bad'))
    self.assertFalse(os.path.exists(self._path('bad.failure.txt')))

  def test_bad_data_stop_the_run(self):
    error = labelled_images.BadDataError('record 3')
    with self.assertRaisesRegex(labelled_images.BadDataError, 'record 3'):
      self._run([_Experiment('first', error)], _models('good', 'bad', 'other'))
    self.assertTrue(os.path.exists(self._path('good.json')))
    self.assertFalse(os.path.exists(self._path('other.json')))

  def test_holds_one_model_at_a_time(self):
    alive = weakref.WeakSet()

    def build(spec):
      self.assertEmpty(alive)
      adapter = fakes.Adapter(spec=spec)
      # As in most networks, something inside refers to the whole.
      adapter.myself = adapter
      alive.add(adapter)
      return adapter

    failing = _Experiment('first', ValueError('no'))
    outcome = self._run([failing], _models('one', 'bad', 'two'), build)
    self.assertLen(outcome['models'], 2)
    self.assertEmpty(alive)


class ModelTest(parameterized.TestCase):

  @parameterized.parameters(
      ('mg:runs/digits/baseline/', 'baseline'),
      ('keras:files/vgg.v2.h5', 'vgg.v2'),
      ('keras:files/vgg.h5?name=VGG 16&preprocessing=caffe', 'VGG 16'))
  def test_names(self, text, name):
    self.assertEqual(benchmark.parse_model(text).name, name)

  @parameterized.parameters('mg', 'runs/digits', 'mg:', 'nothing:at/all',
                            'mg:x?name=a/b', 'mg:x?name=..')
  def test_no_model(self, text):
    with self.assertRaises(benchmark.SettingsError):
      benchmark.parse_model(text)

  def test_two_of_one_name(self):
    with self.assertRaisesRegex(benchmark.SettingsError,
                                "mg:a/run and mg:b/run.*'run'"):
      benchmark.parse_models(['mg:a/run', 'mg:b/run'])


if __name__ == '__main__':
  absltest.main()
