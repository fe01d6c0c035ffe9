"""Decoder of this project's own records: Model Garden's ImageNet and a map."""

import tensorflow as tf

from official_ext.harmonization.dataloaders import decoding

_PNG = b'\x89PNG\r\n\x1a\n'
# Of a PNG, the byte that says which channels it has.
_COLOUR_TYPE = 25
_GREY = b'\x00'


def _decode_map(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """The map, uint16 (h, w, 1), 8 bits widened; whether it is a grey PNG."""
  is_grey_png = (tf.strings.substr(encoded, 0, len(_PNG)) == _PNG) & (
    tf.strings.substr(encoded, _COLOUR_TYPE, 1) == _GREY
  )
  heatmap = decoding.bounded(tf.io.decode_png(encoded, 1, tf.uint16))
  return heatmap, is_grey_png


class Decoder(decoding.Decoder):
  """Decodes an ImageNet record of Model Garden that may have a human map.

  Fields: `image/encoded`, a JPEG or PNG; `image/class/label`, int64;
  `image/heatmap/encoded`, a PNG of one channel and 8 or 16 bits, of any size
  and of the image's framing; `image/heatmap/width` and `height`, checked where
  they are there. Without these, and with `image/heatmap/encoded` left out or
  empty, there is no map. A constant map is no problem: its alignment is
  undefined, and counted as such. `image/heatmap/source`, `clicks` and
  `participants` are for people and tools, and not read; neither are the host's
  other fields.

  The decoded image is uint8; the map float32 with white at 255 (16 bits keep
  their fractions), or zeros (1, 1, 1) where the further field `has_map`, bool
  scalar, is false.
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
    said = tf.stack(
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
          ~has_map & tf.reduce_any(said != decoding.MISSING),
          'field image/heatmap/encoded is missing, but image/heatmap/height '
          'or width is there',
        ),
        (
          has_map
          & tf.reduce_any((said != decoding.MISSING) & (said != size[:2])),
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
