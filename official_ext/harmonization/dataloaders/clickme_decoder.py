# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Decoder of the ClickMe release's records."""

import tensorflow as tf

from official_ext.harmonization.dataloaders import decoding


class Decoder(decoding.Decoder):
  """Decodes a `tf.train.Example` of the ClickMe release.

  Fields: `image`, a JPEG of 256x256x3; `heatmap`, a JPEG of 256x256x1; `label`,
  int64 in 0..999. Other sizes and PNGs are accepted. A constant map is valid:
  its alignment is undefined, and counted as such. The decoded image and map are
  uint8.
  """

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
    image = decoding.decode_image(fields['image'], 3, attempt)
    heatmap = decoding.decode_image(fields['heatmap'], 1, attempt)
    return {
      'image': image,
      'heatmap': heatmap,
      'label': fields['label'],
      'problem': decoding.first_problem(
        (problem != '', problem),
        (tf.size(image) == 0, 'field image is not a decodable image'),
        (tf.size(heatmap) == 0, 'field heatmap is not a decodable image'),
      ),
    }
