"""The end of a Keras classifier: which output it is, and without its softmax.

Models are taken apart by the graph that Keras keeps of symbolic tensors, which
functional and Sequential models have, of tf_keras and of Keras 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import outputs

# What a network's end squashes logits with, as a layer, an activation or an
# operation, in lower case and without underscores.
_SQUASHING = (
  'softmax',
  'logsoftmax',
  'sigmoid',
  'logsigmoid',
  'hardsigmoid',
  'sparsemax',
  'sparsesigmoid',
)
# Layers that leave logits what they are, in evaluation mode.
_TRANSPARENT = (
  'ActivityRegularization',
  'Dropout',
  'Flatten',
  'GaussianNoise',
  'Identity',
  'Reshape',
)
# How close the squashed logits must be to what the model gave.
_TOLERANCE = 1e-2


class _End(NamedTuple):
  """A symbolic tensor of logits.

  Attributes:
    tensor: the logits.
    squash: takes them to what the model gave; None if that is they.
  """

  tensor: Any
  squash: Callable[[Any], Any] | None


def _keras_of(model: Any):
  """Returns the Keras that a model is of."""
  if isinstance(model, tf_keras.layers.Layer):
    return tf_keras
  import keras  # as the model's file

  return keras


def _name(function: Any) -> str:
  """Names an activation, which may be a function, a layer or a text."""
  name = (
    function
    if isinstance(function, str)
    else getattr(function, '__name__', type(function).__name__)
  )
  return name.rpartition('.')[2].replace('_', '').lower()


def _operation(layer: Any) -> str:
  """Names what a layer without weights, or an operation, computes."""
  if type(layer).__name__ == 'TFOpLambda':
    return _name(layer.get_config()['function'])
  if type(layer).__name__ == 'Activation':
    return _name(layer.activation)
  return _name(type(layer).__name__)


def _without_activation(layer: Any, inputs: Any) -> Any:
  """Applies a layer with its weights, and no activation, to a tensor."""
  config = {
    **layer.get_config(),
    'activation': 'linear',
    'name': f'{layer.name}_logits',
  }
  twin = type(layer).from_config(config)
  result = twin(inputs)
  twin.set_weights(layer.get_weights())
  return result


def _end(keras: Any, tensor: Any) -> _End:
  """Goes back from a symbolic tensor to the logits behind it."""
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
      return _End(below.tensor, lambda x: tf.math.log(below.squash(x)))
  elif operation == 'linear' or type(layer).__name__ in _TRANSPARENT:
    below = _end(keras, inputs[0])
    if below.squash is not None:
      return _End(layer(below.tensor), below.squash)
  return _End(tensor, None)


def with_logits(
  spec: str, model: Any, size: tuple[int, int], chosen: str | None = None
) -> Any:
  """Returns a model of one output, without the softmax or sigmoid at its end.

  Args:
    spec: as the user wrote it, for errors.
    model: of either Keras, of one input; it is left as it is.
    size: height and width of the images.
    chosen: which of its outputs, by name or index, or nothing: the only one,
      or 'logits'.

  Returns:
    A model that shares the layers of the given one.

  Raises:
    ValueError: there is no such output, or its end cannot be taken off.
  """
  if not getattr(model, 'outputs', None):
    return model  # Not made of a graph of layers.
  names = list(getattr(model, 'output_names', [t.name for t in model.outputs]))
  structure = {
    # A layer that is called twice gives two outputs its name.
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
    # Of one tensor each, even where the given model takes or gives a mapping.
    result = keras.Model(model.inputs[0], end.tensor)
    if end.squash is None or _is_squashed(
      keras.Model(model.inputs[0], [tensor, end.tensor]), size, end.squash
    ):
      return result
    reason = 'what it does differs'
  except Exception as e:  # of many kinds
    reason = f'{type(e).__name__}: {next(iter(str(e).splitlines()), "")}'
  raise base.Unscorable(
    f'{spec}: what makes its output of logits cannot be taken off '
    f'({reason}); expected logits. Save the network without its softmax or '
    'sigmoid.'
  )


def _is_squashed(
  both: Any, size: tuple[int, int], squash: Callable[[Any], Any]
) -> bool:
  """Checks that what was taken off is what made probabilities of logits."""
  noise = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3))
  given, logits = both(noise.astype(np.float32), training=False)
  # One image, so that nothing passes that ties those of a batch together.
  again = tf.cast(squash(logits[:1]), tf.float32)
  return np.allclose(again, tf.cast(given[:1], tf.float32), atol=_TOLERANCE)
