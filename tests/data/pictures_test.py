"""Tests of pictures as bytes."""

import io

import numpy as np
from PIL import Image
import tensorflow as tf, tf_keras

from official_ext.harmonization.data import pictures


def _encoded(image, kind='PNG'):
  buffer = io.BytesIO()
  image.save(buffer, kind)
  return buffer.getvalue()


class DecodeImageTest(tf.test.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.pixels = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    self.image = Image.fromarray(self.pixels)

  def test_colour_is_kept(self):
    for mode in ('RGB', 'RGBA'):
      decoded = pictures.decode_image(_encoded(self.image.convert(mode)))
      self.assertAllEqual(decoded, self.pixels)

  def test_other_modes_become_colour(self):
    grey = self.image.convert('L')
    decoded = pictures.decode_image(_encoded(grey))
    self.assertAllEqual(decoded, np.stack([np.asarray(grey)] * 3, axis=-1))
    for mode, kind in (('CMYK', 'JPEG'), ('P', 'PNG')):
      decoded = pictures.decode_image(
          _encoded(self.image.convert(mode), kind))
      self.assertEqual((decoded.shape, decoded.dtype), ((5, 6, 3), np.uint8))

  def test_16_bits_are_refused(self):
    deep = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    with self.assertRaisesRegex(ValueError, 'I;16 pixels'):
      pictures.decode_image(_encoded(deep))

  def test_a_cut_picture_is_refused(self):
    encoded = _encoded(self.image)
    with self.assertRaisesRegex(ValueError, 'not a readable JPEG or PNG'):
      pictures.decode_image(encoded[:len(encoded) // 2])


if __name__ == '__main__':
  tf.test.main()
