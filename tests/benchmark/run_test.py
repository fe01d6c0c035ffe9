# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the benchmark's loop: resuming, failures and stored results."""

# Bazel: size = "large"
# Bazel: tags = ["subprocess"]

import csv
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from unittest import mock
import weakref

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import tensorflow as tf
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import companion_cost
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run as benchmark_run
from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.benchmark.adapters import sizes
from official_ext.harmonization.evaluation import scores
from testing import processes
from tests.benchmark import fakes


class _Protocol(protocol.Protocol):
  """A protocol without flags and without a section in the report."""

  @classmethod
  def from_options(cls, options, run):
    raise NotImplementedError

  @classmethod
  def describe(cls, settings):
    raise NotImplementedError


class _Lengths(_Protocol):
  """Scores the length of a model's name, and counts its runs."""

  def __init__(self, name, error=None, data=(), **settings):
    self.name, self.title = name, name.title()
    self._error, self._data, self._settings = error, data, settings
    self.scored = []

  def settings(self):
    return self._settings

  def identity(self, digests):
    return {
      'protocol': f'{self.name} {self.version}',
      'data': digests.of(self._data),
      'options': self._settings,
    }

  def run(self, adapter, progress, journal=None):
    self.scored.append(adapter.name)
    if self._error and adapter.name == 'bad':
      raise type(self._error)(*self._error.args)
    progress(2)
    values = np.array([len(adapter.name), float('nan')])
    maps = np.stack([np.eye(4), np.full((4, 4), np.nan)])
    return results.Measurement(
      scores=[scores.score('length', values, preprocessing='none')],
      rows=[{'value': v} for v in values],
      warnings=['beware'],
      examples=results.Examples(np.zeros((2, 4, 4, 3), np.uint8), maps, maps),
    )


def _build(spec):
  if spec.partition(':')[2] == 'broken':
    raise OSError('no such weights')
  return fakes.Adapter(spec=spec)


class _Counted(_Protocol):
  """Scores ten images one by one, and can block before one of them."""

  name, title = 'first', 'First'

  def __init__(self, stop_before=None):
    self._stop_before = stop_before
    self.computed = []

  def settings(self):
    return {}

  def identity(self, digests):
    return {'protocol': 'first 1', 'data': {}, 'options': {}}

  def run(self, adapter, progress, journal=None):
    rows = journal_lib.kept(journal)
    for i in range(len(rows), 10):
      if i == self._stop_before:
        print('waiting', flush=True)
        time.sleep(3600)
      self.computed.append(i)
      rows.append({'value': 1.0 / (i + 1) if i != 2 else float('nan')})
      if journal:
        journal.add(rows[-1:])
    return results.Measurement(
      scores=[
        scores.score(
          'mean', [row['value'] for row in rows], preprocessing='none'
        )
      ],
      rows=rows,
    )


def score_in_folder(folder, stop_before, *names):
  """Runs the benchmark, in another process that shares the folder."""
  benchmark_run.Benchmark([_Counted(stop_before)], folder, _build).run(
    _models(*names)
  )


def _models(*names):
  return [model_specs.parse(f'mg:{name}') for name in names]


def _resizable(*names):
  """Models of a kind with the option input_size."""
  return [model_specs.parse(f'keras:{name}') for name in names]


class BenchmarkTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())

  def _run(self, experiments, models, build=_build, rescore=False):
    return benchmark_run.Benchmark(
      experiments, self.folder, build, rescore
    ).run(models)

  def _path(self, name):
    return os.path.join(self.folder, 'models', name)

  def test_writes_scores_tables_and_examples(self):
    outcome = self._run([_Lengths('first', size=3)], _models('one'))
    with open(self._path('one.json')) as f:
      self.assertEqual(json.load(f), outcome.models[0].to_json())
    found = outcome.models[0]
    self.assertEqual(found.spec, 'mg:one')
    self.assertEqual(found.adapter.preprocessing, 'pixels / 255 - 0.5')
    first = found.results['first']
    self.assertEqual(first.settings, {'size': 3})
    self.assertEqual(first.scores['length'].value, 3)
    self.assertEqual(first.scores['length'].n_undefined, 1)
    self.assertEqual(first.warnings, ['beware'])
    with open(os.path.join(self.folder, first.table)) as f:
      self.assertEqual(
        [row['value'] for row in csv.DictReader(f)], ['3.0', 'nan']
      )
    kept = stored_results.read_examples(
      os.path.join(self.folder, first.examples)
    )
    np.testing.assert_array_equal(kept.human[0], np.eye(4))
    np.testing.assert_array_equal(kept.human[1], np.zeros((4, 4)))
    self.assertEqual(
      [f for f in os.listdir(self._path('')) if f.endswith('.partial')], []
    )

  def test_finished_results_are_not_scored_again(self):
    first, second = _Lengths('first'), _Lengths('second')
    before = self._run([first], _models('one', 'two'))
    again = self._run([first, second], _models('one', 'two', 'three'))
    self.assertEqual(first.scored, ['one', 'two', 'three'])
    self.assertEqual(second.scored, ['one', 'two', 'three'])
    result = again.models[0].results['first']
    self.assertStartsWith(result.origin, 'from an earlier run of ')
    result = dataclasses.replace(result, origin='')
    first_run = before.models[0].results['first']
    self.assertEqual(result.to_json(), first_run.to_json())

    first.scored.clear()
    done = self._run([first], _models('one', 'two', 'three'))
    self.assertEqual((done.failures, first.scored), ([], []))
    self.assertEqual([list(m.results) for m in done.models], [['first']] * 3)

  def test_results_of_earlier_runs_are_labelled(self):
    outcome = self._run([_Lengths('first')], _models('one'))
    result = outcome.models[0].results['first']
    self.assertEqual(result.origin, '')
    again = self._run([_Lengths('first')], _models('one'))
    again = again.models[0].results['first']
    date = result.created.replace('T', ' ')
    self.assertEqual(again.origin, f'from an earlier run of {date}')
    self.assertEqual(
      dataclasses.replace(again, origin='').to_json(), result.to_json()
    )

  def _is_scored_again(self, experiment, reason, build=_build, name='one'):
    """Checks that a result is computed again and the old one kept."""
    with open(self._path(f'{name}.json')) as f:
      before = json.load(f)
    outcome = self._run([experiment], _models(name), build)
    self.assertEqual(experiment.scored, [name])
    note = outcome.notes[0]
    self.assertRegex(note, reason)
    (kept,) = [
      f
      for f in os.listdir(self._path('earlier'))
      if f.startswith(f'{name}.first') and f.endswith('.json')
    ]
    self.assertIn(os.path.join('earlier', kept), note)
    with open(self._path(f'earlier/{kept}')) as f:
      kept = json.load(f)
    self.assertEqual(
      kept['experiments']['first']['scores'],
      before['experiments']['first']['scores'],
    )
    return outcome, kept['experiments']['first']

  def test_results_of_other_settings_are_kept(self):
    self._run([_Lengths('first', limit=8), _Lengths('second')], _models('one'))
    with open(self._path('one.first.csv'), 'rb') as f:
      table = f.read()
    second = _Lengths('second')
    outcome, kept = self._is_scored_again(
      _Lengths('first', limit=None), 'limit was 8 and is now None'
    )
    self.assertEqual(
      outcome.models[0].results['first'].settings, {'limit': None}
    )
    with open(os.path.join(self.folder, kept['table']), 'rb') as f:
      self.assertEqual(f.read(), table)
    # The other protocol is unchanged, and the kept result is found again.
    back = _Lengths('first', limit=8)
    outcome = self._run([back, second], _models('one'))
    self.assertEqual((back.scored, second.scored), ([], []))
    self.assertEqual(outcome.models[0].results['first'].settings, {'limit': 8})

  def test_another_network_is_scored_again(self):
    self._run([_Lengths('first'), _Lengths('second')], _models('one'))
    self._is_scored_again(
      _Lengths('first'),
      'parameters was .*other logits or gradients',
      lambda spec: fakes.Adapter(spec=spec, seed=1),
    )
    # The other result of the old network is not used either.
    with open(self._path('one.json')) as f:
      self.assertEqual(list(json.load(f)['experiments']), ['first'])

  def test_other_contents_of_the_data(self):
    data = os.path.join(self.folder, 'data')
    for content in ('labels 1 2', 'labels 2 1'):
      with open(data, 'w') as f:
        f.write(content)
      if content == 'labels 1 2':
        self._run([_Lengths('first', data=[data])], _models('one'))
    self._is_scored_again(_Lengths('first', data=[data]), 'data.sha256 was ')

  def test_another_version_of_a_package_or_the_protocol(self):
    self._run([_Lengths('first')], _models('one'))
    changed = _Lengths('first')
    changed.version = 2
    self._is_scored_again(changed, "protocol was 'first 1'")
    with mock.patch.object(identity.metadata, 'version', lambda _: '99'):
      outcome = self._run([_Lengths('first')], _models('one'))
    self.assertRegex(outcome.notes[0], "versions.numpy was '.*now '99'")

  def test_rescore(self):
    self._run([_Lengths('first')], _models('one'))
    again = _Lengths('first')
    outcome = self._run([again], _models('one'), rescore=True)
    self.assertEqual(again.scored, ['one'])
    self.assertRegex(outcome.notes[0], 'earlier/one.first.*--rescore')

  def test_edited_and_missing_files_are_noticed(self):

    def edit(name, old, new):
      with open(self._path(name)) as f:
        text = f.read()
      self.assertIn(old, text)
      with open(self._path(name), 'w') as f:
        f.write(text.replace(old, new))

    for change, reason in (
      (
        lambda: edit('one.json', '"value": 3.0', '"value": 4.0'),
        'the scores of first were changed',
      ),
      (lambda: edit('one.json', '"digest"', '"gone"'), 'were changed'),
      (
        lambda: edit('one.first.csv', '3.0', '4.0'),
        'one.first.csv was changed',
      ),
      (
        lambda: os.remove(self._path('one.first.csv')),
        'one.first.csv is missing',
      ),
      (
        lambda: os.remove(self._path('one.first.npz')),
        'one.first.npz is missing',
      ),
    ):
      self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
      self._run([_Lengths('first')], _models('one'))
      change()
      experiment = _Lengths('first')
      outcome = self._run([experiment], _models('one'))
      self.assertEqual(experiment.scored, ['one'])
      self.assertRegex(outcome.notes[0], reason)
      self.assertEqual(
        outcome.models[0].results['first'].scores['length'].value,
        3.0,
      )
      self.assertTrue(os.path.exists(self._path('one.first.csv')))

  def test_damaged_and_foreign_files_are_named(self):
    for text, reason in (
      ('', 'empty'),
      ('{"name": "one", "exp', 'not JSON'),
      ('[1, 2]', 'not an object'),
      ('{"a": 1}', '"name" is None'),
      ('\xff', 'not JSON'),
      (
        json.dumps(
          {
            'name': 'one',
            'settings': {'spec': 'mg:one'},
            'adapter': {
              'input_size': [1, 1],
              'num_classes': 2,
              'preprocessing': '',
            },
            'experiments': {
              'first': {
                'settings': {},
                'scores': {'a': {'value': '3'}},
                'warnings': [],
                'table': 'x',
              }
            },
          }
        ),
        '(incomplete|of .one)',
      ),
      (
        json.dumps({'name': 'two', 'settings': {}, 'experiments': {'a': 1}}),
        "it is of 'two'",
      ),
    ):
      self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
      os.makedirs(self._path(''))
      for name in ('one', 'other'):
        with open(self._path(f'{name}.json'), 'wb') as f:
          f.write(text.encode('latin1'))
      experiment = _Lengths('first')
      outcome = self._run([experiment], _models('one'))
      self.assertEqual(experiment.scored, ['one'])
      moved, named = outcome.notes
      self.assertRegex(moved, rf'one\.json: .*{reason}.*expected.*moved to')
      self.assertRegex(named, rf'other\.json: .*{reason}.*expected')
      (kept,) = os.listdir(self._path('earlier'))
      with open(self._path(f'earlier/{kept}'), 'rb') as f:
        self.assertEqual(f.read(), text.encode('latin1'))
      self.assertTrue(os.path.exists(self._path('other.json')))

  def test_files_of_the_first_format_open_and_of_later_ones_do_not(self):
    self._run([_Lengths('first')], _models('one', 'two'))
    for name, version in (('one', None), ('two', 3)):
      with open(self._path(f'{name}.json')) as f:
        record = json.load(f)
      self.assertEqual(record.pop('format'), 2)
      if version:
        record['format'] = version
      with open(self._path(f'{name}.json'), 'w') as f:
        json.dump(record, f)
    first, second = _Lengths('first'), _Lengths('second')
    for _ in range(2):  # The second time, both files were written again.
      outcome = self._run([first, second], _models('one', 'two'))
      self.assertEqual(first.scored, ['two'])
      self.assertEqual(second.scored, ['one', 'two'])
    self.assertEqual(outcome.notes, [])
    (kept,) = os.listdir(self._path('earlier'))
    with open(self._path(f'earlier/{kept}')) as f:
      self.assertEqual(json.load(f), record)

  def _write_old(self, **settings):
    """Writes a result without an identity, as early versions did."""
    self._run([_Lengths('first', **settings)], _models('one'))
    with open(self._path('one.json')) as f:
      record = json.load(f)
    for field in ('identity', 'created', 'contents', 'digest'):
      del record['experiments']['first'][field]
    with open(self._path('one.json'), 'w') as f:
      json.dump(record, f)
    os.utime(self._path('one.json'), (1e9, 1e9))

  def test_results_without_identity_open_unverified(self):
    self._write_old(limit=8)
    same = _Lengths('first', limit=8, another='new')
    second = _Lengths('second')
    for _ in range(
      2
    ):  # The date is that of the file before it was written again.
      outcome = self._run([same, second], _models('one'))
      result = outcome.models[0].results['first']
      self.assertRegex(
        result.origin,
        r'^from an earlier run of 2001-09-0.*'
        'unverified.*--rescore',
      )
      self.assertEqual(result.scores['length'].value, 3.0)
    # Another name neither scores it again nor verifies it.
    outcome = self._run([same], [model_specs.parse('mg:one?name=Fine')])
    result = outcome.models[0].results['first']
    self.assertRegex(result.origin, '^from an earlier run of 2001-.*unver')
    self.assertEqual(same.scored, [])
    os.remove(self._path('Fine.json'))
    self._is_scored_again(_Lengths('first', limit=9), 'limit was 8')

  def test_two_names_may_be_exchanged(self):
    first = _Lengths('first')

    def run(*specs):
      first.scored.clear()
      models = [model_specs.parse(spec) for spec in specs]
      found = self._run(
        [first],
        models,
        lambda spec: fakes.Adapter(spec=spec, seed=int('mg:b' in spec)),
      )
      return {m.name: m.results['first'].scores['length'] for m in found.models}

    before = run('mg:a?name=X', 'mg:b?name=Long')
    after = run('mg:a?name=Long', 'mg:b?name=X')
    self.assertEqual(first.scored, [])
    # The scores follow the networks.
    self.assertEqual(after['Long'].value, before['X'].value)
    self.assertEqual(after['X'].value, before['Long'].value)

  def test_another_name_needs_no_scoring(self):
    first = _Lengths('first')
    self._run([first], _models('one'))
    first.scored.clear()
    outcome = self._run([first], [model_specs.parse('mg:one?name=Fine')])
    self.assertEqual(first.scored, [])
    (model,) = outcome.models  # It is not shown under both names.
    self.assertEqual(model.name, 'Fine')
    self.assertRegex(outcome.notes[0], 'Fine: .*first is taken from .*one.json')
    with open(self._path('Fine.first.csv')) as f:
      self.assertEqual([r['model'] for r in csv.DictReader(f)], ['Fine'] * 2)
    # The copy is sealed, so that it is used again.
    again = self._run([first], [model_specs.parse('mg:one?name=Fine')])
    self.assertEqual((first.scored, again.notes), ([], []))

  def test_all_models_of_the_folder_are_reported(self):
    self._run([_Lengths('first')], _models('one'))
    self._run([_Lengths('first', limit=3)], _models('other'))
    outcome = self._run(
      [_Lengths('first')],
      _models('two'),
      lambda spec: fakes.Adapter(spec=spec, seed=1),
    )
    self.assertEqual([m.name for m in outcome.models], ['two', 'one'])
    label = outcome.models[1].results['first'].origin
    self.assertRegex(label, '^from an earlier run of .*not opened|process')
    (note,) = outcome.notes
    self.assertRegex(note, 'other.json: first is not shown: .*limit was 3')

  def test_earlier_results_give_way_to_rows_of_the_same_name(self):
    first = _Lengths('first')

    def run(spec, seed):
      return self._run(
        [first],
        [model_specs.parse(spec)],
        lambda spec: fakes.Adapter(spec=spec, seed=seed),
      )

    run('mg:net', 0)
    outcome = run('mg:a?group=net', 1)
    self.assertEqual(
      {m.name: m.runs for m in outcome.models}, {'a': (), 'net': ['a']}
    )
    (note,) = outcome.notes
    self.assertRegex(note, '^net: .* not shown, .*the name of another row')
    outcome = run('mg:net', 0)
    self.assertEqual([m.name for m in outcome.models], ['net'])
    self.assertRegex(outcome.notes[0], '^a: .* not shown, because net is')

  def test_a_claimed_model_is_skipped(self):
    self._run([_Lengths('first')], _models('one'))
    first = _Lengths('first')
    with claims.Claim(self._path('two.claim')):
      outcome = self._run([first], _models('one', 'two', 'three'))
    self.assertEqual(first.scored, ['three'])
    self.assertEqual([m.name for m in outcome.models], ['one', 'three'])
    self.assertRegex(outcome.notes[0], rf'two is .*process {os.getpid()},')
    self.assertEqual(
      [f for f in os.listdir(self._path('')) if 'claim' in f], []
    )

  def test_a_failure_does_not_affect_other_models(self):
    experiments = [
      _Lengths('first'),
      _Lengths('second', ValueError('x<y')),
    ]
    outcome = self._run(experiments, _models('broken', 'bad', 'good'))
    self.assertEqual(
      [(f.name, f.stage, f.error) for f in outcome.failures],
      [
        ('broken', 'the model cannot be opened', 'OSError: no such weights'),
        ('bad', 'second', 'ValueError: x<y'),
      ],
    )
    self.assertEqual(
      [(m.name, list(m.results)) for m in outcome.models],
      [('bad', ['first']), ('good', ['first', 'second'])],
    )
    with open(outcome.failures[1].traceback) as f:
      self.assertIn('in run', f.read())
    # Only the failure is tried again.
    for experiment in experiments:
      experiment.scored.clear()
    self._run(experiments, _models('broken', 'bad', 'good'))
    self.assertEqual([e.scored for e in experiments], [[], ['bad']])
    # A success removes the traceback.
    self._run([_Lengths('first'), _Lengths('second')], _models('bad'))
    self.assertFalse(os.path.exists(self._path('bad.failure.txt')))

  def test_functions_of_the_same_name_are_two_models(self):

    def build(spec):
      adapter = fakes.Adapter(spec=spec)
      adapter.name = 'net'  # The name of the function in both modules.
      return adapter

    experiment = _Lengths('first')
    self._run(
      [experiment],
      model_specs.parse_all(
        ['torch:a.net', 'torch:b.net', 'torch:b.net?name=c']
      ),
      build,
    )
    self.assertEqual(experiment.scored, ['a.net', 'b.net', 'c'])

  def test_bad_data_stop_the_run(self):
    error = protocol.BadDataError('record 3')
    with self.assertRaisesRegex(protocol.BadDataError, 'record 3'):
      self._run([_Lengths('first', error)], _models('good', 'bad', 'other'))
    self.assertTrue(os.path.exists(self._path('good.json')))
    self.assertFalse(os.path.exists(self._path('other.json')))

  def test_processes_share_a_folder_and_one_is_killed(self):

    code = (
      'from tests.benchmark import run_test as t; '
      f't.score_in_folder({self.folder!r}, 4, "one", "two")'
    )
    other = subprocess.Popen(
      [sys.executable, '-c', code],
      stdout=subprocess.PIPE,
      text=True,
      env=processes.environment(),
    )
    self.addCleanup(other.kill)
    self.assertEqual(other.stdout.readline(), 'waiting\n')
    # The other process has claimed the first model.
    here = _Counted()
    outcome = self._run([here], _models('one', 'two'))
    self.assertEqual([m.name for m in outcome.models], ['two'])
    self.assertEqual(here.computed, [*range(10)])
    (note,) = outcome.notes
    self.assertRegex(note, f'one is .*, process {other.pid},')
    # The process stays a zombie, because nobody waits for it.
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    last = _Counted()
    outcome = self._run([last], _models('one', 'two'))
    self.assertEqual(last.computed, [*range(4, 10)])
    (note,) = outcome.notes
    self.assertRegex(note, 'one: first resumes after 4 images')
    # The scores of the interrupted model equal those of the other exactly.
    one, two = (m.results['first'].scores for m in outcome.models)
    self.assertEqual(one, two)
    self.assertAllClose(
      one['mean'].value, np.delete(1 / (1 + np.arange(10.0)), 2).mean()
    )
    self.assertEqual(
      [f for f in os.listdir(self._path('')) if 'claim' in f or 'partial' in f],
      [],
    )

  def test_a_journal_of_another_result_is_not_resumed(self):
    path = self._path('one.first.partial.jsonl')
    for text in (
      '',
      'x',
      '{"identity": {"network": {}}, "begun": "now"}\n'
      '{"start": 0, "items": [{"value": 5.0}]}\n',
    ):
      os.makedirs(os.path.dirname(path), exist_ok=True)
      files.write(path, text)
      first = _Counted()
      outcome = self._run([first], _models('one'), rescore=True)
      self.assertEqual(first.computed, [*range(10)])
      self.assertTrue(
        any('one.first.partial.jsonl: ' in n for n in outcome.notes)
      )

  def test_cost_of_controls_is_printed_before_they_run(self):
    class WithControls(_Lengths):
      has_controls = True

      def images_of_random_twins(self, images):
        return images - 1

    one, network = WithControls('first'), _resizable('one')
    companions = [
      *model_specs.at_sizes(network, ['32']),
      *model_specs.controls()[:3],
      *model_specs.random_twins(network, 4),
    ]
    found = self._run([one], network).models[0]
    found.results['first'] = dataclasses.replace(
      found.results['first'], seconds=20.0
    )
    # The network has 2 images; 3 controls x 2 and 4 twins x 1 at 10 seconds,
    # and 2 of 4 times as many pixels.
    said = companion_cost.sentence([one, _Lengths('second')], companions, found)
    names = '1 other input size, 3 controls and 4 random twins'
    self.assertIn(names, said)
    self.assertIn(
      'The random twins and input sizes take about 0:02:00, at 10 seconds per '
      'image of one',
      said,
    )
    self.assertEqual(
      companion_cost.sentence([one], companions, None),
      f'To be measured next: {names}.',
    )
    said = []
    with mock.patch.object(tqdm.tqdm, 'write', said.append):
      self._run([one], [*network, *model_specs.controls()[:1]])
    self.assertIn(
      '1 control (first: 2 images for each control).', ''.join(said)
    )
    self.assertEqual(one.scored[-1], 'control-centre')

  def test_networks_at_other_input_sizes(self):
    class WithControls(_Lengths):
      has_controls = True

    first, second = WithControls('first'), _Lengths('second')
    networks = _resizable('fixed', 'one', 'broken')
    rows = [*networks, *model_specs.at_sizes(networks, ['16', '24x32'])]

    def build(spec, seed=0):
      adapter = fakes.Adapter(spec=spec.partition('?')[0], seed=seed)
      if 'input_size' in spec:
        if 'fixed' in spec:
          raise ValueError('only 16')
        adapter.input_size = sizes.parse(spec.partition('=')[2])
        adapter._linear = tf.ones((12 * 8, 4))
        adapter.parameters = fakes.Adapter(seed=seed).parameters
      return _build(spec) and adapter

    found = self._run([first, second], rows, build)
    self.assertEqual([f.name for f in found.failures], ['broken'])
    self.assertEqual(
      [(m.name, m.size_of, m.is_network) for m in found.models],
      [('fixed', None, True), ('one', None, True), ('one@24x32', 'one', False)],
    )
    # Its own size is not measured twice, and only the alignment is compared.
    self.assertEqual(first.scored, ['fixed', 'one', 'one@24x32'])
    self.assertEqual(second.scored, ['fixed', 'one'])
    self.assertEqual(found.models[-1].spec, 'keras:one?input_size=24x32')
    self.assertEqual(
      found.notes,
      [f'fixed@{size} is not available: only 16' for size in ('16', '24x32')][
        1:
      ],
    )
    found = self._run([first], _resizable('one'), build)
    self.assertEqual(found.models[-1].name, 'one@24x32')
    found = self._run(
      [first], _resizable('one'), lambda spec: build(spec, seed=1)
    )
    self.assertNotIn('one@24x32', [m.name for m in found.models])
    self.assertIn('one@24x32: its results', found.notes[-1])

  def test_a_group_has_the_random_twins_of_a_run_that_opens(self):
    class WithControls(_Lengths):
      has_controls = True

    runs = [
      model_specs.parse(f'mg:{name}?group=net')
      for name in ('broken', 'one', 'two')
    ]
    rows = [*runs, *model_specs.random_twins(runs, 2)]

    def build(spec):
      adapter = _build(spec.partition('?')[0])
      adapter.randomize = lambda seed: None
      return adapter

    found = self._run([WithControls('first')], rows, build)
    twins = [m for m in found.models if m.twin_of]
    self.assertEqual(
      [(m.name, m.twin_of, m.spec) for m in twins],
      [(f'random-net-{i}', 'net', 'mg:one?group=net') for i in range(2)],
    )
    self.assertEqual([f.name for f in found.failures], ['broken'])

  def test_holds_one_model_at_a_time(self):
    alive = weakref.WeakSet()

    def build(spec):
      self.assertEmpty(alive)
      adapter = fakes.Adapter(spec=spec)
      # A reference cycle, as in most networks.
      adapter.myself = adapter
      alive.add(adapter)
      return adapter

    failing = _Lengths('first', ValueError('no'))
    outcome = self._run([failing], _models('one', 'bad', 'two'), build)
    self.assertLen(outcome.models, 2)
    self.assertEmpty(alive)


class ModelTest(parameterized.TestCase):
  @parameterized.parameters(
    ('mg:runs/digits/baseline/', 'baseline'),
    ('keras:files/vgg.v2.h5', 'vgg.v2'),
    ('keras:files/vgg.h5?name=VGG 16&preprocessing=caffe', 'VGG 16'),
  )
  def test_names(self, text, name):
    self.assertEqual(model_specs.parse(text).name, name)

  @parameterized.parameters(
    'mg',
    'runs/digits',
    'mg:',
    'nothing:at/all',
    'mg:x?name=a/b',
    'mg:x?name=..',
  )
  def test_refused_specs(self, text):
    with self.assertRaises(protocol.SettingsError):
      model_specs.parse(text)

  def test_two_models_with_the_same_name(self):
    with self.assertRaisesRegex(
      protocol.SettingsError, "mg:a/run and mg:b/run.*'run'"
    ):
      model_specs.parse_all(['mg:a/run', 'mg:b/run'])
    with self.assertRaisesRegex(protocol.SettingsError, "'Run' and 'run'"):
      model_specs.parse_all(['mg:a/Run', 'mg:b/run'])


if __name__ == '__main__':
  absltest.main()
