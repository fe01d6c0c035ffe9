# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Small networks for tests of the adapters, and their expected results."""

import numpy as np
import tensorflow as tf
import tf_keras

SIZE = 16


def network(classes=5, activation=None, size=(SIZE, SIZE), seed=0):
  """A small tf_keras classifier with random weights."""
  tf_keras.utils.set_random_seed(seed)
  layers = tf_keras.layers
  return tf_keras.Sequential(
    [
      tf_keras.Input((*size, 3)),
      layers.Conv2D(6, 3, strides=2, activation='swish'),
      layers.BatchNormalization(),
      layers.Conv2D(8, 3, activation='relu'),
      layers.GlobalAveragePooling2D(),
      layers.Dense(classes, activation=activation),
    ]
  )


def pixels(count=3, size=(SIZE, SIZE), seed=1):
  """Random images, RGB in 0..255."""
  rng = np.random.default_rng(seed)
  return rng.uniform(0, 255, (count, *size, 3)).astype(np.float32)


def labels(count=3, classes=5):
  """One-hot labels of different classes."""
  return np.eye(classes, dtype=np.float32)[np.arange(count) % classes]


def expected(model, inputs, one_hot):
  """Logits and gradients of a model, computed with a plain gradient tape."""
  inputs = tf.constant(inputs)
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    logits = model(inputs, training=False)
    score = tf.reduce_sum(logits * one_hot)
  return logits.numpy(), tape.gradient(score, inputs).numpy()


def weights_in(network):
  """Returns the number of a network's weights and their absolute sum."""
  weights = (
    network.parameters()
    if hasattr(network, 'parameters')
    else network.get_weights()
  )
  weights = np.concatenate([np.ravel(w) for w in weights])
  return weights.size, round(float(np.abs(weights).sum()), 2)
