"""Tests of the second-order gradients of max-pooling and batch norm."""

from absl.testing import parameterized
import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.ops import second_order

second_order.install()

_POOLS = dict(
    ksize=[((3, 3), (2, 2)), ((2, 2), (2, 2)), ((3, 2), (1, 3))],
    padding=['SAME', 'VALID'],
    size=[(8, 8), (9, 7)])


def _normal(shape, seed, dtype=tf.float32):
  return tf.cast(tf.random.stateless_normal(shape, [seed, 7]), dtype)


def _transpose_of_routing(x, v, ksize, padding, compiled):
  """What the gradient of MaxPoolGrad reads of v, and the routing itself."""

  def pool_gradient(x, g):
    with tf.GradientTape() as tape:
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
  """The same reading with explicit loops: the first maximum of each window."""
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
    place = np.s_[b, r * sh:r * sh + kh, c * sw:c * sw + kw, d]
    result[b, r, c, d] = v[place].ravel()[np.argmax(x[place])]
  return result


class MaxPoolTest(tf.test.TestCase, parameterized.TestCase):

  @parameterized.product(compiled=(False, True), **_POOLS)
  def test_reads_the_maximum(self, compiled, ksize, padding, size):
    x, v = _normal((2,) + size + (3,), 1), _normal((2,) + size + (3,), 2)
    g, routed, read = _transpose_of_routing(x, v, ksize, padding, compiled)
    self.assertAllClose(read, _first_maximum_reads(x, v, ksize, padding))
    # The transpose of the routing: <v, routed g> = <read v, g>.
    self.assertAllClose(tf.reduce_sum(routed * v), tf.reduce_sum(read * g),
                        rtol=1e-4)

  @parameterized.product(
      compiled=(False, True), dtype=(tf.float32, tf.bfloat16, tf.float16))
  def test_the_first_of_tied_maxima_takes_all(self, compiled, dtype):
    # After a ReLU most of a 16-bit map is tied.
    x = tf.nn.relu(tf.round(2. * _normal([2, 16, 16, 4], 1)) / 2. - .5)
    x, v = tf.cast(x, dtype), _normal(x.shape, 2, dtype)
    g, routed, read = _transpose_of_routing(x, v, ((3, 3), (2, 2)), 'SAME',
                                            compiled)
    expected = _first_maximum_reads(x, v, ((3, 3), (2, 2)), 'SAME')
    self.assertAllClose(read, expected)
    wide = [tf.cast(t, tf.float64) for t in (routed, v, read, g)]
    # Sums of several gradients in one place are rounded to the dtype.
    self.assertAllClose(
        tf.reduce_sum(wide[0] * wide[1]), tf.reduce_sum(wide[2] * wide[3]),
        rtol=2e-2, atol=.2 if dtype != tf.float32 else 1e-4)

  def test_float32_near_ties_are_exact_under_xla(self):
    # Values that differ in the low half of their bits alone.
    x = 1. + tf.random.stateless_uniform([2, 16, 16, 4], [1, 2]) * 1e-4
    v = _normal(x.shape, 2)
    read = _transpose_of_routing(x, v, ((3, 3), (2, 2)), 'SAME', True)[2]
    self.assertAllEqual(
        read, _first_maximum_reads(x, v, ((3, 3), (2, 2)), 'SAME'))

  def test_channels_first(self):
    # Under XLA alone: TensorFlow's CPU kernels do not know this layout.
    x, v = _normal([2, 8, 9, 3], 1), _normal([2, 8, 9, 3], 2)

    @tf.function(jit_compile=True)
    def read(x, v):
      with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
          tape.watch(x)
          y = tf.nn.max_pool2d(
              tf.transpose(x, [0, 3, 1, 2]), 3, 2, 'SAME', data_format='NCHW')
        g = tf.ones_like(y)
        outer.watch(g)
        routed = tape.gradient(y, x, output_gradients=g)
      return outer.gradient(routed, g, output_gradients=v)

    self.assertAllClose(
        tf.transpose(read(x, v), [0, 2, 3, 1]),
        _first_maximum_reads(x, v, ((3, 3), (2, 2)), 'SAME'))


class BatchNormTest(tf.test.TestCase, parameterized.TestCase):

  def _inputs(self, dtype=tf.float32):
    x = 3. * _normal([4, 5, 6, 5], 1) + 2.
    # A scale of 0 is how residual branches start.
    scale = tf.constant([1., 0., -2., .5, 3.])
    return (tf.cast(x, dtype), scale, .3 * scale + .1,
            _normal([4, 5, 6, 5], 2, dtype), _normal([4, 5, 6, 5], 3, dtype))

  def _gradients(self, normalize, x, scale, offset, g, v):
    """Gradients of <v, d<g, sin y>/dx>, a loss through a gradient."""
    with tf.GradientTape() as outer:
      outer.watch([x, scale, offset])
      with tf.GradientTape() as inner:
        inner.watch(x)
        y = tf.cast(normalize(x, scale, offset), tf.float32)
        value = tf.reduce_sum(tf.cast(g, tf.float32) * tf.sin(y))
      dx = inner.gradient(value, x)
      loss = tf.reduce_sum(tf.cast(v, tf.float32) * tf.cast(dx, tf.float32)**2)
    return outer.gradient(loss, [x, scale, offset])

  def _fused(self, x, scale, offset, **kwargs):
    return tf.compat.v1.nn.fused_batch_norm(
        x, scale, offset, epsilon=1e-3, **kwargs)[0]

  def _written_out(self, x, scale, offset):
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean((x - mean)**2, [0, 1, 2])
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-3)

  @parameterized.parameters('eager', 'graph', 'xla')
  def test_equals_autodiff_in_float64(self, mode):
    inputs = self._inputs()
    expected = self._gradients(self._written_out,
                               *[tf.cast(t, tf.float64) for t in inputs])
    tf.config.run_functions_eagerly(mode == 'eager')
    self.addCleanup(tf.config.run_functions_eagerly, False)
    found = tf.function(self._gradients, jit_compile=mode == 'xla')(
        self._fused, *inputs)
    for ours, theirs in zip(found, expected):
      scale = float(tf.norm(theirs))
      self.assertAllClose(ours, theirs, rtol=0, atol=1e-5 * scale)

  @parameterized.parameters(tf.bfloat16, tf.float16)
  def test_16_bits_to_their_own_precision(self, dtype):
    inputs = self._inputs(dtype)

    def written_out(x, scale, offset):
      return tf.cast(
          self._written_out(tf.cast(x, tf.float32), scale, offset), dtype)

    expected = self._gradients(written_out, *inputs)
    found = tf.function(
        lambda *a: self._gradients(self._fused, *a), jit_compile=True)(*inputs)
    for ours, theirs in zip(found, expected):
      ours, theirs = tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32)
      self.assertLess(
          float(tf.norm(ours - theirs) / tf.norm(theirs)),
          .03 if dtype == tf.bfloat16 else .004)

  def test_inference_equals_autodiff(self):
    x, scale, offset, g, v = self._inputs()
    moments = dict(mean=tf.fill([5], 1.), variance=tf.fill([5], 4.))
    found = self._gradients(
        lambda x, s, o: self._fused(x, s, o, is_training=False, **moments),
        x, scale, offset, g, v)
    expected = self._gradients(
        lambda x, s, o: tf.nn.batch_normalization(
            x, moments['mean'], moments['variance'], o, s, 1e-3),
        x, scale, offset, g, v)
    for ours, theirs in zip(found, expected):
      self.assertAllClose(ours, theirs, rtol=1e-4, atol=1e-4)

  def test_gradients_of_parameter_gradients_still_work(self):
    x, scale, offset, g, _ = self._inputs()

    def loss_of(normalize, x, scale):
      with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
          inner.watch(scale)
          value = tf.reduce_sum(g * tf.sin(normalize(x, scale, offset)))
        loss = tf.reduce_sum(inner.gradient(value, scale)**2)
      return outer.gradient(loss, x)

    expected = loss_of(self._written_out, x, scale)
    self.assertAllClose(loss_of(self._fused, x, scale), expected,
                        atol=1e-4 * float(tf.norm(expected)))

  def test_takes_two_kernels(self):
    graph = tf.function(lambda *a: self._gradients(self._fused, *a))
    types = [
        op.type for op in graph.get_concrete_function(
            *self._inputs()).graph.get_operations()
    ]
    self.assertEqual(types.count('FusedBatchNormGradV2'), 2)


class MomentsTest(tf.test.TestCase, parameterized.TestCase):

  @parameterized.named_parameters(
      ('layer_norm_of_vit', 'LayerNormalization', dict(epsilon=1e-6)),
      ('layer_norm', 'LayerNormalization', {}),
      ('group_norm', 'GroupNormalization', dict(groups=2)),
      ('batch_norm_not_fused', 'BatchNormalization', {}),
      ('batch_norm_synchronized', 'BatchNormalization',
       dict(synchronized=True)))
  def test_normalization_equals_finite_differences(self, name, arguments):
    layer = getattr(tf_keras.layers, name)(dtype='float64', **arguments)
    x, g, v, direction = (
        _normal([3, 4, 4, 6], i, tf.float64) for i in range(4))
    kwargs = ({'training': True}
              if isinstance(layer, tf_keras.layers.BatchNormalization) else {})

    def loss(x):
      with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(g * tf.sin(layer(x, **kwargs)))
      return tf.reduce_sum(v * tape.gradient(value, x)**2)

    with tf.GradientTape() as tape:
      tape.watch(x)
      value = loss(x)
    found = tf.reduce_sum(tape.gradient(value, x) * direction)
    step = 1e-5 * direction
    self.assertAllClose(found, (loss(x + step) - loss(x - step)) / 2e-5,
                        rtol=1e-6)

  @parameterized.product(
      dtype=(tf.float64, tf.float32, tf.float16), keepdims=(False, True))
  def test_values_and_first_gradients_are_tensorflows(self, dtype, keepdims):
    x = _normal([3, 4, 6], 1, dtype)
    results = []
    for moments in (tf.nn.moments, tf.compat.v1.nn.moments):
      with tf.GradientTape() as tape:
        tape.watch(x)
        mean, variance = moments(x, [0, 1], keepdims=keepdims)
        value = tf.reduce_sum(tf.sin(mean) + tf.cos(variance))
      results.append((mean, variance, tape.gradient(value, x)))
    self.assertIsNot(tf.nn.moments, tf.compat.v1.nn.moments)
    for ours, theirs in zip(*results):
      self.assertEqual(ours.shape, theirs.shape)
      self.assertAllClose(ours, theirs, rtol=1e-3 if dtype == tf.float16
                          else 1e-6, atol=1e-6)


class InstallTest(tf.test.TestCase):

  def test_twice_is_once(self):
    registry = second_order.ops.gradient_registry
    before = registry.lookup('FusedBatchNormGradV3')
    second_order.install()
    self.assertIs(registry.lookup('FusedBatchNormGradV3'), before)

  def test_can_be_undone(self):
    registry = second_order.ops.gradient_registry
    names = ('MaxPoolGrad', 'FusedBatchNormGradV3')
    ours = [registry.lookup(name) for name in names]
    moments = second_order.nn_impl.moments
    self.addCleanup(second_order.install)
    second_order.uninstall()
    for name, gradient in zip(names, ours):
      self.assertIsNot(registry.lookup(name), gradient)
      self.assertIn('tensorflow', registry.lookup(name).__module__)
    self.assertIsNot(second_order.nn_impl.moments, moments)
    second_order.install()
    self.assertIs(registry.lookup('MaxPoolGrad'), ours[0])
    self.assertIs(second_order.nn_impl.moments, moments)


if __name__ == '__main__':
  tf.test.main()
