"""Claims on work in a folder that several processes share.

A claim is a file that names host and process and has a heartbeat. A process
that finds another's claim moves on to other work. A claim is stale, and is
taken over, when its process has ended on this machine, or when its heart has
not beaten for two minutes.
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
# A bucket has no lock: who reads its own claim back after so long holds it.
_SETTLED = 1.0


class Taken(Exception):
  """Another process has the claim; the message says which."""


def _is_remote(path: str) -> bool:
  return '://' in path


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
  """Lets one process at a time do what is short.

  Args:
    folder: an existing one. Elsewhere than on a disk nothing is locked.

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
      except OSError:  # Some network disks have no locks.
        pass
      # Whoever had the lock removed the file: it is not that one any more.
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
  """Names what process numbers are numbers in: a boot, and a container."""
  names = [socket.gethostname()]
  try:
    with open('/proc/sys/kernel/random/boot_id') as f:
      names.append(f.read().strip())
    names.append(os.readlink('/proc/self/ns/pid'))
  except OSError:
    pass
  return ' '.join(names)


def _process(pid: int) -> str | None:
  """When a process of this machine was started; None where it has ended."""
  try:
    with open(f'/proc/{pid}/stat') as f:
      # The name in parentheses may hold anything.
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
  """A claim; as a context it is held until the end."""

  def __init__(self, path: str):
    """Prepares a claim.

    Args:
      path: of its file, in an existing folder.
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

    Returns:
      It.

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
    self._heart.join()
    with locked(os.path.dirname(self._path)):
      if self._is_own():
        tf.io.gfile.remove(self._path)

  def check(self):
    """Raises `Taken` if another process took the claim over."""
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
        pass  # The next beat may reach the disk.

  def _read(self) -> dict[str, Any] | None:
    """The claim in the file; or None if nobody holds one."""
    try:
      facts = files.read_json(self._path)
      return facts if self._facts.keys() <= facts.keys() else None
    except (tf.errors.NotFoundError, ValueError, AttributeError):
      return None

  def _write(self):
    files.write_json(self._path, {**self._facts, 'heartbeat': time.time()})
