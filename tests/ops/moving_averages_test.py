# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of moving averages for a batch that is split in two."""

# Bazel: tags = ["training"]

from absl.testing import parameterized
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.ops import moving_averages
from official_ext.harmonization.ops import saliency
from tests import devices

layers = tf_keras.layers
_IMAGES, _MAPPED, _CLASSES = 10, 2, 3


def _images():
  """Returns images whose first part has another mean and variance."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(_IMAGES, 5, 4, 3)).astype(np.float32)
  images[:_MAPPED] = 3.0 * images[:_MAPPED] + 2.0
  return images


def _network(**kwargs):
  """Returns a network of batch normalization and a classifier."""
  norm = layers.BatchNormalization(**{'momentum': 0.9, **kwargs})
  model = tf_keras.Sequential(
    [
      tf_keras.Input([5, 4, 3]),
      norm,
      layers.Activation('tanh'),
      layers.Flatten(),
      layers.Dense(_CLASSES),
    ]
  )
  start = np.arange(norm.moving_mean.shape[0])
  norm.moving_mean.assign(start - 1.0)
  norm.moving_variance.assign(0.5 * start + 0.5)
  return model, norm


def _step(model, images, batch_norm='mapped', mapped=_MAPPED):
  targets = tf.one_hot(tf.range(mapped) % _CLASSES, _CLASSES)
  saliency.training_maps(model, images, targets, batch_norm=batch_norm)


def _averages(norm):
  return norm.moving_mean.numpy(), norm.moving_variance.numpy()


class TwoPartsTest(tf.test.TestCase, parameterized.TestCase):
  def _assert_averages(self, found, expected):
    for ours, theirs in zip(found, expected):
      self.assertAllClose(ours, theirs, rtol=1e-5, atol=1e-6)

  def test_equals_the_closed_form(self):
    # Not fused, so the variance is that of the population.
    model, norm = _network(fused=False)
    mean, variance = _averages(norm)
    _step(model, _images())
    parts = _images()[:_MAPPED], _images()[_MAPPED:]
    (m1, m2), (v1, v2) = (
      [f(p, axis=(0, 1, 2)) for p in parts] for f in (np.mean, np.var)
    )
    w1 = _MAPPED / _IMAGES
    w2 = 1.0 - w1
    self._assert_averages(
      _averages(norm),
      (
        0.9 * mean + 0.1 * (w1 * m1 + w2 * m2),
        0.9 * variance + 0.1 * (w1 * v1 + w2 * v2 + w1 * w2 * (m1 - m2) ** 2),
      ),
    )

  @parameterized.product(
    kwargs=(
      {},
      dict(fused=False),
      dict(axis=1),
      dict(momentum=0.0),
      dict(momentum=1.0),
      dict(trainable=False),
      dict(scale=False),
    ),
    mode=('eager', 'graph'),
  )
  def test_equals_keras_on_the_whole_batch(self, kwargs, mode):
    expected_model, expected = _network(**kwargs)
    model, norm = _network(**kwargs)
    step = tf.function(_step) if mode == 'graph' else _step
    for shift in (0.0, 1.0):
      expected_model(_images() + shift, training=True)
      step(model, tf.constant(_images() + shift))
    self._assert_averages(_averages(norm), _averages(expected))

  def test_compiled(self):
    expected_model, expected = _network()
    model, norm = _network()
    expected_model(_images(), training=True)
    tf.function(_step, jit_compile=True)(model, tf.constant(_images()))
    self._assert_averages(_averages(norm), _averages(expected))

  def test_inside_of_layers(self):
    # Nested, subclassed, and of dynamic sizes.

    class Block(layers.Layer):
      def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(momentum=0.9)

      def call(self, x, training=None):
        return tf.reduce_mean(self.norm(x, training=training), [1, 2])

    averages = []
    for batch_norm in ('batch', 'mapped'):
      block = Block()
      model = tf_keras.Sequential([tf_keras.Sequential([block])])
      _step(model, _images(), batch_norm)
      averages.append(_averages(block.norm))
    self._assert_averages(*averages)

  def test_a_layer_that_updates_nothing_drifts_nowhere(self):

    class Inference(layers.BatchNormalization):
      def call(self, x, training=None):
        return super().call(x, training=False)

    norm = Inference()
    model = tf_keras.Sequential(
      [tf_keras.Input([5, 4, 3]), norm, layers.Flatten(), layers.Dense(3)]
    )
    norm.moving_variance.assign([0.5, 3.0, 1.1])
    before = _averages(norm)
    _step(model, _images())
    self.assertAllEqual(_averages(norm), before)

  def test_a_model_without_any(self):
    averages = moving_averages.TwoParts(lambda x: x, tf.zeros([3]))
    averages.between()
    averages.pool(1, 2)
    self.assertFalse(averages)

  @parameterized.parameters(True, False)
  def test_replicas(self, synchronized):
    strategy = devices.two_replicas()
    # Each replica has one image with a map and four without.
    rows = [[0, 2, 3, 4, 5], [1, 6, 7, 8, 9]]
    with strategy.scope():
      model, norm = _network(synchronized=synchronized)

    @tf.function
    def step():

      def replica():
        context = tf.distribute.get_replica_context()
        images = tf.gather(
          tf.constant(_images()),
          tf.constant(rows)[context.replica_id_in_sync_group],
        )
        _step(model, tf.ensure_shape(images, [5, 5, 4, 3]), mapped=1)

      strategy.run(replica)

    step()
    if synchronized:
      plain, expected = _network(fused=False)
      plain(_images(), training=True)
      expected = _averages(expected)
    else:
      # As without maps: each replica has averages, and reading takes their
      # mean.
      own = []
      for part in rows:
        plain, expected = _network()
        plain(_images()[part], training=True)
        own.append(_averages(expected))
      expected = np.mean(own, axis=0)
    self._assert_averages(_averages(norm), expected)


if __name__ == '__main__':
  tf.test.main()
