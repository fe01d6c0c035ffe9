# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Runs commands in forks of a process in which TensorFlow is loaded.

A new process would import TensorFlow again, which takes ten seconds. Changes
that a fork makes (flags, registries, limits) end with it. The parent of the
forks is a server that only imports: once TensorFlow has run, its threads would
be missing in a fork, which would wait for them forever.
"""

from collections.abc import Callable
from concurrent import futures
import functools
import multiprocessing
import os
import signal
import sys
import traceback
from typing import NamedTuple

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
from official_ext.harmonization.data.records import beam_builder  # noqa: F401
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


@functools.cache
def _server():
  """Returns a context whose processes are forks of a server."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload([__name__])
  return context


def _child(out, err, function, *args):
  """Calls a function, writes its output to pipes, and ends the process."""
  code = 70
  signal.alarm(_SECONDS)
  try:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout = open(1, 'w', closefd=False)
    sys.stderr = open(2, 'w', closefd=False)
    try:
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


def _everything(pipe) -> str:
  """Reads a pipe until all its writers have closed it."""
  with open(os.dup(pipe.fileno()), 'rb') as file:
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
  (out, out_end), (err, err_end) = (
    multiprocessing.Pipe(duplex=False) for _ in range(2)
  )
  child = _server().Process(
    target=_child, args=(out_end, err_end, function, *args)
  )
  child.start()
  out_end.close()
  err_end.close()
  with futures.ThreadPoolExecutor(2) as readers:
    found = list(readers.map(_everything, (out, err)))
  out.close()
  err.close()
  child.join()
  return Result(child.exitcode, *found)


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
