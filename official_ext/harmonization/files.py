# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Atomic writes, normalized paths, and differences between settings.

TensorFlow is imported by the functions that open a path, because it takes
seconds and `cli` must answer --help without it.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
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
# The default repr of an object, such as <_io.BytesIO object at 0x7f...>.
_ADDRESS = re.compile(r'\s*<[\w.]+(?: [^<>]*)? at 0x[0-9a-fA-F]+>')
_count = itertools.count()


class _Absent:
  def __repr__(self):
    return 'absent'


# The value of a setting that only the other side has.
ABSENT = _Absent()


def partial(path: str) -> str:
  """Names a temporary file that is to be renamed to `path` when complete.

  No two calls return the same name, in any process, so that two writers of one
  file cannot mix their bytes. The name begins with a dot, so that patterns such
  as train-* do not match it.

  Args:
    path: of the final file.

  Returns:
    A path in the same folder.
  """
  folder, name = os.path.split(path)
  # File systems allow 255 bytes in a name.
  name = name.encode()[:120].decode(errors='ignore')
  host = socket.gethostname()[:40].replace('.', '-')
  return os.path.join(
    folder, f'.{name}.{host}-{os.getpid()}-{next(_count)}{PARTIAL}'
  )


def final(text: str) -> str:
  """Replaces the names of partial files by those of the final files.

  Args:
    text: a path, or a message that contains paths.

  Returns:
    The text with the paths that `partial` was called with.
  """
  return _OURS.sub(r'\1', text)


def remove_partial(folder: str):
  """Removes the partial files that killed processes left behind.

  Args:
    folder: a local folder that this process has locked, so that nobody else is
      writing to it.
  """
  for name in os.listdir(folder):
    if _OURS.fullmatch(name):
      os.remove(os.path.join(folder, name))


def without_addresses(text: Any) -> str:
  """Returns a message without the addresses of objects.

  Libraries quote objects in their messages, such as <_io.BytesIO object at
  0x7f...>. Addresses inform nobody and differ from run to run.

  Args:
    text: a message or an exception.
  """
  return _ADDRESS.sub('', str(text))


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
  """Yields a temporary path, which is renamed to `path` at the end.

    with files.replacing('runs/model.h5') as partial:
      model.save_weights(partial)

  Args:
    path: local or remote (gs://).

  Yields:
    The path to write to. If the block raises, that file is removed and `path`
    is unchanged.
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
  """Opens a file that appears under its name only when it is complete.

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
  """Writes a file atomically.

  Args:
    path: local or remote (gs://); its folder exists.
    content: bytes, or text, which is encoded in UTF-8.
  """
  with atomic(path, 'wb') as f:
    f.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str, content: Any, **options):
  """Writes a JSON file atomically.

  Args:
    path: local or remote (gs://); its folder exists.
    content: anything that `json.dumps` accepts.
    **options: for `json.dumps`; indent is 2 by default.
  """
  write(path, json.dumps(content, **{'indent': 2, **options}) + '\n')


def read_json(path: str, what: str = 'JSON') -> Any:
  """Reads a JSON file.

  Args:
    path: local or remote (gs://).
    what: what the file should contain, for the message.

  Returns:
    The decoded content.

  Raises:
    ValueError: the file is not JSON; the message names the file and the
      position.
    tf.errors.OpError: the file cannot be read.
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
  r"""Normalizes a path below a folder, so that equal paths compare equal.

    normal('cat\\.//e\u0301.png') == 'cat/\xe9.png'

  Args:
    path: from a table or a file system: with / or \, in any Unicode
      normalization form (macOS decomposes accented letters), with ., .. or //.

  Returns:
    The path in Unicode form NFC, with single /, without . and with .. only at
    the start; '' for the folder itself.
  """
  path = unicodedata.normalize('NFC', path).replace('\\', '/')
  path = posixpath.normpath(re.sub('/+', '/', path)) if path else ''
  return '' if path == '.' else path


def _identity(path: str) -> Any:
  """Returns a key that is equal for two paths of the same file."""
  try:
    found = os.stat(path)
  except (OSError, ValueError):
    # A remote or a missing file.
    scheme, separator, rest = path.rpartition('://')
    return scheme + separator + os.path.normpath(rest)
  # Some file systems report inode 0 for every file.
  return (
    (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
  )


def distinct(paths: Iterable[str]) -> list[str]:
  """Removes paths that name the same file as an earlier one.

  A file has several paths (`a`, `./a`, a link to it) and can match several
  patterns; its images would then count twice.

  Args:
    paths: of local or remote files.

  Returns:
    The first path of each file, in the given order.
  """
  first = {}
  for path in paths:
    first.setdefault(_identity(path), path)
  return list(first.values())


def is_below(path: str) -> bool:
  """Whether a normalized path stays below the folder it is relative to."""
  return bool(path) and not (
    path.startswith('/') or path.split('/')[0] == '..' or _DRIVE.match(path)
  )


def refuse_output_in(
  output_dir: str, inputs: Mapping[str, str], below: bool = False
):
  """Refuses a folder of results that is a folder of inputs.

  A folder of inputs with results in it is another input when the command is
  run again, and nobody can tell later which files were given.

  Args:
    output_dir: the folder of the flag --output_dir.
    inputs: folders by the flag that gives them; '' if the flag is not given.
    below: whether folders below one of inputs are refused, too, because the
      results would be read as inputs.

  Raises:
    ValueError: it is such a folder.
  """
  for flag, folder in inputs.items():
    if not folder or '://' in folder + output_dir:
      continue
    output, given = map(os.path.realpath, (output_dir, folder))
    is_below = below and output.startswith(os.path.join(given, ''))
    if output == given or is_below:
      raise ValueError(
        f'--output_dir={output_dir} is {"in " * is_below}the folder of '
        f'--{flag}; expected another folder, because results would mix with '
        'inputs. Choose another --output_dir.'
      )


def differences(old: Any, new: Any, name: str = '') -> dict[str, tuple]:
  """Finds the differences between two settings.

    differences({'a': {'b': 1}}, {'a': {'b': 2}, 'c': 3})
    # {'a.b': (1, 2), 'c': (absent, 3)}

  Args:
    old: nested dictionaries. Tuples and lists with equal elements are equal,
      and NaN equals NaN, as after a round trip through JSON or YAML.
    new: likewise.
    name: prefix of the keys.

  Returns:
    (old, new) by dotted key, sorted by key. A missing value is `ABSENT`.
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
  # In Python True == 1, but a flag that became a number has changed.
  if isinstance(old, bool) != isinstance(new, bool):
    return False
  try:
    return bool(old == new or (old != old and new != new))
  except ValueError:  # The truth value of an array is ambiguous.
    return repr(old) == repr(new)


def in_words(found: Mapping[str, tuple], most: int = 5) -> str:
  """Describes differences.

  Args:
    found: the result of `differences`.
    most: how many differences are named.

  Returns:
    For example 'seed was 0 and is now 1; size was absent and is now 256'.
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


def require_equal(
  where: str,
  before: Any,
  now: Any,
  advice: str,
  *,
  expected: str = 'the settings it was begun with',
  describe: Callable[[Mapping[str, tuple]], str] = in_words,
):
  """Refuses to resume with settings other than the stored ones.

    files.require_equal(
        'runs/x/settings.json', {'seed': 0}, {'seed': 1},
        'Choose another --output_dir.')
    # ValueError: runs/x/settings.json: seed was 0 and is now 1; expected the
    # settings it was begun with. Choose another --output_dir.

  Args:
    where: the file or folder whose settings are compared.
    before: the settings of the stored result.
    now: the settings of this command.
    advice: what the user can do, as a sentence.
    expected: end of the sentence.
    describe: puts the result of `differences` into words.

  Raises:
    ValueError: the settings differ; the message names the differences.
  """
  found = differences(before, now)
  if found:
    raise ValueError(
      f'{where}: {describe(found)}; expected {expected}. {advice}'
    )


def changed_names(found: Mapping[str, tuple]) -> str:
  """Lists the names that were added, removed or changed.

  Args:
    found: the result of `differences` between two mappings from names to
      whatever identifies their contents.

  Returns:
    For example 'new: c.png; missing: a.png, b.png', with at most three names
    of each kind.
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
