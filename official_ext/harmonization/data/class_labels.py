"""Which class an image is of: from a table, a column or its folder."""

import collections
import csv
import hashlib
import json
import os
from typing import Iterable, Mapping, Optional, Sequence

import tensorflow as tf, tf_keras


class Labels:
  """Classes of images.

  Attributes:
    names: of the classes, in the order of their numbers; empty where classes
      are given as numbers alone.
  """

  def __init__(self, table: Optional[Mapping[str, str]] = None,
               names: Sequence[str] = ()):
    """Initializes the classes.

    Args:
      table: class by the image's path, with or without its extension; None to
        take the column or else the folder.
      names: of the classes, in the order of their numbers.
    """
    self.names = list(names)
    self._table = table
    self._numbers = {name: i for i, name in enumerate(self.names)}

  def fingerprint(self) -> str:
    """Returns a checksum of the table and the names."""
    content = json.dumps([self.names, self._table], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()

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
    if self._table is not None:
      text = self._table.get(image, self._table.get(os.path.splitext(image)[0]))
      if text is None:
        raise ValueError(f'not in the file of --labels as {image}')
    else:
      text = recorded or os.path.dirname(image).split('/')[0]
    if text in self._numbers:
      return self._numbers[text]
    # Unicode has digits that are none to int.
    if text.isascii() and text.isdigit():
      return int(text)
    raise ValueError(f'class {text!r} is neither a number nor a known name')


def folders(images: Iterable[str]) -> list[str]:
  """Names the classes of images that stand in a folder per class.

  Args:
    images: their paths below the folder of images.

  Returns:
    The first folders, sorted; nothing where all are numbers, which then count
    as such.
  """
  found = sorted({image.split('/')[0] for image in images if '/' in image})
  return [] if all(name.isdigit() for name in found) else found


def read(path: str) -> dict[str, str]:
  """Reads a table of classes.

  Args:
    path: of a CSV file with the columns image and label.

  Returns:
    Classes by the image's path.

  Raises:
    ValueError: it is no such file, or gives an image two classes.
  """
  table = {}
  with tf.io.gfile.GFile(path, 'r') as f:
    reader = csv.DictReader(f)
    if not {'image', 'label'} <= {*(reader.fieldnames or ())}:
      raise ValueError(f'{path} has the columns {reader.fieldnames}: its first '
                       'line must name image and label.')
    for row in reader:
      image, label = row['image'], (row['label'] or '').strip()
      if table.setdefault(image, label) != label:
        raise ValueError(f'{path}, line {reader.line_num}: {image} has class '
                         f'{label} here and {table[image]} above: leave one.')
  return table


def read_names(path: str) -> list[str]:
  """Reads names of classes, one per line, the first of class 0.

  Args:
    path: of the file.

  Returns:
    The names.

  Raises:
    ValueError: a name stands there twice.
  """
  with tf.io.gfile.GFile(path, 'r') as f:
    names = [line.strip() for line in f.read().splitlines() if line.strip()]
  name, times = collections.Counter(names or ['']).most_common(1)[0]
  if times > 1:
    raise ValueError(f'{path} holds {name} {times} times: every class needs a '
                     'name of its own.')
  return names
