# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Trains a grid of settings over seeds and writes one JSON line per run.

  python -m studies.study --study=studies/plans/twins.yaml

A study is a YAML file with the experiment, its configuration file, `common`
overrides, `seeds`, and `settings`, each of which has a name and overrides. A
setting may have `starts_from`, the name of a setting above it: its runs start
from the weights of that setting's run with the same seed. A run whose line is
in the results is not repeated, so a study can be stopped and resumed, and
several processes may share it: each claims the run that it trains. A failed run
has a line with the error; remove the line to train it again. Studies need the
digits of `python -m official_ext.harmonization.data.make_digits_clickme`.

Each line records the digests of the library's code, the configuration file, the
digits and the measuring code, the versions of packages, and its own digest. The
command does not add to results that were made with anything different. To
repeat results of the repository, give another --output.

Runs are trained on one core, because the same seed gives different numbers on
another number of cores. Two studies can use two cores: --core=0 and --core=1.
"""

from collections.abc import Iterable
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from typing import Any

from absl import flags
import tensorflow as tf
import tf_keras
import tqdm
import yaml

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.data.records import manifest
from studies import digit_decisions
from studies import study_report

FLAGS = flags.FLAGS

_START = 'starts_from'
_METRICS = (
  'clickme_accuracy',
  'accuracy',
  'alignment_spearman',
  'alignment_dice',
  'alignment_n',
)
_DIGITS = 'data/digits/{0}/{0}-*.tfrecords'
_MANIFEST = 'data/digits/manifest.json'
_CODE = 'official_ext'
_MEASURING = ('studies/digit_decisions.py', 'train.py')
# Lines of earlier versions have none of these and are not verified.
_NEWER = ('records', 'measured_by', 'versions')


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string('study', None, 'YAML file of the study.', required=True)
  flags.DEFINE_string(
    'output',
    None,
    'File for the results, one JSON line per run. '
    'studies/results/<name of the study>.jsonl by default.',
  )
  flags.DEFINE_string(
    'runs_dir',
    'runs/studies',
    'Runs and their logs are in a folder of this one, named after the '
    'results. They are removed when they are no longer needed; runs that '
    'others start from are kept.',
  )
  flags.DEFINE_bool('keep_runs', False, 'Keep every run.')
  flags.DEFINE_integer('core', 0, 'Processor core to train on.', lower_bound=0)


class RunError(RuntimeError):
  """A run cannot be trained. Later runs of the study may still work."""


def made_with(config_file: str) -> dict[str, Any]:
  """Describes what a run depends on besides its overrides and seed.

  Args:
    config_file: path of the study's configuration file.

  Returns:
    SHA-256 digests of the library's modules, the configuration file, the digits
    and the measuring modules; the settings of the digits; and versions.

  Raises:
    FileNotFoundError: the digits do not exist.
  """
  if not os.path.exists(_MANIFEST):
    raise FileNotFoundError(
      f'{_MANIFEST} does not exist. To make the digits, run: python -m '
      'official_ext.harmonization.data.make_digits_clickme'
    )
  return {
    'code': _code(pathlib.Path(_CODE).rglob('*.py')),
    'config': manifest.sha256(config_file)[:16],
    'digits': files.read_json(_MANIFEST, 'the settings of the digits'),
    'records': _contents(pathlib.Path(_MANIFEST).parent.rglob('*.tfrecords')),
    'measured_by': _code(map(pathlib.Path, _MEASURING)),
    'versions': identity.versions(),
  }


def _code(paths: Iterable[pathlib.Path]) -> str:
  """Returns a digest of modules and their names."""
  code = hashlib.sha256()
  for path in sorted(paths):
    code.update(str(path).encode() + b'\0' + path.read_bytes())
  return code.hexdigest()[:16]


def _contents(paths: Iterable[pathlib.Path]) -> str:
  """Returns a digest of the contents of files, in the order of their paths."""
  return identity.Digests().of([*map(str, sorted(paths))])['sha256'][:16]


def _weights(model_dir: str) -> str:
  """Returns a digest of the checkpoints in the folder of a run."""
  return _contents(
    path
    for path in pathlib.Path(model_dir).iterdir()
    if 'ckpt' in path.name or path.name == 'checkpoint'
  )


def train(study, overrides, seed, model_dir):
  """Runs train.py.

  Args:
    study: the plan, as in the YAML file.
    overrides: values by name of the field of the configuration.
    seed: of the run.
    model_dir: folder of the run, next to which the log is written.

  Returns:
    The final scores by name.

  Raises:
    RunError: train.py failed.
  """
  # Not JSON: YAML reads its 1e-05 as a string.
  values = ','.join(
    f'{k}='
    + yaml.safe_dump(v, default_flow_style=True, width=float('inf')).split(
      '\n'
    )[0]
    for k, v in overrides.items()
  )
  command = [
    sys.executable,
    'train.py',
    '--mode=train',
    f'--experiment={study["experiment"]}',
    f'--config_file={study["config_file"]}',
    f'--seed={seed}',
    f'--model_dir={model_dir}',
    f'--params_override={values}',
  ]
  with open(f'{model_dir}.log', 'w') as log:
    result = subprocess.run(command, stdout=log, stderr=log, check=False)
  if result.returncode:
    raise RunError(
      f'{" ".join(command[1:])} failed with exit code '
      f'{result.returncode}: see {model_dir}.log.'
    )
  tf_keras.backend.clear_session()
  run = runs.Run(model_dir)
  scores = run.evaluate()
  return {
    **{name: scores[name] for name in _METRICS},
    **digit_decisions.measure(
      run, _DIGITS.format('val'), _DIGITS.format('swapped')
    ),
  }


class Study:
  """A study, its results so far, and the folder of its runs.

  Attributes:
    plan: the study, as in the YAML file.
    grid: (setting, seed) of all runs, in the order of training.
    lines: results by (setting, seed).
  """

  def __init__(self, path: str, output: str, runs_dir: str):
    """Reads a study and the results so far.

    Args:
      path: of the YAML file.
      output: file of the results.
      runs_dir: folder that holds the folder of this study's runs.

    Raises:
      ValueError: results were made with other settings, or the plan is invalid.
      RunError: a run, from which others start, is missing.
    """
    with open(path) as f:
      self.plan = yaml.safe_load(f)
    self.output = output
    name = os.path.splitext(os.path.basename(output))[0]
    self.folder = os.path.join(runs_dir, name)
    for folder in (os.path.dirname(output) or '.', self.folder):
      os.makedirs(folder, exist_ok=True)
    self.made_with = made_with(self.plan['config_file'])
    settings = self.plan['settings'].values()
    self.starts = {s[_START] for s in settings if _START in s}
    # Seed by seed, so that the settings of a stopped study share their seeds.
    self.grid = [
      (setting, seed)
      for seed in self.plan['seeds']
      for setting in self.plan['settings']
    ]
    self.lines = self._read()
    self._check_starts()
    for setting, seed in self.grid:
      self._check_run(setting, seed)

  def _read(self):
    """Reads the existing lines, by setting and seed."""
    if not os.path.exists(self.output):
      return {}
    return {
      (line['setting'], line['seed']): line
      for line in study_report.lines(self.output)
    }

  def _overrides(self, setting):
    return {**self.plan.get('common', {}), **self.plan['settings'][setting]}

  def _model_dir(self, setting, seed):
    return os.path.join(
      self.folder, re.sub(r'[^\w.-]+', '_', f'{setting}-{seed}')
    )

  def _check_starts(self):
    """Raises an error unless runs start from settings above their own."""
    above = set()
    for setting, values in self.plan['settings'].items():
      start = values.get(_START)
      if start is not None and start not in above:
        raise ValueError(
          f'{setting!r} {_START} {start!r}, which is not a setting above it.'
        )
      above.add(setting)

  def _check_run(self, setting, seed):
    """Raises an error if a line was made differently or a start is missing."""
    overrides = self._overrides(setting)
    line = self.lines.get((setting, seed))
    if line is None:
      start = overrides.get(_START)
      if 'scores' in self.lines.get((start, seed), {}):
        self._start(start, seed)
      return
    found = {'overrides': line.get('overrides'), **line.get('made_with', {})}
    for what, value in {'overrides': overrides, **self.made_with}.items():
      if found.get(what) != value and (what in found or what not in _NEWER):
        raise ValueError(
          f'{self.output}: {setting!r}, seed {seed}, was made with {what} '
          f'{found.get(what, "unknown")}; expected {value}. Give another '
          '--output.'
        )

  def _start(self, setting, seed):
    """Returns the folder of a run to start from."""
    folder = self._model_dir(setting, seed)
    if not os.path.exists(os.path.join(folder, 'checkpoint')):
      raise RunError(
        f'{folder}, from which a run starts, does not exist. To train it '
        f'again, remove the line of {setting!r}, seed {seed}, from '
        f'{self.output}, and the lines of runs that failed without it.'
      )
    weights = self.lines.get((setting, seed), {}).get('weights')
    if weights and weights != _weights(folder):
      raise RunError(
        f'{folder}, from which a run starts, contains other weights than those '
        f'recorded for {setting!r}, seed {seed}, in {self.output}. To train it '
        'again, remove that line.'
      )
    return folder

  def run(self, setting, seed, keep):
    """Trains a run and appends its line, unless that line exists.

    Args:
      setting: name of the setting.
      seed: seed of the run.
      keep: whether to keep the folder of the run.
    """
    if (setting, seed) in self.lines:
      return
    claim = claims.Claim(f'{self._model_dir(setting, seed)}.claim')
    try:
      with claim:
        self.lines = self._read()  # Another process may have trained it.
        start = self._overrides(setting).get(_START)
        if start and (start, seed) not in self.lines:
          raise claims.Taken(
            f'the process that trains {start!r}, from which it starts'
          )
        if (setting, seed) not in self.lines:
          self._claimed(setting, seed, keep)
    except claims.Taken as e:
      tqdm.tqdm.write(f'Skipping {setting}, seed {seed}: claimed by {e}.')

  def _claimed(self, setting, seed, keep):
    """Trains a run that this process has claimed."""
    overrides = self._overrides(setting)
    line = {'setting': setting, 'seed': seed, 'overrides': overrides}
    model_dir = self._model_dir(setting, seed)
    shutil.rmtree(model_dir, ignore_errors=True)
    begun = time.time()
    try:
      changes = dict(overrides)
      if _START in changes:
        changes['task.init_checkpoint'] = self._start(changes.pop(_START), seed)
      line['scores'] = train(self.plan, changes, seed, model_dir)
    except RunError as e:
      line['error'] = str(e)
      tqdm.tqdm.write(f'{setting}, seed {seed}: {e}')
    line['seconds'] = round(time.time() - begun, 1)
    line['made_with'] = self.made_with
    if 'scores' in line and setting in self.starts:
      line['weights'] = _weights(model_dir)
    line['digest'] = study_report.digest(line)
    self.lines[setting, seed] = line
    with open(self.output, 'a') as f:
      f.write(json.dumps(line) + '\n')
    if not keep and setting not in self.starts:
      shutil.rmtree(model_dir, ignore_errors=True)


def main(_):
  """Trains the runs that are missing in the results."""
  cores = os.sched_getaffinity(0)
  if FLAGS.core not in cores:
    raise SystemExit(f'study: --core is {FLAGS.core}; expected one of {cores}.')
  os.sched_setaffinity(0, {FLAGS.core})
  name = os.path.splitext(os.path.basename(FLAGS.study))[0]
  try:
    study = Study(
      FLAGS.study,
      FLAGS.output or f'studies/results/{name}.jsonl',
      FLAGS.runs_dir,
    )
  except (OSError, ValueError, tf.errors.OpError, RunError) as e:
    raise SystemExit(f'study: {e}') from None
  for setting, seed in tqdm.tqdm(study.grid, unit='run'):
    study.run(setting, seed, FLAGS.keep_runs)
  print(study_report.table(study_report.read(study.output)))


def run():
  """Runs the command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
