# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds the maps of images by the images' ids, and reads them."""

from collections.abc import Iterator
import os
import posixpath
from typing import NamedTuple

from google.protobuf import message
import tensorflow as tf
from tensorflow.python.lib.io import tf_record

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import map_framing
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.data.records import record_writer

_MAP = 'image/heatmap/'


class RecordLocation(NamedTuple):
  """Location of a map: a file, and the offset of a record in it or -1."""

  file: str
  offset: int = -1


def image_id(name: str) -> str:
  """Returns the id of an image: its name without folder and extension."""
  return posixpath.splitext(posixpath.basename(files.normal(name)))[0]


def text(example: tf.train.Example, key: str) -> str:
  """Returns the first value of a field as text, or '' if it is missing.

  Args:
    example: the record.
    key: name of a field of bytes.
  """
  feature = example.features.feature
  values = feature[key].bytes_list.value if key in feature else ()
  return values[0].decode(errors='replace') if values else ''


def examples(path: str) -> Iterator[tuple[str, int, tf.train.Example]]:
  """Reads the records of a shard.

  Args:
    path: of the shard.

  Yields:
    A description of the record's position for messages, its offset in bytes,
    and the record.

  Raises:
    ValueError: a record is damaged.
  """
  for record in record_reader.read(path):
    where = f'{path}, record {record.index} (counted from 0)'
    problem, example = record.problem, None
    if not problem:
      try:
        example = tf.train.Example.FromString(record.data)
      except message.DecodeError:
        problem = 'it is not a tf.train.Example'
    if problem:
      raise ValueError(
        f'{where}, at byte {record.offset}: {problem}; expected a record of a '
        'tf.train.Example. Repair or remove it.'
      )
    yield where, record.offset, example


def _add(index, name, location):
  """Adds a map, unless the image already has one."""
  if name in index:
    raise ValueError(
      f'{index[name]} and {location} are both maps of image {name}; expected '
      'one map per image. Remove one of them.'
    )
  index[name] = location


def of_folder(folder: str) -> dict[str, RecordLocation]:
  """Indexes a folder of maps that are named by the ids of their images.

  Args:
    folder: folder of grey images, npy or npz (heatmap) files, at any depth.

  Returns:
    Locations by id.

  Raises:
    ValueError: two maps belong to the same image.
  """
  index = {}
  for path, _ in folders.find(folder, map_files.MAP_TYPES):
    _add(index, image_id(path), RecordLocation(os.path.join(folder, path)))
  return index


def of_records(pattern: str, key: str) -> dict[str, RecordLocation]:
  """Indexes canonical records.

  Args:
    pattern: of the shards' paths.
    key: name of the field that holds the image's name.

  Returns:
    Locations of the records with a map, by id.

  Raises:
    ValueError: a record lacks the name, or two belong to the same image.
  """
  index = {}
  for file in record_files.expand([pattern], 'map_records'):
    for where, offset, example in examples(file):
      if f'{_MAP}encoded' not in example.features.feature:
        continue
      name = image_id(text(example, key))
      if not name:
        raise ValueError(
          f"{where} has no {key}; expected the image's name. Give the field "
          'that holds it with --map_key.'
        )
      _add(index, name, RecordLocation(file, offset))
  return index


def read(location: RecordLocation) -> dict:
  """Reads a map.

  Args:
    location: from an index.

  Returns:
    The fields of a canonical record that describe the map.

  Raises:
    ValueError: it cannot be read.
  """
  if location.offset < 0:
    encoded = image_codec.encode_map(map_files.read_map(location.file))
    return record_writer.map_fields(encoded, 'pictures')
  reader = tf_record.tf_record_random_reader(location.file)
  example = tf.train.Example.FromString(reader.read(location.offset)[0])
  fields = {}
  for key, value in example.features.feature.items():
    if key.startswith(_MAP):
      fields[key] = getattr(value, value.WhichOneof('kind')).value[0]
  # The record may give other sizes than the encoded map.
  height, width = image_codec.shape(fields[f'{_MAP}encoded'])[:2]
  return {**fields, f'{_MAP}height': height, f'{_MAP}width': width}


def fit(fields: dict, height: int, width: int, framing: str) -> dict:
  """Converts a map so that it shows the same as its image.

  Args:
    fields: of the map, as from `read`.
    height: of the image.
    width: of the image.
    framing: what the map shows of the image, see `map_framing.fit`.

  Returns:
    The fields of the converted map.

  Raises:
    ValueError: the shape of the map contradicts the framing.
  """
  if framing == 'stretched':
    return fields
  if framing == 'same':
    map_framing.check(
      fields[f'{_MAP}height'], fields[f'{_MAP}width'], height, width
    )
    return fields
  encoded = image_codec.encode_map(
    map_framing.fit(
      image_codec.decode_map(fields[f'{_MAP}encoded']), height, width, framing
    )
  )
  return {
    **fields,
    **record_writer.map_fields(
      encoded, fields.get(f'{_MAP}source', b'').decode()
    ),
  }
