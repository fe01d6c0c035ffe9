# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Mixup and cutmix of images together with their labels and human maps."""

from official.vision.configs import common
from official.vision.ops import augment
import tensorflow as tf

from official_ext.harmonization.dataloaders import stateless_model_garden


def mixup(
  images: tf.Tensor,
  batch: dict[str, tf.Tensor],
  seed: tf.Tensor,
  alpha: float,
  prob: float = 1.0,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
  """Mixes each image with the one at its mirrored position in the batch.

  As in Model Garden (Zhang et al., "mixup", ICLR 2018): each image has a
  coefficient from Beta(alpha, alpha), and its partner is from the reversed
  batch. Label and map are mixed with the same coefficient; labels are not
  smoothed.

  Args:
    images: float `Tensor` (B, H, W, C).
    batch: `Tensor`s with leading dimension B and a float dtype: one-hot labels
      (B, classes), maps (B, H, W), weights (B,).
    seed: int `Tensor` (2,).
    alpha: parameter of the Beta distribution.
    prob: probability that the batch is mixed.

  Returns:
    The mixed images and batch.
  """
  seed = tf.convert_to_tensor(seed)
  coefficients = _mix_with_probability(
    _beta(tf.shape(images)[0], seed, alpha), seed, prob
  )

  def mix(x):
    return _average(x, coefficients)

  return mix(images), {name: mix(x) for name, x in batch.items()}


def cutmix(
  images: tf.Tensor,
  batch: dict[str, tf.Tensor],
  seed: tf.Tensor,
  alpha: float,
  prob: float = 1.0,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
  """Pastes a box of the image at the mirrored position into each image.

  Yun et al., "CutMix", ICCV 2019: the box has the image's aspect ratio, a
  fraction 1 - c of its area with c from Beta(alpha, alpha), and a uniformly
  distributed centre, and is clipped at the border. Maps are cut with the same
  box, so that every pixel keeps its importance. Labels and weights are averaged
  by the fraction of the area that is covered (Model Garden uses the area of the
  box before clipping). A weight therefore stays 1 if both images have a map;
  otherwise it is the fraction of the image whose map is known.

  Args:
    images: float `Tensor` (B, H, W, C).
    batch: float `Tensor`s with leading dimension B: maps (B, H, W) are cut;
      one-hot labels (B, classes) and weights (B,) are averaged.
    seed: int `Tensor` (2,).
    alpha: parameter of the Beta distribution.
    prob: probability that the batch is mixed.

  Returns:
    The mixed images and batch.
  """
  seed = tf.convert_to_tensor(seed)
  count = tf.shape(images)[0]
  kept = _mix_with_probability(_beta(count, seed, alpha), seed, prob)
  inside = []
  for axis, stream in ((1, 3), (2, 4)):
    length = images.shape[axis]
    half = tf.cast(tf.sqrt(1.0 - kept) * length / 2.0, tf.int32)[:, tf.newaxis]
    centre = tf.random.stateless_uniform(
      [count, 1], seed + [0, stream], maxval=length, dtype=tf.int32
    )
    place = tf.range(length)[tf.newaxis]
    inside.append((place >= centre - half) & (place < centre + half))
  box = inside[0][:, :, tf.newaxis] & inside[1][:, tf.newaxis, :]
  coefficients = 1.0 - tf.reduce_mean(tf.cast(box, tf.float32), [1, 2])

  def mix(x):
    if x.shape.rank == 3:
      return tf.where(box, tf.reverse(x, [0]), x)
    return _average(x, coefficients)

  images = tf.where(box[..., tf.newaxis], tf.reverse(images, [0]), images)
  return images, {name: mix(x) for name, x in batch.items()}


def mix(
  images: tf.Tensor,
  batch: dict[str, tf.Tensor],
  seed: tf.Tensor,
  options: common.MixupAndCutmix,
):
  """Mixes a batch by mixup or cutmix, chosen as in Model Garden.

  Args:
    images: float `Tensor` (B, H, W, C).
    batch: as for `mixup` and `cutmix`.
    seed: int `Tensor` (2,).
    options: if both alphas are positive, `switch_prob` is the probability of
      cutmix. Labels are not smoothed here.

  Returns:
    The mixed images and batch.
  """
  seed = tf.convert_to_tensor(seed)

  def by_mixup():
    return mixup(images, batch, seed, options.mixup_alpha, options.prob)

  def by_cutmix():
    return cutmix(images, batch, seed, options.cutmix_alpha, options.prob)

  if options.mixup_alpha and options.cutmix_alpha:
    sample = tf.random.stateless_uniform([], seed + [0, 5])
    return tf.cond(sample < options.switch_prob, by_cutmix, by_mixup)
  if options.cutmix_alpha:
    return by_cutmix()
  return by_mixup() if options.mixup_alpha else (images, batch)


def _beta(count, seed, alpha):
  """Samples `count` numbers from Beta(alpha, alpha)."""
  first = tf.random.stateless_gamma([count], seed, alpha)
  second = tf.random.stateless_gamma([count], seed + [0, 1], alpha)
  # For a small alpha both can underflow to 0; such an image is not mixed.
  total = first + second
  return tf.where(total > 0, first / tf.where(total > 0, total, 1.0), 1.0)


def _mix_with_probability(coefficients, seed, prob):
  """Returns the coefficients with a probability, and otherwise ones."""
  sample = tf.random.stateless_uniform([], seed + [0, 2])
  return tf.where(sample < prob, coefficients, 1.0)


def _average(x, coefficients):
  """Returns c x + (1 - c) reverse(x), with a coefficient c per image."""
  c = tf.cast(
    tf.reshape(coefficients, [-1] + [1] * (x.shape.rank - 1)), x.dtype
  )
  return c * x + (1 - c) * tf.reverse(x, [0])


def mix_without_maps(
  dataset: tf.data.Dataset,
  options: common.MixupAndCutmix,
  num_classes: int,
  seeds: tf.data.Dataset | None = None,
) -> tf.data.Dataset:
  """Mixes batches without maps as Model Garden does, but without smoothing.

  Args:
    dataset: batches of images (B, H, W, C) and class numbers (B,).
    options: Model Garden's; the label smoothing is not used.
    num_classes: number of classes of the network.
    seeds: int64 (2,), a seed per batch; None uses Model Garden's random
      numbers.

  Returns:
    Batches of mixed images and labels (B, num_classes), float32.
  """
  module = augment if seeds is None else stateless_model_garden.augment
  stock = module.MixupAndCutmix(
    num_classes,
    mixup_alpha=options.mixup_alpha,
    cutmix_alpha=options.cutmix_alpha,
    prob=options.prob,
    label_smoothing=0.0,
  )
  if seeds is None:
    return dataset.map(stock, num_parallel_calls=tf.data.AUTOTUNE)

  def mix_with_seed(batch, seed):
    with stateless_model_garden.seeded(seed, 0):
      return stock(*batch)

  return tf.data.Dataset.zip((dataset, seeds)).map(
    mix_with_seed, num_parallel_calls=tf.data.AUTOTUNE
  )
