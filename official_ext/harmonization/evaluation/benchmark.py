"""Runs experiments over models: resumable, and no failure loses the others.

What is finished stands in `<output_dir>/models`: `<name>.json` with the scores
of every experiment that a model has been through, and beside it the tables and
the examples for pictures. A finished experiment is not run again.
"""

import dataclasses
import gc
import io
import json
import os
import re
import time
import traceback
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import tensorflow as tf, tf_keras
import tqdm

from official_ext.harmonization import resources
from official_ext.harmonization.evaluation import labelled_images
from official_ext.harmonization.evaluation import results
from official_ext.harmonization.evaluation import scores
from official_ext.harmonization.evaluation.adapters import spec as spec_lib

_FOLDER = 'models'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9 ._+-]*')
# Of a model's folder, the files that change when the model does, and not when
# it is only looked at.
_MODEL_FILES = ('checkpoint', 'params.yaml', 'saved_model.pb',
                'variables/variables.index')


class SettingsError(ValueError):
  """What is asked for contradicts what is there, or itself."""


@dataclasses.dataclass(frozen=True)
class Model:
  """A model to be scored.

  Attributes:
    name: in tables and file names.
    spec: of its adapter.
    names: what the spec names: its target, and values of its options. Some
      are files or folders.
  """
  name: str
  spec: str
  names: Sequence[str]

  def settings(self) -> Dict[str, Any]:
    """What its scores depend on."""
    files = {}
    for name in self.names:
      files.update(_fingerprint(resources.working_path(name)))
    return {'spec': self.spec, 'files': files}


def _fingerprint(path: str) -> Dict[str, List[int]]:
  """Sizes in bytes and times in seconds of the files that make a model."""
  names = _MODEL_FILES if tf.io.gfile.isdir(path) else ('',)
  stats = {}
  for name in names:
    file = os.path.join(path, name) if name else path
    if tf.io.gfile.exists(file):
      found = tf.io.gfile.stat(file)
      stats[name or os.path.basename(file)] = [
          found.length, found.mtime_nsec // 10**9]
  return stats


def parse_model(text: str) -> Model:
  """Reads a SPEC.

  Args:
    text: the SPEC; without the option `name` the model is called by the last
      part of what it names.

  Returns:
    The model.

  Raises:
    SettingsError: it is no SPEC, or the name cannot be that of a file.
  """
  try:
    _, target, options = spec_lib.parse(text)
  except ValueError as e:
    raise SettingsError(str(e)) from None
  last = os.path.basename(target.rstrip('/'))
  stem = re.sub(r'\.(keras|h5|hdf5)$', '', last)
  name = options.get('name', stem)
  if not _NAME.fullmatch(name):
    raise SettingsError(
        f'{text}: a model cannot be called {name!r}: begin with a letter or '
        'digit, go on with these, spaces and . _ + -, as in '
        "'KIND:TARGET?name=NAME'.")
  return Model(name, text, [target, *options.values()])


def parse_models(texts: Sequence[str]) -> List[Model]:
  """Reads SPECs.

  Args:
    texts: the SPECs.

  Returns:
    The models.

  Raises:
    SettingsError: there is none, one is no SPEC, or two have one name.
  """
  if not texts:
    raise SettingsError('no model is named: add --model=KIND:TARGET.')
  by_name: Dict[str, Model] = {}
  for model in map(parse_model, texts):
    other = by_name.setdefault(model.name, model)
    if other is not model:
      raise SettingsError(
          f'{other.spec} and {model.spec} would both be called {model.name!r}: '
          "name them, as in --model='KIND:TARGET?name=NAME'.")
  return list(by_name.values())


class Benchmark:
  """The experiments, and the folder that holds what came out of them."""

  def __init__(self, experiments: Sequence[Any], output_dir: str,
               build: Callable[..., Any], rescore: bool = False):
    """Initializes the benchmark.

    Args:
      experiments: objects with `name`, `title`, `settings()` and `run(adapter,
        progress)`, such as `where.Where`.
      output_dir: folder of the results.
      build: makes an adapter from a spec.
      rescore: whether to score again what was scored with other settings,
        instead of refusing.
    """
    self._experiments = experiments
    self._folder = os.path.join(output_dir, _FOLDER)
    self._build = build
    self._rescore = rescore
    self._settings = {
        e.name: scores.json_safe(e.settings()) for e in experiments
    }

  def run(self, models: Sequence[Model]) -> Dict[str, Any]:
    """Scores what is not scored yet, behind progress bars.

    Args:
      models: with names that differ.

    Returns:
      `models`: a dict per model that has been through an experiment, as in its
      file, with the experiments of this benchmark alone; `failures`: a dict of
      `name`, `spec`, `experiment` and `error` per failure.

    Raises:
      SettingsError: something was scored with other settings.
      labelled_images.BadDataError: a record cannot be used.
    """
    tf.io.gfile.makedirs(self._folder)
    found = [self._load(model) for model in models]
    failures = []
    bar = tqdm.tqdm(list(zip(models, found)), unit=' models', disable=None)
    for model, record in bar:
      bar.set_description(model.name)
      failures += self._score(model, record)
    return {
        'models': [self._asked_for(r) for r in found if r['experiments']],
        'failures': failures,
    }

  def _path(self, model: Model, ending: str) -> str:
    return os.path.join(self._folder, f'{model.name}.{ending}')

  def _load(self, model: Model) -> Dict[str, Any]:
    """What is known of a model, without what has to be scored again."""
    settings = scores.json_safe(model.settings())
    record = {'name': model.name, 'settings': settings, 'experiments': {}}
    path = self._path(model, 'json')
    if not tf.io.gfile.exists(path):
      return record
    with tf.io.gfile.GFile(path) as f:
      known = json.load(f)
    if self._differs(path, 'the model', known['settings'], settings):
      return record
    for name, wanted in self._settings.items():
      done = known['experiments'].get(name)
      if done and self._differs(path, name, done['settings'], wanted):
        del known['experiments'][name]
    return known

  def _differs(self, path: str, what: str, known, wanted) -> bool:
    """Whether settings differ; says so, or raises `SettingsError`."""
    names = sorted(k for k in {*known, *wanted}
                   if known.get(k) != wanted.get(k))
    if not names:
      return False
    changes = ', '.join(f'{name}: {known.get(name)!r} then, '
                        f'{wanted.get(name)!r} now' for name in names)
    if not self._rescore:
      raise SettingsError(
          f'{path} was scored with other settings of {what} ({changes}): '
          'choose another --output_dir, or add --rescore to score it again.')
    tqdm.tqdm.write(f'{path}: {what} is scored again ({changes}).')
    return True

  def _score(self, model: Model, record) -> List[Dict[str, str]]:
    """Runs what is missing; returns failures."""
    todo = [e for e in self._experiments if e.name not in record['experiments']]
    if not todo:
      return []
    failures = []
    try:
      self._open_and_run(model, record, todo, failures)
    finally:
      # What one model holds must not pile up over all of them.
      tf_keras.backend.clear_session()
      gc.collect()
    return failures

  def _open_and_run(self, model, record, experiments, failures):
    """Runs experiments on a model that is forgotten at the end."""
    failure = self._path(model, 'failure.txt')
    if tf.io.gfile.exists(failure):  # Of a time before.
      tf.io.gfile.remove(failure)
    adapter = self._attempt(model, 'the model cannot be opened', failures,
                            lambda: self._build(model.spec))
    if adapter is None:
      return
    record['adapter'] = _describe(adapter)
    for experiment in experiments:
      self._attempt(
          model, experiment.name, failures,
          lambda e=experiment: self._run_one(model, record, adapter, e))

  def _attempt(self, model, stage, failures, function):
    """Returns `function()`, or None and notes a failure of the model."""
    path = self._path(model, 'failure.txt')
    try:
      return function()
    except labelled_images.BadDataError:
      # The data are the same for all models.
      raise
    except Exception as e:  # pylint: disable=broad-except
      with tf.io.gfile.GFile(path, 'w') as f:
        f.write(traceback.format_exc())
      error = f'{type(e).__name__}: {e}'
      tqdm.tqdm.write(f'FAILED {model.name} ({stage}): {error}')
      failures.append({
          'name': model.name, 'spec': model.spec, 'experiment': stage,
          'error': error, 'traceback': path
      })
      return None

  def _run_one(self, model, record, adapter, experiment):
    """Runs one experiment, and writes what came out."""
    start = time.monotonic()
    with tqdm.tqdm(desc=f'{model.name}: {experiment.name}', unit=' images',
                   leave=False, disable=None) as bar:
      result = experiment.run(adapter, bar.update)
    self._save(model, record, experiment, result, time.monotonic() - start)

  def _save(self, model, record, experiment, result: results.Result, seconds):
    """Writes tables and examples, and then the file that says they are done."""
    table = self._path(model, f'{experiment.name}.csv')
    scores.write_rows(table, [{'model': model.name, **r} for r in result.rows])
    examples = None
    if result.examples is not None:
      examples = self._path(model, f'{experiment.name}.npz')
      _write_examples(examples, result.examples)
    record['experiments'][experiment.name] = scores.json_safe({
        'settings': self._settings[experiment.name],
        'scores': {s.name: s.to_json() for s in result.scores},
        'warnings': list(result.warnings),
        'curves': result.curves,
        'table': os.path.join(_FOLDER, os.path.basename(table)),
        'examples': examples and os.path.join(_FOLDER,
                                              os.path.basename(examples)),
        'seconds': round(seconds, 1),
    })
    scores.write_json(self._path(model, 'json'), record)

  def _asked_for(self, record) -> Dict[str, Any]:
    """A model's record with the experiments of this benchmark alone."""
    return {**record, 'experiments': {
        name: record['experiments'][name] for name in self._settings
        if name in record['experiments']}}


def _describe(adapter) -> Dict[str, Any]:
  """What reports say of how a model is used."""
  return {
      'input_size': list(adapter.input_size),
      'num_classes': int(adapter.num_classes),
      'preprocessing': adapter.preprocessing,
  }


def _write_examples(path: str, examples: results.Examples):
  """Writes pictures' pixels, 8 bits each, whole or not at all."""
  buffer = io.BytesIO()
  np.savez_compressed(
      buffer, images=examples.images, human=_eight_bits(examples.human),
      model=_eight_bits(examples.model))
  with tf.io.gfile.GFile(f'{path}.partial', 'wb') as f:
    f.write(buffer.getvalue())
  tf.io.gfile.rename(f'{path}.partial', path, overwrite=True)


def _eight_bits(maps: np.ndarray) -> np.ndarray:
  """Scales each map (B, H, W) to 0..255; what is not finite becomes 0."""
  maps = np.nan_to_num(maps.astype(np.float64), posinf=0., neginf=0.)
  low = maps.min((1, 2), keepdims=True)
  span = maps.max((1, 2), keepdims=True) - low
  return np.uint8(np.round(255. * (maps - low) / np.where(span > 0, span, 1.)))


def read_examples(path: str) -> Optional[results.Examples]:
  """Reads what `Benchmark` wrote for pictures.

  Args:
    path: of the npz file.

  Returns:
    The examples, maps as uint8; None where the file is gone.
  """
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, 'rb') as f:
    content = np.load(io.BytesIO(f.read()), allow_pickle=False)
  return results.Examples(content['images'], content['human'], content['model'])
