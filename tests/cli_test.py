# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of what all commands share, each run as users type it."""

# Bazel: tags = ["subprocess"]

import dataclasses
import errno
import importlib
import os
import subprocess
import sys
import types

from absl.testing import parameterized
import tensorflow as tf

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import mistakes
from tests import forked


def _raise_from(module, error):
  """Raises an error as a function of a module of this name would."""

  def raise_():
    raise error

  types.FunctionType(
    raise_.__code__, {'__name__': module}, closure=raise_.__closure__
  )()


def _raise(error):
  _raise_from(cli.__name__, error)


def _raise_elsewhere(error):
  _raise_from('library', error)


def _look_up(key):
  return {}[key]


def _add_vectors(lengths):
  return sum(tf.ones(n) for n in lengths)


def _call(main, args, options):
  cli.guarded(lambda _: main(*args), 'tool', **options)(['tool'])


def _run_main(main, *args, **options):
  """What a command ends with whose main calls this function."""
  return forked.call(_call, main, args, options)


@dataclasses.dataclass(frozen=True)
class _Filter:
  least: int = cli.flag(1, 'Clicks per person.', at_least=1)


@dataclasses.dataclass(frozen=True)
class _Base:
  rate: float = cli.flag(0.5, 'A part.', at_least=0, at_most=1)
  filter: _Filter = _Filter()


@dataclasses.dataclass(frozen=True)
class _Options(_Base):
  """Every kind of flag."""

  folder: str = cli.flag('', 'Where.', path=True, required=True)
  label: str = cli.flag('', 'A label.')
  size: int | None = cli.flag(None, 'Pixels.', aliases=('side',))
  blur: bool = cli.flag(True, 'Whether to blur.')
  kernel: str = cli.flag('disc', 'Kernel.', choices=lambda: ('disc', 'ring'))
  paths: tuple[str, ...] = cli.flag((), 'Files.', path=True)
  models: tuple[str, ...] = cli.flag(('a',), 'A model.', repeated=True)
  split: tuple[str, ...] = cli.flag(
    ('train',), 'A split.', repeated=True, choices=('train', 'val')
  )
  of: int = 7


def _show(options):
  print(cli.without_effect([('without --x', ('size', 'rate'))]))
  print(options)


def _show_arguments(options, arguments):
  print(options.folder, arguments)


def _type_options(argv, main, takes_arguments):
  sys.argv = ['tool', *argv]
  cli.run(main, _Options, name='tool', takes_arguments=takes_arguments)


class OptionsTest(tf.test.TestCase, parameterized.TestCase):
  def _run(self, *argv, main=_show, takes_arguments=False):
    return forked.call(_type_options, argv, main, takes_arguments)

  def test_defaults_are_those_of_the_fields(self):
    found = self._run('--folder=/a')
    self.assertEqual(found.code, 0, found.errors)
    self.assertEqual(found.output, f'\n{_Options(folder="/a")}\n')

  def test_each_kind_of_value_is_read(self):
    found = self._run(
      '--folder=/a',
      '--least=3',
      '--rate=1',
      '--label=x',
      '--side=8',
      '--noblur',
      '--kernel=ring',
      '--paths=/b,/c',
      '--models=k:1,2',
      '--models=l',
      '--split=val',
    )
    self.assertEqual(found.code, 0, found.errors)
    expected = _Options(
      folder='/a',
      filter=_Filter(least=3),
      rate=1.0,
      label='x',
      size=8,
      blur=False,
      kernel='ring',
      paths=('/b', '/c'),
      models=('k:1,2', 'l'),
      split=('val',),
    )
    self.assertEndsWith(found.output, f'{expected}\n')
    self.assertIn('--size, --rate', found.output.splitlines()[0])
    both = self._run('--folder=/a', '--size=4', '--side=8')
    self.assertIn('--size and --side are the same flag', both.errors)

  @parameterized.parameters(
    ('--folder', '--label=x'),
    ('--least=0', '--folder=/a', '--least=0'),
    ('--rate=2', '--folder=/a', '--rate=2'),
    ('--kernel=cube', '--folder=/a', '--kernel=cube'),
    ('--split=test', '--folder=/a', '--split=test'),
    ('--size', '--folder=/a', '--size=x'),
    ('--of', '--folder=/a', '--of=8'),
  )
  def test_a_wrong_or_missing_value_is_refused(self, flag, *argv):
    found = self._run(*argv)
    self.assertEqual(found.code, 1)
    self.assertRegex(found.errors, f'^tool: .*{flag}')

  def test_a_text_in_place_of_a_number(self):
    found = self._run('--folder=/f', '--size=big')
    self.assertEqual(found.code, 1)
    self.assertRegex(found.errors, "^tool: --size is 'big'; expected an? .*int")
    self.assertNotIn('literal', found.errors)

  def test_paths_are_relative_to_where_bazel_was_called(self):
    found = forked.call(_type_below_bazel, ('--folder=a', '--paths=b,gs://c/d'))
    self.assertIn("folder='/home/a'", found.output)
    self.assertIn("paths=('/home/b', 'gs://c/d')", found.output)

  def test_arguments_that_are_not_flags(self):
    argv = ('a', '--folder=/f', 'b')
    found = self._run(*argv, main=_show_arguments, takes_arguments=True)
    self.assertEqual(found.output, "/f ['a', 'b']\n")
    self.assertIn("'a' is not a flag", self._run(*argv).errors)

  def test_help_lists_flags_bounds_and_choices(self):
    found = self._run('--help')
    self.assertEqual(found.code, 0)
    self.assertIn(__doc__, found.output)
    for text in (
      '--[no]blur: Whether',
      '--least: Clicks per',
      '<disc|ring>',
      '--side: Alias for --size',
      '--[no]debug',
      'default: "[a]"',
    ):
      self.assertIn(text, found.output.replace("'", ''))


def _type_below_bazel(argv):
  os.environ['BUILD_WORKING_DIRECTORY'] = '/home'
  _type_options(argv, _show, False)


class HelpTest(parameterized.TestCase):
  @parameterized.parameters(*forked.COMMANDS)
  def test_help_succeeds_and_shows_the_flags(self, name):
    found = forked.command(name, '--help')
    self.assertEqual(found.code, 0, found.errors)
    flag = {
      'ceiling': 'clicks',
      'compare': 'baseline',
      'evaluate': 'model',
      'explain': 'images',
      'train': 'experiment',
      'export_saved_model': 'export_dir',
      'export_tflite': 'tflite_path',
      'data.verify_records': 'map_decoder',
    }.get(name, 'output_dir')
    self.assertRegex(found.output, rf'(?m)^ +--(\[no\])?{flag}\b')
    self.assertIn(
      f'python -m official_ext.harmonization.{name}'
      if name != 'train'
      else 'train.py --experiment',
      found.output,
    )

  def test_short_help(self):
    self.assertEqual(forked.command('data.verify_records', '-h').code, 0)

  @parameterized.parameters(*forked.COMMANDS)
  def test_an_unknown_flag_is_one_sentence(self, name):
    found = forked.command(name, '--nonsense=1')
    self.assertEqual(found.code, 1)
    self.assertRegex(
      found.errors,
      r'(?m)^[a-z_.]+: --nonsense is not a flag '
      'of this command. --help lists its flags.$',
    )
    self.assertNotIn('Traceback', found.errors)

  @parameterized.parameters(
    ('train', '--experimnt=x', '--experimnt is .* mean --experiment\\?'),
    ('evaluate', 'mg:runs/x', "'mg:runs/x' is not a flag"),
    ('train', '', '--experiment must be given'),
    ('compare', 'runs/x', '--baseline, --harmonized must be given'),
    ('data.merge_imagenet', 'x', "'x' is not a flag; expected --NAME"),
    ('data.verify_records', '--map_decoder=clikme', '--map_decoder=clikme: '),
    ('data.merge_imagenet', '--workers=0', '--workers=0: '),
    ('data.download_clickme', '', '--output_dir must be given'),
  )
  def test_wrong_flags_are_one_sentence(self, name, flag, sentence):
    found = forked.command(name, *filter(None, [flag]))
    self.assertEqual(found.code, 1)
    self.assertRegex(
      found.errors.strip().splitlines()[-1], rf'^[a-z_.]+: {sentence}.*$'
    )


_HEAVY = ('tensorflow', 'official.core', 'official.vision', 'gin', 'scipy')


class LazyImportsTest(parameterized.TestCase):
  @parameterized.product(name=forked.COMMANDS, flag=('--help', '--nonsense=1'))
  def test_help_and_a_wrong_flag_import_nothing_heavy(self, name, flag):
    program = (
      'import sys\n'
      f'from official_ext.harmonization.{name} import run\n'
      f'sys.argv = ["command", "{flag}"]\n'
      'try:\n'
      '  run()\n'
      'except SystemExit as e:\n'
      '  sys.stdout.write(f"code {e.code}")\n'
      f'sys.exit(str([m for m in {_HEAVY} if m in sys.modules]))'
    )
    found = subprocess.run(
      [sys.executable, '-c', program],
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(found.stderr.strip(), '[]', found.stdout)
    self.assertIn('code 0' if flag == '--help' else 'nonsense', found.stdout)


class MistakesTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(
    (ValueError('a.csv: 3; expected 4. Repair it.'),),
    (KeyError('a.csv: 3; expected 4. Repair it.'),),
    (FileNotFoundError('a.csv: 3; expected 4. Repair it.'),),
    (ImportError('a.csv: 3; expected 4. Repair it.'),),
  )
  def test_our_sentences_are_shown_as_they_are(self, error):
    found = _run_main(_raise, error)
    self.assertEqual(found, (1, '', 'tool: a.csv: 3; expected 4. Repair it.\n'))

  @parameterized.parameters(
    (int, 'x', 'ValueError: invalid literal for .*'),
    (_look_up, 'image', 'KeyError: image'),
    (_raise_elsewhere, ValueError('x\ny'), 'ValueError: x y'),
    (_add_vectors, (2, 3), 'InvalidArgumentError: .*Incompatible shapes.*'),
    (
      importlib.import_module,
      'no_such_package.part',
      "No module named 'no_such_package'",
    ),
  )
  def test_other_mistakes_say_how_to_see_more(self, main, value, sentence):
    found = _run_main(main, value)
    self.assertEqual(found.code, 1)
    self.assertRegex(
      found.errors.strip().splitlines()[-1],
      rf'^tool: {sentence}\. Add --debug to see where\.$',
    )
    self.assertNotIn('Traceback', found.errors)

  @parameterized.parameters(TypeError, AttributeError, AssertionError)
  def test_a_fault_of_the_code_keeps_its_traceback(self, error):
    self.assertIn('Traceback', _run_main(_raise, error('x')).errors)

  def test_debug_shows_the_traceback(self):
    found = _run_main(_raise, ValueError('x'), debug=True)
    self.assertIn('Traceback', found.errors)

  def test_ctrl_c_is_one_sentence(self):
    found = _run_main(_raise, KeyboardInterrupt())
    self.assertEqual(
      found,
      (130, '', 'tool: interrupted. Run the same command again to resume.\n'),
    )

  def test_a_closed_pipe_is_silent(self):
    program = (
      'import sys\nfrom official_ext.harmonization import cli\n'
      'def main(_):\n  for i in range(10**5): print(i)\n'
      'cli.guarded(main, "tool")([])'
    )
    found = subprocess.run(
      f'"{sys.executable}" -c \'{program}\' | head -n 1',
      shell=True,
      capture_output=True,
      text=True,
      check=True,
    )
    self.assertEqual((found.stdout, found.stderr), ('0\n', ''))

  def test_places_are_said_by_the_name_that_the_user_gave(self):
    folder = self.get_temp_dir()
    blocked = os.path.join(folder, 'file')
    files.write(blocked, 'x')
    for path, words in (
      (
        's3://bucket/a.json',
        's3://bucket/a.json: TensorFlow cannot open '
        's3:// here; expected a local path or gs://',
      ),
      (
        f'{blocked}/a.json',
        f'{blocked}/a.json: not a directory. Remove the '
        'file that is in the way',
      ),
      (
        f'{folder}/none/a.json',
        f'{folder}/none/a.json: no such file or directory. Check the path',
      ),
      ('/dev/full/a.json', '/dev/full/a.json: not a directory'),
    ):
      found = _run_main(files.write, path, 'x')
      self.assertEqual(found.code, 1)
      self.assertIn(f'tool: {words}', found.errors)

  def test_python_and_tensorflow_say_the_same(self):
    for name in ('ENOSPC', 'EACCES', 'EROFS', 'EISDIR', 'ENOTDIR', 'ENOENT'):
      text = os.strerror(getattr(errno, name))
      self.assertEqual(
        mistakes.sentence(OSError(getattr(errno, name), text, 'a/b')),
        mistakes.sentence(tf.errors.UnknownError(None, None, f'a/b; {text}')),
      )
      self.assertStartsWith(
        mistakes.sentence(OSError(getattr(errno, name), text, 'a/b')), 'a/b: '
      )


if __name__ == '__main__':
  tf.test.main()
