# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The harmonization loss: the distance of saliency maps from human maps."""

import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization.ops import pyramid
from official_ext.harmonization.ops import tensors

STANDARDIZATIONS = ('before_pyramid', 'per_level')
NORMALIZATIONS = ('batch', 'mapped')

# Added to both peaks when the human map is scaled to the saliency map's peak.
_PEAK_EPSILON = 1e-6
# Added under the square root of the per-level distance.
_NORM_EPSILON = 1e-12


def _safe_sqrt(x: tf.Tensor) -> tf.Tensor:
  """Square root whose gradient at 0 is 0, not infinite."""
  positive = x > 0
  return tf.where(positive, tf.sqrt(tf.where(positive, x, 1.0)), 0.0)


def standardize_and_rectify(maps: tf.Tensor, epsilon: float) -> tf.Tensor:
  """Returns the positive part of the maps' z-scores, (z(h))+.

  z(h) = (h - mean_hw h) / (std_hw h + epsilon) with the population standard
  deviation; gradients flow through mean and deviation. A constant map gives
  zeros and a finite gradient.

  Args:
    maps: float `Tensor` (B, H, W).
    epsilon: added to the standard deviation.

  Returns:
    `Tensor` of the same shape and dtype, >= 0.
  """
  maps = tensors.floating(maps)
  centered = maps - tf.reduce_mean(maps, axis=[1, 2], keepdims=True)
  deviation = _safe_sqrt(
    tf.reduce_mean(tf.square(centered), axis=[1, 2], keepdims=True)
  )
  return tf.nn.relu(centered / (deviation + epsilon))


def _released_distances(saliency, human, levels, epsilon):
  """Returns the mean squared difference over pixels and levels, per image."""
  saliency = standardize_and_rectify(saliency, epsilon)
  human = standardize_and_rectify(human, epsilon)
  saliency_peak = tf.reduce_max(saliency, axis=[1, 2], keepdims=True)
  human_peak = tf.reduce_max(human, axis=[1, 2], keepdims=True)
  human = (
    human
    / (human_peak + _PEAK_EPSILON)
    * (tf.stop_gradient(saliency_peak) + _PEAK_EPSILON)
  )
  # The pyramid is linear, so one pyramid of the difference replaces two.
  differences = pyramid.gaussian_pyramid(saliency - human, levels)
  return (
    tf.add_n([tf.reduce_mean(tf.square(d), axis=[1, 2]) for d in differences])
    / levels
  )


def _per_level_distances(saliency, human, levels, epsilon):
  """Returns the summed Euclidean distances of the levels, per image."""
  distances = []
  for s, h in zip(
    pyramid.gaussian_pyramid(saliency, levels),
    pyramid.gaussian_pyramid(human, levels),
  ):
    difference = standardize_and_rectify(s, epsilon) - standardize_and_rectify(
      h, epsilon
    )
    distances.append(
      tf.sqrt(tf.reduce_sum(tf.square(difference), axis=[1, 2]) + _NORM_EPSILON)
    )
  return tf.add_n(distances)


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def denominator(
  weights: tf.Tensor, normalization: str, batch_size: int
) -> tf.Tensor:
  """Computes the denominator of the weighted sum of distances.

  Per-replica losses are averaged over replicas. Dividing by the sum of weights
  over all replicas, divided by their number, therefore gives the mean over all
  images with a map, however they are distributed.

  Args:
    weights: float `Tensor` (B,) in [0, 1]: how much each map counts.
    normalization: 'batch' or 'mapped'.
    batch_size: the number of images in this replica's batch.

  Returns:
    A float scalar: the batch size for 'batch'; for 'mapped' the sum of weights
    over all replicas divided by the number of replicas.

  Raises:
    ValueError: the normalization is unknown.
    RuntimeError: 'mapped' is used on several replicas outside of strategy.run.
  """
  weights = tensors.floating(weights)
  choices.require('normalization', normalization, NORMALIZATIONS)
  if normalization == 'batch':
    return tf.cast(batch_size, weights.dtype)
  total = tf.reduce_sum(weights)
  replicas = tf.distribute.get_strategy().num_replicas_in_sync
  if replicas > 1 and tf.distribute.in_cross_replica_context():
    raise RuntimeError(
      "normalization='mapped' counts maps over all replicas; expected a call "
      'inside strategy.run.'
    )
  if replicas > 1:
    context = tf.distribute.get_replica_context()
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
  return total / replicas


@tf.autograph.experimental.do_not_convert
def harmonization_loss(
  saliency_maps: tf.Tensor,
  human_maps: tf.Tensor,
  weights: tf.Tensor,
  *,
  levels: int = 5,
  standardization: str = 'before_pyramid',
  normalization: str = 'batch',
  epsilon: float = 1e-5,
  divide_by: tf.Tensor | None = None,
) -> tf.Tensor:
  """Computes the harmonization loss of Fel et al., NeurIPS 2022.

  Two published forms, chosen by `standardization`:

  * 'before_pyramid', the released code (`harmonization` 0.0.9): maps are
    standardized and rectified once, the human map is scaled to the saliency
    map's peak (which is not differentiated), and the loss is the squared
    difference of the two pyramids, averaged over pixels and levels.
  * 'per_level', the paper's equation: each pyramid level is standardized and
    rectified, and the loss is the sum over levels of the Euclidean distance.

  Args:
    saliency_maps: float `Tensor` (B, H, W), the network's maps. This and the
      next two may be any values that `tf.convert_to_tensor` accepts.
    human_maps: float `Tensor` (B, H, W), on any scale.
    weights: float `Tensor` (B,) in [0, 1]: how much each map counts, 0 if an
      image has no map.
    levels: number of pyramid levels.
    standardization: 'before_pyramid' or 'per_level'.
    normalization: 'batch' divides the weighted sum by the batch size, as
      released; 'mapped' divides it by the sum of weights over all replicas (the
      loss is 0 if that is 0).
    epsilon: added to standard deviations.
    divide_by: float scalar that replaces `normalization`: the `denominator` of
      a batch with more images than the B given here, or computed where replicas
      can communicate.

  Returns:
    A scalar of the maps' dtype. Its average over replicas is the loss of the
    global batch.

  Raises:
    ValueError: an option is unknown, or shapes do not fit.
  """
  choices.require('standardization', standardization, STANDARDIZATIONS)
  if standardization == 'before_pyramid':
    distances_of = _released_distances
  else:
    distances_of = _per_level_distances
  saliency_maps, human_maps, weights = (
    tensors.floating(t) for t in (saliency_maps, human_maps, weights)
  )
  if not saliency_maps.shape.is_compatible_with(human_maps.shape):
    raise ValueError(
      f'The saliency maps have shape {saliency_maps.shape} and the human maps '
      f'{human_maps.shape}; expected the same shape (B, H, W).'
    )
  weights.shape.assert_is_compatible_with(saliency_maps.shape[:1])

  weights = tf.cast(weights, saliency_maps.dtype)
  # Rows without a map may hold anything, even NaN, which must not reach the
  # gradient.
  human_maps = tf.where(
    weights[:, tf.newaxis, tf.newaxis] > 0,
    tf.cast(human_maps, saliency_maps.dtype),
    0.0,
  )
  distances = distances_of(saliency_maps, human_maps, levels, epsilon)
  total = tf.reduce_sum(weights * distances)
  if divide_by is None:
    divide_by = denominator(weights, normalization, tf.shape(weights)[0])
  return tf.math.divide_no_nan(total, tf.cast(divide_by, total.dtype))
