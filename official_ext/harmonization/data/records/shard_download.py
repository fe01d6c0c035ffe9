# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Downloads one file, such as a shard of records, completely or not at all."""

import base64
from collections.abc import Callable, Mapping
import errno
import hashlib
import http.client
import os
import threading
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.exceptions

from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_reader

_CHUNK = 1 << 16
# Seconds before the first retry; they double before each further one.
_DELAY = 1.0
_LONGEST_DELAY = 60.0
# Status codes of servers that may answer another request.
_TRANSIENT = (408, 429, *range(500, 600))
# Errors of this machine, which no retry repairs.
_LOCAL = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS)


class DownloadError(LookupError):
  """A shard could not be downloaded; the message says which and why."""


class _Damaged(Exception):
  """The bytes that arrived are not those that were sent."""


class _Retry(urllib3.Retry):
  """Retries of a request, whose waits end when all downloads are to end."""

  def __init__(self, *args, stop: threading.Event, **options):
    super().__init__(*args, **options)
    self._stop = stop

  def new(self, **options):
    return super().new(stop=self._stop, **options)

  def sleep(self, response=None):
    delay = response and self.get_retry_after(response)
    if self._stop.wait(delay or self.get_backoff_time()):
      raise DownloadError('stopped')


class ShardDownload:
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
      path: of the file to write.
      timeout: seconds without a byte until an attempt fails.
      progress: is called with the number of bytes by which the file has grown,
        and the number by which its expected size has; both may be negative.
      stop: set when all downloads are to end.
      read: takes a path and returns the number of records in the file and what
        is wrong with it, or ''. By default it reads a shard of records.
    """
    self._url, self._path = url, path
    self._partial = f'{path}.partial'
    self._timeout, self._progress, self._stop = timeout, progress, stop
    self._read = read or _read
    self._size = self._total = 0
    self._md5 = None

  def fetch(self, known: dict[str, Any] | None, retries: int) -> dict[str, Any]:
    """Downloads the shard, unless it is already complete.

    Args:
      known: the shard's entry in the manifest, if there is one.
      retries: how many attempts in a row may fail without new bytes.

    Returns:
      The shard's entry in the manifest, see `manifest.describe`.

    Raises:
      DownloadError: the download failed, or was stopped.
    """
    found = self._present(known)
    if found:
      self._count(found['bytes'], found['bytes'])
      return found
    most, failures = self._on_disk(), 0
    while True:
      try:
        self._attempt(retries - failures)
        records = self._verified_records()
        os.replace(self._partial, self._path)
        return manifest.describe(self._path, records)
      except (OSError, urllib3.exceptions.HTTPError, _Damaged) as e:
        if self._stop.is_set():
          raise self._error('stopped') from None
        if getattr(e, 'errno', None) in _LOCAL:
          raise self._error(e) from None
        # A server that sends a little in each attempt succeeds in the end.
        failures = 0 if self._on_disk() > most else failures + 1
        most = max(most, self._on_disk())
        if failures > retries:
          raise self._error(
            f'{_one_line(e)} ({failures} attempts in a row brought nothing new)'
          ) from None
      self._stop.wait(min(_DELAY * 2**failures, _LONGEST_DELAY))

  def _error(self, reason: Any) -> DownloadError:
    return DownloadError(f'{self._url}: {_one_line(reason)}')

  def _on_disk(self) -> int:
    try:
      return os.path.getsize(self._partial)
    except FileNotFoundError:
      return 0

  def _count(self, size: int, total: int | None = None):
    """Reports the number of bytes on the disk, and that of the shard."""
    total = self._total if total is None else total
    self._progress(size - self._size, total - self._total)
    self._size, self._total = size, total

  def _present(self, known: dict[str, Any] | None):
    """Describes the shard if it is complete; otherwise sets the file aside."""
    if not os.path.exists(self._path):
      return None
    records, problem = self._read(self._path)
    if not problem:
      found = manifest.describe(self._path, records)
      if known in (None, found):
        return found
    # It may be the beginning of the shard.
    os.replace(self._path, self._partial)
    return None

  def _attempt(self, retries: int):
    """Requests the missing bytes and appends them to the partial file.

    Args:
      retries: how often the request may be repeated before an answer begins.

    Raises:
      OSError: the answer ended early, or the connection failed during it.
      urllib3.exceptions.HTTPError: the same.
      DownloadError: no answer began, or it does not contain the shard.
    """
    start = self._on_disk()
    # Without compression, so that offsets are those of the file.
    headers = {'Accept-Encoding': 'identity'}
    if start:
      headers['Range'] = f'bytes={start}-'
    with requests.Session() as session:
      adapter = requests.adapters.HTTPAdapter(
        max_retries=_Retry(
          retries,
          stop=self._stop,
          status_forcelist=_TRANSIENT,
          raise_on_status=False,
          backoff_factor=_DELAY,
          backoff_max=_LONGEST_DELAY,
        )
      )
      session.mount('http://', adapter)
      session.mount('https://', adapter)
      try:
        answer = session.get(
          self._url, headers=headers, timeout=self._timeout, stream=True
        )
      except (requests.RequestException, DownloadError) as e:
        raise self._error(e) from None
      with answer:
        self._append(answer, start)

  def _append(self, answer: requests.Response, start: int):
    """Writes the content of an answer, which should begin at `start`."""
    start = self._check_start(answer, start)
    length = answer.headers.get('Content-Length', '')
    if not length.isdigit():
      raise self._error(
        'the server does not give its length, which is needed to notice when '
        'an answer is cut'
      )
    self._md5 = _md5_of(answer.raw.headers)
    end = start + int(length)
    self._count(start, end)
    with open(self._partial, 'ab' if start else 'wb') as f:
      # requests would wait for whole chunks, and lose a broken one.
      while not self._stop.is_set() and (chunk := answer.raw.read1(_CHUNK)):
        f.write(chunk)
        self._count(f.tell())
    if self._size != end:
      raise ConnectionError(f'the answer ended at byte {self._size} of {end}')

  def _check_start(self, answer: requests.Response, start: int) -> int:
    """Returns the offset in the shard at which the answer begins."""
    if answer.status_code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      # The partial file is as long as the shard or longer, and was not good.
      os.remove(self._partial)
      raise ConnectionError(f'the server has no bytes from {start} on')
    try:
      answer.raise_for_status()
    except requests.HTTPError as e:
      raise self._error(e) from None
    if answer.status_code != http.client.PARTIAL_CONTENT:
      return 0  # The server ignores ranges.
    found = answer.headers.get('Content-Range', '')
    if not found.startswith(f'bytes {start}-'):
      os.remove(self._partial)
      raise ConnectionError(
        f'the server sent {found!r}; expected bytes from {start} on'
      )
    return start

  def _verified_records(self) -> int:
    """Reads the whole shard, and removes it if it is damaged.

    Returns:
      The number of its records.

    Raises:
      _Damaged: the file is empty, a record is bad, or the MD5 differs from that
        of the server.
    """
    records, problem = self._read(self._partial)
    if not problem and self._md5 and _md5(self._partial) != self._md5:
      problem = 'its MD5 differs from that of the server'
    if problem:
      os.remove(self._partial)
      raise _Damaged(f'the downloaded file is damaged: {problem}')
    return records


def _read(path: str) -> tuple[int, str]:
  """Returns the number of records in a shard, and what is wrong with it."""
  count = 0
  for record in record_reader.read(path):
    if record.problem:
      return count, f'record {record.index}: {record.problem}'
    count += 1
  return count, '' if count else 'it is empty'


def _one_line(error: Any) -> str:
  return ' '.join(str(error).split()) or type(error).__name__


def _md5(path: str) -> bytes:
  digest = hashlib.md5()
  with open(path, 'rb') as f:
    while chunk := f.read(_CHUNK):
      digest.update(chunk)
  return digest.digest()


def _md5_of(headers: Mapping[str, str]) -> bytes | None:
  """Returns the MD5 of the whole file, which Google's buckets send."""
  # The header may occur several times, which urllib3 joins by commas.
  for part in headers.get('x-goog-hash', '').split(','):
    kind, _, value = part.strip().partition('=')
    if kind == 'md5':
      return base64.b64decode(value)
  return None
