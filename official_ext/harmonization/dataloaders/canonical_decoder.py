# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Decoder of this project's records: Model Garden's ImageNet with a map."""

import tensorflow as tf

from official_ext.harmonization.dataloaders import decoding

_PNG = b'\x89PNG\r\n\x1a\n'
# Position of the byte of a PNG that encodes its channels.
_COLOUR_TYPE = 25
_GREY = b'\x00'


def _decode_map(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the map, uint16 (h, w, 1), and whether it is a grey PNG."""
  is_grey_png = (tf.strings.substr(encoded, 0, len(_PNG)) == _PNG) & (
    tf.strings.substr(encoded, _COLOUR_TYPE, 1) == _GREY
  )
  heatmap = decoding.bounded(tf.io.decode_png(encoded, 1, tf.uint16))
  return heatmap, is_grey_png


class Decoder(decoding.Decoder):
  """Decodes an ImageNet record of Model Garden that may have a human map.

  Fields: `image/encoded`, a JPEG or PNG; `image/class/label`, int64;
  `image/heatmap/encoded`, a PNG with one channel of 8 or 16 bits that shows the
  same part of the scene as the image, in any size; `image/heatmap/width` and
  `image/heatmap/height`, which are checked if present. Without these three, or
  with an empty `image/heatmap/encoded`, the record has no map. Constant maps
  are valid; their alignment is undefined, and counted as such.
  `image/heatmap/source`, `clicks` and `participants` are for people and tools;
  they are not read, and neither are Model Garden's other fields.

  The decoded image is uint8. The map is float32 with white at 255, so that 16
  bits keep their fractions, or zeros (1, 1, 1) if the additional field
  `has_map`, a bool scalar, is false.
  """

  map_field = 'image/heatmap/encoded'

  def _decode(self, serialized, attempt):
    fields, problem = decoding.parse(
      serialized,
      {
        'image/encoded': tf.string,
        'image/class/label': tf.int64,
      },
      attempt,
      {
        'image/heatmap/encoded': tf.string,
        'image/heatmap/width': tf.int64,
        'image/heatmap/height': tf.int64,
      },
    )
    image = decoding.decode_image(fields['image/encoded'], 3, attempt)
    has_map = fields['image/heatmap/encoded'] != ''
    black = tf.zeros([1, 1, 1], tf.uint16)
    heatmap, is_grey_png = attempt(
      _decode_map,
      tf.where(
        has_map, fields['image/heatmap/encoded'], tf.io.encode_png(black)
      ),
      (black, False),
    )
    heatmap = tf.ensure_shape(heatmap, [None, None, 1])
    size = tf.shape(heatmap, tf.int64)
    recorded_size = tf.stack(
      [fields['image/heatmap/height'], fields['image/heatmap/width']]
    )
    return {
      'image': image,
      'heatmap': tf.cast(heatmap, tf.float32) / 257.0,
      'has_map': has_map,
      'label': fields['image/class/label'],
      'problem': decoding.first_problem(
        (problem != '', problem),
        (tf.size(image) == 0, 'field image/encoded is not a decodable image'),
        (
          has_map & ~is_grey_png,
          'field image/heatmap/encoded is not a decodable PNG of one channel',
        ),
        (
          ~has_map & tf.reduce_any(recorded_size != decoding.MISSING),
          'field image/heatmap/encoded is missing, but image/heatmap/height '
          'or width is present',
        ),
        (
          has_map
          & tf.reduce_any(
            (recorded_size != decoding.MISSING) & (recorded_size != size[:2])
          ),
          tf.strings.join(
            [
              'its map is ',
              tf.strings.reduce_join(
                tf.strings.as_string(size[:2]), separator=' x '
              ),
              ' (height x width), which fields image/heatmap/height and '
              'width contradict',
            ]
          ),
        ),
      ),
    }
