"""Checks of the data of a run: before the first step, and when it fails."""

import itertools
import re

from absl import logging
from google.protobuf import message
from official.core import config_definitions as cfg
from official.core import input_reader
import tensorflow as tf

from official_ext.harmonization.configs import checks
from official_ext.harmonization.data import verify_records
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.dataloaders import images_with_maps
from official_ext.harmonization.dataloaders import images_without_maps
from official_ext.harmonization.dataloaders import registry

_DOWNLOAD = (
  'python -m official_ext.harmonization.data.download_clickme --output_dir=DIR'
)
_SOURCES = (
  'train_data',
  'validation_data',
  'mapped_data',
  'mapped_validation_data',
)
# Where the CPU reads an image, by names of TensorFlow's operations.
_IMAGE_OPS = re.compile('Decode|Jpeg|JPEG|PNG|ParseSingleExample|ParseExample')
_VERIFY = 'python -m official_ext.harmonization.data.verify_records'


def check_steps(trainer: cfg.TrainerConfig):
  """Checks that there are steps to train.

  Args:
    trainer: of the experiment.

  Raises:
    ValueError: there are none.
  """
  if trainer.train_steps < 1:
    raise ValueError(
      f'trainer.train_steps is {trainer.train_steps}: set it to 1 or more.'
    )


def check_data(params: cfg.ExperimentConfig, mode: str):
  """Checks that the data a run needs are there.

  Args:
    params: the experiment.
    mode: as the flag.

  Raises:
    ValueError: a field names no files, or nothing in them; or there are no
      steps to train. The message says which field, and what to do.
  """
  task = params.task
  checks.check_batch_sizes(task)
  if 'train' in mode:
    check_steps(params.trainer)
    check_checkpoint(task.init_checkpoint)
  needed, optional = [], []
  if not task.harmonization.enabled:
    needed = ['train_data'] if 'train' in mode else []
    needed += ['validation_data'] if 'eval' in mode else []
  else:
    if 'train' in mode:
      needed.append('mapped_data')
      if task.harmonization.mapped_fraction < 1:
        needed.append('train_data')
    if 'eval' in mode:
      optional = ['mapped_validation_data', 'validation_data']
      if not any(checks.has_source(getattr(task, n)) for n in optional):
        needed.append('mapped_validation_data')
  for name in needed + [
    n for n in optional if checks.has_source(getattr(task, n))
  ]:
    check_source(getattr(task, name), name)
  if (
    task.harmonization.enabled
    and 'mapped_validation_data' in (*needed, *optional)
    and checks.has_source(task.mapped_validation_data)
  ):
    _check_maps(task.mapped_validation_data)


def _check_maps(data):
  """Checks that images to measure alignment on have maps: as many as is fast.

  The evaluation would stop at one that has none, when training is over.
  """
  if data.on_bad_record == 'skip' or data.file_type != 'tfrecord':
    return
  bad = first_without_map(data)
  if bad:
    raise ValueError(
      'task.mapped_validation_data.input_path names a bad record: '
      f'{bad}; expected a human map to measure alignment with. Repair or '
      'remove it, move it to task.validation_data, or set '
      'task.mapped_validation_data.on_bad_record to skip.'
    )


def first_without_map(data, most: int = 10_000) -> str:
  """Looks for a record without a human map, without decoding pixels.

  No operation of TensorFlow runs: none may before a strategy of several
  processes is built.

  Args:
    data: a `MappedDataConfig`.
    most: how many records are looked at, shared equally by the files.

  Returns:
    The first such record's file, position and fault; '' if all have maps.
  """
  field = registry.get_decoder(data.map_decoder).map_field
  files = images_with_maps.files(data)
  for file in files:
    records = itertools.islice(record_reader.read(file), -(-most // len(files)))
    for record in records:
      problem = record.problem or _map_problem(record.data, field)
      if problem:
        return f'{file}, record {record.index} (counted from 0): {problem}'
  return ''


def _map_problem(serialized: bytes, field: str) -> str:
  """Says what is wrong with a record that should have a map in a field."""
  try:
    feature = tf.train.Example.FromString(serialized).features.feature
  except message.DecodeError:
    return 'it is not a tf.train.Example'
  if not any(feature[field].bytes_list.value):
    return f'field {field} (the human map) is missing'
  return ''


def check_checkpoint(path: str):
  """Checks that the weights that a run starts from are there.

  Args:
    path: `task.init_checkpoint`; '' or None for random weights.

  Raises:
    ValueError: it is neither a checkpoint nor a folder of checkpoints.
  """
  if path and not (
    tf.train.latest_checkpoint(path)
    if tf.io.gfile.isdir(path)
    else tf.io.gfile.exists(f'{path}.index')
  ):
    raise ValueError(
      f'task.init_checkpoint is {path!r}, which is no checkpoint: give its '
      'path without .index, or a folder that holds some.'
    )


def _faults(files, name: str) -> str:
  """Says what is wrong with the files of a source, if it cannot be read."""
  empty = []
  for file in files:
    try:
      found = tf.io.gfile.stat(file)
    except tf.errors.NotFoundError:
      return f'{file} does not exist'
    if found.is_directory:
      return f'{file} is a folder'
    if not found.length:
      empty.append(file)
  if len(empty) == len(files):
    return f'{empty[0]} is empty' + ', as are all that it names' * (
      len(empty) > 1
    )
  if empty:
    logging.warning(
      'task.%s.input_path: %d of its %d files are empty, %s is the first. '
      '%s says whether they should be.',
      name,
      len(empty),
      len(files),
      empty[0],
      _VERIFY,
    )
  return ''


def check_source(data: cfg.DataConfig, name: str):
  """Checks that one source has files.

  Args:
    data: the source.
    name: of its field in the task.

  Raises:
    ValueError: it has none, or nothing is in them.
  """
  if data.tfds_name or not isinstance(data.input_path, (str, list, tuple)):
    return
  try:
    files = input_reader.match_files(data.input_path or '')
    strays = [f for f in files if record_files.is_side_file(f)]
    problem = (
      (
        f'{strays[0]}, which it matches, is no shard (*.tfrecords would '
        'not match it)'
      )
      if strays
      else _faults(files, name)
    )
  except ValueError as e:
    problem = str(e) if data.input_path else 'it is empty'
  except tf.errors.OpError as e:
    problem = f'it cannot be reached ({" ".join(e.message.split())})'
  if problem:
    what = (
      f'a path to ClickMe records ({_DOWNLOAD} fetches them)'
      if 'mapped' in name
      else 'a path to ImageNet records'
    )
    if name == 'validation_data':
      what += " (or to '' to leave it out)"
    raise ValueError(
      f'task.{name}.input_path is {data.input_path!r}, and {problem}: set it '
      f'to {what}, or add --config_file=experiments/local_cpu.yaml to run on '
      'the embedded data, which python -m '
      'official_ext.harmonization.data.make_digits_clickme makes.'
    )


def _input_files(*sources):
  """The TFRecord files that sources name and that exist."""
  files = []
  for data in sources:
    if not data or not data.input_path or data.file_type != 'tfrecord':
      continue
    paths = data.input_path
    if not isinstance(paths, (str, list, tuple)):
      paths = list(paths.as_dict().values())
    try:
      files += input_reader.match_files(paths)
    except ValueError:
      continue  # A source that this run does not use.
  return [f for f in dict.fromkeys(files) if tf.io.gfile.exists(f)]


def stop_at_bad_record(task, error: tf.errors.DataLossError):
  """Ends the program with the file of the bad record that stopped it.

  Args:
    task: the task's configuration, whose files are looked through.
    error: that TensorFlow raised. It names no file.

  Raises:
    SystemExit: a record is bad; the message names its file, place and fault.
    tf.errors.DataLossError: all files are good, so it is about something else.
  """
  files = _input_files(*(getattr(task, name) for name in _SOURCES))
  logging.error('TensorFlow says: %s', error.message)
  bad = verify_records.locate(files, error)
  if bad:
    raise SystemExit(
      f'train.py: Bad record: {bad}. Repair or remove it; {_VERIFY} '
      '--nodecode FILES names all that are bad.'
    ) from None
  logging.error(
    'The %d files that task.*.input_path name were read again, and every '
    'checksum matches. The error is about other data, such as a checkpoint, or '
    'a file could not be read for a moment.',
    len(files),
  )
  raise error


def stop_at_unreadable(task, error: tf.errors.InvalidArgumentError):
  """Ends the program with the record of a source without maps that is bad.

  Args:
    task: the task's configuration, whose files are looked through.
    error: that TensorFlow raised. It names no file.

  Raises:
    SystemExit: a record is bad; the message names its file, place and fault.
    tf.errors.InvalidArgumentError: it is about something else.
  """
  if not _IMAGE_OPS.search(error.message):
    raise error
  logging.error('TensorFlow says: %s', error.message)
  train = task.train_data  # The host asks it for the fields of both.
  for name in ('train_data', 'validation_data'):
    data = getattr(task, name)
    files = _input_files(data)
    bad = files and images_without_maps.first_unreadable(
      files,
      data,
      (train.image_field_key, train.label_field_key),
      task.model.input_size[:2],
    )
    if bad:
      raise SystemExit(
        f'train.py: Bad record: {bad}. Repair or remove it'
        + f', or, if it is no JPEG, set task.{name}.decode_jpeg_only to False.'
        * data.decode_jpeg_only
      ) from None
  raise error
