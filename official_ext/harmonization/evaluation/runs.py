"""Finished (or unfinished) runs of the training driver, opened again."""

import os
from typing import Dict

import numpy as np
import orbit
import tensorflow as tf, tf_keras

from official.core import base_trainer
from official.core import config_definitions as cfg
from official.core import task_factory
from official.core import train_utils
from official.modeling import hyperparams
from official_ext.harmonization import (
    registry_imports)  # pylint: disable=unused-import
from official_ext.harmonization.configs import (
    harmonized_image_classification as exp_cfg)


def load_config(model_dir: str) -> cfg.ExperimentConfig:
  """Reads the configuration that a run was started with.

  Args:
    model_dir: the run's folder, with its `params.yaml`.

  Returns:
    The experiment, its task a `HarmonizedImageClassificationTask`.

  Raises:
    FileNotFoundError: there is no `params.yaml`.
  """
  path = os.path.join(model_dir, 'params.yaml')
  if not tf.io.gfile.exists(path):
    raise FileNotFoundError(
        f'{path} does not exist: give the --model_dir of a run of train.py.')
  config = cfg.ExperimentConfig(
      task=exp_cfg.HarmonizedImageClassificationTask())
  return hyperparams.override_params_dict(config, path, is_strict=True)


class Run:
  """A run's network, restored from its last checkpoint.

  Attributes:
    config: the experiment.
    task: its task.
    model: its network.
    step: the checkpoint's global step.
  """

  def __init__(self, model_dir: str):
    """Opens a run.

    Args:
      model_dir: the run's folder.

    Raises:
      FileNotFoundError: there is no configuration, or no checkpoint.
    """
    self.config = load_config(model_dir)
    checkpoint = tf.train.latest_checkpoint(model_dir)
    if not checkpoint:
      raise FileNotFoundError(
          f'{model_dir} holds no checkpoint: train it first.')
    # Without a folder, nothing is written into that of the run.
    self.task = task_factory.get_task(self.config.task)
    self.model = self.task.build_model()
    self._trainer = base_trainer.Trainer(
        self.config,
        self.task,
        model=self.model,
        optimizer=train_utils.create_optimizer(self.task, self.config),
        train=False,
        evaluate=True)
    self._trainer.checkpoint.restore(checkpoint).expect_partial()
    self.step = int(self._trainer.global_step.numpy())

  def evaluate(self) -> Dict[str, float]:
    """Returns the host's evaluation logs on all validation data."""
    logs = self._trainer.evaluate(tf.constant(-1))
    return {
        name: float(np.asarray(orbit.utils.get_value(value)))
        for name, value in logs.items() if not name.startswith('image/')
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
        targets = tf.one_hot(batch['labels'],
                             self.config.task.model.num_classes)
        return images[:count], targets[:count], batch['heatmaps'][:count]
    raise ValueError('task.mapped_validation_data holds no record.')
