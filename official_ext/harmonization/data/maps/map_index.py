"""Finds the map of an image by the image's id, and fits it to the image."""

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


class Place(NamedTuple):
  """Where a map is: a file, and the offset of a record in it or -1."""

  file: str
  offset: int = -1


def image_id(name: str) -> str:
  """Returns the id of an image: its file's name without folder and ending."""
  return posixpath.splitext(posixpath.basename(files.normal(name)))[0]


def text(example: tf.train.Example, key: str) -> str:
  """Returns a field of a record, or '' if it is missing.

  Args:
    example: the record.
    key: of a field of bytes.

  Returns:
    The field's first value.
  """
  feature = example.features.feature
  values = feature[key].bytes_list.value if key in feature else ()
  return values[0].decode(errors='replace') if values else ''


def examples(path: str) -> Iterator[tuple[str, int, tf.train.Example]]:
  """Reads the records of a shard.

  Args:
    path: of the shard.

  Yields:
    The place of each record in words, its offset in bytes, and the record.

  Raises:
    ValueError: a record is damaged; the message says where.
  """
  for record in record_reader.read(path):
    where = f'{path}, record {record.index} (counted from 0)'
    problem, example = record.problem, None
    if not problem:
      try:
        example = tf.train.Example.FromString(record.data)
      except message.DecodeError:
        problem = 'it is no tf.train.Example'
    if problem:
      raise ValueError(
        f'{where}, at byte {record.offset}: {problem}. Repair or remove it.'
      )
    yield where, record.offset, example


def _add(index, name, place):
  """Notes a map, unless there is another of the same image."""
  if name in index:
    raise ValueError(
      f'{index[name]} and {place} are both maps of image '
      f'{name}: leave one of them.'
    )
  index[name] = place


def of_folder(folder: str) -> dict[str, Place]:
  """Indexes a folder of maps, each named by its image's id.

  Args:
    folder: of grey pictures, npy or npz (heatmap) files, at any depth.

  Returns:
    Places by id.

  Raises:
    ValueError: two maps are of the same image.
  """
  index = {}
  for path, _ in folders.find(folder, map_files.MAP_TYPES):
    _add(index, image_id(path), Place(os.path.join(folder, path)))
  return index


def of_records(pattern: str, key: str) -> dict[str, Place]:
  """Indexes canonical records.

  Args:
    pattern: of the shards' paths.
    key: of the field that holds the image's name.

  Returns:
    Places by id, of the records that hold a map.

  Raises:
    ValueError: a record has no name, or two are of the same image.
  """
  index = {}
  for file in record_files.expand([pattern], 'map_records'):
    for where, offset, example in examples(file):
      if f'{_MAP}encoded' not in example.features.feature:
        continue
      name = image_id(text(example, key))
      if not name:
        raise ValueError(
          f'{where} has no {key}: name the field that holds the '
          "image's name by --map_key."
        )
      _add(index, name, Place(file, offset))
  return index


def read(place: Place) -> dict:
  """Reads a map.

  Args:
    place: from an index.

  Returns:
    The fields of a canonical record that speak of it.

  Raises:
    ValueError: it cannot be read.
  """
  if place.offset < 0:
    encoded = image_codec.encode_map(map_files.read_map(place.file))
    return record_writer.map_fields(encoded, 'pictures')
  reader = tf_record.tf_record_random_reader(place.file)
  example = tf.train.Example.FromString(reader.read(place.offset)[0])
  fields = {}
  for key, value in example.features.feature.items():
    if key.startswith(_MAP):
      fields[key] = getattr(value, value.WhichOneof('kind')).value[0]
  # The sizes are the picture's, whatever the record says of them.
  height, width = image_codec.shape(fields[f'{_MAP}encoded'])[:2]
  return {**fields, f'{_MAP}height': height, f'{_MAP}width': width}


def fit(fields: dict, height: int, width: int, framing: str) -> dict:
  """Gives a map the framing of an image, see `map_framing.fit`.

  Args:
    fields: of the map, as from `read`.
    height: of the image.
    width: of the image.
    framing: what the map shows of it.

  Returns:
    The fields of the map in the image's framing.

  Raises:
    ValueError: the shapes do not allow that framing.
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
