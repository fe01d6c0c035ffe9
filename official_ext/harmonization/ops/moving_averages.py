"""Moving averages of batch normalization, where a batch passes in two parts."""

import math
from typing import NamedTuple

import tensorflow as tf


class _Averages(NamedTuple):
  """The moving averages of one layer: of the mean and of the variance."""

  mean: tf.Tensor
  variance: tf.Tensor


def _values_per_image(layer) -> int | None:
  """How many values of a channel an image has in a layer, if it is known."""
  shape = getattr(layer, '_build_input_shape', None)
  if shape is None:
    return None
  shape, axis = list(tf.TensorShape(shape)), layer.axis
  axes = {a % len(shape) for a in ([axis] if isinstance(axis, int) else axis)}
  sizes = [n for i, n in enumerate(shape) if i and i not in axes]
  return None if None in sizes else math.prod(sizes)


class TwoParts:
  """One update of a model's moving averages for the two parts of a batch.

  Each pass over a part updates them on its own. Applied one after the other,
  the decay would count twice and the last part too much. Instead:

    averages = TwoParts(model, images)
    model(images[:first], training=True)
    averages.between()
    model(images[first:], training=True)
    averages.pool(first, others)

  leaves what one pass over all rows would: a single update by the mean and
  variance of all of them. With a part w1 of mean m1 and variance v1, and a part
  w2 = 1 - w1,

    mean      w1 m1 + w2 m2
    variance  w1 v1 + w2 v2 + w1 w2 (m1 - m2)^2.

  The layers are all that have `moving_mean`, `moving_variance` and a `momentum`
  as `tf_keras.layers.BatchNormalization` has, except with `renorm`, whose
  variance is not an average. In replicas, those of the replica; synchronized
  layers have the statistics of all.
  """

  def __init__(self, model, images: tf.Tensor):
    """Remembers the averages before the first part.

    Args:
      model: a Keras model, or any callable.
      images: of the batch. A model that was never called has no averages yet,
        and is built by them.
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
    self._first = None

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
    """Takes the averages of the first part and puts the old ones back."""
    self._first = self._read()
    for layer, before in zip(self._layers, self._before):
      layer.moving_mean.assign(before.mean)
      layer.moving_variance.assign(before.variance)

  def pool(self, first: int, second: int):
    """Updates the averages by the statistics of both parts.

    Args:
      first: images of the first part.
      second: images of the second part.
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
  """The averages of a layer after one update by both parts."""
  # TensorFlow's fused kernel averages unbiased variances.
  values = _values_per_image(layer) if getattr(layer, 'fused', False) else None
  unbiased = 1 if values else 0
  n1, n2 = (n * (values or 1) for n in (first, second))
  n = n1 + n2
  mean = (n1 * one.mean + n2 * two.mean) / n
  decay = layer.momentum

  def share(updated, part):
    # (1 - decay) times the part's variance, as it counts among all.
    return (
      (part - unbiased)
      / (n - unbiased)
      * (updated.variance - decay * before.variance)
    )

  # The averages differ by (1 - decay) times what the means do.
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
    # A layer that is frozen, or that runs in inference mode, updates nothing.
    old = getattr(before, name)
    same = (getattr(one, name) == old) & (getattr(two, name) == old)
    return tf.where(same, old, new)

  return _Averages(
    where_updated(mean, 'mean'), where_updated(variance, 'variance')
  )
