# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Claims an output folder for certain settings, and locks it.

Its subfolder `.build` holds what only the building process needs: the settings,
a note about each complete shard, and a lock.
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
  """Returns the path of a file in `.build`, and creates that folder.

  Args:
    directory: output folder.
    name: of the file.
  """
  folder = os.path.join(directory, _NOTES)
  tf.io.gfile.makedirs(folder)
  return os.path.join(folder, name)


def note(directory: str, shard: str) -> str:
  """Returns the path of the note about a shard."""
  return os.path.join(directory, _NOTES, f'{shard}.json')


def claimed(directory: str) -> dict[str, Any]:
  """Returns the settings that a folder was claimed for; empty if unclaimed.

  Args:
    directory: output folder.
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
  """Claims an output folder, or resumes in it if the settings are equal.

  A folder in which no record was made can be claimed for other settings.

  Args:
    directory: output folder.
    shards: names of the files that will be written there.
    settings: everything that their content depends on; must survive JSON.
    lists: for settings that are checksums, the items that each summarizes, by
      name. They are saved to report which item has changed.
    defaults: values of settings that earlier versions did not save.

  Raises:
    ValueError: the folder holds results with other settings, or other files.
  """
  # Tuples become lists, as in the saved settings.
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
      'remove this folder.',
      expected='the settings of the records in this folder',
      describe=lambda differ: _in_words(directory, differ, lists or {}),
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
  """Describes differing settings, and the changed items of a checksum."""
  path = os.path.join(directory, _NOTES, _LISTS)
  # Earlier versions did not save the items.
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
  """Whether a claimed folder contains results."""
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
      return True  # An image, or a shard whose note is not written yet.
  return False


def _release(directory: str):
  """Removes the files of a run that made no record.

  Its empty shards, their notes and the manifest belong to other settings, or to
  an input that has been repaired since.

  Args:
    directory: output folder, which is claimed.
  """
  folder = os.path.join(directory, _NOTES)
  for name in tf.io.gfile.listdir(folder):
    if not name.endswith('.json'):
      continue  # The lock, or a table of clicks.
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
  """Locks an output folder against other processes of this machine.

  Args:
    directory: output folder. Remote folders (gs://) are not locked.

  Raises:
    ValueError: another process has locked it.
  """
  if '://' in directory:
    working_file(directory, '')
    yield
    return
  # The operating system releases the lock when the process ends in any way.
  with open(working_file(directory, 'lock'), 'w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'{directory}: another process is writing to this folder. Wait until '
        'it ends, or choose another --output_dir.'
      ) from None
    for folder in (directory, os.path.join(directory, _NOTES)):
      files.remove_partial(folder)
    yield
