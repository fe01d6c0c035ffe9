"""What has been computed of a result that is not finished, image by image.

The first line of the file is the identity of the result, each further one a
batch. A process that is killed loses at most the batch that it was computing.
"""

from collections.abc import Sequence
import json
import time
from typing import Any

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import identity as identity_lib

# Appending to a file in a bucket writes the whole file again: not more often
# than every so many seconds.
_REMOTE_INTERVAL = 60.0


class Journal:
  """The items of the images that are done, in order.

  Attributes:
    items: what JSON can hold, one per image.
    begun: when the first was computed.
    note: why items that were there are not used, or ''.
  """

  def __init__(self, path: str, identity: dict[str, Any]):
    """Opens a journal, and drops one of something else.

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
    """Reads the items; says in `note` why they are of no use."""
    with tf.io.gfile.GFile(self._path, 'r') as f:
      lines = f.read().split('\n')
    try:
      head = json.loads(lines[0])
      differences = identity_lib.differences(head['identity'], identity)
      begun = head['begun']
    except (AttributeError, KeyError, TypeError, ValueError):
      self.note = 'it is damaged'
      return
    if differences:
      self.note = 'it is of something else: ' + differences
      return
    self.begun = begun
    for line in lines[1:-1]:  # What follows the last newline is cut off.
      try:
        batch = json.loads(line)
        if batch['start'] == len(self.items):  # Else it was written twice.
          self.items += batch['items']
      except (KeyError, TypeError, ValueError):
        return

  def add(self, items: Sequence[Any]):
    """Keeps the items of a batch."""
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
    """Removes the file: the result is written."""
    tf.io.gfile.remove(self._path)


def kept(journal: 'Journal | None') -> list[Any]:
  """The items of a journal, a new list; of None, none."""
  return list(journal.items) if journal else []
