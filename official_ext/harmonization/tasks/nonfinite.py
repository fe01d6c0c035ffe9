# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds the first value in a training step that is not finite.

Each step marks in a `Record`, on the device, which of its `CAUSES` were not
finite. `NonFiniteGuard` reads the record after every loop of steps, before
Model Garden's recovery reads the loss and before a checkpoint is written.
"""

import functools
import math
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

# In the order of computation. Of the stock step only `training_loss` is known.
CAUSES = (
  'regularization',
  'logits',
  'classification_loss',
  'harmonization_loss',
  'training_loss',
  'gradients',
)
# Causes that a lower loss scale can make finite again.
_RESCUED = ('harmonization_loss', 'gradients')


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def _is_finite(tensors) -> tf.Tensor:
  parts = [
    tf.reduce_all(tf.math.is_finite(t))
    for t in tf.nest.flatten(tensors)
    if t is not None
  ]
  return functools.reduce(tf.logical_and, parts, tf.constant(True))


@tf.autograph.experimental.do_not_convert
def marks(rescued: tf.Tensor | None = None, **values: Any) -> tf.Tensor:
  """Marks the causes that have values that are not finite.

  Args:
    rescued: bool scalar, whether the loss scale can still be lowered, so that
      the harmonization loss and the gradients are not marked.
    **values: float tensors, or nests of them, by cause. Missing causes count as
      finite.

  Returns:
    bool (len(CAUSES),).
  """
  rescues: dict[str, Any] = (
    dict.fromkeys(_RESCUED, rescued) if rescued is not None else {}
  )
  return tf.stack(
    [
      ~(_is_finite(values.get(cause, ())) | rescues.get(cause, False))
      for cause in CAUSES
    ]
  )


class Record:
  """The first marked step of each cause and replica since the last reading.

  Create it under the strategy's scope.
  """

  def __init__(self):
    strategy = tf.distribute.get_strategy()
    self._replicas = strategy.num_replicas_in_sync
    # Each replica writes only its own row, so that the sum over replicas has
    # the rows of all. The first column counts steps.
    self._rows = tf.Variable(
      tf.zeros([self._replicas, 1 + len(CAUSES)]),
      trainable=False,
      synchronization=tf.VariableSynchronization.ON_READ,
      aggregation=tf.VariableAggregation.SUM,
      name='first_steps_not_finite',
    )

  @tf.autograph.experimental.do_not_convert
  def update(self, marked: tf.Tensor):
    """Counts a step. Call it once per step, in a replica.

    Args:
      marked: the result of `marks`.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    own = tf.one_hot(replica, self._replicas)[:, tf.newaxis]
    rows = self._rows.read_value()
    steps = tf.reduce_sum(own * rows[:, :1]) + 1.0
    first = tf.where(
      tf.cast(marked, tf.bool) & (rows[:, 1:] == 0.0), steps, rows[:, 1:]
    )
    rows = tf.concat([tf.broadcast_to(steps, [self._replicas, 1]), first], 1)
    self._rows.assign(own * rows)

  def read(self) -> np.ndarray:
    """Reads the record and starts a new one. Call it outside of replicas.

    Returns:
      float32 (replicas, len(CAUSES)): how many steps ago the cause was first
      marked, 0 for the last step; NaN if it was not marked.
    """
    rows = self._rows.numpy()
    self._rows.assign(tf.zeros_like(rows))
    return np.where(rows[:, 1:] > 0, rows[:, :1] - rows[:, 1:], np.nan)


def record(where: Record | None, marked: tf.Tensor):
  """Counts a step if there is a record.

  Args:
    where: the record, or None.
    marked: the result of `marks`.
  """
  if where:
    where.update(marked)


class NonFiniteGuard:
  """A train action that reports values that are not finite.

  Attributes:
    report: a sentence about the last loop of steps; '' if all was finite.
  """

  def __init__(self, trainer, checkpoint_manager: tf.train.CheckpointManager):
    """Initializes the action.

    Args:
      trainer: Model Garden's trainer. Its task may have a `nonfinite.Record`
        as its attribute `nonfinite`.
      checkpoint_manager: the run's checkpoints.
    """
    self._trainer = trainer
    self._checkpoint_manager = checkpoint_manager
    self._record = getattr(trainer.task, 'nonfinite', None)
    self.report = ''

  def __call__(self, output):
    """Checks a loop of steps.

    Args:
      output: its logs. If anything is not finite, `training_loss` becomes NaN,
        which triggers Model Garden's recovery.

    Raises:
      RuntimeError: a value is not finite, and recovery is disabled or there is
        no checkpoint to return to.
    """
    self.report = self._describe(output)
    if not self.report:
      return
    logging.error('%s', self.report)
    output['training_loss'] = tf.constant(math.nan)
    latest = self._checkpoint_manager.latest_checkpoint
    if self._trainer.config.trainer.recovery_max_trials < 0 or not latest:
      raise RuntimeError(self.report)

  def _describe(self, output) -> str:
    last = int(self._trainer.global_step.numpy())
    first = max(1, last - self._trainer.config.trainer.steps_per_loop + 1)
    if self._record:
      ages = self._record.read()
      if not np.isnan(ages).all():
        return self._name_causes(last - np.nanmax(ages), last - ages)
    if not np.isfinite(output['training_loss']):
      return f'The loss was not finite in one of the steps {first} to {last}.'
    if not self._weights_are_finite():
      rate = float(output['learning_rate'])
      return (
        f'Trainable weights are not finite after step {last}, although all '
        f'losses since step {first} were finite. The learning rate is {rate:g}.'
      )
    return ''

  def _name_causes(self, step: float, steps: np.ndarray) -> str:
    """Describes the first step in which a cause was marked."""
    marked = steps == step
    causes = [c for c, m in zip(CAUSES, marked.any(axis=0)) if m]
    text = f'Step {step:.0f}: {causes[0]} is not finite'
    if causes[1:]:
      text += f', then {", ".join(causes[1:])}'
    if len(marked) > 1:
      replicas = np.flatnonzero(marked.any(axis=1)).tolist()
      text += f'; on replicas {replicas} of 0..{len(marked) - 1}'
    return text + '.'

  @functools.cached_property
  def _weights_are_finite(self):
    strategy = self._trainer.strategy
    weights = self._trainer.model.trainable_variables

    @tf.function
    def check():
      found = strategy.run(lambda: _is_finite(weights))
      return tf.reduce_all(strategy.experimental_local_results(found))

    return lambda: bool(check())
