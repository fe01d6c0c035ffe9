"""Stored results of models: read, checked, kept, and never thrown away.

`<folder>/<name>.json` holds a model's results by experiment; a table and the
examples for pictures lie beside it. Every result is sealed by a digest, so that
an edited or incomplete one is noticed. What is not current any more is moved to
`<folder>/earlier`.
"""

from collections.abc import Iterator, Mapping
import csv
import dataclasses
import datetime
import io
import json
import os
import re
from typing import Any

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import earlier
from official_ext.harmonization.benchmark import identity as identity_lib
from official_ext.harmonization.evaluation import scores

# Files of a result, by the field that names them.
_ENDINGS = {'table': 'csv', 'examples': 'npz'}
# What has no part in the seal: where files lie, and the seal.
_UNSEALED = {*_ENDINGS, 'digest'}
_RESULT = {'settings': dict, 'scores': dict, 'warnings': list, 'table': str}
_ADAPTER = {'input_size': list, 'num_classes': int, 'preprocessing': str}
_SCORE = {f.name for f in dataclasses.fields(scores.Score)} | {
  'normalized',
  'normalized_low',
  'normalized_high',
}
_NUMBERS = ('value', 'low', 'high')

Record = dict[str, Any]


def _lacks(value: Any, fields: Mapping[str, type]) -> str:
  """Names the first field that is missing or of another type, or ''."""
  if not isinstance(value, dict):
    return 'it is not an object'
  return next(
    (
      f'"{name}" is {value.get(name)!r}'
      for name, kind in fields.items()
      if not isinstance(value.get(name), kind)
    ),
    '',
  )


def _problem(record: Any, name: str | None) -> str:
  """Says why JSON is not a record of the model, or of any; or ''."""
  problem = _lacks(record, {'name': str, 'settings': dict, 'experiments': dict})
  if problem or not record['experiments']:
    return problem
  if name is not None and record['name'] != name:
    return f'it is of {record["name"]!r}'
  problem = _lacks(record['settings'], {'spec': str}) or _lacks(
    record.get('adapter'), _ADAPTER
  )
  for result in record['experiments'].values():
    problem = problem or _lacks(result, _RESULT)
    if not problem and not all(map(_is_score, result['scores'].values())):
      problem = 'a score is incomplete'
  return problem


def _is_score(value: Any) -> bool:
  return (
    isinstance(value, dict)
    and _SCORE <= value.keys()
    and all(
      value[name] is None or isinstance(value[name], (int, float))
      for name in _NUMBERS
    )
  )


class Store:
  """The results in a folder."""

  def __init__(self, output_dir: str, folder: str):
    """Opens the store.

    Args:
      output_dir: that paths in records begin at.
      folder: of the records, below it.
    """
    self._root, self._folder = output_dir, folder

  def path(self, name: str, ending: str) -> str:
    """The path of a model's file."""
    return os.path.join(self._root, self._folder, f'{name}.{ending}')

  def _read(self, path: str, name: str | None) -> Record:
    """Reads a record; the ValueError says why it is none."""
    with tf.io.gfile.GFile(path, 'rb') as f:
      content = f.read()
    try:
      record = json.loads(content)
    except ValueError as e:
      found = f'not JSON ({e})' if content.strip() else 'empty'
      raise ValueError(
        f'{path}: {found}; expected the results of a model.'
      ) from None
    problem = _problem(record, name)
    if problem:
      raise ValueError(
        f'{path}: {problem}; expected the results of {name or "a model"}.'
      )
    for result in record['experiments'].values():
      # Old ones have no date, and their file may be written again.
      result.setdefault(
        'created', _modified(path).isoformat(timespec='seconds')
      )
    return record

  def load(self, name: str) -> tuple[Record | None, str]:
    """Reads a model's record; one that cannot be used is moved away.

    Args:
      name: of the model.

    Returns:
      The record, or None if it is missing; and a sentence on what was wrong,
      or ''.
    """
    path = self.path(name, 'json')
    if not tf.io.gfile.exists(path):
      return None, ''
    try:
      return self._read(path, name), ''
    except ValueError as e:
      stamp = _modified(path).strftime('%Y%m%d%H%M%S')
      kept = self._free(f'{name}.damaged.{stamp}', ('json',))
      tf.io.gfile.rename(path, f'{kept}.json')
      return None, f'{e} It was moved to {kept}.json.'

  def all(self, kept: bool = False) -> Iterator[tuple[str, Any]]:
    """Yields every path and its record, or a sentence on why it is none.

    Args:
      kept: whether those that are not current follow.
    """
    for folder in ('', earlier.FOLDER) if kept else ('',):
      pattern = os.path.join(self._root, self._folder, folder, '*.json')
      for path in sorted(tf.io.gfile.glob(pattern)):
        # Names of files below `earlier` say more than the model.
        name = None if folder else os.path.basename(path)[: -len('.json')]
        try:
          yield path, self._read(path, name)
        except ValueError as e:
          yield path, f'{e} Remove the file, or restore it.'
        except tf.errors.NotFoundError:
          pass  # Another process has just moved it.

  def save(self, record: Record):
    """Writes a record; removes it where no result is left in it."""
    path = self.path(record['name'], 'json')
    if record['experiments']:
      scores.write_json(path, record)
    elif tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)

  def seal(self, record: Record, experiment: str):
    """Gives a result, whose files are written, its digests."""
    result = record['experiments'][experiment]
    result['contents'] = {
      field: self._contents(result[field])
      for field in _ENDINGS
      if result[field]
    }
    result['digest'] = _digest(record, result)

  def broken_seal(self, record: Record, experiment: str) -> str:
    """Says what of a result is not as it was written.

    Args:
      record: as from `load` or `all`.
      experiment: whose result it is.

    Returns:
      A phrase, or ''. Of a result without a seal, written before there were
      any, only that the table is there.
    """
    result = record['experiments'][experiment]
    for field in _ENDINGS:
      path = result.get(field)
      if not path:
        continue
      contents = self._contents(path)
      if not contents:
        return f'{path} is missing'
      if (
        'digest' in result and result.get('contents', {}).get(field) != contents
      ):
        return f'{path} was changed after it was written'
    sealed = {'identity', 'contents', 'digest'} & result.keys()
    if sealed and result.get('digest') != _digest(record, result):
      return f'the scores of {experiment} were changed after they were written'
    return ''

  def _contents(self, path: str) -> str:
    """Digest of a file; '' where it does not exist."""
    try:
      with tf.io.gfile.GFile(os.path.join(self._root, path), 'rb') as f:
        return identity_lib.sha256(f.read())
    except tf.errors.NotFoundError:
      return ''

  def set_aside(self, record: Record, experiment: str) -> str:
    """Moves a result out of a record, to a record of its own.

    Args:
      record: which no longer has it then, here and in its file.
      experiment: whose result it is.

    Returns:
      The path of its new record.
    """
    result = dict(record['experiments'].pop(experiment))
    stamp = re.sub(r'\D', '', str(result['created']))[:14]
    kept = self._free(
      f'{record["name"]}.{experiment}.{stamp}', ('json', *_ENDINGS.values())
    )
    for field, ending in _ENDINGS.items():
      path = result.get(field)
      if path and self._contents(path):
        tf.io.gfile.rename(os.path.join(self._root, path), f'{kept}.{ending}')
        result[field] = os.path.relpath(f'{kept}.{ending}', self._root)
    scores.write_json(
      f'{kept}.json', {**record, 'experiments': {experiment: result}}
    )
    self.save(record)
    return f'{kept}.json'

  def adopt(
    self,
    record: Record,
    experiment: str,
    other: Record,
    names: Mapping[str, str],
  ):
    """Copies a result of the same network under another name.

    Args:
      record: that gets it, here and in its file.
      experiment: whose result it is.
      other: that has it.
      names: the new name by column of the table.
    """
    result = dict(other['experiments'][experiment])
    for field, ending in _ENDINGS.items():
      if not result[field]:
        continue
      with tf.io.gfile.GFile(
        os.path.join(self._root, result[field]), 'rb'
      ) as f:
        content = f.read()
      if field == 'table':
        content = _renamed(content, names)
      path = self.path(record['name'], f'{experiment}.{ending}')
      files.write(path, content)
      result[field] = os.path.relpath(path, self._root)
    record['experiments'][experiment] = result
    self.seal(record, experiment)
    self.save(record)

  def _free(self, stem: str, endings) -> str:
    """A path without ending below `earlier` that no file has."""
    folder = os.path.join(self._root, self._folder, earlier.FOLDER)
    tf.io.gfile.makedirs(folder)
    for number in range(1, 1000):
      path = os.path.join(folder, stem + (f'-{number}' if number > 1 else ''))
      if not any(tf.io.gfile.exists(f'{path}.{e}') for e in endings):
        return path
    raise ValueError(f'{folder} holds 1000 results of {stem}: remove some.')


def _digest(record: Record, result: Mapping[str, Any]) -> str:
  sealed = {k: v for k, v in result.items() if k not in _UNSEALED}
  return identity_lib.sha256(scores.json_safe([record['adapter'], sealed]))


def _modified(path: str) -> datetime.datetime:
  seconds = tf.io.gfile.stat(path).mtime_nsec / 1e9
  return datetime.datetime.fromtimestamp(seconds).astimezone()


def _renamed(content: bytes, names: Mapping[str, str]) -> bytes:
  """A table with other names in some columns, whatever else it holds."""
  reader = csv.DictReader(io.StringIO(content.decode(), newline=''))
  text = io.StringIO()
  writer = csv.DictWriter(text, reader.fieldnames or (), lineterminator='\n')
  writer.writeheader()
  for row in reader:
    writer.writerow({k: names.get(k, v) for k, v in row.items()})
  return text.getvalue().encode()
