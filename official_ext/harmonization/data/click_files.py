"""Reads raw clicks, and finds those of an image without holding all of them."""

import csv
import dataclasses
import hashlib
import json
import os
import sqlite3
from typing import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.data import clicks
from official_ext.harmonization.data import npz

_CSV_COLUMNS = ('image_path', 'clicks', 'user_id')
_NPZ_FIELDS = {
    'file_pointer': True, 'clickmap_x': True, 'clickmap_y': True,
    'user_id': True, 'user_catch_trial': False, 'is_mobile': False
}


def read(path: str, label_column: str = '', trust_pickle: bool = False
        ) -> Iterator[tuple[str, clicks.Row]]:
  """Reads the rows of a file of raw clicks, one per participant and image.

  Args:
    path: a CSV with the columns image_path, clicks and user_id, or an NPZ with
      the arrays file_pointer, clickmap_x, clickmap_y, user_id and, where there
      are any, user_catch_trial and is_mobile.
    label_column: of the CSV that holds the class, or empty.
    trust_pickle: whether arrays of Python objects may be unpickled.

  Yields:
    The image's path as recorded, and the row.

  Raises:
    ValueError: this is no such file.
    PermissionError: it needs --trust_pickle.
  """
  if path.lower().endswith('.npz'):
    if label_column:
      raise ValueError(f'{path} has no columns: give the classes by --labels '
                       'instead of --label_column.')
    return _read_npz(path, trust_pickle)
  return _read_csv(path, label_column)


def _read_csv(path, label_column):
  """Reads a CSV row by row."""
  needed = _CSV_COLUMNS + ((label_column,) if label_column else ())
  with tf.io.gfile.GFile(path, 'r') as f:
    reader = csv.DictReader(f)
    missing = [c for c in needed if c not in (reader.fieldnames or ())]
    if missing:
      raise ValueError(f'{path} has no column {missing[0]}, only '
                       f'{reader.fieldnames}: name the columns in its first '
                       f'line, {", ".join(needed)} among them.')
    try:
      for i, row in enumerate(reader):
        values = {c: row[c] or '' for c in needed}
        yield values['image_path'], clicks.Row(
            user=values['user_id'], clicks=values['clicks'],
            place=f'{os.path.basename(path)}, row {i + 1}',
            label=values.get(label_column, ''))
    except csv.Error as e:
      raise ValueError(f'{path}, line {reader.line_num}, is no line of a CSV '
                       f'file ({e}): repair or remove it.') from None


def _read_npz(path, trust_pickle):
  """Reads an NPZ, which numpy can only read whole, column by column."""
  with tf.io.gfile.GFile(path, 'rb') as f:
    arrays = npz.load(f, path, _NPZ_FIELDS, trust_pickle)
  lengths = {k: len(v) for k, v in arrays.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(f'{path} has arrays of different lengths, {lengths}: they '
                     'must hold one entry per participant and image.')
  catch = arrays.get('user_catch_trial')
  mobile = arrays.get('is_mobile')
  for i, pointer in enumerate(arrays['file_pointer']):
    yield str(pointer), clicks.Row(
        user=str(arrays['user_id'][i]),
        clicks=(np.ravel(arrays['clickmap_x'][i]).tolist(),
                np.ravel(arrays['clickmap_y'][i]).tolist()),
        place=f'{os.path.basename(path)}, row {i + 1}',
        catch_trial=None if catch is None else float(catch[i]),
        is_mobile=mobile is not None and bool(mobile[i]))


def _encoded(rows, digest):
  """Yields rows as text, and adds them to a checksum."""
  for image, row in rows:
    text = json.dumps(dataclasses.asdict(row))
    digest.update(f'{image}\n{text}\n'.encode())
    yield image, text


def fingerprint(rows: Iterable[tuple[str, clicks.Row]]) -> str:
  """Returns a checksum of rows, the one that a `Table` of them has."""
  digest = hashlib.sha256()
  for _ in _encoded(rows, digest):
    pass
  return digest.hexdigest()


class Table:
  """Rows of clicks by image, in a database file: memory stays bounded.

  Attributes:
    path: of the file.
    fingerprint: checksum of the rows.
  """

  def __init__(self, path: str):
    self.path = path
    self.fingerprint = ''
    self._connection = None

  def __getstate__(self):
    # A connection belongs to the process that opened it.
    return {**self.__dict__, '_connection': None}

  def _query(self, query: str, *values):
    if self._connection is None:
      self._connection = sqlite3.connect(self.path)
    return self._connection.execute(query, values)

  def fill(self, rows: Iterable[tuple[str, clicks.Row]]):
    """Replaces what the table holds.

    Args:
      rows: images and rows, as from `read`.
    """
    digest = hashlib.sha256()
    if os.path.exists(self.path):
      os.remove(self.path)
    self._query('create table rows (image text, row text)')
    self._connection.executemany(
        'insert into rows values (?, ?)', _encoded(rows, digest))
    self._query('create index images on rows (image)')
    self._connection.commit()
    self.fingerprint = digest.hexdigest()

  def images(self) -> list[str]:
    """Returns the images, sorted."""
    return [image for image, in self._query(
        'select distinct image from rows order by image')]

  def rows(self, image: str) -> Sequence[clicks.Row]:
    """Returns an image's rows, in the order in which they were recorded."""
    found = self._query(
        'select row from rows where image = ? order by rowid', image)
    return [clicks.Row(**json.loads(row)) for row, in found]
