# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the interface of all adapters."""

import gc
import weakref

import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import preprocessing
from official_ext.harmonization.benchmark.adapters import tensorflow_model
from tests.benchmark.adapters import networks


def _adapter(model, size=(networks.SIZE, networks.SIZE)):
  return tensorflow_model.TensorFlowAdapter(
    'test:net', 'net', size, preprocessing.get('torch'), model
  )


class AdapterTest(tf.test.TestCase):
  def test_equals_a_plain_tape(self):
    model = networks.network()
    adapter = _adapter(model)
    inputs = adapter.preprocess(networks.pixels())
    logits, gradients = adapter.logits_and_gradients(inputs, networks.labels())
    wanted = networks.expected(model, inputs, networks.labels())
    self.assertAllClose(logits, wanted[0], rtol=1e-5, atol=1e-6)
    self.assertAllClose(gradients, wanted[1], rtol=1e-5, atol=1e-7)
    self.assertAllClose(adapter.logits(inputs), logits)
    self.assertAllEqual(adapter.gradients(inputs, networks.labels()), gradients)

  def test_gradients_equal_finite_differences(self):
    adapter = _adapter(networks.network())
    inputs = adapter.preprocess(networks.pixels(1))
    gradient = adapter.gradients(inputs, networks.labels(1))
    direction = np.random.default_rng(2).normal(size=inputs.shape)
    direction = direction.astype(np.float32)
    step = 2e-3
    ends = [adapter.logits(inputs + s * direction)[0, 0] for s in (step, -step)]
    self.assertAllClose(
      np.sum(gradient * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-2
    )

  def test_background_of_1001_classes_is_dropped(self):
    model = networks.network(classes=1001)
    adapter = _adapter(model)
    self.assertEqual(
      (adapter.num_classes, adapter.scored_classes), (1001, 1000)
    )
    inputs = adapter.preprocess(networks.pixels())
    scored = networks.labels(classes=1000)
    own = np.concatenate([np.zeros((3, 1)), scored], axis=1)
    logits, gradients = adapter.logits_and_gradients(inputs, scored)
    wanted = networks.expected(model, inputs, own.astype(np.float32))
    self.assertAllClose(logits, wanted[0][:, 1:], rtol=1e-5, atol=1e-6)
    self.assertAllClose(gradients, wanted[1], rtol=1e-5, atol=1e-7)

  def test_other_numbers_of_classes_are_kept(self):
    for classes in (4, 1000):
      adapter = _adapter(networks.network(classes=classes))
      self.assertEqual(adapter.scored_classes, classes)

  def test_one_trace_for_all_batch_sizes(self):
    model, traces = networks.network(), []

    def counted(images, training):
      traces.append(images.shape)
      return model(images, training=training)

    adapter = _adapter(counted)
    for count in (3, 1, 2):
      inputs = adapter.preprocess(networks.pixels(count))
      logits, gradients = adapter.logits_and_gradients(
        inputs, networks.labels(count)
      )
      self.assertEqual((len(logits), gradients.shape), (count, inputs.shape))
      adapter.logits(inputs)
    self.assertLen(traces, 2)  # One of logits, one of gradients.

  def test_the_network_is_freed_with_its_adapter(self):
    # A command scores many networks one after the other.
    model = networks.network()
    kernel = weakref.ref(model.layers[0].kernel)
    adapter = _adapter(model)
    del model
    adapter.gradients(adapter.preprocess(networks.pixels()), networks.labels())
    gc.collect()
    self.assertIsNotNone(kernel())
    del adapter
    gc.collect()
    self.assertIsNone(kernel())

  def test_weights_do_not_change(self):
    model = networks.network()
    before = [v.numpy() for v in model.variables]
    adapter = _adapter(model)
    adapter.gradients(adapter.preprocess(networks.pixels()), networks.labels())
    for old, new in zip(before, model.variables):
      self.assertAllEqual(old, new)

  def test_preprocessing_is_described(self):
    adapter = _adapter(networks.network())
    self.assertRegex(
      adapter.preprocessing, r'^16x16 pixels, torch: \(RGB / 255 - .*\n?$'
    )
    self.assertNotIn('\n', adapter.preprocessing)

  def test_refuses_probabilities(self):
    with self.assertRaisesRegex(ValueError, 'test:net: .*probabilities'):
      _adapter(networks.network(activation='softmax'))

  def test_refuses_log_probabilities_and_sigmoids(self):
    model = networks.network()
    for squash, found in (
      (tf.nn.log_softmax, 'log-probabilities .it ends with log_softmax'),
      (tf.math.log_sigmoid, 'log-probabilities .it ends with log_sigmoid'),
      (tf.sigmoid, 'probabilities .it ends with sigmoid'),
      (lambda z: tf.nn.softmax(z) * 100, 'ends with softmax'),
      (lambda z: tf.nn.softmax(z) - 0.5, 'ends with softmax'),
      (lambda z: tf.nn.softmax(z) ** 2, 'ends with softmax'),
      (lambda z: tf.nn.softmax(z) * tf.nn.softmax(z), 'ends with softmax'),
      (lambda z: tf.math.log(tf.nn.softmax(z)) / np.log(2), 'with log of s'),
      # The base-10 logarithm of Keras 3.
      (
        lambda z: (
          tf.math.log(tf.nn.softmax(z)) / tf.math.log(tf.constant(10.0))
        ),
        'with log of softmax',
      ),
      (lambda z: 1 - tf.sigmoid(z), 'ends with sigmoid'),
      (lambda z: tf.concat([tf.sigmoid(z), z], 1), 'ends with sigmoid'),
      (lambda z: tf.clip_by_value(tf.sigmoid(z), 0.1, 0.9), 'with sigmoid'),
      (lambda z: tf.clip_by_value(z / 5 + 0.5, 0.0, 1.0), 'with hard_sigmoid'),
      (lambda z: 2 * tf.tanh(z), 'squashed .it ends with tanh'),
      (lambda z: tf.math.log(tf.nn.softmax(z) + 1e-7), 'ends with log of'),
      # Visible only in the values.
      (
        lambda z: z - tf.reduce_logsumexp(z, axis=-1, keepdims=True),
        'log-probabilities .their exponentials sum to 1',
      ),
      (lambda z: z[:, :1], 'a single number'),
    ):
      with self.assertRaisesRegex(ValueError, f'test:net: .*{found}'):
        _adapter(lambda x, training, f=squash: f(model(x, training=training)))

  def test_logits_of_any_sign_and_size_are_kept(self):
    model = networks.network()
    for change in (
      lambda z: z - 100,
      lambda z: tf.nn.relu(z) + 0.01,
      lambda z: 0 * z - 0.5,
      lambda z: z * tf.sigmoid(z),
      lambda z: tf.clip_by_value(z, -50.0, 50.0),
      lambda z: z + tf.tanh(z),
      lambda z: tf.minimum(z, 1.0),
    ):
      _adapter(lambda x, training, f=change: f(model(x, training=training)))

  def test_refuses_scores_that_depend_on_the_batch(self):
    model = networks.network()
    for dtype in (tf.float32, tf.float16, tf.bfloat16):

      def in_training_mode(x, training, dtype=dtype):
        del training
        return model(tf.cast(tf.cast(x, dtype), tf.float32), training=True)

      def random(x, training, dtype=dtype):
        del training
        return model(tf.cast(tf.nn.dropout(tf.cast(x, dtype), 0.5), tf.float32))

      with self.assertRaisesRegex(ValueError, 'test:net: .*batch of one'):
        _adapter(in_training_mode)
      with self.assertRaisesRegex(ValueError, 'test:net: .*two passes'):
        _adapter(random)

  def test_rounding_in_16_bits_is_accepted(self):
    for policy in ('mixed_float16', 'mixed_bfloat16'):
      tf_keras.utils.set_random_seed(0)
      layers = [
        layer
        for i in range(6)
        for layer in (
          tf_keras.layers.Conv2D(16, 3, padding='same', dtype=policy),
          tf_keras.layers.BatchNormalization(dtype=policy),
          tf_keras.layers.ReLU(dtype=policy),
        )
      ]
      model = tf_keras.Sequential(
        [
          tf_keras.Input((networks.SIZE, networks.SIZE, 3)),
          *layers,
          tf_keras.layers.GlobalAveragePooling2D(dtype=policy),
          tf_keras.layers.Dense(5, dtype='float32'),
        ]
      )
      self.assertEqual(_adapter(model).num_classes, 5)

  def test_float16_gradients_do_not_underflow(self):
    weights = tf.constant(
      np.random.default_rng(0).normal(size=(16 * 16 * 3, 5)), tf.float32
    )

    def model(x, training):
      del training
      # float16 represents gradients of 1e-7 with a single bit.
      x = tf.cast(tf.reshape(x, [-1, 16 * 16 * 3]), tf.float16)
      return tf.cast(x * tf.constant(1e-7, tf.float16), tf.float32) @ weights

    adapter = _adapter(model)
    inputs = adapter.preprocess(networks.pixels())
    found = adapter.gradients(inputs, networks.labels())
    wanted = tf.transpose(weights)[:3] * np.float16(1e-7)
    self.assertAllClose(found.reshape(3, -1), wanted, rtol=1e-2, atol=1e-9)

  def test_a_network_without_gradient_is_refused(self):
    model = networks.network()
    for cut, message in (
      (tf.stop_gradient, 'have no gradient'),
      (tf.sign, 'gradients of its logits are all zero'),
    ):
      adapter = _adapter(lambda x, training, f=cut: model(f(x)))
      inputs = adapter.preprocess(networks.pixels())
      self.assertEqual(adapter.logits(inputs).shape, (3, 5))
      with self.assertRaisesRegex(ValueError, f'test:net.*{message}'):
        adapter.gradients(inputs, networks.labels())

  def test_refuses_an_output_that_is_not_a_matrix(self):
    model = tf_keras.Sequential(networks.network().layers[:3])
    with self.assertRaisesRegex(ValueError, r'output has shape \(2, 5, 5, 8\)'):
      _adapter(model)

  def test_refuses_logits_that_are_not_finite(self):
    model = networks.network()
    adapter = _adapter(
      lambda x, training: model(x) / tf.reduce_max(x, axis=(1, 2, 3))[:, None]
    )
    inputs = adapter.preprocess(networks.pixels())
    inputs[1] = 0
    with self.assertRaisesRegex(ValueError, '1 of 3 images'):
      adapter.logits(inputs)

  def test_wrong_shapes_are_refused(self):
    adapter = _adapter(networks.network())
    with self.assertRaisesRegex(ValueError, r'expected \(B, 16, 16, 3\)'):
      adapter.preprocess(networks.pixels(size=(8, 16)))
    with self.assertRaisesRegex(ValueError, r'expected .* shape \(3, 5\)'):
      adapter.logits_and_gradients(
        adapter.preprocess(networks.pixels()), networks.labels(classes=4)
      )

  def test_resizes_as_released(self):
    images = networks.pixels(2, (8, 8))
    self.assertAllEqual(
      base.resize(images.astype(np.uint8), (5, 6)),
      tf.image.resize(images.astype(np.uint8), (5, 6), method='bilinear'),
    )


if __name__ == '__main__':
  tf.test.main()
