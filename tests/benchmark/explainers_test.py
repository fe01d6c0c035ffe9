# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the explainers: closed forms, a small network, xplique."""

import importlib

from absl.testing import parameterized
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.ops import saliency
from testing import optional

_CLASSES = 4


def _batch(size=3, side=8, seed=0):
  """Images and one-hot labels."""
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(size, side, side, 3)).astype(np.float32)
  labels = np.eye(_CLASSES, dtype=np.float32)[rng.integers(_CLASSES, size=size)]
  return images, labels


class _Polynomial:
  """f_c(x) = sum of w_c x^power / power over pixels and channels."""

  def __init__(self, power, side=8, seed=1):
    self.power = power
    self.weights = (
      np.random.default_rng(seed)
      .normal(size=(_CLASSES, side, side, 3))
      .astype(np.float32)
    )
    self.sizes = []

  def of(self, labels):
    return np.einsum('bc,chwk->bhwk', labels, self.weights)

  def gradients(self, images, labels):
    self.sizes.append(len(images))
    return self.of(labels) * images ** (self.power - 1)

  def logits(self, images):
    powers = images**self.power / self.power
    return np.einsum('bhwk,chwk->bc', powers, self.weights)

  def scores(self, images, labels):
    return np.sum(self.logits(images) * labels, -1)


class _Network:
  """A small convolutional network, numpy in and out."""

  def __init__(self, side=8):
    tf_keras.utils.set_random_seed(2)
    self.model = tf_keras.Sequential(
      [
        tf_keras.layers.Conv2D(8, 3, input_shape=(side, side, 3)),
        tf_keras.layers.BatchNormalization(),
        tf_keras.layers.Activation('swish'),
        tf_keras.layers.Conv2D(8, 3, activation='gelu'),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(_CLASSES),
      ]
    )

  def logits(self, images):
    return self.model(images, training=False).numpy()

  def gradients(self, images, labels):
    images = tf.convert_to_tensor(images, tf.float32)
    with tf.GradientTape() as tape:
      tape.watch(images)
      score = tf.reduce_sum(self.model(images, training=False) * labels)
    return tape.gradient(score, images).numpy()


class ClosedFormTest(tf.test.TestCase, parameterized.TestCase):
  def test_gradients_of_a_linear_function_are_its_weights(self):
    images, labels = _batch()
    linear = _Polynomial(1)
    weights = linear.of(labels)
    for name, expected in (
      ('gradient', np.abs(weights).max(-1)),
      ('training_map', weights.mean(-1)),
      ('gradient_x_input', (weights * images).sum(-1)),
      ('smoothgrad', np.abs(weights).max(-1)),
      ('smoothgrad_squared', (weights**2).max(-1)),
      ('integrated_gradients', (weights * images).sum(-1)),
    ):
      maps = explainers.get(name, linear)(images, labels)
      self.assertEqual(maps.dtype, np.float32)
      self.assertAllClose(maps, expected, atol=1e-5, msg=name)

  def test_gradient_x_input_of_a_quadratic_is_twice_the_score(self):
    images, labels = _batch()
    quadratic = _Polynomial(2)
    maps = explainers.gradient_x_input(quadratic)(images, labels)
    self.assertAllClose(
      maps.sum((1, 2)), 2 * quadratic.scores(images, labels), rtol=1e-4
    )

  @parameterized.parameters(
    ('smoothgrad', 3, lambda w: w), ('smoothgrad_squared', 2, np.square)
  )
  def test_smoothgrad_adds_the_variance(self, name, power, factor):
    # The gradient of w x^3 / 3 is w x^2, and so is the square of that of
    # w x^2 / 2, with w^2. E[(x + e)^2] = x^2 + s^2, and the variance is
    # 4 x^2 s^2 + 2 s^4 over the samples.
    images, labels = _batch()
    images *= np.array([1, 3, 0.2], np.float32)[:, None, None, None]
    network = _Polynomial(power)
    samples, noise = 400, 0.1
    smooth = explainers.get(
      name, network, samples=samples, noise=noise, reduction='sum'
    )
    s = noise * np.ptp(images.reshape(3, -1), axis=1)[:, None, None, None]
    weights = factor(network.of(labels))
    expected = (weights * (images**2 + s**2)).sum(-1)
    spread = np.sqrt(
      (weights**2 * (4 * images**2 * s**2 + 2 * s**4)).sum(-1) / samples
    )
    z = (smooth(images, labels) - expected) / spread
    self.assertAllClose(np.mean(z, (1, 2)), [0] * 3, atol=3 / 8)
    self.assertAllClose(np.mean(z**2, (1, 2)), [1] * 3, atol=3 * 2**0.5 / 8)

  def test_smoothgrad_averages_before_magnitudes(self):
    # At x = 0 the gradient of a quadratic is all noise, whose mean vanishes.
    quadratic = _Polynomial(2)
    images, labels = _batch()
    images[:, 1:] = 0
    few, many = (
      explainers.smoothgrad(quadratic, samples=n)(images, labels)
      for n in (4, 400)
    )
    self.assertAllClose(few[:, 1:].mean() / many[:, 1:].mean(), 10, atol=1.5)

  @parameterized.parameters('smoothgrad', 'smoothgrad_squared')
  def test_noise_does_not_depend_on_the_batch(self, name):
    images, labels = _batch(5)
    network = _Polynomial(3)
    smooth = explainers.get(name, network, samples=3, seed=4)
    whole = smooth(images, labels)
    self.assertAllEqual(smooth(images[3:4], labels[3:4])[0], whole[3])
    self.assertAllEqual(smooth(images[::-1], labels[::-1]), whole[::-1])
    other = explainers.get(name, network, samples=3, seed=5)
    self.assertNotAllClose(other(images, labels), whole)

  @parameterized.parameters(0.0, 0.5, -2.0)
  def test_integrated_gradients_of_a_quadratic(self, baseline):
    # The trapezoidal rule is exact for a linear gradient.
    images, labels = _batch()
    quadratic = _Polynomial(2)
    integrated = explainers.integrated_gradients(
      quadratic, steps=1, baseline=baseline
    )
    self.assertAllClose(
      integrated(images, labels),
      (quadratic.of(labels) * (images**2 - baseline**2) / 2).sum(-1),
      atol=1e-4,
    )

  def test_the_rule_is_trapezoidal(self):
    # Of w x^2 on [0, x] by n steps: w x^3 (1/3 + 1 / (6 n^2)).
    images, labels = _batch()
    cubic = _Polynomial(3)
    integrated = explainers.integrated_gradients(cubic, steps=3)
    self.assertAllClose(
      integrated(images, labels),
      (cubic.of(labels) * images**3 * (1 / 3 + 1 / 54)).sum(-1),
      atol=1e-3,
    )

  def test_memory_is_bounded_by_the_batch(self):
    images, labels = _batch(3)
    cubic = _Polynomial(3)
    explainers.smoothgrad(cubic, samples=4)(images, labels)
    explainers.integrated_gradients(cubic, steps=5)(images, labels)
    self.assertEqual(cubic.sizes, [3] * (4 + 6))


class NetworkTest(tf.test.TestCase):
  def test_gradient_is_the_saliency_of_the_ops(self):
    network, (images, labels) = _Network(), _batch()
    for name, reduction in (
      ('gradient', 'abs_max'),
      ('training_map', 'signed_mean'),
    ):
      _, expected = saliency.saliency_maps(
        network.model,
        images,
        tf.constant(labels),
        reduction=reduction,
        training=False,
      )
      maps = explainers.get(name, network)(images, labels)
      self.assertAllClose(maps, expected, rtol=1e-5, atol=1e-7)

  def test_integrated_gradients_are_complete(self):
    network, (images, labels) = _Network(), _batch()
    baseline = np.array([0.3, -0.2, 1.0], np.float32)
    integrated = explainers.integrated_gradients(
      network, steps=100, baseline=baseline
    )
    start = np.broadcast_to(baseline, images.shape)
    expected = ((network.logits(images) - network.logits(start)) * labels).sum(
      -1
    )
    self.assertAllClose(
      integrated(images, labels).sum((1, 2)), expected, atol=2e-4
    )

  def test_score_operator_has_the_networks_gradient(self):
    network, (images, labels) = _Network(), _batch()
    operator = explainers.score_operator(network.logits, network.gradients)

    @tf.function
    def differentiate(images):
      with tf.GradientTape() as tape:
        tape.watch(images)
        scores = operator(None, images, tf.constant(labels))
        total = tf.reduce_sum(tf.constant([1.0, 2.0, -3.0]) * scores)
      return scores, tape.gradient(total, images)

    scores, found = differentiate(tf.constant(images))
    self.assertAllClose(scores, (network.logits(images) * labels).sum(-1))
    weights = np.array([1, 2, -3], np.float32)[:, None, None, None]
    self.assertAllClose(found, weights * network.gradients(images, labels))


class InterfaceTest(tf.test.TestCase):
  def test_explain_accepts_other_explainers(self):
    images, labels = _batch()
    maps = np.arange(3.0 * 8 * 8).reshape(3, 8, 8)
    for given in (maps, maps[..., None], tf.constant(maps)):
      found = explainers.explain(lambda *_, given=given: given, images, labels)
      self.assertAllEqual(found, maps)
      self.assertEqual(found.dtype, np.float32)
    for given in (maps[:2], maps[:, :4], images, maps[None]):
      with self.assertRaisesRegex(ValueError, r'expected \(3, 8, 8\)'):
        explainers.explain(lambda *_, given=given: given, images, labels)

  def test_refuses(self):
    network = _Polynomial(2)
    with self.assertRaisesRegex(ValueError, 'explainer is .grad_c.*smoothgrad'):
      explainers.get('grad_cam', network)
    with self.assertRaisesRegex(ValueError, 'samples is 0'):
      explainers.get('smoothgrad', network, samples=0)
    with self.assertRaisesRegex(ValueError, 'noise is -1'):
      explainers.get('smoothgrad', network, noise=-1.0)
    with self.assertRaisesRegex(ValueError, 'steps is 0'):
      explainers.get('integrated_gradients', network, steps=0)
    with self.assertRaisesRegex(ValueError, 'reduction is .mean'):
      explainers.get('gradient', network, reduction='mean')(*_batch())


class XpliqueTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    optional.require('xplique')
    self.theirs = importlib.import_module('xplique.attributions')
    self.network = _Network()
    self.images, self.labels = _batch()
    self.operator = explainers.score_operator(
      self.network.logits, self.network.gradients
    )

  def _compare(self, theirs, ours):
    maps = explainers.explain(theirs, self.images, self.labels)
    self.assertAllClose(
      maps, ours(self.images, self.labels), rtol=1e-4, atol=1e-6
    )

  def test_white_boxes_equal_ours(self):
    network = self.network
    self._compare(
      self.theirs.Saliency(
        self.network.logits, operator=self.operator, reducer='max'
      ),
      explainers.gradient(network),
    )
    self._compare(
      self.theirs.GradientInput(
        self.network.logits, operator=self.operator, reducer='sum'
      ),
      explainers.gradient_x_input(network),
    )
    # xplique counts points of the path, we count intervals.
    self._compare(
      self.theirs.IntegratedGradients(
        self.network.logits,
        operator=self.operator,
        reducer='sum',
        steps=11,
        baseline_value=0.5,
      ),
      explainers.integrated_gradients(network, steps=10, baseline=0.5),
    )

  def test_a_keras_network_plugs_in(self):

    def operator(model, images, labels):
      return tf.reduce_sum(model(images) * labels, -1)

    self._compare(
      self.theirs.Saliency(
        self.network.model, operator=operator, reducer='max'
      ),
      explainers.gradient(self.network),
    )

  def test_a_black_box_plugs_in(self):
    occlusion = self.theirs.Occlusion(
      self.network.logits, patch_size=4, patch_stride=4
    )
    maps = explainers.explain(occlusion, self.images, self.labels)

    def score(images):
      return (self.network.logits(images) * self.labels).sum(-1)

    hidden = self.images.copy()
    hidden[:, 4:, :4] = 0
    self.assertAllClose(
      maps[:, 5, 2], score(self.images) - score(hidden), atol=1e-5
    )


if __name__ == '__main__':
  tf.test.main()
