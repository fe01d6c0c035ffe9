# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds wrong settings of an experiment by building it without data.

Model Garden reads most fields only when it uses them, and its errors name no
field. Here each part of an experiment is built with an empty file, on the CPU,
and the training step is traced but not run. If that fails, each setting that
differs from the experiment's code is reset in turn. The one whose reset makes
the part work is wrong.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
import re
import tempfile
from typing import Any, NamedTuple

from absl import logging
import numpy as np
from official.common import distribute_utils
from official.core import config_definitions as cfg
from official.core import task_factory
from official.core import train_utils
from official.modeling import hyperparams
from official.modeling import optimization
from official.modeling import performance
import tensorflow as tf
import tf_keras

from official_ext.harmonization import files
from official_ext.harmonization.configs import checks
from official_ext.harmonization.ops import double_backward

_IN_TRACE = 'in user code:'


def is_traced(error: BaseException) -> bool:
  """Whether an error was raised while a function was traced."""
  return _IN_TRACE in str(error)


def reason(error: BaseException) -> str:
  """Formats an error's message on one line.

  Args:
    error: the exception.

  Returns:
    The message, without the code that TensorFlow adds if a function was traced.
  """
  if isinstance(error, LookupError):  # str(KeyError(x)) is repr(x).
    message = ' '.join(map(str, error.args))
  else:
    message = str(error)
  if _IN_TRACE in message:
    message = message.strip().rpartition('\n\n')[-1].strip()
    message = re.sub('^(Lookup|Value)Error: ', '', message)
  # gin adds the configurable that was called, with its address.
  message = message.partition('\n  In call to configurable')[0]
  if not message or (isinstance(error, KeyError) and 'Error: ' not in message):
    message = f'{type(error).__name__}: {message}'
  return ' '.join(message.split()).rstrip('.')


def name_layer(message: str, model: tf_keras.Model) -> str:
  """Adds the layer to TensorFlow's message about an op without a gradient.

  Args:
    message: an error's message.
    model: the network that was differentiated.

  Returns:
    The message, with the layer if it is about an op without a gradient.
  """
  op_type = re.search(r'gradient registry has no entry for: (\w+)', message)
  if not op_type:
    return message
  images = tf.TensorSpec([1, *model.input_shape[1:]])
  graph = tf.function(model).get_concrete_function(images).graph
  for op in graph.get_operations():
    if op.type == op_type[1]:
      return (
        f'{double_backward.layer_of([op.name], model)} has no gradient '
        f'with respect to the images ({op.type}), and so it has no saliency '
        'map. Resize images before the network, or with another method'
      )
  return message


def set_precision(runtime: cfg.RuntimeConfig):
  """Sets the precision in which layers compute.

  Args:
    runtime: the experiment's runtime configuration.
  """
  if runtime.mixed_precision_dtype:
    performance.set_mixed_precision_policy(runtime.mixed_precision_dtype)


def make_strategy(runtime: cfg.RuntimeConfig) -> tf.distribute.Strategy:
  """Starts the distribution strategy of a run.

  Args:
    runtime: the experiment's runtime configuration.

  Raises:
    ValueError: the devices do not exist on this machine, or cannot be reached.
  """
  gpus = len(tf.config.list_physical_devices('GPU'))
  if runtime.num_gpus > gpus:
    raise ValueError(
      f'runtime.num_gpus is {runtime.num_gpus}; expected at most {gpus}, the '
      'number that TensorFlow finds. Reduce it, or install TensorFlow for GPUs '
      "(pip install 'tensorflow[and-cuda]')."
    )
  try:
    return distribute_utils.get_distribution_strategy(
      distribution_strategy=runtime.distribution_strategy,
      all_reduce_alg=runtime.all_reduce_alg,
      num_gpus=runtime.num_gpus,
      tpu_address=runtime.tpu,
    )
  except Exception as e:
    logging.debug('The strategy failed to start.', exc_info=True)
    tpu = f' and runtime.tpu is {runtime.tpu!r}' * (
      runtime.distribution_strategy.lower() == 'tpu'
    )
    raise ValueError(
      f'runtime.distribution_strategy is {runtime.distribution_strategy!r}'
      f'{tpu}, which fails to start ({reason(e)}). Check the address and the '
      'environment, or choose another strategy.'
    ) from e


def check_schedule(trainer: cfg.TrainerConfig):
  """Checks that the learning rate is finite and not negative.

  Args:
    trainer: the experiment's trainer configuration.

  Raises:
    ValueError: it is not; the message names the step.
  """
  rate = optimization.OptimizerFactory(
    trainer.optimizer_config
  ).build_learning_rate()
  if not callable(rate):
    return
  last = max(trainer.train_steps - 1, 0)
  for step in sorted({0, 1, last // 2, max(last - 1, 0), last}):
    found = float(np.asarray(rate(tf.constant(step, tf.int64))))
    if not np.isfinite(found) or found < 0:
      raise ValueError(f'the learning rate of step {step} would be {found}')


class _Built:
  """Parts of an experiment, each built when it is first used."""

  def __init__(self, params: cfg.ExperimentConfig, folder: str):
    """Initializes it.

    Args:
      params: the experiment.
      folder: folder for an empty file that replaces all records.
    """
    self.params = params
    self._records = os.path.join(folder, 'empty.tfrecord')
    with tf.io.TFRecordWriter(self._records):
      pass

  @functools.cached_property
  def task(self):
    task = self.params.replace().task
    checks.check_batch_sizes(task)
    for name in (
      'train_data',
      'validation_data',
      'mapped_data',
      'mapped_validation_data',
    ):
      data = getattr(task, name)
      # The check must not depend on a running service.
      data.enable_tf_data_service = False
      if isinstance(data.input_path, hyperparams.Config):
        for key in data.input_path.as_dict():
          setattr(data.input_path, key, self._records)
      elif not data.tfds_name and (checks.has_source(data) or data.is_training):
        data.input_path = self._records
    return task_factory.get_task(task)

  @functools.cached_property
  def network(self):
    return self.task.build_model()

  @functools.cached_property
  def optimizer(self):
    optimizer = train_utils.create_optimizer(self.task, self.params)
    if isinstance(optimizer, optimization.ExponentialMovingAverage):
      optimizer.shadow_copy(self.network)
    return optimizer

  def inputs(self, training: bool) -> Any | None:
    """Returns the types of a step's inputs; None for data not in files."""
    task = self.task.task_config
    data = task.train_data if training else task.validation_data
    datasets = [
      data,
      task.mapped_data if training else task.mapped_validation_data,
    ]
    if any(d.tfds_name for d in datasets) or not any(
      map(checks.has_source, datasets)
    ):
      return None
    replicas = max(self.params.runtime.num_gpus, 1)
    context = tf.distribute.InputContext(1, 0, replicas)
    return self.task.build_inputs(data, context).element_spec

  def step(self, training: bool):
    """Traces a step."""
    spec = self.inputs(training)
    if spec is None:
      return
    metrics = self.task.build_metrics(training=training)

    def take(inputs):
      if training:
        return self.task.train_step(
          inputs, self.network, self.optimizer, metrics
        )
      return self.task.validation_step(inputs, self.network, metrics)

    tf.function(take).get_concrete_function(spec)


class Part(NamedTuple):
  """A part of an experiment.

  Attributes:
    fault: a clause that says that the part cannot be built.
    build: builds the part.
  """

  fault: str
  build: Callable[[_Built], Any]


SCHEDULE = (
  Part(
    'the learning rate is not defined',
    lambda built: check_schedule(built.params.trainer),
  ),
)
NETWORK = (
  Part('the task cannot be set up', lambda built: built.task),
  Part('the network cannot be built', lambda built: built.network),
)
_STEPS = (
  Part('a training step cannot run', lambda built: built.step(True)),
  Part('an evaluation step cannot run', lambda built: built.step(False)),
)
ALL = (
  SCHEDULE
  + NETWORK
  + (
    Part('the optimizer cannot be built', lambda built: built.optimizer),
    Part('training data cannot be read', lambda built: built.inputs(True)),
    Part('validation data cannot be read', lambda built: built.inputs(False)),
  )
  + _STEPS
)


def _changed_settings(
  code: Any, params: Any, section: str = ''
) -> dict[str, tuple[Any, Any]]:
  """Returns settings that differ from the code: dotted names to both values.

  `as_dict` would not show the sections that are not chosen, such as other
  backbones.
  """
  found = {}
  for field in dataclasses.fields(params):
    name = f'{section}{field.name}'
    default, value = (
      getattr(code, field.name, None),
      getattr(params, field.name),
    )
    if dataclasses.is_dataclass(value) and type(default) is type(value):
      found.update(_changed_settings(default, value, f'{name}.'))
    elif files.differences(default, value):
      found[name] = (default, value)
  return found


def _shown(value: Any) -> str:
  """Formats a value as the user would write it."""
  return repr(
    value.as_dict() if isinstance(value, hyperparams.Config) else value
  )


def _with_value(params, path, value):
  """Returns a copy of an experiment with another value of one field."""
  changed = params.replace()
  section, _, name = path.rpartition('.')
  setattr(functools.reduce(getattr, section.split('.'), changed), name, value)
  return changed


def check(
  params: cfg.ExperimentConfig,
  code: cfg.ExperimentConfig,
  parts: Sequence[Part] = ALL,
):
  """Builds an experiment, and names the setting if that fails.

  Args:
    params: the final experiment.
    code: the experiment before files and flags override it.
    parts: the parts to build.

  Raises:
    ValueError: a part cannot be built.
  """
  with tempfile.TemporaryDirectory() as folder:
    built = _Built(params, folder)
    for part in parts:
      try:
        part.build(built)
      except Exception as e:  # Libraries raise many types for a wrong setting.
        logging.debug('%s.', part.fault, exc_info=True)
        raise ValueError(_explain(part, e, built, code, folder)) from e


def _explain(part, error, built, code, folder) -> str:
  """Describes why a part cannot be built, and which setting is wrong."""
  params = built.params
  changed = _changed_settings(code, params)
  message = reason(error)
  if any(name in message for name in changed):
    return f'{message}.'  # One of our checks, which names the field.
  fault = part.fault[0].upper() + part.fault[1:]
  if part in _STEPS:  # A layer is refused, not a setting.
    return f'{fault}: {name_layer(message, built.network)}.'
  # Fields before types: a type may be right and only one of its fields wrong.
  for path in sorted(changed, key=lambda name: name.endswith('.type')):
    default, value = changed[path]
    try:
      part.build(_Built(_with_value(params, path, default), folder))
    except Exception:  # Not this setting, or not only this one.
      continue
    return (
      f'{path} is {_shown(value)}, with which {part.fault} ({message}); '
      f"expected a value such as the experiment's default, {_shown(default)}."
    )
  return f'{fault}: {message}. Check {", ".join(changed) or "--experiment"}.'
