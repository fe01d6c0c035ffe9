# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Refuses models whose second derivative would be wrong or missing.

TensorFlow marks some gradient ops as not differentiable, and silently treats a
gradient through them as zero. Others have no gradient, and the error names an
op that does not occur in the model's code. This module inspects the graph of
the saliency maps, including the functions that it calls, before the first step
runs, and names the layer.
"""

import tensorflow as tf
from tensorflow.python.framework import ops
import tf_keras

from official_ext.harmonization.ops import graph_walk
from official_ext.harmonization.ops import second_order

# Sums over replicas, whose gradient is defined by the strategy.
_OF_STRATEGIES = frozenset(['CollectiveReduce', 'CollectiveReduceV2'])

# Exact in TensorFlow graphs, inexact under XLA.
_INEXACT = frozenset(['MaxPoolGrad', 'MaxPoolGradV2'])

_RESIZE = (
  'resize images before the model, and upsample inside it by a '
  'transposed convolution or tf.repeat'
)
_REMEDIES = {
  'ResizeBilinearGrad': _RESIZE,
  'ResizeBicubicGrad': _RESIZE,
  'ResizeNearestNeighborGrad': _RESIZE,
  'LRNGrad': 'use batch normalization instead',
  'MaxPoolGradV2': 'use tf.nn.max_pool2d',
  'EagerPyFunc': 'implement it with TensorFlow operations',
}
_REMEDY = (
  'replace the layer by one whose gradient TensorFlow can '
  'differentiate, or set task.harmonization.weight to 0'
)
_TRACED_BEFORE = (
  'its @tf.function was differentiated twice before, outside of '
  "ops.second_order.scope, and keeps TensorFlow's gradient of {}: build a new "
  'model for harmonized training, or run it in another process'
)


def layer_of(names, model) -> str:
  """Describes the layer that an op, or the gradient of an op, belongs to.

  Args:
    names: names that show where the op belongs, its own name last.
    model: the network, a Keras model or any other callable.

  Returns:
    The last layer of the model that occurs in the names; otherwise the op.
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
  """Returns a problem of an op on the way from variables to maps, and a remedy.

  It is None for a good op.
  """
  if op.type == 'StopGradient' and in_gradient:
    return (
      f'its gradient is stopped inside a gradient ({op.name}), and '
      'would be treated as zero',
      'remove tf.stop_gradient from the custom gradient',
    )
  if in_gradient and marks.stopped_mean:
    return (
      'the mean in its variance is held fixed',
      'compute it with tf.nn.moments; or, if it already is, '
      + _TRACED_BEFORE.format('the variance'),
    )
  if in_gradient and marks.hidden:
    return (
      'its custom gradient uses a value whose own gradient is stopped, '
      'so that the gradient of the gradient would be treated as zero',
      'remove tf.stop_gradient from the custom gradient',
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
    return f'the gradient of its {op.type} would be treated as zero', remedy
  return None


def _is_made_exact(op) -> bool:
  """Whether `second_order` differentiates this max-pooling gradient."""
  kinds = {
    c.type == 'IdentityN' and graph_walk.custom_gradient(c)
    for c in op.outputs[0].consumers()
  }
  return kinds == {second_order.MAX_POOL}


# Autograph would take longer to convert the walk than the walk itself takes.
@tf.autograph.experimental.do_not_convert
def check_graph(maps: tf.Tensor, forward, model):
  """Checks the graph of saliency maps before they are differentiated.

  Args:
    maps: the maps, or the gradient that they are computed from, a symbolic
      tensor.
    forward: the ops of its graph that existed before that gradient.
    model: the network, for the names of its layers.

  Raises:
    ValueError: an op between the variables and the maps has no gradient, or one
      that would be silently treated as zero or be inexact.
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
  """Differentiates a loss of saliency maps, and explains failures.

  Args:
    tape: a tape that recorded logits, saliency and loss.
    loss: a scalar.
    model: the network.

  Returns:
    The gradients with respect to `model.trainable_variables`.

  Raises:
    ValueError: the gradient does not exist, would be wrong (see `check_graph`),
      or does not reach all trainable variables.
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
      f'{len(cut_off)} trainable variables do not affect the loss; the first '
      f'is {cut_off[0]}. What to do: look for a stopped gradient in the '
      'model, or make them not trainable.'
    )
  return found
