# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Observes the layers of a Keras model while it computes."""

from collections.abc import Callable, Sequence
import contextlib
from typing import Any

import tensorflow as tf

from official_ext.harmonization.benchmark.adapters import layers


def named(model: Any) -> dict[str, Any]:
  """Returns all layers of a model by name; a repeated name gets a number.

  Args:
    model: of tf_keras or Keras 3.

  Raises:
    layers.Unsuitable: the model is not one of Keras.
  """
  if not hasattr(model, '_flatten_layers'):
    raise layers.inaccessible()
  found: dict[str, Any] = {}
  known = set()
  for layer in model._flatten_layers(include_self=False):
    if id(layer) not in known:
      known.add(id(layer))
      name, count = layer.name, 1
      while name in found:
        count += 1
        name = f'{layer.name}.{count}'
      found[name] = layer
  return found


@contextlib.contextmanager
def observed(
  model: Any,
  on_output: Callable[[str, Any], None],
  on_attention: Callable[[Any], None] | None = None,
):
  """Observes the layers of a model for the duration of a `with` statement.

  Args:
    model: of tf_keras or Keras 3.
    on_output: called with the name and the output of each layer, as soon as it
      is computed.
    on_attention: called with the attention weights (B, heads, T, T) of each
      MultiHeadAttention, and with what other layers return like them.

  Raises:
    layers.Unsuitable: the model is not one of Keras.
  """
  changed = []

  def wrap(layer, method, observe):
    changed.append((layer, method, vars(layer).get(method)))
    setattr(layer, method, _observing(getattr(layer, method), observe))

  def of_attention(result):
    if on_attention and result[1] is not None:
      on_attention(result[1])

  try:
    for name, layer in named(model).items():
      has_weights = hasattr(layer, '_compute_attention')
      if has_weights:
        wrap(layer, '_compute_attention', of_attention)

      def of_call(result, name=name, has_weights=has_weights):
        on_output(name, result)
        if on_attention and not has_weights and isinstance(result, tuple):
          for value in result[1:]:
            if len(getattr(value, 'shape', ())) == 4:
              on_attention(value)

      wrap(layer, 'call', of_call)
    yield
  finally:
    for layer, method, before in changed:
      # Layers of single operations have their own function.
      if before is None:
        delattr(layer, method)
      else:
        setattr(layer, method, before)


def _observing(function: Callable[..., Any], observe: Callable[[Any], None]):
  """Returns a function whose results are observed."""

  def observing(*args, **kwargs):
    result = function(*args, **kwargs)
    observe(result)
    return result

  return observing


def outputs(
  model: Any, images: tf.Tensor, size: Sequence[int]
) -> list[layers.Output]:
  """Describes the outputs of all layers of a model, in order.

  Args:
    model: of tf_keras or Keras 3.
    images: float32 (B, height, width, 3).
    size: height and width.

  Raises:
    layers.Unsuitable: the model is not one of Keras.
  """
  found = []
  known = named(model)

  def observe(name, result):
    if hasattr(result, 'shape'):
      found.append(
        layers.output(
          name,
          tuple(result.shape),
          size,
          channels_first=False,
          is_pooled='pool' in type(known[name]).__name__.lower(),
        )
      )

  with observed(model, observe):
    model(images, training=False)
  return found


def activations(
  model: Any, images: tf.Tensor, one_hot: tf.Tensor, layer: str
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
  """Computes a layer's output and the gradients of the scores; for tf.function.

  Args:
    model: of tf_keras or Keras 3.
    images: float32 (B, height, width, 3).
    one_hot: float32 (B, classes).
    layer: its name.

  Returns:
    Two tensors, float32 (B, rows, columns, channels). The first is None if the
    output has another form, and the second if the logits do not depend on it.
  """
  kept: list[Any] = []

  def observe(name, result):
    if name == layer:
      kept[:] = [result]

  with tf.GradientTape() as tape:
    tape.watch(images)
    with observed(model, observe):
      logits = tf.cast(model(images, training=False), tf.float32)
    score = tf.reduce_sum(logits * one_hot)
  if not kept or len(getattr(kept[0], 'shape', ())) != 4:
    return None, None
  gradient = tape.gradient(score, kept[0])
  if gradient is not None:
    gradient = tf.cast(gradient, tf.float32)
  return tf.cast(kept[0], tf.float32), gradient


def attention(
  model: Any, images: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor | None]:
  """Computes attention weights and the sensitivity to tokens; for tf.function.

  Args:
    model: of tf_keras or Keras 3.
    images: float32 (B, height, width, 3).

  Returns:
    The weights and the sensitivity, as `layers.attention` takes them.

  Raises:
    layers.Unsuitable: the model is not one of Keras.
  """
  weights: list[tf.Tensor] = []
  tokens: list[tf.Tensor] = []

  def observe(unused_name, result):
    if tf.is_tensor(result) and len(result.shape) == 3:
      tokens[:] = [result]

  def observe_attention(found):
    if not any(found is w for w in weights):
      weights.append(found)

  with tf.GradientTape() as tape:
    tape.watch(images)
    with observed(model, observe, observe_attention):
      logits = tf.cast(model(images, training=False), tf.float32)
    total = tf.reduce_sum(logits)
  gradient = tape.gradient(total, tokens[0]) if tokens else None
  sensitivity = None
  if gradient is not None:
    sensitivity = tf.norm(tf.cast(gradient, tf.float32), axis=-1)
  return [
    tf.reduce_mean(tf.cast(w, tf.float32), axis=1) for w in weights
  ], sensitivity
