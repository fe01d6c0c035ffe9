"""What the commands share: flags, --help, and one sentence for an error.

A user's mistake ends a command with exit code 1 and `<command>: <sentence>`,
and never with a traceback. --debug shows the traceback all the same. Anything
else, such as a TypeError, is a fault of this code and keeps its traceback.
"""

from collections.abc import Callable, Iterable, Sequence
import csv
import difflib
import dis
import errno
import os
import pickle
import re
import sqlite3
import sys
import textwrap
import zipfile
import zlib

from absl import app
from absl import flags

from official_ext.harmonization import files

_MODEL_GARDEN_FLAGS = 'official.common.flags'
_PACKAGES = ('official_ext', 'performance', 'stress', 'studies', '__main__')
# What a wrong flag, file or folder may raise, here or in a library.
_MISTAKES = (
  ValueError,
  LookupError,
  OSError,
  ImportError,
  SyntaxError,
  EOFError,
  MemoryError,
  csv.Error,
  pickle.UnpicklingError,
  sqlite3.Error,
  zipfile.BadZipFile,
  zlib.error,
)
# Modules are looked for when an error is there: not every command needs them.
_LIBRARY_MISTAKES = (
  ('tensorflow.python.framework.errors_impl', 'OpError'),
  ('yaml', 'YAMLError'),
  ('PIL.Image', 'DecompressionBombError'),
  ('google.protobuf.message', 'Error'),
)
_FULL = 'Free some space and run the command again.'
_BLOCKED = 'Remove the file that is in the way, or choose another path.'
_DENIED = 'Change its permissions, or choose another path.'
# What to do, by the system's words for what it found.
_ADVICE = {
  os.strerror(code): advice
  for code, advice in {
    errno.EACCES: _DENIED,
    errno.EDQUOT: _FULL,
    errno.EEXIST: _BLOCKED,
    errno.EFBIG: 'Raise the limit on file sizes (ulimit -f).',
    errno.EISDIR: 'Expected a file; name one inside it.',
    errno.EMFILE: 'Raise the limit on open files (ulimit -n).',
    errno.ENAMETOOLONG: 'Choose a shorter path.',
    errno.ENOENT: 'Check the path.',
    errno.ENOSPC: _FULL,
    errno.ENOTDIR: _BLOCKED,
    errno.EPERM: _DENIED,
    errno.EROFS: 'Choose another path.',
  }.items()
}
_LONGEST = 600


def _mistakes() -> tuple[type[BaseException], ...]:
  """Returns the errors that are taken for a user's."""
  modules = [
    (sys.modules.get(module), name) for module, name in _LIBRARY_MISTAKES
  ]
  return _MISTAKES + tuple(
    getattr(module, name) for module, name in modules if module
  )


def _is_our_sentence(error: BaseException) -> bool:
  """Whether a `raise` of this project made the error, and so its message."""
  traceback = error.__traceback__
  if traceback is None:
    return False
  while traceback.tb_next:
    traceback = traceback.tb_next
  code = traceback.tb_frame.f_code
  # int('x') in our code is raised there too, but not by a raise of ours.
  module = traceback.tb_frame.f_globals.get('__name__', '')
  return (
    module.partition('.')[0] in _PACKAGES
    and code.co_code[traceback.tb_lasti] == dis.opmap['RAISE_VARARGS']
  )


def _about_a_place(error: BaseException) -> str:
  """Says what is wrong with a file or folder, and what to do; '' if nothing."""
  message = files.final(str(getattr(error, 'message', '') or error)).strip()
  scheme = re.search(
    r"scheme '(.*?)' not implemented \(file: '(.*)'\)", message
  )
  if scheme:
    return (
      f'{scheme[2]}: TensorFlow cannot open {scheme[1]}:// here; '
      'expected a local path or gs://. Copy or mount the data first.'
    )
  if isinstance(error, OSError) and error.strerror:
    place, found = error.filename, error.strerror
  elif not isinstance(error, _MISTAKES):
    # TensorFlow writes 'PATH; No such file or directory'.
    place, _, found = message.partition('\n')[0].rpartition('; ')
    if not place and (
      blocked := re.fullmatch(r'(.*) is not a directory', message)
    ):
      place, found = blocked[1], os.strerror(errno.ENOTDIR)
  else:
    return ''
  if found not in _ADVICE:
    return ''
  if isinstance(place, (str, bytes)) and place:
    where = files.final(os.fsdecode(place)) + ': '
  else:
    where = ''
  return f'{where}{found[0].lower()}{found[1:]}. {_ADVICE[found]}'


def sentence(error: BaseException) -> str:
  """Says what went wrong, on one line.

  Args:
    error: that a user's mistake raised.

  Returns:
    The message that the project wrote, if it wrote one. What is wrong with a
    file or folder and what to do, if the system refused it. Else the library's
    own message, shortened, with its kind and how to see more.
  """
  # KeyError's own text is the repr of its message.
  message = (
    ' '.join(map(str, error.args))
    if isinstance(error, LookupError)
    else str(error)
  )
  message = ' '.join(files.without_addresses(message).split())
  if (
    _is_our_sentence(error)
    and message
    and not (isinstance(error, OSError) and error.strerror)
  ):
    return message
  about = _about_a_place(error)
  if about:
    return about
  if isinstance(error, ImportError) and error.name:
    message = message.rstrip('.')
  else:
    message = f'{type(error).__name__}: {message}'.rstrip('.: ')
  return (
    textwrap.shorten(files.final(message), _LONGEST, placeholder=' ...')
    + '. Add --debug to see where.'
  )


def without_effect(unused: Iterable[tuple[str, Sequence[str]]]) -> str:
  """Names the flags that were given, but that nothing looks at.

    without_effect([('without --clicks', ('min_clicks', 'blur'))])

  Args:
    unused: pairs of why flags have no effect, as the end of a sentence, and
      their names.

  Returns:
    A sentence about the first such pair; '' if no pair is wrong.
  """
  for why, names in unused:
    given = [f'--{name}' for name in names if flags.FLAGS[name].present]
    if given:
      return (
        f'{", ".join(given)} {"has" if len(given) == 1 else "have"} no '
        f'effect {why}. Remove {"it" if len(given) == 1 else "them"}, or '
        'change what is asked for.'
      )
  return ''


def guarded(
  main: Callable[[Sequence[str]], object],
  command: str,
  resumes: bool = True,
  debug: bool = False,
):
  """Wraps a command's main so that a mistake ends it with one sentence.

  Args:
    main: of the command.
    command: its name, which the sentence begins with.
    resumes: whether the same command resumes after Ctrl-C.
    debug: whether errors keep their traceback.

  Returns:
    A function as `main`. It raises SystemExit: 1 with the sentence, or 130 for
    Ctrl-C.
  """

  def run_main(argv):
    try:
      return main(argv)
    except KeyboardInterrupt:
      if debug:
        raise
      print(
        f'{command}: interrupted.'
        + ' Run the same command again to resume.' * resumes,
        file=sys.stderr,
      )
      raise SystemExit(130) from None
    except BrokenPipeError:
      # The reader of our output has gone, as `head` does; Python would complain
      # once more when it flushes.
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
      raise SystemExit(1) from None
    except Exception as e:
      if debug or not isinstance(e, _mistakes()):
        raise
      raise SystemExit(f'{command}: {sentence(e)}') from None

  return run_main


def _flag_error(error: flags.Error, known: Sequence[str]) -> str:
  """Says what is wrong with a flag."""
  if isinstance(error, flags.UnrecognizedFlagError):
    near = difflib.get_close_matches(error.flagname, known, 1)
    return f'--{error.flagname} is not a flag of this command' + (
      f'; did you mean --{near[0]}?' if near else '. --help lists its flags.'
    )
  message = ' '.join(str(error).split())
  missing = re.findall(
    r'Flag --(\w+) must have a value other than None', message
  )
  if missing:
    return (
      ', '.join(f'--{name}' for name in missing)
      + ' must be given. --help says what to give.'
    )
  return message.removeprefix('flag ')


def _parser(command: str, takes_arguments: bool):
  """Makes the parser of a command's flags."""

  def parse(argv):
    argv = [argv[0]] + ['--help' if a == '-h' else a for a in argv[1:]]
    known = [f.name for f in flags.FLAGS.get_key_flags_for_module(argv[0])]
    try:
      rest = flags.FLAGS(argv)
    except SystemExit:
      raise SystemExit(0) from None  # --help, which absl calls a failure.
    except flags.Error as e:
      raise SystemExit(f'{command}: {_flag_error(e, known)}') from None
    if rest[1:] and not takes_arguments:
      raise SystemExit(
        f'{command}: {rest[1]!r} is not a flag; expected '
        '--NAME=VALUE. --help lists the flags.'
      )
    return rest

  return parse


def run(
  main: Callable[[Sequence[str]], object],
  module: str,
  *,
  name: str = '',
  flags_of: Sequence[str] = (),
  takes_arguments: bool = False,
  resumes: bool = True,
):
  """Runs a command whose flags are defined.

  absl's --help speaks of the file that was started; these commands are started
  from several.

  Args:
    main: of the command.
    module: name of the module that the command is written in.
    name: of the command, which its messages begin with; that of the module's
      file by default.
    flags_of: other modules whose flags are the command's, too.
    takes_arguments: whether there may be arguments that are not flags.
    resumes: whether the same command resumes after Ctrl-C.
  """
  own = sys.modules[module]
  name = name or os.path.splitext(os.path.basename(own.__file__))[0]
  sys.modules['__main__'].__doc__ = own.__doc__
  flags.DEFINE_bool(
    'debug', False, 'Show the traceback of an error.', module_name=module
  )
  # Run with `python -m`, the module goes by the name of what was started.
  for source in (module, _MODEL_GARDEN_FLAGS, *flags_of):
    for flag in flags.FLAGS.get_key_flags_for_module(source):
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(
    lambda argv: guarded(main, name, resumes, flags.FLAGS.debug)(argv),
    flags_parser=_parser(name, takes_arguments),
  )
