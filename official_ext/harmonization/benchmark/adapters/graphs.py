"""What a TensorFlow graph shows of a network: its end, and its precision."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

# Operations that only hand on, cast or arrange numbers of their first input.
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
# Functions of single numbers: what goes in squashed comes out squashed.
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
# Operations whose second input is weights.
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
  """Returns the graph of the function that an operation calls."""
  name = op.get_attr('f').name
  for graph in _outwards(op.graph):
    function = graph._functions.get(name)
    if function is not None and function.graph is not None:
      return function.graph
  return None


def _outwards(graph) -> Iterator[tf.Graph]:
  while graph is not None:
    yield graph
    graph = getattr(graph, 'outer_graph', None)


def last_operation(function) -> str:
  """Names what squashes the logits at the end of a traced function.

  The way back from the output ends at the last weights, and leads through
  operations that have none and act on single numbers, such as a scaling.

  Args:
    function: a concrete function of one output.

  Returns:
    'softmax', 'sigmoid', 'tanh', 'hard_sigmoid' or the like, 'log_softmax',
    'log_sigmoid', 'log of softmax', 'log of sigmoid', or nothing.
  """
  return _squashing(tf.nest.flatten(function.structured_outputs)[0], [])


def _squashing(tensor: tf.Tensor, calls: list) -> str:
  """As `last_operation`; `calls` are those that lead to the tensor's graph."""
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
    # An input of the function: continue where the function is called.
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
  if op.type in _JOINING:  # Every part is the output of some classes.
    return next(filter(None, (_squashing(t, calls) for t in op.inputs)), '')
  if op.type not in _ELEMENTWISE:
    return ''
  varying = [t for t in op.inputs if not _is_constant(t, calls)]
  # A gate times its features is not squashed, nor is a sum with logits.
  below = ''
  for part in varying:
    below = _squashing(part, calls)
    if not below:
      break
  return below or ('hard_sigmoid' if _is_clip(op, calls) else '')


def _is_constant(tensor: tf.Tensor, calls: list) -> bool:
  """Whether it is a constant, or the logarithm or cast of one."""
  while tensor.op.type in _LOGARITHMS + ('Cast', 'Identity'):
    tensor = tensor.op.inputs[0]
  return _constant(tensor, calls) is not None


def _constant(tensor: tf.Tensor, calls: list) -> np.ndarray | None:
  """Returns the value of a constant, which a function may have as an input."""
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
  """Whether an operation ends a clip to 0..1, as a hard sigmoid's."""
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
  while tensor.op.type in _TRANSPARENT:
    tensor = tensor.op.inputs[0]
  return tensor


def _argument(op: tf.Operation) -> int | None:
  """Returns which input of its function an operation is."""
  for i, tensor in enumerate(op.graph.inputs):
    if tensor.op is op:
      return i
  return None


def narrowest_type(function) -> str:
  """Names the least precise type of numbers that a function computes with.

  Args:
    function: a concrete function.

  Returns:
    'bfloat16', 'float16', 'float32', or, where a GPU may use it for float32,
    'tensor_float_32'.
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
  """Returns what the first operation of weights is given.

  Args:
    function: a concrete function of one batch of images.
    images: float32 (B, height, width, 3).

  Returns:
    Its first input, float32; None if there is no such operation.
  """
  flat = convert_to_constants.convert_variables_to_constants_v2(
    function, lower_control_flow=False
  )
  (image,) = flat.inputs
  reached = {image.op.name}
  # In the order in which they were added, inputs come before what uses them.
  for op in flat.graph.get_operations():
    if op.type not in _WEIGHTED:
      if any(tensor.op.name in reached for tensor in op.inputs):
        reached.add(op.name)
    elif op.inputs[0].op.name in reached:
      before = flat.prune(image, op.inputs[0])
      # One by one, since some functions take one size of batches only.
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
