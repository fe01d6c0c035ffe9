# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Streaming alignment with other images' human maps, and what exceeds it.

Human maps of different images resemble each other, because people look at the
centre of most images. A map that ignores its image therefore correlates with
them. Let r be a map's ranks, centred and scaled to unit norm, s_i the model map
and h_i the human map of image i out of n:

  own      = mean over i of r(s_i) . r(h_i)
  shuffled = mean over i and j != i of r(s_i) . r(h_j)
  specific = own - shuffled, which is 0 for a map that ignores the image.

The sum over all pairs is S . H, with S and H the sums of r(s_i) and of r(h_i),
so one pass over the images and two vectors of a map's size are sufficient.

  shuffled = ShuffledAlignment(pixels=224 * 224)
  specific = SpecificAlignment(shuffled)
  scores, ranks = metrics.scores_and_ranks(model_maps, human_maps)
  shuffled.update_state(ranks, scores.spearman)
  specific.result()
"""

import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.evaluation import metrics


def _dtype_of_sums() -> tf.DType:
  """Returns float64; float32 on a TPU, which has no float64 units."""
  # In float32, each addition to a sum of n terms rounds by up to n / 2**24
  # terms, and equal terms all round alike. With 17,000 maps of two values each,
  # this changed the result by 2e-4 at one image per batch and by 2e-6 at 64.
  on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
  return tf.float32 if on_tpu else tf.float64


class ShuffledAlignment(tf_keras.metrics.Metric):
  """Streaming mean rank correlation with the human maps of other images.

  Every ordered pair of two images counts once, whatever the batch size, padding
  or number of replicas. The result is NaN before there are two images.

  Attributes:
    pixels: number of pixels of a map, H * W.
  """

  def __init__(self, pixels: int, name: str = 'alignment_shuffled', **kwargs):
    """Initializes the metric.

    Args:
      pixels: number of pixels of a map, H * W.
      name: of the metric.
      **kwargs: for `tf_keras.metrics.Metric`.
    """
    super().__init__(name=name, **kwargs)
    self.pixels = pixels

    def add_sum(name, shape=()):
      # A read in cross-replica context adds the sums of all replicas, so
      # `result` multiplies the total sums.
      return self.add_weight(
        name, shape, initializer='zeros', dtype=_dtype_of_sums()
      )

    self._model_ranks = add_sum('model_ranks', (pixels,))
    self._human_ranks = add_sum('human_ranks', (pixels,))
    self._own = add_sum('own')
    self._n = add_sum('n')

  # AutoGraph would take longer to convert it than it takes to trace.
  @tf.autograph.experimental.do_not_convert
  def update_state(self, ranks: metrics.UnitRanks, own, sample_weight=None):
    """Adds a batch of images.

    Args:
      ranks: from `metrics.scores_and_ranks`.
      own: float `Tensor` (B,), each image's correlation with its own human map;
        NaN where undefined.
      sample_weight: float `Tensor` (B,), 0 or 1; rows of 0 do not count.
    """
    counts = tf.cast(~tf.math.is_nan(own), self._n.dtype)
    if sample_weight is not None:
      counts *= tf.cast(sample_weight, counts.dtype)

    def total(rows):
      return tf.reduce_sum(
        tf.cast(rows, counts.dtype) * counts[:, tf.newaxis], axis=0
      )

    self._model_ranks.assign_add(total(ranks.model))
    self._human_ranks.assign_add(total(ranks.human))
    own = tf.where(counts > 0, tf.cast(own, counts.dtype), 0.0)
    self._own.assign_add(tf.reduce_sum(own))
    self._n.assign_add(tf.reduce_sum(counts))

  @tf.autograph.experimental.do_not_convert
  def own_and_shuffled(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns both means, scalars; NaN if there are fewer than two images."""
    n = tf.convert_to_tensor(self._n)
    own = tf.math.divide_no_nan(tf.convert_to_tensor(self._own), n)
    # Not a matrix product, whose factors a TPU rounds to bfloat16.
    all_pairs = tf.reduce_sum(
      tf.math.divide_no_nan(tf.convert_to_tensor(self._model_ranks), n)
      * tf.math.divide_no_nan(tf.convert_to_tensor(self._human_ranks), n)
    )
    shuffled = tf.math.divide_no_nan(n * all_pairs - own, n - 1.0)
    return tuple(
      tf.cast(tf.where(n < 2.0, float('nan'), x), tf.float32)
      for x in (own, shuffled)
    )

  def result(self):
    """Returns the mean over all pairs of two images, a scalar."""
    return self.own_and_shuffled()[1]

  def reset_state(self):
    """Sets all sums to 0."""
    # The base class assigns a scalar, which a vector does not take.
    for variable in self.variables:
      variable.assign(np.zeros(variable.shape, variable.dtype.as_numpy_dtype))

  def get_config(self):
    """Returns the arguments of the constructor."""
    return {**super().get_config(), 'pixels': self.pixels}


class SpecificAlignment(tf_keras.metrics.Metric):
  """Streaming mean of own minus shuffled, from the sums of another metric."""

  def __init__(
    self,
    shuffled: ShuffledAlignment,
    name: str = 'alignment_specific',
    **kwargs,
  ):
    """Initializes the metric.

    Args:
      shuffled: the metric that is updated and reset.
      name: of the metric.
      **kwargs: for `tf_keras.metrics.Metric`.
    """
    super().__init__(name=name, **kwargs)
    self._shuffled = shuffled

  def update_state(self):
    """Does nothing; `shuffled` is updated."""
    return  # AutoGraph cannot convert a function without a statement.

  def result(self):
    """Returns own minus shuffled, a scalar."""
    own, shuffled = self._shuffled.own_and_shuffled()
    return own - shuffled

  def reset_state(self):
    """Does nothing; `shuffled` is reset."""
