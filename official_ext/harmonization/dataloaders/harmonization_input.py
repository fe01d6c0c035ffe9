# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Joint parser: one crop and one flip for an image and its human map."""

from collections.abc import Sequence

import numpy as np
from official.vision.dataloaders import parser
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization.dataloaders import augmentation
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.ops import blur as blur_ops

# As in Model Garden's random crop.
_ASPECT_RATIO_RANGE = (3.0 / 4.0, 4.0 / 3.0)


def centre_crop(
  size: tf.Tensor, fraction: float
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the central square that Model Garden evaluates, to the pixel.

  Args:
    size: int32 (2,), height and width of the image in pixels.
    fraction: side of the square, as a fraction of the image's short side.

  Returns:
    The square's upper left corner, and its height and width, int32 (2,). They
    are rounded as in `preprocess_ops.center_crop_image`, but are at least one
    pixel, also in images of one or two pixels.
  """
  real = tf.cast(size, tf.float32)
  side = fraction * tf.reduce_min(real)
  begin = tf.cast((real - side) / 2.0, tf.int32)
  return begin, tf.maximum(tf.repeat(tf.cast(side, tf.int32), 2), 1)


# AutoGraph would take longer to convert it than it takes to trace.
@tf.autograph.experimental.do_not_convert
def crop_map(
  heatmap: tf.Tensor,
  image_size: tf.Tensor,
  begin: tf.Tensor,
  size: tf.Tensor,
  output_size: Sequence[int],
  antialias: bool = False,
) -> tf.Tensor:
  """Crops a map as its image is cropped, and resizes the crop.

  A map may have another size than its image; the crop's edges then fall between
  its pixels. The two are aligned as in `tf.image.resize`, with pixel centres at
  one half. If the sizes are equal, the result is the resized slice.

  Args:
    heatmap: `Tensor` (h, w, 1), any real dtype.
    image_size: int32 (2,), height and width of the image in pixels.
    begin: int32 (2,), the crop's upper left corner in image pixels.
    size: int32 (2,), the crop's height and width in image pixels.
    output_size: (height, width) of the result.
    antialias: whether all pixels of the crop contribute to the result, or only
      the two nearest per axis.

  Returns:
    float32 `Tensor` (1, height, width, 1), bilinearly sampled.
  """
  map_size = tf.shape(heatmap, tf.int64)[:2]
  # Products of two sizes overflow 32 bits above 46,340 pixels.
  image_size, begin, size = (
    tf.cast(x, tf.int64) for x in (image_size, begin, size)
  )
  # The map pixels that the crop touches. Below they are padded by one pixel
  # that repeats the border, since samples beyond the border would be 0.
  first = begin * map_size // image_size
  end = -(-(begin + size) * map_size // image_size)
  crop = tf.slice(
    heatmap, [first[0], first[1], 0], [end[0] - first[0], end[1] - first[1], 1]
  )

  def real(x):
    return tf.cast(x, tf.float32)

  # `step` is the distance of two result pixels, and `edge` the crop's edge, in
  # map pixels.
  pixels = real(map_size) / real(image_size)
  step = real(size) * pixels / tf.constant(output_size, tf.float32)
  edge = real(begin) * pixels - real(first)
  if antialias:
    return tf.raw_ops.ScaleAndTranslate(
      images=crop[tf.newaxis],
      size=output_size,
      scale=1.0 / step,
      translation=-edge / step,
      kernel_type='triangle',
      antialias=True,
    )
  crop = tf.pad(crop, [[1, 1], [1, 1], [0, 0]], mode='SYMMETRIC')
  # crop_and_resize expects the centres of the first and last result pixel,
  # divided by the position of the last pixel of its input.
  low = edge + 0.5 * step + 0.5
  high = low + step * (tf.constant(output_size, tf.float32) - 1.0)
  box = tf.concat([low, high], 0) / tf.tile(real(end - first + 1), [2])
  return tf.image.crop_and_resize(
    crop[tf.newaxis], box[tf.newaxis], [0], output_size
  )


@tf.autograph.experimental.do_not_convert
def _normalize(image: tf.Tensor) -> tf.Tensor:
  """Equals `preprocess_ops.normalize_image` for images in 0..255.

  Works on rows, since broadcasting three numbers is six times slower.
  """
  height, width, _ = image.shape
  rows = tf.reshape(image, [height, width * 3])
  rows -= np.tile(np.array(preprocess_ops.MEAN_RGB, np.float32), width)
  rows /= np.tile(np.array(preprocess_ops.STDDEV_RGB, np.float32), width)
  return tf.reshape(rows, [height, width, 3])


class Parser(parser.Parser):
  """Turns a decoded record into an image, its class and its human map."""

  def __init__(
    self,
    output_size: Sequence[int],
    num_classes: int,
    label_offset: int = 0,
    blur: str = 'after_crop',
    map_resize: str = 'released',
    blur_kernel: str = 'released',
    min_max: bool = True,
    aug_rand_hflip: bool = True,
    aug_crop: bool = True,
    crop_area_range: tuple[float, float] = (0.08, 1.0),
    center_crop_fraction: float = preprocess_ops.CENTER_CROP_FRACTION,
    tf_resize_method: str = 'bilinear',
    dtype: str = 'float32',
    augmenter: augmentation.Augmenter | None = None,
  ):
    """Initializes the parser.

    Args:
      output_size: (height, width) of image and map.
      num_classes: the network's number of classes.
      label_offset: added to the recorded label.
      blur: when the map is blurred: 'before_crop', 'after_crop' or 'none'.
      map_resize: one of `blur_ops.RESIZES`.
      blur_kernel: one of `blur_ops.KERNELS`.
      min_max: whether the map is scaled to [0, 1]; a constant map becomes 0.
      aug_rand_hflip: whether to flip at random in training.
      aug_crop: whether to crop: at random in training, the centre in
        evaluation. Otherwise the whole image and map are resized.
      crop_area_range: smallest and largest fraction of the image's area that a
        random crop covers.
      center_crop_fraction: side of the crop in evaluation, as a fraction of the
        short side.
      tf_resize_method: method for the image; maps are resized bilinearly.
      dtype: dtype of the image.
      augmenter: other augmentation of image and map in training.
    """
    self._output_size = list(output_size)
    self._num_classes = num_classes
    self._label_offset = label_offset
    self._blur = blur
    self._map_resize = map_resize
    self._blur_kernel = blur_kernel
    self._min_max = min_max
    self._aug_rand_hflip = aug_rand_hflip
    self._aug_crop = aug_crop
    self._crop_area_range = crop_area_range
    self._center_crop_fraction = center_crop_fraction
    self._tf_resize_method = tf_resize_method
    self._dtype = tf.as_dtype(dtype)
    self._augmenter = augmenter

  def _parse_train_data(self, decoded_tensors):
    """Applies a random crop and flip, then the augmenter."""
    decoded = self._checked(decoded_tensors)
    seed = decoded['seed']
    size = tf.shape(decoded['image'])
    crop = self._random_crop(size, seed) if self._aug_crop else None
    flip = None
    if self._aug_rand_hflip:
      flip = tf.random.stateless_uniform([], seed + [0, 1]) < 0.5
    image, targets = self._parse(decoded, crop, flip, self._augmenter)
    return image, {**targets, 'seed': seed}

  def _parse_eval_data(self, decoded_tensors):
    """Takes the centre of the image, or the whole image."""
    decoded = self._checked(decoded_tensors)
    size = tf.shape(decoded['image'])[:2]
    crop = None
    if self._aug_crop:
      crop = centre_crop(size, self._center_crop_fraction)
    return self._parse(decoded, crop)

  @tf.autograph.experimental.do_not_convert
  def _checked(self, decoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns a record whose pixels depend on the checks of the record."""
    label = decoded['label'] + self._label_offset
    first = labels.first_class(self._num_classes)
    classes = f"outside the network's classes {first}..{self._num_classes - 1}"
    with tf.control_dependencies(
      [
        records.stop_at(decoded['problem'] == '', decoded, decoded['problem']),
        records.stop_at(
          (label >= first) & (label < self._num_classes),
          decoded,
          tf.strings.join(
            [
              'its label ',
              tf.strings.as_string(decoded['label']),
              f' plus label_offset {self._label_offset} is ',
              classes,
            ]
          ),
        ),
      ]
    ):
      pixels = {k: tf.identity(decoded[k]) for k in ('image', 'heatmap')}
    return {**decoded, **pixels, 'label': tf.cast(label, tf.int32)}

  @tf.autograph.experimental.do_not_convert
  def _random_crop(self, size, seed):
    begin, crop_size, _ = tf.image.stateless_sample_distorted_bounding_box(
      size,
      tf.zeros([1, 0, 4]),
      seed,
      min_object_covered=0.0,
      aspect_ratio_range=_ASPECT_RATIO_RANGE,
      area_range=self._crop_area_range,
      use_image_if_no_bounding_boxes=True,
    )
    return begin[:2], crop_size[:2]

  def _parse(self, decoded, crop, flip=None, augmenter=None):
    """Crops, flips and augments image and map.

    Args:
      decoded: a record, as from `_checked`.
      crop: upper left corner, and height and width, in image pixels, both int32
        (2,); None for the whole image.
      flip: bool scalar, whether to swap left and right; None for no flip.
      augmenter: other augmentation of both, or None.

    Returns:
      The normalized image and a dict of label, map and weight.
    """
    image, heatmap = decoded['image'], decoded['heatmap']
    # The blur works on 64x64 cells, so the map is cropped to these directly,
    # unless the augmenter needs it at the size of the image first.
    cells = [blur_ops.WORKING_SIZE] * 2
    if self._blur == 'before_crop':
      heatmap = blur_ops.blur_cells(
        blur_ops.to_cells(heatmap[tf.newaxis], self._map_resize),
        self._blur_kernel,
      )[0]
    blur = self._blur == 'after_crop'
    antialias = self._map_resize == 'antialias'
    map_size = cells if blur and not augmenter else self._output_size
    if crop is None:
      heatmap = tf.image.resize(
        heatmap[tf.newaxis], map_size, antialias=antialias
      )
    else:
      begin, size = crop
      heatmap = crop_map(
        heatmap, tf.shape(image)[:2], begin, size, map_size, antialias
      )
      image = tf.slice(image, [begin[0], begin[1], 0], [size[0], size[1], 3])
    if flip is not None:
      image, heatmap = tf.cond(
        flip,
        lambda: (tf.reverse(image, [1]), tf.reverse(heatmap, [2])),
        lambda: (image, heatmap),
      )
    if augmenter:
      image = augmenter.jitter(image, decoded['seed'])
    # Cast first, since resizing integers is slower and gives the same result.
    image = tf.image.resize(
      tf.cast(image, tf.float32),
      self._output_size,
      method=self._tf_resize_method,
    )
    image = tf.ensure_shape(image, self._output_size + [3])
    if augmenter:
      # A second channel marks pixels that are still visible (1) or hidden (0).
      heatmap = tf.concat([heatmap, tf.ones_like(heatmap)], -1)
      image, heatmap = augmenter.distort(image, heatmap, decoded['seed'])
    image = _normalize(image)
    if augmenter:
      image, heatmap = augmenter.erase(image, heatmap, decoded['seed'])
      heatmap, visible = heatmap[..., :1], heatmap[..., 1:]
      if blur:
        heatmap = blur_ops.to_cells(heatmap, self._map_resize)
    if blur:
      heatmap = tf.image.resize(
        blur_ops.blur_cells(heatmap, self._blur_kernel), self._output_size
      )
      if augmenter:
        # The blur spreads importance into hidden pixels again.
        heatmap *= visible
    return tf.cast(image, self._dtype), {
      'labels': decoded['label'],
      'heatmaps': self._scaled(heatmap[0, ..., 0]),
      'heatmap_weights': tf.constant(1.0),
    }

  @tf.autograph.experimental.do_not_convert
  def _scaled(self, heatmap):
    if self._min_max:
      low, high = tf.reduce_min(heatmap), tf.reduce_max(heatmap)
      heatmap = tf.math.divide_no_nan(heatmap - low, high - low)
    return tf.ensure_shape(heatmap, self._output_size)
