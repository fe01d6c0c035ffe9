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

import json
import os
import pprint

from absl import flags
from absl import logging
from official.common import flags as tfm_flags
from official.core import config_definitions as cfg
from official.core import task_factory
from official.core import train_utils
from official.modeling import performance
from official.vision.utils import summary_manager
import tensorflow as tf
import yaml

import gin
from official_ext.harmonization import building
from official_ext.harmonization import cli
from official_ext.harmonization import experiment_parser
from official_ext.harmonization import input_checks
from official_ext.harmonization import registry_imports
from official_ext.harmonization import resources
from official_ext.harmonization import run_folder
from official_ext.harmonization import runner
from official_ext.harmonization import text_files
from official_ext.harmonization.configs import experiment_checks
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)

FLAGS = flags.FLAGS

# Those of Model Garden's that its runner knows.
_MODES = (
  'train',
  'eval',
  'train_and_eval',
  'continuous_eval',
  'train_and_post_eval',
)


def define_flags():
  """Defines the host's flags and ours, with defaults for mode and model_dir."""
  tfm_flags.define_flags()
  flags.DEFINE_integer(
    'seed',
    None,
    'Seed of initial weights, crops, flips and mixing. Left '
    'out, every run draws its own.',
  )
  flags.DEFINE_bool(
    'dry_run',
    False,
    'Resolve the configuration, build the network and '
    'trace a step, print the configuration and stop. No data are touched, no '
    'accelerator is needed, and nothing is written.',
  )
  flags.DEFINE_bool(
    'allow_changed_settings',
    False,
    'Go on from the checkpoint in '
    '--model_dir although settings that change what is trained differ from '
    'those in its params.yaml. The old file is kept as params.1.yaml. The '
    'scores of such a run belong to neither of the two settings.',
  )
  flags.DEFINE_bool(
    'enable_async_checkpointing',
    True,
    'Save checkpoints while training goes on.',
  )
  FLAGS.set_default('mode', 'train_and_eval')
  flags.mark_flag_as_required('experiment')


def parse_configuration(flags_obj) -> cfg.ExperimentConfig:
  """Resolves the experiment: code, gin, --config_file, --params_override.

  Bindings of gin that a file or flag replaces are logged.

  Args:
    flags_obj: flags as Model Garden's `ExperimentParser` reads them; gin has
      been parsed.

  Returns:
    The locked experiment.

  Raises:
    ValueError: the experiment is not known or cannot be harmonized or trained,
      an override names a field that there is not, or gin binds something that
      would have no effect.
  """
  parser = experiment_parser.ExperimentParser(flags_obj)
  params = parser.parse()
  experiment_checks.check_gin()
  experiment_checks.check(params)
  idle = exp_cfg.idle_bindings(params)
  if idle:
    raise ValueError(
      f'gin binds {", ".join(idle)}, but the experiment '
      f'{flags_obj.experiment} is not harmonized: add '
      'harmonize.enabled = True or remove the bindings.'
    )
  if params.trainer.best_checkpoint_eval_metric:
    experiment_checks.check_best_metric(
      params.trainer, task_factory.get_task(params.task).evaluation_logs()
    )
  params.validate()
  params.lock()
  parser.report_replaced(params)
  return params


def _resolve_files(flags_obj):
  """Finds the gin and YAML files that were named."""
  text_files.teach_gin()
  for root in resources.search_path():
    for folder in (root, os.path.join(root, 'gin')):
      gin.add_config_file_search_path(folder)
  flags_obj.config_file = [
    resources.find(name, 'experiments') for name in flags_obj.config_file or []
  ]
  override = flags_obj.params_override
  if override and override.endswith(('.yaml', '.yml', '.json')):
    flags_obj.params_override = resources.find(override, 'experiments')


def _check_flags():
  """Refuses flags that would have no effect.

  Raises:
    ValueError: there is one.
  """
  if FLAGS['params_override'].present > 1:
    raise ValueError(
      f'--params_override is given {FLAGS["params_override"].present} times, '
      'of which the last would count. Join them by commas.'
    )
  if FLAGS.mode not in _MODES:
    raise ValueError(
      f'--mode={FLAGS.mode} is not implemented in Model Garden; '
      f'expected one of {", ".join(_MODES)}.'
    )


def _model_dir() -> str:
  """The folder of the run."""
  return resources.working_path(
    FLAGS.model_dir or os.path.join('runs', FLAGS.experiment)
  )


def _code() -> cfg.ExperimentConfig:
  """The experiment as --experiment and gin have it."""
  return exp_cfg.harmonize(experiment_parser.get_experiment(FLAGS.experiment))


def _configure():
  """Resolves the configuration, and checks it, the data and the folder."""
  _check_flags()
  _resolve_files(FLAGS)
  experiment_parser.parse_gin(FLAGS.gin_file or [], FLAGS.gin_params or [])
  params = parse_configuration(FLAGS)
  trains = 'train' in FLAGS.mode
  if trains:
    input_checks.check_steps(params.trainer)
  if FLAGS.dry_run:
    set_precision(params.runtime)
    building.check(params, _code())
    return params
  input_checks.check_data(params, FLAGS.mode)
  model_dir = _model_dir()
  run_folder.check_settings(
    params,
    model_dir,
    FLAGS.seed,
    trains=trains,
    allowed=FLAGS.allow_changed_settings,
  )
  run_folder.check_checkpoint(params, model_dir, FLAGS.mode)
  run_folder.prepare(model_dir)
  return params


def set_precision(runtime: cfg.RuntimeConfig):
  """Sets the precision that layers compute in.

  Args:
    runtime: of the experiment.
  """
  if runtime.mixed_precision_dtype:
    performance.set_mixed_precision_policy(runtime.mixed_precision_dtype)


def _set_up(params: cfg.ExperimentConfig, model_dir: str) -> runner.Runner:
  """Builds what runs, and restores its checkpoint.

  Args:
    params: the experiment.
    model_dir: of the run.

  Returns:
    The runner.

  Raises:
    ValueError: it cannot be built as it is configured; the message names the
      field.
  """
  set_precision(params.runtime)
  # No operation may run before the strategy of several processes is there.
  strategy = building.make_strategy(params.runtime)
  if 'train' in FLAGS.mode:
    building.check(params, _code(), parts=building.SCHEDULE)
  try:
    with strategy.scope():
      task = task_factory.get_task(params.task, logging_dir=model_dir)
    return runner.Runner(
      distribution_strategy=strategy,
      task=task,
      mode=FLAGS.mode,
      params=params,
      model_dir=model_dir,
      eval_summary_manager=summary_manager.maybe_build_eval_summary_manager(
        params=params, model_dir=model_dir
      ),
      enable_async_checkpointing=FLAGS.enable_async_checkpointing,
    )
  except (tf.errors.OpError, runner.RestoreError):
    raise
  except Exception:  # Whatever Model Garden makes of a wrong setting.
    building.check(params, _code())
    raise


def _run(experiment: runner.Runner, params: cfg.ExperimentConfig):
  """Runs an experiment; ends the program with the name of what poisoned it."""
  try:
    experiment.run()
  except RuntimeError as e:
    if not experiment.guard or not experiment.guard.report:
      raise
    trials = params.trainer.recovery_max_trials
    raise SystemExit(
      f'train.py: {experiment.guard.report} No checkpoint was written since '
      f'({experiment.checkpoint_manager.latest_checkpoint or "there is none"}'
      f' is the last). trainer.recovery_max_trials is {trials}: a higher one '
      'goes back to the last checkpoint that often; a lower '
      'learning rate, or task.harmonization.weight, may avoid it, in another '
      '--model_dir or with --allow_changed_settings.'
    ) from e
  except Exception as e:
    if not building.is_traced(e) or isinstance(e, (AttributeError, TypeError)):
      raise
    # A step that was refused while it was traced.
    message = building.name_layer(building.reason(e), experiment.trainer.model)
    raise ValueError(f'{message}.') from e


def main(_):
  """Runs the experiment that the flags describe."""
  params = _configure()
  if FLAGS.dry_run:
    print(yaml.safe_dump(json.loads(json.dumps(params.as_dict()))))
    return
  model_dir = _model_dir()
  logging.info(
    'Final experiment parameters:\n%s', pprint.pformat(params.as_dict())
  )
  trains = 'train' in FLAGS.mode
  step = runner.step_to_resume(model_dir) if trains else 0
  runner.seed_at(FLAGS.seed, step, params.task)
  try:
    experiment = _set_up(params, model_dir)
    if trains and experiment.strategy.extended.should_checkpoint:
      run_folder.write_start(params, model_dir, FLAGS.seed)
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
