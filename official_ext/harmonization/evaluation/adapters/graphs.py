"""What a TensorFlow graph shows of a network: its end, and its precision."""

from typing import Iterator, Optional

import tensorflow as tf, tf_keras

# Operations that only hand on, cast or arrange numbers.
_TRANSPARENT = ('Identity', 'IdentityN', 'Cast', 'Reshape', 'Squeeze',
                'ExpandDims', 'StopGradient', 'PreventGradient', 'Snapshot')
# What is added to probabilities, or clips them, before a logarithm is taken.
_BEFORE_LOGARITHM = ('Add', 'AddV2', 'Maximum', 'Minimum', 'ClipByValue')
_CALLS = ('PartitionedCall', 'StatefulPartitionedCall')
_SQUASHING = {'Softmax': 'softmax', 'Sigmoid': 'sigmoid',
              'LogSoftmax': 'log_softmax'}


def _body(op: tf.Operation):
  """Returns the graph of the function that an operation calls."""
  name = op.get_attr('f').name
  for graph in _outwards(op.graph):
    function = graph._functions.get(name)  # pylint: disable=protected-access
    if function is not None and function.graph is not None:
      return function.graph
  return None


def _outwards(graph) -> Iterator[tf.Graph]:
  while graph is not None:
    yield graph
    graph = getattr(graph, 'outer_graph', None)


def last_operation(function) -> str:
  """Names what squashes the logits at the end of a traced function.

  Args:
    function: a concrete function of one output.

  Returns:
    'softmax', 'sigmoid', 'log_softmax', 'log_sigmoid', 'log of softmax', 'log
    of sigmoid', or nothing.
  """
  return _squashing(tf.nest.flatten(function.structured_outputs)[0], [])


def _squashing(tensor: tf.Tensor, calls: list) -> str:
  """As `last_operation`; `calls` are those that lead to the tensor's graph."""
  op, allowed = tensor.op, _TRANSPARENT
  logarithm = False
  while True:
    if op.type in _SQUASHING:
      return ('log of ' if logarithm else '') + _SQUASHING[op.type]
    if op.type == 'Neg' and _skip(op.inputs[0]).op.type == 'Softplus':
      return 'log_sigmoid'
    if op.type == 'Log' and not logarithm:
      logarithm, allowed = True, _TRANSPARENT + _BEFORE_LOGARITHM
    elif op.type in _CALLS:
      graph = _body(op)
      if graph is None:
        return ''
      calls, tensor = calls + [op], graph.outputs[tensor.value_index]
      op = tensor.op
      continue
    elif op.type in ('Placeholder', 'Arg') and calls:
      # An input of the function: it goes on where the function is called.
      index = _argument(op)
      if index is None:
        return ''
      *calls, call = calls
      tensor = call.inputs[index]
      op = tensor.op
      continue
    elif op.type not in allowed:
      return ''
    tensor = op.inputs[tensor.value_index if op.type == 'IdentityN' else 0]
    op = tensor.op


def _skip(tensor: tf.Tensor) -> tf.Tensor:
  while tensor.op.type in _TRANSPARENT:
    tensor = tensor.op.inputs[0]
  return tensor


def _argument(op: tf.Operation) -> Optional[int]:
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
  found = {node.attr[key].type
           for node in nodes for key in ('T', 'DstT') if key in node.attr}
  for dtype in (tf.bfloat16, tf.float16):
    if dtype.as_datatype_enum in found:
      return dtype.name
  if (tf.config.list_physical_devices('GPU') and
      tf.config.experimental.tensor_float_32_execution_enabled()):
    return 'tensor_float_32'
  return tf.float32.name
