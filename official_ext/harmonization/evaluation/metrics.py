"""Human-alignment metrics: in-graph, batched, with static shapes.

Per-image scores are functions of two batches of maps; a score that does not
exist (a constant map has no ranks to correlate) is NaN, and `AlignmentScore`
counts it instead of averaging it in.
"""

import tensorflow as tf, tf_keras


def _flatten(maps: tf.Tensor) -> tf.Tensor:
  maps = tf.cast(maps, tf.float32)
  maps.shape.assert_has_rank(3)
  return tf.reshape(maps, [-1, maps.shape[1] * maps.shape[2]])


def _running_max(x: tf.Tensor) -> tf.Tensor:
  """Maximum of all values so far, along the last axis, in log2(N) steps."""
  size = x.shape[-1]
  shift = 1
  while shift < size:
    shifted = tf.pad(
        x[:, :-shift], [[0, 0], [shift, 0]], constant_values=x.dtype.min)
    x = tf.maximum(x, shifted)
    shift *= 2
  return x


def _sorted_average_ranks(values: tf.Tensor) -> tf.Tensor:
  """Average ranks 1..N of values that are already sorted, ties sharing one."""
  size = values.shape[-1]
  positions = tf.broadcast_to(tf.range(size), tf.shape(values))
  differs = values[:, 1:] != values[:, :-1]
  starts = tf.pad(differs, [[0, 0], [1, 0]], constant_values=True)
  ends = tf.pad(differs, [[0, 0], [0, 1]], constant_values=True)
  first = _running_max(tf.where(starts, positions, 0))
  # The last position of a tie is the first one seen from the other end.
  mirrored = tf.reverse(tf.where(ends, size - 1 - positions, 0), [-1])
  last = size - 1 - tf.reverse(_running_max(mirrored), [-1])
  return 1. + tf.cast(first + last, tf.float32) / 2.


def spearman_correlation(maps_a: tf.Tensor, maps_b: tf.Tensor) -> tf.Tensor:
  """Spearman's rank correlation of two batches of maps, with average ranks.

  Equal to `scipy.stats.spearmanr` on the flattened maps. Human maps are mostly
  ties (zeros), so average ranks matter.

  Args:
    maps_a: float `Tensor` (B, H, W), H and W static.
    maps_b: float `Tensor` of the same shape.

  Returns:
    float32 `Tensor` (B,), in [-1, 1], NaN where either map is constant or holds
    a value that is not finite.
  """
  a, b = _flatten(maps_a), _flatten(maps_b)
  finite = tf.reduce_all(tf.math.is_finite(a) & tf.math.is_finite(b), axis=-1)
  order = tf.argsort(a)
  ranks_a = _sorted_average_ranks(tf.gather(a, order, batch_dims=1))
  b = tf.gather(b, order, batch_dims=1)
  order = tf.argsort(b)
  ranks_a = tf.gather(ranks_a, order, batch_dims=1)
  ranks_b = _sorted_average_ranks(tf.gather(b, order, batch_dims=1))
  # The mean rank is known exactly.
  middle = (a.shape[-1] + 1) / 2.
  ranks_a, ranks_b = ranks_a - middle, ranks_b - middle
  covariance = tf.reduce_sum(ranks_a * ranks_b, axis=-1)
  deviations = tf.sqrt(
      tf.reduce_sum(ranks_a**2, axis=-1)) * tf.sqrt(
          tf.reduce_sum(ranks_b**2, axis=-1))
  defined = finite & (deviations > 0)
  return tf.where(defined, covariance / tf.where(defined, deviations, 1.),
                  float('nan'))


def _above_percentile(maps: tf.Tensor, percentile: float) -> tf.Tensor:
  """Whether each pixel is strictly above the map's percentile (linear)."""
  maps = _flatten(maps)
  position = (maps.shape[-1] - 1) * percentile / 100.
  below = int(position)
  above = min(below + 1, maps.shape[-1] - 1)
  ordered = tf.sort(maps)
  low, high = ordered[:, below], ordered[:, above]
  threshold = low + (high - low) * (position - below)
  return maps > threshold[:, tf.newaxis]


def _overlap(maps_a, maps_b, percentile):
  """Pixels in both cut maps, in the first and in the second, each (B,)."""
  a = _above_percentile(maps_a, percentile)
  b = _above_percentile(maps_b, percentile)
  return tuple(
      tf.reduce_sum(tf.cast(cut, tf.float32), axis=-1) for cut in (a & b, a, b))


def _ratio(numerator, denominator):
  """Numerator / denominator, NaN where the denominator is 0."""
  return tf.where(denominator > 0,
                  tf.math.divide_no_nan(numerator, denominator), float('nan'))


def dice(maps_a: tf.Tensor,
         maps_b: tf.Tensor,
         percentile: float = 90.) -> tf.Tensor:
  """Dice coefficient of two batches of maps, cut above a percentile.

  Args:
    maps_a: float `Tensor` (B, H, W), H and W static.
    maps_b: float `Tensor` of the same shape.
    percentile: each map is cut strictly above its own value at this percentile.

  Returns:
    float32 `Tensor` (B,), in [0, 1], NaN where both cut maps are empty.
  """
  both, in_a, in_b = _overlap(maps_a, maps_b, percentile)
  return _ratio(2. * both, in_a + in_b)


def intersection_over_union(maps_a: tf.Tensor,
                            maps_b: tf.Tensor,
                            percentile: float = 90.) -> tf.Tensor:
  """Intersection over union of two batches of maps, cut above a percentile.

  Args:
    maps_a: float `Tensor` (B, H, W), H and W static.
    maps_b: float `Tensor` of the same shape.
    percentile: each map is cut strictly above its own value at this percentile.

  Returns:
    float32 `Tensor` (B,), in [0, 1], NaN where both cut maps are empty.
  """
  both, in_a, in_b = _overlap(maps_a, maps_b, percentile)
  return _ratio(both, in_a + in_b - both)


class AlignmentScore(tf_keras.metrics.Metric):
  """Streaming mean of per-image scores that may be undefined.

  Every image counts once, whatever the batch size, the padding or the number of
  replicas; undefined (NaN) scores are counted apart. The result is NaN, not 0,
  while nothing was scored.
  """

  def __init__(self, name: str = 'alignment', ceiling: float = 1., **kwargs):
    """Initializes the metric.

    Args:
      name: the metric's name.
      ceiling: the human score that counts as 1; the mean is divided by it.
      **kwargs: of `tf_keras.metrics.Metric`.
    """
    super().__init__(name=name, **kwargs)
    self.ceiling = ceiling
    self._total = self.add_weight('total', initializer='zeros')
    self.n = self.add_weight('n', initializer='zeros')
    self.n_undefined = self.add_weight('n_undefined', initializer='zeros')

  def update_state(self, scores, sample_weight=None):
    """Adds a batch of scores.

    Args:
      scores: float `Tensor` (B,), NaN where undefined.
      sample_weight: float `Tensor` (B,): rows of weight 0 do not count.
    """
    scores = tf.cast(scores, tf.float32)
    counts = tf.ones_like(scores)
    if sample_weight is not None:
      counts = tf.cast(sample_weight, tf.float32)
    undefined = tf.math.is_nan(scores)
    self._total.assign_add(
        tf.reduce_sum(tf.where(undefined, 0., scores * counts)))
    self.n.assign_add(tf.reduce_sum(tf.where(undefined, 0., counts)))
    self.n_undefined.assign_add(tf.reduce_sum(tf.where(undefined, counts, 0.)))

  def result(self):
    """Returns the mean score over the ceiling, a scalar."""
    return _ratio(self._total, self.n) / self.ceiling

  def get_config(self):
    """Returns the arguments that make this metric."""
    return {**super().get_config(), 'ceiling': self.ceiling}
