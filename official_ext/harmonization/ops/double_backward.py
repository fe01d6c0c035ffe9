"""Refuses models whose gradient of a gradient would be wrong or missing.

TensorFlow marks some gradient ops as not differentiable: a gradient through
them is silently taken for zero. Others have no gradient of their own, and the
message names an op that nobody wrote. This module looks at the graph of the
saliency maps, and into the functions that it calls, before the first step runs,
and names the layer.
"""

import tensorflow as tf
from tensorflow.python.framework import ops
import tf_keras

from official_ext.harmonization.ops import graph_walk
from official_ext.harmonization.ops import second_order

# Sums over replicas: the strategy, not the op, has the gradient.
_OF_STRATEGIES = frozenset(['CollectiveReduce', 'CollectiveReduceV2'])

# Right in graphs that are not compiled, inexact under XLA.
_INEXACT = frozenset(['MaxPoolGrad', 'MaxPoolGradV2'])

_RESIZE = (
  'resize images before the model, and upsample inside it by a '
  'transposed convolution or tf.repeat'
)
_REMEDIES = {
  'ResizeBilinearGrad': _RESIZE,
  'ResizeBicubicGrad': _RESIZE,
  'ResizeNearestNeighborGrad': _RESIZE,
  'LRNGrad': 'use batch normalization in its place',
  'MaxPoolGradV2': 'use tf.nn.max_pool2d',
  'EagerPyFunc': 'write it in TensorFlow',
}
_REMEDY = (
  'replace the layer by one whose gradient TensorFlow can '
  'differentiate, or set task.harmonization.weight to 0'
)
_TRACED_BEFORE = (
  'its @tf.function was differentiated twice before, outside of '
  "ops.second_order.scope, and keeps TensorFlow's gradient of {}: build the "
  'model anew for harmonized training, or run that in a process of its own'
)


def layer_of(names, model) -> str:
  """The layer that an op, or the gradient of one, belongs to.

  Args:
    names: that tell where the op belongs, its own last.
    model: the network, a Keras model or any other callable.

  Returns:
    Its last layer that the names mention, or else the op's name.
  """
  layers = {
    m.name
    for m in getattr(model, 'submodules', ())
    if isinstance(m, tf_keras.layers.Layer)
  }
  parts = [part for name in names for part in name.split('/')]
  found = [part for part in parts if part in layers]
  return f'layer {found[-1]!r}' if found else f'op {names[-1]!r}'


def _problem(op, marks: graph_walk.Marks, in_gradient: bool):
  """What is wrong with an op on the way from variables to the maps.

  Returns:
    What its gradient is like and what to do, or None.
  """
  if op.type == 'StopGradient' and in_gradient:
    return (
      f'its gradient is stopped inside a gradient ({op.name}), and '
      'would be taken for zero',
      'take tf.stop_gradient out of the custom gradient',
    )
  if in_gradient and marks.stopped_mean:
    return (
      'the mean in its variance is held fixed',
      'compute it by tf.nn.moments; or, if it is, '
      + _TRACED_BEFORE.format('the variance'),
    )
  if in_gradient and marks.hidden:
    return (
      'its custom gradient uses a value whose own gradient is stopped, '
      'so that the gradient of the gradient would be taken for zero',
      'take tf.stop_gradient out of the custom gradient',
    )
  if op.type in _OF_STRATEGIES or op.type in graph_walk.CONSTANT:
    return None
  remedy = _REMEDIES.get(op.type, _REMEDY)
  if op.type == 'EagerPyFunc':
    return 'the gradient of its Python code cannot be differentiated', remedy
  if op.type in _INEXACT and not _is_made_exact(op):
    return (
      f'the gradient of its {op.type} is inexact under XLA',
      _REMEDIES.get(op.type, _TRACED_BEFORE.format('max-pooling')),
    )
  try:
    known = ops.get_gradient_function(op)
  except LookupError:
    return f'the gradient of its {op.type} does not exist', remedy
  if not known:
    return f'the gradient of its {op.type} would be taken for zero', remedy
  return None


def _is_made_exact(op) -> bool:
  """Whether `second_order` has given a max-pooling's gradient its own."""
  kinds = {
    c.type == 'IdentityN' and graph_walk.custom_gradient(c)
    for c in op.outputs[0].consumers()
  }
  return kinds == {second_order.MAX_POOL}


# Converting the walk to a graph would take longer than all of the walk.
@tf.autograph.experimental.do_not_convert
def check_graph(maps: tf.Tensor, forward, model):
  """Checks the graph of saliency maps before they are differentiated.

  Args:
    maps: the maps, or the gradient that they are made of, a symbolic tensor.
    forward: the ops of its graph that were there before that gradient.
    model: the network, for the names of its layers.

  Raises:
    ValueError: an op between the variables and the maps has no gradient, or one
      that would silently be taken for zero or be inexact.
  """

  def visit(op, names, marks, in_gradient):
    problem = _problem(op, marks, in_gradient)
    if problem:
      what, remedy = problem
      raise ValueError(
        f'{layer_of(names(), model)} cannot be '
        f'harmonized: {what}. What to do: {remedy}.'
      )

  graph_walk.walk(maps, forward, visit)


def gradients(tape: tf.GradientTape, loss: tf.Tensor, model: tf_keras.Model):
  """Differentiates a loss of saliency maps, and says so where that fails.

  Args:
    tape: that recorded logits, saliency and loss.
    loss: a scalar.
    model: the network.

  Returns:
    The gradients with respect to `model.trainable_variables`.

  Raises:
    ValueError: there is no such gradient, it would be wrong (see
      `check_graph`), or it does not reach every trainable variable.
  """
  variables = model.trainable_variables
  try:
    found = tape.gradient(loss, variables)
  except (LookupError, RuntimeError, TypeError) as e:
    if tf.executing_eagerly():
      raise
    suspects = (
      ', '.join(
        sorted(
          {
            layer_of([op.name], model)
            for op in tf.compat.v1.get_default_graph().get_operations()
            if graph_walk.custom_gradient(op)
            not in (None, second_order.MAX_POOL, second_order.BATCH_NORM)
          }
        )
      )
      or 'none'
    )
    raise ValueError(
      'The model cannot be harmonized: the gradient of its gradient fails '
      f'with "{str(e).strip().splitlines()[-1].strip()}". Layers with a '
      f'custom gradient: {suspects}. What to do: {_REMEDY}.'
    ) from e
  cut_off = [v.name for g, v in zip(found, variables) if g is None]
  if cut_off:
    raise ValueError(
      f'{len(cut_off)} trainable variables are cut off from the loss, the '
      f'first is {cut_off[0]}. What to do: look for a stopped gradient in '
      'the model, or make them not trainable.'
    )
  return found
