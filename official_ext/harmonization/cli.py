"""What the commands share: a --help that shows their flags and what they do."""

import sys
from typing import Callable, Sequence

from absl import app
from absl import flags

_HOST_FLAGS = 'official.common.flags'


def run(main: Callable[[Sequence[str]], None], module: str):
  """Runs a command whose flags are defined.

  absl's --help speaks of the file that was started; these commands are started
  from several.

  Args:
    main: of the command.
    module: name of the module that the command is written in.
  """
  sys.modules['__main__'].__doc__ = sys.modules[module].__doc__
  # Run with `python -m`, the module goes by the name of what was started.
  for name in (module, _HOST_FLAGS):
    for flag in flags.FLAGS.get_key_flags_for_module(name):
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(main)
