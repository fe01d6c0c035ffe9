"""Runs commands in forks of a process in which TensorFlow is loaded.

A command of its own would import TensorFlow again, which takes ten seconds.
What a fork defines or breaks (flags, registries, limits) ends with it. A test
that uses this must not run TensorFlow itself: its threads are not forked.
"""

from concurrent import futures
import os
import signal
import sys
import traceback
from typing import Callable, NamedTuple, Optional

from official_ext.harmonization import ceiling
from official_ext.harmonization import compare
from official_ext.harmonization import evaluate
from official_ext.harmonization import explain
from official_ext.harmonization import train
from official_ext.harmonization.data import beam_clickme_records
from official_ext.harmonization.data import build_clickme_records
from official_ext.harmonization.data import download_clickme
from official_ext.harmonization.data import make_digits_clickme
from official_ext.harmonization.data import make_psychophysics_stimuli
from official_ext.harmonization.data import merge_imagenet
from official_ext.harmonization.data import verify_records

# After which a fork that hangs is ended.
_SECONDS = 120
_PACKAGE = 'official_ext.harmonization.'
_MODULES = {
    module.__name__.removeprefix(_PACKAGE): module for module in (
        ceiling, compare, evaluate, explain, train, beam_clickme_records,
        build_clickme_records, download_clickme, make_digits_clickme,
        make_psychophysics_stimuli, merge_imagenet, verify_records)
}
# Every command of the project, by the module that it is written in.
COMMANDS = ('export_saved_model', 'export_tflite', *_MODULES)


def _module(name: str):
  """Returns a command; Model Garden's two exporters define the same flags."""
  # pylint: disable=g-import-not-at-top
  if name == 'export_saved_model':
    from official_ext.harmonization import export_saved_model
    return export_saved_model
  if name == 'export_tflite':
    from official_ext.harmonization import export_tflite
    return export_tflite
  return _MODULES[name]


class Result(NamedTuple):
  code: int
  output: str
  errors: str


def _child(function, out: int, err: int):
  """Calls a function with its output going to pipes, and ends the process."""
  code = 70
  signal.alarm(_SECONDS)
  try:
    os.dup2(out, 1)
    os.dup2(err, 2)
    # Pytest replaces them.
    sys.stdout = open(1, 'w', closefd=False)
    sys.stderr = open(2, 'w', closefd=False)
    try:
      function()
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


def call(function: Callable[[], object]) -> Result:
  """Calls a function in a fork, and returns how that ended."""
  sys.stdout.flush()
  # Pipes: a limit on the size of files, as of a full disk, does not hold there.
  ends = os.pipe(), os.pipe()
  child = os.fork()
  if not child:
    _child(function, ends[0][1], ends[1][1])
  for _, writing in ends:
    os.close(writing)
  files = [open(reading, 'rb') for reading, _ in ends]
  with futures.ThreadPoolExecutor(2) as readers:
    found = list(readers.map(lambda f: f.read().decode(), files))
  for file in files:
    file.close()
  _, status = os.waitpid(child, 0)
  return Result(os.waitstatus_to_exitcode(status), *found)


def command(name: str, *flags: str,
            prepare: Optional[Callable[[], object]] = None) -> Result:
  """Types a command.

  Args:
    name: one of `COMMANDS`.
    *flags: what is typed after it.
    prepare: is called first, in the fork.
  """

  def start():
    if prepare:
      prepare()
    sys.argv = [name, *flags]
    _module(name).run()

  return call(start)
