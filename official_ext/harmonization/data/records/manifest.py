"""What a folder of shards holds: manifest.json, with counts and checksums.

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
  """Returns the SHA-256 of a file, which is read in pieces.

  Args:
    path: of the file.

  Returns:
    64 hexadecimal digits.
  """
  digest = hashlib.sha256()
  with tf.io.gfile.GFile(path, 'rb') as f:
    while chunk := f.read(_CHUNK):
      digest.update(chunk)
  return digest.hexdigest()


def describe(path: str, records: int) -> dict[str, Any]:
  """Describes one shard as the manifest does.

  Args:
    path: of the shard, which is complete.
    records: how many it holds.

  Returns:
    The shard's file (its name inside its folder), records, bytes and sha256.
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
  """Writes a folder's manifest, whole or not at all.

  Args:
    directory: of the shards.
    source: where they come from, in words or as an address.
    shards: what `describe` returned for each.
    **facts: what else is to be known of them; must survive JSON.
  """
  content = {
    **facts,
    'source': source,
    'records': sum(shard['records'] for shard in shards),
    'shards': sorted(shards, key=lambda shard: _natural(shard['file'])),
  }
  files.write_json(os.path.join(directory, FILE), content, sort_keys=True)


def read(directory: str) -> dict[str, Any]:
  """Reads a folder's manifest.

  Args:
    directory: of the shards.

  Returns:
    What `write` was given, with the number of all records under 'records'.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is not one of ours; the message says why.
  """
  path = os.path.join(directory, FILE)
  if not tf.io.gfile.exists(path):
    raise FileNotFoundError(
      f'{path} does not exist: the tool that writes the shards writes it '
      'last, so let that tool finish.'
    )
  content = files.read_json(path, 'a manifest of shards')
  problem = _problem(content)
  if problem:
    raise ValueError(
      f'{path} is not a manifest of shards, for {problem}: remove it or '
      'choose the folder that the shards are in.'
    )
  return content


def count(paths: Sequence[str]) -> int | None:
  """Returns how many records files hold, by the manifests beside them.

  Args:
    paths: of the files.

  Returns:
    The number, for a progress bar; None where a manifest does not say.
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
  found = [records.get(path) for path in paths]
  return None if None in found else sum(found)


def _problem(content) -> str:
  """Says what a manifest lacks, or nothing."""
  shards = content.get('shards') if isinstance(content, dict) else None
  if not isinstance(shards, list):
    return 'it has no list of "shards"'
  for i, shard in enumerate(shards):
    for name, kind in _FIELDS.items():
      value = shard.get(name) if isinstance(shard, dict) else None
      # JSON's true is an int to Python.
      if not isinstance(value, kind) or isinstance(value, bool):
        return (
          f'"{name}" of shard {i} is {value!r} instead of '
          f'{"text" if kind is str else "a whole number"}'
        )
  return ''


def _natural(name: str):
  """Orders train-2 before train-10."""
  return [
    (int(part), '') if part.isdigit() else (-1, part)
    for part in re.split(r'(\d+)', name)
  ]
