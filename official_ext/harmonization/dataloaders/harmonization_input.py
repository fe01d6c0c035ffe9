"""Joint parser: one window and one flip for an image and its human map."""

from collections.abc import Sequence

import numpy as np
from official.vision.dataloaders import parser
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization.dataloaders import augmentation
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.ops import blur as blur_ops

# Of the host's random crop.
_ASPECT_RATIO_RANGE = (3.0 / 4.0, 4.0 / 3.0)


def centre_window(
  size: tf.Tensor, fraction: float
) -> tuple[tf.Tensor, tf.Tensor]:
  """The central square that Model Garden evaluates, to the pixel.

  Args:
    size: int32 (2,), height and width of the image in pixels.
    fraction: of the short side.

  Returns:
    The square's upper left corner, and its height and width, int32 (2,). As of
    `preprocess_ops.center_crop_image`, whose rounding this repeats; but where
    that would be empty, in images of a pixel or two, one pixel.
  """
  real = tf.cast(size, tf.float32)
  side = fraction * tf.reduce_min(real)
  begin = tf.cast((real - side) / 2.0, tf.int32)
  return begin, tf.maximum(tf.repeat(tf.cast(side, tf.int32), 2), 1)


def window_of_map(
  heatmap: tf.Tensor,
  image_size: tf.Tensor,
  begin: tf.Tensor,
  size: tf.Tensor,
  output_size: Sequence[int],
  antialias: bool = False,
) -> tf.Tensor:
  """Cuts out of a map what a window shows of its image, and resizes it.

  A map may have another size than its image: the window's edges then fall
  between its pixels. Both are aligned as in `tf.image.resize` (pixel centres
  at one half); of maps as large as the image this is the slice, resized.

  Args:
    heatmap: `Tensor` (h, w, 1), any real dtype.
    image_size: int32 (2,), height and width of the image in pixels.
    begin: int32 (2,), the window's upper left corner in the image's pixels.
    size: int32 (2,), the window's height and width in the image's pixels.
    output_size: (height, width) of the result.
    antialias: whether every pixel of the window has its part in the result, or
      only two a side around each place that is sampled.

  Returns:
    float32 `Tensor` (1, height, width, 1), bilinearly sampled.
  """
  map_size = tf.shape(heatmap, tf.int64)[:2]
  # Products of two sizes: 32 bits hold those of 46,340 pixels.
  image_size, begin, size = (
    tf.cast(x, tf.int64) for x in (image_size, begin, size)
  )
  # The map's pixels that the window touches, and a rim of one more that repeats
  # the outermost: what lies beyond these would be sampled as 0.
  first = begin * map_size // image_size
  end = -(-(begin + size) * map_size // image_size)
  cut = tf.slice(
    heatmap, [first[0], first[1], 0], [end[0] - first[0], end[1] - first[1], 1]
  )

  def real(x):
    return tf.cast(x, tf.float32)

  # Where the centres of the first and last pixel of the result lie in the cut,
  # over the place of its last pixel: the op's coordinates.
  pixels = real(map_size) / real(image_size)
  step = real(size) * pixels / tf.constant(output_size, tf.float32)
  edge = real(begin) * pixels - real(first)
  if antialias:
    return tf.raw_ops.ScaleAndTranslate(
      images=cut[tf.newaxis],
      size=output_size,
      scale=1.0 / step,
      translation=-edge / step,
      kernel_type='triangle',
      antialias=True,
    )
  cut = tf.pad(cut, [[1, 1], [1, 1], [0, 0]], mode='SYMMETRIC')
  low = edge + 0.5 * step + 0.5
  high = low + step * (tf.constant(output_size, tf.float32) - 1.0)
  box = tf.concat([low, high], 0) / tf.tile(real(end - first + 1), [2])
  return tf.image.crop_and_resize(
    cut[tf.newaxis], box[tf.newaxis], [0], output_size
  )


def _normalize(image: tf.Tensor) -> tf.Tensor:
  """`preprocess_ops.normalize_image` of 0..255, value for value.

  Row by row: arithmetic with three numbers at a time is six times as slow.
  """
  height, width, _ = image.shape
  rows = tf.reshape(image, [height, width * 3])
  rows -= np.tile(np.float32(preprocess_ops.MEAN_RGB), width)
  rows /= np.tile(np.float32(preprocess_ops.STDDEV_RGB), width)
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
      blur: 'before_crop', 'after_crop' or 'none', of the map.
      map_resize: of `blur_ops.RESIZES`, how maps are made smaller.
      blur_kernel: of `blur_ops.KERNELS`.
      min_max: whether the map is scaled to [0, 1]; a constant map becomes 0.
      aug_rand_hflip: whether to flip at random, in training.
      aug_crop: whether to crop: at random in training, the centre in
        evaluation. If not, image and map are resized whole.
      crop_area_range: smallest and largest part of the image's area that a
        random crop covers.
      center_crop_fraction: of the short side, for evaluation.
      tf_resize_method: for the image; maps are resized bilinearly.
      dtype: of the image.
      augmenter: what else happens to image and map in training.
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
    """One random window and flip, then the augmenter; see `_parse`."""
    decoded = self._checked(decoded_tensors)
    seed = decoded['seed']
    size = tf.shape(decoded['image'])
    window = self._random_window(size, seed) if self._aug_crop else None
    flip = None
    if self._aug_rand_hflip:
      flip = tf.random.stateless_uniform([], seed + [0, 1]) < 0.5
    image, targets = self._parse(decoded, window, flip, self._augmenter)
    return image, {**targets, 'seed': seed}

  def _parse_eval_data(self, decoded_tensors):
    """The centre, or all, of the image."""
    decoded = self._checked(decoded_tensors)
    size = tf.shape(decoded['image'])[:2]
    window = None
    if self._aug_crop:
      window = centre_window(size, self._center_crop_fraction)
    return self._parse(decoded, window)

  def _checked(self, decoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A record whose pixels cannot be had before the record is found good."""
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

  def _random_window(self, size, seed):
    begin, window, _ = tf.image.stateless_sample_distorted_bounding_box(
      size,
      tf.zeros([1, 0, 4]),
      seed,
      min_object_covered=0.0,
      aspect_ratio_range=_ASPECT_RATIO_RANGE,
      area_range=self._crop_area_range,
      use_image_if_no_bounding_boxes=True,
    )
    return begin[:2], window[:2]

  def _parse(self, decoded, window, flip=None, augmenter=None):
    """Shows one window of image and map, flipped or not.

    Args:
      decoded: a record, as from `_checked`.
      window: its upper left corner and its height and width, in the image's
        pixels, both int32 (2,); None: the whole image.
      flip: bool scalar, whether to swap left and right; None: never.
      augmenter: what else happens to both, or None.

    Returns:
      The normalized image and a dict of label, map and weight.
    """
    image, heatmap = decoded['image'], decoded['heatmap']
    # The release's blur looks at few cells: no more than those are sampled,
    # unless something has yet to happen to map and image at the same size.
    cells = [blur_ops.WORKING_SIZE] * 2
    if self._blur == 'before_crop':
      heatmap = blur_ops.blur_cells(
        blur_ops.to_cells(heatmap[tf.newaxis], self._map_resize),
        self._blur_kernel,
      )[0]
    blur = self._blur == 'after_crop'
    antialias = self._map_resize == 'antialias'
    map_size = cells if blur and not augmenter else self._output_size
    if window is None:
      heatmap = tf.image.resize(
        heatmap[tf.newaxis], map_size, antialias=antialias
      )
    else:
      begin, size = window
      heatmap = window_of_map(
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
    # Cast first: resizing integers is slower, and gives the same.
    image = tf.image.resize(
      tf.cast(image, tf.float32),
      self._output_size,
      method=self._tf_resize_method,
    )
    image = tf.ensure_shape(image, self._output_size + [3])
    if augmenter:
      # Beside the map goes what is still seen of the image: 1, hidden 0.
      heatmap = tf.concat([heatmap, tf.ones_like(heatmap)], -1)
      image, heatmap = augmenter.distort(image, heatmap, decoded['seed'])
    image = _normalize(image)
    if augmenter:
      image, heatmap = augmenter.erase(image, heatmap, decoded['seed'])
      heatmap, seen = heatmap[..., :1], heatmap[..., 1:]
      if blur:
        heatmap = blur_ops.to_cells(heatmap, self._map_resize)
    if blur:
      heatmap = tf.image.resize(
        blur_ops.blur_cells(heatmap, self._blur_kernel), self._output_size
      )
      if augmenter:
        # The blur has brought importance back into what is hidden.
        heatmap *= seen
    return tf.cast(image, self._dtype), {
      'labels': decoded['label'],
      'heatmaps': self._scaled(heatmap[0, ..., 0]),
      'heatmap_weights': tf.constant(1.0),
    }

  def _scaled(self, heatmap):
    if self._min_max:
      low, high = tf.reduce_min(heatmap), tf.reduce_max(heatmap)
      heatmap = tf.math.divide_no_nan(heatmap - low, high - low)
    return tf.ensure_shape(heatmap, self._output_size)
