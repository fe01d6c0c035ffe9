"""Which class an image is of: from a table, a column or its folder."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import os
import posixpath
import re
import unicodedata

from official_ext.harmonization import files
from official_ext.harmonization import text_files

# ASCII: Unicode has digits that int does not take. A table program turns 5
# into 5.0 where other cells of the column are empty.
_NUMBER = re.compile(r'([0-9]+)(\.0*)?')


def strip_prefix(path: str, prefix: str) -> str:
  """Returns a normal path without the folders that it begins with.

  Args:
    path: as from `files.normal`.
    prefix: the folders, such as imagenet/train.

  Returns:
    The rest; the path itself where it begins with others.
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
    names: of the classes, in the order of their numbers; empty where classes
      are only given as numbers.
  """

  def __init__(
    self,
    table: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
    prefix: str = '',
  ):
    """Initializes the classes.

    Args:
      table: class by the image's path, with or without its extension; None to
        take the column or else the folder.
      names: of the classes, in the order of their numbers.
      prefix: folders that images' paths may begin with, above those of the
        classes.
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
    """Returns what the checksum sums up: names and classes."""
    return {
      **{f'class {i}': name for i, name in enumerate(self.names)},
      **(self._table or {}),
    }

  def of(self, image: str, recorded: str = '') -> int:
    """Returns the class of an image.

    Args:
      image: its path below the folder of images.
      recorded: its class as the clicks' file has it, or empty.

    Returns:
      The class's number.

    Raises:
      ValueError: no class is known.
    """
    image = strip_prefix(files.normal(image), self._prefix)
    if self._table is not None:
      text = self._table.get(image, self._table.get(os.path.splitext(image)[0]))
      if text is None:
        raise ValueError(f'not in the file of --labels as {image}')
    else:
      text = recorded or posixpath.dirname(image).split('/')[0]
    text = unicodedata.normalize('NFC', text.strip())
    if text in self._numbers:
      return self._numbers[text]
    if not text:
      raise ValueError(
        f'{image} has no class; expected a number or a name, or '
        'a folder of the class'
      )
    number = _NUMBER.fullmatch(text)
    if not number:
      raise ValueError(f'class {text!r} is neither a number nor a known name')
    # Names that are digits may be in any order.
    if any(map(_NUMBER.fullmatch, self.names)):
      raise ValueError(
        f'class {text} is not one of the names, some of which '
        'are numbers themselves'
      )
    label = int(number[1])
    if self.names and label >= len(self.names):
      raise ValueError(
        f'class {label} is beyond the {len(self.names)} names; '
        f'expected 0 to {len(self.names) - 1} or a name'
      )
    return label


def folders(images: Iterable[str], prefix: str = '') -> list[str]:
  """Names the classes of images that are in a folder per class.

  Args:
    images: their paths below the folder of images.
    prefix: folders that paths may begin with, above those of the classes.

  Returns:
    The first folders, sorted; nothing where all are numbers, which then count
    as such.

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
      f'({other}); expected one of both. Rename them, or name all classes in '
      'the order of their numbers by --class_names.'
    )
  first = {}
  for name in numbers:
    if first.setdefault(int(name), name) != name:
      raise ValueError(
        f'The folders {first[int(name)]} and {name} are the same number; '
        'expected one folder of a class. Rename one.'
      )
  return []


def check_folders(
  places: Iterable[str], names: Sequence[str] = (), prefix: str = ''
):
  """Checks that the first folders of images can be those of classes.

  Args:
    places: folders that images are in, below the folder of images.
    names: of classes that were given, not taken from the folders.
    prefix: folders that paths may begin with, above those of the classes.

  Raises:
    ValueError: all images are in one folder with several others in it, as
      ClickMe 2.0's imagenet/train/n01440764.
  """
  found = sorted({strip_prefix(files.normal(p), prefix) for p in places} - {''})
  parts = [place.split('/') for place in found]
  first = {p[0] for p in parts}
  if len(found) < 2 or len(first) > 1 or first <= {*names}:
    return
  above = posixpath.commonpath(found)
  prefix = files.normal(prefix)
  # Not where the prefix is a wrong one, which took nothing off.
  if prefix and prefix.split('/')[0] != parts[0][0]:
    above = f'{prefix}/{above}'
  raise ValueError(
    f'All images are in folders like {found[0]} and {found[1]} '
    f'and would be of one class, {parts[0][0]}; expected a first folder for '
    'each class. Name the folders above those of the classes by '
    f'--strip_prefix={above}, or give the classes by --labels.'
  )


def read(path: str) -> dict[str, str]:
  """Reads a table of classes.

  Args:
    path: of a CSV file with the columns image and label.

  Returns:
    Classes by the image's path, as `files.normal` writes it.

  Raises:
    ValueError: it is not such a file, or gives an image two classes.
  """
  classes = {}
  with text_files.table(path) as table:
    if not {'image', 'label'} <= {*table.columns}:
      raise ValueError(
        f'{path} has the columns {table.columns}: its first '
        'line must name image and label.'
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
          f'{where}: {image} has class {label} here and '
          f'{classes[image]} above: leave one.'
        )
  return classes


def read_names(path: str) -> list[str]:
  """Reads names of classes, one per line, the first of class 0.

  Args:
    path: of the file.

  Returns:
    The names.

  Raises:
    ValueError: the file is empty, a line between two is empty, or a name is in
      the file twice.
  """
  names = [line.strip() for line in text_files.read(path).rstrip().split('\n')]
  if not any(names):
    raise ValueError(
      f'{path} is empty; expected a name of a class on each '
      'line, class 0 first.'
    )
  if '' in names:
    # Skipped, it would shift the numbers of all that follow.
    raise ValueError(
      f'{path}, line {names.index("") + 1} is empty; expected a '
      'name of a class on each line, class 0 first. Remove the '
      'line, or name the class.'
    )
  name, times = collections.Counter(names).most_common(1)[0]
  if times > 1:
    raise ValueError(
      f'{path} holds {name} {times} times: every class needs a name of its own.'
    )
  return names
