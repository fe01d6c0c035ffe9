# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Decides which stored results are still current."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import tqdm

from official_ext.harmonization.benchmark import identity as identity_lib
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.benchmark.adapters import spec as spec_lib
from official_ext.harmonization.evaluation import scores

# Settings that only affect how a result is found or shown.
_PRESENTATION = {'ceiling', 'input_path', 'spec'}
# Kinds of rows, which a protocol may measure on different images.
_NETWORK, _TWIN, _CONTROL = 'network', 'random twin', 'control'
_UNVERIFIED = (
  'unverified, because the version that wrote it did not record what it '
  'depends on (--rescore scores it again)'
)


class Reuse:
  """Compares stored results with what would be computed now.

  Attributes:
    notes: sentences on what was found, in order.
  """

  def __init__(
    self,
    store: stored_results.Store,
    protocols: Sequence[protocol_lib.Protocol],
    digests: identity_lib.Digests,
    rescore: bool,
  ):
    """Identifies the data.

    Args:
      store: of the results.
      protocols: to be measured.
      digests: of files' contents.
      rescore: whether no result of these protocols is used again.

    Raises:
      protocol.BadDataError: the data of a protocol cannot be read.
    """
    self._store, self._digests, self._rescore = store, digests, rescore
    self._protocols = {p.name: p for p in protocols}
    # By name and kind of row.
    by_kind = {
      (p.name, kind): found
      for p in protocols
      for kind, found in (
        (_NETWORK, p),
        (_TWIN, p.for_random_twins()),
        (_CONTROL, p.for_controls()),
      )
    }
    self._settings = {
      key: scores.json_safe(p.settings()) for key, p in by_kind.items()
    }
    self._identities = {
      key: scores.json_safe(p.identity(digests)) for key, p in by_kind.items()
    }
    self._begun = identity_lib.now()
    self.notes: list[str] = []

  def note(self, sentence: str):
    """Prints a sentence and adds it to `notes`."""
    tqdm.tqdm.write(sentence)
    self.notes.append(sentence)

  def identity(
    self,
    protocol: str,
    model: results.ModelResults,
    network: Mapping[str, Any] | None,
  ) -> dict[str, Any]:
    """Returns what a result would depend on if it were computed now.

    Args:
      protocol: its name.
      model: its SPEC, and whether it is a random twin or a control, are used.
      network: from `identity.network`.

    Returns:
      The identity.
    """
    return {
      'network': network,
      **self._identities[protocol, _kind(model)],
      'versions': identity_lib.versions(model.spec),
    }

  def add_current(
    self,
    model: results.ModelResults,
    network: Mapping[str, Any],
    subject: str,
    named: Mapping[str, str],
  ):
    """Adds the stored results that are current to a model.

    Results that are not current are moved to `models/earlier`.

    Args:
      model: without results.
      network: from `identity.network`.
      subject: the model's name in tables of trials.
      named: SPECs of the models of this command by name; results that these
        have stored are not copied to others.
    """
    stored, problem = self._store.load(model.name)
    if problem:
      self.note(problem)
    if stored:
      for name in list(stored.results):
        reason = self._stale(stored, name, model, network)
        if reason:
          kept = self._store.set_aside(stored, name)
          self.note(
            f'{model.name}: the earlier result of {name} is not used and was '
            f'moved to {kept}: {reason}.'
          )
      model.results = stored.results
    if not self._rescore:
      self._adopt(model, network, subject, named)

  def _stale(
    self,
    stored: results.ModelResults,
    name: str,
    model: results.ModelResults,
    network: Mapping[str, Any],
  ) -> str:
    """Says why a stored result is not current, or ''."""
    broken = self._store.broken_seal(stored, name)
    if broken:
      return broken
    result = stored.results[name]
    if name in self._protocols and self._rescore:
      return '--rescore was given'
    if result.identity is None:
      return self._differs_unverified(stored, name, model)
    if name not in self._protocols:  # Only the network can be compared.
      return identity_lib.differences(
        {'network': result.network}, {'network': network}
      )
    return self._differences(
      result.identity, self.identity(name, model, network)
    )

  def _differs_unverified(self, stored, name, model) -> str:
    """Works as `_stale` for a result that does not record its identity."""
    pairs = [
      (stored.settings, model.settings),
      (stored.adapter.to_json(), model.adapter.to_json()),
      (_unnamed_spec(stored.spec), _unnamed_spec(model.spec)),
    ]
    if name in self._protocols:
      now = self._settings[name, _kind(model)]
      pairs.append((stored.results[name].settings, now))
    return '; '.join(filter(None, (_differ(*pair) for pair in pairs)))

  def _differences(self, before, now) -> str:
    """Describes differences, and lists files with changed contents."""
    found = identity_lib.differences(before, now)
    changed = self._digests.changed
    if changed and before.get('data') != now['data']:
      more = f' and {len(changed) - 3} more' if changed[3:] else ''
      found += f' (other contents: {", ".join(changed[:3])}{more})'
    return found

  def _adopt(self, model, network, subject, named):
    """Copies results of the same network under another name or date."""
    missing = [name for name in self._protocols if name not in model.results]
    for path, other in self._store.all(kept=True) if missing else ():
      if isinstance(other, str):
        continue
      # Unless the name belonged to another network when it was stored.
      if other.name != model.name and _unnamed_spec(
        other.spec
      ) == _unnamed_spec(named.get(other.name, '')):
        continue
      for name in list(missing):
        source = self._same(other, name, model, network)
        if not source:
          continue
        names = {'model': model.name, 'subj': subject}
        self._store.adopt(model, name, other, names, source)
        missing.remove(name)
        if not model.is_control:  # Every explainer shares its controls.
          self.note(
            f'{model.name}: the result of {name} is taken from {path}, which '
            'has the same network, data and settings.'
          )

  def _same(self, other, name, model, network) -> str:
    """Returns the protocol whose result would be that of `name`, or ''.

    An explainer that was not the first of an earlier command may be the first
    of this one, so that variants of one protocol can have the same result.
    """
    if name in other.results and not self._stale(other, name, model, network):
      return name
    family = protocol_names.family(name)
    for source, result in other.results.items():
      if source != name and protocol_names.family(source) == family:
        if not result.identity or self._store.broken_seal(other, source):
          continue
        now = self.identity(name, model, network)
        if not self._differences(result.identity, now):
          return source
    return ''

  def share(
    self,
    model: results.ModelResults,
    name: str,
    network: Mapping[str, Any],
  ) -> str:
    """Copies a result of the same model that another protocol would repeat.

    Controls do not depend on the explainer.

    Args:
      model: that has results.
      name: of the protocol that it has no result of.
      network: from `identity.network`.

    Returns:
      The protocol whose result was copied; '' if none can be.
    """
    source = self._same(model, name, model, network)
    if source:
      self._store.adopt(model, name, model, {}, source)
    return source

  def presented(
    self, model: results.ModelResults, name: str, origin: str = ''
  ) -> results.StoredResult:
    """Returns a stored result as the report shows it.

    Args:
      model: that has the result.
      name: of the protocol.
      origin: where the result comes from; by default, an earlier run.

    Returns:
      The result with the current ceiling and with its origin.
    """
    result = model.results[name]
    origin = origin or (
      f'from an earlier run of {identity_lib.date(result.created)}'
    )
    settings = result.settings
    if result.identity is None:
      origin += f', {_UNVERIFIED}'
    else:
      settings = self._settings[name, _kind(model)]
    return dataclasses.replace(
      result,
      scores=self._protocols[name].present(result.scores),
      settings=settings,
      origin=origin,
    )

  def others(
    self, scored: Mapping[str, results.ModelResults | None]
  ) -> list[results.ModelResults]:
    """Finds results of other models in the folder, on the same data.

    Args:
      scored: models that were opened, by name; None for those that could not
        be opened, which are not shown either.

    Returns:
      The models. `notes` lists the results that are not comparable.
    """
    networks = [_network(model) for model in scored.values() if model]
    found = []
    for path, model in self._store.all():
      if isinstance(model, str):
        self.note(model)
        continue
      network = _network(model)
      if model.name in scored or any(
        network and not identity_lib.differences(network, other)
        for other in networks
      ):
        continue  # It is shown already, perhaps under another name.
      shown = {}
      for name in self._protocols:
        if name not in model.results:
          continue
        reason = self._stale_unopened(model, name)
        if reason:
          self.note(f'{path}: {name} is not shown: {reason}.')
          continue
        created = model.results[name].created
        date = identity_lib.date(created)
        shown[name] = self.presented(
          model,
          name,
          f'from another process, of {date}'
          if created >= self._begun
          else f'from an earlier run of {date}; the network was not opened '
          'this time',
        )
      if shown:
        found.append(dataclasses.replace(model, results=shown))
    return found

  def _stale_unopened(self, model: results.ModelResults, name: str) -> str:
    """Works as `_stale` for a network that is not opened."""
    broken = self._store.broken_seal(model, name)
    if broken:
      return broken
    result = model.results[name]
    if result.identity is None:
      return _differ(result.settings, self._settings[name, _kind(model)])
    return self._differences(
      result.identity, self.identity(name, model, result.network)
    )


def _kind(model: results.ModelResults) -> str:
  if model.twin_of is not None:
    return _TWIN
  return _CONTROL if model.is_control else _NETWORK


def _unnamed_spec(spec: str) -> dict[str, Any]:
  """Returns a SPEC without the names of the model and of its group."""
  try:
    kind, target, options = spec_lib.parse(spec)
  except ValueError:
    return {'model': spec}
  names = ('name', spec_lib.GROUP)
  options = {name: v for name, v in options.items() if name not in names}
  return {'model': f'{kind}:{target}', **options}


def _network(model: results.ModelResults) -> dict[str, Any]:
  """Returns the network behind a model's results as an identity, or {}."""
  for result in model.results.values():
    if result.identity is not None:
      return {'network': result.network}
  return {}


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """Compares settings of results that have no identity."""
  both = (before.keys() & now.keys()) - _PRESENTATION
  return identity_lib.differences(
    {k: before[k] for k in both}, {k: now[k] for k in both}
  )
