"""Runs experiments over models: resumable, and no failure loses the others.

What is finished is in `<output_dir>/models`, see `stored_results`. A result is
used again if nothing that it depends on has changed (`identity`), and is then
labelled; otherwise it is kept in `models/earlier` and computed again. Several
processes may share the folder: each claims the model that it scores.
"""

from collections.abc import Callable, Sequence
import dataclasses
import gc
import io
import os
import re
import time
import traceback
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import identity as identity_lib
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import reuse
from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.benchmark.adapters import spec as spec_lib
from official_ext.harmonization.evaluation import scores

_FOLDER = 'models'
_DIGESTS = 'digests.json'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9 ._+-]*')
# Of a model's folder, the files that change when the model does, and not when
# it is only looked at.
_MODEL_FILES = (
  'checkpoint',
  'params.yaml',
  'saved_model.pb',
  'variables/variables.index',
)


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

  def settings(self) -> dict[str, Any]:
    """What its scores depend on."""
    files = {}
    for name in self.names:
      files.update(_fingerprint(resources.working_path(name)))
    return {'spec': self.spec, 'files': files}


def _fingerprint(path: str) -> dict[str, list[int]]:
  """Sizes in bytes and times in seconds of the files that make a model."""
  names = _MODEL_FILES if tf.io.gfile.isdir(path) else ('',)
  stats = {}
  for name in names:
    file = os.path.join(path, name) if name else path
    if tf.io.gfile.exists(file):
      found = tf.io.gfile.stat(file)
      stats[name or os.path.basename(file)] = [
        found.length,
        found.mtime_nsec // 10**9,
      ]
  return stats


def digests_path(output_dir: str) -> str:
  """Where digests of the data are kept, see `identity.Digests`."""
  return os.path.join(output_dir, _DIGESTS)


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
      "'KIND:TARGET?name=NAME'."
    )
  return Model(name, text, [target, *options.values()])


def parse_models(texts: Sequence[str]) -> list[Model]:
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
  by_name: dict[str, Model] = {}
  for model in map(parse_model, texts):
    # Files of names that differ in case only are the same on some systems.
    other = by_name.setdefault(model.name.lower(), model)
    if other is not model:
      both = (
        f'both be called {model.name!r}'
        if other.name == model.name
        else (
          f'be called {other.name!r} and {model.name!r}, which some file '
          'systems take for the same'
        )
      )
      raise SettingsError(
        f'{other.spec} and {model.spec} would {both}: name them, as in '
        "--model='KIND:TARGET?name=NAME'."
      )
  return list(by_name.values())


class Benchmark:
  """The experiments, and the folder that holds what came out of them."""

  def __init__(
    self,
    experiments: Sequence[protocol.Experiment],
    output_dir: str,
    build: Callable[..., Any],
    rescore: bool = False,
  ):
    """Initializes the benchmark.

    Args:
      experiments: such as `clickme.ClickMeProtocol`.
      output_dir: folder of the results.
      build: makes an adapter from a spec.
      rescore: whether to score again what needs no scoring.

    Raises:
      labelled_images.BadDataError: data cannot be read.
    """
    self._experiments = list(experiments)
    self._folder = os.path.join(output_dir, _FOLDER)
    self._store = stored_results.Store(output_dir, _FOLDER)
    self._build = build
    self._reuse = reuse.Reuse(
      self._store,
      experiments,
      identity_lib.Digests(digests_path(output_dir)),
      rescore,
    )

  def run(
    self,
    models: Sequence[Model],
    finish: Callable[[dict[str, Any]], Any] = lambda outcome: None,
  ) -> dict[str, Any]:
    """Scores what is not scored yet, behind progress bars.

    Args:
      models: with names that differ. One that another process is scoring is
        passed over.
      finish: called with what is returned, while no other process that shares
        the folder does the same: the last one has all results.

    Returns:
      `models`: a dict per model that has been through an experiment, as in its
      file, with the experiments of this benchmark alone: first those that were
      asked for, then the others in the folder. A result that was not computed
      now says so in `earlier`. `failures`: a dict of `name`, `spec`,
      `experiment` and `error` per failure. `notes`: sentences on what was
      found in the folder.

    Raises:
      labelled_images.BadDataError: a record cannot be used.
    """
    tf.io.gfile.makedirs(self._folder)
    scored, failures = {}, []
    names = [model.name for model in models]
    bar = tqdm.tqdm(models, unit=' models', disable=None)
    for model in bar:
      bar.set_description(model.name)
      try:
        with claims.Claim(self._store.path(model.name, 'claim')) as claim:
          scored[model.name] = self._score(model, claim, failures, names)
      except claims.Taken as e:
        self._reuse.note(f'{model.name} is being scored by {e}; passed over.')
    with claims.locked(self._folder):
      others = self._reuse.others(scored)
      others.sort(
        key=lambda r: (
          names.index(r['name']) if r['name'] in names else len(names)
        )
      )
      outcome = {
        'models': [
          r for r in (*scored.values(), *others) if r and r['experiments']
        ],
        'failures': failures,
        'notes': self._reuse.notes,
      }
      finish(outcome)
    return outcome

  def _score(self, model: Model, claim, failures, named):
    """Scores a model; returns its record, None if it cannot be opened."""
    try:
      return self._open_and_run(model, claim, failures, named)
    finally:
      # What one model holds must not pile up over all of them.
      tf_keras.backend.clear_session()
      gc.collect()

  def _open_and_run(self, model, claim, failures, named):
    """Runs experiments on a model that is forgotten at the end."""
    failure = self._store.path(model.name, 'failure.txt')
    if tf.io.gfile.exists(failure):  # Of a time before.
      tf.io.gfile.remove(failure)
    opened = self._attempt(
      model, 'the model cannot be opened', failures, lambda: self._open(model)
    )
    if opened is None:
      return None
    adapter, network = opened
    record = self._reuse.current(
      {
        'name': model.name,
        'settings': scores.json_safe(model.settings()),
        'adapter': _describe(adapter),
        'experiments': {},
      },
      network,
      adapter.name,
      named,
    )
    shown = {}
    for experiment in self._experiments:
      name = experiment.name
      if name in record['experiments']:
        shown[name] = self._reuse.presented(record, name)
        continue
      self._attempt(
        model,
        name,
        failures,
        lambda e=experiment: self._run_one(
          model, record, adapter, network, e, claim
        ),
      )
      if name in record['experiments']:
        shown[name] = record['experiments'][name]
    return {**record, 'experiments': shown}

  def _open(self, model):
    adapter = self._build(model.spec)
    # One name in tables, trials, bars and messages: two modules may have
    # functions of one name, and this one no other model has.
    adapter.name = model.name
    return adapter, identity_lib.network(adapter)

  def _attempt(self, model, stage, failures, function):
    """Returns `function()`, or None and notes a failure of the model."""
    path = self._store.path(model.name, 'failure.txt')
    try:
      return function()
    except (labelled_images.BadDataError, claims.Taken):
      # The data are the same for all models.
      raise
    except Exception as e:
      with tf.io.gfile.GFile(path, 'w') as f:
        f.write(traceback.format_exc())
      error = f'{type(e).__name__}: {e}'
      tqdm.tqdm.write(f'FAILED {model.name} ({stage}): {error} See {path}.')
      failures.append(
        {
          'name': model.name,
          'spec': model.spec,
          'experiment': stage,
          'error': error,
          'traceback': path,
        }
      )
      return None

  def _run_one(self, model, record, adapter, network, experiment, claim):
    """Runs one experiment, and writes what came out."""
    start = time.monotonic()
    identity = self._reuse.identity(experiment.name, model.spec, network)
    path = self._store.path(model.name, f'{experiment.name}.partial.jsonl')
    journal = journal_lib.Journal(path, identity)
    if journal.note:
      self._reuse.note(
        f'{path}: {journal.note}; {experiment.name} begins at the first image.'
      )
    if journal.items:
      self._reuse.note(
        f'{model.name}: {experiment.name} resumes after '
        f'{len(journal.items)} images of a run that began on '
        f'{identity_lib.date(journal.begun)}.'
      )
    with tqdm.tqdm(
      desc=f'{model.name}: {experiment.name}',
      unit=' images',
      initial=len(journal.items),
      leave=False,
      disable=None,
    ) as bar:
      result = experiment.run(adapter, bar.update, journal)
    claim.check()
    self._save(
      model, record, experiment, identity, result, time.monotonic() - start
    )
    journal.end()

  def _save(self, model, record, experiment, identity, result, seconds):
    """Writes tables and examples, and then the file that says they are done."""
    table = self._store.path(model.name, f'{experiment.name}.csv')
    scores.write_rows(table, [{'model': model.name, **r} for r in result.rows])
    examples = None
    if result.examples is not None:
      examples = self._store.path(model.name, f'{experiment.name}.npz')
      _write_examples(examples, result.examples)
    record['experiments'][experiment.name] = scores.json_safe(
      {
        'settings': experiment.settings(),
        'identity': identity,
        'created': identity_lib.now(),
        'scores': {s.name: s.to_json() for s in result.scores},
        'warnings': list(result.warnings),
        'curves': result.curves,
        'table': os.path.join(_FOLDER, os.path.basename(table)),
        'examples': examples
        and os.path.join(_FOLDER, os.path.basename(examples)),
        'seconds': round(seconds, 1),
      }
    )
    self._store.seal(record, experiment.name)
    self._store.save(record)


def _describe(adapter) -> dict[str, Any]:
  """What reports say of how a model is used."""
  return {
    'input_size': list(adapter.input_size),
    'num_classes': int(adapter.num_classes),
    'preprocessing': adapter.preprocessing,
  }


def _write_examples(path: str, examples: protocol.Examples):
  """Writes pictures' pixels, 8 bits each, whole or not at all."""
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer,
    images=examples.images,
    human=_eight_bits(examples.human),
    model=_eight_bits(examples.model),
  )
  files.write(path, buffer.getvalue())


def _eight_bits(maps: np.ndarray) -> np.ndarray:
  """Scales each map (B, H, W) to 0..255; what is not finite becomes 0."""
  maps = np.nan_to_num(maps.astype(np.float64), posinf=0.0, neginf=0.0)
  low = maps.min((1, 2), keepdims=True)
  span = maps.max((1, 2), keepdims=True) - low
  return np.uint8(
    np.round(255.0 * (maps - low) / np.where(span > 0, span, 1.0))
  )


def read_examples(path: str) -> protocol.Examples | None:
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
  return protocol.Examples(
    content['images'], content['human'], content['model']
  )
