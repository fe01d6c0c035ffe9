# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds activations, precision and preprocessing in a TensorFlow graph."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

# Operations that only pass on, cast or rearrange their first input.
_TRANSPARENT = (
  'Identity',
  'IdentityN',
  'Cast',
  'Reshape',
  'Squeeze',
  'ExpandDims',
  'StopGradient',
  'PreventGradient',
  'Snapshot',
  'Transpose',
  'StridedSlice',
  'Slice',
  'GatherV2',
  'Mean',
)
# Elementwise functions: if their input is squashed, so is their output.
_ELEMENTWISE = (
  'Add',
  'AddN',
  'AddV2',
  'ClipByValue',
  'Div',
  'Exp',
  'Maximum',
  'Minimum',
  'Mul',
  'Neg',
  'Pow',
  'RealDiv',
  'Sqrt',
  'Square',
  'Sub',
)
_LOGARITHMS = ('Log', 'Log1p')
_JOINING = ('ConcatV2', 'Pack')
_CALLS = ('PartitionedCall', 'StatefulPartitionedCall')
# Operations whose second input is a weight.
_WEIGHTED = (
  'BatchMatMulV2',
  'Conv2D',
  'DepthwiseConv2dNative',
  'Einsum',
  'FusedBatchNorm',
  'FusedBatchNormV2',
  'FusedBatchNormV3',
  'MatMul',
)
_SQUASHING = {
  'Softmax': 'softmax',
  'Sigmoid': 'sigmoid',
  'LogSoftmax': 'log_softmax',
  'Relu6': 'relu6',
  'Tanh': 'tanh',
  'Softsign': 'softsign',
  'Erf': 'erf',
}


def _body(op: tf.Operation):
  """Returns the graph of the function that an operation calls, if known."""
  name = op.get_attr('f').name
  for graph in _outwards(op.graph):
    function = graph._functions.get(name)
    if function is not None and function.graph is not None:
      return function.graph
  return None


def _outwards(graph) -> Iterator[tf.Graph]:
  """Yields a graph and those around it, from the inside out."""
  while graph is not None:
    yield graph
    graph = getattr(graph, 'outer_graph', None)


def last_operation(function) -> str:
  """Names the function that squashes the logits at the end of a graph.

  The search starts at the output, passes through elementwise operations without
  weights, such as a scaling, and ends at the last weights.

  Args:
    function: a concrete function of one output.

  Returns:
    'softmax', 'sigmoid', 'tanh', 'hard_sigmoid' or the like, 'log_softmax',
    'log_sigmoid', 'log of softmax', 'log of sigmoid', or ''.
  """
  return _squashing(tf.nest.flatten(function.structured_outputs)[0], [])


def _squashing(tensor: tf.Tensor, calls: list) -> str:
  """As `last_operation`, for a tensor.

  Args:
    tensor: in a graph that may be the body of a function.
    calls: operations that call the functions around the tensor, outermost
      first.
  """
  op = tensor.op
  if op.type in _SQUASHING:
    return _SQUASHING[op.type]
  if op.type == 'Neg' and _skip(op.inputs[0]).op.type == 'Softplus':
    return 'log_sigmoid'
  if op.type in _CALLS:
    graph = _body(op)
    return (
      ''
      if graph is None
      else _squashing(graph.outputs[tensor.value_index], calls + [op])
    )
  if op.type in ('Placeholder', 'Arg') and calls:
    # The tensor is an input of the function; continue at the function's call.
    index = _argument(op)
    return (
      '' if index is None else _squashing(calls[-1].inputs[index], calls[:-1])
    )
  if op.type in _TRANSPARENT:
    index = tensor.value_index if op.type == 'IdentityN' else 0
    return _squashing(op.inputs[index], calls)
  if op.type in _LOGARITHMS:
    below = _squashing(op.inputs[0], calls)
    return f'log of {below}' if below and 'log' not in below else below
  if op.type in _JOINING:  # Each part holds the outputs of some classes.
    return next(filter(None, (_squashing(t, calls) for t in op.inputs)), '')
  if op.type not in _ELEMENTWISE:
    return ''
  varying = [t for t in op.inputs if not _is_constant(t, calls)]
  # All inputs must be squashed: features times a gate are not, nor is a sum
  # with logits.
  below = ''
  for part in varying:
    below = _squashing(part, calls)
    if not below:
      break
  return below or ('hard_sigmoid' if _is_clip(op, calls) else '')


def _is_constant(tensor: tf.Tensor, calls: list) -> bool:
  """Whether a tensor is a constant, or the logarithm or cast of one."""
  while tensor.op.type in _LOGARITHMS + ('Cast', 'Identity'):
    tensor = tensor.op.inputs[0]
  return _constant(tensor, calls) is not None


def _constant(tensor: tf.Tensor, calls: list) -> np.ndarray | None:
  """Returns the value of a constant; None if the tensor is not constant.

  A constant may reach the body of a function as an input or by capture.
  """
  while tensor.op.type in ('Placeholder', 'Arg') and calls:
    index = _argument(tensor.op)
    if index is None:
      return None
    *calls, call = calls
    tensor = call.inputs[index]
  if tensor.op.type == 'Placeholder':
    for captured, inside in getattr(tensor.graph, 'captures', ()):
      if inside is tensor and tensor.dtype != tf.resource:
        return captured.numpy() if hasattr(captured, 'numpy') else None
    return None
  return tf.get_static_value(tensor)


def _is_clip(op: tf.Operation, calls: list) -> bool:
  """Whether an operation is the end of a clip to 0..1 (a hard sigmoid)."""
  bounds = {}
  if op.type == 'ClipByValue':
    bounds = dict(
      zip(('Maximum', 'Minimum'), (_constant(t, calls) for t in op.inputs[1:]))
    )
  while op.type in ('Maximum', 'Minimum') and op.type not in bounds:
    below = [t for t in op.inputs if _constant(t, calls) is None]
    if len(below) != 1:
      return False
    bounds[op.type] = next(
      filter(lambda v: v is not None, (_constant(t, calls) for t in op.inputs))
    )
    op = _skip(below[0]).op
  low, high = bounds.get('Maximum'), bounds.get('Minimum')
  return (
    low is not None
    and high is not None
    and np.min(low) >= 0
    and np.max(high) <= 1
  )


def _skip(tensor: tf.Tensor) -> tf.Tensor:
  """Returns the tensor before transparent operations."""
  while tensor.op.type in _TRANSPARENT:
    tensor = tensor.op.inputs[0]
  return tensor


def _argument(op: tf.Operation) -> int | None:
  """Returns the index of the function input that an operation represents."""
  for i, tensor in enumerate(op.graph.inputs):
    if tensor.op is op:
      return i
  return None


def narrowest_type(function) -> str:
  """Returns the name of the least precise dtype that a function uses.

  Args:
    function: a concrete function.

  Returns:
    'bfloat16', 'float16', 'float32'; or 'tensor_float_32' if a GPU may use it
    in place of float32.
  """
  definition = function.graph.as_graph_def()
  nodes = list(definition.node)
  for body in definition.library.function:
    nodes += body.node_def
  found = {
    node.attr[key].type
    for node in nodes
    for key in ('T', 'DstT')
    if key in node.attr
  }
  for dtype in (tf.bfloat16, tf.float16):
    if dtype.as_datatype_enum in found:
      return dtype.name
  if (
    tf.config.list_physical_devices('GPU')
    and tf.config.experimental.tensor_float_32_execution_enabled()
  ):
    return 'tensor_float_32'
  return tf.float32.name


def first_inputs(function, images: np.ndarray) -> np.ndarray | None:
  """Returns the input of the first operation with weights.

  Args:
    function: a concrete function of one batch of images.
    images: float32 (B, height, width, 3).

  Returns:
    The input for these images, float32; None if no operation has weights.
  """
  flat = convert_to_constants.convert_variables_to_constants_v2(
    function, lower_control_flow=False
  )
  (image,) = flat.inputs
  reached = {image.op.name}
  # Operations are listed after their inputs.
  for op in flat.graph.get_operations():
    if op.type not in _WEIGHTED:
      if any(tensor.op.name in reached for tensor in op.inputs):
        reached.add(op.name)
    elif op.inputs[0].op.name in reached:
      before = flat.prune(image, op.inputs[0])
      # One image at a time, because some functions accept only one batch size.
      return np.concatenate(
        [
          tf.cast(
            before(
              tf.cast(
                tf.repeat(picture[tf.newaxis], image.shape[0] or 1, axis=0),
                image.dtype,
              )
            ),
            tf.float32,
          )[:1]
          for picture in images
        ]
      )
  return None
