"""Which stored results are still those of today."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import tqdm

from official_ext.harmonization.benchmark import identity as identity_lib
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.benchmark.adapters import spec as spec_lib
from official_ext.harmonization.evaluation import scores

# Settings that change nothing but how a result is found or shown.
_PRESENTATION = {'ceiling', 'input_path', 'spec'}
_UNVERIFIED = (
  'unverified: written before results recorded what they depend '
  'on (--rescore scores it again)'
)


class Reuse:
  """Compares what is stored with what would be computed now.

  Attributes:
    notes: sentences on what was found, in the order of finding.
  """

  def __init__(
    self,
    store: stored_results.Store,
    experiments: Sequence[protocol.Experiment],
    digests: identity_lib.Digests,
    rescore: bool,
  ):
    """Identifies the data.

    Args:
      store: of the results.
      experiments: that are asked for.
      digests: of files' contents.
      rescore: whether nothing of them is used again.
    """
    self._store, self._digests, self._rescore = store, digests, rescore
    self._experiments = {e.name: e for e in experiments}
    self._settings = {
      e.name: scores.json_safe(e.settings()) for e in experiments
    }
    self._identities = {
      e.name: scores.json_safe(e.identity(digests)) for e in experiments
    }
    self._begun = identity_lib.now()
    self.notes: list[str] = []

  def note(self, sentence: str):
    """Says and keeps a sentence."""
    tqdm.tqdm.write(sentence)
    self.notes.append(sentence)

  def identity(
    self, experiment: str, spec: str, network: Mapping[str, Any]
  ) -> dict[str, Any]:
    """What a result would depend on if it were computed now.

    Args:
      experiment: its name.
      spec: of the model.
      network: of `identity.network`.

    Returns:
      The identity.
    """
    return {
      'network': network,
      **self._identities[experiment],
      'versions': identity_lib.versions(spec),
    }

  def current(
    self,
    record: dict[str, Any],
    network: Mapping[str, Any],
    subject: str,
    named: Container[str],
  ) -> dict[str, Any]:
    """Finds the results of a model that need no scoring.

    Args:
      record: of the model, without results.
      network: of `identity.network`.
      subject: the model's name in tables of trials.
      named: the models that are asked for, which keep their results to
        themselves.

    Returns:
      The record with its results. Those that are of something else were moved
      to `models/earlier`.
    """
    known, problem = self._store.load(record['name'])
    if problem:
      self.note(problem)
    for name in list(known['experiments'] if known else ()):
      reason = self._stale(known, name, record, network)
      if reason:
        kept = self._store.set_aside(known, name)
        self.note(
          f'{record["name"]}: the earlier result of {name} is kept as '
          f'{kept} and not used: {reason}.'
        )
    if known:
      record['experiments'] = known['experiments']
    if not self._rescore:
      self._adopt(record, network, subject, named)
    return record

  def _stale(self, known, name, record, network) -> str:
    """Says why a stored result is not one of today, or ''."""
    broken = self._store.broken_seal(known, name)
    if broken:
      return broken
    result = known['experiments'][name]
    if name in self._experiments and self._rescore:
      return '--rescore was given'
    if 'identity' not in result:
      return self._differs_unverified(known, name, record)
    if name not in self._experiments:  # Only the network is known today.
      return identity_lib.differences(
        {'network': result['identity'].get('network')}, {'network': network}
      )
    return self._differences(
      result['identity'],
      self.identity(name, record['settings']['spec'], network),
    )

  def _differs_unverified(self, known, name, record) -> str:
    """As `_stale`, of a result that does not say what it depends on."""
    settings = [
      (known['settings'], record['settings']),
      (known['adapter'], record['adapter']),
      (_plain_spec(known), _plain_spec(record)),
    ]
    if name in self._settings:
      settings.append(
        (known['experiments'][name]['settings'], self._settings[name])
      )
    return '; '.join(filter(None, (_differ(*pair) for pair in settings)))

  def _differences(self, before, now) -> str:
    """As `identity.differences`, with the files whose contents changed."""
    found = identity_lib.differences(before, now)
    changed = self._digests.changed
    if changed and before.get('data') != now['data']:
      more = f' and {len(changed) - 3} more' if changed[3:] else ''
      found += f' (other contents: {", ".join(changed[:3])}{more})'
    return found

  def _adopt(self, record, network, subject, named):
    """Takes over results of the same network under another name or date."""
    missing = [
      name for name in self._experiments if name not in record['experiments']
    ]
    for path, other in self._store.all(kept=True) if missing else ():
      if (
        isinstance(other, str)
        or other['name'] in named
        and (other['name'] != record['name'])
      ):
        continue
      for name in [n for n in missing if n in other['experiments']]:
        if self._stale(other, name, record, network):
          continue
        self._store.adopt(
          record, name, other, {'model': record['name'], 'subj': subject}
        )
        missing.remove(name)
        self.note(
          f'{record["name"]}: {name} is that of {path}, the same '
          'network, data and settings.'
        )

  def presented(
    self, record: Mapping[str, Any], name: str, label: str = ''
  ) -> dict[str, Any]:
    """A stored result as it is shown today.

    Args:
      record: that has it.
      name: of the experiment.
      label: where it is from; by default, an earlier run.

    Returns:
      The result with today's ceiling, and `earlier`, where it is from.
    """
    result = dict(record['experiments'][name])
    result['scores'] = self._experiments[name].present(result['scores'])
    label = label or (
      f'from an earlier run of {identity_lib.date(result["created"])}'
    )
    if 'identity' in result:
      result['settings'] = self._settings[name]
    else:
      label += f', {_UNVERIFIED}'
    return {**result, 'earlier': label}

  def others(self, scored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Finds results of other models in the folder, on the same data.

    Args:
      scored: records of the models that were opened, by name; None for those
        that could not be, which are not shown either.

    Returns:
      The records. What is not comparable is named in `notes`.
    """
    networks = [_network(record) for record in scored.values() if record]
    found = []
    for path, record in self._store.all():
      if isinstance(record, str):
        self.note(record)
        continue
      network = _network(record)
      if (
        record['name'] in scored
        or network
        and any(not identity_lib.differences(network, n) for n in networks)
      ):
        continue  # One that is shown, or the same under its former name.
      shown = {}
      for name in self._experiments:
        if name not in record['experiments']:
          continue
        reason = self._stale_unopened(record, name)
        if reason:
          self.note(f'{path}: {name} is not shown: {reason}.')
          continue
        created = record['experiments'][name]['created']
        date = identity_lib.date(created)
        shown[name] = self.presented(
          record,
          name,
          f'from another process, of {date}'
          if created >= self._begun
          else f'from an earlier run of {date}; '
          'the network was not opened this time',
        )
      if shown:
        found.append({**record, 'experiments': shown})
    return found

  def _stale_unopened(self, record, name) -> str:
    """As `_stale`, of a network that is not opened."""
    broken = self._store.broken_seal(record, name)
    if broken:
      return broken
    result = record['experiments'][name]
    if 'identity' not in result:
      return _differ(result['settings'], self._settings[name])
    now = self.identity(
      name, record['settings']['spec'], result['identity'].get('network')
    )
    return self._differences(result['identity'], now)


def _plain_spec(record) -> dict[str, Any]:
  """A record's SPEC without the name that it gives."""
  try:
    kind, target, options = spec_lib.parse(record['settings']['spec'])
  except ValueError:
    return {'model': record['settings']['spec']}
  return {
    'model': f'{kind}:{target}',
    **{k: v for k, v in options.items() if k != 'name'},
  }


def _network(record) -> dict[str, Any]:
  """The network behind a record's results, as an identity; {} if unknown."""
  for result in record['experiments'].values():
    if 'identity' in result:
      return {'network': result['identity'].get('network')}
  return {}


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """Compares settings of a time when there were no identities."""
  both = (before.keys() & now.keys()) - _PRESENTATION
  return identity_lib.differences(
    {k: before[k] for k in both}, {k: now[k] for k in both}
  )
