# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the way from a ClickMe record to image, class and map."""

# Bazel: tags = ["graphs"]

from absl.testing import parameterized
import numpy as np
from official.vision.dataloaders import classification_input
from official.vision.ops import preprocess_ops
from PIL import Image
from scipy import ndimage
import tensorflow as tf

from official_ext.harmonization.dataloaders import clickme_decoder
from official_ext.harmonization.dataloaders import harmonization_input
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import registry
from testing import fixtures
from testing import released


def _decoded(image, heatmap, label=1, seed=0):
  """Returns the parser's input for an image and a map."""
  return {
    'image': tf.constant(image, tf.uint8),
    'heatmap': tf.constant(heatmap, tf.uint8),
    'label': tf.constant(label, tf.int64),
    'problem': tf.constant(''),
    'file': tf.constant('a.tfrecords'),
    'index': tf.constant(7, tf.int64),
    'seed': tf.constant([seed, 1], tf.int64),
  }


def _centroid(weights):
  weights = np.asarray(weights, np.float64)
  weights = np.maximum(weights - 0.5 * weights.max(), 0.0)
  rows, columns = np.indices(weights.shape)
  return (
    np.array([(rows * weights).sum(), (columns * weights).sum()])
    / weights.sum()
  )


class DecoderTest(tf.test.TestCase, parameterized.TestCase):
  def test_decodes_what_was_written(self):
    image = tf.io.encode_jpeg(fixtures.pixels(3), quality=100).numpy()
    heatmap = tf.io.encode_png(fixtures.pixels(4, channels=1)).numpy()
    decoded = clickme_decoder.Decoder().decode(
      fixtures.record(label=3, image=image, heatmap=heatmap)
    )
    self.assertAllEqual(decoded['image'], tf.io.decode_jpeg(image))
    self.assertAllEqual(decoded['heatmap'], fixtures.pixels(4, channels=1))
    self.assertEqual((decoded['label'], decoded['problem']), (3, b''))

  @parameterized.parameters(
    (dict(omit=['image']), 'field image is missing'),
    (dict(omit=['heatmap']), 'field heatmap .* is missing'),
    (dict(omit=['label']), 'field label is missing'),
    (dict(image=b'no picture'), 'field image is not a decodable'),
    (dict(heatmap=b'no picture'), 'field heatmap is not a decodable'),
  )
  def test_says_what_is_wrong(self, change, problem):
    for decode in (
      clickme_decoder.Decoder().decode,
      tf.function(clickme_decoder.Decoder().decode),
    ):
      decoded = decode(fixtures.record(**change))
      self.assertRegex(decoded['problem'].numpy().decode(), problem)

  def test_truncated_image_is_named(self):
    whole = tf.io.encode_jpeg(fixtures.pixels(3), quality=100).numpy()
    decoded = clickme_decoder.Decoder().decode(
      fixtures.record(image=whole[: len(whole) // 2])
    )
    self.assertIn('field image', decoded['problem'].numpy().decode())

  def test_registry_knows_it(self):
    self.assertIsInstance(
      registry.get_decoder('clickme'), clickme_decoder.Decoder
    )
    with self.assertRaisesRegex(ValueError, "'clikme'.*clickme"):
      registry.get_decoder('clikme')


class RecordsTest(tf.test.TestCase):
  def test_every_record_knows_its_place(self):
    folder = self.get_temp_dir()
    files = [fixtures.write(folder, n, [b'x', b'y', b'z']) for n in 'ab']
    found = list(
      records.located(tf.data.TFRecordDataset)(files).as_numpy_iterator()
    )
    self.assertEqual(
      [(r['file'].decode(), r['index']) for r in found],
      [(f, i) for f in files for i in range(3)],
    )
    self.assertEqual([r['serialized'] for r in found], [b'x', b'y', b'z'] * 2)


class WindowTest(tf.test.TestCase, parameterized.TestCase):
  def _window(self, heatmap, image_size, begin, size, output, **options):
    return harmonization_input.crop_map(
      tf.constant(heatmap[..., np.newaxis]),
      tf.constant(image_size),
      tf.constant(begin),
      tf.constant(size),
      output,
      **options,
    )[0, ..., 0]

  def test_antialiased_is_the_slice_antialiased(self):
    heatmap = np.random.default_rng(0).random((90, 130)).astype(np.float32)
    found = self._window(
      heatmap, [90, 130], [11, 23], [70, 96], [16, 24], antialias=True
    )
    expected = Image.fromarray(heatmap[11:81, 23:119]).resize(
      (24, 16), Image.BILINEAR
    )
    self.assertAllClose(found, expected, atol=1e-5)

  def test_both_are_the_same_where_nothing_is_made_smaller(self):
    heatmap = np.random.default_rng(0).random((9, 13)).astype(np.float32)
    args = (heatmap, [90, 130], [11, 23], [47, 61], [32, 40])
    self.assertAllClose(
      self._window(*args, antialias=True), self._window(*args), atol=1e-5
    )

  def test_a_window_between_pixels_keeps_places_and_mass(self):
    # One click in a map of half the image's size, at 20.5, 30.5 of its pixels.
    heatmap = np.zeros((45, 65), np.float32)
    heatmap[20, 30] = 1.0
    found = self._window(
      heatmap, [90, 130], [5, 7], [80, 121], [10, 11], antialias=True
    ).numpy()
    self.assertAllClose(found.sum() * (40 / 10) * (60.5 / 11), 1.0, atol=1e-3)
    self.assertAllClose(
      ndimage.center_of_mass(found),
      [(20.5 - 2.5) / 4.0 - 0.5, (30.5 - 3.5) / 5.5 - 0.5],
      atol=1e-3,
    )

  @parameterized.parameters(
    (dict(aug_crop=False),),
    (dict(aug_crop=True, center_crop_fraction=1.0),),
    (dict(aug_crop=False, blur='before_crop'),),
    (dict(aug_crop=False, blur='none'),),
  )
  def test_a_click_is_not_lost(self, fields):
    heatmap = np.zeros((256, 256, 1), np.uint8)
    heatmap[128, 128] = 255
    record = _decoded(np.zeros((256, 256, 3)), heatmap)
    seen = {}
    for map_resize in ('released', 'antialias'):
      parser = harmonization_input.Parser(
        [64, 64], 4, min_max=False, map_resize=map_resize, **fields
      )
      _, batch = parser.parse_fn(is_training=False)(record)
      seen[map_resize] = float(tf.reduce_sum(batch['heatmaps']))
    self.assertEqual(seen['released'], 0.0)
    self.assertAllClose(seen['antialias'], 255.0 / 16.0, rtol=1e-3)

  def test_the_kernel_may_be_centred(self):
    heatmap = np.zeros((64, 64, 1), np.uint8)
    heatmap[31:33, 31:33] = 255
    record = _decoded(np.zeros((64, 64, 3)), heatmap)
    for kernel, moved in (('released', True), ('centred', False)):
      parser = harmonization_input.Parser(
        [64, 64], 4, aug_crop=False, min_max=False, blur_kernel=kernel
      )
      _, batch = parser.parse_fn(is_training=False)(record)
      place = np.array(ndimage.center_of_mass(batch['heatmaps'].numpy()))
      self.assertEqual(bool((np.abs(place - 31.5) > 0.3).all()), moved)


class ParserTest(tf.test.TestCase, parameterized.TestCase):
  def test_evaluation_equals_released(self):
    theirs = released.load('common.clickme_dataset')
    image = tf.io.encode_jpeg(fixtures.pixels(1, (256, 256)), quality=95)
    heatmap = tf.io.encode_jpeg(
      fixtures.pixels(2, (256, 256), channels=1), quality=95
    )
    serialized = fixtures.record(
      label=998, image=image.numpy(), heatmap=heatmap.numpy()
    )
    their_image, their_map, their_label = theirs.parse_clickme_prototype(
      serialized
    )
    parser = harmonization_input.Parser(
      [224, 224], 1000, min_max=False, aug_crop=False
    )
    decoded = clickme_decoder.Decoder().decode(serialized)
    decoded.update(file='f', index=tf.constant(0, tf.int64))
    ours, batch = parser.parse_fn(is_training=False)(decoded)
    expected = preprocess_ops.normalize_image(
      their_image, preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB
    )
    self.assertAllClose(ours, expected, atol=1e-5)
    self.assertAllClose(batch['heatmaps'], their_map[..., 0], atol=1e-3)
    self.assertEqual(batch['labels'], np.argmax(their_label))

  @parameterized.product(
    blur=('none', 'before_crop', 'after_crop'),
    map_size=((80, 100), (160, 200), (64, 64)),
  )
  def test_crop_and_flip_move_image_and_map_together(self, blur, map_size):
    parser = harmonization_input.Parser(
      [64, 64], 4, blur=blur, crop_area_range=(0.3, 1.0)
    )
    parse = tf.function(parser.parse_fn(is_training=True))
    image = np.zeros((160, 200, 3), np.uint8)
    image[60:80, 120:140] = 255
    heatmap = np.zeros((160, 200, 1), np.float32)
    heatmap[60:80, 120:140] = 255
    heatmap = np.round(tf.image.resize(heatmap, map_size, antialias=True))
    seen, places = 0, set()
    for seed in range(100):
      ours, batch = parse(_decoded(image, heatmap, seed=seed))
      marker = ours.numpy()[..., 0] - ours.numpy()[..., 0].min()
      edges = (marker[0], marker[-1], marker[:, 0], marker[:, -1])
      if marker.max() < 4 or any(edge.max() > 0.1 for edge in edges):
        continue  # The marker is cropped, so its centre is unknown.
      seen += 1
      place = _centroid(marker)
      places.add(tuple(np.round(place)))
      # The release's kernel is off-centre by half a cell, of 64 cells to the
      # side of what is blurred, and wide enough to feel the border.
      tolerance = 1.0 if blur == 'none' else 5.0
      self.assertAllClose(_centroid(batch['heatmaps']), place, atol=tolerance)
    self.assertGreater(seen, 30)
    self.assertGreater(len(places), 20)

  def test_the_same_draw_gives_the_same_crop(self):
    parser = harmonization_input.Parser([16, 16], 4)
    parse = parser.parse_fn(is_training=True)
    image = fixtures.pixels(1).numpy()
    heatmap = fixtures.pixels(2, channels=1).numpy()
    first, again, other = (
      parse(_decoded(image, heatmap, seed=s))[0] for s in (5, 5, 6)
    )
    self.assertAllEqual(first, again)
    self.assertNotAllClose(first, other)

  def test_min_max(self):
    image = fixtures.pixels(1).numpy()
    heatmap = fixtures.pixels(2, channels=1).numpy()
    for scaled, bounds in ((True, (0.0, 1.0)), (False, None)):
      parser = harmonization_input.Parser([16, 16], 4, min_max=scaled)
      parse = parser.parse_fn(is_training=False)
      result = parse(_decoded(image, heatmap))[1]['heatmaps'].numpy()
      if bounds:
        self.assertAllClose((result.min(), result.max()), bounds)
        flat = parse(_decoded(image, np.full_like(heatmap, 9)))[1]['heatmaps']
        self.assertAllEqual(flat > 1, np.zeros([16, 16], bool))
      else:
        self.assertGreater(result.max(), 10.0)

  def test_centre_crop_is_model_gardens_at_every_size(self):

    @tf.function
    def both(height, width, fraction):
      places = tf.stack(
        tf.meshgrid(tf.range(height), tf.range(width), indexing='ij'), -1
      )
      crop = preprocess_ops.center_crop_image(places, fraction)
      return (
        (crop[0, 0], tf.shape(crop)[:2]),
        harmonization_input.centre_crop(tf.stack([height, width]), fraction),
      )

    for fraction in (0.875, 0.6, 1.0):
      for side in (*range(2, 260, 1 if fraction == 0.875 else 9), 500, 1023):
        for height, width in (
          (side, side),
          (side, side + 1),
          (side + 57, side),
        ):
          expected, found = both(*map(tf.constant, (height, width, fraction)))
          self.assertAllEqual(found, expected, f'{height} x {width}')

  @parameterized.parameters((50, 70), (70, 50), (57, 57), (5, 6), (331, 333))
  def test_centre_crop_is_model_gardens_bit_for_bit(self, height, width):
    image = (
      np.random.default_rng(0)
      .integers(0, 256, (height, width, 3))
      .astype(np.uint8)
    )
    parser = harmonization_input.Parser([24, 24], 4, blur='none', min_max=False)
    ours, batch = parser.parse_fn(is_training=False)(
      _decoded(image, image[..., :1])
    )
    stock = classification_input.Parser([24, 24], 4, 'image', 'label')
    expected, _ = stock.parse_fn(is_training=False)(
      {'image': tf.constant(image), 'label': 1}
    )
    self.assertAllEqual(ours, expected)
    cropped = tf.image.resize(preprocess_ops.center_crop_image(image), [24, 24])
    # With this noise, a shift by one pixel would differ by tens.
    self.assertAllClose(batch['heatmaps'], cropped[..., 0], atol=0.1)

  @parameterized.parameters((1, 1), (1, 9), (9, 1), (2, 3))
  def test_a_crop_of_a_tiny_image_is_not_empty(self, height, width):
    image = np.full((height, width, 3), 100, np.uint8)
    expected = preprocess_ops.normalize_image(
      np.full((4, 4, 3), 100.0),
      preprocess_ops.MEAN_RGB,
      preprocess_ops.STDDEV_RGB,
    )
    parser = harmonization_input.Parser([4, 4], 4)
    for is_training in (False, True):
      found, _ = parser.parse_fn(is_training)(
        _decoded(image, image[..., :1], seed=1)
      )
      self.assertAllClose(found, expected)

  def test_windows_of_maps_beyond_32_bits(self):
    # Each row has its index as value; 50000 * 60000 exceeds 2**31.
    heatmap = tf.range(60_000.0)[:, tf.newaxis, tf.newaxis]
    window = harmonization_input.crop_map(
      heatmap,
      tf.constant([60_000, 1]),
      tf.constant([50_000, 0]),
      tf.constant([8_000, 1]),
      [4, 1],
    )
    # Four pixels of 2000 rows each, sampled at their centre.
    self.assertAllClose(
      window[0, :, 0, 0], 50_999.5 + 2_000 * np.arange(4), atol=0.1
    )

  @parameterized.parameters((3, 1), (-1, 0), (1000, 0))
  def test_label_outside_the_range_names_the_record(self, label, offset):
    parser = harmonization_input.Parser([16, 16], 4, label_offset=offset)
    decoded = _decoded(
      fixtures.pixels(1).numpy(),
      fixtures.pixels(2, channels=1).numpy(),
      label=label,
    )
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError,
      f'a.tfrecords, record 7 .*label {label} plus label_offset {offset}.*0..3',
    ):
      parser.parse_fn(is_training=False)(decoded)

  def test_label_offset(self):
    parser = harmonization_input.Parser([16, 16], 1001, label_offset=1)
    decoded = _decoded(
      fixtures.pixels(1).numpy(),
      fixtures.pixels(2, channels=1).numpy(),
      label=999,
    )
    self.assertEqual(parser.parse_fn(False)(decoded)[1]['labels'], 1000)

  def test_background_of_imagenet_is_no_label(self):
    parser = harmonization_input.Parser([16, 16], 1001, label_offset=0)
    decoded = _decoded(
      fixtures.pixels(1).numpy(),
      fixtures.pixels(2, channels=1).numpy(),
      label=0,
    )
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError, 'label 0 plus label_offset 0 .*1..1000'
    ):
      parser.parse_fn(False)(decoded)

  def test_problem_names_the_record(self):
    parser = harmonization_input.Parser([16, 16], 4)
    decoded = _decoded(np.zeros((0, 0, 3)), np.zeros((0, 0, 1)))
    decoded['problem'] = tf.constant('field image is missing')
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError,
      'a.tfrecords, record 7 .*field image is missing',
    ):
      parser.parse_fn(is_training=True)(decoded)


if __name__ == '__main__':
  tf.test.main()
