# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""A small network with the interface of the adapters."""

import numpy as np
import tensorflow as tf


class Adapter:
  """One layer of tanh units on patches, and a linear layer.

  The attributes are those of `adapters.base.Adapter`; `batches` has the sizes
  of the batches that it was called with.
  """

  def __init__(self, size=16, classes=4, patch=8, spec='fake:one', seed=0):
    rng = np.random.default_rng(seed)
    self.spec, self.name = spec, spec.partition(':')[2]
    self.input_size = (size, size)
    self.preprocessing = 'pixels / 255 - 0.5'
    self.num_classes = self.scored_classes = classes
    self.batches = []
    self._patch = patch
    self._filters = tf.constant(
      rng.normal(size=(patch, patch, 3, 8)) / patch, tf.float32
    )
    cells = (size // patch) ** 2 * 8
    self._linear = tf.constant(
      rng.normal(size=(cells, classes)) / 8, tf.float32
    )

  def parameters(self):
    yield from (self._filters.numpy(), self._linear.numpy())

  def preprocess(self, images):
    assert images.shape[1:] == (*self.input_size, 3), images.shape
    assert images.dtype == np.float32
    return images / np.float32(255) - np.float32(0.5)

  def network(self, inputs):
    hidden = tf.tanh(tf.nn.conv2d(inputs, self._filters, self._patch, 'VALID'))
    return tf.reshape(hidden, [len(inputs), -1]) @ self._linear

  def logits(self, inputs):
    self.batches.append(len(inputs))
    return self.network(tf.constant(inputs)).numpy()

  def gradients(self, inputs, labels):
    return self.logits_and_gradients(inputs, labels)[1]

  def logits_and_gradients(self, inputs, labels):
    self.batches.append(len(inputs))
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      logits = self.network(inputs)
      score = tf.reduce_sum(logits * labels)
    return logits.numpy(), tape.gradient(score, inputs).numpy()
