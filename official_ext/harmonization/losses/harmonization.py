"""The harmonization loss: how far saliency maps are from human maps."""

import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization.ops import pyramid
from official_ext.harmonization.ops import tensors

STANDARDIZATIONS = ('before_pyramid', 'per_level')
NORMALIZATIONS = ('batch', 'mapped')

# Added to both peaks when the human map is given the saliency map's peak.
_PEAK_EPSILON = 1e-6
# Under the square root of the per-level distance.
_NORM_EPSILON = 1e-12


def _safe_sqrt(x: tf.Tensor) -> tf.Tensor:
  """Square root whose gradient at 0 is 0, not infinite."""
  positive = x > 0
  return tf.where(positive, tf.sqrt(tf.where(positive, x, 1.0)), 0.0)


def standardize_and_cut(maps: tf.Tensor, epsilon: float) -> tf.Tensor:
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
  """Per image: mean squared difference, over pixels and then levels."""
  saliency = standardize_and_cut(saliency, epsilon)
  human = standardize_and_cut(human, epsilon)
  saliency_peak = tf.reduce_max(saliency, axis=[1, 2], keepdims=True)
  human_peak = tf.reduce_max(human, axis=[1, 2], keepdims=True)
  human = (
    human
    / (human_peak + _PEAK_EPSILON)
    * (tf.stop_gradient(saliency_peak) + _PEAK_EPSILON)
  )
  # The pyramid is linear: the difference's pyramid is the pyramids' difference.
  differences = pyramid.gaussian_pyramid(saliency - human, levels)
  return (
    tf.add_n([tf.reduce_mean(tf.square(d), axis=[1, 2]) for d in differences])
    / levels
  )


def _per_level_distances(saliency, human, levels, epsilon):
  """Per image: Euclidean distance of the standardized levels, summed."""
  distances = []
  for s, h in zip(
    pyramid.gaussian_pyramid(saliency, levels),
    pyramid.gaussian_pyramid(human, levels),
  ):
    difference = standardize_and_cut(s, epsilon) - standardize_and_cut(
      h, epsilon
    )
    distances.append(
      tf.sqrt(tf.reduce_sum(tf.square(difference), axis=[1, 2]) + _NORM_EPSILON)
    )
  return tf.add_n(distances)


def denominator(
  weights: tf.Tensor, normalization: str, batch_size: int
) -> tf.Tensor:
  """Computes what the weighted sum of distances is divided by.

  Per-replica losses are averaged over replicas, so that dividing by the sum of
  weights over all replicas, over their number, gives the mean over all mapped
  images, wherever they are.

  Args:
    weights: float `Tensor` (B,) in [0, 1]: how much each map counts.
    normalization: 'batch' or 'mapped'.
    batch_size: the number of images in this replica's batch.

  Returns:
    A float scalar: for 'batch' the batch size, for 'mapped' the weights' sum
    over all replicas, divided by the number of replicas.

  Raises:
    ValueError: the normalization is unknown.
    RuntimeError: 'mapped' on several replicas, outside of strategy.run.
  """
  weights = tensors.floating(weights)
  choices.require('normalization', normalization, NORMALIZATIONS)
  if normalization == 'batch':
    return tf.cast(batch_size, weights.dtype)
  total = tf.reduce_sum(weights)
  replicas = tf.distribute.get_strategy().num_replicas_in_sync
  if replicas > 1 and tf.distribute.in_cross_replica_context():
    raise RuntimeError(
      "normalization='mapped' counts maps over all replicas: "
      'call it inside strategy.run.'
    )
  if replicas > 1:
    context = tf.distribute.get_replica_context()
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
  return total / replicas


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
    standardized and cut once, the human map is given the saliency map's peak
    (which is not differentiated), and the loss is the squared difference of the
    two pyramids, averaged over pixels and levels.
  * 'per_level', the paper's equation: every pyramid level is standardized and
    cut, and the loss is the sum over levels of the Euclidean distance.

  Args:
    saliency_maps: float `Tensor` (B, H, W), the network's maps; as all three,
      or anything that `tf.convert_to_tensor` takes.
    human_maps: float `Tensor` (B, H, W), the human maps, on any scale.
    weights: float `Tensor` (B,) in [0, 1]: how much each map counts, 0 where
      there is none.
    levels: number of pyramid levels.
    standardization: 'before_pyramid' or 'per_level'.
    normalization: 'batch' divides the weighted sum by the batch size, as
      released; 'mapped' by the sum of weights over all replicas (the loss is 0
      where that is 0).
    epsilon: added to standard deviations.
    divide_by: float scalar to divide by in the place of `normalization`: the
      `denominator` of a batch that holds more images than the B given here, or
      of replicas that must not meet here.

  Returns:
    A scalar of the maps' dtype, this replica's share: averaged over replicas it
    is the loss of the global batch.

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
      f'Saliency maps {saliency_maps.shape} and human maps '
      f'{human_maps.shape} must have the same shape (B, H, W).'
    )
  weights.shape.assert_is_compatible_with(saliency_maps.shape[:1])

  weights = tf.cast(weights, saliency_maps.dtype)
  # What stands in a row without a map must not reach the gradient, NaN least.
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
