# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The adapter of networks that are TensorFlow callables."""

from collections.abc import Callable, Iterator
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import fresh_weights
from official_ext.harmonization.benchmark.adapters import graphs
from official_ext.harmonization.benchmark.adapters import keras_layers
from official_ext.harmonization.benchmark.adapters import layers
from official_ext.harmonization.benchmark.adapters import preprocessing


class TensorFlowAdapter(base.Adapter):
  """A callable `model(images, training=...)` that returns logits (B, C)."""

  def __init__(
    self,
    spec: str,
    name: str,
    input_size: tuple[int, int],
    prepare: preprocessing.Preprocessing,
    model: Callable[..., tf.Tensor],
    *,
    batch_size: int | None = None,
    assumed: bool = False,
  ):
    """Initializes the adapter.

    The network is traced here for its logits, and at the first use for its
    gradients.

    Args:
      spec: as in `base.Adapter`, like name, input_size, prepare and assumed.
      name: for tables.
      input_size: height and width.
      prepare: the preprocessing.
      model: a differentiable function from float32 images to logits.
      batch_size: the batch size that the network requires, if any.
      assumed: whether the preprocessing is a guess.

    Raises:
      ValueError: the network cannot be scored, see `base.Adapter._probe`.
    """
    super().__init__(spec, name, input_size, prepare, assumed=assumed)
    # Kept because traced functions do not keep variables alive.
    self._model = model
    self._batch_size = batch_size
    self._probe()

  def parameters(self) -> Iterator[np.ndarray]:
    """Yields the weights, without the state of random generators."""
    model = self._model
    # Keras's `variables` include random seeds, its `weights` do not.
    for variable in getattr(model, 'weights', getattr(model, 'variables', ())):
      yield np.asarray(variable.numpy())

  def randomize(self, seed: int):
    """See `base.Adapter`; unavailable for a SavedModel."""
    fresh_weights.redraw_keras(self.spec, self._model, seed)

  def _weights_by_layer(self):
    if not hasattr(self._model, '_flatten_layers'):
      return []  # Such as a SavedModel, which cannot be randomized.
    return fresh_weights.keras_layers(self._model)

  def _assign(self, layers):
    weights: Any = layers and self._model.weights
    for layer in layers:
      for index, values in layer.items():
        weights[index].assign(values)

  # The batch size is open, so that a smaller last batch needs no new trace. The
  # functions are concrete, because TensorFlow would count the traces of several
  # networks as retraces of one function, and warn.
  @functools.cached_property
  def _forward(self):
    return tf.function(
      lambda x: tf.cast(self._model(x, training=False), tf.float32)
    ).get_concrete_function(self._images)

  @functools.cached_property
  def _backward(self):
    labels = tf.TensorSpec([self._batch_size, self.num_classes])

    # Not ops.saliency, whose result can be differentiated again: TensorFlow
    # would keep that graph, and the network, until the process ends.
    def differentiate(images, one_hot):
      with tf.GradientTape() as tape:
        tape.watch(images)
        logits = tf.cast(self._model(images, training=False), tf.float32)
        score = tf.reduce_sum(logits * one_hot)
      return logits, tape.gradient(score, images)

    return tf.function(differentiate).get_concrete_function(
      self._images, labels
    )

  @property
  def _images(self):
    return tf.TensorSpec([self._batch_size, *self.input_size, 3])

  def _last_operation(self) -> str:
    return graphs.last_operation(self._forward)

  def _epsilon(self) -> float:
    return self._precision

  @functools.cached_property
  def _precision(self) -> float:
    return base.ROUNDING[graphs.narrowest_type(self._forward)]

  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    return self._in_batches(self._forward, inputs)[0]

  def _logits_and_gradients(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    if self._backward.structured_outputs[1] is None:
      raise base.no_gradient(self.spec)
    logits, gradients = self._in_batches(self._backward, inputs, labels)
    return logits, gradients

  def _layer_outputs(self, inputs: np.ndarray) -> list[layers.Output]:
    return keras_layers.outputs(
      self._model, tf.constant(inputs), self.input_size
    )

  def _activations(
    self, inputs: np.ndarray, labels: np.ndarray, layer: str
  ) -> tuple[np.ndarray, np.ndarray]:
    layers.require_name(layer, keras_layers.named(self._model))
    if layer not in self._activations_of:
      one_hot = tf.TensorSpec([self._batch_size, self.num_classes])
      self._activations_of[layer] = tf.function(
        lambda x, y: keras_layers.activations(self._model, x, y, layer)
      ).get_concrete_function(self._images, one_hot)
    function = self._activations_of[layer]
    if function.structured_outputs[0] is None:
      raise layers.not_spatial(layer)
    if function.structured_outputs[1] is None:
      raise layers.without_effect(layer)
    found, gradients = self._in_batches(function, inputs, labels)
    return found, gradients

  @functools.cached_property
  def _activations_of(self) -> dict[str, Any]:
    return {}

  def _attention(
    self, inputs: np.ndarray
  ) -> tuple[list[np.ndarray], np.ndarray | None]:
    keras_layers.named(self._model)  # Raises if the model is not one of Keras.
    if self._attend.structured_outputs[1] is None:
      return [], None
    *weights, sensitivity = self._in_batches(self._attend, inputs)
    return weights, sensitivity

  @functools.cached_property
  def _attend(self):
    return tf.function(
      lambda x: keras_layers.attention(self._model, x)
    ).get_concrete_function(self._images)

  def _in_batches(self, function, *arrays) -> list[np.ndarray]:
    """Calls a function on batches of the size that the network requires."""
    count = len(arrays[0])
    size = self._batch_size or count
    padded = [
      np.pad(a, [(0, -count % size)] + [(0, 0)] * (a.ndim - 1), mode='edge')
      for a in arrays
    ]
    results = []
    for i in range(0, count, size):
      batch = function(*(tf.constant(a[i : i + size]) for a in padded))
      results.append([r.numpy() for r in tf.nest.flatten(batch)])
    return [np.concatenate(parts)[:count] for parts in zip(*results)]
