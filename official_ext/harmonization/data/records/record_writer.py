# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Serializes records, and writes shards atomically."""

import contextlib

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import image_codec


def _feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def serialize(fields: dict[str, bytes | int]) -> bytes:
  """Serializes a record of any format.

  Args:
    fields: values by field name.

  Returns:
    The serialized `tf.train.Example`; equal fields give equal bytes on every
    machine.
  """
  return tf.train.Example(
    features=tf.train.Features(
      feature={k: _feature(v) for k, v in fields.items()}
    )
  ).SerializeToString(deterministic=True)


def clickme_example(image: bytes, heatmap: bytes, label: int) -> bytes:
  """Serializes a record in the format of the ClickMe release.

  Args:
    image: encoded RGB image.
    heatmap: encoded human map, one channel.
    label: class.

  Returns:
    The serialized `tf.train.Example`.
  """
  return serialize({'image': image, 'heatmap': heatmap, 'label': label})


def map_fields(
  heatmap: bytes,
  source: str,
  clicks: int | None = None,
  participants: int | None = None,
) -> dict[str, bytes | int]:
  """Returns the fields of a canonical record that describe its map.

  Args:
    heatmap: a PNG of one channel, with 8 or 16 bits, that shows the same as the
      image.
    source: kind of the input, such as 'clickme' or 'csv'.
    clicks: number of clicks in the map, if known.
    participants: number of people who made it, if known.

  Returns:
    Values by field name.

  Raises:
    ValueError: the map is not such a PNG.
  """
  height, width, channels, kind = image_codec.shape(heatmap)
  if kind != 'PNG' or channels != 1:
    raise ValueError(
      f'The map is a {kind} of {channels} channels; expected a PNG of one '
      'channel. Encode it with image_codec.encode_map.'
    )
  counts = {'clicks': clicks, 'participants': participants}
  return {
    'image/heatmap/encoded': heatmap,
    'image/heatmap/height': height,
    'image/heatmap/width': width,
    'image/heatmap/source': source.encode(),
    **{f'image/heatmap/{k}': v for k, v in counts.items() if v is not None},
  }


def canonical_example(
  image: bytes,
  label: int,
  filename: str = '',
  heatmap: bytes | None = None,
  source: str = '',
  clicks: int | None = None,
  participants: int | None = None,
) -> bytes:
  """Serializes a canonical record, which Model Garden's decoder can read, too.

  Args:
    image: a JPEG or PNG; its bytes are stored unchanged.
    label: class.
    filename: of the image; without folder and extension it is the image's id.
    heatmap: the human map, see `map_fields`; None for an image without a map.
    source: see `map_fields`.
    clicks: see `map_fields`.
    participants: see `map_fields`.

  Returns:
    The serialized `tf.train.Example`.

  Raises:
    ValueError: the image or the map has another format.
  """
  height, width, channels, kind = image_codec.shape(image)
  fields = {
    'image/encoded': image,
    'image/height': height,
    'image/width': width,
    'image/channels': channels,
    'image/format': kind.encode(),
    'image/filename': filename.encode(),
    'image/class/label': label,
  }
  if heatmap is not None:
    fields.update(map_fields(heatmap, source, clicks, participants))
  return serialize(fields)


def add_fields(example: tf.train.Example, fields: dict[str, bytes | int]):
  """Sets fields of a record in place.

  Args:
    example: the record.
    fields: values by field name.
  """
  for name, value in fields.items():
    example.features.feature[name].CopyFrom(_feature(value))


@contextlib.contextmanager
def open_shard(path: str):
  """Opens a shard that appears under its name only when it is complete.

  Args:
    path: local or remote.

  Yields:
    A `tf.io.TFRecordWriter`.
  """
  with files.replacing(path) as partial:
    with tf.io.TFRecordWriter(partial) as writer:
      yield writer
