# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads TFRecord files record by record, and locates bad bytes.

A record is stored as: length (uint64), checksum of the length (uint32), data,
checksum of the data (uint32), all little-endian; the checksums are CRC-32C,
masked (https://www.tensorflow.org/tutorials/load_data/tfrecord).

TensorFlow's datasets stop at the first bad record and do not name the file.
"""

from collections.abc import Iterator
import itertools
import struct
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.lib.io import tf_record

from official_ext.harmonization import text_files

_HEADER = struct.Struct('<QI')
HEADER_SIZE = _HEADER.size
_FRAME = HEADER_SIZE + 4
# Bytes from which the kind of a file without records is recognized.
_INSPECTED = 512


class Record(NamedTuple):
  """A record, good or bad.

  Attributes:
    index: its position in the file, from 0.
    offset: of its first byte in the file.
    data: the serialized record; None if it is bad.
    problem: why it is bad; empty if it is good.
    unread: if the length of this record is unknown, so that the next cannot
      be found, the number of bytes from `offset` to the end; else 0.
  """

  index: int
  offset: int
  data: bytes | None
  problem: str = ''
  unread: int = 0


def _crc32c_table():
  table = []
  for value in range(256):
    for _ in range(8):
      value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    table.append(value)
  return table


_TABLE = _crc32c_table()


def masked_crc32c(data: bytes) -> int:
  """Returns the masked CRC-32C (Castagnoli) that TFRecord files contain.

  Args:
    data: a few bytes, such as a length: this implementation is slow. TensorFlow
      checks the records themselves.
  """
  crc = 0xFFFFFFFF
  for byte in data:
    crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
  crc ^= 0xFFFFFFFF
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _frame(header: bytes, room: int):
  """Reads the header of a record.

  Args:
    header: the bytes at its position.
    room: number of bytes from there to the end of the file.

  Returns:
    The length of the whole record in bytes, and what is wrong with it, or ''.
  """
  if len(header) < HEADER_SIZE:
    return 0, f'the file ends {room} bytes into the header of a record'
  length, checksum = _HEADER.unpack(header)
  if masked_crc32c(header[:8]) != checksum:
    return 0, "the checksum of the record's length does not match"
  whole = length + _FRAME
  if whole > room:
    return 0, f'the file ends {room} bytes into a record of {whole} bytes'
  return whole, ''


def read(path: str, start: int = 0) -> Iterator[Record]:
  """Reads a file to its end, or as far as its records can be separated.

  Reading continues after a record with bad data. It ends at a record with a bad
  length, or where the file ends inside a record.

  Args:
    path: of a TFRecord file without compression.
    start: records that begin before this offset are not yielded; their lengths
      are checked, but not their data.

  Yields:
    Every `Record`, good or bad.

  Raises:
    tf.errors.OpError: the file cannot be opened.
  """
  size = tf.io.gfile.stat(path).length
  reader = tf_record.tf_record_random_reader(path)
  index = offset = 0
  with tf.io.gfile.GFile(path, 'rb') as f:
    while offset < size:
      f.seek(offset)
      # Checked first, because TensorFlow would allocate memory for any length.
      whole, problem = _frame(f.read(HEADER_SIZE), size - offset)
      if problem:
        if not offset:
          f.seek(0)
          kind = text_files.kind_of(f.read(_INSPECTED))
          if kind:
            problem = f'the file is {kind}; expected a TFRecord file'
        yield Record(index, offset, None, problem, unread=size - offset)
        return
      if offset >= start:
        yield _read_data(reader, index, offset)
      offset += whole
      index += 1


def data_at(path: str, index: int) -> bytes | None:
  """Returns a record, or None if it is bad or does not exist.

  Args:
    path: as for `read`.
    index: the record's position in the file, from 0.
  """
  record = next(itertools.islice(read(path), index, None), None)
  return record and record.data


def _read_data(reader, index: int, offset: int) -> Record:
  """Reads the data of a record with a good length."""
  try:
    return Record(index, offset, reader.read(offset)[0])
  except tf.errors.DataLossError:
    return Record(
      index, offset, None, "the checksum of the record's data does not match"
    )
