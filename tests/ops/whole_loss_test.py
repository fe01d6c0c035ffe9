# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of gradients of the whole loss, for typical parts of networks."""

# Bazel: size = "large"
# Bazel: tags = ["networks"]

import functools
import itertools

from absl.testing import parameterized
from official.vision.modeling.layers import nn_blocks
from official.vision.modeling.layers import nn_layers
import tensorflow as tf
import tf_keras

from official_ext.harmonization.losses import harmonization
from official_ext.harmonization.ops import saliency
from tests import devices

layers = tf_keras.layers
_SIZE, _CLASSES = 12, 3


def _normal(shape, seed):
  return tf.random.stateless_normal(shape, [seed, 5], dtype=tf.float64)


def _network(*parts):
  return tf_keras.Sequential(
    [
      layers.InputLayer([_SIZE, _SIZE, 3]),
      *parts,
      layers.GlobalAveragePooling2D(),
      layers.Dense(_CLASSES),
    ]
  )


def _max_pool():
  return _network(
    layers.Conv2D(6, 3),
    layers.BatchNormalization(),
    layers.ReLU(),
    layers.MaxPool2D(3, 2, 'same'),
    layers.Conv2D(6, 3),
    layers.ReLU(),
  )


def _synchronized():
  return _network(
    layers.Conv2D(6, 3),
    layers.BatchNormalization(synchronized=True),
    layers.Activation('tanh'),
    layers.Conv2D(6, 3),
    layers.BatchNormalization(synchronized=True),
    layers.ReLU(),
  )


def _inverted_bottleneck():
  # Depthwise convolution, squeeze-excitation, swish, batch normalization.
  return _network(
    layers.Conv2D(4, 3, 2),
    nn_blocks.InvertedBottleneckBlock(
      4, 4, expand_ratio=2, strides=1, se_ratio=0.5, activation='swish'
    ),
  )


def _transformer():
  # Attention, GELU, layer normalization. (Model Garden's computes the last in
  # float32 whatever the policy.)
  images = layers.Input([_SIZE, _SIZE, 3])
  tokens = layers.Reshape([-1, 8])(layers.Conv2D(8, 4, 4)(images))
  normalized = layers.LayerNormalization(epsilon=1e-6)(tokens)
  tokens += layers.MultiHeadAttention(2, 4)(normalized, normalized)
  normalized = layers.LayerNormalization(epsilon=1e-6)(tokens)
  tokens += layers.Dense(8)(layers.Dense(12, 'gelu')(normalized))
  logits = layers.Dense(_CLASSES)(layers.Flatten()(tokens))
  return tf_keras.Model(images, logits)


_NETWORKS = dict(
  max_pool=_max_pool,
  synchronized=_synchronized,
  inverted_bottleneck=_inverted_bottleneck,
  transformer=_transformer,
)


def _build(network, dtype='float64'):
  """Returns a network of a dtype, with weights that do not depend on it."""
  before = tf_keras.mixed_precision.global_policy(), tf_keras.backend.floatx()
  tf_keras.mixed_precision.set_global_policy(dtype)
  tf_keras.backend.set_floatx(dtype)
  try:
    model = network()
  finally:
    tf_keras.mixed_precision.set_global_policy(before[0])
    tf_keras.backend.set_floatx(before[1])
  for i, v in enumerate(model.trainable_variables):
    v.assign(
      tf.cast(0.4 * _normal(v.shape, i), v.dtype)
      + (1.0 if 'gamma' in v.name else 0.0)
    )
  return model


def _batch(dtype=tf.float64):
  """Returns images, labels and maps. XLA would give other random numbers."""
  images = _normal([4, _SIZE, _SIZE, 3], 1)
  human = _normal([4, _SIZE, _SIZE], 2)
  labels = tf.one_hot([0, 2, 1, 1], _CLASSES)
  return [tf.cast(t, dtype) for t in (images, labels, human)]


def _loss(model, images, labels, human, batch_norm='batch', mapped=3):
  """Returns the whole loss for a part of a batch of four."""
  logits, maps, _ = saliency.training_maps(
    model, images, labels[:mapped], batch_norm=batch_norm
  )
  # The form without a stopped gradient, which finite differences would include.
  loss = harmonization.harmonization_loss(
    maps,
    human[:mapped],
    tf.ones(mapped),
    levels=3,
    standardization='per_level',
    divide_by=4.0,
  )
  cross_entropy = -tf.reduce_sum(labels * tf.nn.log_softmax(logits)) / 4.0
  return cross_entropy + 0.5 * loss


def _gradients(model, *batch, **kwargs):
  with tf.GradientTape() as tape:
    loss = _loss(model, *batch, **kwargs)
  return tape.gradient(loss, model.trainable_variables)


@functools.cache
def _float64_gradients(network):
  return _gradients(_build(_NETWORKS[network]), *_batch())


def _relative(found, expected):
  """Returns the relative L2 distance of two lists of gradients."""
  expected = [tf.cast(e, tf.float64) for e in expected]
  difference = [tf.cast(f, tf.float64) - e for f, e in zip(found, expected)]
  return float(
    tf.linalg.global_norm(difference) / tf.linalg.global_norm(expected)
  )


class WholeLossTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.product(
    [dict(network=n, batch_norm='mapped') for n in _NETWORKS]
    + [dict(network='max_pool', batch_norm=b) for b in ('batch', 'inference')]
  )
  def test_equals_finite_differences(self, network, batch_norm):
    model = _build(_NETWORKS[network])
    averages = [tf.identity(v) for v in model.non_trainable_variables]
    variables = model.trainable_variables
    directions = [_normal(v.shape, 50 + i) for i, v in enumerate(variables)]
    # Only the gradient is under test: the loss is differenced without XLA.
    value = tf.function(_loss)

    def restored(function):
      for variable, average in zip(model.non_trainable_variables, averages):
        variable.assign(average)
      return function(model, *_batch(), batch_norm=batch_norm)

    def moved(step):
      for variable, direction in zip(variables, directions):
        variable.assign_add(step * direction)
      return restored(value)

    found = {
      compiled: restored(tf.function(_gradients, jit_compile=compiled))
      for compiled in (False, True)
    }
    # A step forward, and one of twice the length back.
    difference = (moved(1e-6) - moved(-2e-6)) / 2e-6
    for compiled, gradients in found.items():
      with self.subTest(compiled=compiled):
        self.assertAllClose(
          tf.add_n(
            [tf.reduce_sum(g * d) for g, d in zip(gradients, directions)]
          ),
          difference,
          rtol=1e-6,
        )

  @parameterized.product(network=list(_NETWORKS), compiled=(False, True))
  def test_float32_equals_float64(self, network, compiled):
    # In float32, batch normalization uses the fused kernel.
    expected = _float64_gradients(network)
    found = tf.function(_gradients, jit_compile=compiled)(
      _build(_NETWORKS[network], 'float32'), *_batch(tf.float32)
    )
    self.assertLess(_relative(found, expected), 1e-4)

  def test_synchronized_replicas_equal_one_batch(self):
    batch = _batch(tf.float32)
    expected = _gradients(_build(_synchronized, 'float32'), *batch, mapped=4)
    strategy = devices.two_replicas()
    with strategy.scope():
      model = _build(_synchronized, 'float32')

    @tf.function
    def step():

      def replica():
        context = tf.distribute.get_replica_context()
        first = 2 * context.replica_id_in_sync_group
        half = [t[first : first + 2] for t in batch]
        return context.all_reduce('sum', _gradients(model, *half, mapped=2))

      return strategy.run(replica)

    found = [strategy.experimental_local_results(g)[0] for g in step()]
    self.assertLess(_relative(found, expected), 1e-5)

  def _assert_equals_differences(self, model, run=tf.function):
    variables = model.trainable_variables
    directions = [_normal(v.shape, 50 + i) for i, v in enumerate(variables)]
    batch = _batch()
    loss = run(lambda: _loss(model, *batch, batch_norm='mapped'))
    found = tf.add_n(
      [
        tf.reduce_sum(g * d)
        for g, d in zip(
          run(lambda: _gradients(model, *batch, batch_norm='mapped'))(),
          directions,
        )
      ]
    )
    values = []
    for step in (1e-6, -2e-6):
      for variable, direction in zip(variables, directions):
        variable.assign_add(step * direction)
      values.append(loss())
    self.assertAllClose(found, (values[0] - values[1]) / 2e-6, rtol=1e-6)

  @parameterized.parameters('graph', 'xla', 'eager')
  def test_functions_that_were_traced_before(self, mode):
    # Evaluation first, then training without maps, then with.

    @tf.function
    def normalize(x):
      mean, variance = tf.nn.moments(x, [-1], keepdims=True)
      return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-6)

    @tf.function
    def pool(x):
      return tf.nn.max_pool2d(x, 3, 2, 'SAME')

    # XLA does not compile the gradient of a function in a loop.
    looped = normalize if mode == 'xla' else lambda x: tf.map_fn(normalize, x)
    model = _build(
      lambda: _network(
        layers.Conv2D(6, 3),
        layers.Lambda(normalize),
        layers.Conv2D(6, 3),
        layers.Lambda(looped),
        layers.Lambda(pool),
        layers.Conv2D(4, 3, activation='tanh'),
      )
    )
    images, labels, human = _batch()
    tf.function(model)(images)
    tf.function(
      lambda: saliency.saliency_maps(model, images, labels, training=False)
    )()

    @tf.function
    def plain_step():
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(labels * model(images, training=True))
      return tape.gradient(loss, model.trainable_variables)

    plain_step()
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(labels * model(images, training=True))
    tape.gradient(loss, model.trainable_variables)
    self._assert_equals_differences(
      model,
      {
        'graph': tf.function,
        'xla': lambda f: tf.function(f, jit_compile=True),
        'eager': lambda f: f,
      }[mode],
    )


def _residual(layer):
  images = layers.Input([_SIZE, _SIZE, 3])
  features = layers.Conv2D(2, 3, activation='tanh')(images)
  branch = layer(layers.Conv2D(2, 3, padding='same')(features))
  features = layers.Activation('tanh')(features + branch)
  features = layers.GlobalAveragePooling2D()(features)
  return tf_keras.Model(images, layers.Dense(_CLASSES)(features))


@functools.cache
def _of_all_draws():
  """Returns the gradients by draw: one bit per image, 16 draws."""
  keep = tf.Variable(tf.zeros([4, 1, 1, 1], tf.float64))
  fixed = _build(lambda: _residual(layers.Lambda(lambda x: x * keep)))
  gradients = tf.function(lambda: _gradients(fixed, *_batch()))
  found = {}
  for mask in itertools.product((0.0, 2.0), repeat=4):
    keep.assign(tf.reshape(tf.constant(mask, tf.float64), keep.shape))
    found[mask] = gradients()
  return found


class RandomLayersTest(tf.test.TestCase, parameterized.TestCase):
  """The forward pass and both backward passes use the same random numbers."""

  @parameterized.product(
    kind=('stochastic_depth', 'dropout'), compiled=(False, True)
  )
  def test_gradient_is_that_of_one_draw(self, kind, compiled):
    if kind == 'stochastic_depth':
      random = nn_layers.StochasticDepth(0.5, dtype='float64')
    else:
      random = layers.Dropout(0.5, noise_shape=[4, 1, 1, 1], dtype='float64')
    model = _build(lambda: _residual(random))
    expected = _of_all_draws()
    gradients = tf.function(_gradients, jit_compile=compiled)
    seen = set()
    for _ in range(8):
      found = gradients(model, *_batch())
      distances = {m: _relative(found, e) for m, e in expected.items()}
      seen.add(min(distances, key=distances.get))
      self.assertLess(min(distances.values()), 1e-9)
    self.assertGreater(len(seen), 1)


if __name__ == '__main__':
  tf.test.main()
