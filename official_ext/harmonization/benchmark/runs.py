"""Finished (or unfinished) runs of the training driver, opened again."""

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
  """Reads the configuration that a run was started with.

  Args:
    model_dir: the run's folder, with its `params.yaml`.

  Returns:
    The experiment, its task a `HarmonizedImageClassificationTask`.

  Raises:
    FileNotFoundError: there is no `params.yaml`.
    ValueError: it is damaged, or of another task.
  """
  settings, problems = run_folder.read_settings(model_dir), []
  # MaxViT has a model configuration of its own.
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
    f'of an image-classification run: {problems[0]}'
  )


def find_checkpoint(model_dir: str, checkpoint: str = '') -> str:
  """Finds the checkpoint of a run.

  Args:
    model_dir: the run's folder.
    checkpoint: a checkpoint's path without its ending, or a folder that holds
      some; relative ones are in the run's folder. Left out, that folder.

  Returns:
    The path of the checkpoint, or of the folder's last.

  Raises:
    FileNotFoundError: there is none.
  """
  path = os.path.join(model_dir, checkpoint)
  if tf.io.gfile.isdir(path):
    found = tf.train.latest_checkpoint(path)
    if not found:
      # The host's best checkpoint stands without the list of checkpoints.
      indices = tf.io.gfile.glob(os.path.join(path, '*.index'))
      found = indices[0][: -len('.index')] if len(indices) == 1 else None
  else:
    found = path if tf.io.gfile.exists(f'{path}.index') else None
  if not found:
    raise FileNotFoundError(
      f'{path} holds no checkpoint: train it first, or name one.'
    )
  return found


class Run:
  """A run's network, restored from a checkpoint.

  Attributes:
    config: the experiment.
    task: its task.
    model: its network.
    step: the checkpoint's global step.
    averaged: whether the network has the moving averages of its weights.
  """

  def __init__(
    self, model_dir: str, *, checkpoint: str = '', evaluate: bool = True
  ):
    """Opens a run.

    Args:
      model_dir: the run's folder.
      checkpoint: as for `find_checkpoint`; the run's last if left out.
      evaluate: whether `evaluate` will be called, for which the validation data
        must be there.

    Raises:
      FileNotFoundError: there is no configuration, or no checkpoint.
      ValueError: the configuration is not of image classification, or the
        checkpoint not of its network.
    """
    self.config = load_config(model_dir)
    path = find_checkpoint(model_dir, checkpoint)
    # Without a folder, nothing is written into that of the run.
    self.task = task_factory.get_task(self.config.task)
    # The host swaps averages in and out under a strategy alone.
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
      # Whatever does not match keeps its random initial value without a word.
      tf.train.Checkpoint(model=self.model).restore(
        path
      ).expect_partial().assert_existing_objects_matched()
      self._trainer.checkpoint.restore(path).expect_partial()
    except (AssertionError, ValueError) as e:
      raise ValueError(
        f'{path} is no checkpoint of the network in {model_dir}/params.yaml: '
        f'{e}'
      ) from None
    self.step = int(self._trainer.global_step.numpy())
    # The host exports its best checkpoint while the averages are swapped in.
    best = self.config.trainer.best_checkpoint_export_subdir
    self.averaged = (
      self._has_averages()
      and bool(best)
      and (os.path.dirname(path) == os.path.join(model_dir, best))
    )

  def _has_averages(self) -> bool:
    # Under float16's loss scaling the host keeps none.
    return isinstance(
      self._trainer.optimizer, optimization.ExponentialMovingAverage
    )

  def _swap(self):
    with self._strategy.scope():
      self._trainer.optimizer.swap_weights()

  def use_averages(self, required: bool = False):
    """Evaluates with moving averages of the weights, as the host does.

    `evaluate` does so on its own.

    Args:
      required: whether a run that has none is an error.

    Raises:
      ValueError: it is.
    """
    if not self._has_averages():
      if required:
        raise ValueError(
          'The run has no moving averages of its weights '
          '(trainer.optimizer_config.ema).'
        )
      return
    if not self.averaged:
      self._swap()
      self.averaged = True

  def evaluate(self) -> dict[str, float]:
    """Returns the host's evaluation logs on all validation data."""
    if self.averaged:  # The host swaps the averages in on its own.
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

  def mapped_examples(self, count: int):
    """Returns the first mapped validation images and their targets.

    Args:
      count: how many, at most a batch.

    Returns:
      Preprocessed images (n, H, W, 3), one-hot targets (n, classes) and human
      maps (n, H, W).
    """
    params = self.config.task.validation_data
    for images, batch in self.task.build_inputs(params):
      if tf.reduce_any(batch['heatmap_weights'] > 0):
        targets = tf.one_hot(
          batch['labels'], self.config.task.model.num_classes
        )
        return images[:count], targets[:count], batch['heatmaps'][:count]
    raise ValueError('task.mapped_validation_data holds no record.')
