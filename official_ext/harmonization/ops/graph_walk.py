# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Walks from variables to a tensor, through all functions that a graph calls.

`tf.function`, `tf.cond`, loops and SavedModels put ops into separate functions,
which a walk through a single graph would miss.
"""

from collections.abc import Callable, Sequence
import dataclasses

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import function_def_to_graph

# Ops whose gradient is zero wherever it exists, or that mark constants.
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

# The name scope in which a gradient must be computed so that it can be walked.
GRADIENT = 'saliency_gradient'

_READS = frozenset(['ReadVariableOp', 'ResourceGather', 'ResourceGatherNd'])
# Ops whose outputs have the marks of their inputs.
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
# Op types to the attributes that name the functions that they call.
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
  """Properties of a tensor.

  Attributes:
    varies: it depends on variables.
    stopped_mean: it is the mean in a variance, and its gradient is stopped.
    hidden: it comes from a stopped gradient inside a function with a custom
      gradient, which gradients do not enter.
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
# Arguments: an op, a function that returns names that show where it belongs
# (the most specific last), the marks of its inputs, whether it is in the
# gradient.
Visitor = Callable[[tf.Operation, Callable[[], list[str]], Marks, bool], None]


def custom_gradient(op: tf.Operation):
  """Returns the name of an op's custom gradient, or None."""
  attribute = op.node_def.attr.get('_gradient_op_type')
  return attribute.s.decode() if attribute else None


def _carries_gradients(tensor: tf.Tensor) -> bool:
  dtype = tensor.dtype
  return dtype.is_floating or dtype.is_complex or dtype == tf.variant


def _in_order(outputs: Sequence[tf.Tensor]) -> list[tf.Operation]:
  """Returns the ops that outputs depend on, in topological order."""
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
  """Whether a stopped gradient is that of the mean in a variance."""
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
  """Returns the ops inside functions with a custom gradient.

  Such a function ends in an IdentityN of its results and its arguments, in this
  order. Gradients do not enter the ops between arguments and results.
  """
  hidden = set()
  for op in operations:
    if op.type != 'IdentityN' or not custom_gradient(op):
      continue
    ends = {t.ref() for t in op.inputs}
    met = set()
    for result in op.inputs:
      if result.ref() in met:
        break  # An argument, like all that follow.
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
  """Returns names that show which part of the network an op belongs to.

  Ops in the gradient of a function, or in a custom gradient, have uninformative
  names. They are located by the forward ops that they use.
  """
  pending, seen = [op], set()
  while pending:
    found = pending.pop(0)
    if not is_in_gradient(found):
      return [found.name, op.name]
    if found not in seen:
      seen.add(found)
      inputs = [t.op for t in found.inputs if t.op.type != 'ReadVariableOp']
      # First the call of the function whose gradient this may be.
      pending += sorted(inputs, key=lambda i: i.type not in _FUNCTIONS)
  return [op.name]


class _Walk:
  """The state of one walk; see `walk`."""

  def __init__(self, graph, visit: Visitor):
    self._visit = visit
    self._graphs = []  # Graphs in which functions may be defined.
    while graph is not None:
      self._graphs.append(graph)
      graph = getattr(graph, 'outer_graph', None)
    self._bodies = {}

  def _body(self, name: str, graph):
    """Returns the graph of a function."""
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
    """Returns the marks of the outputs of an op that calls functions."""
    names = _FUNCTIONS[op.type]
    functions = []
    for name in (names,) if isinstance(names, str) else names:
      value = op.node_def.attr[name]
      functions += [f.name for f in value.list.func] or [value.func.name]
    results = [_NOTHING] * len(op.outputs)
    for function in functions:
      body = self._body(function, op.graph)
      inputs, outputs = body.inputs, body.outputs[: len(op.outputs)]
      # The first input of a conditional selects the branch.
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
      if op.type in _LOOPS:  # It may run zero times.
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
    """Marks and visits the ops that outputs depend on.

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
        continue  # An input of the graph.
      else:
        found = [
          self._mark(op, given, path, is_in_gradient, is_hidden or op in hidden)
        ] * len(op.outputs)
      known.update((t.ref(), f) for t, f in zip(op.outputs, found))
    return [known.get(t.ref(), _NOTHING) for t in outputs]

  def _mark(self, op, given, path, is_in_gradient, is_hidden: bool) -> Marks:
    """Visits an op and returns the marks of its outputs."""
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
  """Visits all ops on the way from variables to a tensor, also in functions.

  Args:
    tensor: a symbolic tensor, computed as a gradient in the name scope
      `GRADIENT`.
    forward: the ops of its graph that existed before that gradient.
    visit: called for each op whose inputs have marks.
  """

  def is_in_gradient(op):
    # Other replicas may run forward in the same graph in the meantime, so the
    # name must match, too. Tapes open a name scope outside of `GRADIENT`.
    return op not in forward and any(
      part.startswith((GRADIENT, 'gradient_tape'))
      for part in op.name.split('/')
    )

  _Walk(tensor.graph, visit).marks([tensor], {}, (), is_in_gradient)
