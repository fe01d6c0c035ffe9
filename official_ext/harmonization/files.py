"""Files that are whole or absent, paths, and how two settings differ.

TensorFlow is imported where a path is opened: settings can be compared, and
`cli` loaded, without it.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import contextlib
import itertools
import json
import os
import posixpath
import re
import reprlib
import socket
from typing import Any
import unicodedata

PARTIAL = '.partial'
_OURS = re.compile(rf'\.([^/]+)\.[^/.]+-\d+-\d+{re.escape(PARTIAL)}')
_DRIVE = re.compile(r'[A-Za-z]:/')
# How Python prints an object that has no text of its own.
_ADDRESS = re.compile(r'\s*<[\w.]+(?: [^<>]*)? at 0x[0-9a-fA-F]+>')
_count = itertools.count()


class _Absent:
  def __repr__(self):
    return 'absent'


# Stands for a setting that only the other side has.
ABSENT = _Absent()


def partial(path: str) -> str:
  """Names the file that is written before it is renamed to `path`.

  The name belongs to this process, so that two that write the same file cannot
  mix their bytes. It begins with a dot, so that patterns such as train-* do not
  match it.

  Args:
    path: of the file that will be there in the end.

  Returns:
    A path in the same folder, another one for each call.
  """
  folder, name = os.path.split(path)
  # File systems allow 255 bytes in a name.
  name = name.encode()[:120].decode(errors='ignore')
  host = socket.gethostname()[:40].replace('.', '-')
  return os.path.join(
    folder, f'.{name}.{host}-{os.getpid()}-{next(_count)}{PARTIAL}'
  )


def final(text: str) -> str:
  """Gives partial files the names that they will have in the end.

  Args:
    text: a path or a message with paths.

  Returns:
    The same with the names that `partial` was given.
  """
  return _OURS.sub(r'\1', text)


def remove_partial(folder: str):
  """Removes the partial files that processes left that were killed.

  Args:
    folder: local, and locked by this process: no other writes to it.
  """
  for name in os.listdir(folder):
    if _OURS.fullmatch(name):
      os.remove(os.path.join(folder, name))


def without_addresses(text: Any) -> str:
  """Returns a message without the addresses of objects.

  Libraries put their arguments into their messages, such as <_io.BytesIO object
  at 0x7f...>, which say nothing and differ from run to run.

  Args:
    text: or an exception.
  """
  return _ADDRESS.sub('', str(text))


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
  """Gives the path of a file to write, which replaces `path` at the end.

    with files.replacing('runs/model.h5') as partial:
      model.save_weights(partial)

  Args:
    path: local or remote (gs://).

  Yields:
    The path to write. If the block fails, that file is removed and `path` is
    what it was.
  """
  import tensorflow as tf

  temporary = partial(path)
  try:
    yield temporary
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except BaseException:
    with contextlib.suppress(OSError, tf.errors.OpError):
      tf.io.gfile.remove(temporary)
    raise


@contextlib.contextmanager
def atomic(path: str, mode: str = 'w'):
  """Opens a file that appears whole, or not at all.

    with files.atomic('runs/table.csv') as f:
      csv.writer(f).writerows(rows)

  Args:
    path: local or remote (gs://); its folder exists.
    mode: 'w' for text in UTF-8, 'wb' for bytes.

  Yields:
    The file, open for writing.
  """
  import tensorflow as tf

  with replacing(path) as temporary:
    with tf.io.gfile.GFile(temporary, mode) as f:
      yield f


def write(path: str, content: str | bytes):
  """Writes a file, whole or not at all.

  Args:
    path: local or remote (gs://); its folder exists.
    content: text, which becomes UTF-8, or bytes.
  """
  with atomic(path, 'wb') as f:
    f.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str, content: Any, **options):
  """Writes a JSON file, whole or not at all.

  Args:
    path: local or remote (gs://); its folder exists.
    content: what JSON can hold.
    **options: of `json.dumps`; indent is 2 by default.
  """
  write(path, json.dumps(content, **{'indent': 2, **options}) + '\n')


def read_json(path: str, what: str = 'JSON') -> Any:
  """Reads a JSON file.

  Args:
    path: local or remote (gs://).
    what: the file should hold, for the message.

  Returns:
    Its content.

  Raises:
    ValueError: it is not JSON; the message names the file and the place.
    tf.errors.OpError: it cannot be read.
  """
  import tensorflow as tf

  with tf.io.gfile.GFile(path, 'rb') as f:
    content = f.read()
  try:
    return json.loads(content)
  except ValueError as e:
    found = e if content.strip() else 'it is empty'
    raise ValueError(
      f'{path} is not JSON ({found}); expected {what}. Remove '
      'or restore the file.'
    ) from None


def normal(path: str) -> str:
  r"""Writes a path below a folder in one way, so that equal ones are equal.

    normal('cat\\.//e\u0301.png') == 'cat/\xe9.png'

  Args:
    path: as a table or a file system has it: with / or \, in any of Unicode's
      forms (macOS takes letters and their accents apart), with ., .. or //.

  Returns:
    The path with single /, without . and with .. only at its start, in
    Unicode's form NFC; '' where it names the folder itself.
  """
  path = unicodedata.normalize('NFC', path).replace('\\', '/')
  path = posixpath.normpath(re.sub('/+', '/', path)) if path else ''
  return '' if path == '.' else path


def _identity(path: str) -> Any:
  """What two paths of one file have in common."""
  try:
    found = os.stat(path)
  except (OSError, ValueError):
    # Another file system, or a missing file.
    scheme, separator, rest = path.rpartition('://')
    return scheme + separator + os.path.normpath(rest)
  # Some file systems number no files.
  return (
    (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
  )


def distinct(paths: Iterable[str]) -> list[str]:
  """Removes paths of files that others name already.

  One file can be written in several ways (`a`, `./a`, a link to it), and match
  several patterns: its images would count twice.

  Args:
    paths: of files, local or remote.

  Returns:
    The first path of each file, in order.
  """
  first = {}
  for path in paths:
    first.setdefault(_identity(path), path)
  return list(first.values())


def is_below(path: str) -> bool:
  """Whether a normal path stays below the folder that it is relative to."""
  return bool(path) and not (
    path.startswith('/') or path.split('/')[0] == '..' or _DRIVE.match(path)
  )


def differences(old: Any, new: Any, name: str = '') -> dict[str, tuple]:
  """Names what differs between two settings.

    differences({'a': {'b': 1}}, {'a': {'b': 2}, 'c': 3})
    # {'a.b': (1, 2), 'c': (absent, 3)}

  Args:
    old: dictionaries of anything, in any depth. Tuples and lists are equal if
      their elements are, and so is NaN to NaN, as JSON and YAML would have it.
    new: the same.
    name: of what is compared, which the keys begin with.

  Returns:
    The old and the new value by dotted key, in the order of the keys. One that
    is not there is `ABSENT`.
  """
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    found = {}
    for key in sorted({*old, *new}, key=str):
      inner = f'{name}.{key}' if name else str(key)
      found.update(
        differences(old.get(key, ABSENT), new.get(key, ABSENT), inner)
      )
    return found
  return {} if _same(old, new) else {name: (old, new)}


def _same(old: Any, new: Any) -> bool:
  """Whether two values are equal."""
  if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
    return len(old) == len(new) and not any(
      differences(a, b) for a, b in zip(old, new)
    )
  # True is not 1: a flag that became a number has changed.
  if isinstance(old, bool) != isinstance(new, bool):
    return False
  try:
    return bool(old == new or (old != old and new != new))
  except ValueError:  # Arrays.
    return repr(old) == repr(new)


def in_words(found: Mapping[str, tuple], most: int = 5) -> str:
  """Puts differences into words.

  Args:
    found: as from `differences`.
    most: how many are named.

  Returns:
    Such as 'seed was 0 and is now 1; size was absent and is now 256'.
  """
  short = reprlib.Repr()
  short.maxstring = short.maxother = 80
  short.maxlist = short.maxtuple = short.maxdict = 6
  parts = [
    f'{name} was {short.repr(old)} and is now {short.repr(new)}'
    for name, (old, new) in itertools.islice(found.items(), most)
  ]
  more = len(found) - len(parts)
  return '; '.join(parts) + (f'; and {more} more' if more else '')


def changed_names(found: Mapping[str, tuple]) -> str:
  """Says which names are new, which are missing and which mean something else.

  Args:
    found: as from `differences`, of what each name means.

  Returns:
    Such as 'new: c.png; missing: a.png, b.png'. Three of each are named.
  """
  kinds = collections.defaultdict(list)
  for name, (old, new) in found.items():
    kinds[
      'new' if old is ABSENT else 'missing' if new is ABSENT else 'different'
    ].append(name)
  return '; '.join(
    f'{kind}: {", ".join(names[:3])}'
    + (f' and {len(names) - 3} more' if names[3:] else '')
    for kind, names in kinds.items()
  )
