# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of gradients of gradients, and of the scope that provides them."""

# Bazel: tags = ["networks"]

import contextlib
import threading

from absl.testing import parameterized
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.ops import second_order

_POOLS = dict(
  ksize=[((3, 3), (2, 2)), ((2, 2), (2, 2)), ((3, 2), (1, 3))],
  padding=['SAME', 'VALID'],
  size=[(8, 8), (9, 7)],
)


def _normal(shape, seed, dtype=tf.float32):
  return tf.cast(tf.random.stateless_normal(shape, [seed, 7]), dtype)


def _transpose_of_routing(x, v, ksize, padding, compiled):
  """Returns what MaxPoolGrad's gradient reads of v, and what it routes."""

  def pool_gradient(x, g):
    with second_order.scope(), tf.GradientTape() as tape:
      tape.watch(x)
      y = tf.nn.max_pool2d(x, ksize[0], ksize[1], padding)
      return tape.gradient(y, x, output_gradients=g)

  @tf.function(jit_compile=compiled)
  def both(x, g, v):
    with tf.GradientTape() as tape:
      tape.watch(g)
      routed = pool_gradient(x, g)
    return routed, tape.gradient(routed, g, output_gradients=v)

  y = tf.nn.max_pool2d(x, ksize[0], ksize[1], padding)
  g = _normal(y.shape, 3, x.dtype)
  routed, read = both(x, g, v)
  return g, routed, read


def _first_maximum_reads(x, v, ksize, padding):
  """Computes the same with explicit loops over the first maximum per window."""
  x, v = (np.asarray(t, np.float64) for t in (x, v))
  (kh, kw), (sh, sw) = ksize
  pads = []
  for n, k, s in zip(x.shape[1:3], (kh, kw), (sh, sw)):
    total = max((-(-n // s) - 1) * s + k - n, 0) if padding == 'SAME' else 0
    pads.append((total // 2, total - total // 2))
  x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
  v = np.pad(v, [(0, 0), *pads, (0, 0)])
  rows = (x.shape[1] - kh) // sh + 1
  columns = (x.shape[2] - kw) // sw + 1
  result = np.zeros((x.shape[0], rows, columns, x.shape[3]))
  for b, r, c, d in np.ndindex(*result.shape):
    place = np.s_[b, r * sh : r * sh + kh, c * sw : c * sw + kw, d]
    result[b, r, c, d] = v[place].ravel()[np.argmax(x[place])]
  return result


class MaxPoolTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.product(compiled=(False, True), **_POOLS)
  def test_reads_the_maximum(self, compiled, ksize, padding, size):
    x, v = _normal((2,) + size + (3,), 1), _normal((2,) + size + (3,), 2)
    g, routed, read = _transpose_of_routing(x, v, ksize, padding, compiled)
    self.assertAllClose(read, _first_maximum_reads(x, v, ksize, padding))
    # The transpose of the routing: <v, routed g> = <read v, g>.
    self.assertAllClose(
      tf.reduce_sum(routed * v), tf.reduce_sum(read * g), rtol=1e-4
    )

  @parameterized.product(
    compiled=(False, True), dtype=(tf.float32, tf.bfloat16, tf.float16)
  )
  def test_the_first_of_tied_maxima_takes_all(self, compiled, dtype):
    # After a ReLU most values of a 16-bit map are equal.
    x = tf.nn.relu(tf.round(2.0 * _normal([2, 16, 16, 4], 1)) / 2.0 - 0.5)
    x, v = tf.cast(x, dtype), _normal(x.shape, 2, dtype)
    g, routed, read = _transpose_of_routing(
      x, v, ((3, 3), (2, 2)), 'SAME', compiled
    )
    expected = _first_maximum_reads(x, v, ((3, 3), (2, 2)), 'SAME')
    self.assertAllClose(read, expected)
    wide = [tf.cast(t, tf.float64) for t in (routed, v, read, g)]
    # Sums of several gradients at one position are rounded to the dtype.
    self.assertAllClose(
      tf.reduce_sum(wide[0] * wide[1]),
      tf.reduce_sum(wide[2] * wide[3]),
      rtol=2e-2,
      atol=0.2 if dtype != tf.float32 else 1e-4,
    )

  def test_float32_near_ties_are_exact_under_xla(self):
    # Values that differ only in the low half of their bits.
    x = 1.0 + tf.random.stateless_uniform([2, 16, 16, 4], [1, 2]) * 1e-4
    v = _normal(x.shape, 2)
    read = _transpose_of_routing(x, v, ((3, 3), (2, 2)), 'SAME', True)[2]
    self.assertAllEqual(
      read, _first_maximum_reads(x, v, ((3, 3), (2, 2)), 'SAME')
    )

  def test_channels_first(self):
    # Only under XLA, since TensorFlow's CPU kernels do not support this layout.
    x, v = _normal([2, 8, 9, 3], 1), _normal([2, 8, 9, 3], 2)

    @tf.function(jit_compile=True)
    def read(x, v):
      with tf.GradientTape() as outer:
        with second_order.scope(), tf.GradientTape() as tape:
          tape.watch(x)
          y = tf.nn.max_pool2d(
            tf.transpose(x, [0, 3, 1, 2]), 3, 2, 'SAME', data_format='NCHW'
          )
          g = tf.ones_like(y)
          outer.watch(g)
          routed = tape.gradient(y, x, output_gradients=g)
      return outer.gradient(routed, g, output_gradients=v)

    self.assertAllClose(
      tf.transpose(read(x, v), [0, 2, 3, 1]),
      _first_maximum_reads(x, v, ((3, 3), (2, 2)), 'SAME'),
    )


class BatchNormTest(tf.test.TestCase, parameterized.TestCase):
  def _inputs(self, dtype=tf.float32):
    x = 3.0 * _normal([4, 5, 6, 5], 1) + 2.0
    # Residual branches start with a scale of 0.
    scale = tf.constant([1.0, 0.0, -2.0, 0.5, 3.0])
    return (
      tf.cast(x, dtype),
      scale,
      0.3 * scale + 0.1,
      _normal([4, 5, 6, 5], 2, dtype),
      _normal([4, 5, 6, 5], 3, dtype),
    )

  def _gradients(self, normalize, x, scale, offset, g, v):
    """Returns gradients of <v, d<g, sin y>/dx>, a loss through a gradient."""
    with tf.GradientTape() as outer:
      outer.watch([x, scale, offset])
      with second_order.scope(), tf.GradientTape() as inner:
        inner.watch(x)
        y = tf.cast(normalize(x, scale, offset), tf.float32)
        value = tf.reduce_sum(tf.cast(g, tf.float32) * tf.sin(y))
        dx = inner.gradient(value, x)
      loss = tf.reduce_sum(
        tf.cast(v, tf.float32) * tf.cast(dx, tf.float32) ** 2
      )
    return outer.gradient(loss, [x, scale, offset])

  def _fused(self, x, scale, offset, **kwargs):
    return tf.compat.v1.nn.fused_batch_norm(
      x, scale, offset, epsilon=1e-3, **kwargs
    )[0]

  def _written_out(self, x, scale, offset):
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-3)

  @parameterized.parameters('eager', 'graph', 'xla')
  def test_equals_autodiff_in_float64(self, mode):
    inputs = self._inputs()
    expected = self._gradients(
      self._written_out, *[tf.cast(t, tf.float64) for t in inputs]
    )
    tf.config.run_functions_eagerly(mode == 'eager')
    self.addCleanup(tf.config.run_functions_eagerly, False)
    found = tf.function(self._gradients, jit_compile=mode == 'xla')(
      self._fused, *inputs
    )
    for ours, theirs in zip(found, expected):
      scale = float(tf.norm(theirs))
      self.assertAllClose(ours, theirs, rtol=0, atol=1e-5 * scale)

  @parameterized.parameters(tf.bfloat16, tf.float16)
  def test_16_bits_to_their_own_precision(self, dtype):
    inputs = self._inputs(dtype)

    def written_out(x, scale, offset):
      return tf.cast(
        self._written_out(tf.cast(x, tf.float32), scale, offset), dtype
      )

    expected = self._gradients(written_out, *inputs)
    found = tf.function(
      lambda *a: self._gradients(self._fused, *a), jit_compile=True
    )(*inputs)
    for ours, theirs in zip(found, expected):
      ours, theirs = tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32)
      self.assertLess(
        float(tf.norm(ours - theirs) / tf.norm(theirs)),
        0.03 if dtype == tf.bfloat16 else 0.004,
      )

  def test_inference_equals_autodiff(self):
    x, scale, offset, g, v = self._inputs()
    moments = dict(mean=tf.fill([5], 1.0), variance=tf.fill([5], 4.0))
    found = self._gradients(
      lambda x, s, o: self._fused(x, s, o, is_training=False, **moments),
      x,
      scale,
      offset,
      g,
      v,
    )
    expected = self._gradients(
      lambda x, s, o: tf.nn.batch_normalization(
        x, moments['mean'], moments['variance'], o, s, 1e-3
      ),
      x,
      scale,
      offset,
      g,
      v,
    )
    for ours, theirs in zip(found, expected):
      self.assertAllClose(ours, theirs, rtol=1e-4, atol=1e-4)

  def test_gradients_of_parameter_gradients_still_work(self):
    x, scale, offset, g, _ = self._inputs()

    def loss_of(normalize, x, scale):
      with tf.GradientTape() as outer:
        outer.watch(x)
        with second_order.scope(), tf.GradientTape() as inner:
          inner.watch(scale)
          value = tf.reduce_sum(g * tf.sin(normalize(x, scale, offset)))
          loss = tf.reduce_sum(inner.gradient(value, scale) ** 2)
      return outer.gradient(loss, x)

    expected = loss_of(self._written_out, x, scale)
    self.assertAllClose(
      loss_of(self._fused, x, scale),
      expected,
      atol=1e-4 * float(tf.norm(expected)),
    )

  @parameterized.product(
    dtype=(tf.float16, tf.bfloat16),
    magnitude=(1e-4, 100.0),
    compiled=(False, True),
  )
  def test_small_and_large_gradients(self, dtype, magnitude, compiled):
    # Products of two such numbers cannot be represented in 16 bits.
    x, scale, offset, g, v = self._inputs(dtype)
    g, v = (t * tf.cast(magnitude, dtype) for t in (g, v))

    def gradients(normalize, x, scale, g, v):
      with tf.GradientTape() as outer:
        outer.watch([x, scale, g])
        with second_order.scope(), tf.GradientTape() as inner:
          inner.watch(x)
          y = normalize(x, scale, tf.cast(offset, scale.dtype))
          dx = inner.gradient(y, x, output_gradients=g)
      return outer.gradient(dx, [x, scale, g], output_gradients=v)

    expected = gradients(
      self._written_out, *[tf.cast(t, tf.float64) for t in (x, scale, g, v)]
    )
    found = tf.function(gradients, jit_compile=compiled)(
      self._fused, x, scale, g, v
    )
    for name, ours, theirs in zip(('x', 'scale', 'g'), found, expected):
      tolerance = 4e-3 if dtype == tf.float16 else 3e-2
      if name == 'scale':
        tolerance = 1e-5  # The computation is in float32.
      elif magnitude == 1e-4 and dtype == tf.float16:
        continue  # The result underflows in float16.
      self.assertLess(
        float(tf.norm(tf.cast(ours, tf.float64) - theirs) / tf.norm(theirs)),
        tolerance,
        name,
      )

  def test_takes_one_more_kernel(self):
    graph = tf.function(lambda *a: self._gradients(self._fused, *a))
    types = [
      op.type
      for op in graph.get_concrete_function(
        *self._inputs()
      ).graph.get_operations()
    ]
    self.assertEqual(types.count('FusedBatchNormGradV2'), 1)


def _loss_of_gradient(layer, x, scoped=True):
  """<v, (d<g, sin layer(x)>/dx)^2>, which changes with x."""
  g, v = (_normal(x.shape, i, x.dtype) for i in (1, 2))
  scope = second_order.scope if scoped else contextlib.nullcontext
  with scope(), tf.GradientTape() as tape:
    tape.watch(x)
    value = tf.reduce_sum(g * tf.sin(layer(x)))
    gradient = tape.gradient(value, x)
  return tf.reduce_sum(v * gradient**2)


def _derivative(layer, x, direction, **kwargs):
  """Returns the loss's derivative along a direction, from the tape."""
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = _loss_of_gradient(layer, x, **kwargs)
  return tf.reduce_sum(tape.gradient(value, x) * direction)


def _standardize(x, moments=tf.nn.moments):
  mean, variance = moments(x, [-1], keepdims=True)
  return (x - mean) * tf.math.rsqrt(variance + 1e-6)


def _v1(x):
  return _standardize(x, tf.compat.v1.nn.moments)


def _keras_v1(x):
  # Keras fuses it only if the last axis is kept.
  last = x.shape[-1]
  return tf_keras.backend.normalize_batch_in_training(
    x, tf.ones(last, x.dtype), tf.zeros(last, x.dtype), [0, 1]
  )[0]


def _restored(x):
  """Returns the same from a SavedModel."""
  module = tf.Module()
  module.standardize = tf.function(
    lambda x: _v1(x), input_signature=[tf.TensorSpec(x.shape, x.dtype)]
  )
  folder = tf.compat.v1.test.get_temp_dir() + '/standardize'
  tf.saved_model.save(module, folder)
  return tf.saved_model.load(folder).standardize


def _always(x):
  return tf.reduce_sum(x) > -1e9


_VARIANCES = {
  'moments': _standardize,
  'v1': _v1,
  'keras_v1': _keras_v1,
  'function': tf.function(_v1),
  'function_in_function': tf.function(lambda x: 2.0 * tf.function(_v1)(x)),
  'branch': lambda x: tf.cond(_always(x), lambda: _v1(x), lambda: x),
  'switch': lambda x: tf.switch_case(
    tf.constant(1), [lambda: x, lambda: _v1(x)]
  ),
  'map': lambda x: tf.map_fn(_v1, x),
  'vectorized': lambda x: tf.vectorized_map(_v1, x),
  'loop': lambda x: tf.while_loop(
    lambda i, _: i < 2,
    lambda i, z: (i + 1, _v1(z) + 0.3 * tf.sin(z)),
    (0, x),
    maximum_iterations=2,
  )[1],
  'branch_in_function': tf.function(
    lambda x: tf.cond(_always(x), lambda: _v1(x), lambda: x)
  ),
}


class MomentsTest(tf.test.TestCase, parameterized.TestCase):
  def _assert_equals_differences(self, layer, x, mode):
    direction = _normal(x.shape, 0, x.dtype)
    run = {
      'eager': lambda f: f,
      'graph': tf.function,
      'xla': lambda f: tf.function(f, jit_compile=True),
    }[mode]
    found = run(lambda x: _derivative(layer, x, direction))(x)
    loss = run(lambda x: _loss_of_gradient(layer, x))
    step = 1e-5 * direction
    expected = (loss(x + step) - loss(x - step)) / 2e-5
    self.assertAllClose(found, expected, rtol=1e-6)
    return found

  @parameterized.named_parameters(
    ('layer_norm_of_vit', 'LayerNormalization', dict(epsilon=1e-6)),
    ('layer_norm', 'LayerNormalization', {}),
    ('group_norm', 'GroupNormalization', dict(groups=2)),
    ('batch_norm_not_fused', 'BatchNormalization', {}),
    ('batch_norm_synchronized', 'BatchNormalization', dict(synchronized=True)),
  )
  def test_normalization_equals_finite_differences(self, name, arguments):
    layer = getattr(tf_keras.layers, name)(dtype='float64', **arguments)
    kwargs = (
      {'training': True}
      if isinstance(layer, tf_keras.layers.BatchNormalization)
      else {}
    )
    self._assert_equals_differences(
      lambda x: layer(x, **kwargs),
      _normal([3, 4, 4, 6], 3, tf.float64),
      'eager',
    )

  @parameterized.parameters(*_VARIANCES)
  def test_wherever_the_variance_is(self, where):
    x = _normal([3, 4, 6], 3, tf.float64)
    self._assert_equals_differences(_VARIANCES[where], x, 'graph')

  @parameterized.parameters(
    ('v1', 'eager'), ('function', 'eager'), ('function', 'xla'), ('loop', 'xla')
  )
  def test_wherever_it_runs(self, where, mode):
    x = _normal([3, 4, 6], 3, tf.float64)
    self._assert_equals_differences(_VARIANCES[where], x, mode)

  def test_in_a_saved_model(self):
    x = _normal([3, 4, 6], 3, tf.float64)
    self._assert_equals_differences(_restored(x), x, 'graph')

  def test_in_a_function_that_ran_and_was_differentiated_before(self):
    x = _normal([3, 4, 6], 3, tf.float64)
    function = tf.function(_standardize)
    function(x)
    with tf.GradientTape() as tape:
      tape.watch(x)
      value = function(x)
    tape.gradient(value, x)
    right = self._assert_equals_differences(function, x, 'graph')
    # Outside of the scope TensorFlow's gradient is unchanged.
    direction = _normal(x.shape, 0, x.dtype)
    wrong = _derivative(tf.function(_standardize), x, direction, scoped=False)
    self.assertGreater(abs(wrong / right - 1.0), 0.01)

  @parameterized.product(
    dtype=(tf.float64, tf.float32, tf.float16), keepdims=(False, True)
  )
  def test_values_and_first_gradients_are_tensorflows(self, dtype, keepdims):
    x = _normal([3, 4, 6], 1, dtype)
    results = []
    for scope in (second_order.scope, contextlib.nullcontext):
      with scope(), tf.GradientTape() as tape:
        tape.watch(x)
        mean, variance = tf.nn.moments(x, [0, 1], keepdims=keepdims)
        value = tf.reduce_sum(tf.sin(mean) + tf.cos(variance))
        results.append((mean, variance, tape.gradient(value, x)))
    for ours, theirs in zip(*results):
      self.assertEqual(ours.shape, theirs.shape)
      self.assertAllClose(
        ours, theirs, rtol=1e-3 if dtype == tf.float16 else 1e-6, atol=1e-6
      )


def _pool(x):
  return tf.nn.max_pool2d(x, 3, 2, 'SAME')


class UnknownSizesTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.product(
    shape=([None] * 4, None, [2, None, 7, 3]), compiled=(False, True)
  )
  def test_max_pool_reads_the_maximum(self, shape, compiled):
    pool = tf.function(_pool, input_signature=[tf.TensorSpec(shape)])
    x, v = _normal([2, 8, 7, 3], 1), _normal([2, 8, 7, 3], 2)

    @tf.function(jit_compile=compiled)
    def read(x, v):
      with tf.GradientTape() as outer:
        with second_order.scope(), tf.GradientTape() as tape:
          tape.watch(x)
          y = pool(x)
          g = tf.ones_like(y)
          outer.watch(g)
          routed = tape.gradient(y, x, output_gradients=g)
      return outer.gradient(routed, g, output_gradients=v)

    self.assertAllClose(
      read(x, v), _first_maximum_reads(x, v, ((3, 3), (2, 2)), 'SAME')
    )


class ScopeTest(tf.test.TestCase):
  def _second_gradient(self):
    """Returns a second gradient of max-pooling with dynamic sizes."""

    @tf.function(input_signature=[tf.TensorSpec([None] * 4)])
    def gradient(x):
      with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
          inner.watch(x)
          y = tf.reduce_sum(tf_keras.layers.MaxPooling2D()(x) ** 3)
        value = tf.reduce_sum(inner.gradient(y, x))
      return outer.gradient(value, x)

    x = _normal([2, 4, 6, 3], 1)
    # The second derivative of m ** 3, for a maximum m, is 6 m.
    expected = tf.where(
      x == tf.repeat(tf.repeat(tf.nn.max_pool2d(x, 2, 2, 'VALID'), 2, 1), 2, 2),
      6.0 * x,
      0.0,
    )
    self.assertAllClose(gradient(x), expected)
    return {
      op.type for op in gradient.get_concrete_function().graph.get_operations()
    }

  def test_other_threads_keep_tensorflows(self):
    inside, done, ops_seen = threading.Event(), threading.Event(), []

    def harmonize():
      with second_order.scope():
        inside.set()
        done.wait(60)
        ops_seen.append(self._second_gradient())

    registry = second_order.ops.gradient_registry
    names = ('MaxPool', 'FusedBatchNormV3', 'SquaredDifference')
    before = [registry.lookup(name) for name in names]
    moments = tf.compat.v1.nn.moments, second_order.nn_impl.moments
    own = self._second_gradient()
    self.assertIn('MaxPoolGradGrad', own)
    thread = threading.Thread(target=harmonize)
    thread.start()
    try:
      inside.wait(60)
      self.assertEqual(self._second_gradient(), own)
      with second_order.scope():
        self.assertNotIn('MaxPoolGradGrad', self._second_gradient())
      self.assertEqual(self._second_gradient(), own)
    finally:
      done.set()
      thread.join()
    self.assertNotIn('MaxPoolGradGrad', ops_seen[0])
    self.assertEqual([registry.lookup(name) for name in names], before)
    self.assertEqual(
      (tf.compat.v1.nn.moments, second_order.nn_impl.moments), moments
    )

  def test_ends_with_an_error_and_can_be_nested(self):
    registry = second_order.ops.gradient_registry
    before = registry.lookup('MaxPool')
    with self.assertRaisesRegex(ValueError, 'broken'):
      with second_order.scope():
        with second_order.scope():
          pass
        self.assertNotIn('MaxPoolGradGrad', self._second_gradient())
        raise ValueError('broken')
    self.assertIs(registry.lookup('MaxPool'), before)


if __name__ == '__main__':
  tf.test.main()
