"""Decoder of the ClickMe release's records."""

from typing import Dict, Sequence

import tensorflow as tf, tf_keras

from official.vision.dataloaders import decoder

# A label that no record holds: says that the field was not there.
_NO_LABEL = tf.int64.min


def _decode_or_empty(encoded: Sequence[tf.Tensor],
                     channels: Sequence[int]) -> Sequence[tf.Tensor]:
  """Decodes JPEGs, PNGs, GIFs or BMPs; all (0, 0, channels) where one fails.

  An op that fails takes the whole pipeline with it and cannot say which record
  it was; as the only element of a dataset its error can be set aside. A dataset
  costs about as much as decoding a map, so that one serves all.
  """

  def decode(*pictures):
    return tuple(
        tf.io.decode_image(p, channels=c, expand_animations=False)
        for p, c in zip(pictures, channels))

  pixels = tf.data.Dataset.from_tensors(tuple(encoded)).map(decode)
  nothing = tf.data.Dataset.from_tensors(
      tuple(tf.zeros([0, 0, c], tf.uint8) for c in channels))
  decoded = pixels.ignore_errors().concatenate(nothing).take(1)
  return decoded.get_single_element()


class Decoder(decoder.Decoder):
  """Decodes a `tf.train.Example` of the ClickMe release.

  Fields: `image`, a JPEG of 256x256x3; `heatmap`, a JPEG of 256x256x1; `label`,
  int64 in 0..999. Other sizes, and PNGs, are accepted.
  """

  def decode(self, serialized_example: tf.Tensor) -> Dict[str, tf.Tensor]:
    """Decodes one record, and says what is wrong with it.

    Args:
      serialized_example: string scalar.

    Returns:
      A dict of `image` uint8 (H, W, 3), `heatmap` uint8 (h, w, 1), `label`
      int64 scalar as recorded, and `problem`, a string scalar that is empty
      where the other three can be relied on.
    """
    features = tf.io.parse_single_example(
        serialized_example, {
            'image': tf.io.FixedLenFeature((), tf.string, default_value=''),
            'heatmap': tf.io.FixedLenFeature((), tf.string, default_value=''),
            'label': tf.io.FixedLenFeature(
                (), tf.int64, default_value=_NO_LABEL),
        })
    encoded = features['image'], features['heatmap']
    image, heatmap = _decode_or_empty(encoded, (3, 1))
    # Only where one of the two has failed, to find out which.
    image, heatmap = tf.cond(
        tf.size(image) > 0, lambda: (image, heatmap), lambda:
        (_decode_or_empty(encoded[:1], [3])[0],
         _decode_or_empty(encoded[1:], [1])[0]))
    image.set_shape([None, None, 3])
    heatmap.set_shape([None, None, 1])
    problem = tf.constant('')
    # The first of these that holds is the one reported.
    for found, what in (
        (tf.size(heatmap) == 0, 'field heatmap is not a decodable image'),
        (tf.size(image) == 0, 'field image is not a decodable image'),
        (features['label'] == _NO_LABEL, 'field label is missing'),
        (features['heatmap'] == '', 'field heatmap (the human map) is missing'),
        (features['image'] == '', 'field image is missing'),
    ):
      problem = tf.where(found, what, problem)
    return {
        'image': image,
        'heatmap': heatmap,
        'label': features['label'],
        'problem': problem,
    }
