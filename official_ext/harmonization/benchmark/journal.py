# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Stores the finished part of a result, so that a killed process can resume.

The first line of the file is the identity of the result, each further line a
batch. A killed process loses at most the batch that it was computing.
"""

from collections.abc import Sequence
import json
import time
from typing import Any

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import identity as identity_lib

# Seconds between writes to a bucket, where appending rewrites the whole file.
_REMOTE_INTERVAL = 60.0


class Journal:
  """The items of the finished images, in order.

  Attributes:
    items: values that JSON can hold, one per image.
    begun: when the first item was computed.
    note: why stored items are not used, or ''.
  """

  def __init__(self, path: str, identity: dict[str, Any]):
    """Opens a journal; discards one with another identity.

    Args:
      path: of the file.
      identity: of the result.
    """
    self._path = path
    self.items: list[Any] = []
    self.begun, self.note = identity_lib.now(), ''
    self._waiting: list[str] = []
    if tf.io.gfile.exists(path):
      self._read(identity)
    lines = [json.dumps({'identity': identity, 'begun': self.begun})]
    if self.items:
      lines.append(json.dumps({'start': 0, 'items': self.items}))
    files.write(path, '\n'.join([*lines, '']))
    self._written = time.monotonic()

  def _read(self, identity):
    """Reads the items, or sets `note`."""
    with tf.io.gfile.GFile(self._path, 'r') as f:
      lines = f.read().split('\n')
    try:
      head = json.loads(lines[0])
      differences = identity_lib.differences(head['identity'], identity)
      begun = head['begun']
    except (AttributeError, KeyError, TypeError, ValueError):
      self.note = 'the file is damaged'
      return
    if differences:
      self.note = 'the file belongs to another result: ' + differences
      return
    self.begun = begun
    for line in lines[1:-1]:  # A line without newline is incomplete.
      try:
        batch = json.loads(line)
        if batch['start'] == len(self.items):  # Otherwise a duplicate.
          self.items += batch['items']
      except (KeyError, TypeError, ValueError):
        return

  @property
  def maps(self) -> str:
    """Folder for the maps of the finished images."""
    return self._path.removesuffix('.jsonl') + '.maps'

  def restart(self):
    """Discards all items."""
    self.items = []
    with tf.io.gfile.GFile(self._path, 'r') as f:
      head = f.readline()
    files.write(self._path, head)

  def add(self, items: Sequence[Any]):
    """Adds and stores the items of a batch."""
    line = json.dumps({'start': len(self.items), 'items': list(items)})
    self.items += items
    self._waiting.append(f'{line}\n')
    if '://' in self._path and (
      time.monotonic() - self._written < _REMOTE_INTERVAL
    ):
      return
    with tf.io.gfile.GFile(self._path, 'a') as f:
      f.write(''.join(self._waiting))
    self._waiting, self._written = [], time.monotonic()

  def end(self):
    """Removes the file, once the result is written."""
    tf.io.gfile.remove(self._path)


def kept(journal: 'Journal | None') -> list[Any]:
  """Returns the items of a journal as a new list; none without a journal."""
  return list(journal.items) if journal else []
