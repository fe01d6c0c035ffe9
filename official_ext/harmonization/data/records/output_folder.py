"""A folder that is being built: whose it is, and what it is going to hold.

`.build` in it holds what only the building needs: the settings, a note of each
shard that is whole, and a lock.
"""

from collections.abc import Iterable, Mapping
import contextlib
import fcntl
import json
import os
import re
from typing import Any

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_files

_NOTES = '.build'
_SETTINGS = 'settings.json'
_LISTS = 'lists.json'


def working_file(directory: str, name: str) -> str:
  """Returns the path of a file that only the building needs.

  Args:
    directory: of the shards.
    name: of the file.

  Returns:
    Its path, in a folder that exists.
  """
  folder = os.path.join(directory, _NOTES)
  tf.io.gfile.makedirs(folder)
  return os.path.join(folder, name)


def note(directory: str, shard: str) -> str:
  """Returns the path of the note of a shard."""
  return os.path.join(directory, _NOTES, f'{shard}.json')


def claimed(directory: str) -> dict[str, Any]:
  """Returns the settings that a folder was claimed with; empty if it is free.

  Args:
    directory: of the shards.
  """
  path = os.path.join(directory, _NOTES, _SETTINGS)
  return (
    files.read_json(path, 'the settings of a build')
    if tf.io.gfile.exists(path)
    else {}
  )


def claim(
  directory: str,
  shards: Iterable[str],
  settings: Mapping[str, Any],
  lists: Mapping[str, Mapping[str, Any]] | None = None,
  defaults: Mapping[str, Any] | None = None,
):
  """Says what a folder is going to hold, or that it is not free for that.

  A folder in which no record was made is free.

  Args:
    directory: of the shards.
    shards: their names.
    settings: what their content depends on; must survive JSON.
    lists: for settings that are checksums, what they sum up: what tells the
      contents apart, by name. It is kept to name what has changed.
    defaults: values of settings that a folder of an earlier version lacks.

  Raises:
    ValueError: the folder holds something else.
  """
  # As JSON gives it back.
  settings = json.loads(json.dumps(settings))
  lists = json.loads(json.dumps(lists or {}))
  found = claimed(directory)
  if found and not _holds_records(directory):
    _release(directory)
  elif found:
    files.require_equal(
      directory,
      {**(defaults or {}), **found},
      settings,
      'Give the same settings to resume, choose another --output_dir, or '
      'remove this one.',
      expected='the settings of the records in this folder',
      describe=lambda differ: _in_words(directory, differ, lists),
    )
    return
  for file in (*shards, manifest.FILE):
    if tf.io.gfile.exists(os.path.join(directory, file)):
      raise ValueError(
        f'{directory} holds {file}, which was not made by this command. '
        'Choose another --output_dir.'
      )
  files.write_json(working_file(directory, _LISTS), lists)
  files.write_json(working_file(directory, _SETTINGS), settings, sort_keys=True)


def _in_words(
  directory: str,
  differ: Mapping[str, tuple],
  lists: Mapping[str, Mapping[str, Any]],
) -> str:
  """Names what differs, and for a checksum what it sums up."""
  path = os.path.join(directory, _NOTES, _LISTS)
  # A folder of an earlier version has no lists.
  before = files.read_json(path) if tf.io.gfile.exists(path) else {}
  parts = []
  for name, values in differ.items():
    key = name.partition('.')[0]
    if key not in lists:
      parts.append(
        f'{name} has changed'
        if _is_checksum(values[1])
        else files.in_words({name: values})
      )
      continue
    changes = files.differences(before.get(key, {}), lists[key])
    named = files.changed_names(changes) if key in before else ''
    parts.append(f'{key} has changed' + f' ({named})' * bool(named))
  return '; '.join(parts)


def _is_checksum(value: Any) -> bool:
  return isinstance(value, str) and bool(re.fullmatch('[0-9a-f]{64}', value))


def _holds_records(directory: str) -> bool:
  """Whether a run made anything in a folder that it claimed."""
  notes = {
    name.removesuffix('.json'): os.path.join(directory, _NOTES, name)
    for name in tf.io.gfile.listdir(os.path.join(directory, _NOTES))
    if name.endswith('.json') and name not in (_SETTINGS, _LISTS)
  }
  for name in tf.io.gfile.listdir(directory):
    if name in notes:
      if files.read_json(notes[name])['shard']['records']:
        return True
    elif not record_files.is_side_file(name):
      return True  # Pictures, or a shard whose note is yet to be written.
  return False


def _release(directory: str):
  """Frees a folder in which no record was made.

  What such a run wrote is removed: shards, their notes and the manifest are
  those of other settings, or of an input that has been repaired since.

  Args:
    directory: claimed.
  """
  folder = os.path.join(directory, _NOTES)
  for name in tf.io.gfile.listdir(folder):
    if not name.endswith('.json'):
      continue  # The lock, and tables.
    if name not in (_SETTINGS, _LISTS):
      shard = os.path.join(directory, name.removesuffix('.json'))
      if tf.io.gfile.exists(shard):
        tf.io.gfile.remove(shard)
    tf.io.gfile.remove(os.path.join(folder, name))
  path = os.path.join(directory, manifest.FILE)
  if tf.io.gfile.exists(path):
    tf.io.gfile.remove(path)


@contextlib.contextmanager
def alone(directory: str):
  """Keeps a second run on this machine out of a folder.

  Args:
    directory: of the shards, local or not; a folder elsewhere is not locked.

  Yields:
    Nothing.

  Raises:
    ValueError: another run is at work there.
  """
  if '://' in directory:
    working_file(directory, '')
    yield
    return
  # The system lets go of it when the process ends, however it ends.
  with open(working_file(directory, 'lock'), 'w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'Another run is writing to {directory}. Wait for it to '
        'end, or choose another --output_dir.'
      ) from None
    for folder in (directory, os.path.join(directory, _NOTES)):
      files.remove_partial(folder)
    yield
