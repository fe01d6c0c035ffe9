# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of adding a protocol: in one file, from outside the package."""

# Bazel: tags = ["subprocess"]

import csv
import os
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest

from official_ext.harmonization import evaluate
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark.psychophysics import decisions
from official_ext.harmonization.benchmark.psychophysics import scoring
from testing import processes
from tests.benchmark import fakes
from tests.benchmark import toy_protocol

# Runs the command as a package that registers its protocol would.
_COMMAND = """
import sys
from official_ext.harmonization import evaluate
from official_ext.harmonization.benchmark import registry
registry.register(
  'brightness', 'tests.benchmark.toy_protocol:BrightnessProtocol')
try:
  evaluate.run()
finally:
  heavy = {"tensorflow", "numpy", "matplotlib"} & sys.modules.keys()
  print('imported:', *sorted(heavy))
"""


def _command(*arguments):
  return subprocess.run(
    [sys.executable, '-c', _COMMAND, *arguments],
    capture_output=True,
    text=True,
    env=processes.environment(),
  )


class ToyTest(absltest.TestCase):
  def test_flags(self):
    shown = _command('--help')
    self.assertEqual(shown.returncode, 0)
    self.assertIn('--brightness: Number of gray images.', shown.stdout)
    self.assertEqual(shown.stdout.splitlines()[-1], 'imported:')
    for arguments, message in (
      (['--brightness=1'], '--brightness'),
      (['--brighness=3'], 'did you mean --brightness'),
      ([], 'No model was given'),
      (['--model=keras:x', '--clickme=x', '--brightest=9'], 'without --bright'),
      (['--model=keras:x'], '--psychophysics, --brightness'),
      (['--model=x', '--clickme=x'], "'x' is not a SPEC"),
      (['--model=keras:x', '--clickme=x', '--ceiling=3'], '--ceiling=3'),
    ):
      found = _command(*arguments)
      self.assertEqual(found.returncode, 1, found.stderr)
      self.assertIn(message, found.stderr)
      self.assertEqual(found.stdout.splitlines()[-1], 'imported:')

  def test_table_and_report(self):
    registry.register('brightness', toy_protocol.BrightnessProtocol)
    self.addCleanup(registry.unregister, 'brightness')
    with self.assertRaisesRegex(ValueError, "'brightness' is registered"):
      registry.register('brightness', toy_protocol.BrightnessProtocol)
    folder = self.enter_context(tempfile.TemporaryDirectory())
    toy = toy_protocol.BrightnessProtocol.from_options(
      toy_protocol.Options(brightness=5), None
    )
    with mock.patch.object(evaluate, '_protocols', lambda run: [toy]):
      with mock.patch.object(
        evaluate.spec, 'build', lambda spec: fakes.Adapter(spec=spec)
      ):
        options = evaluate.Options(
          model=('mg:one', 'mg:two'),
          run=evaluate.protocol_lib.RunOptions(output_dir=folder),
        )
        evaluate.main(options)

    def read(name):
      with open(os.path.join(folder, name), encoding='utf-8') as f:
        return f.read()

    self.assertIn('Brightness share of rises', read('leaderboard.txt'))
    (one, _) = csv.DictReader(read('leaderboard.csv').splitlines())
    self.assertEqual(one['brightness_rises_n'], '4')
    page = read('report.html')
    for words in (
      'href="#brightness">Brightness: who responds to light</a>',
      '5 gray images of growing brightness.',
      '<dt>brightest gray</dt><dd>255.0</dd>',
      'Ranked by Brightness share of rises.',
      'one has seen the light.',
      'no --imagenet',
    ):
      self.assertIn(words, page)


class NamesTest(absltest.TestCase):
  def test_unknown_name(self):
    with self.assertRaisesRegex(ValueError, "'contrast'.*clickme, .*imagenet"):
      registry.get('contrast')

  def test_choices_of_flags_are_those_of_the_functions(self):
    self.assertCountEqual(option_values.EXPLAINERS, explainers.EXPLAINERS)
    self.assertContainsSubset(
      option_values.CHEAP_EXPLAINERS, explainers.EXPLAINERS
    )
    self.assertCountEqual(
      option_values.SAMPLED_EXPLAINERS,
      filter(explainers.samples_option, explainers.EXPLAINERS),
    )
    self.assertEqual(option_values.DECISION_RULES, decisions.RULES)
    self.assertEqual(option_values.STIMULUS_FRAMINGS, scoring.FRAMINGS)
    self.assertEqual(option_values.CONTROLS, controls.NAMES)

  def test_every_protocol_has_its_flag_and_its_name(self):
    for name in registry.names():
      found = registry.get(name)
      self.assertEqual(found.name, name)
      self.assertIn(name, found.Options.__dataclass_fields__)


if __name__ == '__main__':
  absltest.main()
