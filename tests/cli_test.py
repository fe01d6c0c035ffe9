"""Tests of what all commands share, each run as users type it."""

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
    ('evaluate', 'mg:runs/x', "'mg:runs/x' is no flag"),
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

  def test_the_commands_start_without_tensorflow(self):
    subprocess.run(
      [
        sys.executable,
        '-c',
        'import sys\nfrom official_ext.harmonization '
        'import cli\nsys.exit("tensorflow" in sys.modules)',
      ],
      check=True,
    )

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
        cli.sentence(OSError(getattr(errno, name), text, 'a/b')),
        cli.sentence(tf.errors.UnknownError(None, None, f'a/b; {text}')),
      )
      self.assertStartsWith(
        cli.sentence(OSError(getattr(errno, name), text, 'a/b')), 'a/b: '
      )


if __name__ == '__main__':
  tf.test.main()
