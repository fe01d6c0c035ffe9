# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of records that are built from clicks and from pictures."""

# Bazel: tags = ["files"]

import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from unittest import mock
import zipfile

import numpy as np
from official.vision.dataloaders import classification_input
from PIL import Image
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.dataloaders import canonical_decoder
from tests import samples
from tests.data import building


def _objects(*values):
  """An array that holds any objects."""
  out = np.empty(len(values), object)
  for i, value in enumerate(values):
    out[i] = value
  return out


class ClicksTest(building.Case):
  def setUp(self):
    super().setUp()
    self.images = {}
    for i, name in enumerate(('cat/a', 'cat/b', 'dog/c', 'dog/few')):
      pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
      self.write(f'images/{name}.png', building.png(pixels))
      self.images[f'{name}.png'] = pixels
    self.images_dir = str(self.folder / 'images')

  def csv(self, rows, header=('image_path', 'clicks', 'user_id')):
    path = self.folder / 'clicks.csv'
    with open(path, 'w', newline='') as f:
      writer = csv.writer(f)
      writer.writerow(header)
      writer.writerows(rows)
    return str(path)

  def rows(self):
    return (
      [
        (f'{n}.png', '[(10, 5), (11, 6)]', f'u{u}')
        for u in range(3)
        for n in ('cat/a', 'dog/c')
      ]
      + [('cat/b.png', '[(49, 39), (50, 39)]', f'u{u}') for u in range(4)]
      + [
        ('dog/few.png', '[(1, 1)]', 'u0'),
        ('dog/gone.png', '[]', 'u0'),
        ('../secret.png', '[(1, 1)]', 'u0'),
        ('cat/b.png', '[(1,', 'x'),
      ]
    )

  def test_csv(self):
    rules = map_options.ClickFilter(min_participants=2)
    folder, totals = self.build(
      clicks=[self.csv(self.rows())],
      image_dir=self.images_dir,
      click_filter=rules,
    )
    records = building.read(folder)
    self.assertEqual(
      {k: r['image/class/label'] for k, r in records.items()},
      {'cat/a.png': 0, 'cat/b.png': 0, 'dog/c.png': 1},
    )
    self.assertEqual(manifest.read(folder)['class_names'], ['cat', 'dog'])
    made = clicks.click_map(
      [
        clicks.ParticipantClicks(f'u{u}', '[(10, 5), (11, 6)]')
        for u in range(3)
      ],
      40,
      50,
      rules,
    ).values
    record = records['cat/a.png']
    self.assertAllEqual(
      tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)[..., 0],
      np.round(made / made.max() * 65535),
    )
    self.assertAllEqual(
      tf.io.decode_image(record['image/encoded']), self.images['cat/a.png']
    )
    self.assertEqual(
      [
        record[f'image/heatmap/{k}']
        for k in ('source', 'clicks', 'participants')
      ],
      [b'csv', 6, 3],
    )
    self.assertEqual(
      totals['counts'],
      {
        'clicks: outside the image': 4,
        'rows: unreadable': 1,
        'images: too few participants': 1,
        'images: image not found': 1,
        'images: image outside --image_dir': 1,
      },
    )
    self.assertIn(
      {
        'name': 'dog/gone.png',
        'reason': 'image not found',
        'detail': f'it is not in {self.images_dir}',
      },
      self.left_out(folder),
    )
    self.assertIn(
      {
        'name': 'clicks.csv, row 14',
        'reason': 'row: unreadable',
        'detail': 'cat/b.png: the clicks are not a list of (x, y)',
      },
      self.left_out(folder),
    )

  def test_a_renamed_copy_of_the_clicks_is_the_same_input(self):
    path = self.csv(self.rows())
    flags = dict(
      image_dir=self.images_dir,
      click_filter=map_options.ClickFilter(min_participants=2),
    )
    folder, _ = self.build(clicks=[path], **flags)
    before = building.contents(folder)
    copies = [self.write('copy.csv', pathlib.Path(path).read_bytes())]
    # A pattern names it, too.
    for given in (copies, [str(self.folder / 'cop?.csv')]):
      self.build(clicks=given, **flags)
      for name, content in building.contents(folder).items():
        if name.startswith('train-'):
          self.assertEqual(content, before[name])
    with self.assertRaisesRegex(ValueError, 'input has changed'):
      self.build(clicks=[self.csv(self.rows()[1:])], **flags)
    # Earlier versions saved a digest of the rows with their file's name.
    digest = hashlib.sha256()
    self.csv(self.rows())
    for image, row in click_files.read(path):
      fields = dataclasses.asdict(row)
      if not row.problem:
        del fields['problem']
      digest.update(f'{image}\n{json.dumps(fields)}\n'.encode())
    saved = output_folder.working_file(folder, 'settings.json')
    settings = files.read_json(saved)
    files.write_json(saved, {**settings, 'input': digest.hexdigest()})
    self.build(clicks=[path], **flags)

  def test_labels_from_a_column_and_from_a_file(self):
    rows = [
      ('cat/a.png', '[(9, 9)]', 'u', '7'),
      ('dog/c.png', '[]', 'u', 'cat'),
      ('cat/b.png', '[(9, 9)]', 'u', '1'),
      ('cat/b.png', '[(9, 9)]', 'v', '2'),
    ]
    header = ('image_path', 'clicks', 'user_id', 'class')
    common = dict(
      clicks=[self.csv(rows, header)],
      image_dir=self.images_dir,
      click_filter=map_options.ClickFilter(min_participants=1),
    )
    folder, totals = self.build(label_column='class', **common)
    self.assertEqual(
      {k: r['image/class/label'] for k, r in building.read(folder).items()},
      {'cat/a.png': 7},
    )
    self.assertEqual(
      totals['counts'],
      {
        'images: no label': 1,
        'images: too few participants': 1,
        'rows: too few clicks': 1,
      },
    )
    labels = self.write('labels.csv', b'image,label\ncat/a,bird\ncat/b.png,0\n')
    names = self.write('names.txt', b'fish\nbird\n')
    folder, _ = self.build('b', labels=labels, class_names=names, **common)
    self.assertEqual(
      {k: r['image/class/label'] for k, r in building.read(folder).items()},
      {'cat/a.png': 1, 'cat/b.png': 0},
    )
    labels = self.write('fewer.csv', b'image,label\ncat/a,bird\n')
    beyond = self.write('beyond.csv', b'image,label\ncat/a,2\ncat/b.png,1\n')
    folder, _ = self.build('n', labels=beyond, class_names=names, **common)
    self.assertEqual([*self.labels(folder)], ['cat/b.png'])
    self.assertIn(
      'class 2 has no name; expected 0 to 1 or a name',
      [row['detail'] for row in self.left_out(folder)],
    )
    folder, _ = self.build('c', labels=labels, class_names=names, **common)
    self.assertIn(
      'the file of --labels does not contain cat/b.png',
      [row['detail'] for row in self.left_out(folder)],
    )
    labels = self.write('bare.csv', b'image,label\na.png,bird\nb,bird\n')
    folder, _ = self.build('d', labels=labels, class_names=names, **common)
    details = '; '.join(row['detail'] for row in self.left_out(folder))
    self.assertIn('cat/a.png, but a.png; expected paths below', details)
    self.assertIn('cat/b.png, but b; expected paths below', details)

  def labels(self, folder):
    return {k: r['image/class/label'] for k, r in building.read(folder).items()}

  def test_a_table_as_people_have_it(self):
    """UTF-16 of Windows, PostgreSQL's arrays, paths and ids in many ways."""
    text = 'Image_Path;user_id;clicks;is_mobile\r\n' + ''.join(
      f'{path};{user};"{points}";{mobile}\r\n'
      for path, user, points, mobile in (
        ('imagenet\\train\\cat\\a.png', '3', '{""(9,5)"",""(11,6)""}', '0'),
        ('./imagenet//train/cat/a.png', '3.0', '{""(1,1)""}', 'False'),
        ("b'imagenet/train/cat/a.png'", "b'bob'", '[[1,1],null]', '[]'),
        ('imagenet/train/dog/c.png', 'ann', '[(np.int64(4),4)]', '[False]'),
        ('imagenet/train/dog/c.png', 'eve', '[(4, 4)]', 'True'),
        ('imagenet/train/dog/c.png', '', '[(4, 4)]', 'false'),
        ('imagenet/train/dog/c.png', 'nan', '[(4, 4)]', 'false'),
        ('imagenet/train/dog/c.png', 'x', '[(4, 4)]', 'maybe'),
        ('', 'y', '[(4, 4)]', 'no'),
      )
    )
    common = dict(
      clicks=[self.write('c.csv', text.encode('utf-16'))],
      click_filter=map_options.ClickFilter(
        min_participants=1, drop_mobile=True
      ),
      image_dir=self.images_dir,
    )
    with self.assertRaisesRegex(ValueError, '--strip_prefix=imagenet/train,'):
      self.build('silent', **common)
    folder, totals = self.build(strip_prefix='imagenet/train', **common)
    self.assertEqual(self.labels(folder), {'cat/a.png': 0, 'dog/c.png': 1})
    self.assertEqual(
      building.read(folder)['cat/a.png']['image/heatmap/clicks'], 3
    )
    self.assertEqual(
      totals['counts'],
      {
        'clicks: without a place (null)': 1,
        'rows: made on a phone': 1,
        'rows: participant again on the same image': 1,
        'rows: unreadable': 3,
        'rows: taken, not known whether made on a phone': 1,
        'images: image_path is empty': 1,
      },
    )
    details = {row['detail'] for row in self.left_out(folder)}
    self.assertEqual(
      details,
      {
        'dog/c.png: user_id is empty',
        '1 rows, the first is c.csv, row 9',
        "dog/c.png: is_mobile is 'maybe'; expected true or false",
      },
    )

  def test_the_prefix_may_be_below_the_folder_of_images(self):
    (self.folder / 'imagenet').mkdir()
    os.rename(self.images_dir, self.folder / 'imagenet/train')
    rows = [
      (f'imagenet/train/{n}.png', '[(1, 1)]', 'u') for n in ('cat/a', 'dog/c')
    ]
    folder, _ = self.build(
      clicks=[self.csv(rows)],
      image_dir=str(self.folder),
      click_filter=map_options.ClickFilter(min_participants=1),
      strip_prefix='imagenet/train/',
    )
    self.assertEqual(self.labels(folder), {'cat/a.png': 0, 'dog/c.png': 1})

  def test_what_a_table_lacks_is_not_ignored(self):
    rules = map_options.ClickFilter(min_participants=1, drop_mobile=True)
    with self.assertRaisesRegex(ValueError, 'no column is_mobile'):
      self.build(
        clicks=[self.csv(self.rows())],
        image_dir=self.images_dir,
        click_filter=rules,
      )
    rows = [
      ('cat/a.png', '[(1, 1)]', 'a', '.9'),
      ('cat/a.png', '[]', 'b', ''),
      ('cat/a.png', '[(1, 1)]', 'c', '1.0'),
    ]
    folder, totals = self.build(
      'catch',
      image_dir=self.images_dir,
      clicks=[
        self.csv(rows, ('image_path', 'clicks', 'user_id', 'user_catch_trial'))
      ],
      click_filter=map_options.ClickFilter(min_participants=1),
    )
    self.assertEqual(self.labels(folder), {'cat/a.png': 0})
    self.assertEqual(totals['counts'], {'rows: catch trials not passed': 2})

  def test_the_summary_names_one_class_and_the_first_unreadable_row(self):
    rows = [
      ('cat/a.png', '[(1, 1)]', 'u'),
      ('cat/b.png', '[(1, 1)]', 'u'),
      ('cat/a.png', '[(1', 'v'),
    ]
    with mock.patch('sys.stdout', io.StringIO()) as printed:
      self.build(
        clicks=[self.csv(rows)],
        image_dir=self.images_dir,
        click_filter=map_options.ClickFilter(min_participants=1),
      )
    self.assertIn(
      '2  of class 0 (cat)\nAll records have the same class', printed.getvalue()
    )
    self.assertIn(
      'such as clicks.csv, row 3: cat/a.png: the clicks are', printed.getvalue()
    )

  def test_npz_of_odd_types(self):
    fields = dict(
      file_pointer=np.array([b'cat/a.png'] * 6),
      clickmap_x=_objects([5], [6], [7], [[1, 2], [3]], None, [8]),
      clickmap_y=_objects([5], [6], [7], [1], None, [8]),
      user_id=_objects(b'a', 'b', 3.0, 'd', 'e', None),
      is_mobile=_objects([False], [True], [], [False], np.array([]), [False]),
    )
    folder, totals = self.build(
      clicks=[self.write('c.NPZ', building.npz(**fields))],
      trust_pickle=True,
      image_dir=self.images_dir,
      click_filter=map_options.ClickFilter(
        min_participants=1, drop_mobile=True
      ),
    )
    record = building.read(folder)['cat/a.png']
    self.assertEqual(
      [
        record[f'image/heatmap/{k}']
        for k in ('source', 'clicks', 'participants')
      ],
      [b'npz', 2, 2],
    )
    self.assertEqual(
      totals['counts'],
      {
        'rows: made on a phone': 1,
        'rows: too few clicks': 1,
        'rows: unreadable': 2,
        'rows: taken, not known whether made on a phone': 2,
      },
    )
    fields['user_id'] = np.array('a')
    with self.assertRaisesRegex(ValueError, 'user_id is a single value'):
      self.build(
        'scalar',
        trust_pickle=True,
        image_dir=self.images_dir,
        clicks=[self.write('c.npz', building.npz(**fields))],
      )

  def test_npz_of_clicks(self):
    fields = dict(
      file_pointer=np.array(['cat/a.png'] * 3 + ['dog/c.png']),
      clickmap_x=_objects([200, 201], [200], [1], [128]),
      clickmap_y=_objects([30, 31], [30], [1], [64]),
      user_id=np.array(['a', 'b', 'cheat', 'a']),
      user_catch_trial=np.array([1.0, 0.95, 0.5, 1.0]),
      is_mobile=np.array([False, True, False, False]),
    )
    path = self.write('clicks.npz', building.npz(**fields))
    common = dict(
      clicks=[path],
      image_dir=self.images_dir,
      click_frame=256,
      click_filter=map_options.ClickFilter(min_participants=1),
    )
    with self.assertRaisesRegex(
      PermissionError, 'clickmap_x of .*clicks.npz.*--trust_pickle'
    ):
      self.build(**common)
    folder, totals = self.build('trusted', trust_pickle=True, **common)
    record = building.read(folder)['cat/a.png']
    self.assertEqual(totals['counts'], {'rows: catch trials not passed': 1})
    self.assertEqual(
      [
        record[f'image/heatmap/{k}']
        for k in ('height', 'width', 'source', 'clicks', 'participants')
      ],
      [256, 256, b'npz', 3, 2],
    )
    heatmap = tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)
    self.assertEqual(heatmap.numpy()[30, 200, 0], 65535)

  def _clicks(self, side, reach, count=24):
    """Images of side x side pixels and clicks that reach all of a square."""
    self.write(
      'images/cat/big.png',
      building.png(np.zeros((side, side + 20, 3), np.uint8)),
    )
    places = [(i * 7 % reach, i * 11 % reach) for i in range(count - 1)]
    return self.csv(
      [
        ('cat/big.png', str([place]), f'u{i}')
        for i, place in enumerate([*places, (reach - 1, reach - 1)])
      ]
    )

  def test_clicks_of_a_smaller_frame_are_refused_until_it_is_named(self):
    csv_file = self._clicks(side=200, reach=100)
    common = dict(
      clicks=[csv_file],
      image_dir=self.images_dir,
      click_filter=map_options.ClickFilter(min_participants=1),
    )
    with self.assertRaisesRegex(
      ValueError,
      'none of 24 clicks .* x = 100, y = 100, but 1 of '
      '1 images .*--click_frame',
    ):
      self.build(**common)
    folder, _ = self.build('own', click_frame=0, **common)
    record = building.read(folder)['cat/big.png']
    self.assertEqual(record['image/heatmap/width'], 220)
    folder, _ = self.build('squeezed', click_frame=100, **common)
    record = building.read(folder)['cat/big.png']
    self.assertEqual(
      (record['image/heatmap/height'], record['image/heatmap/width']),
      (100, 100),
    )
    folder, _ = self.build(
      'square', click_frame=100, framing='center_crop', **common
    )
    square = building.read(folder)['cat/big.png']
    self.assertEqual(
      (square['image/heatmap/height'], square['image/heatmap/width']),
      (100, 110),
    )
    values, padded = (
      tf.io.decode_png(r['image/heatmap/encoded'], 1, tf.uint16)[..., 0].numpy()
      for r in (record, square)
    )
    self.assertAllEqual(padded, np.pad(values, [(0, 0), (5, 5)]))

  def test_clicks_that_fill_their_images_are_left_alone(self):
    for side, reach, count in ((200, 190, 24), (200, 100, 8)):
      folder, _ = self.build(
        f'{reach}',
        clicks=[self._clicks(side, reach, count)],
        image_dir=self.images_dir,
        click_filter=map_options.ClickFilter(min_participants=1),
      )
      self.assertIn('cat/big.png', building.read(folder))

  def test_clicks_as_fractions_of_the_image_stop_the_build(self):
    rows = [
      ('cat/a.png', '[(0.3, 0.4), (0.9, 0.9), (1, .5)]', f'u{u}')
      for u in range(3)
    ]
    for frame in (None, 0, 80):
      with self.assertRaisesRegex(ValueError, '9 of the 9 .* fractions'):
        self.build(
          clicks=[self.csv(rows)],
          image_dir=self.images_dir,
          click_frame=frame,
          click_filter=map_options.ClickFilter(min_participants=1),
        )

  def test_a_build_whose_clicks_lie_outside_stops(self):
    rows = [
      ('cat/a.png', '[(60, 10), (10, 70), (-3, 2), (1, 1)]', f'u{u}')
      for u in range(3)
    ]
    common = dict(
      clicks=[self.csv(rows)],
      image_dir=self.images_dir,
      click_filter=map_options.ClickFilter(min_participants=1),
    )
    with self.assertRaisesRegex(ValueError, '9 of the 12 clicks .* images'):
      self.build(**common)
    with self.assertRaisesRegex(ValueError, 'outside the square of .*=20'):
      self.build(click_frame=20, **common)
    self.build(click_frame=80, **common)

  def test_clicks_are_on_the_image_as_seen(self):
    turned = Image.fromarray(np.zeros((30, 60, 3), np.uint8))
    exif = Image.Exif()
    exif[0x112] = 8
    turned.save(self.folder / 'images/cat/turned.jpg', exif=exif)
    # Below the 30 rows that the file has, but not below the 60 that are seen.
    rows = [('cat/turned.jpg', '[(5, 50)]', f'u{u}') for u in range(3)]
    folder, totals = self.build(
      clicks=[self.csv(rows)],
      image_dir=self.images_dir,
      click_filter=map_options.ClickFilter(min_participants=1),
    )
    record = building.read(folder)['cat/turned.jpg']
    self.assertEqual((record['image/height'], record['image/width']), (60, 30))
    heatmap = tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)
    self.assertEqual(heatmap.numpy()[50, 5, 0], 65535)
    self.assertEqual(
      totals['counts'], {'images: encoded anew, as people see them': 1}
    )

  def test_wrong_files_are_refused(self):
    good = self.csv(self.rows())
    for fields, problem in (
      ({}, '--npz, --map_dir and --clicks'),
      (dict(clicks=[good]), 'needs --image_dir'),
      (
        dict(clicks=[good], npz=good, image_dir='x'),
        'npz, clicks; expected one',
      ),
      (dict(clicks=['nowhere.csv'], image_dir=self.images_dir), 'not exist'),
      (
        dict(out='images', clicks=[good], image_dir=self.images_dir),
        '--output_dir=.* the folder of --image_dir',
      ),
      (dict(npz=good), '--npz=.*not a readable zip'),
      (
        dict(clicks=[good], image_dir=self.images_dir, label_column='wnid'),
        'no column wnid',
      ),
    ):
      with self.assertRaisesRegex(ValueError, problem):
        self.build(**fields)


class PicturesTest(building.Case):
  def test_images_and_maps_of_the_same_name(self):
    image = building.png(np.zeros((4, 4, 3), np.uint8))
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for name in ('a', 'b', 'c', 'lonely', 'colour'):
      self.write(f'i/0/{name}.png', image)
    self.write('m/0/a.png', building.png(grey))
    self.write('m/0/stray.png', building.png(grey))
    self.write('m/0/colour.png', image)
    buffer = io.BytesIO()
    np.save(buffer, grey * 0.5)
    self.write('m/0/b.npy', buffer.getvalue())
    self.write('m/0/c.npz', building.npz(heatmap=grey))
    folder, totals = self.build(
      image_dir=str(self.folder / 'i'), map_dir=str(self.folder / 'm')
    )
    self.assertCountEqual(
      building.read(folder), ['0/a.png', '0/b.png', '0/c.png']
    )
    self.assertEqual(
      totals['counts'],
      {
        'images: image without a map': 1,
        'images: map without an image': 1,
        'images: map not usable': 1,
      },
    )

  def test_a_map_that_is_its_image(self):
    rng = np.random.default_rng(0)
    for name in 'abcd':
      self.write(
        f'i/0/{name}.png', building.png(rng.integers(0, 256, (4, 4), np.uint8))
      )
    images, maps = self.folder / 'i/0', self.folder / 'm/0'
    maps.mkdir(parents=True)
    os.symlink(images / 'a.png', maps / 'a.png')
    os.link(images / 'b.png', maps / 'b.png')
    maps.joinpath('c.png').write_bytes(images.joinpath('c.png').read_bytes())
    maps.joinpath('d.png').write_bytes(images.joinpath('a.png').read_bytes())
    os.symlink('gone.png', images / 'e.png')
    os.symlink('gone.png', maps / 'e.png')
    folder, totals = self.build(
      image_dir=str(images.parent), map_dir=str(maps.parent)
    )
    self.assertCountEqual(building.read(folder), ['0/d.png'])
    self.assertEqual(
      totals['counts'],
      {'images: map not usable': 3, 'images: image not found': 1},
    )
    self.assertIn(
      'is the same file as its image 0/a.png',
      ' '.join(row['detail'] for row in self.left_out(folder)),
    )
    with self.assertRaisesRegex(ValueError, '--image_suffix and --map_suffix'):
      self.build('same', image_dir=str(images), map_dir=str(images))

  def test_an_archive_of_a_mac(self):
    archive = self.archive(2)
    with zipfile.ZipFile(archive, 'a') as z:
      z.writestr('__MACOSX/sub/._000.npz', b'Mac OS X')
      z.writestr('sub/B.NPZ', building.entry(5))
    folder, totals = self.build(npz=archive)
    self.assertEqual(totals['counts'], {})
    self.assertCountEqual(
      building.read(folder), ['sub/000.npz', 'sub/001.npz', 'sub/B.NPZ']
    )
    with zipfile.ZipFile(archive, 'a') as z, self.assertWarns(UserWarning):
      z.writestr('sub/B.NPZ', building.entry(6))
    with self.assertRaisesRegex(ValueError, 'holds sub/B.NPZ twice'):
      self.build('twice', npz=archive)

  def _pair(self, name, image, heatmap, ending='npy', **options):
    """Writes an image and its map, an array or a picture."""
    for place in 'im':
      (self.folder / place / '0').mkdir(parents=True, exist_ok=True)
    image.save(self.folder / f'i/0/{name}', **options)
    path = self.folder / f'm/0/{name.partition(".")[0]}.{ending}'
    if ending == 'npy':
      np.save(path, heatmap)
    else:
      heatmap.save(path)

  def _built(self, out='out', **options):
    folder, totals = self.build(
      out,
      image_dir=str(self.folder / 'i'),
      map_dir=str(self.folder / 'm'),
      **options,
    )
    return building.read(folder), totals['counts'], self.left_out(folder)

  def test_image_and_map_stay_together_however_they_are_stored(self):
    # A bright block in the upper left of what people see, and a map of it.
    seen = np.full((24, 36, 3), 30, np.uint8)
    seen[:8, :12] = 220
    values = np.float16(seen[..., 0] > 100) * np.float16(6e-8)
    upright = {
      1: lambda a: a,
      2: np.fliplr,
      3: lambda a: np.rot90(a, 2),
      4: np.flipud,
      5: lambda a: np.swapaxes(a, 0, 1),
      6: np.rot90,
      7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
      8: lambda a: np.rot90(a, -1),
    }
    names = []
    for kind in ('jpg', 'png', 'webp', 'tif'):
      for orientation, turn in upright.items():
        exif = Image.Exif()
        exif[0x112] = orientation
        names.append(f'{kind}{orientation}.{kind}')
        self._pair(names[-1], Image.fromarray(turn(seen)), values, exif=exif)
    records, counts, _ = self._built()
    self.assertCountEqual(records, [f'0/{name}' for name in names])
    self.assertEqual(
      counts, {'images: encoded anew, as people see them': 8 * 4 - 2}
    )
    decoder = canonical_decoder.Decoder()
    for name, record in records.items():
      decoded = decoder.decode(record['serialized'])
      self.assertEqual(decoded['problem'], b'')
      self.assertAllClose(decoded['image'], seen, atol=25, msg=name)
      self.assertAllClose(
        decoded['heatmap'][..., 0], np.where(seen[..., 0] > 100, 255.0, 0.0)
      )
      self.assertEqual(
        (record['image/height'], record['image/width']), (24, 36)
      )

  def test_16_bits_of_grey_become_8(self):
    deep = np.uint16(np.arange(24 * 36).reshape(24, 36) * 75)
    self._pair('a.png', Image.fromarray(deep), Image.fromarray(deep), 'tif')
    record = self._built()[0]['0/a.png']
    image = tf.io.decode_image(record['image/encoded'], 3)
    self.assertAllEqual(image[..., 1], np.round(deep / 257.0))
    self.assertAllEqual(
      tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)[..., 0],
      deep,
    )

  def test_what_cannot_be_used_is_named(self):
    image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    drawn = np.zeros((20, 40, 3), np.uint8)
    drawn[3, 3] = 9, 0, 0
    for name, heatmap in (
      ('transposed', np.eye(40, 20)),
      ('three', np.eye(36, 12)),
      ('square', np.eye(20)),
      ('complex', np.eye(20, 40) * 1j),
      ('flat', 1 + 1e-9 * np.eye(20, 40)),
      ('line', np.arange(800.0)),
      ('good', np.eye(20, 40)),
      ('small', np.eye(4, 8)),
      ('rounded', np.eye(7, 13)),
    ):
      self._pair(f'{name}.png', image, heatmap)
    self._pair('colour.png', image, Image.fromarray(drawn), 'png')
    image.save(
      self.folder / 'i/0/film.gif',
      save_all=True,
      append_images=[Image.fromarray(drawn)],
    )
    np.save(self.folder / 'm/0/film.npy', np.eye(20, 40))
    records, counts, left_out = self._built()
    self.assertCountEqual(
      records, ['0/good.png', '0/small.png', '0/rounded.png']
    )
    self.assertEqual(
      counts, {'images: map not usable': 7, 'images: image not usable': 1}
    )
    details = {row['name']: row['detail'] for row in left_out}
    for name, words in (
      ('transposed', '40x20 pixels, image of 20x40; its rows and columns'),
      ('three', 'map of 36x12 pixels'),
      ('square', '--framing'),
      ('complex', 'complex128'),
      ('flat', 'equal in 16 bits'),
      ('line', '(800,)'),
      ('colour', 'in colour'),
      ('film', '2 frames'),
    ):
      self.assertIn(words, details[f'0/{name}'])

  def test_framing(self):
    image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    square = np.arange(100, dtype=np.uint8).reshape(10, 10)
    self._pair('a.png', image, square)
    for framing, expected in (
      ('stretched', square),
      ('center_crop', np.pad(square, [(0, 0), (5, 5)])),
    ):
      record = self._built(framing, framing=framing)[0]['0/a.png']
      self.assertAllEqual(
        tf.io.decode_png(record['image/heatmap/encoded'])[..., 0], expected
      )
    with self.assertRaisesRegex(ValueError, 'framing'):
      self._built('stretched', framing='center_crop')

  def test_a_build_that_loses_mass_says_so(self):
    image = Image.fromarray(np.zeros((256, 256, 3), np.uint8))
    rng = np.random.default_rng(0)
    vanish = 0
    for i in range(12):
      fixation = np.zeros((256, 256), bool)
      y, x = rng.integers(4, 252, 2)
      fixation[y, x] = True
      # The release looks at pixels 1 and 2 of every 4.
      vanish += not (y % 4 in (1, 2) and x % 4 in (1, 2))
      self._pair(f'{i}.png', image, fixation)
    self.assertEqual(self._built()[1], {})
    self.assertEqual(
      self._built('released', map_resize='released')[1],
      {'maps: lose most of their mass (map_resize=released)': vanish},
    )
    self.assertGreater(vanish, 6)

  def test_the_twenty_real_pairs_come_back(self):
    folder_of_pairs = pathlib.Path(samples.folder())
    pairs = sorted(
      p.name[: -len('_image.png')] for p in folder_of_pairs.glob('*_image.png')
    )
    classes = sorted({p.split('_')[0] for p in pairs})
    labels = self.write(
      'labels.csv',
      (
        'image,label\n'
        + ''.join(f'{p}_image,{p.split("_")[0]}\n' for p in pairs)
      ).encode(),
    )
    names = self.write('names.txt', '\n'.join(classes).encode())
    folder, _ = self.build(
      image_dir=str(folder_of_pairs),
      map_dir=str(folder_of_pairs),
      image_suffix='_image',
      map_suffix='_map',
      labels=labels,
      class_names=names,
      images_per_shard=7,
    )
    records = building.read(folder)
    self.assertLen(pairs, 20)
    self.assertEqual(sorted(records), [f'{p}.png' for p in pairs])
    decoder = classification_input.Decoder()
    for pair in pairs:
      record = records[f'{pair}.png']
      host = decoder.decode(record['serialized'])
      for encoded, part in (
        (host['image/encoded'], 'image'),
        (record['image/heatmap/encoded'], 'map'),
      ):
        self.assertAllEqual(
          tf.squeeze(tf.io.decode_image(encoded)),
          np.asarray(Image.open(folder_of_pairs / f'{pair}_{part}.png')),
        )
      self.assertEqual(
        classes[int(host['image/class/label'])], pair.split('_')[0]
      )


if __name__ == '__main__':
  tf.test.main()
