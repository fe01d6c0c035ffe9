# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Chooses the output of a Keras classifier and removes its softmax.

This uses the graph of symbolic tensors that Keras keeps for functional and
Sequential models, in tf_keras and in Keras 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import outputs

# Names of layers, activations and operations that squash logits, in lower case
# and without underscores.
_SQUASHING = (
  'softmax',
  'logsoftmax',
  'sigmoid',
  'logsigmoid',
  'hardsigmoid',
  'sparsemax',
  'sparsesigmoid',
)
# Layers that do not change logits in evaluation mode.
_TRANSPARENT = (
  'ActivityRegularization',
  'Dropout',
  'Flatten',
  'GaussianNoise',
  'Identity',
  'Reshape',
)
# Absolute tolerance between the squashed logits and the model's output.
_TOLERANCE = 1e-2


class _End(NamedTuple):
  """A symbolic tensor of logits.

  Attributes:
    tensor: the logits.
    squash: function from the logits to the model's output; None if the output
      is the logits.
  """

  tensor: Any
  squash: Callable[[Any], Any] | None


def _keras_of(model: Any):
  """Returns the module, tf_keras or Keras 3, that a model belongs to."""
  if isinstance(model, tf_keras.layers.Layer):
    return tf_keras
  import keras  # Keras 3 has been imported already if a model belongs to it.

  return keras


def _name(function: Any) -> str:
  """Returns the normalized name of a function, a layer or a text."""
  name = (
    function
    if isinstance(function, str)
    else getattr(function, '__name__', type(function).__name__)
  )
  return name.rpartition('.')[2].replace('_', '').lower()


def _operation(layer: Any) -> str:
  """Names the function of a layer without weights, or of an operation."""
  if type(layer).__name__ == 'TFOpLambda':
    return _name(layer.get_config()['function'])
  if type(layer).__name__ == 'Activation':
    return _name(layer.activation)
  return _name(type(layer).__name__)


def _without_activation(layer: Any, inputs: Any) -> Any:
  """Applies a copy of a layer, without its activation, to a tensor."""
  config = {
    **layer.get_config(),
    'activation': 'linear',
    'name': f'{layer.name}_logits',
  }
  copy = type(layer).from_config(config)
  result = copy(inputs)
  copy.set_weights(layer.get_weights())
  return result


def _end(keras: Any, tensor: Any) -> _End:
  """Finds the logits from which a symbolic tensor is computed."""
  layer, node_index, index = tensor._keras_history
  node = layer._inbound_nodes[node_index]
  inputs = [
    t
    for t in tf.nest.flatten(node.input_tensors)
    if hasattr(t, '_keras_history')
  ]
  if hasattr(layer, 'layers') and getattr(layer, 'outputs', None):
    inner = _end(keras, layer.outputs[index])
    if inner.squash is None:
      return _End(tensor, None)
    structure = inputs[0] if len(inputs) == 1 else inputs
    return _End(
      keras.Model(layer.inputs, inner.tensor)(structure), inner.squash
    )
  if not inputs:  # An input of the model.
    return _End(tensor, None)
  operation = _operation(layer)
  if operation in _SQUASHING:
    return _End(inputs[0], layer)
  activation = getattr(layer, 'activation', None)
  if activation is not None and _name(activation) in _SQUASHING:
    return _End(_without_activation(layer, inputs[0]), activation)
  if operation == 'log':
    below = _end(keras, inputs[0])
    if below.squash is not None:
      return _End(
        below.tensor, lambda x, squash=below.squash: tf.math.log(squash(x))
      )
  elif operation == 'linear' or type(layer).__name__ in _TRANSPARENT:
    below = _end(keras, inputs[0])
    if below.squash is not None:
      return _End(layer(below.tensor), below.squash)
  return _End(tensor, None)


def with_logits(
  spec: str, model: Any, size: tuple[int, int], chosen: str | None = None
) -> Any:
  """Returns a model with one output, without the softmax or sigmoid at its end.

  Args:
    spec: the SPEC, for error messages.
    model: of tf_keras or Keras 3, with one input; it is not modified.
    size: height and width of the images.
    chosen: name or index of the output; None or '' for the only one, or else
      'logits'.

  Returns:
    A model that shares the layers of the given one.

  Raises:
    ValueError: the output does not exist, or the softmax cannot be removed.
  """
  if not getattr(model, 'outputs', None):
    return model  # A subclassed model has no graph of layers.
  names = list(getattr(model, 'output_names', [t.name for t in model.outputs]))
  structure = {
    # Two outputs have the same name if one layer was called twice.
    f'{name}.{i}' if names.count(name) > 1 else name: tensor
    for i, (name, tensor) in enumerate(zip(names, model.outputs))
  }
  if isinstance(getattr(model, 'output', None), dict):
    structure = model.output
  named = outputs.named(structure, lambda x: hasattr(x, '_keras_history'))
  tensor = named[outputs.choose(spec, named, chosen)]
  keras = _keras_of(model)
  try:
    end = _end(keras, tensor)
    # One tensor in and out, even if the given model uses mappings.
    result = keras.Model(model.inputs[0], end.tensor)
    if end.squash is None or _is_squashed(
      keras.Model(model.inputs[0], [tensor, end.tensor]), size, end.squash
    ):
      return result
    reason = 'the result differs'
  except Exception as e:  # Keras raises errors of many types here.
    reason = f'{type(e).__name__}: {next(iter(str(e).splitlines()), "")}'
  raise base.Unscorable(
    f'{spec}: the function after the logits cannot be removed ({reason}); '
    'expected logits. Save the network without its softmax or sigmoid.'
  )


def _is_squashed(
  both: Any, size: tuple[int, int], squash: Callable[[Any], Any]
) -> bool:
  """Whether `squash` turns the logits into the model's original output."""
  noise = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3))
  given, logits = both(noise.astype(np.float32), training=False)
  # A single image, so that a function of the whole batch fails the check.
  again = tf.cast(squash(logits[:1]), tf.float32)
  return np.allclose(again, tf.cast(given[:1], tf.float32), atol=_TOLERANCE)
