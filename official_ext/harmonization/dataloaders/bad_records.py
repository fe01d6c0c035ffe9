# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Skips bad records in a dataset, counts them and limits their number."""

import tensorflow as tf

from official_ext.harmonization.dataloaders import records

# A bad record that is read again does not count towards the limit, so a few bad
# records without a good one would be read forever. Reading stops after
# `most` times this many bad records in a row.
_MOST_IN_A_ROW = 100


def skip(
  dataset: tf.data.Dataset, most: int, blank_label: int | None = None
) -> tf.data.Dataset:
  """Skips or blanks bad records, and counts them.

  The count is attached to the next record, so that it reaches the metrics of a
  training step on any number of workers without leaving the graph.

  Args:
    dataset: decoded records: dicts with `image`, `heatmap`, `label`, `has_map`
      and `problem` as from a decoder, and `file` and `index` as from
      `records.located`.
    most: how many different records may be bad, in one pipeline.
    blank_label: for finite datasets, in which a count must not wait for a next
      good record. Bad records become black images with this label that are not
      valid.

  Returns:
    The dataset, with two more fields, float32 scalars: `bad_records`, the
    number of records skipped since the last one (or 1 for a blanked record),
    and `valid`, 0 for a blanked record. It raises
    `tf.errors.InvalidArgumentError`, naming the last bad record, if more than
    `most` records are bad, or too many in a row.
  """
  dataset = dataset.scan(
    (tf.fill([most], tf.constant(-1, tf.int64)), 0, 0),
    lambda state, r: _count(state, r, most),
  )
  if blank_label is None:
    return dataset.filter(lambda record: record['problem'] == '')
  return dataset.map(lambda record: _blank(record, blank_label))


def _count(state, record, most):
  """Counts one record; each pipeline has its own state."""
  # Hashes of different bad records, their number, and bad records in a row.
  seen, different, in_a_row = state
  bad = record['problem'] != ''
  identity = tf.strings.to_hash_bucket_fast(
    tf.strings.join(
      [record['file'], tf.strings.as_string(record['index'])], ' '
    ),
    tf.int64.max,
  )
  is_new = bad & ~tf.reduce_any(seen == identity)
  now_different = different + tf.cast(is_new, tf.int32)
  now_in_a_row = tf.where(bad, in_a_row + 1, 0)
  with tf.control_dependencies(
    [
      records.stop_at(
        (now_different <= most) & (now_in_a_row <= most * _MOST_IN_A_ROW),
        record,
        record['problem'],
        what=f'More than {most} bad records (max_bad_records), or '
        f'{most * _MOST_IN_A_ROW} in a row without a good one; the last',
        advice='Repair or remove them, or raise max_bad_records',
      )
    ]
  ):
    seen = tf.where(is_new & (tf.range(most) == different), identity, seen)
  counted = {
    **record,
    'bad_records': tf.cast(in_a_row, tf.float32),
    'valid': tf.cast(~bad, tf.float32),
  }
  return (seen, now_different, now_in_a_row), counted


def _blank(record: dict[str, tf.Tensor], label: int) -> dict[str, tf.Tensor]:
  """Turns a bad record into a black image without a map."""
  good = record['problem'] == ''

  def pixels(name):
    black = tf.zeros([1, 1, record[name].shape[-1]], record[name].dtype)
    return tf.cond(good, lambda: record[name], lambda: black)

  return {
    **record,
    'image': pixels('image'),
    'heatmap': pixels('heatmap'),
    'has_map': record['has_map'] & good,
    'label': tf.where(good, record['label'], label),
    'problem': tf.constant(''),
    'bad_records': 1.0 - record['valid'],
  }
