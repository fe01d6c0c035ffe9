# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Opens the runs of the training driver, finished or not."""

import os

import numpy as np
from official.core import base_trainer
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.core import task_factory
from official.core import train_utils
from official.modeling import optimization
import orbit
import tensorflow as tf

from official_ext.harmonization import registry_imports
from official_ext.harmonization import run_folder
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)


def load_config(model_dir: str) -> cfg.ExperimentConfig:
  """Reads the configuration of a run.

  Args:
    model_dir: folder of the run, with its `params.yaml`.

  Returns:
    The experiment, whose task is a `HarmonizedImageClassificationTask`.

  Raises:
    FileNotFoundError: `params.yaml` is missing.
    ValueError: `params.yaml` is damaged, or describes another task.
  """
  settings, problems = run_folder.read_settings(model_dir), []
  # MaxViT has a separate model configuration in Model Garden.
  for task in (
    exp_cfg.HarmonizedImageClassificationTask(),
    exp_factory.get_exp_config('harmonized_maxvit_imagenet').task,
  ):
    config = cfg.ExperimentConfig(task=task)
    try:
      config.override(settings, is_strict=True)
      if not isinstance(config.task, type(task)):
        raise ValueError(f'its task is {config.task!r}')
      return config
    except (AttributeError, KeyError, TypeError, ValueError) as e:
      problems.append(' '.join(str(e).split()))
  raise ValueError(
    f'{os.path.join(model_dir, run_folder.PARAMS)} is not the configuration '
    f'of an image-classification run ({problems[0]}). Name the folder of one.'
  )


def find_checkpoint(model_dir: str, checkpoint: str = '') -> str:
  """Finds the checkpoint of a run.

  Args:
    model_dir: folder of the run.
    checkpoint: path of a checkpoint without its ending, or of a folder of
      checkpoints; a relative path is below the run's folder. By default the
      run's folder.

  Returns:
    The path of the checkpoint; for a folder, of its last one.

  Raises:
    FileNotFoundError: no checkpoint is found.
  """
  path = os.path.join(model_dir, checkpoint)
  if tf.io.gfile.isdir(path):
    found = tf.train.latest_checkpoint(path)
    if not found:
      # Model Garden writes its best checkpoint without the index file
      # "checkpoint" that latest_checkpoint reads.
      indices = tf.io.gfile.glob(os.path.join(path, '*.index'))
      found = indices[0][: -len('.index')] if len(indices) == 1 else None
  else:
    found = path if tf.io.gfile.exists(f'{path}.index') else None
  if not found:
    raise FileNotFoundError(
      f'{path} has no checkpoint; expected one. Train first, or name one.'
    )
  return found


class Run:
  """A run's network, restored from a checkpoint.

  Attributes:
    config: the experiment.
    task: a `HarmonizedImageClassificationTask`.
    model: the network.
    step: global step of the checkpoint.
    averaged: whether the network currently has the moving averages of its
      weights.
  """

  def __init__(
    self, model_dir: str, *, checkpoint: str = '', evaluate: bool = True
  ):
    """Opens a run.

    Args:
      model_dir: folder of the run.
      checkpoint: as in `find_checkpoint`; the run's last by default.
      evaluate: whether `evaluate` will be called, which needs the validation
        data.

    Raises:
      FileNotFoundError: the configuration or the checkpoint is missing.
      ValueError: the configuration is not one of image classification, or the
        checkpoint belongs to another network.
    """
    self.config = load_config(model_dir)
    path = find_checkpoint(model_dir, checkpoint)
    # No logging_dir, so that the task writes nothing into the run's folder.
    self.task = task_factory.get_task(self.config.task)
    # Model Garden swaps averages in and out only under a strategy.
    gpus = tf.config.list_logical_devices('GPU')
    self._strategy = tf.distribute.OneDeviceStrategy(
      'GPU:0' if gpus else 'CPU:0'
    )
    with self._strategy.scope():
      self.model = self.task.build_model()
      self._trainer = base_trainer.Trainer(
        self.config,
        self.task,
        model=self.model,
        optimizer=train_utils.create_optimizer(self.task, self.config),
        train=False,
        evaluate=evaluate,
      )
    try:
      # The assertion, because variables that do not match would silently keep
      # their random initial values.
      tf.train.Checkpoint(model=self.model).restore(
        path
      ).expect_partial().assert_existing_objects_matched()
      self._trainer.checkpoint.restore(path).expect_partial()
    except (AssertionError, ValueError) as e:
      raise ValueError(
        f'{path} is not a checkpoint of the network in '
        f'{model_dir}/params.yaml: {e}'
      ) from None
    self.step = int(self._trainer.global_step.numpy())
    # Model Garden swaps the averages in before it exports a best checkpoint.
    best = self.config.trainer.best_checkpoint_export_subdir
    self.averaged = (
      self._has_averages()
      and bool(best)
      and (os.path.dirname(path) == os.path.join(model_dir, best))
    )

  def _has_averages(self) -> bool:
    # With loss scaling for float16 Model Garden keeps no averages.
    return isinstance(
      self._trainer.optimizer, optimization.ExponentialMovingAverage
    )

  def _swap(self):
    with self._strategy.scope():
      self._trainer.optimizer.swap_weights()

  def use_averages(self, required: bool = False):
    """Switches to moving averages of the weights, if the run has them.

    `evaluate` uses the averages, as Model Garden does, without this call.

    Args:
      required: whether to raise if the run has no averages.

    Raises:
      ValueError: the run has no averages, and they are required.
    """
    if not self._has_averages():
      if required:
        raise ValueError(
          'trainer.optimizer_config.ema: the run has no moving averages of its '
          'weights; expected some. Evaluate the weights themselves.'
        )
      return
    if not self.averaged:
      self._swap()
      self.averaged = True

  def evaluate(self) -> dict[str, float]:
    """Returns Model Garden's evaluation logs on all validation data."""
    if self.averaged:  # The trainer will swap the averages in by itself.
      self._swap()
    with self._strategy.scope():
      logs = self._trainer.evaluate(tf.constant(-1))
    if self.averaged:
      self._swap()
    return {
      name: float(np.asarray(orbit.utils.get_value(value)))
      for name, value in logs.items()
      if not name.startswith('image/')
    }

  def examples_with_maps(self, count: int):
    """Returns the first validation images with maps.

    Args:
      count: number of images, at most a batch.

    Returns:
      Preprocessed images (n, H, W, 3), one-hot targets (n, classes), human maps
      (n, H, W), and records (n, 2) as `dataloaders.joint_batches` describes
      them.

    Raises:
      ValueError: the validation data have no map.
    """
    params = self.config.task.validation_data
    for images, batch in self.task.build_inputs(params):
      if tf.reduce_any(batch['heatmap_weights'] > 0):
        targets = tf.one_hot(
          batch['labels'], self.config.task.model.num_classes
        )
        return tuple(
          values[:count]
          for values in (images, targets, batch['heatmaps'], batch['records'])
        )
    raise ValueError(
      'task.mapped_validation_data.input_path matches no record; expected '
      'images with maps. Check the path.'
    )
