# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Decoder of the older ClickMe files with raw float32 pixels."""

import tensorflow as tf

from official_ext.harmonization.dataloaders import decoding

# Cubic resampling can exceed the range by about this fraction.
_OVERSHOOT = 0.1
# Sums and squares of values up to this one are finite in float32.
_HUGE = 1e15


class Decoder(decoding.Decoder):
  """Decodes a `tf.train.Example` of raw float32 pixels.

  Fields: `image`, little-endian float32 of side x side x 3; `heatmap`, of side
  x side x 1, any values within 1e15; `label`, int64. These are the ClickMe
  archive of 2018 (side 256; its `click_count` is not read) and
  `clickme_test_1000` (224). Neither records whether white is 255 or 1, so the
  user sets it, and an image out of range is a problem. The decoded image is
  float32 with white at 255, the map float32 as recorded.
  """

  def __init__(self, side: int, image_max: float = 255.0):
    """Initializes the decoder.

    Args:
      side: height and width of image and map.
      image_max: the pixel value of white.
    """
    self._side = side
    self._image_max = image_max

  def _decode(self, serialized, attempt):
    fields, problem = decoding.parse(
      serialized,
      {
        'image': tf.string,
        'heatmap': tf.string,
        'label': tf.int64,
      },
      attempt,
    )
    image, image_problem = self._pixels(fields, 'image', 3)
    heatmap, heatmap_problem = self._pixels(fields, 'heatmap', 1)
    return {
      'image': image * (255.0 / self._image_max),
      'heatmap': heatmap,
      'label': fields['label'],
      'problem': decoding.first_problem(
        (problem != '', problem),
        (image_problem != '', image_problem),
        (heatmap_problem != '', heatmap_problem),
        *self._range_problems(image),
      ),
    }

  def _pixels(
    self, fields, name: str, channels: int
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pixels (side, side, channels) of a field, and a problem."""
    shape = [self._side, self._side, channels]
    size = 4 * self._side**2 * channels
    found = tf.strings.length(fields[name])
    pixels = tf.io.decode_raw(fields[name], tf.float32, fixed_length=size)
    return tf.reshape(pixels, shape), decoding.first_problem(
      (
        found != size,
        tf.strings.join(
          [
            f'field {name} holds ',
            tf.strings.as_string(found),
            f' bytes, not the {size} of float32 {"x".join(map(str, shape))}',
          ]
        ),
      ),
      (
        ~tf.reduce_all(tf.abs(pixels) < _HUGE),
        f'field {name} holds a value that is not finite, or beyond 1e15',
      ),
    )

  def _range_problems(self, image):
    """Returns the conditions under which image_max must be wrong."""
    max_value = self._image_max
    low, high = tf.reduce_min(image), tf.reduce_max(image)
    found = tf.strings.join(
      [
        'field image holds values from ',
        tf.strings.as_string(low),
        ' to ',
        tf.strings.as_string(high),
        f', and raw_image_max is {max_value:g}',
      ]
    )
    outside = (low < -_OVERSHOOT * max_value) | (
      high > (1 + _OVERSHOOT) * max_value
    )
    black = (high <= 1.0) & (max_value > 1.0)
    return (
      (
        outside,
        tf.strings.join(
          [
            found,
            '; expected values from 0 to raw_image_max. Set raw_image_max to '
            'the value of white',
          ]
        ),
      ),
      (
        black,
        tf.strings.join(
          [found, '. Set it to 1 if white is 1; otherwise the image is black']
        ),
      ),
    )
