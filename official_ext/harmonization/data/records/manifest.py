# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads and writes manifest.json, which lists the shards of a folder.

{
  "shards": [
    {
      "bytes": 123456789,
      "file": "train-0.tfrecords",
      "records": 1000,
      "sha256": "9f86d0..."
    }
  ],
  "records": 1000,
  "source": "where the shards come from",
  ...
}
"""

from collections.abc import Sequence
import hashlib
import os
import re
from typing import Any

import tensorflow as tf

from official_ext.harmonization import files

FILE = 'manifest.json'
_FIELDS = {'file': str, 'records': int, 'bytes': int, 'sha256': str}
_CHUNK = 1 << 20


def sha256(path: str) -> str:
  """Returns the SHA-256 of a file as 64 hexadecimal digits.

  Args:
    path: local or remote.
  """
  digest = hashlib.sha256()
  with tf.io.gfile.GFile(path, 'rb') as f:
    while chunk := f.read(_CHUNK):
      digest.update(chunk)
  return digest.hexdigest()


def describe(path: str, records: int) -> dict[str, Any]:
  """Returns the entry of a shard in the manifest.

  Args:
    path: of the shard, which is complete.
    records: number of its records.

  Returns:
    `file` (its name without the folder), `records`, `bytes` and `sha256`.
  """
  return {
    'file': os.path.basename(path),
    'records': records,
    'bytes': tf.io.gfile.stat(path).length,
    'sha256': sha256(path),
  }


def write(
  directory: str, *, source: str, shards: Sequence[dict[str, Any]], **facts
):
  """Writes the manifest of a folder atomically.

  Args:
    directory: folder of the shards.
    source: where they come from, in words or as an address.
    shards: their entries, as from `describe`.
    **facts: further entries of the manifest; must survive JSON.
  """
  content = {
    **facts,
    'source': source,
    'records': sum(shard['records'] for shard in shards),
    'shards': sorted(shards, key=lambda shard: _natural(shard['file'])),
  }
  files.write_json(os.path.join(directory, FILE), content, sort_keys=True)


def read(directory: str) -> dict[str, Any]:
  """Reads the manifest of a folder.

  Args:
    directory: folder of the shards.

  Returns:
    The arguments of `write`, and the total number of records as `records`.

  Raises:
    FileNotFoundError: it does not exist.
    ValueError: it is not a manifest of this project; the message says why.
  """
  path = os.path.join(directory, FILE)
  if not tf.io.gfile.exists(path):
    raise FileNotFoundError(
      f'{path} does not exist. The command that writes the shards writes it '
      'last: run that command to its end.'
    )
  content = files.read_json(path, 'a manifest of shards')
  problem = _problem(content)
  if problem:
    raise ValueError(
      f'{path}: {problem}; expected a manifest of shards. Remove the file, or '
      'give the folder of the shards.'
    )
  return content


def count(paths: Sequence[str]) -> int | None:
  """Returns the number of records in files, from the manifests next to them.

  Args:
    paths: of the files.

  Returns:
    The number, for a progress bar; None if no manifest lists one of them.
  """
  records = {}
  for folder in {os.path.dirname(path) for path in paths}:
    try:
      shards = read(folder)['shards']
    except (ValueError, FileNotFoundError):
      return None
    records.update(
      {
        os.path.join(folder, shard['file']): shard['records']
        for shard in shards
      }
    )
  if not records.keys() >= {*paths}:
    return None
  return sum(records[path] for path in paths)


def _problem(content) -> str:
  """Returns what is wrong with the content of a manifest, or ''."""
  shards = content.get('shards') if isinstance(content, dict) else None
  if not isinstance(shards, list):
    return 'it has no list of "shards"'
  for i, shard in enumerate(shards):
    for name, kind in _FIELDS.items():
      value = shard.get(name) if isinstance(shard, dict) else None
      # In Python, True is an int.
      if not isinstance(value, kind) or isinstance(value, bool):
        return (
          f'"{name}" of shard {i} is {value!r} instead of '
          f'{"text" if kind is str else "a whole number"}'
        )
  return ''


def _natural(name: str):
  """Returns a sort key that puts train-2 before train-10."""
  return [
    (int(part), '') if part.isdigit() else (-1, part)
    for part in re.split(r'(\d+)', name)
  ]
