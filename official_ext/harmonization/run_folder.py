# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The folder of a run: its settings, checkpoints and start files."""

from importlib import metadata
import json
import os
import platform
import sys
from typing import Any

from absl import logging
from official.core import config_definitions as cfg
from official.modeling import hyperparams
import tensorflow as tf

import gin
from official_ext.harmonization import files
from official_ext.harmonization import input_checks
from official_ext.harmonization.configs import changed_settings
from official_ext.harmonization.configs import yaml_settings

PARAMS = 'params.yaml'
_FLAGS = 'flags.json'
_PACKAGES = (
  'tf-models-official',
  'tensorflow',
  'tf_keras',
  'gin-config',
  'numpy',
  'scipy',
)
_STEP = 'global_step/.ATTRIBUTES/VARIABLE_VALUE'
_ALLOW = '--allow_changed_settings'
_TO_RESUME = (
  f'Choose another --model_dir, or add {_ALLOW} to resume from this checkpoint.'
)


def read_settings(folder: str) -> dict[str, Any]:
  """Reads the settings of a run.

  Args:
    folder: folder of the run.

  Returns:
    The content of its params.yaml.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file does not hold settings.
  """
  path = os.path.join(folder, PARAMS)
  if not tf.io.gfile.exists(path):
    raise FileNotFoundError(
      f'{path} does not exist; expected the --model_dir of a run of train.py.'
    )
  return yaml_settings.read(path)


def find_checkpoint(folder: str) -> str | None:
  """Returns the path of a run's last checkpoint; None if none was saved."""
  found = tf.train.latest_checkpoint(folder)
  if not found:
    unlisted = tf.io.gfile.glob(os.path.join(folder, '*.index'))
    if unlisted:
      logging.warning(
        '%s is not used, because the file named checkpoint, which lists the '
        'checkpoints of a folder, does not name it.',
        unlisted[0],
      )
  return found


def step_of(checkpoint: str) -> int:
  """Returns the global step in a checkpoint; 0 if it has none."""
  reader = tf.train.load_checkpoint(checkpoint)
  return int(reader.get_tensor(_STEP)) if reader.has_tensor(_STEP) else 0


def check_settings(
  params: cfg.ExperimentConfig,
  folder: str,
  seed: int | None,
  *,
  trains: bool,
  allowed: bool,
):
  """Compares a run with the one in its folder, before it writes anything.

  Differences are logged. A difference that affects training stops a training
  that would resume from a checkpoint, since its scores would be reported with
  settings that it was not trained with.

  Args:
    params: the final experiment.
    folder: folder of the run.
    seed: seed of the run.
    trains: whether the run trains; an evaluation is not stopped.
    allowed: whether --allow_changed_settings is given.

  Raises:
    ValueError: a setting that affects training differs, or the folder does not
      record the settings of its checkpoint.
  """
  checkpoint = find_checkpoint(folder)
  stops = bool(trains and checkpoint and not allowed)
  path = os.path.join(folder, PARAMS)
  try:
    changes = changed_settings.compare(read_settings(folder), params)
  except FileNotFoundError:
    if stops:
      raise ValueError(
        f'{path} does not exist; expected the settings that {checkpoint} was '
        f'trained with. {_TO_RESUME}'
      ) from None
    return
  except ValueError as e:
    message = str(e) if path in str(e) else f'{path}: {e}.'
    if stops:
      raise ValueError(f'{message} {_TO_RESUME}') from None
    logging.warning('%s', message)
    return
  trained = dict(changes.trained)
  before = _read_flags(folder)
  if trains and 'seed' in before and before['seed'] != seed:
    trained['--seed'] = (before['seed'], seed)
  step = step_of(checkpoint) if checkpoint else 0
  steps = changes.others.get('trainer.train_steps')
  if trains and steps and step > steps[1]:
    trained['trainer.train_steps'] = changes.others.pop('trainer.train_steps')
  if trained and stops:
    raise ValueError(
      f'{path}: {files.in_words(trained, most=8)}; expected the settings '
      f'that the checkpoint of step {step} was trained with. {_TO_RESUME}'
    )
  for name, values in {**trained, **changes.others}.items():
    if name not in trained:
      effect = 'does not affect training'
    elif trains:
      effect = f'affects training from step {step} on'
    else:
      effect = 'the network was trained with the first value'
    logging.warning(
      '%s: %s (%s).', path, files.in_words({name: values}), effect
    )


def check_checkpoint(params: cfg.ExperimentConfig, folder: str, mode: str):
  """Checks that a run that only evaluates has weights.

  Args:
    params: the final experiment.
    folder: folder of the run.
    mode: as in --mode.

  Raises:
    ValueError: random weights would be evaluated, or --mode=continuous_eval
      would wait in a folder that does not belong to a run.
  """
  if 'train' in mode or find_checkpoint(folder):
    return
  if mode == 'continuous_eval':
    # A run writes its settings when it starts, before any checkpoint.
    if not tf.io.gfile.exists(os.path.join(folder, PARAMS)):
      raise ValueError(
        f'--model_dir is {folder}, which has neither a checkpoint nor a '
        f'{PARAMS}; expected the folder of a run, for whose checkpoints '
        '--mode=continuous_eval waits. Check the path, or start the run '
        'first.'
      )
    logging.warning('%s has no checkpoint yet; waiting for one.', folder)
    return
  input_checks.check_checkpoint(params.task.init_checkpoint)
  backbone = params.task.model.backbone
  if params.task.init_checkpoint or (
    backbone.type == 'keras_application' and backbone.get().weights
  ):
    return
  raise ValueError(
    f'--model_dir is {folder}, which has no checkpoint; expected one, since '
    f'--mode={mode} would evaluate random weights. Check the path, or set '
    'task.init_checkpoint.'
  )


def prepare(folder: str, flag: str = '--model_dir'):
  """Creates a folder, and checks that it is writable.

  Args:
    folder: folder of a run or of an export.
    flag: the flag that names it.

  Raises:
    ValueError: the folder cannot be created or is not writable.
  """
  probe = files.partial(os.path.join(folder, PARAMS))
  try:
    tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(probe, 'w') as f:
      f.write('')
    tf.io.gfile.remove(probe)
  except tf.errors.OpError as e:
    found = e.message.rpartition('; ')[-1].partition('\n')[0]
    raise ValueError(
      f'{flag} is {folder}, which is not writable ({found}); expected a '
      'writable folder. Choose another.'
    ) from None


def _read_flags(folder: str) -> dict[str, Any]:
  """Reads the flags of a run; runs of older versions did not record them."""
  path = os.path.join(folder, _FLAGS)
  if not tf.io.gfile.exists(path):
    return {}
  found = files.read_json(path, 'the flags of the run')
  return found if isinstance(found, dict) else {}


def _keep(folder: str, new: str):
  """Copies the old params.yaml to another name, if it differs from the new."""
  path = os.path.join(folder, PARAMS)
  if not tf.io.gfile.exists(path):
    return
  with tf.io.gfile.GFile(path, 'rb') as old, tf.io.gfile.GFile(new, 'rb') as f:
    if old.read() == f.read():
      return
  number = 1
  while tf.io.gfile.exists(
    kept := os.path.join(folder, f'params.{number}.yaml')
  ):
    number += 1
  tf.io.gfile.copy(path, kept)
  logging.info('%s was copied to %s.', path, kept)


def write_start(params: cfg.ExperimentConfig, folder: str, seed: int | None):
  """Writes settings, versions and command of a run that is about to start.

  Args:
    params: the final experiment.
    folder: folder of the run.
    seed: seed of the run.
  """
  with files.replacing(os.path.join(folder, PARAMS)) as partial:
    hyperparams.save_params_dict_to_yaml(params, partial)
    _keep(folder, partial)
  versions = {'python': platform.python_version()}
  for package in _PACKAGES:
    versions[package] = metadata.version(package)
  texts = {
    'config.gin': gin.config_str(),
    'versions.json': json.dumps(versions, indent=2) + '\n',
    'command.txt': ' '.join(sys.argv) + '\n',
    _FLAGS: json.dumps({'seed': seed}) + '\n',
  }
  for name, text in texts.items():
    files.write(os.path.join(folder, name), text)
