# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Human-alignment metrics in the graph: batched, with static shapes.

`alignment_scores` computes all per-image scores of two batches of maps with one
sort per map; `spearman_correlation`, `dice` and `intersection_over_union`
return one of them. Undefined scores are NaN; `AlignmentScore` counts them and
excludes them from its mean. `scores_and_ranks` also returns the ranks, from
which `evaluation.shuffled` compares maps of different images.

All scores are undefined where either map is constant or has a value that is not
finite. Dice and IoU are also undefined where both cut maps are empty, AUC and
the pointing game where the cut human map is. A map is cut strictly above its
percentile, so the cut is empty if the largest value occurs too often.

  rho = metrics.spearman_correlation(model_maps, human_maps)  # (B,)
"""

from typing import NamedTuple

import tensorflow as tf
import tf_keras


class ImageScores(NamedTuple):
  """Per-image scores, float32 `Tensor`s (B,), NaN where undefined.

  Attributes:
    spearman: Spearman's rank correlation with average ranks, in [-1, 1].
    dice: Dice coefficient of the cut maps, in [0, 1].
    iou: intersection over union of the cut maps, in [0, 1].
    auc: area under the ROC curve of the first map's values, for telling the
      pixels of the second cut map from the others, in [0, 1].
    pointing: 1 if the first map's maximum (the first of equal ones, row by row)
      lies in the second cut map, else 0.
  """

  spearman: tf.Tensor
  dice: tf.Tensor
  iou: tf.Tensor
  auc: tf.Tensor
  pointing: tf.Tensor


class UnitRanks(NamedTuple):
  """Centred average ranks of both maps, each map's scaled to unit norm.

  The dot product of a row of `model` and a row of `human` is Spearman's rank
  correlation of these two maps, also if they belong to different images.

  Attributes:
    model: float32 (B, H * W), in the order of pixels; 0 in a row in which
      either map has no ranks.
    human: of the same shape, 0 in the same rows.
  """

  model: tf.Tensor
  human: tf.Tensor


class _Ranked(NamedTuple):
  """A batch of maps, sorted by their N values.

  Attributes:
    pixels: int32 (B, N), the position of each value in its map.
    ranks: int64 (B, N), average ranks r of 1..N as 2 r - (N + 1): whole numbers
      whose mean is 0.
    norm: float32 (B,), the Euclidean norm of `ranks`.
    cut: bool (B, N), whether each is strictly above the percentile.
    threshold: int32 (B, 1), the order key of the percentile.
    varies: bool (B,), whether the values differ.
  """

  pixels: tf.Tensor
  ranks: tf.Tensor
  norm: tf.Tensor
  cut: tf.Tensor
  threshold: tf.Tensor
  varies: tf.Tensor


class _RankedPair(NamedTuple):
  """Two batches of maps and their ranks.

  Attributes:
    keys_a: int32 (B, N), the order keys of the first maps.
    keys_b: int32 (B, N), those of the human maps.
    human: the human maps, sorted.
    model: the first maps, sorted; its `pixels` are positions in `human`.
    defined: bool (B,), whether both maps have ranks.
  """

  keys_a: tf.Tensor
  keys_b: tf.Tensor
  human: _Ranked
  model: _Ranked
  defined: tf.Tensor


def _flatten(maps: tf.Tensor) -> tf.Tensor:
  maps = tf.cast(maps, tf.float32)
  maps.shape.assert_has_rank(3)
  return tf.reshape(maps, [-1, maps.shape[1] * maps.shape[2]])


def _flip_negative(bits: tf.Tensor) -> tf.Tensor:
  """Converts float32 bits to an int32 of the same order, and back."""
  return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 0x7FFFFFFF), bits)


def _order_keys(values: tf.Tensor) -> tf.Tensor:
  """Returns int32 keys in the order of float32 values; 0 equals -0."""
  bits = tf.bitcast(values, tf.int32)
  bits = tf.where(tf.equal(bits, tf.int32.min), 0, bits)
  return _flip_negative(bits)


def _sort(keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns sorted keys and their positions, int32 (B, N)."""
  size = keys.shape[-1]
  # Key and position are packed into one int64, which TPU, XLA and plain kernels
  # all sort fast; sorting indices along takes XLA on a CPU twice as long.
  shift = tf.constant((size - 1).bit_length(), tf.int64)
  packed = tf.bitwise.left_shift(tf.cast(keys, tf.int64), shift)
  ordered = tf.sort(packed | tf.range(size, dtype=tf.int64))
  keys = tf.bitwise.right_shift(ordered, shift)
  pixels = ordered - tf.bitwise.left_shift(keys, shift)
  return tf.cast(keys, tf.int32), tf.cast(pixels, tf.int32)


def _doubled_ranks(ordered: tf.Tensor) -> tf.Tensor:
  """Returns average ranks r of sorted values, as 2 r - (N + 1)."""
  batch, size = tf.shape(ordered)[0], ordered.shape[-1]
  differs = tf.pad(ordered[:, 1:] != ordered[:, :-1], [[0, 0], [1, 0]])
  ties = tf.cumsum(tf.cast(differs, tf.int32), axis=-1)
  ties += tf.range(batch)[:, tf.newaxis] * (size + 1)
  # The start of each run of equal values; N after the last run of a row.
  starts = tf.math.unsorted_segment_min(
    tf.broadcast_to(tf.range(size), tf.shape(ties)), ties, batch * (size + 1)
  )
  starts = tf.minimum(starts, size)
  return tf.cast(
    tf.gather(starts, ties) + tf.gather(starts, ties + 1) - size, tf.int64
  )


def _threshold(ordered: tf.Tensor, percentile: float) -> tf.Tensor:
  """Returns the order key (B, 1) of the percentile, as numpy's 'linear'."""
  position = (ordered.shape[-1] - 1) * percentile / 100.0
  below = int(position)
  above = min(below + 1, ordered.shape[-1] - 1)
  low, high = (
    tf.bitcast(_flip_negative(ordered[:, i : i + 1]), tf.float32)
    for i in (below, above)
  )
  return _order_keys(low + (high - low) * (position - below))


def _rank(keys: tf.Tensor, percentile: float) -> _Ranked:
  ordered, pixels = _sort(keys)
  threshold = _threshold(ordered, percentile)
  ranks = _doubled_ranks(ordered)
  return _Ranked(
    pixels,
    ranks,
    tf.sqrt(_product(ranks, ranks)),
    ordered > threshold,
    threshold,
    ordered[:, 0] < ordered[:, -1],
  )


def _count(which: tf.Tensor) -> tf.Tensor:
  return tf.reduce_sum(tf.cast(which, tf.float32), axis=-1)


def _ratio(numerator, denominator, defined=True):
  """Divides; NaN where the denominator is 0 or `defined` is False."""
  return tf.where(
    defined & (denominator > 0),
    tf.math.divide_no_nan(numerator, denominator),
    float('nan'),
  )


def _product(ranks_a: tf.Tensor, ranks_b: tf.Tensor) -> tf.Tensor:
  """Returns sums of products; int64, because float32 sums would be rounded."""
  if ranks_a.shape[-1] > 2**21:  # A sum of squares, N**3 / 3, overflows int64.
    ranks_a, ranks_b = (tf.cast(r, tf.float64) for r in (ranks_a, ranks_b))
  return tf.cast(tf.reduce_sum(ranks_a * ranks_b, axis=-1), tf.float32)


def _rank_pair(maps_a, maps_b, percentile: float) -> _RankedPair:
  a, b = _flatten(maps_a), _flatten(maps_b)
  finite = tf.reduce_all(tf.math.is_finite(a) & tf.math.is_finite(b), axis=-1)
  keys_a, keys_b = _order_keys(a), _order_keys(b)
  # The human map is sorted first: it is smooth and therefore partly sorted. The
  # model's map is then ranked in that order, which does not change its ranks.
  human = _rank(keys_b, percentile)
  model = _rank(tf.gather(keys_a, human.pixels, batch_dims=1), percentile)
  defined = finite & human.varies & model.varies
  return _RankedPair(keys_a, keys_b, human, model, defined)


def _scores(pair: _RankedPair) -> ImageScores:
  keys_a, keys_b, human, model, defined = pair
  size = keys_a.shape[-1]
  ranks_b = tf.gather(human.ranks, model.pixels, batch_dims=1)

  in_a, in_b = _count(model.cut), _count(human.cut)
  # The cut of a sorted map is its last part.
  cut_b = model.pixels >= size - tf.cast(in_b, tf.int32)[:, tf.newaxis]
  both = _count(model.cut & cut_b)

  pairs = in_b * (size - in_b)
  excess = _product(model.ranks, tf.cast(cut_b, tf.int64))
  peak = tf.argmax(keys_a, axis=-1)[:, tf.newaxis]
  hit = tf.gather(keys_b, peak, batch_dims=1) > human.threshold
  return ImageScores(
    spearman=_ratio(
      _product(model.ranks, ranks_b), model.norm * human.norm, defined
    ),
    dice=_ratio(2.0 * both, in_a + in_b, defined),
    iou=_ratio(both, in_a + in_b - both, defined),
    auc=0.5 + _ratio(excess, 2.0 * pairs, defined),
    pointing=tf.where(defined & (in_b > 0), _count(hit), float('nan')),
  )


def _unit_ranks(
  ranked: _Ranked, pixels: tf.Tensor, defined: tf.Tensor
) -> tf.Tensor:
  """Returns scaled ranks (B, N), moved to `pixels`; 0 if not `defined`."""
  batch, size = tf.shape(pixels)[0], pixels.shape[-1]
  unit = tf.where(
    defined[:, tf.newaxis],
    tf.math.divide_no_nan(
      tf.cast(ranked.ranks, tf.float32), ranked.norm[:, tf.newaxis]
    ),
    0.0,
  )
  # Each pixel receives one value, so nothing is summed; this is the fastest
  # scatter of TensorFlow on a CPU, more than three times as fast as scatter_nd.
  flat = tf.math.unsorted_segment_sum(
    tf.reshape(unit, [-1]),
    tf.reshape(pixels + tf.range(batch)[:, tf.newaxis] * size, [-1]),
    batch * size,
  )
  return tf.reshape(flat, [-1, size])


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def alignment_scores(
  maps_a: tf.Tensor, maps_b: tf.Tensor, percentile: float = 90.0
) -> ImageScores:
  """Computes all per-image scores of two batches of maps.

  Spearman's rho equals `scipy.stats.spearmanr` on the flattened maps, with
  average ranks (most values of human maps are ties). Dice and IoU equal those
  of `harmonization` 0.0.9, AUC equals `sklearn.metrics.roc_auc_score`, and the
  pointing game is that of Zhang et al., ECCV 2016, without a margin.

  Args:
    maps_a: float `Tensor` (B, H, W) with static H and W, or a value that
      converts to one: the model's maps.
    maps_b: the human maps, of the same shape.
    percentile: each map is cut strictly above its value at this percentile.

  Returns:
    The scores. The docstring of the module says where they are NaN.
  """
  return _scores(_rank_pair(maps_a, maps_b, percentile))


@tf.autograph.experimental.do_not_convert
def scores_and_ranks(
  maps_a: tf.Tensor, maps_b: tf.Tensor, percentile: float = 90.0
) -> tuple[ImageScores, UnitRanks]:
  """Computes all per-image scores, and the ranks that they are computed from.

  Args:
    maps_a: as in `alignment_scores`.
    maps_b: as in `alignment_scores`.
    percentile: as in `alignment_scores`.

  Returns:
    The result of `alignment_scores`, and the ranks of both maps.
  """
  pair = _rank_pair(maps_a, maps_b, percentile)
  human, model = pair.human, pair.model
  ranks = UnitRanks(
    model=_unit_ranks(
      model, tf.gather(human.pixels, model.pixels, batch_dims=1), pair.defined
    ),
    human=_unit_ranks(human, human.pixels, pair.defined),
  )
  return _scores(pair), ranks


def spearman_correlation(maps_a: tf.Tensor, maps_b: tf.Tensor) -> tf.Tensor:
  """Computes Spearman's rank correlation of two batches of maps.

  Args:
    maps_a: as in `alignment_scores`.
    maps_b: as in `alignment_scores`.

  Returns:
    float32 `Tensor` (B,), in [-1, 1], NaN where undefined.
  """
  return alignment_scores(maps_a, maps_b).spearman


def dice(
  maps_a: tf.Tensor, maps_b: tf.Tensor, percentile: float = 90.0
) -> tf.Tensor:
  """Computes the Dice coefficient of two batches of cut maps.

  Args:
    maps_a: as in `alignment_scores`.
    maps_b: as in `alignment_scores`.
    percentile: as in `alignment_scores`.

  Returns:
    float32 `Tensor` (B,), in [0, 1], NaN where undefined.
  """
  return alignment_scores(maps_a, maps_b, percentile).dice


def intersection_over_union(
  maps_a: tf.Tensor, maps_b: tf.Tensor, percentile: float = 90.0
) -> tf.Tensor:
  """Computes the intersection over union of two batches of cut maps.

  Args:
    maps_a: as in `alignment_scores`.
    maps_b: as in `alignment_scores`.
    percentile: as in `alignment_scores`.

  Returns:
    float32 `Tensor` (B,), in [0, 1], NaN where undefined.
  """
  return alignment_scores(maps_a, maps_b, percentile).iou


class AlignmentScore(tf_keras.metrics.Metric):
  """Streaming mean of per-image scores, some of which may be undefined.

  Each image counts once, whatever the batch size, padding or number of
  replicas. Undefined (NaN) scores are excluded and counted separately. The
  result is NaN, not 0, before the first defined score.

  Attributes:
    ceiling: the human score that counts as 1.
    n: number of defined scores, a variable.
    n_undefined: number of undefined scores, a variable.
  """

  def __init__(self, name: str = 'alignment', ceiling: float = 1.0, **kwargs):
    """Initializes the metric.

    Args:
      name: of the metric.
      ceiling: the human score that counts as 1; the mean is divided by it.
      **kwargs: for `tf_keras.metrics.Metric`.
    """
    super().__init__(name=name, **kwargs)
    self.ceiling = ceiling
    self._total = self.add_weight('total', initializer='zeros')
    self.n = self.add_weight('n', initializer='zeros')
    self.n_undefined = self.add_weight('n_undefined', initializer='zeros')

  @tf.autograph.experimental.do_not_convert
  def update_state(self, scores, sample_weight=None):
    """Adds a batch of scores.

    Args:
      scores: float `Tensor` (B,), NaN where undefined.
      sample_weight: float `Tensor` (B,); rows of weight 0 do not count.
    """
    scores = tf.cast(scores, tf.float32)
    counts = tf.ones_like(scores)
    if sample_weight is not None:
      counts = tf.cast(sample_weight, tf.float32)
    undefined = tf.math.is_nan(scores)
    self._total.assign_add(
      tf.reduce_sum(tf.where(undefined, 0.0, scores * counts))
    )
    self.n.assign_add(tf.reduce_sum(tf.where(undefined, 0.0, counts)))
    self.n_undefined.assign_add(tf.reduce_sum(tf.where(undefined, counts, 0.0)))

  def result(self):
    """Returns the mean score divided by the ceiling, a scalar."""
    return _ratio(self._total, self.n) / self.ceiling

  def get_config(self):
    """Returns the arguments of the constructor."""
    return {**super().get_config(), 'ceiling': self.ceiling}
