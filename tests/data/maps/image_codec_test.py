# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of pictures as bytes, against Pillow, numpy and TensorFlow."""

import io

from absl.testing import parameterized
import numpy as np
from PIL import Image
from PIL import ImageOps
import tensorflow as tf

from official_ext.harmonization.data.maps import image_codec

_ORIENTED = [
  (kind, o) for kind in ('JPEG', 'PNG', 'WEBP', 'TIFF') for o in range(1, 9)
]


def _encoded(image, kind='PNG', orientation=None, **options):
  buffer = io.BytesIO()
  if orientation:
    options['exif'] = Image.Exif()
    options['exif'][0x112] = orientation
  if kind == 'WEBP':
    options = {'lossless': True, **options}
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _encoded_readably(image, kind):
  """Encodes an image; OSError if this Pillow cannot read what it wrote."""
  encoded = _encoded(image, kind)
  Image.open(io.BytesIO(encoded)).load()
  return encoded


def _ramp():
  """Grey values 0, 20, ..., 220 from left to right."""
  return Image.fromarray(np.tile(np.arange(0, 240, 20, dtype=np.uint8), (8, 1)))


def _deep():
  return (np.arange(96).reshape(8, 12) * 689).astype(np.uint16)


def _stored(values):
  """What a record holds of a map, as TensorFlow reads it."""
  encoded = image_codec.encode_map(values)
  dtype = tf.uint16 if encoded[24] == 16 else tf.uint8
  return tf.io.decode_png(encoded, 0, dtype)[..., 0].numpy()


class DecodeImageTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.pixels = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    self.image = Image.fromarray(self.pixels)

  def test_colour_is_kept(self):
    for mode in ('RGB', 'RGBA'):
      decoded = image_codec.decode_image(_encoded(self.image.convert(mode)))
      self.assertAllEqual(decoded, self.pixels)

  def test_other_modes_become_colour(self):
    grey = self.image.convert('L')
    decoded = image_codec.decode_image(_encoded(grey))
    self.assertAllEqual(decoded, np.stack([np.asarray(grey)] * 3, axis=-1))
    for mode, kind in (
      ('CMYK', 'JPEG'),
      ('P', 'PNG'),
      ('1', 'BMP'),
      ('YCbCr', 'TIFF'),
      ('CMYK', 'TIFF'),
      ('P', 'GIF'),
    ):
      try:
        encoded = _encoded_readably(self.image.convert(mode), kind)
      except OSError:
        # Pillow 12, the latest for Python 3.10, writes such a TIFF wrongly.
        self.assertEqual((mode, kind), ('YCbCr', 'TIFF'))
        continue
      expected = Image.open(io.BytesIO(encoded)).convert('RGB')
      self.assertAllEqual(image_codec.decode_image(encoded), expected)

  @parameterized.parameters(*_ORIENTED)
  def test_is_turned_as_people_see_it(self, kind, orientation):
    for image in (self.image, self.image.convert('L')):
      encoded = _encoded(image, kind, orientation)
      expected = np.asarray(
        ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert('RGB')
      )
      seen = image_codec.decode_image(encoded)
      self.assertAllEqual(seen, expected)
      self.assertEqual(image_codec.size_as_seen(encoded), seen.shape[:2])
      as_seen = image_codec.as_seen(encoded)
      if kind in ('JPEG', 'PNG') and orientation == 1:
        self.assertEqual(as_seen, encoded)
      else:
        self.assertAllEqual(tf.io.decode_image(as_seen, 3), seen)
    # The last was grey: as a map it is turned with its image.
    self.assertAllEqual(image_codec.decode_map(encoded), seen[..., 0])

  def test_damaged_exif_turns_nothing(self):
    for exif in (b'Exif\0\0nonsense', b'Exif\0\0MM\0*\0\0\0\x08\xff\xff'):
      encoded = _encoded(self.image, 'PNG', exif=exif)
      self.assertAllEqual(image_codec.decode_image(encoded), self.pixels)
      self.assertEqual(image_codec.as_seen(encoded), encoded)

  def test_16_bits_become_8(self):
    deep, expected = _deep(), np.round(_deep() / 257.0)
    self.assertEqual(Image.fromarray(deep.astype('>u2')).mode, 'I;16B')
    encodings = {
      'PNG': _encoded(Image.fromarray(deep)),
      'I;16': _encoded(Image.fromarray(deep), 'TIFF'),
      'I;16B': _encoded(Image.fromarray(deep.astype('>u2')), 'TIFF'),
      'I': _encoded(Image.fromarray(deep.astype(np.int32)), 'TIFF'),
      'F': _encoded(Image.fromarray(np.float32(deep)), 'TIFF'),
      'F to 255': _encoded(Image.fromarray(np.float32(deep / 257.0)), 'TIFF'),
      'F to 1': _encoded(Image.fromarray(np.float32(deep / 65535.0)), 'TIFF'),
    }
    for name, encoded in encodings.items():
      seen = image_codec.decode_image(encoded)
      self.assertAllEqual(seen, np.stack([expected] * 3, -1), msg=name)
      self.assertAllEqual(
        tf.io.decode_image(image_codec.as_seen(encoded), 3), seen
      )
    black = _encoded(Image.fromarray(np.array([[0, 1]], np.uint16)))
    self.assertAllEqual(image_codec.decode_image(black), np.zeros((1, 2, 3)))

  def test_white_may_be_zero(self):
    deep = _deep()
    tags = {262: 0}  # PhotometricInterpretation: WhiteIsZero.
    for image in (_ramp(), Image.fromarray(deep)):
      straight = _encoded(image, 'TIFF')
      inverted = bytearray(straight)
      at = inverted.index(b'\x06\x01\x03\x00\x01\x00\x00\x00\x01')
      inverted[at + 8] = tags[262]
      self.assertAllEqual(
        image_codec.decode_image(bytes(inverted)),
        255 - image_codec.decode_image(straight),
      )

  def test_32_bits_that_could_be_anything_are_refused(self):
    for values in (
      np.full((4, 4), 3000, np.int32),
      np.full((4, 4), -1, np.int32),
      np.full((4, 4), 2**30, np.int32),
      np.full((4, 4), 300.0, np.float32),
      np.full((4, 4), np.nan, np.float32),
    ):
      with self.assertRaisesRegex(ValueError, 'values (from|are) .*expected'):
        image_codec.decode_image(_encoded(Image.fromarray(values), 'TIFF'))

  def test_transparency_is_shown_on_white(self):
    alpha = np.array([[0, 51, 255]], np.uint8)
    colour = np.full((1, 3, 3), (10, 110, 210), np.uint8)
    expected = np.round(255 + (colour - 255.0) * (alpha / 255.0)[..., None])
    image = Image.fromarray(np.dstack([colour, alpha]))
    for kind in ('PNG', 'TIFF', 'WEBP'):
      encoded = _encoded(
        image, kind, **({'exact': True} if kind == 'WEBP' else {})
      )
      seen = image_codec.decode_image(encoded)
      self.assertAllClose(seen, expected, atol=1)
      self.assertAllEqual(
        tf.io.decode_image(image_codec.as_seen(encoded), 3), seen
      )
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert('P')
    palette.putpalette([9, 9, 9, 99, 99, 99])
    encoded = _encoded(palette, transparency=0)
    self.assertAllEqual(
      image_codec.decode_image(encoded), [[[255] * 3, [99] * 3]]
    )

  def test_mpo_is_jpeg(self):
    encoded = _encoded(
      self.image, 'MPO', save_all=True, append_images=[self.image]
    )
    self.assertEqual(Image.open(io.BytesIO(encoded)).format, 'MPO')
    self.assertEqual(image_codec.shape(encoded), (5, 6, 3, 'JPEG'))
    self.assertEqual(image_codec.as_seen(encoded), encoded)
    self.assertAllClose(
      tf.io.decode_image(encoded, 3), image_codec.decode_image(encoded), atol=4
    )

  @parameterized.parameters('GIF', 'WEBP', 'PNG', 'TIFF')
  def test_animations_are_refused(self, kind):
    encoded = _encoded(
      self.image,
      kind,
      save_all=True,
      append_images=[Image.fromarray(255 - self.pixels)],
    )
    for decode in (
      image_codec.decode_image,
      image_codec.decode_map,
      image_codec.as_seen,
    ):
      with self.assertRaisesRegex(ValueError, f'a {kind} of 2 frames'):
        decode(encoded)

  def test_jpeg_where_it_is_asked_for(self):
    encoded = _encoded(self.image, orientation=6)
    self.assertEqual(
      image_codec.shape(image_codec.as_seen(encoded)).format, 'PNG'
    )
    smooth = _encoded(Image.new('RGB', (32, 16), (9, 99, 199)), orientation=6)
    jpeg = image_codec.as_seen(smooth, 95)
    self.assertEqual(image_codec.shape(jpeg), (32, 16, 3, 'JPEG'))
    self.assertAllClose(
      image_codec.decode_image(jpeg), image_codec.decode_image(smooth), atol=3
    )

  def test_a_cut_picture_is_refused(self):
    for kind in ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP'):
      encoded = _encoded(self.image, kind)
      for cut in (encoded[: len(encoded) // 2], encoded[:3], b''):
        with self.assertRaisesRegex(ValueError, 'not a readable JPEG') as e:
          image_codec.decode_image(cut)
        self.assertNotIn(' at 0x', str(e.exception))

  def test_what_training_cannot_decode_is_refused(self):
    encoded = _encoded(Image.new('1', (9500, 9500)))
    with self.assertRaisesRegex(ValueError, '9500 x 9500 .* at most 89478485'):
      image_codec.as_seen(encoded)


class EncodeImageTest(tf.test.TestCase):
  def test_numbers_of_every_type(self):
    levels = np.array([[0, 1, 128, 255]])
    for dtype in (
      np.uint8,
      '>u2',
      np.int16,
      np.uint64,
      '>i8',
      np.float16,
      '>f4',
      np.float64,
      np.longdouble,
    ):
      encoded = image_codec.encode_image(levels.astype(dtype))
      self.assertAllEqual(tf.io.decode_png(encoded)[..., 0], levels)
    for dtype in (np.float16, np.float32, np.longdouble):
      encoded = image_codec.encode_image((levels / 255.0).astype(dtype))
      self.assertAllEqual(tf.io.decode_png(encoded)[..., 0], levels)
    encoded = image_codec.encode_image(levels > 100)
    self.assertAllEqual(tf.io.decode_png(encoded)[..., 0], [[0, 0, 255, 255]])

  def test_refusals(self):
    for pixels, found in (
      (np.ones((2, 2), complex), 'complex'),
      (np.eye(2).astype(object), 'object'),
      (np.zeros((2, 2), 'M8[s]'), 'datetime64'),
      (np.zeros(()), r'\(\)'),
      (np.array([[np.nan, 1], [np.inf, 0]]), '2 of 4 values are NaN'),
      (np.full((2, 2), -1), '-1'),
      (np.full((2, 2), 256), '256'),
      (np.zeros((0, 2)), r'\(0, 2\)'),
    ):
      with self.assertRaisesRegex(ValueError, found):
        image_codec.encode_image(pixels)


class MapTest(tf.test.TestCase, parameterized.TestCase):
  def test_whole_numbers_of_8_and_16_bits_are_kept(self):
    for dtype in ('u1', '<u2', '>u2'):
      values = np.array([[0, 7], [200, 3]], dtype)
      self.assertAllEqual(_stored(values), values)
      self.assertEqual(_stored(values).dtype.itemsize, values.dtype.itemsize)

  @parameterized.parameters(
    '?',
    'i1',
    'i2',
    '>i2',
    'i4',
    '>u4',
    'u4',
    'i8',
    '>i8',
    'u8',
    '>u8',
    'f2',
    '>f2',
    'f4',
    '>f4',
    'f8',
    '>f8',
    'g',
  )
  def test_other_numbers_are_scaled_by_their_greatest(self, dtype):
    values = np.array([[0, 1, 5], [60, 100, 127]]).astype(dtype)
    expected = np.round(
      values.astype(float) / values.astype(float).max() * 65535
    )
    for shaped in (
      values,
      values[..., np.newaxis],
      values[np.newaxis],
      np.stack([values] * 3, -1),
      np.asfortranarray(values),
    ):
      self.assertAllEqual(_stored(shaped), expected)

  def test_no_maximum_is_too_large_or_too_small(self):
    part = np.array([[0.0, 0.25], [0.5, 1.0]])
    for dtype, unit in (
      (np.float16, 65504),
      (np.float16, 2**-14),
      (np.float32, 1e-36),
      (np.float32, 3e38),
      (np.float32, 1.4e-45 * 8),
      (np.float64, 1e-300),
      (np.float64, 5e-324 * 8),
      (np.float64, 1.7e308),
      (np.uint64, 2**63),
      (np.longdouble, np.finfo(np.longdouble).tiny),
      (np.longdouble, np.finfo(np.longdouble).max / 2),
    ):
      values = (part * np.longdouble(unit)).astype(dtype)
      self.assertAllEqual(
        _stored(values), np.round(part * 65535), msg=f'{dtype} {unit}'
      )

  def test_refusals(self):
    eye = np.eye(3)
    for values, found in (
      (eye.astype(complex), 'complex128'),
      (eye.astype(object), 'object'),
      (np.zeros((3, 3), [('x', 'f4')]), "'x'"),
      (eye.astype('U3'), '<U3'),
      (eye.astype('S3'), r'\|S3'),
      (np.zeros((3, 3), 'M8[s]'), 'datetime64'),
      (eye.astype('V2'), r'\|V2'),
      (np.float64(3.0), r'shape \(\)'),
      (np.arange(5.0), r'shape \(5,\)'),
      (np.zeros((0, 4)), r'\(0, 4\)'),
      (np.zeros((3, 3, 0)), r'\(3, 3, 0\)'),
      (np.ones((1, 2, 3, 1)), r'1\)'),
      (np.dstack([eye, 2 * eye]), 'different channels'),
      (-eye, '-1'),
      (np.where(eye > 0, np.nan, 1.0), 'values are NaN'),
      (np.where(eye > 0, np.inf, 1.0), 'inf'),
      (eye.astype('i1') - 2, '-2'),
      (np.full((3, 3), 7, np.uint8), 'without contrast'),
      (np.zeros((3, 3)), 'without contrast'),
      (np.ones((3, 3), bool), 'without contrast'),
    ):
      with self.assertRaisesRegex(ValueError, found):
        image_codec.encode_map(values)

  def test_contrast_is_that_of_what_is_stored(self):
    for values in (
      1.0 + np.eye(3) * 1e-6,
      np.uint64(2**63) + np.eye(3).astype(np.uint64),
      np.float32(1e9) + np.eye(3, dtype=np.float32) * 64,
    ):
      self.assertGreater(np.ptp(values), 0)
      with self.assertRaisesRegex(ValueError, 'equal in 16 bits; subtract'):
        image_codec.encode_map(values)

  @parameterized.parameters('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
  def test_grey_is_a_map_in_any_layout(self, mode):
    image = _ramp().convert(mode)
    formats = 0
    for kind in ('PNG', 'TIFF', 'WEBP', 'BMP', 'GIF'):
      try:
        encoded = _encoded_readably(image, kind)
      except (OSError, ValueError):
        continue  # The format has no such layout.
      formats += 1
      self.assertAllEqual(image_codec.decode_map(encoded), image.convert('L'))
    # Some releases of Pillow write a layout readably in one format only.
    self.assertGreater(formats, 0)

  def test_lossy_grey_is_a_map(self):
    smooth = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    image = Image.fromarray(smooth).convert('RGB')
    for kind, options in (
      ('JPEG', {'quality': 60}),
      ('WEBP', {'lossless': False, 'quality': 60}),
    ):
      found = image_codec.decode_map(_encoded(image, kind, **options))
      self.assertLess(np.abs(found.astype(int) - smooth).max(), 16)

  def test_deep_maps(self):
    deep = _deep()
    for values in (
      deep,
      deep.astype('>u2'),
      deep.astype(np.int32),
      np.float32(deep) * 1e-9,
    ):
      encoded = _encoded(Image.fromarray(values), 'TIFF')
      self.assertAllEqual(image_codec.decode_map(encoded), values)
      self.assertAllEqual(
        _stored(image_codec.decode_map(encoded)),
        np.round(deep * (65535.0 / deep.max()))
        if values.dtype.itemsize > 2
        else deep,
      )
    for channels in (1, 3):
      encoded = tf.io.encode_png(np.stack([deep] * channels, -1)).numpy()
      self.assertAllEqual(image_codec.decode_map(encoded), deep)
    for alpha, good in ((65535, True), (65534, False)):
      deep_alpha = np.dstack([deep, np.full_like(deep, alpha)])
      encoded = tf.io.encode_png(deep_alpha).numpy()
      if good:
        self.assertAllEqual(image_codec.decode_map(encoded), deep)
      else:
        with self.assertRaisesRegex(ValueError, 'transparent'):
          image_codec.decode_map(encoded)

  def test_what_is_not_grey_is_refused(self):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1, 2, 0] = 3
    drawn = Image.fromarray(colours)
    for image in (drawn, drawn.convert('RGBA'), drawn.quantize(4)):
      with self.assertRaisesRegex(ValueError, 'map in colour'):
        image_codec.decode_map(_encoded(image))
    see_through = _ramp().convert('RGBA')
    see_through.putpixel((0, 0), (0, 0, 0, 254))
    with self.assertRaisesRegex(ValueError, 'transparent'):
      image_codec.decode_map(_encoded(see_through))


if __name__ == '__main__':
  tf.test.main()
