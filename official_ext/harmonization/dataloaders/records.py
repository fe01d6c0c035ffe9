# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Records together with their file and position."""

from collections.abc import Callable

from official.core import input_reader
import tensorflow as tf

from official_ext.harmonization import files as files_lib


def files(input_path) -> list[str]:
  """Lists the files that patterns match, each once; see `files.distinct`.

  Args:
    input_path: as in Model Garden: a path or pattern, several of them separated
      by commas, a list of these, or a `Config` that names several of these.

  Returns:
    The paths, in the order of the patterns.

  Raises:
    ValueError: a pattern matches nothing.
  """
  if not isinstance(input_path, (str, list, tuple)):
    input_path = [
      path
      for part in input_path.as_dict().values()
      for path in ([part] if isinstance(part, str) else part)
    ]
  return files_lib.distinct(input_reader.match_files(input_path))


def located(dataset_fn: Callable[..., tf.data.Dataset]):
  """Adds file and position to the records of Model Garden's `dataset_fn`.

  Args:
    dataset_fn: makes a dataset of serialized records from one file name, such
      as `tf.data.TFRecordDataset`.

  Returns:
    A function from one or more file names to a dataset of dicts: `serialized`
    (string), `file` (string) and `index` (int64, from 0), all scalars.
  """

  def read_file(file):
    return (
      dataset_fn(file)
      .enumerate()
      .map(
        lambda index, serialized: {
          'serialized': serialized,
          'file': file,
          'index': index,
        }
      )
    )

  def read(files):
    files = tf.reshape(tf.convert_to_tensor(files), [-1])
    return tf.data.Dataset.from_tensor_slices(files).flat_map(read_file)

  return read


def stop_at(
  condition: tf.Tensor,
  record: dict[str, tf.Tensor],
  reason,
  what: str = 'Bad record',
  advice: str = 'Repair or remove it',
):
  """Asserts that a record is good.

  Args:
    condition: bool scalar, true if the record is good.
    record: has `file` and `index`, as from `located`.
    reason: what is wrong if it is not: a string, or a string scalar `Tensor`.
    what: start of the message.
    advice: end of the message.

  Returns:
    An op that raises `tf.errors.InvalidArgumentError`, with the file, the
    record's position and the reason, if the condition is false.
  """
  message = tf.strings.join(
    [
      f'{what}: ',
      record['file'],
      ', record ',
      tf.strings.as_string(record['index']),
      ' (counted from 0): ',
      reason,
      f'. {advice}.',
    ]
  )
  return tf.debugging.Assert(condition, [message])
