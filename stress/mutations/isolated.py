# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Runs jobs in a second process, which may crash or hang."""

from collections.abc import Sequence
import json
import queue
import subprocess
import threading
from typing import Any


class Reader:
  """A process that runs jobs and is restarted when it is lost.

  It reads one JSON object per line. It may report its position as
  `{"at": ...}`, and finishes a job with `{"results": [...]}`.
  """

  def __init__(self, command: Sequence[str], timeout: float):
    """Initializes the reader; the process starts with the first job.

    Args:
      command: command line of the process.
      timeout: seconds without output after which the process counts as hanging.
    """
    self._command, self._timeout = command, timeout
    self._process = self._lines = None

  def _start(self):
    self._process = subprocess.Popen(
      self._command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    self._lines = queue.Queue()
    threading.Thread(
      target=_listen, args=(self._process.stdout, self._lines.put), daemon=True
    ).start()

  def run(self, **job) -> list[Any] | tuple[str, str]:
    """Runs one job.

    Args:
      **job: fields of the object that is sent to the process.

    Returns:
      The results; or 'crash' or 'hang', and the last reported position. Then
      the next job runs in a new process.
    """
    if self._process is None:
      self._start()
    self._process.stdin.write(json.dumps(job).encode() + b'\n')
    self._process.stdin.flush()
    said = {}
    while 'results' not in said:
      try:
        line = self._lines.get(timeout=self._timeout)
      except queue.Empty:
        return self._gone('hang', said)
      if not line:
        return self._gone('crash', said)
      said = json.loads(line)
    return said['results']

  def _gone(self, how: str, said) -> tuple[str, str]:
    self._process.kill()
    self._process.stdin.close()
    code = self._process.wait()
    self._process = None
    return how, f'in {said.get("at")}, exit code {code}'

  def close(self):
    """Stops the process."""
    if self._process:
      self._process.stdin.close()
      self._process.wait()


def _listen(stream, put):
  """Puts the lines of a process into a queue, and b'' at its end."""
  for line in stream:
    put(line)
  put(b'')


def run(reader: Reader, numbers: Sequence[int], **job) -> list[list[Any]]:
  """Runs numbered jobs together, or one by one if the process is lost.

  Args:
    reader: process that runs the jobs.
    numbers: numbers of the jobs.
    **job: other fields to send to the process.

  Returns:
    Lists of number, kind, pipeline, outcome and detail. A job that is lost has
    number, '?', 'all', 'crash' or 'hang', and the last reported position.
  """
  results = reader.run(numbers=numbers, **job)
  if isinstance(results, list):
    return results
  found = []
  for number in numbers:
    one = reader.run(numbers=[number], **job)
    found += [[number, '?', 'all', *one]] if isinstance(one, tuple) else one
  return found
