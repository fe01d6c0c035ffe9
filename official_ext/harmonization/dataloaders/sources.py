"""Two sources of images, with and without human maps, as one dataset.

A batch is (images (B, H, W, 3), dict) with
  labels: int32 (B,), or float32 (B, classes) mixing coefficients;
  heatmaps: float32 (M, H, W), the human maps of the first M images;
  heatmap_weights: float32 (M,), 1 for a map, 0 for none;
  valid: float32 (B,), 0 for rows that only fill up a batch;
  bad_records: float32 (M,), how many were left out before each row;
  records: in evaluation alone, int32 (B, 2), the number of each mapped row's
    file and its place there, as `mapped_source.files` counts them.
M is a Python int, so that shapes are static; in evaluation M = B.
"""

import tensorflow as tf


def mapped_rows(per_replica_batch_size: int, mapped_fraction: float) -> int:
  """How many rows of a replica's batch hold images with maps: M."""
  return max(1, round(mapped_fraction * per_replica_batch_size))


def join_for_training(
  mapped: tf.data.Dataset, plain: tf.data.Dataset | None
) -> tf.data.Dataset:
  """Puts a mapped and a plain batch into one, the mapped rows first.

  Args:
    mapped: batches of images and {labels, heatmaps, heatmap_weights}, M rows.
    plain: batches of (images, labels), B - M rows, labels of the same kind as
      the mapped ones; None where M = B.

  Returns:
    A dataset of batches as this module describes them.
  """

  def join(mapped_batch, plain_batch):
    images, batch = mapped_batch
    plain_images, plain_labels = plain_batch
    return tf.concat([images, plain_images], 0), {
      **batch,
      'labels': tf.concat([batch['labels'], plain_labels], 0),
    }

  def mark_valid(images, batch):
    return images, {
      'bad_records': tf.zeros_like(batch['heatmap_weights']),
      **batch,
      'valid': tf.ones([images.shape[0]]),
    }

  dataset = mapped
  if plain is not None:
    dataset = tf.data.Dataset.zip((mapped, plain)).map(
      join, num_parallel_calls=tf.data.AUTOTUNE
    )
  return dataset.map(mark_valid).prefetch(tf.data.AUTOTUNE)


def _pad(x: tf.Tensor, rows: int) -> tf.Tensor:
  """Fills a tensor up with zeros to a static number of rows."""
  missing = rows - tf.shape(x)[0]
  x = tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
  return tf.ensure_shape(x, [rows] + x.shape[1:])


def join_for_evaluation(
  mapped: tf.data.Dataset | None,
  plain: tf.data.Dataset | None,
  batch_size: int,
  replicas: int = 1,
) -> tf.data.Dataset:
  """Puts two sources after each other, every batch filled up to `batch_size`.

  Args:
    mapped: batches of images and {labels, heatmaps, heatmap_weights}, the last
      one possibly short, or None.
    plain: batches of (images, labels), the last possibly short, or None.
    batch_size: per replica.
    replicas: how many of them share the dataset. A step that cannot serve them
      all is never taken, so empty batches follow until the last real one is
      sure to be served.

  Returns:
    A dataset of batches as this module describes them, M = B. A batch is all
    of one source; the weights of a plain one are all 0.

  Raises:
    ValueError: there is no source.
  """
  if mapped is None and plain is None:
    raise ValueError(
      'There is nothing to evaluate on: set '
      'task.mapped_validation_data.input_path, '
      'task.validation_data.input_path, or both.'
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

  def without_maps(images, labels):
    return images, {
      'labels': labels,
      'heatmaps': tf.zeros_like(images[..., 0], tf.float32),
      'heatmap_weights': tf.zeros([tf.shape(images)[0]]),
    }

  parts = []
  if plain is not None:
    parts.append(plain.map(without_maps))
  if mapped is not None:
    parts.append(mapped)
  parts = [
    part.map(complete, num_parallel_calls=tf.data.AUTOTUNE) for part in parts
  ]
  dataset = parts[0]
  for part in parts[1:]:
    dataset = dataset.concatenate(part)
  empty = tf.nest.map_structure(
    lambda spec: tf.zeros(spec.shape, spec.dtype), dataset.element_spec
  )
  fill = tf.data.Dataset.from_tensors(empty).repeat(replicas - 1)
  return dataset.concatenate(fill).prefetch(tf.data.AUTOTUNE)
