r"""Trains and evaluates a harmonized network.

  train.py --experiment=harmonized_resnet_imagenet \
      --config_file=experiments/local_cpu.yaml

Every stock image-classification experiment can be harmonized through gin:

  train.py --experiment=resnet_imagenet \
      --gin_params="harmonize.enabled = True" \
      --gin_params="harmonize.input_path = 'clickme/train/*.tfrecords'" \
      --gin_params="harmonize.validation_input_path = 'clickme/val/*.tfrecords'"

Later wins: the experiment's code, gin, --config_file, --params_override.
--model_dir is runs/<experiment> where it is left out.
"""

from importlib import metadata
import json
import os
import platform
import pprint
import re
import sys

from absl import flags
from absl import logging
import gin
import tensorflow as tf, tf_keras
import yaml

from official.common import distribute_utils
from official.common import flags as tfm_flags
from official.core import config_definitions as cfg
from official.core import input_reader
from official.core import task_factory
from official.core import train_utils
from official.modeling import performance
from official.vision.utils import summary_manager
from official_ext.harmonization import (
    registry_imports)  # pylint: disable=unused-import
from official_ext.harmonization import cli
from official_ext.harmonization import resources
from official_ext.harmonization import runner
from official_ext.harmonization.configs import checks
from official_ext.harmonization.configs import experiment_checks
from official_ext.harmonization.configs import (
    harmonized_image_classification as exp_cfg)
from official_ext.harmonization.data import manifest
from official_ext.harmonization.data import verify_records
from official_ext.harmonization.dataloaders import plain_source

FLAGS = flags.FLAGS

_PACKAGES = ('tf-models-official', 'tensorflow', 'tf_keras', 'gin-config',
             'numpy', 'scipy')
_DOWNLOAD = ('python -m official_ext.harmonization.data.download_clickme '
             '--output_dir=DIR')
_SOURCES = ('train_data', 'validation_data', 'mapped_data',
            'mapped_validation_data')
# Where the host reads an image, by names of TensorFlow's operations.
_IMAGE_OPS = re.compile('Decode|Jpeg|JPEG|PNG|ParseSingleExample|ParseExample')
_VERIFY = 'python -m official_ext.harmonization.data.verify_records'


def define_flags():
  """Defines the host's flags and ours, with defaults for mode and model_dir."""
  tfm_flags.define_flags()
  flags.DEFINE_integer(
      'seed', None, 'Seed of initial weights, crops, flips and mixing. Left '
      'out, every run draws its own.')
  flags.DEFINE_bool(
      'dry_run', False, 'Resolve the configuration, print it and stop: no data '
      'are touched and nothing is written.')
  flags.DEFINE_bool('enable_async_checkpointing', True,
                    'Save checkpoints while training goes on.')
  FLAGS.set_default('mode', 'train_and_eval')
  flags.mark_flag_as_required('experiment')


class HarmonizedExperimentParser(train_utils.ExperimentParser):
  """Gives the chosen experiment its harmonization option before overrides."""

  def base_experiment(self) -> cfg.ExperimentConfig:
    """Returns the experiment with gin's bindings applied."""
    return exp_cfg.harmonize(super().base_experiment())


def parse_configuration(flags_obj) -> cfg.ExperimentConfig:
  """Resolves the experiment: code, gin, --config_file, --params_override.

  Args:
    flags_obj: flags as the host's `ExperimentParser` reads them; gin has been
      parsed.

  Returns:
    The locked experiment.

  Raises:
    ValueError: the experiment cannot be harmonized or trained, or gin binds
      something that would have no effect.
    KeyError: an override names a field that there is not.
  """
  params = HarmonizedExperimentParser(flags_obj).parse()
  experiment_checks.check_gin()
  experiment_checks.check(params)
  idle = exp_cfg.idle_bindings(params)
  if idle:
    raise ValueError(
        f'gin binds {", ".join(idle)}, but the experiment '
        f'{flags_obj.experiment} is not harmonized: add '
        'harmonize.enabled = True or remove the bindings.')
  if params.trainer.best_checkpoint_eval_metric:
    experiment_checks.check_best_metric(
        params.trainer,
        task_factory.get_task(params.task).evaluation_logs())
  params.validate()
  params.lock()
  return params


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
  if 'train' in mode:
    if params.trainer.train_steps < 1:
      raise ValueError(f'trainer.train_steps is {params.trainer.train_steps}: '
                       'set it to 1 or more.')
    _check_checkpoint(task.init_checkpoint)
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
    _check_source(getattr(task, name), name)


def _check_checkpoint(path: str):
  """Checks that the weights that training starts from are there."""
  if path and not (tf.train.latest_checkpoint(path)
                   if tf.io.gfile.isdir(path) else
                   tf.io.gfile.exists(f'{path}.index')):
    raise ValueError(
        f'task.init_checkpoint is {path!r}, which is no checkpoint: give its '
        'path without .index, or a folder that holds some.')


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
        len(empty) > 1)
  if empty:
    logging.warning(
        'task.%s.input_path: %d of its %d files are empty, %s is the first. '
        '%s says whether they should be.', name, len(empty), len(files),
        empty[0], _VERIFY)
  return ''


def _check_source(data, name: str):
  """Checks that one source has files."""
  if data.tfds_name or not isinstance(data.input_path, (str, list, tuple)):
    return
  try:
    files = input_reader.match_files(data.input_path or '')
    strays = [f for f in files if f.endswith((manifest.FILE, '.partial'))]
    problem = (f'{strays[0]}, which it matches, is no shard (*.tfrecords would '
               'not match it)') if strays else _faults(files, name)
  except ValueError as e:
    problem = str(e) if data.input_path else 'it is empty'
  if problem:
    what = (f'a path to ClickMe records ({_DOWNLOAD} fetches them)'
            if 'mapped' in name else 'a path to ImageNet records')
    if name == 'validation_data':
      what += " (or to '' to leave it out)"
    raise ValueError(
        f'task.{name}.input_path is {data.input_path!r}, and {problem}: set it '
        f'to {what}, or add --config_file=experiments/local_cpu.yaml to run on '
        'the embedded data, which python -m '
        'official_ext.harmonization.data.make_digits_clickme makes.')


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
        '--nodecode FILES names all that are bad.') from None
  error.add_note(
      f'The {len(files)} files that task.*.input_path name were read again, '
      'and every checksum matches: the data that are lost are others, such as '
      "a checkpoint's, or a file could not be read for a moment.")
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
    bad = files and plain_source.first_unreadable(
        files, data, (train.image_field_key, train.label_field_key),
        task.model.input_size[:2])
    if bad:
      raise SystemExit(
          f'train.py: Bad record: {bad}. Repair or remove it' +
          f', or, if it is no JPEG, set task.{name}.decode_jpeg_only to False.'
          * data.decode_jpeg_only) from None
  raise error


def _write_start(params: cfg.ExperimentConfig, model_dir: str):
  """Writes what the run is made of, before it starts."""
  train_utils.serialize_config(params, model_dir)
  versions = {'python': platform.python_version()}
  for package in _PACKAGES:
    versions[package] = metadata.version(package)
  texts = {
      'config.gin': gin.config_str(),
      'versions.json': json.dumps(versions, indent=2) + '\n',
      'command.txt': ' '.join(sys.argv) + '\n',
  }
  for name, text in texts.items():
    with tf.io.gfile.GFile(os.path.join(model_dir, name), 'w') as f:
      f.write(text)


def _resolve_files(flags_obj):
  """Finds the gin and YAML files that were named."""
  for root in resources.search_path():
    for folder in (root, os.path.join(root, 'gin')):
      gin.add_config_file_search_path(folder)
  flags_obj.config_file = [
      resources.find(name, 'experiments')
      for name in flags_obj.config_file or []
  ]
  override = flags_obj.params_override
  if override and override.endswith(('.yaml', '.yml', '.json')):
    flags_obj.params_override = resources.find(override, 'experiments')


def _configure():
  """Resolves configuration and data, or stops with one sentence."""
  try:
    _resolve_files(FLAGS)
    gin.parse_config_files_and_bindings(
        [resources.find(name, 'gin') for name in FLAGS.gin_file or []],
        FLAGS.gin_params)
    params = parse_configuration(FLAGS)
    if not FLAGS.dry_run:
      check_data(params, FLAGS.mode)
  except (ValueError, LookupError, OSError, yaml.YAMLError,
          tf.errors.OpError) as e:
    message = ' '.join(str(a) for a in e.args) or str(e)
    raise SystemExit(f'train.py: {" ".join(message.split())}') from None
  return params


def _run(experiment: runner.Runner, params: cfg.ExperimentConfig):
  """Runs an experiment; ends the program with the name of what poisoned it."""
  try:
    experiment.run()
  except RuntimeError as e:
    if not experiment.watch or not experiment.watch.report:
      raise
    trials = params.trainer.recovery_max_trials
    raise SystemExit(
        f'train.py: {experiment.watch.report} No checkpoint was written since '
        f'({experiment.checkpoint_manager.latest_checkpoint or "there is none"}'
        f' is the last). trainer.recovery_max_trials is {trials}: a higher one '
        'goes back to the last checkpoint that often; a lower '
        'learning rate, or task.harmonization.weight, may avoid it.') from e


def main(_):
  """Runs the experiment that the flags describe."""
  params = _configure()
  if FLAGS.dry_run:
    print(yaml.safe_dump(json.loads(json.dumps(params.as_dict()))))
    return
  model_dir = resources.working_path(
      FLAGS.model_dir or os.path.join('runs', FLAGS.experiment))
  logging.info('Final experiment parameters:\n%s',
               pprint.pformat(params.as_dict()))
  if 'train' in FLAGS.mode:
    _write_start(params, model_dir)
  step = runner.step_to_resume(model_dir) if 'train' in FLAGS.mode else 0
  runner.seed_at(FLAGS.seed, step, params.task)
  if params.runtime.mixed_precision_dtype:
    performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)

  runtime = params.runtime
  strategy = distribute_utils.get_distribution_strategy(
      distribution_strategy=runtime.distribution_strategy,
      all_reduce_alg=runtime.all_reduce_alg,
      num_gpus=runtime.num_gpus,
      tpu_address=runtime.tpu)
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
  summaries = summary_manager.maybe_build_eval_summary_manager(
      params=params, model_dir=model_dir)
  try:
    experiment = runner.Runner(
        distribution_strategy=strategy,
        task=task,
        mode=FLAGS.mode,
        params=params,
        model_dir=model_dir,
        eval_summary_manager=summaries,
        enable_async_checkpointing=FLAGS.enable_async_checkpointing)
    _run(experiment, params)
  except tf.errors.DataLossError as e:
    stop_at_bad_record(params.task, e)
  except tf.errors.InvalidArgumentError as e:
    stop_at_unreadable(params.task, e)
  train_utils.save_gin_config(FLAGS.mode, model_dir)


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
