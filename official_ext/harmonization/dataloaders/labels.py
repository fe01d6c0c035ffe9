"""Labels of records as classes of a network."""

import tensorflow as tf

# What to add to ImageNet's labels where they are 0..999 (ClickMe, TFDS).
OFFSETS = {1000: 0, 1001: 1}


def first_class(num_classes: int) -> int:
  """The first class that an image can show.

  Args:
    num_classes: the network's number of classes.

  Returns:
    1 for ImageNet's 1001 classes, of which class 0 is the background: a label
    there means that an offset was forgotten. Else 0.
  """
  return 1 if num_classes == 1001 else 0


def offset_with_map(data, num_classes: int) -> int | None:
  """The offset of the labels of records with maps.

  Args:
    data: a `MappedDataConfig`.
    num_classes: the network's number of classes.

  Returns:
    Its `label_offset`; where that is None, what the labels of ClickMe's release
    need, or None where nothing is known of them.
  """
  if data.label_offset is None and data.map_decoder == 'clickme':
    return OFFSETS.get(num_classes)
  return data.label_offset


def shift(
  dataset: tf.data.Dataset, num_classes: int, offset: int, source: str
) -> tf.data.Dataset:
  """Adds an offset to the labels of batches, and checks them.

  Args:
    dataset: batches of (images, labels), labels int (B,), -1 where the host
      found none.
    num_classes: the network's number of classes.
    offset: to add.
    source: names the data and the offset's field in messages.

  Returns:
    The dataset, whose labels are classes. It raises
    `tf.errors.InvalidArgumentError` where one is not.
  """
  first = first_class(num_classes)

  def check(images, labels):
    low, high = tf.reduce_min(labels), tf.reduce_max(labels)
    with tf.control_dependencies(
      [
        tf.debugging.Assert(
          tf.reduce_all(labels >= 0),
          [
            f'{source} holds a record without a label, or with one below 0: '
            'repair or remove it. The lowest label is',
            low,
          ],
        ),
        tf.debugging.Assert(
          tf.reduce_all(
            (labels + offset >= first) & (labels + offset < num_classes)
          ),
          [
            f'{source} holds a label that plus {offset} is outside the '
            f"network's classes {first}..{num_classes - 1}; in this batch "
            'they are',
            low,
            'to',
            high,
          ],
        ),
      ]
    ):
      return images, labels + offset

  return dataset.map(check, num_parallel_calls=tf.data.AUTOTUNE)
