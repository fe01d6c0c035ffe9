"""Records that know where they come from."""

from collections.abc import Callable

from official.core import input_reader
import tensorflow as tf

from official_ext.harmonization import files as files_lib


def files(input_path) -> list[str]:
  """Finds the files that patterns match, each once, see `files.distinct`.

  Args:
    input_path: as in Model Garden: a path, a pattern, several of these with
      commas, a list of such, or a `Config` of such by name.

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
  """Makes a host `dataset_fn` say the file and position of every record.

  Args:
    dataset_fn: makes a dataset of serialized records from one file name, such
      as `tf.data.TFRecordDataset`.

  Returns:
    A function of one or more file names to a dataset of dicts: `serialized`
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
    condition: bool scalar, true where it is.
    record: holds `file` and `index`, as from `located`.
    reason: what is wrong otherwise: a string, or a string scalar `Tensor`.
    what: begins the message.
    advice: ends it.

  Returns:
    An op that raises `tf.errors.InvalidArgumentError`, with the file, the
    record's position and the reason, where the condition is false.
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
