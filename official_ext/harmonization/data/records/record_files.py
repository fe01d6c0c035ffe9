# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds the record files that patterns and folders name."""

from collections.abc import Sequence
import os

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.records import manifest

# Files that the commands write next to records.
LEFT_OUT = 'left_out.csv'
UNMATCHED = 'maps_without_image.csv'
STIMULI = 'stimuli.csv'
_SIDE_FILES = (manifest.FILE, LEFT_OUT, UNMATCHED, STIMULI)


def is_hidden(path: str) -> bool:
  """Whether a relative path, or a folder in it, is hidden, such as .build."""
  return any(part.startswith('.') and part != '.' for part in path.split('/'))


def is_side_file(path: str) -> bool:
  """Whether a file is one that this project writes next to records.

  Args:
    path: of a file or folder.

  Returns:
    True for manifests, lists, partial files, and hidden files such as the notes
    of a build.
  """
  name = os.path.basename(os.path.normpath(path))
  return (
    name in _SIDE_FILES or name.startswith('.') or name.endswith(files.PARTIAL)
  )


def expand(patterns: Sequence[str], flag: str = '') -> list[str]:
  """Returns the record files that patterns name.

  Args:
    patterns: paths, folders, and paths with wildcards; each may be a list
      separated by commas. A folder means the files in it and below.
    flag: name of the flag that they were given by, for messages.

  Returns:
    Paths, sorted, without duplicates, side files and folders.

  Raises:
    ValueError: a pattern names no record file.
    tf.errors.OpError: a folder cannot be read.
  """
  found = set()
  for pattern in (p.strip() for many in patterns for p in many.split(',')):
    if pattern:
      found.update(match(pattern, flag))
  return files.distinct(sorted(found))


def has_wildcards(pattern: str) -> bool:
  """Whether a pattern may name several files."""
  return any(c in pattern for c in '*?')


def match(
  pattern: str, flag: str = '', kind: str = 'TFRecord files'
) -> list[str]:
  """Returns the record files that one pattern names.

  Args:
    pattern: a path, a folder, or a path with wildcards.
    flag: as for `expand`.
    kind: what the files should be, for messages.

  Returns:
    Paths without side files and folders. Links to the same file are different
    paths.

  Raises:
    ValueError: the pattern names no such file.
    tf.errors.OpError: a folder cannot be read.
  """
  matches = _matches(pattern)
  records = [
    path
    for path in matches
    if not is_side_file(path) and not tf.io.gfile.isdir(path)
  ]
  if not records:
    where = f'--{flag}={pattern}' if flag else pattern
    if not tf.io.gfile.exists(pattern) and not has_wildcards(pattern):
      raise ValueError(
        f'{where} does not exist; expected {kind}. Check the path.'
      )
    if tf.io.gfile.isdir(pattern) and not matches:
      raise ValueError(
        f'{where} is a folder without files; expected {kind}. Check the path.'
      )
    only = sorted(map(os.path.basename, matches))[:3]
    raise ValueError(
      f'{where} matches no file'
      + (f' but {", ".join(only)}' if only else '')
      + f'; expected {kind}. Check the path.'
    )
  return records


def in_folder(folder: str) -> list[str]:
  """Returns the record files in a folder and below, without side files.

  Args:
    folder: local or remote.
  """
  found = []
  for path, _, names in tf.io.gfile.walk(folder):
    if not is_hidden(os.path.relpath(path, folder)):
      found += [
        os.path.join(path, name) for name in names if not is_side_file(name)
      ]
  return sorted(found)


def _matches(pattern: str) -> list[str]:
  """Returns the files that a path, a folder or a pattern names."""
  if tf.io.gfile.isdir(pattern):
    return in_folder(pattern)
  # The name of an existing file may contain wildcards.
  return [pattern] if tf.io.gfile.exists(pattern) else tf.io.gfile.glob(pattern)
