"""Bad records left out of a stream, counted and capped."""

import tensorflow as tf

from official_ext.harmonization.dataloaders import records

# A bad record that is met again does not count towards the cap, so a handful
# with nothing good among them would be read for ever: this many caps in a row.
_ROW = 100


def skip(
  dataset: tf.data.Dataset, most: int, blank_label: int | None = None
) -> tf.data.Dataset:
  """Leaves bad records out, or blanks them, and counts them.

  The count travels with the records that follow, so that it reaches the
  metrics of whoever trains on them, on any number of workers and without a
  call to the host.

  Args:
    dataset: decoded records: dicts with `image`, `heatmap`, `label`, `has_map`
      and `problem` as from a decoder, `file` and `index` as from
      `records.located`.
    most: how many different ones may be bad, in one pipeline.
    blank_label: for data that end, where a count must not wait for a next good
      record: bad ones stay as black rows of this label that are not valid.

  Returns:
    The dataset. Its records have two more fields, float32 scalars:
    `bad_records`, how many were left out since the last one (or 1 for a blank
    one), and `valid`, 0 for a blank one. It raises
    `tf.errors.InvalidArgumentError`, naming the last bad record, where more
    than `most` are bad, or nearly all.
  """
  dataset = dataset.scan(
    (tf.fill([most], tf.constant(-1, tf.int64)), 0, 0),
    lambda state, r: _count(state, r, most),
  )
  if blank_label is None:
    return dataset.filter(lambda record: record['problem'] == '')
  return dataset.map(lambda record: _blank(record, blank_label))


def _count(state, record, most):
  """Counts one record; the state is of one pipeline."""
  # Hashes of the different bad ones, their number, the bad ones in a row.
  seen, different, row = state
  bad = record['problem'] != ''
  identity = tf.strings.to_hash_bucket_fast(
    tf.strings.join(
      [record['file'], tf.strings.as_string(record['index'])], ' '
    ),
    tf.int64.max,
  )
  is_new = bad & ~tf.reduce_any(seen == identity)
  now_different = different + tf.cast(is_new, tf.int32)
  now_in_row = tf.where(bad, row + 1, 0)
  with tf.control_dependencies(
    [
      records.stop_at(
        (now_different <= most) & (now_in_row <= most * _ROW),
        record,
        record['problem'],
        what=f'More than {most} bad records (max_bad_records), or '
        f'{most * _ROW} in a row without a good one; the last',
        advice='Repair or remove them, or raise max_bad_records',
      )
    ]
  ):
    seen = tf.where(is_new & (tf.range(most) == different), identity, seen)
  counted = {
    **record,
    'bad_records': tf.cast(row, tf.float32),
    'valid': tf.cast(~bad, tf.float32),
  }
  return (seen, now_different, now_in_row), counted


def _blank(record: dict[str, tf.Tensor], label: int) -> dict[str, tf.Tensor]:
  """Turns a bad record into a black one without a map."""
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
