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
import sys

from absl import flags
from absl import logging
import gin
import tensorflow as tf, tf_keras
import yaml

from official.common import distribute_utils
from official.common import flags as tfm_flags
from official.core import config_definitions as cfg
from official.core import task_factory
from official.core import train_utils
from official.modeling import performance
from official.vision.utils import summary_manager
from official_ext.harmonization import (
    registry_imports)  # pylint: disable=unused-import
from official_ext.harmonization import cli
from official_ext.harmonization import input_checks
from official_ext.harmonization import resources
from official_ext.harmonization import runner
from official_ext.harmonization import text_files
from official_ext.harmonization.configs import experiment_checks
from official_ext.harmonization.configs import (
    harmonized_image_classification as exp_cfg)

FLAGS = flags.FLAGS

_PACKAGES = ('tf-models-official', 'tensorflow', 'tf_keras', 'gin-config',
             'numpy', 'scipy')


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
  text_files.teach_gin()
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
      input_checks.check_data(params, FLAGS.mode)
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
    input_checks.stop_at_bad_record(params.task, e)
  except tf.errors.InvalidArgumentError as e:
    input_checks.stop_at_unreadable(params.task, e)
  train_utils.save_gin_config(FLAGS.mode, model_dir)


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__, name='train.py')


if __name__ == '__main__':
  run()
