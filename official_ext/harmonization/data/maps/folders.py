# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds files in folders, except hidden and system files.

File managers, cameras and archives leave hidden files and folders behind, and
links may be broken or circular. None of these is an image, a map or a class.
"""

import collections
from collections.abc import Iterator, Sequence
import os
import stat

from absl import logging
import tensorflow as tf

from official_ext.harmonization import files

# In lower case. Names that begin with a dot, such as .DS_Store, are hidden too.
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
# Images of these types are reported if they are not among those to read.
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
  """Whether a file or a folder in its path is hidden or a system file.

  Args:
    path: relative to the folder that the user named.
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
  folder: str, types: Sequence[str], excluded: str = '', log: bool = True
) -> list[tuple[str, int]]:
  """Finds files in a folder and below.

  Hidden files and folders are skipped, and so are links to a folder that
  contains them. Broken links are returned, so that opening them reports an
  error. A summary of what was skipped is logged.

  Args:
    folder: to search.
    types: extensions, in lower case.
    excluded: a folder below that is not searched.
    log: whether to log what was skipped.

  Returns:
    Path relative to the folder, with / as separator, and size in bytes (-1 for
    a broken link), sorted.

  Raises:
    ValueError: it is not a folder, or a folder below cannot be read.
  """
  if not tf.io.gfile.isdir(folder):
    raise ValueError(
      f'{folder} is not a folder; expected a folder of files '
      f'({", ".join(types)}). Check the path.'
    )
  found, skipped = [], collections.defaultdict(list)
  walk = (
    _remote(folder)
    if '://' in folder
    else _local(
      folder,
      '',
      [os.path.realpath(folder)],
      excluded and os.path.realpath(excluded),
      skipped,
    )
  )
  for path, size in walk:
    name = path.lower()
    if is_hidden(path):
      if name.endswith(tuple(types)):
        skipped['hidden or system files'].append(path)
    elif not path.isprintable() and not _is_text(path):
      skipped['names that are not UTF-8'].append(ascii(path))
    elif name.endswith(tuple(types)):
      found.append((path, size))
    elif name.endswith(_PICTURES):
      skipped['images of other types'].append(path)
  if log and skipped:
    logging.warning(
      '%s: skipped %s.',
      folder,
      '; '.join(
        f'{what} ({len(paths)}: {paths[0]}{", ..." * (len(paths) > 1)})'
        for what, paths in sorted(skipped.items())
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
  """Walks through a remote folder, which has no links."""
  for path, _, names in tf.io.gfile.walk(folder):
    for name in names:
      whole = os.path.join(path, name)
      yield (
        os.path.relpath(whole, folder).replace(os.sep, '/'),
        tf.io.gfile.stat(whole).length,
      )


def _local(
  folder: str, below: str, above: list[str], excluded: str, skipped
) -> Iterator[tuple[str, int]]:
  """Walks through a folder, following links.

  Args:
    folder: that the user named.
    below: path of the subfolder to walk through, or ''.
    above: real paths of that subfolder and of all folders that contain it.
    excluded: real path of a folder that is not searched, or ''.
    skipped: lists of skipped paths by reason, to be extended.

  Yields:
    Path and size of each file.
  """
  try:
    with os.scandir(os.path.join(folder, below)) as entries:
      names = sorted(entry.name for entry in entries)
  except OSError as e:
    raise ValueError(
      f'{os.path.join(folder, below)} cannot be read ({e.strerror}); expected '
      'a readable folder. Change its permissions.'
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
      # Reading a pipe would wait forever.
      skipped['pipes and devices'].append(path)
    elif is_hidden(name):
      skipped['hidden or system folders'].append(path)
    else:
      real = os.path.realpath(whole)
      if real in above:
        skipped['links to a folder that contains them'].append(path)
      elif real != excluded:
        yield from _local(folder, path, [*above, real], excluded, skipped)


def locate(folder: str, name: str, prefix: str = '') -> str:
  """Finds the file that a table names, in spite of another spelling.

  Args:
    folder: of the files.
    name: relative path, as from `files.normal`. The file system may store
      accents in another Unicode form, or have backslashes in a name.
    prefix: folders that may be between the two.

  Returns:
    The path of the file; if it does not exist, `folder` joined with `name`.
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
  """Returns the path of the file with this normalized name; '' if none."""
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
