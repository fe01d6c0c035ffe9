# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the explainers: closed forms, a small network, xplique."""

import functools
import importlib
from unittest import mock

from absl.testing import parameterized
import numpy as np
from official.vision.modeling.backbones import vit
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark.adapters import (
  layers as adapter_layers,
)
from official_ext.harmonization.benchmark.adapters import preprocessing
from official_ext.harmonization.benchmark.adapters import tensorflow_model
from official_ext.harmonization.ops import saliency
from testing import optional
from tests.benchmark.adapters import networks

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
    maps = explainers.get('gradient_x_input', quadratic)(images, labels)
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
      explainers.get('smoothgrad', quadratic, samples=n)(images, labels)
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
    integrated = explainers.get(
      'integrated_gradients', quadratic, steps=1, baseline=baseline
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
    integrated = explainers.get('integrated_gradients', cubic, steps=3)
    self.assertAllClose(
      integrated(images, labels),
      (cubic.of(labels) * images**3 * (1 / 3 + 1 / 54)).sum(-1),
      atol=1e-3,
    )

  def test_memory_is_bounded_by_the_batch(self):
    images, labels = _batch(3)
    cubic = _Polynomial(3)
    explainers.get('smoothgrad', cubic, samples=4)(images, labels)
    explainers.get('integrated_gradients', cubic, steps=5)(images, labels)
    self.assertEqual(cubic.sizes, [3] * (4 + 6))

  def test_expected_gradients_average_over_baselines_and_positions(self):
    # (x - x') w (x' + a (x - x')) has the mean w (x^2 - x'^2) / 2 over a.
    images, labels = _batch()
    others, _ = _batch(4, seed=7)
    quadratic = _Polynomial(2)
    maps = explainers.get(
      'expected_gradients', quadratic, baselines=others, samples=2000
    )(images, labels)
    starts = others[:, None, None]
    weighted = quadratic.of(labels) * (images**2 - starts**2) / 2
    expected = weighted.mean((0, 1)).sum(-1)
    # About 3 units of spread over samples, each of which sums three channels.
    self.assertLess(
      np.abs(np.mean(maps - expected)), 3 * 3 / (200 * 2000) ** 0.5
    )
    self.assertLess(np.std(maps - expected), 3 * 3 / 2000**0.5)
    # Completeness, in expectation.
    scores = quadratic.scores(images, labels)
    start = (quadratic.logits(others) @ labels.T).mean(0)
    self.assertAllClose(maps.sum((1, 2)), scores - start, atol=3)

  def test_expected_gradients_do_not_depend_on_the_batch(self):
    images, labels = _batch(4)
    others = np.concatenate([_batch(3, seed=7)[0], images[1:2]])
    network = _Polynomial(3)
    made = explainers.get(
      'expected_gradients', network, baselines=others, samples=5
    )
    whole = made(images, labels)
    self.assertAllClose(made(images[::-1], labels[::-1]), whole[::-1])
    self.assertAllClose(made(images[1:2], labels[1:2])[0], whole[1])
    # An image is not its own baseline.
    of_others = explainers.get(
      'expected_gradients', network, baselines=others[:3], samples=5
    )
    self.assertAllClose(of_others(images, labels)[1], whole[1])
    self.assertNotAllClose(of_others(images, labels)[0], whole[0])
    own = explainers.get('expected_gradients', network, baselines=images[:1])
    with self.assertRaisesRegex(ValueError, 'only the explained image'):
      own(images, labels)

  @parameterized.parameters((8, 0.5, 0.25), (9, 0.45, 0.3), (8, 0.3, 0.6))
  def test_occlusion_equals_a_loop_over_pixels(self, side, patch, stride):
    images, labels = _batch(2, side)
    network = _Polynomial(2, side)
    size, step = round(patch * side), round(stride * side)
    starts = sorted({*range(0, side - size + 1, step), side - size})
    expected = np.zeros((2, side, side))
    # The fall of the score of a quadratic is a sum over the hidden pixels.
    lost = network.of(labels) * (images**2 - 0.3**2) / 2
    for y in range(side):
      for x in range(side):
        falls = [
          lost[:, i : i + size, j : j + size].sum((1, 2, 3))
          for i in starts
          for j in starts
          if i <= y < i + size and j <= x < j + size
        ]
        if falls:
          expected[:, y, x] = np.mean(falls, 0)
    made = explainers.get(
      'occlusion', network, patch=patch, stride=stride, fill=0.3
    )
    self.assertAllClose(made(images, labels), expected, atol=1e-4)

  def test_rollout_multiplies_attention_with_its_residual(self):
    rng = np.random.default_rng(3)
    layers = [rng.dirichlet(np.ones(7), (2, 7)).astype(np.float32)] * 2
    layers.append(layers[0][:, ::-1])
    read = np.array([0.5, 0.5, *[0.0] * 5], np.float32)
    network = mock.Mock()
    network.attention.return_value = adapter_layers.Attention(
      layers, read, (1, 5)
    )
    maps = explainers.get('attention_rollout', network)(
      np.zeros((2, 1, 5, 3), np.float32), None
    )
    for image in range(2):
      flow = np.eye(7)
      for weights in layers:
        flow = (weights[image] / 2 + np.eye(7) / 2) @ flow
      self.assertAllClose(maps[image, 0], flow[:2, 2:].mean(0))


def _adapter(model, side=8):
  return tensorflow_model.TensorFlowAdapter(
    'fake:net', 'net', (side, side), preprocessing.get('tf'), model
  )


class LayersTest(tf.test.TestCase):
  def test_grad_cam(self):
    model, (images, labels) = _Network().model, _batch()
    adapter = _adapter(model)
    top = tf_keras.Sequential(model.layers[-2:])
    found = tf_keras.Sequential(model.layers[:-2])(images, training=False)
    with tf.GradientTape() as tape:
      tape.watch(found)
      score = tf.reduce_sum(top(found) * labels)
    weights = np.mean(tape.gradient(score, found), (1, 2))
    expected = np.maximum(np.einsum('bk,bhwk->bhw', weights, found), 0)
    maps = explainers.get('grad_cam', adapter)(images, labels)
    self.assertAllClose(
      maps, tf.image.resize(expected[..., None], (8, 8))[..., 0], atol=1e-6
    )
    self.assertGreater(np.mean(maps == 0), 0.01)
    named = explainers.get('grad_cam', adapter, layer=model.layers[3].name)
    self.assertAllClose(named(images, labels), maps)
    earlier = explainers.get('grad_cam', adapter, layer=model.layers[0].name)
    self.assertNotAllClose(earlier(images, labels), maps)
    for layer, words in (('conv', 'no layer .conv'), ('dense', 'no spatial')):
      with self.assertRaisesRegex(ValueError, f'fake:net: .*{words}'):
        name = model.layers[-1].name if layer == 'dense' else layer
        adapter.activations(images, labels, name)

  def test_vision_transformer(self):
    tf_keras.utils.set_random_seed(4)
    options = dict(
      mlp_dim=8, num_heads=2, num_layers=1, patch_size=2, hidden_size=4
    )
    specs = tf_keras.layers.InputSpec(shape=[None, 8, 8, 3])
    encoder = vit.VisionTransformer(
      **options, input_specs=specs, output_attention_scores=True
    )
    inputs = tf_keras.Input((8, 8, 3))
    ends = encoder(inputs)
    logits = tf_keras.layers.Dense(_CLASSES)(ends['pre_logits'][:, 0, 0])
    model = tf_keras.Model(inputs, logits)
    adapter = _adapter(model)
    images, labels = _batch()
    found = adapter.attention(images)
    self.assertEqual((len(found.layers), found.grid), (1, (4, 4)))
    self.assertAllEqual(found.read, [1.0] + [0.0] * 16)
    self.assertAllClose(
      found.layers[-1], np.mean(encoder(images)['attention_scores'], 1)
    )
    # A token's gradient is the image's gradient, carried to its patch.
    _, gradients = adapter.activations(images, labels, 'conv2d')
    kernel = encoder.layers[1].kernel
    self.assertAllClose(
      tf.nn.conv2d_transpose(gradients, kernel, images.shape, 2, 'VALID'),
      networks.expected(model, images, labels)[1],
      atol=1e-5,
    )
    tokens = explainers.get('token_gradients', adapter)(images, labels)
    norms = np.linalg.norm(gradients, axis=-1)[..., None]
    self.assertAllClose(tokens, tf.image.resize(norms, (8, 8))[..., 0])
    with self.assertRaisesRegex(ValueError, 'conv2d.*tokens.*attention_roll'):
      explainers.get('grad_cam', adapter)(images, labels)

  def test_layers_are_chosen_by_the_shapes_of_outputs(self):
    made = functools.partial(adapter_layers.output, size=(32, 48))
    first, last = dict(channels_first=True), dict(channels_first=False)
    conv = made('conv', (2, 64, 8, 12), is_pooled=False, **first)
    self.assertEqual(conv.grid, (8, 12))
    inner = made('inner', (2, 5, 7, 768), is_pooled=False, **first)
    self.assertEqual(inner.grid, (5, 7))  # 4.5 x 6.75 rounded up.
    for shape in ((2, 8, 12, 64), (2, 64, 1, 1), (2, 4, 20, 20), (2, 10)):
      found = made('x', shape, is_pooled=False, **first)
      self.assertEqual(found.grid, (8, 12) if shape[1] == 8 else None)
    pool = made('pool', (2, 4, 6, 64), is_pooled=True, **last)
    tokens = made('norm', (2, 97, 8), is_pooled=False, **first)
    head = made('head', (2, 10), is_pooled=False, **first)
    self.assertEqual(adapter_layers.last_spatial([conv, pool, head]), 'conv')
    chosen = adapter_layers.patch_embedding([conv, tokens, head])
    self.assertEqual(chosen, conv)
    # Attention within windows: tokens before, or another extent after.
    for layers in ([tokens, conv, tokens], [conv, tokens, inner, tokens]):
      with self.assertRaisesRegex(ValueError, 'expected a vision transformer'):
        adapter_layers.patch_embedding(layers)

  def test_other_networks_are_named(self):
    images, labels = _batch()
    adapter = _adapter(_Network().model)
    for name in ('attention_rollout', 'token_gradients'):
      with self.assertRaisesRegex(ValueError, 'fake:net: .*vision transformer'):
        explainers.get(name, adapter)(images, labels)
    model = _Network().model
    saved = _adapter(lambda x, training: model(x, training=training))
    for name in ('grad_cam', 'attention_rollout', 'token_gradients'):
      with self.assertRaisesRegex(ValueError, 'fake:net: .*not accessible'):
        explainers.get(name, saved)(images, labels)


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
    integrated = explainers.get(
      'integrated_gradients', network, steps=100, baseline=baseline
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
      explainers.get('grad_c', network)
    with self.assertRaisesRegex(ValueError, 'gradient has no samples.*smooth'):
      explainers.get('gradient', network, samples=3)
    with self.assertRaisesRegex(ValueError, "option is 'sample'.*samples"):
      explainers.get('smoothgrad', network, sample=3)
    with self.assertRaisesRegex(ValueError, 'no baselines.*Pass baselines='):
      explainers.get('expected_gradients', network)
    with self.assertRaisesRegex(ValueError, 'patch is 16; expected a fraction'):
      explainers.get('occlusion', network, patch=16)
    with self.assertRaisesRegex(ValueError, 'samples is 0'):
      explainers.get('smoothgrad', network, samples=0)
    with self.assertRaisesRegex(ValueError, 'noise is -1'):
      explainers.get('smoothgrad', network, noise=-1.0)
    with self.assertRaisesRegex(ValueError, 'steps is 0'):
      explainers.get('integrated_gradients', network, steps=0)
    with self.assertRaisesRegex(ValueError, 'reduction is .mean'):
      explainers.get('gradient', network, reduction='mean')(*_batch())


def centre(network, *, samples=2):
  """An explainer of the user."""
  del network
  return lambda images, labels: np.full(images.shape[:3], samples)


class UserTest(tf.test.TestCase):
  def test_functions_by_their_import_path(self):
    name = f'{__name__}.centre'
    images, labels = _batch()
    made = explainers.get(name, _Polynomial(1))
    self.assertAllEqual(made(images, labels), np.full((3, 8, 8), 2))
    made = explainers.get(name, _Polynomial(1), samples=5)
    self.assertAllEqual(made(images, labels), np.full((3, 8, 8), 5))
    with open(__file__, 'rb') as f:
      digest = identity.sha256(f.read())
    self.assertEqual(explainers.identity(name), {'explainer source': digest})
    self.assertEqual(explainers.identity('gradient'), {})
    with self.assertRaisesRegex(ImportError, "no attribute 'center'.*centre"):
      explainers.get(f'{__name__}.center', _Polynomial(1))
    with self.assertRaisesRegex(ImportError, 'no_such_package.*PYTHONPATH'):
      explainers.get('no_such_package.centre', _Polynomial(1))


def _operator(model, images, labels):
  return tf.reduce_sum(model(images) * labels, -1)


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
      explainers.get('gradient', network),
    )
    self._compare(
      self.theirs.GradientInput(
        self.network.logits, operator=self.operator, reducer='sum'
      ),
      explainers.get('gradient_x_input', network),
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
      explainers.get('integrated_gradients', network, steps=10, baseline=0.5),
    )

  def test_a_keras_network_plugs_in(self):
    self._compare(
      self.theirs.Saliency(
        self.network.model, operator=_operator, reducer='max'
      ),
      explainers.get('gradient', self.network),
    )

  def test_squared_gradients(self):
    # Without noise, because that of xplique is not seeded.
    self._compare(
      self.theirs.SquareGrad(
        self.network.logits,
        operator=self.operator,
        reducer='max',
        nb_samples=2,
        noise=0.0,
      ),
      explainers.get('smoothgrad_squared', self.network, noise=0.0),
    )

  def test_grad_cam(self):
    # xplique resizes by another method, so the layer has the image's size.
    model = tf_keras.Sequential(
      [
        tf_keras.layers.Conv2D(
          6, 3, padding='same', activation='tanh', input_shape=(8, 8, 3)
        ),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(_CLASSES),
      ]
    )
    self._compare(
      self.theirs.GradCAM(model, operator=_operator),
      explainers.get('grad_cam', _adapter(model)),
    )

  def test_occlusion(self):
    self._compare(
      self.theirs.Occlusion(
        self.network.logits, patch_size=4, patch_stride=2, occlusion_value=0.4
      ),
      explainers.get(
        'occlusion',
        self.network,
        patch=0.5,
        stride=0.25,
        fill=0.4,
        combine='sum',
      ),
    )


if __name__ == '__main__':
  tf.test.main()
