# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks the data of a run before the first step, and when reading fails."""

import contextlib
import itertools
import re

from absl import logging
from google.protobuf import message
from official.core import config_definitions as cfg
from official.core import input_reader
import tensorflow as tf

from official_ext.harmonization.configs import checks
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.data.records import verification
from official_ext.harmonization.dataloaders import images_with_maps
from official_ext.harmonization.dataloaders import images_without_maps
from official_ext.harmonization.dataloaders import registry

_BUILD = 'python -m official_ext.harmonization.data.build_clickme_records'
_DOWNLOAD = (
  'python -m official_ext.harmonization.data.download_clickme --output_dir=DIR'
)
_DATASETS = (
  'train_data',
  'validation_data',
  'mapped_data',
  'mapped_validation_data',
)
# Names of TensorFlow operations that read images.
_IMAGE_OPS = re.compile('Decode|Jpeg|JPEG|PNG|ParseSingleExample|ParseExample')
_VERIFY = 'python -m official_ext.harmonization.data.verify_records'


def check_steps(trainer: cfg.TrainerConfig):
  """Checks that the number of training steps is set.

  Args:
    trainer: the experiment's trainer configuration.

  Raises:
    ValueError: it is less than 1.
  """
  if trainer.train_steps < 1:
    raise ValueError(
      f'trainer.train_steps is {trainer.train_steps}; expected 1 or more.'
    )


def check_data(params: cfg.ExperimentConfig, mode: str):
  """Checks that the data that a run needs exist.

  Args:
    params: the final experiment.
    mode: as in --mode.

  Raises:
    ValueError: a field names no files or only empty files, or there are no
      steps to train. The message names the field and what to do.
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
  """Checks that the first validation records have maps.

  Otherwise the evaluation would stop at such a record after the training.
  """
  if data.on_bad_record == 'skip' or data.file_type != 'tfrecord':
    return
  bad = first_without_map(data)
  if bad:
    raise ValueError(
      'task.mapped_validation_data.input_path names a bad record: '
      f'{bad}; expected a human map to measure alignment with. Repair or '
      'remove the record, move it to task.validation_data, or set '
      'task.mapped_validation_data.on_bad_record to skip.'
    )


def first_without_map(data, most: int = 10_000) -> str:
  """Searches for a record without a human map, without decoding pixels.

  It runs no TensorFlow operation, since none may run before a strategy of
  several processes is built.

  Args:
    data: a `MappedDataConfig`.
    most: how many records are read, distributed equally over the files.

  Returns:
    File, position and problem of the first such record; '' if all have maps.
  """
  field = registry.get_decoder(data.map_decoder).map_field
  files = images_with_maps.files(data)
  for file in files:
    records = itertools.islice(record_reader.read(file), -(-most // len(files)))
    for record in records:
      problem = record.problem or _map_problem(record.data or b'', field)
      if problem:
        return f'{file}, record {record.index} (counted from 0): {problem}'
  return ''


def _map_problem(serialized: bytes, field: str) -> str:
  """Describes what is wrong with a record that needs a map; '' if nothing."""
  try:
    feature = tf.train.Example.FromString(serialized).features.feature
  except message.DecodeError:
    return 'it is not a tf.train.Example'
  if not any(feature[field].bytes_list.value):
    return f'field {field} (the human map) is missing'
  return ''


def check_checkpoint(path: str):
  """Checks that the initial weights of a run exist.

  Args:
    path: `task.init_checkpoint`; '' or None for random weights.

  Raises:
    ValueError: the path is neither a checkpoint nor a folder with checkpoints.
  """
  if path and not (
    tf.train.latest_checkpoint(path)
    if tf.io.gfile.isdir(path)
    else tf.io.gfile.exists(f'{path}.index')
  ):
    raise ValueError(
      f'task.init_checkpoint is {path!r}; expected the path of a checkpoint '
      'without .index, or a folder with checkpoints. Check the path.'
    )


def _unreadable(files, name: str) -> str:
  """Describes why the files of a dataset cannot be read; '' if they can."""
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
    return f'{empty[0]} is empty' + ', like all files that it names' * (
      len(empty) > 1
    )
  if empty:
    logging.warning(
      'task.%s.input_path: %d of its %d files are empty; the first is %s. '
      'Check them with %s.',
      name,
      len(empty),
      len(files),
      empty[0],
      _VERIFY,
    )
  return ''


def check_source(data: cfg.DataConfig, name: str):
  """Checks that the files of one dataset exist and are not all empty.

  Args:
    data: the dataset's configuration.
    name: name of its field in the task.

  Raises:
    ValueError: the files are missing, or all are empty.
  """
  if data.tfds_name or not isinstance(data.input_path, (str, list, tuple)):
    return
  try:
    files = input_reader.match_files(data.input_path or '')
    others = [f for f in files if record_files.is_side_file(f)]
    if others:
      problem = (
        f'it matches {others[0]}, which is not a shard (*.tfrecords would '
        'not match it)'
      )
    else:
      problem = _unreadable(files, name)
  except ValueError as e:
    problem = str(e).rstrip('.') if data.input_path else 'it is empty'
  except tf.errors.OpError as e:
    problem = f'it cannot be accessed ({" ".join(e.message.split())})'
  if problem:
    if 'mapped' not in name:
      what = 'a path to ImageNet records'
    elif data.map_decoder == 'canonical':
      what = f'the files of canonical records ({_BUILD} makes them)'
    else:
      what = f'the files of ClickMe records ({_DOWNLOAD} downloads them)'
    if name == 'validation_data':
      what += " (or '' for none)"
    raise ValueError(
      f'task.{name}.input_path is {data.input_path!r}, and {problem}; expected '
      f'{what}. Or add --config_file=experiments/local_cpu.yaml to use the '
      'embedded data, made by python -m '
      'official_ext.harmonization.data.make_digits_clickme.'
    )


def _input_files(*datasets):
  """Returns the TFRecord files that datasets name and that exist."""
  files = []
  for data in datasets:
    if not data or not data.input_path or data.file_type != 'tfrecord':
      continue
    paths = data.input_path
    if not isinstance(paths, (str, list, tuple)):
      paths = list(paths.as_dict().values())
    try:
      files += input_reader.match_files(paths)
    except ValueError:
      continue  # This run does not use the dataset.
  return [f for f in dict.fromkeys(files) if tf.io.gfile.exists(f)]


def stop_at_bad_record(task, error: tf.errors.DataLossError):
  """Ends the program with a sentence about the damaged record that stopped it.

  Args:
    task: the task's configuration, whose files are searched.
    error: TensorFlow's error, which names no file.

  Raises:
    SystemExit: a record is damaged; the message names its file, position and
      problem.
    tf.errors.DataLossError: all files are good, so the error is about other
      data.
  """
  files = _input_files(*(getattr(task, name) for name in _DATASETS))
  logging.error('TensorFlow: %s', error.message)
  bad = verification.locate(files, error)
  if bad:
    raise SystemExit(
      f'train.py: Bad record: {bad}. Repair or remove it. To list all bad '
      f'records, run {_VERIFY} --nodecode FILES.'
    ) from None
  logging.error(
    'The %d files that task.*.input_path name were read again, and every '
    'checksum matches. The error is about other data, such as a checkpoint, or '
    'a file could not be read for a moment.',
    len(files),
  )
  raise error


def stop_at_unreadable(task, error: tf.errors.InvalidArgumentError):
  """Ends the program with a sentence about an unreadable image without map.

  Records with maps report their own problems; see `dataloaders.decoding`.

  Args:
    task: the task's configuration, whose files are searched.
    error: TensorFlow's error, which names no file.

  Raises:
    SystemExit: an image cannot be read; the message names its file, position
      and problem.
    tf.errors.InvalidArgumentError: the error has another cause.
  """
  if not _IMAGE_OPS.search(error.message):
    raise error
  logging.error('TensorFlow: %s', error.message)
  train = task.train_data  # Its field names apply to both datasets.
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
        + f', or, if it is a PNG, set task.{name}.decode_jpeg_only to False.'
        * data.decode_jpeg_only
      ) from None
  raise error


@contextlib.contextmanager
def naming_bad_records(task):
  """A context in which errors about input files end with the record's name.

  Args:
    task: the task's configuration.

  Raises:
    SystemExit: as `stop_at_bad_record` and `stop_at_unreadable`.
  """
  try:
    yield
  except tf.errors.DataLossError as e:
    stop_at_bad_record(task, e)
  except tf.errors.InvalidArgumentError as e:
    stop_at_unreadable(task, e)
