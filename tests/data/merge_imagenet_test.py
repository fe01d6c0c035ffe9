# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of attaching maps to ImageNet records."""

import csv
import io
import os
import pathlib
from unittest import mock

import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.harmonization.data import merge_imagenet
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_framing
from official_ext.harmonization.data.maps import map_index
from official_ext.harmonization.data.records import imagenet_merger
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.records import shard_builder


def _map(seed, shape=(16, 16)):
  return np.random.default_rng(seed).integers(0, 65536, shape).astype(np.uint16)


def _jpeg(height=16, width=16):
  buffer = io.BytesIO()
  Image.new('RGB', (width, height), (9, 99, 199)).save(buffer, 'JPEG')
  return buffer.getvalue()


def _imagenet(name, label=3, image=None, **other):
  """A record with what Model Garden's ImageNet records have."""
  example = tf.train.Example()
  fields = {
    'image/encoded': image or _jpeg(),
    'image/filename': name.encode(),
    'image/class/label': label,
    'image/class/synset': b'n01440764',
    **other,
  }
  record_writer.add_fields(
    example, {k: v for k, v in fields.items() if v is not None}
  )
  return example.SerializeToString()


class MergeImagenetTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.get_temp_dir()) / self._testMethodName
    self.folder.mkdir()
    self.out = str(self.folder / 'out')

  def shard(self, name, records):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True)
    with record_writer.open_shard(str(path)) as writer:
      for record in records:
        writer.write(record)

  def imagenet(self):
    """Two shards of three images, n0_0 to n0_5."""
    for i in range(2):
      self.shard(
        f'imagenet/train-0000{i}-of-00002',
        [_imagenet(f'n0_{3 * i + j}.JPEG', 3 * i + j + 1) for j in range(3)],
      )

  def merge(self, **options):
    return imagenet_merger.merge(
      str(self.folder / 'imagenet/train-*'), self.out, **options
    )

  def read(self, out=None):
    """Records of all output shards as lists of dicts."""
    out = out or self.out
    found = []
    for shard in manifest.read(out)['shards']:
      records = []
      path = os.path.join(out, shard['file'])
      for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        records.append(
          {
            k: getattr(v, v.WhichOneof('kind')).value[0]
            for k, v in example.features.feature.items()
          }
        )
      found.append(records)
    return found

  def map_records(self, *names):
    self.shard(
      'maps/clickme-00000-of-00001',
      [
        record_writer.canonical_example(
          _jpeg(),
          0,
          f'train/{name}.jpg',
          image_codec.encode_map(_map(i)),
          'clickme',
          10 + i,
          5,
        )
        for i, name in enumerate(names)
      ]
      + [record_writer.canonical_example(_jpeg(), 0, 'n0_0.JPEG')],
    )
    return str(self.folder / 'maps/clickme-*')

  def test_maps_of_records_go_to_the_images_of_their_ids(self):
    self.imagenet()
    maps = self.map_records('n0_4', 'n0_1', 'n9_9')
    self.assertEqual(self.merge(map_records=maps, label_offset=-1), 2)
    first, second = self.read()
    self.assertEqual(
      [r['image/class/label'] for r in first + second], list(range(6))
    )
    self.assertEqual(
      [r['image/filename'] for r in first + second],
      [b'n0_%d.JPEG' % i for i in range(6)],
    )
    has = ['image/heatmap/encoded' in r for r in first + second]
    self.assertEqual(has, [False, True, False, False, True, False])
    for record, seed in ((second[1], 0), (first[1], 1)):
      self.assertAllEqual(
        tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)[..., 0],
        _map(seed),
      )
      self.assertEqual(record['image/heatmap/clicks'], 10 + seed)
      self.assertEqual(record['image/heatmap/participants'], 5)
      self.assertEqual(record['image/heatmap/source'], b'clickme')
      self.assertEqual(record['image/class/synset'], b'n01440764')
      self.assertEqual(record['image/encoded'], _jpeg())
      self.assertEqual(
        (record['image/height'], record['image/width']), (16, 16)
      )
    with open(os.path.join(self.out, imagenet_merger.UNMATCHED)) as f:
      self.assertEqual([r['image_id'] for r in csv.DictReader(f)], ['n9_9'])
    self.assertEqual(
      manifest.read(self.out)['counts'],
      {'images: with a map': 2, 'images: without a map': 4},
    )

  def test_maps_of_a_folder_and_only_mapped(self):
    self.imagenet()
    maps = self.folder / 'folder/deep'
    maps.mkdir(parents=True)
    (maps / 'n0_0.png').write_bytes(image_codec.encode_map(_map(0)))
    np.savez(maps / 'n0_3.npz', heatmap=_map(3) / 3.0)
    self.assertEqual(
      self.merge(
        map_dir=str(self.folder / 'folder'), only_mapped=True, workers=1
      ),
      2,
    )
    (first,), (second,) = self.read()
    self.assertEqual(
      (first['image/filename'], second['image/filename']),
      (b'n0_0.JPEG', b'n0_3.JPEG'),
    )
    scaled = _map(3) / 3.0 / (_map(3) / 3.0).max() * 65535
    self.assertAllEqual(
      tf.io.decode_png(second['image/heatmap/encoded'], 1, tf.uint16)[..., 0],
      np.round(scaled),
    )

  def test_a_turned_image_is_stored_as_its_map_shows_it(self):
    exif = Image.Exif()
    exif[0x112] = 6
    sideways = io.BytesIO()
    Image.new('RGB', (32, 16), (9, 99, 199)).save(sideways, 'JPEG', exif=exif)
    sideways = sideways.getvalue()
    self.shard(
      'imagenet/train-0',
      [_imagenet(f'n0_{i}.JPEG', image=sideways) for i in range(2)],
    )
    maps = self.folder / 'maps'
    maps.mkdir()
    np.save(maps / 'n0_1.npy', _map(0, (32, 16)))
    self.assertEqual(self.merge(map_dir=str(maps)), 1)
    ((without, with_map),) = self.read()
    self.assertEqual(without['image/encoded'], sideways)
    self.assertEqual(
      (without['image/height'], without['image/width']), (16, 32)
    )
    self.assertEqual(
      (with_map['image/height'], with_map['image/width']), (32, 16)
    )
    self.assertAllClose(
      tf.io.decode_image(with_map['image/encoded']),
      np.full((32, 16, 3), (9, 99, 199)),
      atol=3,
    )
    self.assertEqual(
      manifest.read(self.out)['counts'],
      {
        'images: with a map': 1,
        'images: without a map': 1,
        'images: encoded anew, as people see them': 1,
      },
    )

  def test_resumes_to_the_same_bytes(self):
    self.imagenet()
    maps = self.map_records('n0_4', 'n0_1')
    self.merge(map_records=maps)
    paths = [pathlib.Path(self.out, f'train-0000{i}-of-00002') for i in (0, 1)]
    before = [p.read_bytes() for p in paths]
    paths[1].unlink()
    with mock.patch.object(
      shard_builder, 'write', wraps=shard_builder.write
    ) as write:
      self.assertEqual(self.merge(map_records=maps), 2)
    self.assertEqual(write.call_count, 1)
    self.assertEqual([p.read_bytes() for p in paths], before)
    with self.assertRaisesRegex(ValueError, 'label_offset was 0 and is now 1'):
      self.merge(map_records=maps, label_offset=1)

  def test_no_match_fails_the_command(self):
    self.imagenet()
    maps = self.map_records('other')
    options = merge_imagenet.Options(
      imagenet=str(self.folder / 'imagenet/train-*'),
      output_dir=self.out,
      map_records=maps,
      workers=1,
    )
    with self.assertRaisesRegex(ValueError, 'No map has an image'):
      merge_imagenet.main(options)

  def test_another_key(self):
    self.shard('imagenet/train-0', [_imagenet('', **{'id': b'n0_7'})])
    maps = self.map_records('n0_7')
    self.assertEqual(self.merge(map_records=maps, key='id'), 1)

  def test_what_is_wrong_is_named(self):
    maps = self.map_records('n0_1')
    for record, problem in (
      (_imagenet('n0_1.JPEG', None), 'train-0, record 1 .*no image/class'),
      (_imagenet('n0_1.JPEG', 1, b'nothing'), 'record 1 .*JPEG or PNG'),
      (_imagenet('n0_1.JPEG', 1, _jpeg(16, 40)), '16x40.*--framing'),
      (b'\xff', 'record 1 .*not a tf.train.Example'),
    ):
      self.shard('imagenet/train-0', [_imagenet('n0_0.JPEG'), record])
      with self.assertRaisesRegex(ValueError, problem):
        imagenet_merger.merge(
          str(self.folder / 'imagenet/train-0'),
          f'{self.out}-{problem[-5:]}',
          map_records=maps,
        )
    self.imagenet()
    self.shard(
      'maps/clickme-again',
      [
        record_writer.canonical_example(
          _jpeg(), 0, 'n0_1.png', image_codec.encode_map(_map(3))
        )
      ],
    )
    with self.assertRaisesRegex(ValueError, 'both maps of image n0_1'):
      self.merge(map_records=maps)

  def test_a_flipped_byte_is_named(self):
    self.imagenet()
    maps = self.map_records('n0_1')
    path = self.folder / 'imagenet/train-00001-of-00002'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with self.assertRaisesRegex(
      ValueError, 'train-00001-of-00002, record 1 .*byte .*checksum'
    ):
      self.merge(map_records=maps)
    self.assertFalse(os.path.exists(os.path.join(self.out, manifest.FILE)))


class FitTest(tf.test.TestCase):
  def fit(self, shape, height, width, framing):
    fields = record_writer.map_fields(
      image_codec.encode_map(_map(0, shape)), 'x', 3
    )
    fitted = map_index.fit(fields, height, width, framing)
    self.assertEqual(fitted['image/heatmap/source'], b'x')
    self.assertEqual(fitted['image/heatmap/clicks'], 3)
    values = image_codec.decode_map(fitted['image/heatmap/encoded'])
    self.assertEqual(
      values.shape,
      (fitted['image/heatmap/height'], fitted['image/heatmap/width']),
    )
    return values

  def test_same_framing(self):
    for shape, height, width in (
      ((16, 16), 500, 500),
      ((225, 226), 1000, 1003),
      ((64, 85), 375, 500),
    ):
      self.assertAllEqual(
        self.fit(shape, height, width, 'same'), _map(0, shape)
      )
    for height, width in ((375, 500), (500, 375), (270, 256)):
      with self.assertRaisesRegex(ValueError, f'{height}x{width}'):
        self.fit((256, 256), height, width, 'same')

  def test_the_slack_is_relative_to_the_map(self):
    # Any factor, and either way of rounding, gives a map of the same framing.
    rng = np.random.default_rng(0)
    for height, width in rng.integers(100, 1000, (50, 2)):
      for side in (7, 14, 64, 300, 2000):
        factor = side / min(height, width)
        for step in (np.round, np.floor, np.ceil):
          exact = np.round(np.array([height, width]) * factor, 6)
          rows, columns = step(exact)
          map_framing.check(int(rows), int(columns), height, width)
    # Small maps are not let off, as by a pixel and a half.
    for shape, height, width in (
      ((2, 2), 10, 20),
      ((3, 3), 20, 40),
      ((1, 3), 40, 20),
      ((4, 4), 30, 20),
      ((2000, 2100), 1000, 1000),
    ):
      with self.assertRaisesRegex(ValueError, 'expected the same aspect'):
        map_framing.check(*shape, height, width)

  def test_stretched(self):
    self.assertAllEqual(
      self.fit((16, 16), 10, 90, 'stretched'), _map(0, (16, 16))
    )

  def test_central_square(self):
    wide = self.fit((16, 16), 100, 200, 'center_crop')
    expected = np.zeros((16, 32), np.uint16)
    expected[:, 8:24] = _map(0, (16, 16))
    self.assertAllEqual(wide, expected)
    tall = self.fit((16, 16), 200, 100, 'center_crop')
    expected = np.zeros((32, 16), np.uint16)
    expected[8:24] = _map(0, (16, 16))
    self.assertAllEqual(tall, expected)
    with self.assertRaisesRegex(ValueError, 'expected a square'):
      self.fit((16, 20), 100, 200, 'center_crop')


if __name__ == '__main__':
  tf.test.main()
