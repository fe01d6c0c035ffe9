# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Measures models with protocols; resumable, and isolates failures.

Finished results are in `<output_dir>/models`, see `stored_results`. A result is
used again, and labelled, if nothing that it depends on has changed
(`identity`); otherwise it is moved to `models/earlier` and computed again.
Several processes may share the folder: each claims the model that it measures.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import gc
import os
import time
import traceback
from typing import Any

import tensorflow as tf
import tf_keras
import tqdm

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import companion_cost
from official_ext.harmonization.benchmark import comparisons
from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import explainer_agreement
from official_ext.harmonization.benchmark import identity as identity_lib
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import progress
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import reuse
from official_ext.harmonization.benchmark import run_groups
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.benchmark import subgroups
from official_ext.harmonization.benchmark.adapters import fresh_weights
from official_ext.harmonization.benchmark.adapters import sizes
from official_ext.harmonization.evaluation import scores

_FOLDER = 'models'


class Benchmark:
  """Protocols, and the folder with their results."""

  def __init__(
    self,
    protocols: Sequence[protocol_lib.Protocol],
    output_dir: str,
    build: Callable[..., Any],
    rescore: bool = False,
  ):
    """Initializes the benchmark.

    Args:
      protocols: such as `clickme.ClickMeProtocol`.
      output_dir: folder of the results.
      build: makes an adapter from a SPEC.
      rescore: whether to score again where nothing has changed.

    Raises:
      protocol.BadDataError: data cannot be read.
    """
    self._protocols = list(protocols)
    self._folder = os.path.join(output_dir, _FOLDER)
    self._store = stored_results.Store(output_dir, _FOLDER)
    self._build = build
    self._reuse = reuse.Reuse(
      self._store,
      protocols,
      identity_lib.Digests(identity_lib.digests_path(output_dir)),
      rescore,
    )

  def run(
    self,
    models: Sequence[model_specs.Model],
    finish: Callable[[run_results.RunResults], Any] = lambda found: found,
  ) -> Any:
    """Measures what is missing, with progress bars.

    Args:
      models: with different names. A model that another process is measuring is
        skipped.
      finish: called with the results while no other process that shares the
        folder does the same, so that the last process has all results.

    Returns:
      What `finish` returns; by default the results: the models with results of
      these protocols, first those of `models`, then others in the folder.
      `origin` says where a result comes from that was not computed now.

    Raises:
      protocol.BadDataError: a record cannot be used.
    """
    tf.io.gfile.makedirs(self._folder)
    scored: dict[str, results.ModelResults | None] = {}
    failures: list[run_results.Failure] = []
    specs = {model.name: model.spec for model in models}
    bar = tqdm.tqdm(models, unit=' models', disable=None)
    companions = [m for m in models if m.control or m.twin_of or m.size_of]
    for model in bar:
      bar.set_description(model.name)
      if companions and model is companions[0]:
        first = next((m for m in scored.values() if m and m.results), None)
        tqdm.tqdm.write(
          companion_cost.sentence(self._protocols, companions, first)
        )
      model = _with_opened_run(model, models, scored)
      network = scored.get(model.twin_of or model.size_of)
      if network is None and (model.twin_of or model.size_of) in scored:
        continue  # The network cannot be opened.
      if model.size_of and network and _has_size(network, model.input_size):
        continue  # It was measured at this size.
      try:
        with claims.Claim(self._store.path(model.name, 'claim')) as claim:
          scored[model.name] = self._score(model, claim, failures, specs)
      except claims.Taken as e:
        self._reuse.note(f'{model.name} is being scored by {e}; skipped.')
    with claims.locked(self._folder):
      others = self._without_namesakes(self._reuse.others(scored), models)
      others.sort(key=lambda m: [*specs, m.name].index(m.name))
      measured = [
        self._normalized(model)
        for model in (*scored.values(), *others)
        if model and model.results
      ]
      measured = self._without_other_weights(measured)
      measured = run_groups.with_means(
        measured, self._protocols, os.path.dirname(self._folder)
      )
      measured.sort(key=lambda m: (not m.is_network, m.is_control))
      found = run_results.RunResults(
        models=measured,
        failures=failures,
        notes=self._reuse.notes,
        comparisons=comparisons.compare(
          os.path.dirname(self._folder), measured, self._protocols
        ),
        subgroups=self._subgroups(measured),
        agreements=explainer_agreement.compare(
          os.path.dirname(self._folder), measured, self._protocols
        ),
      )
      return finish(found)

  def _without_namesakes(
    self,
    others: Sequence[results.ModelResults],
    models: Sequence[model_specs.Model],
  ) -> list[results.ModelResults]:
    """Excludes earlier results that would share a name with another row.

    Args:
      others: models of earlier commands.
      models: of this command.

    Returns:
      The others, without those that have the name of a group, whose group has
      the name of a model, and without their random twins and input sizes.
    """
    groups = {m.group for m in (*models, *others) if m.group}
    names = {m.name for m in models}
    excluded = set()
    for other in others:
      if other.name in groups or other.group in names:
        excluded.add(other.name)
        self._reuse.note(
          f'{other.name}: its results of an earlier run are not shown, because '
          f'{other.group or other.name} is now the name of another row. Choose '
          'other names, or another --output_dir.'
        )
    return [m for m in others if not {m.name, m.twin_of, m.size_of} & excluded]

  def _without_other_weights(
    self, models: Sequence[results.ModelResults]
  ) -> list[results.ModelResults]:
    """Excludes earlier results at input sizes of networks that changed."""
    by_name = {m.name: m for m in models}
    found = []
    for model in models:
      if model.size_of:
        network = by_name.get(model.size_of)
        if network is None or _parameters(network) != _parameters(model):
          self._reuse.note(
            f'{model.name}: its results of an earlier run are not shown, '
            f'because {model.size_of} is not shown or has other weights now.'
          )
          continue
      found.append(model)
    return found

  def _normalized(self, model: results.ModelResults) -> results.ModelResults:
    """Relates the results of a model to people."""
    by_name = {p.name: p for p in self._protocols}
    root = os.path.dirname(self._folder)
    return dataclasses.replace(
      model,
      results={
        name: by_name[name].normalized(stored, root)
        for name, stored in model.results.items()
      },
    )

  def _subgroups(
    self, measured: Sequence[results.ModelResults]
  ) -> list[subgroups.Subgroup]:
    """Measures parts of the images, of networks and controls."""
    root = os.path.dirname(self._folder)
    # Controls have no classes.
    classes = next((m.adapter.num_classes for m in measured if m.is_network), 0)
    return [
      found
      for p in self._protocols
      for model in measured
      if p.has_controls
      and p.name in model.results
      and not model.twin_of
      and not model.size_of
      # Results of early versions have no influences.
      and model.results[p.name].explainers
      for found in subgroups.measure(
        subgroups.mean_rows(
          [
            scores.read_rows(os.path.join(root, run.results[p.name].table))
            for run in measured
            if run.name in (model.runs or [model.name])
            and p.name in run.results
          ]
        ),
        model.adapter.num_classes or classes,
        p.name,
        model.name,
      )
    ]

  def _score(self, model: model_specs.Model, claim, failures, named):
    """Returns a model's results; None if it cannot be opened."""
    try:
      return self._open_and_run(model, claim, failures, named)
    finally:
      # Otherwise memory would grow with the number of models.
      tf_keras.backend.clear_session()
      gc.collect()

  def _open_and_run(self, model: model_specs.Model, claim, failures, named):
    """Opens a model, whose memory is freed on return, and measures it."""
    failure = self._store.path(model.name, 'failure.txt')
    if tf.io.gfile.exists(failure):  # From an earlier run.
      tf.io.gfile.remove(failure)
    try:
      opened = self._attempt(
        model, 'the model cannot be opened', failures, lambda: self._open(model)
      )
    except (fresh_weights.Unavailable, sizes.Unavailable) as e:
      self._reuse.note(f'{model.name} is not available: {e}')
      return None
    if opened is None:
      return None
    adapter, network = opened
    stored = results.ModelResults(
      model.name, scores.json_safe(model.settings()), _facts(adapter)
    )
    self._reuse.add_current(stored, network, adapter.name, named)
    shown = {}
    for protocol in self._protocols:
      name = protocol.name
      if not protocol.has_controls and stored.is_companion:
        continue
      protocol = protocol.for_model(stored)
      if name in stored.results:
        shown[name] = self._reuse.presented(stored, name)
        continue
      shared = stored.is_control and self._reuse.share(stored, name, network)
      if shared:
        shown[name] = dataclasses.replace(
          self._reuse.presented(stored, name), origin=shown[shared].origin
        )
        continue
      if (stored.twin_of, name) in {(f.name, f.stage) for f in failures}:
        continue  # The network cannot be measured.
      if stored.is_network or stored.group:
        cost = protocol.cost(stored)
        if cost:
          tqdm.tqdm.write(cost)
      self._attempt(
        model,
        name,
        failures,
        lambda n=name, p=protocol: self._measure(
          stored, adapter, network, n, p, claim
        ),
      )
      if name in stored.results:
        shown[name] = stored.results[name]
    return dataclasses.replace(stored, results=shown)

  def _open(self, model: model_specs.Model):
    if model.control:
      control = controls.Control(model.control)
      return control, control.identity()
    try:
      adapter = self._build(model.spec)
    except Exception as e:
      if not model.size_of:
        raise
      # The network was opened at its own size.
      raise sizes.Unavailable(str(e)) from e
    if model.twin_of:
      adapter.randomize(model.seed)
    # The same name everywhere. An adapter's own name may not be unique, such as
    # that of a function of which two modules have one.
    adapter.name = model.name
    return adapter, identity_lib.network(adapter)

  def _attempt(self, model: model_specs.Model, stage: str, failures, function):
    """Returns `function()`; on an error, adds a failure and returns None."""
    path = self._store.path(model.name, 'failure.txt')
    try:
      return function()
    except (
      protocol_lib.BadDataError,
      claims.Taken,
      fresh_weights.Unavailable,
      sizes.Unavailable,
    ):
      # Bad data affect all models.
      raise
    except Exception as e:
      with tf.io.gfile.GFile(path, 'w') as f:
        f.write(traceback.format_exc())
      error = f'{type(e).__name__}: {e}'
      tqdm.tqdm.write(f'FAILED {model.name} ({stage}): {error} See {path}.')
      failures.append(
        run_results.Failure(model.name, model.spec, stage, error, path)
      )
      return None

  def _measure(
    self, model: results.ModelResults, adapter, network, name, p, claim
  ):
    """Measures a model with the protocol `p`; stores it as that of `name`."""
    start = time.monotonic()
    identity = self._reuse.identity(name, model, network)
    path = self._store.path(model.name, f'{name}.partial.jsonl')
    journal = journal_lib.Journal(path, identity)
    if journal.note:
      self._reuse.note(
        f'{path}: {journal.note}; {name} starts at the first image.'
      )
    if journal.items:
      self._reuse.note(
        f'{model.name}: {name} resumes after '
        f'{choices.plural(len(journal.items), "image")} of '
        f'a run that began on {identity_lib.date(journal.begun)}.'
      )
    with progress.Progress(
      f'{model.name}: {name}', ' images', p.total(), len(journal.items)
    ) as bar:
      measured = p.run(adapter, bar.update, journal)
    claim.check()
    seconds = time.monotonic() - start
    self._save(model, name, p.settings(), identity, measured, seconds)
    journal.end()

  def _save(
    self, model: results.ModelResults, name, settings, identity, found, seconds
  ):
    """Writes table and examples, and then the file that refers to them."""
    table = self._store.path(model.name, f'{name}.csv')
    scores.write_rows(table, [{'model': model.name, **r} for r in found.rows])
    examples = None
    if found.examples is not None:
      examples = self._store.path(model.name, f'{name}.npz')
      stored_results.write_examples(examples, found.examples)
    model.results[name] = results.StoredResult(
      scores={score.name: score for score in found.scores},
      settings=scores.json_safe(settings),
      table=os.path.join(_FOLDER, os.path.basename(table)),
      examples=examples and os.path.join(_FOLDER, os.path.basename(examples)),
      warnings=list(found.warnings),
      curves=found.curves,
      explainers=found.explainers,
      created=identity_lib.now(),
      seconds=round(seconds, 1),
      identity=scores.json_safe(identity),
    )
    self._store.seal(model, name)
    self._store.save(model)


def _with_opened_run(
  twin: model_specs.Model,
  models: Sequence[model_specs.Model],
  scored: Mapping[str, results.ModelResults | None],
) -> model_specs.Model:
  """Takes a random twin of a group from the first run that can be opened."""
  by_name = {model.name: model for model in models}
  if scored.get(twin.twin_of, twin) is not None:
    return twin
  group = by_name[twin.twin_of].group
  for run in models:
    if group and run.group == group and scored.get(run.name):
      return dataclasses.replace(
        twin, spec=run.spec, names=run.names, twin_of=run.name
      )
  return twin


def _has_size(network: results.ModelResults, input_size: str) -> bool:
  return tuple(network.adapter.input_size) == sizes.parse(input_size)


def _parameters(model: results.ModelResults) -> str | None:
  """Returns the digest of a network's weights, if it was recorded."""
  for result in model.results.values():
    if result.network:
      return result.network.get('parameters')
  return None


def _facts(adapter) -> results.AdapterFacts:
  return results.AdapterFacts(
    [int(side) for side in adapter.input_size],
    int(adapter.num_classes),
    adapter.preprocessing,
  )
