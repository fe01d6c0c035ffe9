# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Joins the datasets with and without human maps into one.

A batch is (images (B, H, W, 3), dict) with
  labels: int32 (B,), or float32 (B, classes) mixing coefficients;
  heatmaps: float32 (M, H, W), the human maps of the first M images;
  heatmap_weights: float32 (M,), 1 with a map, 0 without;
  valid: float32 (B,), 0 for padding rows;
  bad_records: float32 (M,), number of records skipped before each row;
  records: only in evaluation, int32 (B, 2), for each row with a map the index
    of its file in `images_with_maps.files` and its position in the file.
M is a Python int, so that shapes are static. In evaluation M = B.
"""

import tensorflow as tf


def rows_with_map(per_replica_batch_size: int, mapped_fraction: float) -> int:
  """Returns M, the number of images with maps in a replica's batch."""
  return max(1, round(mapped_fraction * per_replica_batch_size))


def join_for_training(
  with_map: tf.data.Dataset, without_map: tf.data.Dataset | None
) -> tf.data.Dataset:
  """Concatenates each batch with maps and one without, in this order.

  Args:
    with_map: batches of images and {labels, heatmaps, heatmap_weights}, M rows.
    without_map: batches of (images, labels), B - M rows, with labels of the
      same dtype and rank as `with_map`; None if M = B.

  Returns:
    A dataset of batches as this module describes them.
  """

  def join(batch_with_map, batch_without_map):
    images, batch = batch_with_map
    other_images, other_labels = batch_without_map
    return tf.concat([images, other_images], 0), {
      **batch,
      'labels': tf.concat([batch['labels'], other_labels], 0),
    }

  def mark_valid(images, batch):
    return images, {
      'bad_records': tf.zeros_like(batch['heatmap_weights']),
      **batch,
      'valid': tf.ones([images.shape[0]]),
    }

  dataset = with_map
  if without_map is not None:
    dataset = tf.data.Dataset.zip((with_map, without_map)).map(
      join, num_parallel_calls=tf.data.AUTOTUNE
    )
  return dataset.map(mark_valid).prefetch(tf.data.AUTOTUNE)


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def _pad(x: tf.Tensor, rows: int) -> tf.Tensor:
  """Pads a tensor with zeros to a static number of rows."""
  missing = rows - tf.shape(x)[0]
  x = tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
  return tf.ensure_shape(x, [rows] + x.shape[1:])


def join_for_evaluation(
  with_map: tf.data.Dataset | None,
  without_map: tf.data.Dataset | None,
  batch_size: int,
  replicas: int = 1,
) -> tf.data.Dataset:
  """Concatenates two datasets, padding each batch to `batch_size`.

  Args:
    with_map: batches of images and {labels, heatmaps, heatmap_weights}, of
      which the last may be short, or None.
    without_map: batches of (images, labels), of which the last may be short, or
      None.
    batch_size: number of images per replica.
    replicas: number of replicas that share the dataset. A step runs only if
      there is a batch for each of them, so empty batches follow the last one.

  Returns:
    A dataset of batches as this module describes them, with M = B. All rows of
    a batch are from one dataset; the weights of a batch without maps are 0.

  Raises:
    ValueError: both datasets are None.
  """
  if with_map is None and without_map is None:
    raise ValueError(
      'task.mapped_validation_data.input_path and '
      'task.validation_data.input_path are empty; expected data to evaluate '
      'on. Set one of them, or both.'
    )

  def complete(images, batch):
    rows = [tf.shape(images)[0]]
    batch = {
      'valid': tf.ones(rows),
      'bad_records': tf.zeros(rows),
      'records': tf.zeros(rows + [2], tf.int32),
      **batch,
    }
    return (
      _pad(images, batch_size),
      {name: _pad(x, batch_size) for name, x in batch.items()},
    )

  def add_empty_maps(images, labels):
    return images, {
      'labels': labels,
      'heatmaps': tf.zeros_like(images[..., 0], tf.float32),
      'heatmap_weights': tf.zeros([tf.shape(images)[0]]),
    }

  parts = []
  if without_map is not None:
    parts.append(without_map.map(add_empty_maps))
  if with_map is not None:
    parts.append(with_map)
  parts = [
    part.map(complete, num_parallel_calls=tf.data.AUTOTUNE) for part in parts
  ]
  dataset = parts[0]
  for part in parts[1:]:
    dataset = dataset.concatenate(part)
  empty = tf.nest.map_structure(
    lambda spec: tf.zeros(spec.shape, spec.dtype), dataset.element_spec
  )
  padding = tf.data.Dataset.from_tensors(empty).repeat(replicas - 1)
  return dataset.concatenate(padding).prefetch(tf.data.AUTOTUNE)
