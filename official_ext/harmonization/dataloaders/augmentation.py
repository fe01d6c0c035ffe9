# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Augmentation besides crop and flip, for an image and its human map.

The operations and policies are Model Garden's. Each pixel of a map belongs to
the image pixel that it was drawn on, and follows it:
  - Operations that move pixels (rotate, shear, translate) move the map with the
    same random numbers. Model Garden's reflect the image at its border; the map
    is reflected too. Pixels that they leave empty are 0 in the map.
  - Operations that change colours leave the map unchanged.
  - Operations that hide pixels (cutout, random erasing) set the map to 0 there,
    since nobody can find important what cannot be seen. Cutmix does the same.
    The parser makes sure that this still holds after the map is blurred.
All random numbers come from the example's own seed.
"""

from typing import Any

from official.vision.configs import common
from official.vision.configs import image_classification as stock
import tensorflow as tf

from official_ext.harmonization.dataloaders import stateless_model_garden

_MOVING = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')
_HIDING = ('Cutout',)
# As in Model Garden's parser.
_THREE_AUGMENT = dict(
  augmentation_name='deit3_three_augment', translate_const=20
)


def _joint(operation):
  """Turns an operation on an image into one on an image and its map."""

  # Model Garden's policies pass a second tensor, meant for bounding boxes,
  # through all operations that have an argument named `bboxes`. Here it holds
  # the map.
  def on_image_and_map(image, bboxes, *args):
    heatmap = bboxes
    *levels, _ = args  # The last argument fills empty pixels of the image.

    def move_map():
      # The operations expect three channels.
      channels = heatmap.shape[-1]
      colours = tf.concat([heatmap] + [heatmap[..., :1]] * (3 - channels), -1)
      return operation(colours, *levels, [0] * 3)[..., :channels]

    return stateless_model_garden.with_same_numbers(
      lambda: operation(image, *args), move_map
    )

  return on_image_and_map


def _augment_images_and_maps():
  """Makes a copy of Model Garden's module whose policies also move maps."""
  module: Any = stateless_model_garden.copy('official.vision.ops.augment')
  module.NAME_TO_FUNC = {
    name: _joint(operation) if name in _MOVING + _HIDING else operation
    for name, operation in module.NAME_TO_FUNC.items()
  }
  return module


augment = _augment_images_and_maps()


def _build_policy(aug_type: common.Augmentation):
  """Builds a policy from its configuration, as Model Garden's parser does."""
  if aug_type.type == 'autoaug':
    options = aug_type.autoaug
    return augment.AutoAugment(
      augmentation_name=options.augmentation_name,
      cutout_const=options.cutout_const,
      translate_const=options.translate_const,
    )
  options = aug_type.randaug
  return augment.RandAugment(
    num_layers=options.num_layers,
    magnitude=options.magnitude,
    cutout_const=options.cutout_const,
    translate_const=options.translate_const,
    prob_to_apply=options.prob_to_apply,
    exclude_ops=options.exclude_ops,
  )


def problem(aug_type: common.Augmentation) -> str | None:
  """Returns why an `aug_type` cannot be used; None if it can."""
  if aug_type.type not in ('autoaug', 'randaug'):
    return "its type must be 'autoaug' or 'randaug'"
  if aug_type.type == 'randaug':
    if aug_type.randaug.magnitude_std:
      return 'randaug.magnitude_std must be 0: Model Garden ignores it'
    return None
  known = augment.AutoAugment().available_policies
  usable = sorted(
    name
    for name, policy in known.items()
    if not any('BBox' in op for part in policy for op, _, _ in part)
  )
  if aug_type.autoaug.augmentation_name not in usable:
    return f'autoaug.augmentation_name must be one of {usable}'
  return None


class Augmenter:
  """Augments an image and its map together, besides crop and flip."""

  def __init__(self, data: stock.DataConfig):
    """Initializes the augmenter.

    Args:
      data: configuration of the training data, whose `color_jitter`,
        `aug_type`, `three_augment` and `random_erasing` have the same meaning
        as in Model Garden.
    """
    self._color_jitter = data.color_jitter
    self._random_erasing = data.random_erasing
    self._policies: list[Any] = []
    if data.aug_type:
      self._policies.append(_build_policy(data.aug_type))
    if data.three_augment:
      self._policies.append(augment.AutoAugment(**_THREE_AUGMENT))

  def jitter(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast and saturation at random.

    Args:
      image: (H, W, 3), 0..255.
      seed: int (2,), the example's seed.

    Returns:
      The image, uint8 if colour jitter is enabled.
    """
    if not self._color_jitter:
      return image
    with stateless_model_garden.seeded(seed, 0):
      return stateless_model_garden.preprocess_ops.color_jitter(
        image, *[self._color_jitter] * 3
      )

  def distort(
    self, image: tf.Tensor, heatmap: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies the policies: RandAugment, AutoAugment or DeiT's three.

    Args:
      image: float (H, W, 3), 0..255.
      heatmap: float (1, H, W, 1 to 3), any value range.
      seed: int (2,), the example's seed.

    Returns:
      The distorted image and map.
    """
    heatmap = heatmap[0]
    for stream, policy in enumerate(self._policies, 1):
      shapes = image.shape, heatmap.shape
      with stateless_model_garden.seeded(seed, stream):
        image, heatmap = policy.distort_with_boxes(image, heatmap)
      image = tf.ensure_shape(image, shapes[0])
      heatmap = tf.ensure_shape(heatmap, shapes[1])
    return image, heatmap[tf.newaxis]

  def erase(
    self, image: tf.Tensor, heatmap: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Erases rectangles of the image and of its map.

    Args:
      image: float (H, W, 3), normalized.
      heatmap: float (1, H, W, channels).
      seed: int (2,), the example's seed.

    Returns:
      The image, with noise in the erased pixels, and the map, with 0.
    """
    if not self._random_erasing:
      return image, heatmap
    options = self._random_erasing
    # A new object for each trace, since Model Garden's keeps traced tensors.
    erasing = augment.RandomErasing(
      probability=options.probability,
      min_area=options.min_area,
      max_area=options.max_area,
      min_aspect=options.min_aspect,
      max_aspect=options.max_aspect,
      min_count=options.min_count,
      max_count=options.max_count,
      trials=options.trials,
    )
    with stateless_model_garden.seeded(seed, 9):
      erased = tf.ensure_shape(erasing.distort(image), image.shape)
    kept = tf.reduce_all(erased == image, axis=-1, keepdims=True)
    return erased, tf.where(kept, heatmap, 0.0)


def build(data: stock.DataConfig) -> Augmenter | None:
  """Returns the augmenter of a dataset; None if it only crops and flips."""
  if data.is_training and (
    data.color_jitter
    or data.aug_type
    or data.three_augment
    or data.random_erasing
  ):
    return Augmenter(data)
  return None
