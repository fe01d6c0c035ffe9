"""Runs commands in forks of a process in which TensorFlow is loaded.

A command of its own would import TensorFlow again, which takes ten seconds.
What a fork defines or breaks (flags, registries, limits) ends with it.
"""

import os
import sys
import tempfile
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


def call(function: Callable[[], object]) -> Result:
  """Calls a function in a fork, and returns how that ended."""
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    sys.stdout.flush()
    child = os.fork()
    if not child:
      code = 70
      try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
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
    _, status = os.waitpid(child, 0)
    out.seek(0)
    err.seek(0)
    return Result(os.waitstatus_to_exitcode(status), out.read().decode(),
                  err.read().decode())


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
