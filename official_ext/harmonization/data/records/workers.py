# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""A pool of processes that end with the process that started them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
import contextlib
import multiprocessing
from multiprocessing import connection
import os
import signal
import threading
import time
from typing import Any

# Seconds between two updates of the progress.
_TICK = 0.2

# In a worker: sends a number to the process that started it.
_send: Callable[[int], None] | None = None


def _end_with_parent():
  """Ends this process as soon as the one that started it has ended."""
  # A pipe, which the operating system closes when the parent ends in any way.
  connection.wait([multiprocessing.parent_process().sentinel])
  os._exit(1)


def _enter(counts, start, arguments):
  """Initializes a worker."""
  global _send
  threading.Thread(target=_end_with_parent, daemon=True).start()

  def send(number):
    counts.send_bytes(number.to_bytes(8, 'big'))

  _send = send
  if start:
    start(*arguments)


class _Counter:
  """Sends the progress of a job at intervals."""

  def __init__(self):
    self._number, self._sent = 0, time.monotonic()

  def __call__(self, number: int):
    self._number += number
    if time.monotonic() - self._sent > _TICK:
      self.flush()

  def flush(self):
    """Sends what has not been sent yet."""
    if self._number and _send:
      _send(self._number)
    self._number, self._sent = 0, time.monotonic()


def _work(work, job):
  """Does one job in a worker."""
  progress = _Counter()
  try:
    return work(*job, progress)
  finally:
    progress.flush()


@contextlib.contextmanager
def _without_interrupts():
  """Blocks Ctrl-C in processes that are started in this context."""
  # Ctrl-C is sent to every process of a terminal; each would print a traceback.
  # They inherit the blocked signals, and end with their parent anyway.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(
  work: Callable[..., Any],
  jobs: Sequence[tuple],
  count: int,
  progress: Callable[[int], object],
  start: Callable[..., None] | None = None,
  arguments: tuple = (),
) -> Iterator[Any]:
  """Does jobs in this process, or in several.

  Workers end when this process ends in any way, and when the caller stops
  iterating over the results.

  Args:
    work: a function of a module, which is called with the values of a job and
      with a function `progress`.
    jobs: the values for each call. With several processes, these, the results,
      `work`, `start` and `arguments` must survive pickling.
    count: number of processes; 1 to work only in this one.
    progress: is called in this process with the numbers with which `work` calls
      its `progress`.
    start: is called once in each process before its first job.
    arguments: of `start`.

  Yields:
    The results of `work`, in the order in which the jobs end.

  Raises:
    ChildProcessError: a worker was killed.
  """
  if min(count, len(jobs)) <= 1:
    if start:
      start(*arguments)
    for job in jobs:
      yield work(*job, progress)
    return
  # A fork of a process in which TensorFlow runs can hang.
  context = multiprocessing.get_context('spawn')
  counted, counts = context.Pipe(duplex=False)
  pool = futures.ProcessPoolExecutor(
    min(count, len(jobs)), context, _enter, (counts, start, arguments)
  )
  others = {*multiprocessing.active_children()}
  try:
    with _without_interrupts():
      pending = {pool.submit(_work, work, job) for job in jobs}
    while pending:
      done, pending = futures.wait(pending, _TICK, futures.FIRST_COMPLETED)
      while counted.poll():
        progress(int.from_bytes(counted.recv_bytes(), 'big'))
      for job in done:
        yield _result(job)
  except BaseException:
    # Do not wait for jobs that have begun.
    for child in {*multiprocessing.active_children()} - others:
      child.terminate()
    raise
  finally:
    pool.shutdown(cancel_futures=True)
    counted.close()
    counts.close()


def _result(job: futures.Future):
  """Returns the result of a job, or raises its error in this process."""
  error = job.exception()
  if isinstance(error, process.BrokenProcessPool):
    raise ChildProcessError(
      'A worker process was killed, perhaps for lack of memory. Run the same '
      'command again, with fewer --workers, to resume.'
    ) from None
  if error:
    raise error.with_traceback(None) from error.__cause__
  return job.result()
