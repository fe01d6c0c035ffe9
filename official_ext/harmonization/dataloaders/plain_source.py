"""Finds the record of a source without maps that the host cannot read.

The host's errors about an image say neither file nor record.
"""

import re
from typing import Sequence

import tensorflow as tf, tf_keras
import tqdm

from official.vision.dataloaders import classification_input
from official_ext.harmonization.dataloaders import records


def _reason(serialized: bytes, field: str, error: tf.errors.OpError) -> str:
  """Says in words what is wrong with a record."""
  try:
    example = tf.train.Example.FromString(serialized)
  except Exception:  # pylint: disable=broad-except  # of several kinds
    return 'it is not a tf.train.Example'
  values = example.features.feature[field].bytes_list.value
  if not values or not values[0]:
    return f'field {field} is missing (task.train_data.image_field_key)'
  # Before its own words stand those of the dataset.
  words = re.sub(r'.*Iterator::\S+: ', '', error.message.partition('\n')[0])
  return f'field {field} is not an image that can be read ({words.strip()})'


def first_unreadable(files: Sequence[str], data, keys, size) -> str:
  """Reads records as the host does until one fails.

  Args:
    files: TFRecord files.
    data: the source's `DataConfig`.
    keys: the names of the fields of image and label.
    size: (height, width) of the network's images.

  Returns:
    The first bad record's file, position and fault; '' if all can be read.
  """
  image_key, label_key = keys
  decoder = classification_input.Decoder(image_key, label_key)
  parse = classification_input.Parser(
      output_size=list(size),
      num_classes=1,
      image_field_key=image_key,
      label_field_key=label_key,
      decode_jpeg_only=data.decode_jpeg_only).parse_fn(is_training=False)
  located = records.located(tf.data.TFRecordDataset)(list(files))
  # What comes out must depend on the pixels, or none are decoded.
  read = located.map(
      lambda record: tf.reduce_max(
          parse(decoder.decode(record['serialized']))[0]),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True)
  count = 0
  try:
    for _ in tqdm.tqdm(read, desc='looking for the bad record',
                       unit=' records', disable=None):
      count += 1
  except tf.errors.InvalidArgumentError as e:
    record = next(located.skip(count).as_numpy_iterator())
    return (f'{record["file"].decode()}, record {record["index"]} (counted '
            f'from 0): {_reason(record["serialized"], image_key, e)}')
  return ''
