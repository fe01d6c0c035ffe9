# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads text files as other programs save them: encodings, line ends, CSV.

All text files that users write are read here, so that every command accepts
the same formats: UTF-8 and UTF-16 with or without a byte order mark, and the
line ends of Unix, Windows and old Macs. Other encodings are refused, because a
wrong guess would silently change names.
"""

import ast
import codecs
from collections.abc import Iterator, Sequence
import contextlib
import csv
import io
import itertools
import os
import re
import sys
from typing import Any, NamedTuple

import tensorflow as tf

from gin import config as gin_config

# UTF-32 first: its byte order mark begins with that of UTF-16.
_MARKS = {
  codecs.BOM_UTF32_LE: 'utf-32',
  codecs.BOM_UTF32_BE: 'utf-32',
  codecs.BOM_UTF8: 'utf-8-sig',
  codecs.BOM_UTF16_LE: 'utf-16',
  codecs.BOM_UTF16_BE: 'utf-16',
}
_NOT_TEXT = {
  b'PK\x03\x04': 'a zip archive or a spreadsheet (.xlsx, .ods)',
  b'\xd0\xcf\x11\xe0': 'a spreadsheet (.xls)',
  b'\x1f\x8b': 'compressed by gzip',
  b'\x93NUMPY': 'an npy file',
  b'\x89PNG\r\n': 'a PNG image',
  b'\xff\xd8\xff': 'a JPEG image',
  b'GIF8': 'a GIF image',
  b'\x89HDF\r\n': 'an HDF5 file',
  b'%PDF-': 'a PDF file',
}
# U+FFFD replaces bytes that are not UTF-8.
_NOT_IN_TEXT = re.compile(r'[\x00-\x08\x0e-\x1f\x7f\ufffd]')
_HEAD = 4096
_BUFFER = 1 << 20
_DELIMITERS = ',;\t|'
# The line by which spreadsheets declare the separator.
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_BYTES = re.compile(r'(?:np\.(?:str_|bytes_)\()?(b?(["\']).*\2)\)?', re.DOTALL)
_NUMBER = re.compile(r'(?:np|numpy)\.\w+\(([^()]*)\)')


def _binary(head: bytes) -> str:
  """Recognizes a format that is not text; '' if it is unknown."""
  return next((w for m, w in _NOT_TEXT.items() if head.startswith(m)), '')


def kind_of(head: bytes) -> str:
  """Describes a file by its first bytes; '' if they are not recognized.

    kind_of(b'image,label')  # 'text'

  Args:
    head: the first bytes, or the whole file if it is short.
  """
  found = _binary(head)
  if found:
    return found
  # The head may end inside a character.
  text = codecs.getincrementaldecoder('utf-8')('replace').decode(head)
  return 'text' if text and not _NOT_IN_TEXT.search(text) else ''


def _encoding(head: bytes, path: str) -> str:
  """Detects the encoding of a file from its first bytes."""
  for mark, encoding in _MARKS.items():
    if head.startswith(mark):
      return encoding
  what = _binary(head)
  if what:
    raise ValueError(
      f'{path} is {what}; expected text. Save it as UTF-8 '
      'text (a table as CSV).'
    )
  if b'\0' not in head:
    return 'utf-8'
  # In UTF-16, every second byte of ASCII text is zero.
  half = len(head) // 4
  low, high = head[1::2].count(0), head[::2].count(0)
  if low > half and not high:
    return 'utf-16-le'
  if high > half and not low:
    return 'utf-16-be'
  raise ValueError(
    f'{path} has zero bytes; expected text. Save it as UTF-8 text.'
  )


def decode(content: bytes, path: str) -> str:
  """Decodes a text file.

  Args:
    content: the bytes of the file.
    path: of the file, for messages.

  Returns:
    The text without byte order marks; every line ends in a line feed.

  Raises:
    ValueError: the file is not text in UTF-8 or UTF-16; the message names the
      line.
  """
  encoding = _encoding(content[:_HEAD], path)
  try:
    text = content.decode(encoding)
  except UnicodeDecodeError as e:
    before = _normalized(content[: e.start].decode(encoding, 'replace'))
    raise ValueError(
      f'{path}, line {before.count(chr(10)) + 1}: byte '
      f'0x{content[e.start]:02x} is not {e.encoding.upper()}; expected text '
      'in UTF-8 or UTF-16. Save the file as UTF-8 (it may be in Latin-1 or '
      'Windows-1252).'
    ) from None
  return _normalized(text)


def _normalized(text: str) -> str:
  # Concatenated files have byte order marks in the middle.
  return text.replace('\ufeff', '').replace('\r\n', '\n').replace('\r', '\n')


def read(path: str) -> str:
  """Reads a text file; returns and raises as `decode` does."""
  with tf.io.gfile.GFile(path, 'rb') as f:
    return decode(f.read(), path)


def _opened(path: str) -> io.StringIO:
  return io.StringIO(read(path))


def teach_gin():
  """Makes gin read files, and the files they include, with `read`."""
  readers = gin_config._FILE_READERS
  if readers[0][0] is not _opened:
    # gin uses the first reader that accepts a path; its default reader decodes
    # UTF-8 only.
    own: Any = (_opened, os.path.isfile)
    readers.insert(0, own)


class _Bytes(io.RawIOBase):
  """A local or remote file as a raw stream for Python's `io` module."""

  def __init__(self, path: str):
    super().__init__()
    self._file = tf.io.gfile.GFile(path, 'rb')

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    found = self._file.read(len(buffer))
    buffer[: len(found)] = found
    return len(found)

  def close(self):
    self._file.close()
    super().close()


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    line: the number of its first line in the file, from 1.
    cells: text by column name in lower case; '' for an empty cell.
    problem: why the cells may be wrong, or ''.
  """

  line: int
  cells: dict[str, str]
  problem: str


class Table(NamedTuple):
  """A table whose first line names the columns.

  Attributes:
    path: of the file.
    columns: column names in lower case.
    rows: iterator over the rows, which are read one by one.
  """

  path: str
  columns: list[str]
  rows: Iterator[Row]

  def check(self, needed: Sequence[str], optional: Sequence[str] = ()):
    """Checks that the table has the needed columns, without duplicates.

    Args:
      needed: names in lower case.
      optional: names of columns that may be missing.

    Raises:
      ValueError: a needed column is missing, or a column occurs twice.
    """
    missing = [c for c in needed if c not in self.columns]
    if missing:
      raise ValueError(
        f'{self.path} has no column {missing[0]}, only {self.columns}; '
        f'expected at least {", ".join(needed)}. Name the columns in the '
        'first line.'
      )
    for name in (*needed, *optional):
      if self.columns.count(name) > 1:
        raise ValueError(
          f'{self.path} has {self.columns.count(name)} columns '
          f'{name}; expected one. Rename or remove the others.'
        )


@contextlib.contextmanager
def table(path: str) -> Iterator[Table]:
  """Opens a CSV file whose separator is a comma, semicolon, tab or bar.

    with text_files.table('labels.csv') as table:
      table.check(['image', 'label'])
      for row in table.rows:
        print(row.line, row.cells['image'])

  Args:
    path: of the file.

  Yields:
    The table, of which one row is in memory at a time.

  Raises:
    ValueError: the file is not text, or a line is not CSV; the message names
      the line.
  """
  # The csv module limits cells to 128 KiB; a cell of many clicks is longer.
  csv.field_size_limit(sys.maxsize)
  with io.BufferedReader(_Bytes(path), _BUFFER) as raw:
    encoding = _encoding(raw.peek(_HEAD)[:_HEAD], path)
    # newline='': the csv module handles line ends, also those inside quotes.
    with io.TextIOWrapper(raw, encoding, newline='') as f:
      try:
        yield _table(path, f)
      except UnicodeDecodeError:
        read(path)  # Raises an error that names the line.
        raise


def _table(path: str, lines: Iterator[str]) -> Table:
  """Reads the column names; the rows are read lazily."""
  skipped, first, delimiter = 0, '', ''
  for first in lines:
    separator = _SEPARATOR.fullmatch(first)
    if separator:
      delimiter = separator[1]
    elif first.strip():
      break
    skipped += 1
  delimiter = delimiter or max(
    _DELIMITERS, key=lambda d: len(next(csv.reader([first], delimiter=d)))
  )
  # strict, because a stray quote would otherwise swallow the following lines.
  reader = csv.reader(
    itertools.chain([first], lines),
    delimiter=delimiter,
    skipinitialspace=True,
    strict=True,
  )
  rows = _rows(path, reader, skipped)
  columns = [_cell(c).lower() for c in next(rows, (0, []))[1]]
  return Table(path, columns, _named(columns, rows))


def _rows(path, reader, skipped):
  """Yields (line number, cells) of each line that is not empty."""
  while True:
    line = reader.line_num + 1
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as e:
      raise ValueError(
        f'{path}, line {line + skipped}, is not a line of CSV ({e}): repair '
        'or remove it (inside a cell, write each quote twice).'
      ) from None
    if any(map(str.strip, cells)):
      yield line + skipped, cells


def _cell(text: str) -> str:
  return text.replace('\ufeff', '').strip()


def _named(columns, rows):
  """Yields each line as a `Row`."""
  for line, found in rows:
    cells = [*map(_cell, found)]
    extra = [c for c in cells[len(columns) :] if c]
    problem = (
      ''
      if not extra
      else (
        f'{len(cells)} cells under {len(columns)} columns; put a cell that '
        'holds the separator into double quotes'
      )
    )
    cells += [''] * (len(columns) - len(cells))
    yield Row(line, dict(zip(columns, cells)), problem)


def plain(text: str) -> str:
  """Strips the Python notation from a cell.

  Args:
    text: of a cell, such as b'cat.png', np.str_('cat.png') or np.int64(3).

  Returns:
    The text or number inside, such as cat.png or 3; any other text unchanged.
  """
  match = _BYTES.fullmatch(text)
  # Quotes without a prefix are part of the name.
  if match and (match[1] != text or text.startswith('b')):
    try:
      found = ast.literal_eval(match[1])
      return found.decode() if isinstance(found, bytes) else str(found)
    except (SyntaxError, ValueError):
      return text
  match = _NUMBER.fullmatch(text)
  return match[1] if match else text
