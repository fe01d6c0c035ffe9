# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Model Garden's runner, for runs that are killed or diverge."""

from collections.abc import Mapping
import json
import os
from typing import Any

from absl import logging
from official.core import config_definitions as cfg
from official.core import train_lib
import tensorflow as tf
import tf_keras

from official_ext.harmonization import run_folder
from official_ext.harmonization.tasks import nonfinite


class RestoreError(ValueError):
  """A checkpoint does not match the network."""


def step_to_resume(model_dir: str) -> int:
  """Returns the step of a run's latest checkpoint, 0 without a checkpoint.

  Args:
    model_dir: folder of the run.
  """
  path = run_folder.find_checkpoint(model_dir)
  return run_folder.step_of(path) if path else 0


def seed_at(seed: int | None, step: int, task: cfg.TaskConfig):
  """Sets the seed of a run, and logs in which order a resumed run reads data.

  Args:
    seed: seed of the run; None for a random seed.
    step: the result of `step_to_resume`.
    task: the task's configuration.
  """
  if seed is not None:
    # With the same seed, a run that is often killed would mostly read the
    # first images.
    tf_keras.utils.set_random_seed(seed + step)
  if not step:
    return
  fixed = [
    f'task.{name}.seed'
    for name in ('train_data', 'mapped_data')
    if getattr(getattr(task, name, None), 'seed', None) is not None
  ]
  order = 'in another order'
  if seed is not None:
    order += f', with the seed {seed} + {step}'
  elif fixed:
    order = f'in the same order as at step 0, because of {" and ".join(fixed)}'
  logging.warning(
    'The run resumes after step %d. Checkpoints do not record the position in '
    'the training data, which start over %s.',
    step,
    order,
  )


def check_workers(strategy: tf.distribute.Strategy, step: int):
  """Refuses to resume in several processes.

  Model Garden restores only the first process; the others would start at step
  0.

  Args:
    strategy: distribution strategy of the run.
    step: the result of `step_to_resume`.

  Raises:
    ValueError: the run has a checkpoint and several processes.
  """
  if not step or not isinstance(
    strategy, tf.distribute.MultiWorkerMirroredStrategy
  ):
    return
  cluster = strategy.cluster_resolver.cluster_spec().as_dict()
  if sum(map(len, cluster.values())) > 1:
    raise ValueError(
      f'--model_dir holds a checkpoint of step {step}, and '
      'runtime.distribution_strategy is multi_worker_mirrored; expected one '
      'process, since Model Garden restores only the first. Resume in one '
      'process, or start from the weights in a new --model_dir, with the '
      'checkpoint as task.init_checkpoint.'
    )


def clear_unfinished(folder: str):
  """Removes checkpoints that a killed process did not finish writing.

  Nothing else removes them, so they would accumulate.

  Args:
    folder: folder of checkpoints.
  """
  for path in tf.io.gfile.glob(os.path.join(folder, '*-*_temp')):
    logging.warning('Removing %s, an unfinished checkpoint.', path)
    tf.io.gfile.rmtree(path)


def forget_lost_best(folder: str):
  """Removes the best score if its checkpoint was not written.

  Model Garden writes the score first. If a run is killed between the two,
  evaluations that only equal this score would not export a checkpoint.

  Args:
    folder: folder of the best checkpoint.
  """
  path = os.path.join(folder, 'info.json')
  if not tf.io.gfile.exists(path):
    return
  with tf.io.gfile.GFile(path) as f:
    text = f.read()
  try:
    scored = json.loads(text)['best_ckpt_global_step']
  except (ValueError, KeyError):
    scored = None  # The process was killed while writing the file.
  checkpoint = tf.train.latest_checkpoint(folder)
  if not checkpoint or scored != run_folder.step_of(checkpoint):
    logging.warning(
      'Removing %s: the checkpoint of this best score was not written. The '
      'next evaluation exports another.',
      path,
    )
    tf.io.gfile.remove(path)


class Runner(train_lib.OrbitExperimentRunner):
  """Trains and evaluates. The arguments are those of Model Garden's class.

  Attributes:
    guard: the `nonfinite.NonFiniteGuard` of a training; None in evaluation.
  """

  guard = None

  def __init__(
    self, distribution_strategy, task, mode, params, model_dir, *args, **kwargs
  ):
    if 'train' in mode:
      check_workers(distribution_strategy, step_to_resume(model_dir))
      best = params.trainer.best_checkpoint_export_subdir
      for folder in ('', 'ema_checkpoints', best):
        clear_unfinished(os.path.join(model_dir, folder))
      if best:
        forget_lost_best(os.path.join(model_dir, best))
    super().__init__(
      distribution_strategy, task, mode, params, model_dir, *args, **kwargs
    )

  def _maybe_build_checkpoint_manager(self):
    manager = super()._maybe_build_checkpoint_manager()
    if manager and manager.latest_checkpoint:
      self._check_restores(manager.latest_checkpoint)
    return manager

  def _check_restores(self, path: str):
    """Checks that a checkpoint has all weights of the network.

    Model Garden restores those that match; the others would stay random.

    Args:
      path: path of the checkpoint.

    Raises:
      RestoreError: weights are missing or have another shape.
    """
    try:
      with self.strategy.scope():
        tf.train.Checkpoint(model=self.trainer.model).restore(
          path
        ).expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError) as e:
      # Otherwise TensorFlow logs each value that was not restored.
      tf.get_logger().setLevel('ERROR')
      raise RestoreError(
        f'{path} is not a checkpoint of this network '
        f'({" ".join(str(e).split()):.200}); expected the task.model in '
        f'{run_folder.PARAMS} of the same folder. Correct the settings, or '
        'choose another --model_dir.'
      ) from None

  def _build_controller(
    self,
    trainer,
    evaluator,
    *args,
    train_actions: list[Any] | None = None,
    **kwargs,
  ):
    if trainer:
      self.guard = nonfinite.NonFiniteGuard(trainer, self.checkpoint_manager)
      # Before Model Garden's recovery, which reads what the guard writes.
      train_actions = [self.guard] + (train_actions or [])
    return super()._build_controller(
      trainer, evaluator, *args, train_actions=train_actions, **kwargs
    )

  def run(self) -> tuple[tf_keras.Model, Mapping[str, Any]]:
    """Runs the experiment.

    A run that resumes evaluates at the same steps as an uninterrupted one.
    Model Garden would count the validation interval from the step at which the
    run resumes, and skip an evaluation during which it was killed. A finished
    run that is started again evaluates again.

    Returns:
      The model and the logs, as in Model Garden's class.
    """
    step = int(self.trainer.global_step.numpy())
    if step and self._mode == 'train_and_eval':
      train_steps = self.params.trainer.train_steps
      interval = self.params.trainer.validation_interval or train_steps
      with self.strategy.scope():
        self.controller.train(
          min(-(-step // interval) * interval, train_steps),
          checkpoint_at_completion=False,
        )
        self.controller.evaluate(self.params.trainer.validation_steps)
    return super().run()
