# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Runs commands in forks of a process in which TensorFlow is loaded.

A new process would import TensorFlow again, which takes ten seconds. Changes
that a fork makes (flags, registries, limits) end with it. The parent of the
forks is a server, itself forked when this module is imported: once TensorFlow
has run in a process, its threads would be missing in a fork, which would wait
for them forever.
"""

from collections.abc import Callable
from concurrent import futures
import multiprocessing
from multiprocessing import connection
from multiprocessing import spawn
import os
import pickle
import signal
import socket
import sys
import traceback
import types
from typing import NamedTuple

from absl import logging

from official_ext.harmonization import building
from official_ext.harmonization import ceiling
from official_ext.harmonization import compare
from official_ext.harmonization import evaluate
from official_ext.harmonization import experiment_parser
from official_ext.harmonization import explain
from official_ext.harmonization import export_saved_model
from official_ext.harmonization import export_tflite
from official_ext.harmonization import input_checks
from official_ext.harmonization import runner
from official_ext.harmonization import train
from official_ext.harmonization.data import beam_clickme_records
from official_ext.harmonization.data import build_clickme_records
from official_ext.harmonization.data import download_clickme
from official_ext.harmonization.data import make_digits_clickme
from official_ext.harmonization.data import make_psychophysics_stimuli
from official_ext.harmonization.data import merge_imagenet
from official_ext.harmonization.data import verify_records

# The commands import these when they run, which a fork should not wait for.
from official_ext.harmonization.data.records import clickme_builder  # noqa: F401
from official_ext.harmonization.data.records import clickme_download  # noqa: F401
from official_ext.harmonization.data.records import digits  # noqa: F401
from official_ext.harmonization.data.records import imagenet_merger  # noqa: F401
from official_ext.harmonization.data.records import verification  # noqa: F401
from official_ext.harmonization.data.stimuli import stimulus_builder  # noqa: F401

# Registers the network of `fixtures.experiment`.
from testing import fixtures  # noqa: F401

# After which a fork that hangs is ended.
_SECONDS = 300
_PACKAGE = 'official_ext.harmonization.'
# train.py imports them only when they are used.
_LOADED = (building, experiment_parser, input_checks, runner)
_MODULES = {
  module.__name__.removeprefix(_PACKAGE): module
  for module in (
    ceiling,
    compare,
    evaluate,
    explain,
    export_saved_model,
    export_tflite,
    train,
    beam_clickme_records,
    build_clickme_records,
    download_clickme,
    make_digits_clickme,
    make_psychophysics_stimuli,
    merge_imagenet,
    verify_records,
  )
}
# Every command of the project, by the module that it is written in.
COMMANDS = (*_MODULES,)


class Result(NamedTuple):
  code: int
  output: str
  errors: str


class Process:
  """A fork that runs a function, with the interface of `subprocess.Popen`."""

  def __init__(self, pid: int, status):
    self.pid = pid
    self.returncode: int | None = None
    self._status = status

  def poll(self) -> int | None:
    """Returns the exit code, or None while the function runs."""
    return self.wait() if self._status.poll() else self.returncode

  def wait(self) -> int:
    """Returns the exit code: minus the signal if one ended the function."""
    if self.returncode is None:
      self.returncode = self._status.recv()
    return self.returncode

  def send_signal(self, number: int):
    if self.poll() is None:
      os.kill(self.pid, number)


def _run(call: bytes, out: int, err: int):
  """Calls a function, writes its output to files, and ends the process."""
  code = 70
  signal.alarm(_SECONDS)
  try:
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, 'w', closefd=False)
    sys.stderr = open(2, 'w', closefd=False)
    logging.use_absl_handler()
    logging.get_absl_handler().python_handler.stream = sys.stderr
    try:
      function, args = pickle.loads(call)
      function(*args)
      code = 0
    except SystemExit as e:
      code = e.code
      if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    except BaseException:
      traceback.print_exc()
      code = 1
    sys.stdout.flush()
    sys.stderr.flush()
  finally:
    os._exit(code or 0)


def _supervise(request: int, status: int, out: int, err: int):
  """Starts what a request describes, and sends its process id and exit code."""
  for number in (signal.SIGCHLD, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
  with open(request, 'rb') as file:
    preparation, call = pickle.load(file)
    pid = os.fork()
    if not pid:
      # The folder and the main module of the process that asks.
      spawn.prepare(preparation)
      _run(call, out, err)
  os.close(out)
  os.close(err)
  answers = connection.Connection(status)
  answers.send(pid)
  answers.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _serve(requests: socket.socket):
  """Forks for each request until every process that can send one has ended."""
  # The system removes supervisors that have ended.
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  while True:
    message, files, _, _ = socket.recv_fds(requests, 1, 4)
    if not message:
      return
    if not os.fork():
      requests.close()
      _supervise(*files)
      return
    for file in files:
      os.close(file)


def _start_server() -> socket.socket:
  """Forks the server, and returns the socket that its requests go to."""
  # Of packets, because several processes may send.
  ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  if not os.fork():
    try:
      ours.close()
      # Test files, of which one is importing this module, are imported anew.
      for name in [n for n in sys.modules if n.startswith('tests.')]:
        if name != __name__:
          del sys.modules[name]
      sys.modules['__main__'] = types.ModuleType('__main__')
      _serve(its)
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(0)
  its.close()
  return ours


def start(
  function: Callable[..., object], *args, out: int, err: int
) -> Process:
  """Starts a function in a fork.

  Args:
    function: a function of a module.
    *args: arguments that can be pickled.
    out: file descriptor of its output.
    err: file descriptor of its errors.

  Returns:
    The fork.
  """
  request, request_end = os.pipe()
  status, status_end = multiprocessing.Pipe(duplex=False)
  socket.send_fds(_requests, [b'.'], [request, status_end.fileno(), out, err])
  os.close(request)
  status_end.close()
  with open(request_end, 'wb') as file:
    preparation = spawn.get_preparation_data('fork')
    del preparation['authkey']  # It cannot be pickled.
    pickle.dump((preparation, pickle.dumps((function, args))), file)
  return Process(status.recv(), status)


def _everything(pipe: int) -> str:
  """Reads a pipe until all its writers have closed it."""
  with open(pipe, 'rb') as file:
    return file.read().decode()


def call(function: Callable[..., object], *args) -> Result:
  """Calls a function in a fork.

  Args:
    function: a function of a module.
    *args: arguments that can be pickled.

  Returns:
    The exit code and the output.
  """
  # Pipes, because tests limit the size of files to simulate a full disk.
  (out, out_end), (err, err_end) = os.pipe(), os.pipe()
  process = start(function, *args, out=out_end, err=err_end)
  os.close(out_end)
  os.close(err_end)
  with futures.ThreadPoolExecutor(2) as readers:
    found = list(readers.map(_everything, (out, err)))
  return Result(process.wait(), *found)


def _type(name: str, argv, prepare):
  if prepare:
    prepare()
  sys.argv = [name, *argv]
  _MODULES[name].run()


def command(
  name: str, *flags: str, prepare: Callable[[], object] | None = None
) -> Result:
  """Runs a command in a fork.

  Args:
    name: one of `COMMANDS`.
    *flags: the arguments of the command.
    prepare: a function of a module, called in the fork before the command.

  Returns:
    The exit code and the output.
  """
  return call(_type, name, flags, prepare)


_requests = _start_server()
