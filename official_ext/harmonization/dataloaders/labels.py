# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Maps labels of records to classes of a network."""

import tensorflow as tf

# Number of classes to the offset of ImageNet labels 0..999 (ClickMe, TFDS).
OFFSETS = {1000: 0, 1001: 1}


def first_class(num_classes: int) -> int:
  """Returns the first class that an image can have.

  Args:
    num_classes: the network's number of classes.

  Returns:
    1 for ImageNet's 1001 classes, whose class 0 is the background, so that a
    label of 0 means a missing offset; otherwise 0.
  """
  return 1 if num_classes == 1001 else 0


def offset_with_map(data, num_classes: int) -> int | None:
  """Returns the label offset of a dataset with maps.

  Args:
    data: a `MappedDataConfig`.
    num_classes: the network's number of classes.

  Returns:
    `data.label_offset`. If it is None, the offset that the labels of the
    ClickMe release need, or None for other formats and numbers of classes.
  """
  if data.label_offset is None and data.map_decoder == 'clickme':
    return OFFSETS.get(num_classes)
  return data.label_offset


def shift(
  dataset: tf.data.Dataset, num_classes: int, offset: int, name: str
) -> tf.data.Dataset:
  """Adds an offset to the labels of batches, and checks them.

  Args:
    dataset: batches of (images, labels), labels int (B,), -1 if Model Garden
      found none.
    num_classes: the network's number of classes.
    offset: added to the labels.
    name: name of the dataset and of the offset's field, for messages.

  Returns:
    The dataset with classes as labels. It raises
    `tf.errors.InvalidArgumentError` if a label is out of range.
  """
  first = first_class(num_classes)

  def check(images, labels):
    low, high = tf.reduce_min(labels), tf.reduce_max(labels)
    with tf.control_dependencies(
      [
        tf.debugging.Assert(
          tf.reduce_all(labels >= 0),
          [
            f'{name} has a record without a label or with a negative label. '
            'Repair or remove it. The lowest label is',
            low,
          ],
        ),
        tf.debugging.Assert(
          tf.reduce_all(
            (labels + offset >= first) & (labels + offset < num_classes)
          ),
          [
            f'{name} has a label that plus {offset} is outside the '
            f"network's classes {first}..{num_classes - 1}. The labels of this "
            'batch are',
            low,
            'to',
            high,
          ],
        ),
      ]
    ):
      return images, labels + offset

  return dataset.map(check, num_parallel_calls=tf.data.AUTOTUNE)
