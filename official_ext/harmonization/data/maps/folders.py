"""Finds files in folders as people have them.

File managers, cameras and archives leave hidden files and folders behind, and
links lead nowhere or in circles. None of these is an image, a map or a class.
"""

import collections
from collections.abc import Iterator, Sequence
import os
import stat

from absl import logging
import tensorflow as tf

from official_ext.harmonization import files

# In lower case. What begins with a dot is hidden as well: .DS_Store, ._a.png.
_SYSTEM = frozenset(
  (
    '#recycle',
    '$recycle.bin',
    '@eadir',
    '@recycle',
    '@tmp',
    '__macosx',
    '__pycache__',
    'desktop.ini',
    'ehthumbs.db',
    'lost+found',
    'system volume information',
    'thumbs.db',
  )
)
# Pictures that may be in a folder of images without being read.
_PICTURES = (
  '.avif',
  '.bmp',
  '.dng',
  '.gif',
  '.heic',
  '.heif',
  '.j2k',
  '.jfif',
  '.jp2',
  '.jpe',
  '.jpeg',
  '.jpg',
  '.jxl',
  '.pgm',
  '.png',
  '.ppm',
  '.svg',
  '.tga',
  '.tif',
  '.tiff',
  '.webp',
)


def is_hidden(path: str) -> bool:
  """Whether a file, or a folder above it, is hidden or the system's own.

  Args:
    path: below the folder that the user named.

  Returns:
    Whether one of its parts is.
  """
  return any(
    part.startswith('.') and part != '..' or part.lower() in _SYSTEM
    for part in files.normal(path).split('/')
  )


def is_same(one: str, other: str) -> bool:
  """Whether two paths lead to the same file or folder."""
  return one == other or (
    '://' not in one + other
    and os.path.realpath(one) == os.path.realpath(other)
  )


def find(
  folder: str, types: Sequence[str], but: str = '', log: bool = True
) -> list[tuple[str, int]]:
  """Finds files in a folder and below.

  Hidden files and folders are passed over, and so are links to a folder that
  they are in. A link that leads nowhere is found, so that whoever opens it says
  so. What was passed over is logged with its number and the first of it.

  Args:
    folder: to look in.
    types: endings, in lower case.
    but: a folder below that is not looked into.
    log: whether what was passed over is logged.

  Returns:
    Path below the folder, with / between its parts, and size in bytes (-1 of a
    link that leads nowhere), sorted.

  Raises:
    ValueError: it is not a folder, or one below cannot be read.
  """
  if not tf.io.gfile.isdir(folder):
    raise ValueError(
      f'{folder} is not a folder; expected one with files ({", ".join(types)}).'
    )
  found, passed_over = [], collections.defaultdict(list)
  walk = (
    _remote(folder)
    if '://' in folder
    else _local(
      folder,
      '',
      [os.path.realpath(folder)],
      but and os.path.realpath(but),
      passed_over,
    )
  )
  for path, size in walk:
    name = path.lower()
    if is_hidden(path):
      if name.endswith(tuple(types)):
        passed_over['hidden or system files'].append(path)
    elif not path.isprintable() and not _is_text(path):
      passed_over['names that are not UTF-8'].append(ascii(path))
    elif name.endswith(tuple(types)):
      found.append((path, size))
    elif name.endswith(_PICTURES):
      passed_over['pictures of other kinds'].append(path)
  if log and passed_over:
    logging.warning(
      '%s: passed over %s.',
      folder,
      '; '.join(
        f'{what} ({len(paths)}: {paths[0]}{", ..." * (len(paths) > 1)})'
        for what, paths in sorted(passed_over.items())
      ),
    )
  return sorted(found)


def _is_text(path: str) -> bool:
  try:
    path.encode()
  except UnicodeEncodeError:
    return False
  return True


def _remote(folder: str) -> Iterator[tuple[str, int]]:
  """Walks through a folder that is not in a file system, and has no links."""
  for path, _, names in tf.io.gfile.walk(folder):
    for name in names:
      whole = os.path.join(path, name)
      yield (
        os.path.relpath(whole, folder).replace(os.sep, '/'),
        tf.io.gfile.stat(whole).length,
      )


def _local(
  folder: str, below: str, above: list[str], but: str, passed_over
) -> Iterator[tuple[str, int]]:
  """Walks through a folder, following links.

  Args:
    folder: that the user named.
    below: the part of it that is walked through, or ''.
    above: real paths of that part and of all folders that it is in.
    but: real path of a folder to keep out of, or ''.
    passed_over: lists to add paths to.

  Yields:
    Path and size of each file.
  """
  try:
    with os.scandir(os.path.join(folder, below)) as entries:
      names = sorted(entry.name for entry in entries)
  except OSError as e:
    raise ValueError(
      f'{os.path.join(folder, below)} cannot be read '
      f'({e.strerror}); expected a readable folder.'
    ) from None
  for name in names:
    path = f'{below}/{name}' if below else name
    whole = os.path.join(folder, path)
    try:
      found = os.stat(whole)
    except OSError:
      yield path, -1
      continue
    if stat.S_ISREG(found.st_mode):
      yield path, found.st_size
    elif not stat.S_ISDIR(found.st_mode):
      # Reading a pipe would wait for ever.
      passed_over['pipes and devices'].append(path)
    elif is_hidden(name):
      passed_over['hidden or system folders'].append(path)
    else:
      real = os.path.realpath(whole)
      if real in above:
        passed_over['links to a folder they are in'].append(path)
      elif real != but:
        yield from _local(folder, path, [*above, real], but, passed_over)


def locate(folder: str, name: str, prefix: str = '') -> str:
  """Finds the file that a table names, whose name may be written otherwise.

  Args:
    folder: of the files.
    name: below it, as `files.normal` writes it. The file system may have
      letters and accents apart, or backslashes in a name.
    prefix: folders that may be between the two.

  Returns:
    The path of the file; that of the name itself if it does not exist.
  """
  for below in (name, *filter(None, [prefix and f'{prefix}/{name}'])):
    path = os.path.join(folder, below)
    if tf.io.gfile.exists(path):
      return path
    path = '' if '://' in folder else _respelled(folder, files.normal(below))
    if path:
      return path
  return os.path.join(folder, name)


def _respelled(folder: str, name: str) -> str:
  """Returns the path of a file whose normal name is another's; '' if none."""
  parts = name.split('/')
  while parts:
    try:
      names = {files.normal(entry): entry for entry in os.listdir(folder)}
    except OSError:
      return ''
    if '/'.join(parts) in names:
      return os.path.join(folder, names['/'.join(parts)])
    if parts[0] not in names:
      return ''
    folder = os.path.join(folder, names[parts.pop(0)])
  return ''
