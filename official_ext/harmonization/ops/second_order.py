"""Second-order gradients of max-pooling and of normalization.

A harmonization loss is differentiated through a gradient. Three of TensorFlow's
gradients of gradients stand in its way:

* Max-pooling's (`MaxPoolGradGrad`) is inexact under XLA in float32, since it
  compares only the high half of each number, and does not compile in 16 bits.
* Batch normalization's is written out in element-wise primitives, which take
  about half of a step.
* The variance's (`tf.nn.moments`) is wrong: the mean in it is held fixed, which
  is right once and not twice. Layer normalization with an epsilon below 1e-5,
  as in ViT, and batch normalization that is not fused are built on it.

`install` puts exact and cheap ones in their place, for the process. Models,
variables and first-order gradients stay what they are.
"""

import numpy as np
import tensorflow as tf, tf_keras

# pylint: disable=g-direct-tensorflow-import
from tensorflow.python.framework import ops
from tensorflow.python.ops import nn_impl
# pylint: enable=g-direct-tensorflow-import


def _spatial(values, data_format: str):
  """Height and width of a shape-like attribute."""
  return values[2:] if data_format == 'NCHW' else values[1:3]


def _padding(op, size, window, stride, data_format):
  """((top, bottom), (left, right)) of a pooling op."""
  kind = op.get_attr('padding').decode()
  if kind == 'EXPLICIT':
    pads = op.get_attr('explicit_paddings')
    pads = list(zip(pads[::2], pads[1::2]))
    return _spatial(pads, data_format)
  if kind == 'VALID':
    return [(0, 0), (0, 0)]
  pads = []
  for n, k, s in zip(size, window, stride):
    total = max((-(-n // s) - 1) * s + k - n, 0)
    pads.append((total // 2, total - total // 2))
  return pads


def _window_slices(x, pads, window, stride, outputs, fill):
  """One (B, h, w, C) slice per place in the window, in row-major order."""
  # Rows and columns are folded by the stride, so that slices need none.
  folds, fitted = [], []
  for n, (before, _), k, s, out in zip(x.shape[1:3], pads, window, stride,
                                       outputs):
    folds.append(-(-((out - 1) * s + k) // s))
    fitted.append((before, max(folds[-1] * s - n - before, 0)))
  x = tf.pad(x, [(0, 0), *fitted, (0, 0)], constant_values=fill)
  x = x[:, :folds[0] * stride[0], :folds[1] * stride[1]]
  channels = x.shape[-1]
  x = tf.reshape(
      x, [-1, folds[0], stride[0], folds[1], stride[1] * channels])
  for row in range(window[0]):
    for column in range(window[1]):
      down, phase = divmod(row, stride[0])
      right, group = divmod(column, stride[1])
      yield x[:, down:down + outputs[0], phase, right:right + outputs[1],
              group * channels:(group + 1) * channels]


def _max_pool_grad_grad(op, upstream):
  """Gradient of MaxPoolGrad with respect to what it distributes.

  MaxPoolGrad gives each output's gradient to the first maximum of its window;
  the transpose of that reads `upstream` at the same place.
  """
  data_format = op.get_attr('data_format').decode()
  window = _spatial(op.get_attr('ksize'), data_format)
  stride = _spatial(op.get_attr('strides'), data_format)
  x = op.inputs[0]
  if data_format == 'NCHW':
    x, upstream = (tf.transpose(t, [0, 2, 3, 1]) for t in (x, upstream))
  size = x.shape[1:3]
  size.assert_is_fully_defined()
  pads = _padding(op, size, window, stride, data_format)
  outputs = [(n + sum(p) - k) // s + 1
             for n, p, k, s in zip(size, pads, window, stride)]
  best = read = None
  for values, candidates in zip(
      _window_slices(x, pads, window, stride, outputs, x.dtype.min),
      _window_slices(upstream, pads, window, stride, outputs, 0)):
    if best is None:
      best, read = values, candidates
    else:
      better = values > best
      best = tf.where(better, values, best)
      read = tf.where(better, candidates, read)
  if data_format == 'NCHW':
    read = tf.transpose(read, [0, 3, 1, 2])
  return None, None, read


def _fused_kernel(gradient, x, scale, mean, variance, op):
  """TensorFlow's own first-order kernel: (dx, dscale, doffset)."""
  # Version 2: the third reserve of version 3 is not there to be had.
  return tf.raw_ops.FusedBatchNormGradV2(
      y_backprop=gradient,
      x=x,
      scale=scale,
      reserve_space_1=mean,
      reserve_space_2=variance,
      epsilon=op.get_attr('epsilon'),
      data_format=op.get_attr('data_format'),
      is_training=True)[:3]


def _variance(x, mean, reserved, axes, per_channel):
  """The batch's variance, which GPU kernels reserve in another form."""
  if not tf.config.list_physical_devices('GPU'):
    return reserved
  centered = tf.cast(x, mean.dtype) - tf.reshape(mean, per_channel)
  return tf.reduce_mean(tf.square(centered), axes)


def _batch_norm_grad_grad(op, upstream):
  """Gradients of a training-mode FusedBatchNormGrad's first output.

  With xh = (x - mean) s, s = 1 / sqrt(variance + epsilon), n values a channel
  and <.> the sum over them, the kernel maps g to dx = scale s P(g), where
  P(g) = g - <g>/n - xh <g xh>/n is its own transpose. For v arriving at dx:

    at g:     scale s P(v), the kernel applied to v
    at scale: s <v P(g)>
    at x:     -s (a dx + b dv) - scale s^2 xh <v P(g)>/n,

  where dv is the kernel's result for v, a = <v xh>/n and b = <g xh>/n, both of
  them what the kernels return for the scale. Two kernels, one product and one
  sum of three stand for a few dozen primitives.
  """
  g, x, scale, mean, variance = op.inputs[:5]
  dx, g_xh, g_sum = _fused_kernel(g, x, scale, mean, variance, op)
  dv, v_xh, v_sum = _fused_kernel(upstream, x, scale, mean, variance, op)
  if op.get_attr('data_format') == b'NCHW':
    axes, per_channel = [0, 2, 3], [1, -1, 1, 1]
  else:
    axes, per_channel = [0, 1, 2], [-1]
  wide = scale.dtype
  count = tf.cast(tf.size(x) / tf.size(scale), wide)
  s = tf.math.rsqrt(_variance(x, mean, variance, axes, per_channel) +
                    op.get_attr('epsilon'))
  product = tf.reduce_sum(tf.cast(upstream * g, wide), axes)
  v_p_g = product - (v_sum * g_sum + v_xh * g_xh) / count

  def times(channel, values):
    return tf.reshape(channel, per_channel) * values

  at_x = (
      times(-s * v_xh / count, tf.cast(dx, wide)) +
      times(-s * g_xh / count, tf.cast(dv, wide)) -
      times(scale * s**3 * v_p_g / count,
            tf.cast(x, wide) - tf.reshape(mean, per_channel)))
  return dv, tf.cast(at_x, x.dtype), s * v_p_g


def _with_closed_form(original, inputs: int):
  """The gradient of a FusedBatchNormGrad op, closed form where it applies."""

  def gradient(op, *upstream):
    # What arrives at the gradients of scale and offset: nothing, unless
    # somebody differentiates those too.
    others = [tf.get_static_value(u) for u in upstream[1:3]]
    if (not op.get_attr('is_training') or
        op.get_attr('data_format') not in (b'NHWC', b'NCHW') or
        any(o is None or np.any(o) for o in others)):
      return original(op, *upstream)
    return _batch_norm_grad_grad(op, upstream[0]) + (None,) * (inputs - 3)

  return gradient


def _moments(x,
             axes,
             shift=None,
             name=None,
             keep_dims=None,
             keepdims=None):
  """`tf.nn.moments`, its arguments and results, right to second order."""
  del shift  # As in TensorFlow, it has no effect.

  @tf.custom_gradient
  def variance_of(values, mean):
    variance = tf.reduce_mean(
        tf.math.squared_difference(values, mean), axes, keepdims=True)

    def gradient(upstream):
      # What reaches the mean is zero; the mean in here is differentiable.
      count = tf.cast(tf.size(values) / tf.size(variance), values.dtype)
      return 2. / count * upstream * (values - mean), tf.zeros_like(mean)

    return variance, gradient

  with tf.name_scope(name or 'moments'):
    wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    results = (mean, variance_of(wide, mean))
    if not (keepdims or keep_dims):
      results = [tf.squeeze(r, axes) for r in results]
    return tuple(tf.cast(r, x.dtype) for r in results)


# What `install` replaced, by op; empty while TensorFlow's own are in place.
_replaced = {}
_tensorflows_moments = nn_impl.moments


def install():
  """Puts all three in place for this process; more than once is once."""
  if _replaced:
    return
  registry = ops.gradient_registry._registry  # pylint: disable=protected-access
  ours = {'MaxPoolGrad': _max_pool_grad_grad}
  for name, inputs in (('FusedBatchNormGrad', 5), ('FusedBatchNormGradV2', 5),
                       ('FusedBatchNormGradV3', 6)):
    ours[name] = _with_closed_form(registry[name]['type'], inputs)
  for name, gradient in ours.items():
    _replaced[name] = registry[name]['type']
    registry[name]['type'] = gradient
  # `tf.nn.moments` is a front for this one.
  nn_impl.moments = _moments


def uninstall():
  """Puts TensorFlow's own back, for comparisons.

  What was traced before keeps the gradients it was traced with.
  """
  registry = ops.gradient_registry._registry  # pylint: disable=protected-access
  for name, gradient in _replaced.items():
    registry[name]['type'] = gradient
  _replaced.clear()
  nn_impl.moments = _tensorflows_moments
