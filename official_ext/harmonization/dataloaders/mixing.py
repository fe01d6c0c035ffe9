"""Mixup of images, labels and human maps with one coefficient."""

from typing import Dict, Tuple

import tensorflow as tf, tf_keras


def mixup(images: tf.Tensor,
          batch: Dict[str, tf.Tensor],
          seed: tf.Tensor,
          alpha: float,
          prob: float = 1.) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
  """Mixes every image of a batch with its mirror position in the batch.

  As the host's (Zhang et al., "mixup", ICLR 2018): one coefficient per image
  from Beta(alpha, alpha), the partner taken from the reversed batch. The label
  and the map are mixed with the image's coefficient; labels are not smoothed.

  Args:
    images: float `Tensor` (B, H, W, C).
    batch: `Tensor`s with leading dimension B and a float dtype: one-hot labels
      (B, classes), maps (B, H, W), weights (B,).
    seed: int `Tensor` (2,): the draw.
    alpha: of the Beta distribution.
    prob: probability of mixing the batch at all.

  Returns:
    The mixed images and batch.
  """
  size = tf.shape(images)[0]
  seed = tf.convert_to_tensor(seed)
  first = tf.random.stateless_gamma([size], seed, alpha)
  second = tf.random.stateless_gamma([size], seed + [0, 1], alpha)
  # Both can underflow to 0 for a small alpha: such an image stays as it is.
  total = first + second
  coefficients = tf.where(total > 0, first / tf.where(total > 0, total, 1.), 1.)
  draw = tf.random.stateless_uniform([], seed + [0, 2])
  coefficients = tf.where(draw < prob, coefficients, 1.)

  def mix(x):
    c = tf.cast(
        tf.reshape(coefficients, [-1] + [1] * (x.shape.rank - 1)), x.dtype)
    return c * x + (1 - c) * tf.reverse(x, [0])

  return mix(images), {name: mix(x) for name, x in batch.items()}
