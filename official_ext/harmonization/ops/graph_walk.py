"""Walks from variables to a tensor, through all functions that a graph calls.

`tf.function`, `tf.cond`, loops and SavedModels put ops into functions of their
own. A walk that sees one graph only sees none of these.
"""

from collections.abc import Callable, Sequence
import dataclasses

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import function_def_to_graph

# Their values do not change with their inputs, but for jumps, or are meant as
# constants.
CONSTANT = frozenset(
  [
    'Ceil',
    'Floor',
    'OnesLike',
    'Rint',
    'Round',
    'Sign',
    'StopGradient',
    'ZerosLike',
  ]
)

# The name scope in which a gradient is to be taken that will be walked through.
GRADIENT = 'saliency_gradient'

_READS = frozenset(['ReadVariableOp', 'ResourceGather', 'ResourceGatherNd'])
# They hand on what they are given.
_TRANSPARENT = frozenset(
  [
    'BroadcastTo',
    'Cast',
    'ExpandDims',
    'Identity',
    'Pack',
    'Reshape',
    'Squeeze',
    'TensorListGetItem',
    'TensorListPopBack',
    'TensorListPushBack',
    'TensorListSetItem',
    'TensorListStack',
    'Transpose',
  ]
)
# Attributes that name the functions that compute an op's outputs from its last
# inputs.
_FUNCTIONS = {
  'Case': 'branches',
  'If': ('then_branch', 'else_branch'),
  'PartitionedCall': 'f',
  'RemoteCall': 'f',
  'StatefulPartitionedCall': 'f',
  'StatelessCase': 'branches',
  'StatelessIf': ('then_branch', 'else_branch'),
  'StatelessWhile': 'body',
  'TPUPartitionedCall': 'f',
  'While': 'body',
}
_LOOPS = frozenset(['While', 'StatelessWhile'])


@dataclasses.dataclass(frozen=True)
class Marks:
  """What is known of a tensor.

  Attributes:
    varies: it changes with variables.
    stopped_mean: it is a mean whose gradient is stopped, in a variance.
    hidden: it comes from a stopped gradient inside a function with a custom
      gradient, where gradients do not look.
  """

  varies: bool = False
  stopped_mean: bool = False
  hidden: bool = False

  def __or__(self, other: 'Marks') -> 'Marks':
    return Marks(
      self.varies or other.varies,
      self.stopped_mean or other.stopped_mean,
      self.hidden or other.hidden,
    )


_NOTHING = Marks()
# An op, names that tell where it belongs (the most telling last), the marks of
# its inputs, and whether it is part of the gradient.
Visitor = Callable[[tf.Operation, Callable[[], list[str]], Marks, bool], None]


def custom_gradient(op: tf.Operation):
  """The name of the gradient that an op has instead of its type's, or None."""
  attribute = op.node_def.attr.get('_gradient_op_type')
  return attribute.s.decode() if attribute else None


def _carries_gradients(tensor: tf.Tensor) -> bool:
  dtype = tensor.dtype
  return dtype.is_floating or dtype.is_complex or dtype == tf.variant


def _in_order(outputs: Sequence[tf.Tensor]) -> list[tf.Operation]:
  """Ops that outputs are computed from, each after those of its inputs."""
  ordered, seen = [], set()
  pending = [(t.op, False) for t in outputs]
  while pending:
    op, is_done = pending.pop()
    if is_done:
      ordered.append(op)
    elif op not in seen:
      seen.add(op)
      pending.append((op, True))
      pending += [(t.op, False) for t in op.inputs if _carries_gradients(t)]
  return ordered


def _is_of_variance(stopped: tf.Operation) -> bool:
  """Whether a stopped gradient is that of the mean inside a variance."""
  mean = stopped.inputs[0]
  while mean.op.type in _TRANSPARENT:
    mean = mean.op.inputs[0]
  consumers = stopped.outputs[0].consumers()
  for consumer in consumers:
    if consumer.type in _TRANSPARENT:
      consumers += consumer.outputs[0].consumers()
  return mean.op.type == 'Mean' and any(
    c.type == 'SquaredDifference' for c in consumers
  )


def _hidden_regions(operations) -> frozenset[tf.Operation]:
  """Ops inside functions with a custom gradient.

  Such a function ends in an IdentityN of its results, followed by its
  arguments. What lies between the two is hidden from gradients.
  """
  hidden = set()
  for op in operations:
    if op.type != 'IdentityN' or not custom_gradient(op):
      continue
    ends = {t.ref() for t in op.inputs}
    met = set()
    for result in op.inputs:
      if result.ref() in met:
        break  # An argument, as are the rest.
      pending, seen = [result.op], set()
      while pending:
        inside = pending.pop()
        if inside in seen:
          continue
        seen.add(inside)
        met |= {t.ref() for t in inside.inputs} & ends
        pending += [t.op for t in inside.inputs if t.ref() not in ends]
      hidden |= seen
  return frozenset(hidden)


def _origin(op, is_in_gradient) -> list[str]:
  """Names that tell which part of the network an op belongs to.

  The gradient of a function, and a custom gradient, have names that tell
  nothing. But they use what was computed in the forward pass.
  """
  pending, seen = [op], set()
  while pending:
    found = pending.pop(0)
    if not is_in_gradient(found):
      return [found.name, op.name]
    if found not in seen:
      seen.add(found)
      inputs = [t.op for t in found.inputs if t.op.type != 'ReadVariableOp']
      # The call of the function that this is the gradient of, if it is one.
      pending += sorted(inputs, key=lambda i: i.type not in _FUNCTIONS)
  return [op.name]


class _Walk:
  """One walk; see `walk`."""

  def __init__(self, graph, visit: Visitor):
    self._visit = visit
    self._graphs = []  # Where functions may be found.
    while graph is not None:
      self._graphs.append(graph)
      graph = getattr(graph, 'outer_graph', None)
    self._bodies = {}

  def _body(self, name: str, graph):
    """The graph of a function."""
    if name not in self._bodies:
      found = [g._get_function(name) for g in (graph, *self._graphs)]
      function = next((f for f in found if f is not None), None)
      body = getattr(function, 'graph', None)
      if body is None:
        definition = (
          function.cached_definition
          if function
          else context.get_function_def(name)
        )
        body = function_def_to_graph.function_def_to_graph(definition)
      self._bodies[name] = body
    return self._bodies[name]

  def _call(
    self, op, given: list[Marks], path, in_gradient: bool, is_hidden: bool
  ) -> list[Marks]:
    """The marks of the outputs of an op that calls functions."""
    names = _FUNCTIONS[op.type]
    functions = []
    for name in (names,) if isinstance(names, str) else names:
      value = op.node_def.attr[name]
      functions += [f.name for f in value.list.func] or [value.func.name]
    results = [_NOTHING] * len(op.outputs)
    for function in functions:
      body = self._body(function, op.graph)
      inputs, outputs = body.inputs, body.outputs[: len(op.outputs)]
      # Conditionals take which branch it is before what branches take.
      skipped = int(op.type.endswith(('If', 'Case', 'RemoteCall')))
      marks = given[skipped:]
      while True:
        known = {t.ref(): m for t, m in zip(inputs, marks)}
        found = self.marks(
          outputs, known, path, lambda _: in_gradient, is_hidden
        )
        more = [m | f for m, f in zip(marks, found)]
        if op.type not in _LOOPS or more == marks[: len(more)]:
          break
        marks = more + marks[len(more) :]
      results = [r | f for r, f in zip(results, found)]
      if op.type in _LOOPS:  # It may not be entered.
        results = [r | m for r, m in zip(results, marks)]
    return results

  def marks(
    self,
    outputs,
    known: dict,
    path,
    is_in_gradient: Callable[[tf.Operation], bool],
    is_hidden: bool = False,
  ) -> list[Marks]:
    """Marks what outputs are computed from, and visits it.

    Args:
      outputs: tensors of one graph.
      known: the marks of the graph's inputs, by reference.
      path: the names of the calls that lead to this graph.
      is_in_gradient: whether an op is part of the gradient.
      is_hidden: whether the graph is called inside a function with a custom
        gradient.

    Returns:
      The marks of the outputs.
    """
    operations = _in_order(outputs)
    hidden = (
      _hidden_regions(
        op for op in outputs[0].graph.get_operations() if not is_in_gradient(op)
      )
      if outputs
      else ()
    )
    for op in operations:
      given = [known.get(t.ref(), _NOTHING) for t in op.inputs]
      if op.type in _FUNCTIONS:
        found = self._call(
          op,
          given,
          [*path, *_origin(op, is_in_gradient)],
          is_in_gradient(op),
          is_hidden or op in hidden,
        )
      elif op.outputs and op.outputs[0].ref() in known:
        continue  # The graph's own input.
      else:
        found = [
          self._mark(op, given, path, is_in_gradient, is_hidden or op in hidden)
        ] * len(op.outputs)
      known.update((t.ref(), f) for t, f in zip(op.outputs, found))
    return [known.get(t.ref(), _NOTHING) for t in outputs]

  def _mark(self, op, given, path, is_in_gradient, is_hidden: bool) -> Marks:
    """The marks of an op's outputs, after a visit."""
    in_gradient = is_in_gradient(op)
    if op.type in _READS:
      return Marks(varies=True)
    together = _NOTHING
    for tensor, mark in zip(op.inputs, given):
      if _carries_gradients(tensor):
        together |= mark
    if not any(_carries_gradients(t) for t in op.outputs):
      return _NOTHING
    if op.type == 'StopGradient' and together.varies and not in_gradient:
      return Marks(stopped_mean=_is_of_variance(op), hidden=is_hidden)
    if op.type in _TRANSPARENT:
      return together
    if together.varies or (in_gradient and together != _NOTHING):
      self._visit(
        op, lambda: [*path, *_origin(op, is_in_gradient)], together, in_gradient
      )
    if op.type in CONSTANT:
      return _NOTHING
    return Marks(varies=together.varies, hidden=together.hidden and is_hidden)


def walk(tensor: tf.Tensor, forward, visit: Visitor):
  """Visits all ops on the way from variables to a tensor, functions included.

  Args:
    tensor: symbolic, the gradient of something.
    forward: the ops of its graph that were there before that gradient was
      taken, in the name scope `GRADIENT`.
    visit: is called for every op whose inputs carry marks, with these.
  """

  def is_in_gradient(op):
    # Other replicas may go forward in the same graph at that time. Tapes have a
    # name scope of their own, which leaves ours.
    return op not in forward and any(
      part.startswith((GRADIENT, 'gradient_tape'))
      for part in op.name.split('/')
    )

  _Walk(tensor.graph, visit).marks([tensor], {}, (), is_in_gradient)
