"""Refuses models whose gradient of a gradient would be wrong or missing.

TensorFlow marks some gradient ops as not differentiable: a gradient through
them is taken for zero in silence. Others have no gradient of their own, and the
message names an op that nobody wrote. This module looks at the graph of a step
while it is traced, before the first one runs, and names the layer.
"""

import tensorflow as tf, tf_keras

# pylint: disable=g-direct-tensorflow-import
from tensorflow.python.framework import ops
# pylint: enable=g-direct-tensorflow-import

# Not differentiable, and rightly so: constant almost everywhere, or meant.
_RIGHTLY = frozenset([
    'Ceil', 'Floor', 'OnesLike', 'Rint', 'Round', 'Shape', 'ShapeN', 'Sign',
    'Size', 'StopGradient', 'ZerosLike'
])

# Sums over replicas: the strategy, not the op, has the gradient.
_OF_STRATEGIES = frozenset(['CollectiveReduce', 'CollectiveReduceV2'])

_RESIZE = ('resize images before the model, and upsample inside it by a '
           'transposed convolution or tf.repeat')
_WAYS_OUT = {
    'ResizeBilinearGrad': _RESIZE,
    'ResizeBicubicGrad': _RESIZE,
    'ResizeNearestNeighborGrad': _RESIZE,
    'LRNGrad': 'use batch normalization in its place',
}
_WAY_OUT = ('replace the layer by one whose gradient TensorFlow can '
            'differentiate, or set task.harmonization.weight to 0')


def _layer_of(op_name: str, model: tf_keras.Model) -> str:
  """The layer that an op, or the gradient of one, belongs to."""
  names = {m.name for m in model.submodules
           if isinstance(m, tf_keras.layers.Layer)}
  scopes = [part for part in op_name.split('/') if part in names]
  return f'layer {scopes[-1]!r}' if scopes else f'op {op_name!r}'


def _on_the_way(saliency: tf.Tensor):
  """Ops between trainable variables and the saliency, in the graph."""
  found, pending = {}, [saliency.op]
  while pending:
    op = pending.pop()
    if op not in found:
      found[op] = [t.op for t in op.inputs
                   if t.dtype.is_floating or t.dtype == tf.resource]
      pending += found[op]
  # An op counts if a variable is read somewhere below it.
  reads = {op for op in found if op.type == 'ReadVariableOp'}
  above = {op: [] for op in found}
  for op, inputs in found.items():
    for below in inputs:
      above[below].append(op)
  counted, pending = set(), list(reads)
  while pending:
    for op in above[pending.pop()]:
      if op not in counted:
        counted.add(op)
        pending.append(op)
  return counted


def check_graph(saliency: tf.Tensor, model: tf_keras.Model):
  """Checks the graph of saliency maps while a step is traced.

  Args:
    saliency: the maps, a symbolic tensor. Eager tensors have no graph and pass.
    model: the network, for the names of its layers.

  Raises:
    ValueError: an op between the variables and the maps has no
      gradient, or one that would be taken for zero in silence.
  """
  if tf.executing_eagerly() or not hasattr(saliency, 'op'):
    return
  for op in sorted(_on_the_way(saliency), key=lambda op: op.name):
    if op.type in _RIGHTLY | _OF_STRATEGIES:
      continue
    if not any(t.dtype.is_floating for t in op.outputs):
      continue
    try:
      gradient = ops.get_gradient_function(op)
      problem = None if gradient else 'would be taken for zero'
    except LookupError:
      problem = 'does not exist'
    if problem:
      raise ValueError(
          f'{_layer_of(op.name, model)} cannot be harmonized: the gradient of '
          f'its {op.type} {problem}. Way out: '
          f'{_WAYS_OUT.get(op.type, _WAY_OUT)}.')


def _custom_gradients(model: tf_keras.Model):
  """Names of the layers that bring a gradient of their own, in this graph."""
  graph = tf.compat.v1.get_default_graph()
  return sorted({
      _layer_of(op.name, model)
      for op in graph.get_operations()
      if op.type == 'IdentityN' and '_gradient_op_type' in op.node_def.attr
  })


def gradients(tape: tf.GradientTape, loss: tf.Tensor, model: tf_keras.Model):
  """Differentiates a loss of saliency maps, and says so where that fails.

  Args:
    tape: that recorded logits, saliency and loss.
    loss: a scalar.
    model: the network.

  Returns:
    The gradients with respect to `model.trainable_variables`.

  Raises:
    ValueError: there is no such gradient, or it does not reach every
      trainable variable.
  """
  variables = model.trainable_variables
  try:
    found = tape.gradient(loss, variables)
  except (LookupError, RuntimeError, TypeError) as e:
    if tf.executing_eagerly():
      raise
    suspects = ', '.join(_custom_gradients(model)) or 'none'
    raise ValueError(
        'The model cannot be harmonized: the gradient of its gradient fails '
        f'with "{str(e).strip().splitlines()[-1].strip()}". Layers with a '
        f'custom gradient: {suspects}. Way out: {_WAY_OUT}.') from e
  cut_off = [v.name for g, v in zip(found, variables) if g is None]
  if cut_off:
    raise ValueError(
        f'{len(cut_off)} trainable variables are cut off from the loss, the '
        f'first is {cut_off[0]}. Way out: look for a stopped gradient in the '
        'model, or make them not trainable.')
  return found
