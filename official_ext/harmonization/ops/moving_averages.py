# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Moving averages of batch normalization for a batch that is split in two."""

import math
from typing import NamedTuple

import tensorflow as tf


class _Averages(NamedTuple):
  """Moving mean and moving variance of one layer."""

  mean: tf.Tensor
  variance: tf.Tensor


def _values_per_image(layer) -> int | None:
  """Returns how many values per channel an image has in a layer, if known."""
  shape = getattr(layer, '_build_input_shape', None)
  if shape is None:
    return None
  shape, axis = list(tf.TensorShape(shape)), layer.axis
  axes = {a % len(shape) for a in ([axis] if isinstance(axis, int) else axis)}
  sizes = [n for i, n in enumerate(shape) if i and i not in axes]
  return None if None in sizes else math.prod(sizes)


class TwoParts:
  """Updates a model's moving averages once for the two parts of a batch.

  The pass over each part updates them. Without correction, the decay would
  apply twice and the second part would weigh more. Instead,

    averages = TwoParts(model, images)
    model(images[:first], training=True)
    averages.between()
    model(images[first:], training=True)
    averages.pool(first, others)

  gives the same result as one pass over all rows: a single update with the mean
  and variance of all rows. For a fraction w1 of the rows with mean m1 and
  variance v1, and a fraction w2 = 1 - w1 with m2 and v2, these are

    mean      w1 m1 + w2 m2
    variance  w1 v1 + w2 v2 + w1 w2 (m1 - m2)^2.

  It applies to all layers with `moving_mean`, `moving_variance` and `momentum`
  as in `tf_keras.layers.BatchNormalization`, except those with `renorm`, whose
  variance is not an average. Each replica updates its own averages;
  synchronized layers have the statistics of all replicas.
  """

  def __init__(self, model, images: tf.Tensor):
    """Stores the averages before the first part.

    Args:
      model: a Keras model, or any callable.
      images: the batch, which builds the model if it was never called.
    """
    modules = getattr(model, 'submodules', ())
    if any(
      hasattr(layer, 'moving_mean_initializer') and not layer.built
      for layer in modules
    ):
      model(images[:1], training=False)
      modules = model.submodules
    self._layers = [
      layer
      for layer in modules
      if all(
        getattr(layer, name, None) is not None
        for name in ('moving_mean', 'moving_variance', 'momentum')
      )
      and not getattr(layer, 'renorm', False)
    ]
    self._before = self._read()
    self._first = []  # Set by `between`.

  def __bool__(self):
    return bool(self._layers)

  def _read(self) -> list[_Averages]:
    return [
      _Averages(
        layer.moving_mean.read_value(), layer.moving_variance.read_value()
      )
      for layer in self._layers
    ]

  def between(self):
    """Stores the averages after the first part and restores the old ones."""
    self._first = self._read()
    for layer, before in zip(self._layers, self._before):
      layer.moving_mean.assign(before.mean)
      layer.moving_variance.assign(before.variance)

  def pool(self, first: int, second: int):
    """Updates the averages with the statistics of both parts.

    Args:
      first: number of images in the first part.
      second: number of images in the second part.
    """
    for layer, before, one, two in zip(
      self._layers, self._before, self._first, self._read()
    ):
      pooled = _pool(layer, before, one, two, first, second)
      layer.moving_mean.assign(pooled.mean)
      layer.moving_variance.assign(pooled.variance)


def _pool(
  layer,
  before: _Averages,
  one: _Averages,
  two: _Averages,
  first: int,
  second: int,
) -> _Averages:
  """Returns the averages of a layer after one update with both parts."""
  # TensorFlow's fused kernel averages unbiased variances.
  values = _values_per_image(layer) if getattr(layer, 'fused', False) else None
  unbiased = 1 if values else 0
  n1, n2 = (n * (values or 1) for n in (first, second))
  n = n1 + n2
  mean = (n1 * one.mean + n2 * two.mean) / n
  decay = layer.momentum

  def share(updated, part):
    # (1 - decay) times the part's contribution to the variance of all rows.
    return (
      (part - unbiased)
      / (n - unbiased)
      * (updated.variance - decay * before.variance)
    )

  # The averages differ by (1 - decay) times the difference of the means.
  between = (
    n1
    * n2
    / (n * (n - unbiased))
    * tf.math.divide_no_nan(
      tf.square(one.mean - two.mean), tf.cast(1.0 - decay, mean.dtype)
    )
  )
  variance = decay * before.variance + share(one, n1) + share(two, n2) + between

  def where_updated(new, name):
    # A layer that is frozen or in inference mode does not update its averages.
    old = getattr(before, name)
    same = (getattr(one, name) == old) & (getattr(two, name) == old)
    return tf.where(same, old, new)

  return _Averages(
    where_updated(mean, 'mean'), where_updated(variance, 'variance')
  )
