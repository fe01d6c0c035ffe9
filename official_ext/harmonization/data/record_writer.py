"""Writes TFRecord shards that are whole or absent."""

import contextlib
import os

import tensorflow as tf, tf_keras


def _feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def clickme_example(image: bytes, heatmap: bytes, label: int) -> bytes:
  """Serializes a record in the format of the ClickMe release.

  Args:
    image: encoded RGB image.
    heatmap: encoded human map, one channel.
    label: class.

  Returns:
    The serialized `tf.train.Example`.
  """
  fields = {'image': image, 'heatmap': heatmap, 'label': label}
  return tf.train.Example(
      features=tf.train.Features(
          feature={k: _feature(v) for k, v in fields.items()
                  })).SerializeToString()


@contextlib.contextmanager
def shard(path: str):
  """Opens a shard that appears under its name only when it is complete.

  Args:
    path: of the shard.

  Yields:
    A `tf.io.TFRecordWriter`.
  """
  partial = f'{path}.partial'
  try:
    with tf.io.TFRecordWriter(partial) as writer:
      yield writer
    os.replace(partial, path)
  finally:
    if os.path.exists(partial):
      os.remove(partial)
