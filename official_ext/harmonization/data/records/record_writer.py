"""Writes TFRecord shards that are whole or absent."""

import contextlib

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import image_codec


def _feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _serialize(fields: dict[str, bytes | int]) -> bytes:
  # Sorted and deterministic: the same input makes the same shard anywhere.
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
  return _serialize({'image': image, 'heatmap': heatmap, 'label': label})


def map_fields(
  heatmap: bytes,
  source: str,
  clicks: int | None = None,
  participants: int | None = None,
) -> dict[str, bytes | int]:
  """The fields that a canonical record has where a map is known.

  Args:
    heatmap: a PNG of one channel, 8 or 16 bit, in the image's framing.
    source: where the map is from, such as 'clickme' or 'csv'.
    clicks: how many made the map, where that is known.
    participants: how many people made it, where that is known.

  Returns:
    The fields' values by name.

  Raises:
    ValueError: the map is no such PNG.
  """
  height, width, channels, kind = image_codec.shape(heatmap)
  if kind != 'PNG' or channels != 1:
    raise ValueError(
      f'A map is a PNG of one channel; this is a {kind} of '
      f'{channels}: encode it with pictures.encode_map.'
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
  """Serializes a canonical record, which Model Garden's own decoder reads too.

  Args:
    image: a JPEG or PNG, kept as it is.
    label: class.
    filename: what the image is called; its stem is the image's id.
    heatmap: the human map as in `map_fields`; None for an image without one.
    source: where the map is from.
    clicks: how many made the map, where that is known.
    participants: how many people made it, where that is known.

  Returns:
    The serialized `tf.train.Example`.

  Raises:
    ValueError: the image or the map is not of the kind that it should be.
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
  return _serialize(fields)


def add_fields(example: tf.train.Example, fields: dict[str, bytes | int]):
  """Sets fields of a record that was read.

  Args:
    example: is changed.
    fields: values by name.
  """
  for name, value in fields.items():
    example.features.feature[name].CopyFrom(_feature(value))


@contextlib.contextmanager
def shard(path: str):
  """Opens a shard that appears under its name only when it is complete.

  Args:
    path: of the shard.

  Yields:
    A `tf.io.TFRecordWriter`.
  """
  with files.replacing(path) as partial:
    with tf.io.TFRecordWriter(partial) as writer:
      yield writer
