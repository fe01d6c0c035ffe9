# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the decoders of records with human maps, intact and damaged."""

# Bazel: tags = ["graphs"]

import io
from unittest import mock

from absl.testing import parameterized
import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.harmonization.dataloaders import canonical_decoder
from official_ext.harmonization.dataloaders import clickme_decoder
from official_ext.harmonization.dataloaders import decoding
from official_ext.harmonization.dataloaders import harmonization_input
from official_ext.harmonization.dataloaders import raw_decoder
from official_ext.harmonization.dataloaders import registry
from stress.mutations import records
from testing import fixtures

_SIDE = 12

# A field `image` of a few bytes with a recorded length of 4 GB, which makes
# TensorFlow's own parser of examples abort the process.
_LENGTH_OF_FOUR_GB = (
  b'\n\x16\n\x14\n\x05image\x12\x0b\n\t\n\xf0\xff\xff\xff\x0fabc'
)


_serialized = records.serialize


def _encoded(pixels, image_format='PNG', mode=None):
  """Returns an image, encoded without TensorFlow."""
  image = Image.fromarray(np.squeeze(np.asarray(pixels)))
  if mode:
    image = image.convert(mode)
  file = io.BytesIO()
  image.save(file, image_format)
  return file.getvalue()


def _raw(side=_SIDE, seed=0):
  """Returns pixels and fields of a record of the older files."""
  rng = np.random.default_rng(seed)
  image = rng.uniform(0, 255, (side, side, 3)).astype('<f4')
  heatmap = rng.normal(0, 1, (side, side, 1)).astype('<f4')
  return (
    image,
    heatmap,
    {
      'image': image.tobytes(),
      'heatmap': heatmap.tobytes(),
      'label': 3,
      'click_count': 40,
    },
  )


def _canonical(**changes):
  """Returns the fields of a record of this project; None omits a field."""
  fields = {
    'image/encoded': _encoded(fixtures.pixels(1), 'JPEG'),
    'image/class/label': 7,
    'image/height': 40,
    'image/heatmap/encoded': _encoded(fixtures.pixels(2, channels=1)),
    'image/heatmap/height': 40,
    'image/heatmap/width': 48,
    'image/heatmap/source': b'test',
    'image/heatmap/clicks': 40,
    'image/heatmap/participants': 5,
  }
  fields.update(
    {
      k.replace('__', '/').replace('heatmap_', 'heatmap/'): v
      for k, v in changes.items()
    }
  )
  return {k: v for k, v in fields.items() if v is not None}


class _DecoderTest(tf.test.TestCase, parameterized.TestCase):
  def assert_problem(self, decoder, fields, problem):
    decoded = decoder.decode(_serialized(fields))
    self.assertRegex(decoded['problem'].numpy().decode(), problem)


class ParsingTest(_DecoderTest):
  @parameterized.parameters(
    b'no record', b'\x0a\xff\xff', b'\x00', _LENGTH_OF_FOUR_GB
  )
  def test_what_cannot_be_parsed_is_a_problem(self, serialized):
    decoded = clickme_decoder.Decoder().decode(serialized)
    self.assertRegex(
      decoded['problem'].numpy().decode(),
      r'not a tf.train.Example .*image \(string\), .*label \(int64\)',
    )

  @parameterized.parameters(
    {'label': 1.5},
    {'label': b'1'},
    {'label': [1, 2]},
    {'image': [b'a', b'a']},
    {'image': 5},
    {'heatmap': 5},
  )
  def test_wrong_types_and_counts_are_problems(self, **change):
    fields = {'image': b'a', 'heatmap': b'b', 'label': 1, **change}
    self.assert_problem(
      clickme_decoder.Decoder(),
      fields,
      'not a tf.train.Example with one value in each ',
    )

  def test_the_first_problem_is_reported(self):
    self.assertEqual(
      decoding.first_problem((False, 'a'), (True, 'b'), (True, 'c')), b'b'
    )
    self.assertEqual(decoding.first_problem((False, 'a')), b'')


class ImageTest(_DecoderTest):
  def _decode(self, encoded):
    decoded = clickme_decoder.Decoder().decode(fixtures.record(image=encoded))
    self.assertEqual(decoded['problem'], b'')
    return decoded['image']

  def test_cmyk_and_grey_jpegs_and_16_bit_pngs_become_rgb(self):
    pixels = fixtures.pixels(3).numpy()
    for mode, tolerance in (('CMYK', 8), ('L', 6), ('RGB', 6)):
      encoded = _encoded(pixels, 'JPEG', mode)
      expected = np.asarray(
        Image.open(io.BytesIO(encoded)).convert('RGB'), np.float32
      )
      found = self._decode(encoded)
      self.assertAllClose(tf.cast(found, tf.float32), expected, atol=tolerance)
    deep = (pixels[..., 0].astype(np.uint16) << 8) + 77
    found = self._decode(_encoded(deep))
    self.assertAllEqual(found, np.repeat(pixels[..., :1], 3, axis=-1))

  def test_too_many_pixels_are_no_image(self):
    pixels = fixtures.pixels(3).numpy()
    for most, problem in ((40 * 48, '^$'), (40 * 48 - 1, 'not a decodable')):
      with mock.patch.object(decoding, 'MAX_PIXELS', most):
        for image_format in ('JPEG', 'PNG'):
          self.assert_problem(
            clickme_decoder.Decoder(),
            {
              'image': _encoded(pixels, image_format),
              'label': 1,
              'heatmap': _encoded(pixels[:8, :8, 0]),
            },
            problem,
          )
        self.assert_problem(
          canonical_decoder.Decoder(),
          _canonical(image__encoded=_encoded(pixels[:8, :8])),
          problem,
        )

  def test_12_bit_jpeg_is_no_image(self):
    encoded = bytearray(_encoded(fixtures.pixels(3), 'JPEG'))
    frame = encoded.index(b'\xff\xc0')
    self.assertEqual(encoded[frame + 4], 8)
    encoded[frame + 4] = 12
    self.assert_problem(
      clickme_decoder.Decoder(),
      {
        'image': bytes(encoded),
        'label': 1,
        'heatmap': _encoded(fixtures.pixels(3, channels=1)),
      },
      'field image is not a decodable image',
    )


class RawDecoderTest(_DecoderTest):
  @parameterized.parameters(
    ('clickme_2018', 256), ('clickme_per_category', 224)
  )
  def test_decodes_what_numpy_wrote(self, name, side):
    image, heatmap, fields = _raw(side)
    decoded = registry.get_decoder(name).decode(_serialized(fields))
    self.assertEqual(decoded['problem'], b'')
    self.assertAllEqual(decoded['image'], image)
    self.assertAllEqual(decoded['heatmap'], heatmap)
    self.assertEqual(decoded['label'], 3)

  def test_white_is_where_the_user_says(self):
    image, _, fields = _raw()
    fields['image'] = (image / 255).astype('<f4').tobytes()
    ones = raw_decoder.Decoder(_SIDE, image_max=1.0).decode(_serialized(fields))
    self.assertEqual(ones['problem'], b'')
    self.assertAllClose(ones['image'], image, rtol=1e-5)
    self.assert_problem(
      raw_decoder.Decoder(_SIDE),
      fields,
      'from 0.* to 0.9.* raw_image_max is 255. Set it to 1',
    )
    self.assert_problem(
      raw_decoder.Decoder(_SIDE, image_max=1.0),
      _raw()[2],
      'raw_image_max is 1; expected values from 0',
    )
    fields['image'] = (image - 128).astype('<f4').tobytes()
    self.assert_problem(
      raw_decoder.Decoder(_SIDE),
      fields,
      'from -12.*raw_image_max is 255; expected',
    )
    fields['image'] = (image - 5).astype('<f4').tobytes()
    self.assert_problem(raw_decoder.Decoder(_SIDE), fields, '^$')

  @parameterized.product(
    field=('image', 'heatmap'), value=(np.nan, np.inf, -np.inf, 3e38)
  )
  def test_values_that_are_not_finite(self, field, value):
    fields = _raw()[2]
    pixels = np.frombuffer(fields[field], '<f4').copy()
    pixels[17] = value
    fields[field] = pixels.tobytes()
    self.assert_problem(
      raw_decoder.Decoder(_SIDE),
      fields,
      f'field {field} holds a value that is not finite',
    )

  @parameterized.parameters(-1, -4, 1, 4)
  def test_wrong_byte_counts(self, change):
    for field, size in (('image', 1728), ('heatmap', 576)):
      fields = _raw()[2]
      fields[field] = (fields[field] + b'    ')[: size + change]
      self.assert_problem(
        raw_decoder.Decoder(_SIDE),
        fields,
        f'field {field} .*{size + change} bytes, not the {size} .*12x12x',
      )

  def test_constant_map_is_left_to_the_scores(self):
    fields = _raw()[2]
    fields['heatmap'] = np.full(_SIDE**2, 2.0, '<f4').tobytes()
    self.assert_problem(raw_decoder.Decoder(_SIDE), fields, '^$')

  @parameterized.parameters('image', 'heatmap', 'label')
  def test_missing_fields(self, field):
    fields = _raw()[2]
    del fields[field]
    self.assert_problem(
      raw_decoder.Decoder(_SIDE), fields, f'field {field} .*is missing'
    )


class CanonicalDecoderTest(_DecoderTest):
  def test_decodes_what_was_written(self):
    decoded = canonical_decoder.Decoder().decode(_serialized(_canonical()))
    self.assertEqual(decoded['problem'], b'')
    self.assertAllEqual(decoded['heatmap'], fixtures.pixels(2, channels=1))
    self.assertAllEqual(
      decoded['image'], tf.io.decode_jpeg(_canonical()['image/encoded'])
    )
    self.assertEqual((decoded['label'], decoded['has_map']), (7, True))

  def test_sixteen_bits_stay_sixteen(self):
    heatmap = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48) + 9000
    decoded = canonical_decoder.Decoder().decode(
      _serialized(_canonical(image__heatmap_encoded=_encoded(heatmap)))
    )
    self.assertEqual(decoded['problem'], b'')
    self.assertAllEqual(np.round(decoded['heatmap'][..., 0] * 257), heatmap)

  @parameterized.parameters(None, b'')
  def test_record_without_a_map(self, encoded):
    decoded = canonical_decoder.Decoder().decode(
      _serialized(
        _canonical(
          image__heatmap_encoded=encoded,
          image__heatmap_height=None,
          image__heatmap_width=None,
        )
      )
    )
    self.assertEqual((decoded['problem'], decoded['has_map']), (b'', False))
    self.assertAllEqual(decoded['heatmap'], np.zeros([1, 1, 1]))

  def test_imagenet_record_of_the_host(self):
    decoded = canonical_decoder.Decoder().decode(
      _serialized(
        {
          'image/encoded': _encoded(fixtures.pixels(1), 'JPEG'),
          'image/class/label': 1000,
          'image/format': b'JPEG',
          'image/colorspace': b'RGB',
          'image/channels': 3,
          'image/class/text': b'a, b',
          'image/object/bbox/xmin': [0.1, 0.2],
        }
      )
    )
    self.assertEqual((decoded['problem'], decoded['has_map']), (b'', False))
    self.assertEqual(decoded['label'], 1000)

  @parameterized.parameters(
    (dict(image__encoded=None), 'field image/encoded is missing'),
    (dict(image__encoded=b'?'), 'field image/encoded is not a decodable'),
    (dict(image__class__label=None), 'field image/class/label is missing'),
    (dict(image__heatmap_encoded=b'?'), 'not a decodable PNG of one channel'),
    (
      dict(image__heatmap_encoded=_encoded(np.zeros((4, 4, 3), np.uint8))),
      'not a decodable PNG of one channel',
    ),
    (
      dict(image__heatmap_encoded=_encoded(np.zeros((4, 4), np.uint8), 'JPEG')),
      'not a decodable PNG of one channel',
    ),
    # A map with a damaged field name is not a record without a map.
    (
      dict(image__heatmap_encoded=None),
      'field image/heatmap/encoded is missing, but image/heatmap/height or',
    ),
    (dict(image__heatmap_width=49), '40 x 48 .*contradict'),
    (dict(image__heatmap_height=48), '40 x 48 .*contradict'),
    (dict(image__heatmap_width=1.5), 'not a tf.train.Example'),
  )
  def test_says_what_is_wrong(self, changes, problem):
    self.assert_problem(
      canonical_decoder.Decoder(), _canonical(**changes), problem
    )

  def test_size_of_the_map_may_be_left_out(self):
    self.assert_problem(
      canonical_decoder.Decoder(),
      _canonical(image__heatmap_height=None, image__heatmap_width=None),
      '^$',
    )


def _mutations(fields, count, seed=0):
  """Yields `count` damaged copies of a record as (kind, serialized)."""
  rng = np.random.default_rng(seed)
  whole = _serialized(fields)

  def flip(data):
    data = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
      data[place] ^= int(rng.integers(1, 256))
    return bytes(data)

  def cut(data):
    return data[: rng.integers(0, len(data))]

  def other_type(value):
    return 1.5 if isinstance(value, int) else int(rng.integers(0, 9))

  pixels = [k for k, v in fields.items() if isinstance(v, bytes)]
  for i in range(count):
    name = list(fields)[rng.integers(0, len(fields))]
    picture = pixels[rng.integers(0, len(pixels))]
    value = fields[name]
    kinds = {
      'whole': lambda: whole,
      'flip': lambda: flip(whole),
      'cut': lambda: cut(whole),
      'drop': lambda: whole[:9] + whole[9 + rng.integers(1, 90) :],
      'noise': lambda: rng.bytes(rng.integers(0, 200)),
      'empty': lambda: b'',
      'flipped picture': lambda p=picture: _serialized(
        {**fields, p: flip(fields[p])}
      ),
      'cut picture': lambda p=picture: _serialized(
        {**fields, p: cut(fields[p])}
      ),
      'other key': lambda n=name, v=value: _serialized(
        {**{k: x for k, x in fields.items() if k != n}, n + '_': v}
      ),
      'other type': lambda n=name, v=value: _serialized(
        {**fields, n: other_type(v)}
      ),
      'two': lambda n=name, v=value: _serialized({**fields, n: [v, v]}),
      'none': lambda n=name: _serialized({**fields, n: []}),
    }
    kind = list(kinds)[i % len(kinds)]
    yield kind, kinds[kind]()


class FuzzTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.named_parameters(
    (
      'clickme',
      clickme_decoder.Decoder,
      lambda: {
        'image': _encoded(fixtures.pixels(1), 'JPEG'),
        'heatmap': _encoded(fixtures.pixels(2, channels=1), 'JPEG'),
        'label': 3,
      },
    ),
    (
      'raw',
      lambda: raw_decoder.Decoder(_SIDE),
      lambda: {k: v for k, v in _raw()[2].items() if k != 'click_count'},
    ),
    (
      'canonical',
      canonical_decoder.Decoder,
      lambda: {
        k: v
        for k, v in _canonical().items()
        if k
        not in (
          'image/height',
          'image/heatmap/source',
          'image/heatmap/clicks',
          'image/heatmap/participants',
        )
      },
    ),
  )
  def test_every_mutation_ends_in_a_problem_or_a_record(self, decoder, fields):
    parser = harmonization_input.Parser([16, 16], 4).parse_fn(is_training=True)
    decoder, fields = decoder(), fields()

    def read(serialized):
      decoded = decoder.decode(serialized)
      problem, label = decoded['problem'], decoded['label']
      # Good records are also cropped and resized; any class is accepted.
      decoded.update(
        file='f',
        index=tf.constant(0, tf.int64),
        problem='',
        label=tf.constant(1, tf.int64),
        seed=tf.constant([1, 2], tf.int64),
      )

      def parse():
        image, batch = parser(decoded)
        return image, batch['heatmaps']

      image, heatmap = tf.cond(
        problem == '',
        parse,
        lambda: (tf.zeros([16, 16, 3]), tf.zeros([16, 16])),
      )
      return problem, label, image, heatmap

    kinds, mutations = zip(
      *_mutations(fields, 480), ('noise', _LENGTH_OF_FOUR_GB)
    )
    dataset = tf.data.Dataset.from_tensor_slices(list(mutations)).map(
      read, num_parallel_calls=2
    )
    found = list(dataset.as_numpy_iterator())
    self.assertLen(found, len(mutations))
    outcomes = {}
    for kind, (problem, label, image, heatmap) in zip(kinds, found):
      outcomes.setdefault(kind, []).append(problem.decode())
      self.assertTrue(np.all(np.isfinite(image)), kind)
      self.assertAllInRange(heatmap, 0.0, 1.0)
      if not problem:
        self.assertNotEqual(label, decoding.MISSING)
    self.assertAllEqual(set(outcomes['whole']), {''})
    for kind in ('noise', 'empty', 'other type', 'two'):
      self.assertNotIn('', outcomes[kind], kind)
    for kind in ('flip', 'flipped picture', 'none', 'other key'):
      self.assertGreater(len(set(outcomes[kind])), 1, kind)


if __name__ == '__main__':
  tf.test.main()
