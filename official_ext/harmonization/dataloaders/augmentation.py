"""Augmentation beyond window and flip, for an image and its human map.

The operations and policies are the host's. A map's pixel belongs to the image's
pixel that it was drawn on, and does what that one does:
  - operations that move pixels (rotate, shear, translate) move the map with the
    same draw. Where they reflect the image at its border, as the host's do, the
    map is reflected too; what they leave empty is 0 in the map.
  - operations that change colours leave the map alone.
  - operations that hide pixels (cutout, random erasing) set the map to 0 there:
    nobody can find important what cannot be seen. Cutmix does the same. The
    parser sees to it that this still holds when the map has been blurred.
All of it is drawn from the example's own seed.
"""

from official.vision.configs import common
from official.vision.configs import image_classification as stock
import tensorflow as tf

from official_ext.harmonization.dataloaders import seeded_host

_MOVING = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')
_HIDING = ('Cutout',)
# As in the host's parser.
_THREE_AUGMENT = dict(
  augmentation_name='deit3_three_augment', translate_const=20
)


def _joint(operation):
  """Makes a host operation on images one on images and maps.

  The host's policies hand boxes through their operations beside the image, to
  any that has an argument of that name; ours find the map there.
  """

  def both(image, bboxes, *args):
    *levels, _ = args  # The last is what fills empty pixels of the image.

    def move_map():
      # The operations know three channels.
      channels = bboxes.shape[-1]
      colours = tf.concat([bboxes] + [bboxes[..., :1]] * (3 - channels), -1)
      return operation(colours, *levels, [0] * 3)[..., :channels]

    return seeded_host.twice(lambda: operation(image, *args), move_map)

  return both


seeded_host.augment.NAME_TO_FUNC.update(
  {
    name: _joint(seeded_host.augment.NAME_TO_FUNC[name])
    for name in _MOVING + _HIDING
  }
)


def _build_policy(aug_type: common.Augmentation):
  """The host's augmenter of a configuration, as its own parser builds it."""
  if aug_type.type == 'autoaug':
    options = aug_type.autoaug
    return seeded_host.augment.AutoAugment(
      augmentation_name=options.augmentation_name,
      cutout_const=options.cutout_const,
      translate_const=options.translate_const,
    )
  options = aug_type.randaug
  return seeded_host.augment.RandAugment(
    num_layers=options.num_layers,
    magnitude=options.magnitude,
    cutout_const=options.cutout_const,
    translate_const=options.translate_const,
    prob_to_apply=options.prob_to_apply,
    exclude_ops=options.exclude_ops,
  )


def problem(aug_type: common.Augmentation) -> str | None:
  """Says why an `aug_type` cannot be used, or None where it can."""
  if aug_type.type not in ('autoaug', 'randaug'):
    return "choose type 'autoaug' or 'randaug'"
  if aug_type.type == 'randaug':
    if aug_type.randaug.magnitude_std:
      return 'randaug.magnitude_std has no effect in the host, leave it 0'
    return None
  known = seeded_host.augment.AutoAugment().available_policies
  usable = sorted(
    name
    for name, policy in known.items()
    if not any('BBox' in op for part in policy for op, _, _ in part)
  )
  if aug_type.autoaug.augmentation_name not in usable:
    return f'choose one of {usable} as autoaug.augmentation_name'
  return None


class Augmenter:
  """What happens to an image and its map beside window and flip."""

  def __init__(self, data: stock.DataConfig):
    """Builds what a training source's configuration asks for.

    Args:
      data: its `color_jitter`, `aug_type`, `three_augment` and
        `random_erasing` are used, each as the host uses it.
    """
    self._color_jitter = data.color_jitter
    self._random_erasing = data.random_erasing
    self._policies: list[seeded_host.augment.ImageAugment] = []
    if data.aug_type:
      self._policies.append(_build_policy(data.aug_type))
    if data.three_augment:
      self._policies.append(seeded_host.augment.AutoAugment(**_THREE_AUGMENT))

  def jitter(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast and saturation at random.

    Args:
      image: (H, W, 3), 0..255.
      seed: int (2,), the example's draw.

    Returns:
      The image, uint8 if it was changed.
    """
    if not self._color_jitter:
      return image
    with seeded_host.draws_from(seed, 0):
      return seeded_host.preprocess_ops.color_jitter(
        image, *[self._color_jitter] * 3
      )

  def distort(
    self, image: tf.Tensor, heatmap: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies RandAugment's, AutoAugment's or the three of DeiT's policy.

    Args:
      image: float (H, W, 3), 0..255.
      heatmap: float (1, H, W, 1 to 3), any value range.
      seed: int (2,), the example's draw.

    Returns:
      Both, distorted.
    """
    heatmap = heatmap[0]
    for stream, policy in enumerate(self._policies, 1):
      shapes = image.shape, heatmap.shape
      with seeded_host.draws_from(seed, stream):
        image, heatmap = policy.distort_with_boxes(image, heatmap)
      image = tf.ensure_shape(image, shapes[0])
      heatmap = tf.ensure_shape(heatmap, shapes[1])
    return image, heatmap[tf.newaxis]

  def erase(
    self, image: tf.Tensor, heatmap: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Erases a rectangle of the image, and what the map says of it.

    Args:
      image: float (H, W, 3), normalized.
      heatmap: float (1, H, W, channels).
      seed: int (2,), the example's draw.

    Returns:
      Both; noise in the image where the map is 0.
    """
    if not self._random_erasing:
      return image, heatmap
    options = self._random_erasing
    # A new one for every trace: the host's holds on to what it traced.
    erasing = seeded_host.augment.RandomErasing(
      probability=options.probability,
      min_area=options.min_area,
      max_area=options.max_area,
      min_aspect=options.min_aspect,
      max_aspect=options.max_aspect,
      min_count=options.min_count,
      max_count=options.max_count,
      trials=options.trials,
    )
    with seeded_host.draws_from(seed, 9):
      erased = tf.ensure_shape(erasing.distort(image), image.shape)
    kept = tf.reduce_all(erased == image, axis=-1, keepdims=True)
    return erased, tf.where(kept, heatmap, 0.0)


def build(data: stock.DataConfig) -> Augmenter | None:
  """The augmenter of a source, None where window and flip are all."""
  if data.is_training and (
    data.color_jitter
    or data.aug_type
    or data.three_augment
    or data.random_erasing
  ):
    return Augmenter(data)
  return None
