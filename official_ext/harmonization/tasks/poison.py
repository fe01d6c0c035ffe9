"""What is the first thing in a training step that is not finite, and where.

A step marks in a `Record`, on the device, which of its `CAUSES` were not
finite. `Watch` reads the record after every loop of steps, before the host's
recovery looks at the loss and before a checkpoint is written.
"""

import functools
import math
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

# In the order of computation. The stock step is seen through its
# `training_loss` alone.
CAUSES = (
  'regularization',
  'logits',
  'classification_loss',
  'harmonization_loss',
  'training_loss',
  'gradients',
)
_RESCUED = ('harmonization_loss', 'gradients')


def _is_finite(tensors) -> tf.Tensor:
  parts = [
    tf.reduce_all(tf.math.is_finite(t))
    for t in tf.nest.flatten(tensors)
    if t is not None
  ]
  return functools.reduce(tf.logical_and, parts, tf.constant(True))


def marks(rescued: tf.Tensor | None = None, **values: Any) -> tf.Tensor:
  """Marks the causes of which a value is not finite.

  Args:
    rescued: bool scalar: whether a lower loss scale may bring the
      harmonization loss and the gradients back, so that they are not marked.
    **values: float tensors, or nests of them, by cause. What is left out counts
      as finite.

  Returns:
    bool (len(CAUSES),).
  """
  rescues = dict.fromkeys(_RESCUED, rescued) if rescued is not None else {}
  return tf.stack(
    [
      ~(_is_finite(values.get(cause, ())) | rescues.get(cause, False))
      for cause in CAUSES
    ]
  )


class Record:
  """The first marked step of each cause and replica since the last reading.

  To be made under the strategy's scope.
  """

  def __init__(self):
    strategy = tf.distribute.get_strategy()
    self._replicas = strategy.num_replicas_in_sync
    # A replica writes its own row alone, so that the sum over replicas holds
    # the rows of all. The first column counts steps.
    self._rows = tf.Variable(
      tf.zeros([self._replicas, 1 + len(CAUSES)]),
      trainable=False,
      synchronization=tf.VariableSynchronization.ON_READ,
      aggregation=tf.VariableAggregation.SUM,
      name='first_steps_not_finite',
    )

  def update(self, marked: tf.Tensor):
    """Counts a step; in a replica, once in every step.

    Args:
      marked: of `marks`.
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
    """Reads the record and starts a new one; outside of replicas.

    Returns:
      float32 (replicas, len(CAUSES)): how many steps before the last one the
      cause was first marked, 0 for the last one itself; NaN where it never was.
    """
    rows = self._rows.numpy()
    self._rows.assign(tf.zeros_like(rows))
    return np.where(rows[:, 1:] > 0, rows[:, :1] - rows[:, 1:], np.nan)


def record(where: Record | None, marked: tf.Tensor):
  """Counts a step where there is a record of them.

  Args:
    where: the record.
    marked: of `marks`.
  """
  if where:
    where.update(marked)


class Watch:
  """A train action: names what is not finite, and has the host recover.

  `report` is the sentence on the last loop of steps, '' where all was finite.
  """

  def __init__(self, trainer, checkpoint_manager: tf.train.CheckpointManager):
    """Initializes the action.

    Args:
      trainer: the host's. Its task may have a `poison`, a `Record`.
      checkpoint_manager: of the run.
    """
    self._trainer = trainer
    self._checkpoint_manager = checkpoint_manager
    self._record = getattr(trainer.task, 'poison', None)
    self.report = ''

  def __call__(self, output):
    """Looks at a loop of steps.

    Args:
      output: its logs. Where something is not finite, `training_loss` becomes
        NaN, which is what the host's recovery looks for.

    Raises:
      RuntimeError: something is not finite, and the host has no recovery or no
        checkpoint to go back to.
    """
    self.report = self._look(output)
    if not self.report:
      return
    logging.error('%s', self.report)
    output['training_loss'] = tf.constant(math.nan)
    latest = self._checkpoint_manager.latest_checkpoint
    if self._trainer.config.trainer.recovery_max_trials < 0 or not latest:
      raise RuntimeError(self.report)

  def _look(self, output) -> str:
    last = int(self._trainer.global_step.numpy())
    first = max(1, last - self._trainer.config.trainer.steps_per_loop + 1)
    if self._record:
      ages = self._record.read()
      if not np.isnan(ages).all():
        return self._name(last - np.nanmax(ages), last - ages)
    if not np.isfinite(output['training_loss']):
      return f'The loss was not finite in a step from {first} to {last}.'
    if not self._weights_are_finite():
      rate = float(output['learning_rate'])
      return (
        f'Trainable weights are not finite after step {last}, although '
        f'every loss from step {first} on was. The learning rate is '
        f'{rate:g}.'
      )
    return ''

  def _name(self, step: float, steps: np.ndarray) -> str:
    """The sentence on the first step in which a cause was marked."""
    marked = steps == step
    causes = [c for c, m in zip(CAUSES, marked.any(axis=0)) if m]
    text = f'Step {step:.0f}: {causes[0]} not finite'
    if causes[1:]:
      text += f', then {", ".join(causes[1:])}'
    if len(marked) > 1:
      replicas = np.flatnonzero(marked.any(axis=1)).tolist()
      text += f'; on the replicas {replicas} of 0..{len(marked) - 1}'
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
