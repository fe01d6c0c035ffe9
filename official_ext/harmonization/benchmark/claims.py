# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Divides work in a folder among several processes.

A claim is a file with the host, the process and a heartbeat. A process that
finds the claim of another process moves on to other work. It takes a claim over
if the process has ended on this machine, or if the heartbeat is older than two
minutes.

  with claims.Claim('runs/alignment/models/vgg.claim'):
    score('vgg')  # claims.Taken if another process is at it.
"""

from collections.abc import Iterator
import contextlib
import datetime
import fcntl
import os
import socket
import threading
import time
from typing import Any
import uuid

import tensorflow as tf

from official_ext.harmonization import files

# Seconds.
_BEAT, _STALE = 15.0, 120.0
# Buckets have no locks. A process that reads its own claim back after this time
# has it.
_SETTLED = 1.0


class Taken(Exception):
  """Another process has the claim, which the message names."""


def _is_remote(path: str) -> bool:
  return '://' in path


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
  """Locks a folder for a short operation.

  Args:
    folder: an existing one. Remote folders are not locked.

  Yields:
    None, while the lock is held.
  """
  if _is_remote(folder):
    yield
    return
  path = os.path.join(folder, '.lock')
  while True:
    with open(path, 'w') as f:
      try:
        fcntl.flock(f, fcntl.LOCK_EX)
      except OSError:  # Some network file systems have no locks.
        pass
      # The previous holder may have removed the file that was opened here.
      if os.path.exists(path) and os.path.samestat(
        os.fstat(f.fileno()), os.stat(path)
      ):
        try:
          yield
        finally:
          with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        return


def _machine() -> str:
  """Identifies the boot and the container that process ids belong to."""
  names = [socket.gethostname()]
  try:
    with open('/proc/sys/kernel/random/boot_id') as f:
      names.append(f.read().strip())
    names.append(os.readlink('/proc/self/ns/pid'))
  except OSError:
    pass
  return ' '.join(names)


def _process(pid: int) -> str | None:
  """Returns when a local process was started; None if it has ended."""
  try:
    with open(f'/proc/{pid}/stat') as f:
      # The name in parentheses may contain anything, such as ')'.
      state, *fields = f.read().rpartition(')')[2].split()
    return None if state in 'ZX' else fields[18]
  except OSError:
    if os.path.exists('/proc/self/stat'):
      return None
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return None
  except PermissionError:
    pass
  return ''


class Claim:
  """A claim, held until the end of a `with` block."""

  def __init__(self, path: str):
    """Prepares a claim.

    Args:
      path: of the file, in an existing folder.
    """
    self._path = path
    self._facts = {
      'host': socket.gethostname(),
      'machine': _machine(),
      'pid': os.getpid(),
      'started': _process(os.getpid()),
      'token': uuid.uuid4().hex,
    }
    self._end = threading.Event()
    self._heart = None

  def __enter__(self) -> 'Claim':
    """Takes the claim.

    Raises:
      Taken: another process has it.
    """
    with locked(os.path.dirname(self._path)):
      other = self._read()
      if other and not self._is_stale(other):
        raise Taken(
          f'{other["host"]}, process {other["pid"]}, since {other["begun"]}'
        )
      self._facts['begun'] = (
        datetime.datetime.now().astimezone().isoformat(timespec='seconds')
      )
      self._write()
    if _is_remote(self._path):
      time.sleep(_SETTLED)
      self.check()
    self._heart = threading.Thread(target=self._beat, daemon=True)
    self._heart.start()
    return self

  def __exit__(self, *unused):
    self._end.set()
    if self._heart:
      self._heart.join()
    with locked(os.path.dirname(self._path)):
      if self._is_own():
        tf.io.gfile.remove(self._path)

  def check(self):
    """Raises `Taken` if another process has taken the claim over."""
    if not self._is_own():
      other = self._read() or {'host': 'another host', 'pid': '?'}
      raise Taken(
        f'{other["host"]}, process {other["pid"]}, which took it over'
      )

  def _is_own(self) -> bool:
    return (self._read() or {}).get('token') == self._facts['token']

  def _is_stale(self, other: dict[str, Any]) -> bool:
    if other['machine'] == self._facts['machine'] and (
      _process(other['pid']) != other['started']
    ):
      return True
    return time.time() - other['heartbeat'] > _STALE

  def _beat(self):
    while not self._end.wait(_BEAT):
      try:
        with locked(os.path.dirname(self._path)):
          if not self._is_own():
            return
          self._write()
      except (OSError, tf.errors.OpError):
        pass  # The next heartbeat may succeed.

  def _read(self) -> dict[str, Any] | None:
    """Returns the claim in the file; None if nobody has one."""
    try:
      facts = files.read_json(self._path)
      return facts if self._facts.keys() <= facts.keys() else None
    except (tf.errors.NotFoundError, ValueError, AttributeError):
      return None

  def _write(self):
    files.write_json(self._path, {**self._facts, 'heartbeat': time.time()})
