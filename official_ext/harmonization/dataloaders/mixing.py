"""Mixup and cutmix of images together with their labels and human maps."""

from official.vision.configs import common
from official.vision.ops import augment
import tensorflow as tf

from official_ext.harmonization.dataloaders import seeded_host


def mixup(
  images: tf.Tensor,
  batch: dict[str, tf.Tensor],
  seed: tf.Tensor,
  alpha: float,
  prob: float = 1.0,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
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
  seed = tf.convert_to_tensor(seed)
  coefficients = _keep_unless_drawn(
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
  """Puts a box of every image's mirror position in the batch into the image.

  Yun et al., "CutMix", ICCV 2019: the box has the image's shape and 1 - c of
  its area, c from Beta(alpha, alpha), a uniform centre, and is cut off at the
  border. Maps are cut by the same box, so that every pixel keeps the importance
  that it had. Labels and weights are averaged with the part of the area that
  is really covered (the host uses that of the box before it is cut off). A
  weight therefore stays 1 where both images have a map; where one of them has
  none, it is the part of the picture whose map is known.

  Args:
    images: float `Tensor` (B, H, W, C).
    batch: float `Tensor`s with leading dimension B: maps (B, H, W) are cut;
      one-hot labels (B, classes) and weights (B,) are averaged.
    seed: int `Tensor` (2,): the draw.
    alpha: of the Beta distribution.
    prob: probability of mixing the batch at all.

  Returns:
    The mixed images and batch.
  """
  seed = tf.convert_to_tensor(seed)
  count = tf.shape(images)[0]
  kept = _keep_unless_drawn(_beta(count, seed, alpha), seed, prob)
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
  """Mixes a batch as the host chooses: by mixup, by cutmix, or not at all.

  Args:
    images: float `Tensor` (B, H, W, C).
    batch: see `mixup`.
    seed: int `Tensor` (2,): the draw.
    options: where both alphas are positive, `switch_prob` is the probability
      of cutmix. Labels are not smoothed here.

  Returns:
    The mixed images and batch.
  """
  seed = tf.convert_to_tensor(seed)

  def by_mixup():
    return mixup(images, batch, seed, options.mixup_alpha, options.prob)

  def by_cutmix():
    return cutmix(images, batch, seed, options.cutmix_alpha, options.prob)

  if options.mixup_alpha and options.cutmix_alpha:
    draw = tf.random.stateless_uniform([], seed + [0, 5])
    return tf.cond(draw < options.switch_prob, by_cutmix, by_mixup)
  if options.cutmix_alpha:
    return by_cutmix()
  return by_mixup() if options.mixup_alpha else (images, batch)


def _beta(count, seed, alpha):
  """`count` draws from Beta(alpha, alpha)."""
  first = tf.random.stateless_gamma([count], seed, alpha)
  second = tf.random.stateless_gamma([count], seed + [0, 1], alpha)
  # Both can underflow to 0 for a small alpha: such an image stays as it is.
  total = first + second
  return tf.where(total > 0, first / tf.where(total > 0, total, 1.0), 1.0)


def _keep_unless_drawn(coefficients, seed, prob):
  draw = tf.random.stateless_uniform([], seed + [0, 2])
  return tf.where(draw < prob, coefficients, 1.0)


def _average(x, coefficients):
  """The average of a batch and its reverse, x weighted by the coefficients."""
  c = tf.cast(
    tf.reshape(coefficients, [-1] + [1] * (x.shape.rank - 1)), x.dtype
  )
  return c * x + (1 - c) * tf.reverse(x, [0])


def mix_unmapped(
  dataset: tf.data.Dataset,
  options: common.MixupAndCutmix,
  num_classes: int,
  draws: tf.data.Dataset | None = None,
) -> tf.data.Dataset:
  """Mixes batches without maps as the host does, but for the smoothing.

  Args:
    dataset: batches of images (B, H, W, C) and class numbers (B,).
    options: of the host's configuration; its label smoothing is not taken.
    num_classes: of the network.
    draws: int64 (2,), a seed for every batch; None draws as the host does.

  Returns:
    Batches of mixed images and labels (B, num_classes), float32.
  """
  module = augment if draws is None else seeded_host.augment
  stock = module.MixupAndCutmix(
    num_classes,
    mixup_alpha=options.mixup_alpha,
    cutmix_alpha=options.cutmix_alpha,
    prob=options.prob,
    label_smoothing=0.0,
  )
  if draws is None:
    return dataset.map(stock, num_parallel_calls=tf.data.AUTOTUNE)

  def mix_by(batch, seed):
    with seeded_host.draws_from(seed, 0):
      return stock(*batch)

  return tf.data.Dataset.zip((dataset, draws)).map(
    mix_by, num_parallel_calls=tf.data.AUTOTUNE
  )
