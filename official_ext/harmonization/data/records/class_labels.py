# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds the class of an image in a table, a column or its folder."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import os
import posixpath
import re
import unicodedata

from official_ext.harmonization import choices
from official_ext.harmonization import files
from official_ext.harmonization import text_files

# ASCII, because int rejects some of Unicode's digits. Spreadsheets turn 5 into
# 5.0 if other cells of the column are empty.
_NUMBER = re.compile(r'([0-9]+)(\.0*)?')


def strip_prefix(path: str, prefix: str) -> str:
  """Removes folders from the start of a path.

  Args:
    path: as from `files.normal`.
    prefix: the folders, such as imagenet/train.

  Returns:
    The rest; the unchanged path if it does not begin with these folders.
  """
  prefix = files.normal(prefix)
  return (
    path[len(prefix) :].lstrip('/')
    if (prefix and path.startswith(prefix.rstrip('/') + '/'))
    else path
  )


class Labels:
  """Classes of images.

  Attributes:
    names: names of the classes by number; empty if they only have numbers.
  """

  def __init__(
    self,
    table: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
    prefix: str = '',
  ):
    """Initializes the classes.

    Args:
      table: classes by the path of the image, with or without extension; None
        to use the recorded class, or else the folder.
      names: names of the classes by number.
      prefix: folders above those of the classes, with which paths of images may
        begin.
    """
    self.names = [unicodedata.normalize('NFC', name) for name in names]
    self._table = table and {files.normal(k): v for k, v in table.items()}
    self._numbers = {name: i for i, name in enumerate(self.names)}
    self._prefix = prefix

  def fingerprint(self) -> str:
    """Returns a checksum of the table and the names."""
    content = json.dumps(
      [self.names, self._table, *filter(None, [self._prefix])], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()

  def inventory(self) -> dict[str, str]:
    """Returns what the checksum summarizes: names and classes."""
    return {
      **{f'class {i}': name for i, name in enumerate(self.names)},
      **(self._table or {}),
    }

  def of(self, image: str, recorded: str = '') -> int:
    """Returns the number of an image's class.

    Args:
      image: its path below the folder of images.
      recorded: its class in the file of clicks, or empty.

    Raises:
      ValueError: its class is missing or unknown.
    """
    image = strip_prefix(files.normal(image), self._prefix)
    if self._table is not None:
      text = self._table.get(image, self._table.get(os.path.splitext(image)[0]))
      if text is None:
        raise ValueError(
          f'the file of --labels does not contain {image}{self._similar(image)}'
        )
    else:
      text = recorded or posixpath.dirname(image).split('/')[0]
    text = unicodedata.normalize('NFC', text.strip())
    if text in self._numbers:
      return self._numbers[text]
    if not text:
      raise ValueError(
        f'{image} has no class; expected a number, a name, or a folder with '
        'the name of the class'
      )
    number = _NUMBER.fullmatch(text)
    if not number:
      near = choices.nearest(text, self.names)
      raise ValueError(
        f'class {text!r} is neither a number nor a known name'
        + (f' (did you mean {near}?)' if near else '')
      )
    # Such names may be in any order, so that a number could be a name.
    if any(map(_NUMBER.fullmatch, self.names)):
      raise ValueError(
        f'class {text} is not one of the names of the classes, some of which '
        'are numbers'
      )
    label = int(number[1])
    if self.names and label >= len(self.names):
      raise ValueError(
        f'class {label} has no name; expected 0 to {len(self.names) - 1} or '
        'a name'
      )
    return label

  def _similar(self, image: str) -> str:
    """Names a row of the table whose image has the same name elsewhere."""
    name = posixpath.basename(image)
    for path in self._table or ():
      if posixpath.basename(path) in (name, os.path.splitext(name)[0]):
        return f', but {path}; expected paths below the folder of images'
    return ''


def folders(images: Iterable[str], prefix: str = '') -> list[str]:
  """Returns the names of classes from the folders of images.

  Args:
    images: their paths below the folder of images.
    prefix: folders above those of the classes, with which paths may begin.

  Returns:
    The first folder of each path, sorted; empty if all of them are numbers,
    which are then the numbers of the classes.

  Raises:
    ValueError: some folders are numbers and others names, or two are the same
      number.
  """
  paths = (strip_prefix(files.normal(image), prefix) for image in images)
  found = sorted({path.split('/')[0] for path in paths if '/' in path})
  numbers = [name for name in found if re.fullmatch('[0-9]+', name)]
  if not numbers:
    return found
  if len(numbers) < len(found):
    other = next(name for name in found if name not in numbers)
    raise ValueError(
      f'Some folders of classes are numbers ({numbers[0]}) and others names '
      f'({other}); expected only numbers or only names. Rename them, or give '
      'the names of all classes in order with --class_names.'
    )
  first = {}
  for name in numbers:
    if first.setdefault(int(name), name) != name:
      raise ValueError(
        f'The folders {first[int(name)]} and {name} are the same number; '
        'expected one folder for each class. Rename one.'
      )
  return []


def check_folders(
  image_folders: Iterable[str], names: Sequence[str] = (), prefix: str = ''
):
  """Checks that the first folders of paths can be those of the classes.

  Args:
    image_folders: folders that contain images, below the folder of images.
    names: names of the classes, if they were given.
    prefix: folders above those of the classes, with which paths may begin.

  Raises:
    ValueError: all images are in subfolders of one folder, as in ClickMe 2.0's
      imagenet/train/n01440764, and would have one class.
  """
  found = sorted(
    {strip_prefix(files.normal(p), prefix) for p in image_folders} - {''}
  )
  parts = [folder.split('/') for folder in found]
  first = {p[0] for p in parts}
  if len(found) < 2 or len(first) > 1 or first <= {*names}:
    return
  above = posixpath.commonpath(found)
  prefix = files.normal(prefix)
  # A wrong prefix was not removed, and is already in the path.
  if prefix and prefix.split('/')[0] != parts[0][0]:
    above = f'{prefix}/{above}'
  raise ValueError(
    f'All images are in folders such as {found[0]} and {found[1]}, and would '
    f'have one class, {parts[0][0]}; expected a first folder for each class. '
    f'Give the folders above those of the classes with --strip_prefix={above}, '
    'or the classes with --labels.'
  )


def read(path: str) -> dict[str, str]:
  """Reads a table of classes.

  Args:
    path: of a CSV file with the columns image and label.

  Returns:
    Classes by the image's path, as from `files.normal`.

  Raises:
    ValueError: it is not such a file, or an image has two classes.
  """
  classes = {}
  with text_files.table(path) as table:
    if not {'image', 'label'} <= {*table.columns}:
      raise ValueError(
        f'{path} has the columns {table.columns}; expected image and label. '
        'Name them in the first line.'
      )
    table.check(('image', 'label'))
    for row in table.rows:
      where = f'{path}, line {row.line}'
      image = files.normal(text_files.plain(row.cells['image']))
      label = text_files.plain(row.cells['label'])
      if row.problem or not image:
        raise ValueError(
          f'{where}: {row.problem or "the image is empty"}; '
          'expected an image and its label. Repair or remove '
          'the line.'
        )
      if classes.setdefault(image, label) != label:
        raise ValueError(
          f'{where}: {image} has class {label} here and {classes[image]} in '
          'an earlier line; expected one class. Remove one of the lines.'
        )
  return classes


def read_names(path: str) -> list[str]:
  """Reads the names of classes, one per line, class 0 first.

  Args:
    path: of the file.

  Returns:
    The names.

  Raises:
    ValueError: the file is empty, a line before the last is empty, or a name
      occurs twice.
  """
  names = [line.strip() for line in text_files.read(path).rstrip().split('\n')]
  if not any(names):
    raise ValueError(
      f'{path} is empty; expected the name of a class in each line, class 0 '
      'first.'
    )
  if '' in names:
    # If it were skipped, the numbers of all following classes would change.
    raise ValueError(
      f'{path}, line {names.index("") + 1} is empty; expected the name of a '
      'class in each line, class 0 first. Remove the line, or name the class.'
    )
  name, times = collections.Counter(names).most_common(1)[0]
  if times > 1:
    raise ValueError(
      f'{path} holds {name} {times} times; expected a different name for each '
      'class. Rename one of them.'
    )
  return names
