"""Processes that share work, and end with the process that started them."""

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

# Seconds between two looks at what the processes have done.
_TICK = 0.2

# Of a worker: sends a number to the process that started it.
_send: Callable[[int], None] | None = None


def _end_with_parent():
  """Ends this process when the one that started it has ended."""
  # The other end of a pipe, which the system closes whatever ends the parent.
  connection.wait([multiprocessing.parent_process().sentinel])
  os._exit(1)


def _enter(counts, start, arguments):
  """Begins a worker."""
  global _send
  threading.Thread(target=_end_with_parent, daemon=True).start()

  def send(number):
    counts.send_bytes(number.to_bytes(8, 'big'))

  _send = send
  if start:
    start(*arguments)


class _Counter:
  """Sends how much was done, now and then."""

  def __init__(self):
    self._number, self._sent = 0, time.monotonic()

  def __call__(self, number: int):
    self._number += number
    if time.monotonic() - self._sent > _TICK:
      self.flush()

  def flush(self):
    """Sends what has not been sent."""
    if self._number:
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
  """Starts processes that Ctrl-C does not reach: it ends their parent."""
  # The terminal sends it to all of them, and each would print a traceback. A
  # process keeps the signals blocked that its parent had blocked.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(
  work: Callable[..., Any],
  jobs: Sequence[tuple],
  count: int,
  progress: Callable[[int], None],
  start: Callable[..., None] | None = None,
  arguments: tuple = (),
) -> Iterator[Any]:
  """Does jobs in this process, or in several.

  Workers end when this process does, however that happens, and when the caller
  stops asking for results.

  Args:
    work: a module's function of a job's values and of `progress`.
    jobs: the values for each call. With several processes, these, the results,
      `work`, `start` and `arguments` must survive pickling.
    count: of the processes; 1 for this process only.
    progress: is called in this process with what `work` calls its own with:
      how much more of its job is done.
    start: is called once in each process before its first job.
    arguments: of `start`.

  Yields:
    What `work` returned, in the order in which the jobs end.

  Raises:
    ChildProcessError: a worker was killed.
  """
  if min(count, len(jobs)) <= 1:
    if start:
      start(*arguments)
    for job in jobs:
      yield work(*job, progress)
    return
  # Forking a process in which TensorFlow is loaded may lock up.
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
    # Jobs that have begun are not waited for.
    for child in {*multiprocessing.active_children()} - others:
      child.terminate()
    raise
  finally:
    pool.shutdown(cancel_futures=True)
    counted.close()
    counts.close()


def _result(job: futures.Future):
  """Returns a job's result, or raises its error as one of this process."""
  error = job.exception()
  if isinstance(error, process.BrokenProcessPool):
    raise ChildProcessError(
      'A worker process was killed, perhaps for lack of memory. Run the same '
      'command again, with fewer --workers, to resume.'
    ) from None
  if error:
    raise error.with_traceback(None) from error.__cause__
  return job.result()
