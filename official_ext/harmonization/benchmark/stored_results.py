# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Stores results of models: one file per model, checked when it is read.

`<folder>/<name>.json` holds a model's results by protocol, next to the tables
and the examples for panels. A digest seals each result, so that an edited or
incomplete one is noticed. A result that is no longer current is moved to
`<folder>/earlier`; nothing is deleted.
"""

from collections.abc import Iterator, Mapping
import csv
import dataclasses
import datetime
import io
import json
import os
import re

import numpy as np
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import earlier
from official_ext.harmonization.benchmark import identity as identity_lib
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.evaluation import scores

# Extensions of a result's files, by the field that holds their path.
_EXTENSIONS = {'table': 'csv', 'examples': 'npz'}
# The seal does not cover the paths of files and the seal itself.
_UNSEALED = {*_EXTENSIONS, 'digest', 'earlier'}


class Store:
  """The results in a folder."""

  def __init__(self, output_dir: str, folder: str):
    """Opens the store.

    Args:
      output_dir: that paths in results start from.
      folder: of the models' files, relative to `output_dir`.
    """
    self._root, self._folder = output_dir, folder

  def path(self, name: str, extension: str) -> str:
    """Returns the path of a model's file."""
    return os.path.join(self._root, self._folder, f'{name}.{extension}')

  def _read(self, path: str, name: str | None) -> results.ModelResults:
    """Reads a model's file; raises ValueError if it is not one."""
    with tf.io.gfile.GFile(path, 'rb') as f:
      content = f.read()
    try:
      decoded = json.loads(content)
    except ValueError as e:
      found = f'not JSON ({e})' if content.strip() else 'empty'
      raise ValueError(
        f'{path}: {found}; expected the results of a model.'
      ) from None
    # The oldest results have no date; the time of the file replaces it.
    created = _modified(path).isoformat(timespec='seconds')
    try:
      return results.ModelResults.from_json(decoded, created, name)
    except ValueError as e:
      raise ValueError(
        f'{path}: {e}; expected the results of {name or "a model"}.'
      ) from None

  def load(self, name: str) -> tuple[results.ModelResults | None, str]:
    """Reads a model's results; moves a file away that cannot be used.

    Args:
      name: of the model.

    Returns:
      The results or None, and a sentence on what was wrong,
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

  def all(
    self, kept: bool = False
  ) -> Iterator[tuple[str, results.ModelResults | str]]:
    """Yields the path and the content of each file.

    Args:
      kept: whether results that are no longer current follow.

    Yields:
      A path and the model's results, or a sentence on why they cannot be read.
    """
    for folder in ('', earlier.FOLDER) if kept else ('',):
      pattern = os.path.join(self._root, self._folder, folder, '*.json')
      for path in sorted(tf.io.gfile.glob(pattern)):
        # File names below `earlier` contain more than the model's name.
        name = None if folder else os.path.basename(path)[: -len('.json')]
        try:
          yield path, self._read(path, name)
        except ValueError as e:
          yield path, f'{e} Remove or restore the file.'
        except tf.errors.NotFoundError:
          pass  # Another process has just moved it.

  def save(self, model: results.ModelResults):
    """Writes a model's file; removes it if no result is left."""
    path = self.path(model.name, 'json')
    if model.results:
      scores.write_json(path, model.to_json())
    elif tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)

  def seal(self, model: results.ModelResults, protocol: str):
    """Adds digests to a result whose files are written."""
    result = model.results[protocol]
    contents = {
      field: self._digest_of(path) for field, path in _paths(result).items()
    }
    result = dataclasses.replace(result, contents=contents)
    model.results[protocol] = dataclasses.replace(
      result, digest=_digest(model, result)
    )

  def broken_seal(self, model: results.ModelResults, protocol: str) -> str:
    """Says how a result differs from what was written.

    Args:
      model: as from `load` or `all`.
      protocol: whose result is checked.

    Returns:
      A phrase, or ''. A result without a seal, written before there were
      seals, is only checked for its files.
    """
    result = model.results[protocol]
    for field, path in _paths(result).items():
      digest = self._digest_of(path)
      if not digest:
        return f'{path} is missing'
      if result.digest and (result.contents or {}).get(field) != digest:
        return f'{path} was changed after it was written'
    is_sealed = any((result.identity, result.contents, result.digest))
    if is_sealed and result.digest != _digest(model, result):
      return f'the scores of {protocol} were changed after they were written'
    return ''

  def _digest_of(self, path: str) -> str:
    """Returns the digest of a file; '' if it does not exist."""
    try:
      with tf.io.gfile.GFile(os.path.join(self._root, path), 'rb') as f:
        return identity_lib.sha256(f.read())
    except tf.errors.NotFoundError:
      return ''

  def set_aside(self, model: results.ModelResults, protocol: str) -> str:
    """Moves a result to a file below `earlier`.

    Args:
      model: that loses the result, here and in its file.
      protocol: whose result is moved.

    Returns:
      The path of the new file.
    """
    result = model.results.pop(protocol)
    stamp = re.sub(r'\D', '', result.created)[:14]
    kept = self._free(
      f'{model.name}.{protocol}.{stamp}', ('json', *_EXTENSIONS.values())
    )
    for field, path in _paths(result).items():
      if self._digest_of(path):
        target = f'{kept}.{_EXTENSIONS[field]}'
        tf.io.gfile.rename(os.path.join(self._root, path), target)
        result = dataclasses.replace(
          result, **{field: os.path.relpath(target, self._root)}
        )
    moved = dataclasses.replace(model, results={protocol: result})
    scores.write_json(f'{kept}.json', moved.to_json())
    self.save(model)
    return f'{kept}.json'

  def adopt(
    self,
    model: results.ModelResults,
    protocol: str,
    other: results.ModelResults,
    names: Mapping[str, str],
    source: str = '',
  ):
    """Copies a result of the same network under another name.

    Args:
      model: that receives the result, here and in its file.
      protocol: whose result is copied.
      other: that has the result.
      names: the new name by column of the table.
      source: name of the protocol in `other`; by default, the same.
    """
    result = other.results[source or protocol]
    for field, old in _paths(result).items():
      with tf.io.gfile.GFile(os.path.join(self._root, old), 'rb') as f:
        content = f.read()
      if field == 'table':
        content = _renamed(content, names)
      path = self.path(model.name, f'{protocol}.{_EXTENSIONS[field]}')
      files.write(path, content)
      result = dataclasses.replace(
        result, **{field: os.path.relpath(path, self._root)}
      )
    model.results[protocol] = result
    self.seal(model, protocol)
    self.save(model)

  def _free(self, stem: str, extensions) -> str:
    """Returns an unused path below `earlier`, without extension."""
    folder = os.path.join(self._root, self._folder, earlier.FOLDER)
    tf.io.gfile.makedirs(folder)
    for number in range(1, 1000):
      path = os.path.join(folder, stem + (f'-{number}' if number > 1 else ''))
      if not any(tf.io.gfile.exists(f'{path}.{e}') for e in extensions):
        return path
    raise ValueError(
      f'{folder}: 1000 results of {stem}; expected fewer. Remove some.'
    )


def write_examples(path: str, examples: results.Examples):
  """Writes the pixels of panels atomically: images uint8, maps float16."""
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer,
    images=examples.images,
    human=_scaled(examples.human),
    model=_scaled(examples.model),
  )
  files.write(path, buffer.getvalue())


def read_examples(path: str) -> results.Examples | None:
  """Reads what `write_examples` wrote.

  Args:
    path: of the npz file.

  Returns:
    The examples, each map on its own scale; None if the file does not exist.
  """
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path, 'rb') as f:
    content = np.load(io.BytesIO(f.read()), allow_pickle=False)
  return results.Examples(content['images'], content['human'], content['model'])


def read_facts(path: str, count: int) -> list[results.ImageFacts]:
  """Reads what panels show besides maps.

  Args:
    path: of the table of images, or ''.
    count: number of its first images.

  Returns:
    The facts of these images; none if the table does not exist. Tables of early
    versions lack `own` and `outward`.
  """
  if not path or not tf.io.gfile.exists(path):
    return []
  kinds = {'label': int, 'prediction': int, 'own': float, 'outward': float}
  return [
    results.ImageFacts(
      **{name: kind(row[name]) for name, kind in kinds.items() if row.get(name)}
    )
    for row in scores.read_rows(path)[:count]
  ]


def _scaled(maps: np.ndarray) -> np.ndarray:
  """Divides each map (B, H, W) by its largest magnitude; NaN becomes 0."""
  maps = np.nan_to_num(maps.astype(np.float64), posinf=0.0, neginf=0.0)
  largest = np.abs(maps).max((1, 2), keepdims=True)
  return (maps / np.where(largest > 0, largest, 1.0)).astype(np.float16)


def _paths(result: results.StoredResult) -> dict[str, str]:
  """Returns the paths of a result's files by field."""
  paths = {'table': result.table, 'examples': result.examples}
  return {field: path for field, path in paths.items() if path}


def _digest(model: results.ModelResults, result: results.StoredResult) -> str:
  content = result.to_json()
  sealed = {k: v for k, v in content.items() if k not in _UNSEALED}
  return identity_lib.sha256([model.adapter.to_json(), sealed])


def _modified(path: str) -> datetime.datetime:
  seconds = tf.io.gfile.stat(path).mtime_nsec / 1e9
  return datetime.datetime.fromtimestamp(seconds).astimezone()


def _renamed(content: bytes, names: Mapping[str, str]) -> bytes:
  """Replaces the values of some columns of a CSV table."""
  reader = csv.DictReader(io.StringIO(content.decode(), newline=''))
  text = io.StringIO()
  writer = csv.DictWriter(text, reader.fieldnames or (), lineterminator='\n')
  writer.writeheader()
  for row in reader:
    writer.writerow({k: names.get(k, v) for k, v in row.items()})
  return text.getvalue().encode()
