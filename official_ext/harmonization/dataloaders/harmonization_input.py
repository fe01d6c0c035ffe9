"""Joint parser: one crop and one flip for an image and its human map."""

from typing import Dict, Sequence, Tuple

import tensorflow as tf, tf_keras

from official.vision.dataloaders import parser
from official.vision.ops import preprocess_ops
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.ops import blur as blur_ops

# Of the host's random crop.
_ASPECT_RATIO_RANGE = (3. / 4., 4. / 3.)


class Parser(parser.Parser):
  """Turns a decoded record into an image, its class and its human map."""

  def __init__(self,
               output_size: Sequence[int],
               num_classes: int,
               label_offset: int = 0,
               blur: str = 'after_crop',
               min_max: bool = True,
               aug_rand_hflip: bool = True,
               aug_crop: bool = True,
               crop_area_range: Tuple[float, float] = (0.08, 1.0),
               center_crop_fraction: float = preprocess_ops
               .CENTER_CROP_FRACTION,
               tf_resize_method: str = 'bilinear',
               dtype: str = 'float32'):
    """Initializes the parser.

    Args:
      output_size: (height, width) of image and map.
      num_classes: the network's number of classes.
      label_offset: added to the recorded label.
      blur: 'before_crop', 'after_crop' or 'none', of the map.
      min_max: whether the map is scaled to [0, 1]; a constant map becomes 0.
      aug_rand_hflip: whether to flip at random, in training.
      aug_crop: whether to crop: at random in training, the centre in
        evaluation. If not, image and map are resized whole.
      crop_area_range: smallest and largest part of the image's area that a
        random crop covers.
      center_crop_fraction: of the short side, for evaluation.
      tf_resize_method: for the image; maps are resized bilinearly.
      dtype: of the image.
    """
    self._output_size = list(output_size)
    self._num_classes = num_classes
    self._label_offset = label_offset
    self._blur = blur
    self._min_max = min_max
    self._aug_rand_hflip = aug_rand_hflip
    self._aug_crop = aug_crop
    self._crop_area_range = crop_area_range
    self._center_crop_fraction = center_crop_fraction
    self._tf_resize_method = tf_resize_method
    self._dtype = tf.as_dtype(dtype)

  def _parse_train_data(self, decoded_tensors):
    """One random crop and flip; see `_parse`."""
    seed = decoded_tensors['seed']
    joint, label = self._join(decoded_tensors)
    if self._aug_crop:
      joint = self._random_crop(joint, seed)
    if self._aug_rand_hflip:
      joint = tf.image.stateless_random_flip_left_right(joint, seed + [0, 1])
    image, targets = self._split(joint, label)
    return image, {**targets, 'seed': seed}

  def _parse_eval_data(self, decoded_tensors):
    """The centre, or all, of the image."""
    joint, label = self._join(decoded_tensors)
    if self._aug_crop:
      joint = self._center_crop(joint)
    return self._split(joint, label)

  def _join(self, decoded: Dict[str, tf.Tensor]):
    """Checks a record and stacks its map on its image as a fourth channel.

    From here to `_split` nothing can happen to the one without the other.
    """
    label = decoded['label'] + self._label_offset
    first = labels.first_class(self._num_classes)
    classes = f"outside the network's classes {first}..{self._num_classes - 1}"
    with tf.control_dependencies([
        records.stop_at(decoded['problem'] == '', decoded, decoded['problem']),
        records.stop_at(
            (label >= first) & (label < self._num_classes), decoded,
            tf.strings.join([
                'its label ', tf.strings.as_string(decoded['label']),
                f' plus label_offset {self._label_offset} is ', classes
            ])),
    ]):
      image = tf.cast(decoded['image'], tf.float32)
    heatmap = tf.cast(decoded['heatmap'], tf.float32)
    size = tf.shape(image)[:2]
    if self._blur == 'before_crop':
      heatmap = blur_ops.blur_maps(heatmap[tf.newaxis], size)[0]
    else:
      heatmap = tf.cond(
          tf.reduce_all(tf.shape(heatmap)[:2] == size), lambda: heatmap,
          lambda: tf.image.resize(heatmap, size))
    return tf.concat([image, heatmap], axis=-1), tf.cast(label, tf.int32)

  def _random_crop(self, joint, seed):
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(joint),
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.,
        aspect_ratio_range=_ASPECT_RATIO_RANGE,
        area_range=self._crop_area_range,
        use_image_if_no_bounding_boxes=True)
    return tf.slice(joint, begin, size)

  def _center_crop(self, joint):
    shape = tf.shape(joint)[:2]
    side = tf.cast(
        tf.cast(tf.reduce_min(shape), tf.float32) * self._center_crop_fraction,
        tf.int32)
    begin = (shape - side) // 2
    return joint[begin[0]:begin[0] + side, begin[1]:begin[1] + side]

  def _split(self, joint, label):
    """Resizes image and map to the output size and normalizes the image."""
    image, heatmap = joint[..., :3], joint[tf.newaxis, ..., 3:]
    image = tf.image.resize(
        image, self._output_size, method=self._tf_resize_method)
    image = preprocess_ops.normalize_image(
        image, offset=preprocess_ops.MEAN_RGB, scale=preprocess_ops.STDDEV_RGB)
    if self._blur == 'after_crop':
      heatmap = blur_ops.blur_maps(heatmap, self._output_size)
    else:
      heatmap = tf.image.resize(heatmap, self._output_size)
    heatmap = heatmap[0, ..., 0]
    if self._min_max:
      low, high = tf.reduce_min(heatmap), tf.reduce_max(heatmap)
      heatmap = tf.math.divide_no_nan(heatmap - low, high - low)
    image = tf.ensure_shape(image, self._output_size + [3])
    return tf.cast(image, self._dtype), {
        'labels': label,
        'heatmaps': tf.ensure_shape(heatmap, self._output_size),
        'heatmap_weights': tf.constant(1.),
    }
