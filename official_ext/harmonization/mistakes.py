# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Describes a user's mistake in one line: what is wrong, and what to do."""

import csv
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

from official_ext.harmonization import files

_PACKAGES = ('official_ext', 'performance', 'stress', 'studies', '__main__')
# Errors that a wrong flag, file or folder raises, here or in a library.
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
# The same errors of libraries that not every command imports: they are looked
# up in sys.modules when an error occurs.
_LIBRARY_MISTAKES = (
  ('tensorflow.python.framework.errors_impl', 'OpError'),
  ('yaml', 'YAMLError'),
  ('PIL.Image', 'DecompressionBombError'),
  ('google.protobuf.message', 'Error'),
)
_FULL = 'Free some space and run the command again.'
_BLOCKED = 'Remove the file that is in the way, or choose another path.'
_DENIED = 'Change its permissions, or choose another path.'
# What to do, by the operating system's message.
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


def types() -> tuple[type[BaseException], ...]:
  """Returns the types of errors that count as a user's mistake."""
  modules = [
    (sys.modules.get(module), name) for module, name in _LIBRARY_MISTAKES
  ]
  return _MISTAKES + tuple(
    getattr(module, name) for module, name in modules if module
  )


def _is_our_sentence(error: BaseException) -> bool:
  """Whether a `raise` in this project made the error and its message."""
  traceback = error.__traceback__
  if traceback is None:
    return False
  while traceback.tb_next:
    traceback = traceback.tb_next
  code = traceback.tb_frame.f_code
  # An error of int('x') in our code ends there too, but at a call.
  module = traceback.tb_frame.f_globals.get('__name__', '')
  return (
    module.partition('.')[0] in _PACKAGES
    and code.co_code[traceback.tb_lasti] == dis.opmap['RAISE_VARARGS']
  )


def _about_a_path(error: BaseException) -> str:
  """Describes a problem with a file or folder and what to do; '' if none."""
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
  """Describes a user's mistake in one line.

  Args:
    error: the exception.

  Returns:
    The exception's message if this project wrote it. If the operating system
    refused a file or folder, its path, the reason and what to do. Otherwise
    the type and the shortened message of the exception, and a hint at --debug.
  """
  # str(KeyError(x)) is repr(x).
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
  about = _about_a_path(error)
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
