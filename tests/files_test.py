# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of atomic writes and of differences between settings."""

# Bazel: tags = ["subprocess"]

import multiprocessing
import os
import tempfile

from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from official_ext.harmonization import ceiling
from official_ext.harmonization import explain
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.protocols import psychophysics
from official_ext.harmonization.data.records import build_options
from official_ext.harmonization.data.records import clickme_builder
from official_ext.harmonization.data.records import imagenet_merger
from official_ext.harmonization.data.stimuli import stimulus_builder
from official_ext.harmonization.data.stimuli import stimulus_options


def _build(flag, folder, output):
  other = {} if flag == 'npz' else {'image_dir': '/', 'map_dir': '/'}
  clickme_builder.check(
    build_options.Options(output_dir=output, **{**other, flag: folder})
  )


def _ceiling(flag, folder, output):
  ceiling.measure(
    ceiling.Options(clicks=('x.csv',), output_dir=output, **{flag: folder})
  )


def _evaluate(flag, folder, output):
  psychophysics.PsychophysicsProtocol.from_options(
    psychophysics.PsychophysicsOptions(**{flag: folder}),
    protocol.RunOptions(output_dir=output),
  )


def _explain(flag, folder, output):
  options = {'images': 'photos', 'model': 'keras_app:VGG16', flag: folder}
  next(explain.explain(explain.Options(output_dir=output, **options)))


def _merge(flag, folder, output):
  imagenet_merger.merge('train-*', output, **{flag: folder})


def _stimuli(flag, folder, output):
  value = (folder,) if flag == 'records' else folder
  stimulus_builder.make(
    stimulus_options.Options(output_dir=output, **{flag: value})
  )


# Every command that reads a folder and writes one: the function that it calls,
# the flag of the folder, and whether folders below it are refused too.
_WRITERS = (
  (_build, 'image_dir', False),
  (_build, 'map_dir', False),
  (_build, 'npz', False),
  (_ceiling, 'image_dir', False),
  (_evaluate, 'psychophysics', True),
  (_explain, 'images', True),
  (_explain, 'maps', True),
  (_merge, 'map_dir', False),
  (_stimuli, 'image_dir', True),
  (_stimuli, 'map_dir', True),
  (_stimuli, 'records', True),
)


class AtomicTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.get_temp_dir(), self._testMethodName)
    os.mkdir(self.folder)
    self.path = os.path.join(self.folder, 'table.csv')

  def _read(self):
    with open(self.path, 'rb') as f:
      return f.read()

  def test_text_and_bytes(self):
    files.write(self.path, 'é')
    self.assertEqual(self._read(), 'é'.encode())
    files.write(self.path, b'\xff')
    self.assertEqual(self._read(), b'\xff')
    self.assertEqual(os.listdir(self.folder), ['table.csv'])

  def test_a_failure_keeps_the_previous_file(self):
    files.write(self.path, 'old')
    for error in (ValueError, KeyboardInterrupt):
      with self.assertRaises(error), files.atomic(self.path) as f:
        f.write('new')
        raise error
    self.assertEqual(self._read(), b'old')
    self.assertEqual(os.listdir(self.folder), ['table.csv'])

  def test_two_writers_do_not_mix(self):
    with files.atomic(self.path) as a:
      with files.atomic(self.path) as b:
        b.write('bb')
      a.write('a')
    self.assertEqual(self._read(), b'a')

  def test_partial_names_are_unique_across_processes(self):
    with multiprocessing.get_context('fork').Pool(2) as pool:
      names = set(pool.map(files.partial, ['x/train-0'] * 20, chunksize=1))
    names.add(files.partial('x/train-0'))
    self.assertLen(names, 21)
    for name in names:
      self.assertEqual(files.final(name), 'x/train-0')
      self.assertRegex(name, r'^x/\.train-0\..*\.partial$')

  def test_names_of_any_length(self):
    self.path = os.path.join(self.folder, 'é' * 127)
    files.write(self.path, 'x')
    self.assertEqual(self._read(), b'x')

  def test_json(self):
    files.write_json(self.path, {'a': [1]})
    self.assertEqual(files.read_json(self.path), {'a': [1]})
    for content, words in (('{"a": [1', 'not JSON'), ('', 'it is empty')):
      files.write(self.path, content)
      with self.assertRaisesRegex(ValueError, f'table.csv .*{words}'):
        files.read_json(self.path)


class DifferencesTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(
    ({'a': 1}, {'a': 1}, {}),
    ({'a': {'b': 1, 'c': 2}}, {'a': {'b': 3, 'c': 2}}, {'a.b': (1, 3)}),
    ({'a': 1}, {}, {'a': (1, files.ABSENT)}),
    ({}, {'a': {'b': 1}}, {'a': (files.ABSENT, {'b': 1})}),
    ({'a': (1, 2)}, {'a': [1, 2]}, {}),
    ({'a': [1, 2]}, {'a': [1]}, {'a': ([1, 2], [1])}),
    ({'a': float('nan')}, {'a': float('nan')}, {}),
    ({'a': True}, {'a': 1}, {'a': (True, 1)}),
    ({'a': 1}, {'a': 1.0}, {}),
    ({'a': None}, {}, {'a': (None, files.ABSENT)}),
    ({'a': [{'b': 1}]}, {'a': [{'b': 1}]}, {}),
    ({1: 2}, {1: 3}, {'1': (2, 3)}),
  )
  def test_differences(self, old, new, expected):
    self.assertEqual(files.differences(old, new), expected)

  def test_arrays(self):
    a = {'a': np.arange(3)}
    self.assertEmpty(files.differences(a, {'a': np.arange(3)}))
    self.assertLen(files.differences(a, {'a': np.arange(3) + 1}), 1)

  def test_in_words(self):
    found = files.differences(
      {'rules': {'radius': 3}, 'seed': 1},
      {'rules': {'radius': 5}, 'size': 'x' * 200},
    )
    words = files.in_words(found)
    self.assertStartsWith(
      words,
      'rules.radius was 3 and is now 5; seed was 1 '
      "and is now absent; size was absent and is now 'x",
    )
    self.assertLess(len(words), 200)
    self.assertEndsWith(files.in_words(found, 1), '; and 2 more')


class OutputFolderTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(
    ('in', False, True),
    ('x/../in/', False, True),
    ('link', False, True),
    ('in/out', False, False),
    ('in/out', True, True),
    ('link/out', True, True),
    ('in', True, True),
    ('inner', True, False),
    ('.', True, False),
  )
  def test_results_do_not_mix_with_inputs(self, output, below, is_refused):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    os.mkdir(os.path.join(folder, 'in'))
    os.symlink('in', os.path.join(folder, 'link'))
    self.addCleanup(os.unlink, os.path.join(folder, 'link'))
    output = os.path.join(folder, output)
    inputs = {'labels': '', 'image_dir': os.path.join(folder, 'in')}
    if not is_refused:
      files.refuse_output_in(output, inputs, below)
      return
    with self.assertRaisesRegex(
      ValueError, '^--output_dir=.*the folder of --image_dir; expected another'
    ):
      files.refuse_output_in(output, inputs, below)

  @parameterized.parameters(*_WRITERS)
  def test_commands_refuse_the_folder_of_their_inputs(
    self, command, flag, below
  ):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    for output in (folder, os.path.join(folder, 'out'))[: 1 + below]:
      with self.assertRaisesRegex(
        ValueError, f'^--output_dir={output} is .*the folder of --{flag};'
      ):
        command(flag, folder, output)
    self.assertEmpty(os.listdir(folder))


if __name__ == '__main__':
  tf.test.main()
