# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Trains and evaluates a harmonized network.

  train.py --experiment=harmonized_resnet_imagenet \
      --config_file=experiments/local_cpu.yaml

Every stock image-classification experiment can be harmonized through gin:

  train.py --experiment=resnet_imagenet \
      --gin_params="harmonize.enabled = True" \
      --gin_params="harmonize.input_path = 'clickme/train/*.tfrecords'" \
      --gin_params="harmonize.validation_input_path = 'clickme/val/*.tfrecords'"

Later layers override earlier ones: the experiment's code, gin, --config_file,
--params_override. The default of --model_dir is runs/<experiment>.
"""

import json
import os
import pprint

from absl import flags
from absl import logging
from etils import epy
from official.common import flags as tfm_flags

from official_ext.harmonization import cli
from official_ext.harmonization import resources

with epy.lazy_imports():
  from official.core import task_factory
  from official.core import train_utils
  from official.vision.utils import summary_manager
  import tensorflow as tf
  import yaml

  from official_ext.harmonization import building
  from official_ext.harmonization import experiment_parser
  from official_ext.harmonization import gin_settings
  from official_ext.harmonization import input_checks
  from official_ext.harmonization import run_folder
  from official_ext.harmonization import runner

FLAGS = flags.FLAGS

# The modes of Model Garden's flag that its runner implements.
_MODES = (
  'train',
  'eval',
  'train_and_eval',
  'continuous_eval',
  'train_and_post_eval',
)


def define_flags():
  """Defines Model Garden's flags and those of this command."""
  tfm_flags.define_flags()
  # A wrong mode is answered with those that the runner implements.
  FLAGS['mode'].parser.enum_values = list(_MODES)
  flags.DEFINE_integer(
    'seed',
    None,
    'Seed of initial weights, crops, flips and mixing. By default it differs '
    'from run to run.',
  )
  flags.DEFINE_bool(
    'dry_run',
    False,
    'Resolve the configuration, build the network, trace a step, print the '
    'configuration and stop. This reads no data, needs no accelerator and '
    'writes nothing.',
  )
  flags.DEFINE_bool(
    'allow_changed_settings',
    False,
    'Resume from the checkpoint in --model_dir even if settings that affect '
    'training differ from those in its params.yaml, which is kept as '
    'params.1.yaml. Scores of such a run belong to neither of the settings.',
  )
  flags.DEFINE_bool(
    'enable_async_checkpointing',
    True,
    'Save checkpoints while training continues.',
  )
  FLAGS.set_default('mode', 'train_and_eval')
  flags.mark_flag_as_required('experiment')


def _check_flags():
  """Raises ValueError if a flag would have no effect."""
  if FLAGS['params_override'].present > 1:
    raise ValueError(
      f'--params_override is given {FLAGS["params_override"].present} times, '
      'but only the last one would count; expected it once. Separate settings '
      'by commas.'
    )


def _model_dir() -> str:
  return resources.working_path(
    FLAGS.model_dir or os.path.join('runs', FLAGS.experiment)
  )


def _configure():
  """Returns the final experiment; checks it, the data and the folder."""
  _check_flags()
  experiment_parser.find_files(FLAGS)
  gin_settings.parse(FLAGS.gin_file or [], FLAGS.gin_params or [])
  params = experiment_parser.parse_configuration(FLAGS)
  trains = 'train' in FLAGS.mode
  if trains:
    input_checks.check_steps(params.trainer)
  if FLAGS.dry_run:
    building.set_precision(params.runtime)
    building.check(
      params, experiment_parser.harmonizable_experiment(FLAGS.experiment)
    )
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


def run_experiment(
  params,
  *,
  experiment: str,
  mode: str,
  model_dir: str,
  seed: int | None = None,
  enable_async_checkpointing: bool = True,
):
  """Runs an experiment that `experiment_parser.parse_configuration` returned.

  The other arguments are those of the flags with the same names.

  Raises:
    ValueError: a setting is wrong; the message names the field.
    SystemExit: a record is bad, or a value is not finite.
  """
  trains = 'train' in mode
  step = runner.step_to_resume(model_dir) if trains else 0
  runner.seed_at(seed, step, params.task)
  code = experiment_parser.harmonizable_experiment(experiment)
  with input_checks.naming_bad_records(params.task):
    running = _build(params, code, mode, model_dir, enable_async_checkpointing)
    if trains and running.strategy.extended.should_checkpoint:
      run_folder.write_start(params, model_dir, seed)
    _run(running, params)


def _build(params, code, mode, model_dir, enable_async_checkpointing):
  """Builds the runner and restores the latest checkpoint."""
  building.set_precision(params.runtime)
  # A strategy with several processes must be built before any operation runs.
  strategy = building.make_strategy(params.runtime)
  if 'train' in mode:
    building.check(params, code, parts=building.SCHEDULE)
  try:
    with strategy.scope():
      task = task_factory.get_task(params.task, logging_dir=model_dir)
    return runner.Runner(
      distribution_strategy=strategy,
      task=task,
      mode=mode,
      params=params,
      model_dir=model_dir,
      eval_summary_manager=summary_manager.maybe_build_eval_summary_manager(
        params=params, model_dir=model_dir
      ),
      enable_async_checkpointing=enable_async_checkpointing,
    )
  except (tf.errors.OpError, runner.RestoreError):
    raise
  except Exception:  # Model Garden raises many types for a wrong setting.
    building.check(params, code)  # Raises an error that names the field.
    raise


def _run(running, params):
  """Calls a runner, and explains why it stopped."""
  try:
    running.run()
  except RuntimeError as e:
    if not running.guard or not running.guard.report:
      raise
    latest = running.checkpoint_manager.latest_checkpoint
    trials = params.trainer.recovery_max_trials
    raise SystemExit(
      f'train.py: {running.guard.report} The last checkpoint before it is '
      f'{latest or "missing"}. trainer.recovery_max_trials is {trials}; a '
      'larger value returns to the last checkpoint that many times. A lower '
      'learning rate or task.harmonization.weight may avoid the problem, in '
      'another --model_dir or with --allow_changed_settings.'
    ) from e
  except Exception as e:
    if not building.is_traced(e) or isinstance(e, (AttributeError, TypeError)):
      raise
    # The step was refused while it was traced.
    message = building.name_layer(building.reason(e), running.trainer.model)
    raise ValueError(f'{message}.') from e


def main(_):
  """Runs the experiment that the flags describe."""
  params = _configure()
  if FLAGS.dry_run:
    print(yaml.safe_dump(json.loads(json.dumps(params.as_dict()))))
    return
  logging.info(
    'Final experiment parameters:\n%s', pprint.pformat(params.as_dict())
  )
  run_experiment(
    params,
    experiment=FLAGS.experiment,
    mode=FLAGS.mode,
    model_dir=_model_dir(),
    seed=FLAGS.seed,
    enable_async_checkpointing=FLAGS.enable_async_checkpointing,
  )
  train_utils.save_gin_config(FLAGS.mode, _model_dir())


def run():
  """Runs the command."""
  define_flags()
  cli.run(main, __name__, name='train.py')


if __name__ == '__main__':
  run()
