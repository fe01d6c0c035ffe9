"""Downloads one file, such as a shard of records, whole or not at all."""

import base64
from collections.abc import Callable
import errno
import hashlib
import http.client
import os
import threading
from typing import Any
import urllib.error
import urllib.request

from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_reader

_CHUNK = 1 << 16
# Seconds before the first retry; twice as long before each further one.
_DELAY = 1.0
_LONGEST_DELAY = 60.0
# Answers of a server that may be another one in a minute.
_PASSING = (408, 429)
# Failures of this machine, which no retry repairs.
_LOCAL = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS)


class DownloadError(LookupError):
  """A shard cannot be had; the message says which and why."""


class _Damaged(Exception):
  """What came is not what was sent."""


class Shard:
  """The download of one shard."""

  def __init__(
    self,
    url: str,
    path: str,
    timeout: float,
    progress: Callable[[int, int], None],
    stop: threading.Event,
    read: Callable[[str], tuple[int, str]] | None = None,
  ):
    """Initializes the download.

    Args:
      url: of the shard.
      path: where it is to stand.
      timeout: seconds without a byte after which an attempt has failed.
      progress: is told how many bytes more are there, and how many more than
        it knew of there will be; either may be negative.
      stop: set when all downloads are to end.
      read: takes a path and returns how many records the file holds and what
        is wrong with it, or ''. By default that of a shard of records.
    """
    self._url, self._path = url, path
    self._partial = f'{path}.partial'
    self._timeout, self._progress, self._stop = timeout, progress, stop
    self._read = read or _read
    self._size = self._total = 0
    self._md5 = None

  def fetch(self, known: dict[str, Any] | None, retries: int) -> dict[str, Any]:
    """Makes the shard stand under its name.

    Args:
      known: what the manifest says of it, if anything.
      retries: attempts in a row that may bring nothing new.

    Returns:
      The shard, as `manifest.describe` does.

    Raises:
      DownloadError: it cannot be had.
    """
    found = self._present(known)
    if found:
      self._count(found['bytes'], found['bytes'])
      return found
    most, failures = self._on_disk(), 0
    while True:
      try:
        self._attempt()
        records = self._verified_records()
        os.replace(self._partial, self._path)
        return manifest.describe(self._path, records)
      except (OSError, http.client.HTTPException, _Damaged) as e:
        self._raise_if_final(e)
        # A server that sends a little each time gets there.
        failures = 0 if self._on_disk() > most else failures + 1
        most = max(most, self._on_disk())
        if failures > retries:
          raise DownloadError(
            f'{self._url}: {_one_line(e)} ({failures} attempts in a row '
            'brought nothing new)'
          ) from None
      self._stop.wait(min(_DELAY * 2**failures, _LONGEST_DELAY))

  def _raise_if_final(self, error: Exception):
    """Raises if another attempt would not end otherwise."""
    if self._stop.is_set():
      raise DownloadError(f'{self._url}: stopped') from None
    if isinstance(error, urllib.error.HTTPError):
      final = 400 <= error.code < 500 and error.code not in _PASSING + (416,)
    else:
      final = getattr(error, 'errno', None) in _LOCAL
    if final:
      raise DownloadError(f'{self._url}: {_one_line(error)}') from None

  def _on_disk(self) -> int:
    try:
      return os.path.getsize(self._partial)
    except FileNotFoundError:
      return 0

  def _count(self, size: int, total: int | None = None):
    """Shows how much of the shard is there, and how large it is."""
    total = self._total if total is None else total
    self._progress(size - self._size, total - self._total)
    self._size, self._total = size, total

  def _present(self, known: dict[str, Any] | None):
    """Describes the shard if it stands there whole; sets it aside if not."""
    if not os.path.exists(self._path):
      return None
    records, problem = self._read(self._path)
    if not problem:
      found = manifest.describe(self._path, records)
      if known in (None, found):
        return found
    # It may be the beginning of a whole one.
    os.replace(self._path, self._partial)
    return None

  def _attempt(self):
    """Asks for what is missing and appends what comes.

    Raises:
      OSError: of the connection, or the answer is short or too long in coming.
      http.client.HTTPException: the answer is no HTTP.
      DownloadError: the server does not say how long the shard is.
    """
    start = self._on_disk()
    headers = {'Range': f'bytes={start}-'} if start else {}
    try:
      answer = urllib.request.urlopen(
        urllib.request.Request(self._url, headers=headers),
        timeout=self._timeout,
      )
    except urllib.error.HTTPError as e:
      if e.code == 416:
        # As long as the shard or longer, and yet not taken for whole.
        os.remove(self._partial)
      raise
    with answer:
      start = self._check_start(answer, start)
      length = answer.headers.get('Content-Length', '')
      if not length.isdigit():
        raise DownloadError(
          f'{self._url}: the server does not say how long it is, so that a '
          'short answer could not be told'
        )
      self._md5 = _md5_of(answer.headers)
      end = start + int(length)
      self._count(start, end)
      with open(self._partial, 'ab' if start else 'wb') as f:
        while not self._stop.is_set() and (chunk := answer.read1(_CHUNK)):
          f.write(chunk)
          self._count(f.tell())
    if self._size != end:
      raise ConnectionError(f'the answer ended at byte {self._size} of {end}')

  def _check_start(self, answer, start: int) -> int:
    """Returns the offset in the shard at which the answer begins."""
    if answer.status != http.client.PARTIAL_CONTENT:
      return 0  # The server sends all, whatever it was asked for.
    said = answer.headers.get('Content-Range', '')
    if not said.startswith(f'bytes {start}-'):
      os.remove(self._partial)
      raise ConnectionError(
        f'asked for bytes from {start} on, the server sent {said!r}'
      )
    return start

  def _verified_records(self) -> int:
    """Reads the whole shard; what is damaged is removed.

    Returns:
      How many records it holds.

    Raises:
      _Damaged: one of them is bad, there is none, or the server's MD5 is
        another.
    """
    records, problem = self._read(self._partial)
    if not problem and self._md5:
      digest = hashlib.md5()
      with open(self._partial, 'rb') as f:
        while block := f.read(_CHUNK):
          digest.update(block)
      if digest.digest() != self._md5:
        problem = "its MD5 is not the server's"
    if problem:
      os.remove(self._partial)
      raise _Damaged(f'what came is damaged, {problem}')
    return records


def _read(path: str):
  """Reads a shard; returns how many records it holds and what is wrong."""
  count = 0
  for record in record_reader.read(path):
    if record.problem:
      return count, f'record {record.index}: {record.problem}'
    count += 1
  return count, '' if count else 'it is empty'


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split()) or type(error).__name__


def _md5_of(headers) -> bytes | None:
  """Returns the MD5 of the whole file, where a Google bucket says it."""
  for header in headers.get_all('x-goog-hash', []):
    for part in header.split(','):
      kind, _, value = part.strip().partition('=')
      if kind == 'md5':
        return base64.b64decode(value)
  return None
