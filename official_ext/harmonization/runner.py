"""The host's runner, for runs that are killed, or whose numbers blow up."""

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
  """A checkpoint is not of the network that it was to be restored to."""


def step_to_resume(model_dir: str) -> int:
  """Finds where a run goes on.

  Args:
    model_dir: of the run.

  Returns:
    The step of its latest checkpoint, 0 where there is none.
  """
  path = run_folder.find_checkpoint(model_dir)
  return run_folder.step_of(path) if path else 0


def seed_at(seed: int | None, step: int, task: cfg.TaskConfig):
  """Sets the seed of a run, and says what becomes of the order of its data.

  Args:
    seed: of the run; None for another in every process.
    step: of `step_to_resume`.
    task: the task's configuration.
  """
  if seed is not None:
    # Else a run that is often killed would see the same images first again.
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
    order += f', by the seed {seed} + {step}'
  elif fixed:
    order = f'in the order that they had at step 0, by {" and ".join(fixed)}'
  logging.warning(
    'The run goes on after step %d. A checkpoint holds no place in the '
    'training data: they start over, %s.',
    step,
    order,
  )


def check_workers(strategy: tf.distribute.Strategy, step: int):
  """Refuses to go on in several processes: the host restores the first alone.

  Args:
    strategy: of the run.
    step: of `step_to_resume`.

  Raises:
    ValueError: the others would start at step 0 beside it.
  """
  if not step or not isinstance(
    strategy, tf.distribute.MultiWorkerMirroredStrategy
  ):
    return
  cluster = strategy.cluster_resolver.cluster_spec().as_dict()
  if sum(map(len, cluster.values())) > 1:
    raise ValueError(
      f'--model_dir holds a checkpoint of step {step}, and '
      'runtime.distribution_strategy is multi_worker_mirrored: the host '
      'restores it in the first process alone. Go on in one process, or '
      'start from its weights: a new --model_dir, with it as '
      'task.init_checkpoint.'
    )


def clear_unfinished(folder: str):
  """Removes checkpoints in whose writing a process was killed.

  Nothing else does, and there is no bound on how many come together.

  Args:
    folder: of checkpoints.
  """
  for path in tf.io.gfile.glob(os.path.join(folder, '*-*_temp')):
    logging.warning('%s, an unfinished checkpoint, is removed.', path)
    tf.io.gfile.rmtree(path)


def forget_lost_best(folder: str):
  """Removes the best score where its checkpoint was not written.

  The host writes the score first. A run that is killed between the two would
  never export what is only as good.

  Args:
    folder: that the best checkpoint is exported to.
  """
  path = os.path.join(folder, 'info.json')
  if not tf.io.gfile.exists(path):
    return
  with tf.io.gfile.GFile(path) as f:
    text = f.read()
  try:
    scored = json.loads(text)['best_ckpt_global_step']
  except (ValueError, KeyError):
    scored = None  # Killed while it was written.
  checkpoint = tf.train.latest_checkpoint(folder)
  if not checkpoint or scored != run_folder.step_of(checkpoint):
    logging.warning(
      '%s is removed: the checkpoint of this best score was not '
      'written. The next evaluation exports its own.',
      path,
    )
    tf.io.gfile.remove(path)


class Runner(train_lib.OrbitExperimentRunner):
  """Trains and evaluates; see the host's class for its arguments.

  Attributes:
    watch: of training, a `nonfinite.NonFiniteGuard`; else None.
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
    """Checks that a checkpoint holds all weights of the network.

    Model Garden restores what matches and leaves the rest at random.

    Args:
      path: of the checkpoint.

    Raises:
      RestoreError: it does not.
    """
    try:
      with self.strategy.scope():
        tf.train.Checkpoint(model=self.trainer.model).restore(
          path
        ).expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError) as e:
      # Else TensorFlow lists each value that was not restored.
      tf.get_logger().setLevel('ERROR')
      raise RestoreError(
        f'{path} is not a checkpoint of this network '
        f'({" ".join(str(e).split()):.200}); expected the task.model that it '
        f'was trained with, which {run_folder.PARAMS} beside it has. Correct '
        'the settings, or choose another --model_dir.'
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
      # Before the host's recovery, which looks at what the watch writes.
      train_actions = [self.guard] + (train_actions or [])
    return super()._build_controller(
      trainer, evaluator, *args, train_actions=train_actions, **kwargs
    )

  def run(self) -> tuple[tf_keras.Model, Mapping[str, Any]]:
    """Runs the experiment.

    A run that was killed evaluates at the steps at which it would have: the
    host would count the interval from the step at which it goes on, and leave
    out an evaluation during which the run was killed. A whole run that is
    started again evaluates again.

    Returns:
      As the host's.
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
