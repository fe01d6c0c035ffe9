# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""First gradients that can be differentiated again, exactly.

A harmonization loss is differentiated through a gradient. Three of TensorFlow's
gradients are not suited to that:

* Max-pooling: under XLA in float32 the gradient of its gradient
  (`MaxPoolGradGrad`) is inexact, since it compares only the high half of each
  number. In 16 bits it does not compile.
* Batch normalization: the gradient of its gradient consists of element-wise
  primitives, which take about half of a training step.
* The variance (`tf.nn.moments`): it stops the gradient of its mean, which is
  right for the first derivative and wrong for the second. It is used by layer
  normalization with an epsilon below 1e-5, as in ViT, and by batch
  normalization that is not fused.

Inside `scope`, a first gradient is computed by TensorFlow's own kernels, with
the same values, but carries the exact gradient of itself, which is used
wherever it is differentiated later:

  with tf.GradientTape() as outer:
    with second_order.scope(), tf.GradientTape() as inner:
      inner.watch(images)
      score = model(images, training=True)[:, 0]
      maps = inner.gradient(score, images)
    loss = tf.reduce_mean(maps**2)
  gradients = outer.gradient(loss, model.trainable_variables)

`ops.saliency` enters the scope itself. Models, variables and everything outside
of the scope are unchanged.
"""

import contextlib
import functools
import threading

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops
from tensorflow.python.ops import nn_impl

# Names of the gradients of gradients in TensorFlow's registry.
MAX_POOL = 'HarmonizationMaxPoolGrad'
BATCH_NORM = 'HarmonizationBatchNormGrad'


class _Local(threading.local):
  """State of one thread."""

  depth = 0  # Number of nested scopes.
  eager_graph = None  # The graph into which an eager step is traced.


_local = _Local()


def _with_gradient(name: str, get_attr, tensors):
  """Returns the first tensor, with a registered gradient for all of them.

  A graph finds the gradient by its name and passes the inputs of the op, so
  that it also works in copies of the graph, which TensorFlow makes of branches
  of conditionals and bodies of loops.
  """
  gradient = _GRADIENTS[name]
  if tf.executing_eagerly():
    outputs = [tf.identity(tensors[0])]
  else:
    with ops.get_default_graph().gradient_override_map({'IdentityN': name}):
      outputs = tf.raw_ops.IdentityN(input=tensors)[:1]
  # Tapes do not use the registered gradient of a graph.
  record.record_operation(
    name,
    outputs,
    list(tensors),
    lambda upstream: gradient(get_attr, tensors, upstream),
  )
  return outputs[0]


def _register(name: str):
  """Registers a gradient for ops made by `_with_gradient`."""

  def decorator(gradient):

    @ops.RegisterGradient(name)
    def of_op(op, upstream, *unused):
      return gradient(op.inputs[0].op.get_attr, op.inputs, upstream)

    _GRADIENTS[name] = gradient
    return gradient

  return decorator


_GRADIENTS = {}


# ---- Max-pooling ----


def _spatial(values, data_format: str):
  """Returns height and width of a shape-like attribute."""
  return values[2:] if data_format == 'NCHW' else values[1:3]


def _padding(get_attr, size, window, stride, data_format):
  """Returns ((top, bottom), (left, right)) of a pooling op."""
  kind = get_attr('padding').decode()
  if kind == 'EXPLICIT':
    pads = get_attr('explicit_paddings')
    pads = list(zip(pads[::2], pads[1::2]))
    return _spatial(pads, data_format)
  if kind == 'VALID':
    return [(0, 0), (0, 0)]
  pads = []
  for n, k, s in zip(size, window, stride):
    total = _at_least_0((-(-n // s) - 1) * s + k - n)
    pads.append((total // 2, total - total // 2))
  return pads


def _at_least_0(n):
  """Returns max(n, 0) for static and dynamic sizes."""
  return tf.maximum(n, 0) if tf.is_tensor(n) else max(n, 0)


def _sizes(x):
  """Returns height, width and channels of (B, H, W, C), ints if static."""
  known = x.shape.with_rank(4)[1:]
  return [
    size if size is not None else tf.shape(x)[1 + i]
    for i, size in enumerate(known)
  ]


def _window_slices(x, pads, window, stride, outputs, fill):
  """Yields a (B, h, w, C) slice per window position, in row-major order."""
  # Rows and columns are folded by the stride, so that slices have stride 1.
  *size, channels = _sizes(x)
  folds, fitted = [], []
  for n, (before, _), k, s, out in zip(size, pads, window, stride, outputs):
    folds.append(-(-((out - 1) * s + k) // s))
    fitted.append((before, _at_least_0(folds[-1] * s - n - before)))
  x = tf.pad(x, [(0, 0), *fitted, (0, 0)], constant_values=fill)
  x = x[:, : folds[0] * stride[0], : folds[1] * stride[1]]
  x = tf.reshape(x, [-1, folds[0], stride[0], folds[1], stride[1] * channels])
  for row in range(window[0]):
    for column in range(window[1]):
      down, phase = divmod(row, stride[0])
      right, group = divmod(column, stride[1])
      yield x[
        :,
        down : down + outputs[0],
        phase,
        right : right + outputs[1],
        group * channels : (group + 1) * channels,
      ]


@_register(MAX_POOL)
def _max_pool_grad_grad(get_attr, tensors, upstream):
  """Gradient of MaxPoolGrad with respect to what it distributes.

  MaxPoolGrad gives each output's gradient to the first maximum of its window.
  Its transpose reads `upstream` at the position of that maximum.
  """
  data_format = get_attr('data_format').decode()
  window = _spatial(get_attr('ksize'), data_format)
  stride = _spatial(get_attr('strides'), data_format)
  x = tensors[1]
  if data_format == 'NCHW':
    x, upstream = (tf.transpose(t, [0, 2, 3, 1]) for t in (x, upstream))
  size = _sizes(x)[:2]
  pads = _padding(get_attr, size, window, stride, data_format)
  outputs = [
    (n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, pads, window, stride)
  ]
  best = read = None
  for values, candidates in zip(
    _window_slices(x, pads, window, stride, outputs, x.dtype.min),
    _window_slices(upstream, pads, window, stride, outputs, 0),
  ):
    if best is None:
      best, read = values, candidates
    else:
      better = values > best
      best = tf.where(better, values, best)
      read = tf.where(better, candidates, read)
  if data_format == 'NCHW':
    read = tf.transpose(read, [0, 3, 1, 2])
  return None, None, read


def _max_pool_grad(original, op, upstream):
  """Replaces the gradient of MaxPool."""
  dx = original(op, upstream)
  if op.get_attr('data_format') not in (b'NHWC', b'NCHW'):
    return dx
  return _with_gradient(MAX_POOL, op.get_attr, [dx, op.inputs[0], upstream])


# ---- Fused batch normalization ----


def _variance(x, mean, reserved, axes, per_channel):
  """Returns the batch's variance; GPU kernels reserve another quantity."""
  if not tf.config.list_physical_devices('GPU'):
    return reserved
  centered = tf.cast(x, mean.dtype) - tf.reshape(mean, per_channel)
  return tf.reduce_mean(tf.square(centered), axes)


@_register(BATCH_NORM)
def _batch_norm_grad_grad(get_attr, tensors, upstream):
  """Gradients of a training-mode FusedBatchNormGrad's first output.

  With xh = (x - mean) s, s = 1 / sqrt(variance + epsilon), n values a channel
  and <.> the sum over them, the kernel maps g to dx = scale s P(g), where
  P(g) = g - <g>/n - xh <g xh>/n is its own transpose. For v arriving at dx:

    at g:     scale s P(v), the kernel applied to v
    at scale: s <v P(g)>
    at x:     -s (a dx + b dv) - scale s^2 xh <v P(g)>/n,

  where dv is the kernel's result for v, a = <v xh>/n and b = <g xh>/n, which
  the kernels return as the gradient of the scale. One kernel, one product and
  one sum of three terms replace a few dozen primitives.
  """
  dx, g, x, scale, mean, variance, g_xh, g_sum = tensors
  # TensorFlow's own first-order kernel. Version 3 would need a third reserve
  # space, which is not available here.
  dv, v_xh, v_sum = tf.raw_ops.FusedBatchNormGradV2(
    y_backprop=upstream,
    x=x,
    scale=scale,
    reserve_space_1=mean,
    reserve_space_2=variance,
    epsilon=get_attr('epsilon'),
    data_format=get_attr('data_format'),
    is_training=True,
  )[:3]
  if get_attr('data_format') == b'NCHW':
    axes, per_channel = [0, 2, 3], [1, -1, 1, 1]
  else:
    axes, per_channel = [0, 1, 2], [-1]
  count = tf.cast(tf.size(x) / tf.size(scale), scale.dtype)
  s = tf.math.rsqrt(
    _variance(x, mean, variance, axes, per_channel) + get_attr('epsilon')
  )

  def wide(values):
    # Called before any product, since products of 16-bit numbers underflow,
    # overflow and are imprecise.
    return tf.cast(values, scale.dtype)

  def times(channel, values):
    return tf.reshape(channel, per_channel) * values

  product = tf.reduce_sum(wide(upstream) * wide(g), axes)
  v_p_g = product - (v_sum * g_sum + v_xh * g_xh) / count
  at_x = (
    times(-s * v_xh / count, wide(dx))
    + times(-s * g_xh / count, wide(dv))
    - times(
      scale * s**3 * v_p_g / count, wide(x) - tf.reshape(mean, per_channel)
    )
  )
  return (None, dv, tf.cast(at_x, x.dtype), s * v_p_g, None, None, None, None)


def _batch_norm_grad(original, op, upstream, *others):
  """Replaces the gradient of FusedBatchNorm, of any version."""
  dx, *at_parameters = original(op, upstream, *others)
  if not op.get_attr('is_training') or op.get_attr('data_format') not in (
    b'NHWC',
    b'NCHW',
  ):
    return dx, *at_parameters
  dx = _with_gradient(
    BATCH_NORM,
    op.get_attr,
    [dx, upstream, *op.inputs[:2], *op.outputs[3:5], *at_parameters[:2]],
  )
  return dx, *at_parameters


# ---- The variance ----


class _Unstopped:
  """An op with its second input taken before the gradient was stopped."""

  def __init__(self, op, mean):
    self._op = op
    self.inputs = [op.inputs[0], mean]

  def __getattr__(self, name):
    return getattr(self._op, name)


def stopped_mean(values: tf.Tensor, maybe: tf.Tensor):
  """Returns the mean of `values` behind a stopped gradient.

  Args:
    values: any symbolic tensor.
    maybe: another symbolic tensor.

  Returns:
    The mean before its gradient was stopped; None if `maybe` is not such a
    mean.
  """
  while maybe.op.type == 'Identity':
    maybe = maybe.op.inputs[0]
  if maybe.op.type != 'StopGradient':
    return None
  mean = maybe.op.inputs[0]
  if mean.op.type == 'Mean' and mean.op.inputs[0] is values:
    return mean
  return None


def _squared_difference_grad(original, op, upstream):
  """Replaces the gradient of SquaredDifference, which a variance uses."""
  x, y = op.inputs
  if not hasattr(x, 'op') or x.graph is _local.eager_graph:
    return original(op, upstream)
  mean = stopped_mean(x, y)
  return original(op if mean is None else _Unstopped(op, mean), upstream)


def _moments(x, axes, shift=None, name=None, keep_dims=None, keepdims=None):
  """`tf.nn.moments` with exact second derivatives."""
  del shift  # TensorFlow ignores it, too.

  @tf.custom_gradient
  def variance_of(values, mean):
    variance = tf.reduce_mean(
      tf.math.squared_difference(values, mean), axes, keepdims=True
    )

    def gradient(upstream):
      # The gradient of the mean is zero, but this one depends on the mean.
      count = tf.cast(tf.size(values) / tf.size(variance), values.dtype)
      return 2.0 / count * upstream * (values - mean), tf.zeros_like(mean)

    return variance, gradient

  with tf.name_scope(name or 'moments'):
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    results = (mean, variance_of(wide, mean))
    if not (keepdims or keep_dims):
      results = [tf.squeeze(r, axes) for r in results]
    return tuple(tf.cast(r, x.dtype) for r in results)


def _moments_of_eager_steps(original, *args, **kwargs):
  """Replaces `tf.nn.moments` in eager steps, which have no graph to search."""
  eager = (
    tf.executing_eagerly() or ops.get_default_graph() is _local.eager_graph
  )
  return (_moments if eager else original)(*args, **kwargs)


# ---- The scope ----


class _Registered:
  """An entry of TensorFlow's registry of gradients."""

  def __init__(self, name):
    self._name = name

  def get(self):
    return ops.gradient_registry.lookup(self._name)

  def set(self, gradient):
    registry = ops.gradient_registry._registry
    registry[self._name]['type'] = gradient


class _Attribute:
  """A function of a module that can be replaced."""

  def __init__(self, module, name):
    self._module, self._name = module, name

  def get(self):
    return getattr(self._module, self._name)

  def set(self, function):
    setattr(self._module, self._name, function)


_REPLACED = (
  (_Registered('MaxPool'), _max_pool_grad),
  (_Registered('FusedBatchNorm'), _batch_norm_grad),
  (_Registered('FusedBatchNormV2'), _batch_norm_grad),
  (_Registered('FusedBatchNormV3'), _batch_norm_grad),
  (_Registered('SquaredDifference'), _squared_difference_grad),
  # `tf.nn.moments` calls this one.
  (_Attribute(nn_impl, 'moments'), _moments_of_eager_steps),
  (_Attribute(tf.compat.v1.nn, 'moments'), _moments_of_eager_steps),
)

_lock = threading.Lock()
_originals = []  # Restored when the last thread leaves the scope.
_threads_inside = 0


def _in_this_thread(original, ours):
  """Returns a function that is `ours` in threads inside the scope."""

  @functools.wraps(original)
  def function(*args, **kwargs):
    if _local.depth:
      return ours(original, *args, **kwargs)
    return original(*args, **kwargs)

  return function


def _enter():
  global _threads_inside
  with _lock:
    _threads_inside += 1
    if _threads_inside == 1:
      for place, ours in _REPLACED:
        original = place.get()
        _originals.append((place, original))
        place.set(_in_this_thread(original, ours))


def _leave():
  global _threads_inside
  with _lock:
    _threads_inside -= 1
    if not _threads_inside:
      while _originals:
        place, original = _originals.pop()
        place.set(original)


@contextlib.contextmanager
def scope(eager_graph=None):
  """A context in which first gradients can be differentiated again.

  It affects only the current thread. Scopes may be nested.

  Args:
    eager_graph: the graph, if this traces a step that will run eagerly.
  """
  outer_graph = _local.eager_graph
  _enter()
  _local.depth += 1
  _local.eager_graph = eager_graph
  try:
    yield
  finally:
    _local.eager_graph = outer_graph
    _local.depth -= 1
    _leave()
