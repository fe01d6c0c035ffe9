# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads files of raw clicks, and looks them up by image."""

import ast
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import sqlite3
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization import text_files
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import npz
from official_ext.harmonization.data.records import class_labels
from official_ext.harmonization.data.records import record_files

_CSV_COLUMNS = ('image_path', 'clicks', 'user_id')
_OPTIONAL = ('user_catch_trial', 'is_mobile')
_NPZ_FIELDS = {
  'file_pointer': True,
  'clickmap_x': True,
  'clickmap_y': True,
  'user_id': True,
  'user_catch_trial': False,
  'is_mobile': False,
}
# Texts that programs write for an unknown value.
_UNKNOWN = ('', 'nan', 'none', 'null', '<na>')
_YES, _NO = ('true', '1', '1.0', 'yes', 't'), ('false', '0', '0.0', 'no', 'f')
_WHOLE = re.compile(r'([0-9]+)\.0+')


def expand(patterns: Sequence[str]) -> list[str]:
  """Returns the files of clicks that --clicks names.

  Args:
    patterns: paths, folders, and paths with wildcards.

  Returns:
    The files in the given order, and those of one pattern sorted. Of several
    paths of one file there is the first.

  Raises:
    ValueError: a pattern names no file.
  """
  return files.distinct(
    path
    for pattern in patterns
    for path in sorted(
      record_files.match(pattern, 'clicks', 'CSV or NPZ files of clicks')
    )
  )


def kind(path: str) -> str:
  """Returns how clicks are stored: 'npz', or 'csv' for any table."""
  return 'npz' if path.lower().endswith('.npz') else 'csv'


def read(
  path: str,
  label_column: str = '',
  trust_pickle: bool = False,
  prefix: str = '',
  needed: Sequence[str] = (),
) -> Iterator[tuple[str, clicks.ParticipantClicks]]:
  """Reads the rows of a file of raw clicks, one per participant and image.

  Args:
    path: a CSV with the columns image_path, clicks and user_id, or an NPZ with
      the arrays file_pointer, clickmap_x, clickmap_y and user_id. Both may have
      user_catch_trial and is_mobile.
    label_column: column of the CSV that holds the class, or empty.
    trust_pickle: whether arrays of Python objects may be unpickled.
    prefix: folders that are removed from the start of the images' paths.
    needed: which of the two optional columns are required.

  Yields:
    The image's path, as from `files.normal`, and the row. Missing or unreadable
    values of a row are described in its `problem`.

  Raises:
    ValueError: the file has another format.
    PermissionError: the file needs --trust_pickle.
  """
  if kind(path) == 'npz' and label_column:
    raise ValueError(
      f'{path} is an NPZ file without columns; expected a CSV file for '
      '--label_column. Give the classes with --labels instead.'
    )
  rows = (
    _read_npz(path, trust_pickle, needed)
    if kind(path) == 'npz'
    else _read_csv(path, label_column.lower(), needed)
  )
  return _with_paths(rows, path, prefix)


def _with_paths(rows, path, prefix):
  """Normalizes the images' paths, and removes the prefix."""
  removed = total = 0
  for image, row in rows:
    image = files.normal(_text(image))
    if not image:
      # Rows without an image may belong to different images: skip them.
      row = dataclasses.replace(
        row, problem=row.problem or 'image_path is empty'
      )
    below = class_labels.strip_prefix(image, prefix)
    removed += below != image
    total += 1
    yield below, row
  if prefix and total and not removed:
    logging.warning(
      '%s: no image_path begins with --strip_prefix=%s; one of them is %s.',
      path,
      prefix,
      image,
    )


def _read_csv(path, label_column, needed):
  """Reads a CSV row by row."""
  columns = _CSV_COLUMNS + ((label_column,) if label_column else ())
  with text_files.table(path) as table:
    table.check((*columns, *needed), _OPTIONAL)
    for i, row in enumerate(table.rows):
      values = {
        c: text_files.plain(v) for c, v in row.cells.items() if c != 'clicks'
      }
      yield (
        values['image_path'],
        _row(
          row.cells['clicks'],
          path,
          i,
          values,
          values.get(label_column, ''),
          row.problem,
        ),
      )


def _read_npz(path, trust_pickle, needed):
  """Reads an NPZ, whose arrays NumPy can only load completely."""
  with tf.io.gfile.GFile(path, 'rb') as f:
    arrays = npz.load(
      f, path, {**_NPZ_FIELDS, **{name: True for name in needed}}, trust_pickle
    )
  for name, array in arrays.items():
    if not np.ndim(array):
      raise ValueError(
        f'{path}: {name} is a single value; expected an array with one entry '
        'per participant and image.'
      )
  lengths = {k: len(v) for k, v in arrays.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(
      f'{path} has arrays of different lengths, {lengths}; expected one entry '
      'per participant and image in each.'
    )
  for i, pointer in enumerate(arrays['file_pointer']):
    values = {c: arrays[c][i] for c in ('user_id', *_OPTIONAL) if c in arrays}
    places, problem = (), ''
    try:
      places = tuple(
        _numbers(arrays[c][i]) for c in ('clickmap_x', 'clickmap_y')
      )
    except (TypeError, ValueError):
      problem = 'clickmap_x or clickmap_y is not a list of numbers'
    yield pointer, _row(places, path, i, values, problem=problem)


def _numbers(values: Any) -> list[Any]:
  """Returns numbers; a missing one is None."""
  found = np.ravel(values).tolist()
  np.asarray(found, np.float64)
  return [v.decode() if isinstance(v, bytes) else v for v in found]


def _row(
  recorded, path: str, index: int, values, label: str = '', problem: str = ''
) -> clicks.ParticipantClicks:
  """Makes a row from the clicks and the other columns."""
  catch_trial, is_mobile = None, False
  user = _user(values['user_id'])
  try:
    if 'user_catch_trial' in values:
      catch_trial = _part(values['user_catch_trial'])
    if 'is_mobile' in values:
      is_mobile = _flag(values['is_mobile'])
  except ValueError as e:
    problem = problem or str(e)
  if not user:
    # Rows without a user may belong to one person or to many.
    problem = problem or 'user_id is empty'
  place = f'{os.path.basename(path)}, row {index + 1}'
  return clicks.ParticipantClicks(
    user, recorded, place, label, catch_trial, is_mobile, problem
  )


def _text(value: Any) -> str:
  """Returns the text of a string, bytes, or an array with one of them."""
  if isinstance(value, np.ndarray) and value.size == 1:
    value = value.item()
  return (
    value.decode(errors='replace') if isinstance(value, bytes) else str(value)
  ).strip()


def _user(value: Any) -> str:
  """Returns the name of a participant; empty if it is unknown."""
  text = _text(value)
  if text.lower() in _UNKNOWN:
    return ''
  # Integers become 3.0 in a column with missing values.
  whole = _WHOLE.fullmatch(text)
  return whole[1] if whole else text


def _entries(value: Any) -> list[Any]:
  """Returns the entries of a list or an array, or of its text."""
  if isinstance(value, (str, bytes)) and _text(value)[:1] in ('[', '('):
    try:
      value = ast.literal_eval(_text(value))
    except (SyntaxError, ValueError):
      pass
  return [
    v.item() if isinstance(v, np.generic) else v
    for v in (
      value if isinstance(value, (list, tuple)) else np.ravel(np.asarray(value))
    )
  ]


def _flag(value: Any) -> bool | None:
  """Returns is_mobile; None if it is empty.

  Args:
    value: a boolean, a number, its text, or a list of them. The data tools of
      ClickMe 2.0 use the first entry of a list. Since a list belongs to one
      participant, any true entry counts here.
  """
  found = []
  for entry in _entries(value):
    text = _text(entry).lower()
    if text in _UNKNOWN:
      continue
    if text not in _YES + _NO:
      raise ValueError(f'is_mobile is {text!r}; expected true or false')
    found.append(text in _YES)
  return any(found) if found else None


def _part(value: Any) -> float:
  """Returns the part of catch trials that was passed; NaN if it is empty."""
  entries = [e for e in _entries(value) if _text(e).lower() not in _UNKNOWN]
  try:
    parts = {float(_text(e)) for e in entries} or {math.nan}
    (part,) = parts
    if not (math.isnan(part) or 0 <= part <= 1):
      raise ValueError
    return part
  except ValueError:
    raise ValueError(
      f'user_catch_trial is {_text(value)!r}; expected the passed part, a '
      'number from 0 to 1'
    ) from None


class _Digests:
  """Checksums of rows in their order.

  Attributes:
    content: does not depend on the names of the files.
    earlier: as earlier versions computed it, which included those names.
  """

  def __init__(self):
    self._content, self._earlier = hashlib.sha256(), hashlib.sha256()

  def encode(
    self, rows: Iterable[tuple[str, clicks.ParticipantClicks]]
  ) -> Iterator[tuple[str, str, str]]:
    """Yields image, content and place of each row, and digests them."""
    for image, row in rows:
      fields = dataclasses.asdict(row)
      if not row.problem:
        # Earlier versions had no such field.
        del fields['problem']
      text = json.dumps(fields)
      self._earlier.update(f'{image}\n{text}\n'.encode())
      place = fields.pop('place')
      text = json.dumps(fields)
      self._content.update(f'{image}\n{text}\n'.encode())
      yield image, text, place

  @property
  def content(self) -> str:
    return self._content.hexdigest()

  @property
  def earlier(self) -> str:
    return self._earlier.hexdigest()


def fingerprint(
  rows: Iterable[tuple[str, clicks.ParticipantClicks]], known: str = ''
) -> str:
  """Returns a checksum of rows, see `Table.fingerprint`.

  Args:
    rows: images and rows, as from `read`.
    known: the checksum in a result of perhaps an earlier version.
  """
  digests = _Digests()
  for _ in digests.encode(rows):
    pass
  return known if known == digests.earlier else digests.content


class Table:
  """Rows of clicks by image, in a database file instead of in memory.

  Attributes:
    path: of the file.
  """

  def __init__(self, path: str):
    self.path = path
    self._content = self._earlier = ''
    self._connection = None

  def __getstate__(self):
    # Connections cannot be shared between processes.
    return {**self.__dict__, '_connection': None}

  def _query(self, query: str, *values):
    if self._connection is None:
      self._connection = sqlite3.connect(self.path)
    return self._connection.execute(query, values)

  def fill(self, rows: Iterable[tuple[str, clicks.ParticipantClicks]]):
    """Replaces the content of the table.

    Args:
      rows: images and rows, as from `read`.

    Raises:
      OSError: the file cannot be written.
    """
    digests = _Digests()
    if os.path.exists(self.path):
      os.remove(self.path)
    try:
      self._query('create table rows (image text, row text, place text)')
      self._connection.executemany(
        'insert into rows values (?, ?, ?)', digests.encode(rows)
      )
      self._query('create index images on rows (image)')
      self._connection.commit()
    except sqlite3.OperationalError as e:
      raise OSError(
        f'{self.path}: the table of clicks cannot be written ({e}). Free some '
        'space, and run the same command again.'
      ) from None
    self._content, self._earlier = digests.content, digests.earlier

  def fingerprint(self, known: str = '') -> str:
    """Returns a checksum of the rows in their order.

    It does not depend on the names of the files, so that a renamed copy is the
    same input.

    Args:
      known: the checksum in a result of perhaps an earlier version, whose
        checksums include the names. It is returned if it belongs to the rows.
    """
    return known if known == self._earlier else self._content

  def images(self) -> list[str]:
    """Returns the images, sorted."""
    return [
      image
      for (image,) in self._query(
        'select distinct image from rows order by image'
      )
    ]

  def digests(self) -> dict[str, str]:
    """Returns a short checksum of each image's rows."""
    found = self._query('select image, row from rows order by image, rowid')
    return {
      image: hashlib.sha256(
        ''.join(row for _, row in rows).encode()
      ).hexdigest()[:16]
      for image, rows in itertools.groupby(found, lambda row: row[0])
    }

  def rows(self, image: str) -> Sequence[clicks.ParticipantClicks]:
    """Returns an image's rows, in the order in which they were recorded."""
    found = self._query(
      'select row, place from rows where image = ? order by rowid', image
    )
    return [
      clicks.ParticipantClicks(**json.loads(row), place=place)
      for row, place in found
    ]
