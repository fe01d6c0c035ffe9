"""Tests of records that are built from clicks and from pictures."""

import csv
import io
import os
import pathlib
from unittest import mock
import zipfile

import numpy as np
from PIL import Image
import tensorflow as tf, tf_keras

from official.vision.dataloaders import classification_input
from official_ext.harmonization.data import clicks
from official_ext.harmonization.data import manifest
from tests.data import building

_SAMPLES = pathlib.Path(os.environ.get(
    'CLICKME_SAMPLES',
    pathlib.Path(__file__).resolve().parents[3] / 'shared/clickme_samples'))


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
    return ([(f'{n}.png', '[(10, 5), (11, 6)]', f'u{u}') for u in range(3)
             for n in ('cat/a', 'dog/c')] +
            [('cat/b.png', '[(49, 39), (50, 39)]', f'u{u}') for u in range(4)] +
            [('dog/few.png', '[(1, 1)]', 'u0'), ('dog/gone.png', '[]', 'u0'),
             ('../secret.png', '[(1, 1)]', 'u0'), ('cat/b.png', '[(1,', 'x')])

  def test_csv(self):
    rules = clicks.Rules(min_participants=2)
    folder, totals = self.build(
        clicks=[self.csv(self.rows())], image_dir=self.images_dir, rules=rules)
    records = building.read(folder)
    self.assertEqual({k: r['image/class/label'] for k, r in records.items()},
                     {'cat/a.png': 0, 'cat/b.png': 0, 'dog/c.png': 1})
    self.assertEqual(manifest.read(folder)['class_names'], ['cat', 'dog'])
    made = clicks.click_map(
        [clicks.Row(f'u{u}', '[(10, 5), (11, 6)]') for u in range(3)], 40, 50,
        rules).values
    record = records['cat/a.png']
    self.assertAllEqual(
        tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)[..., 0],
        np.round(made / made.max() * 65535))
    self.assertAllEqual(tf.io.decode_image(record['image/encoded']),
                        self.images['cat/a.png'])
    self.assertEqual([record[f'image/heatmap/{k}'] for k in (
        'source', 'clicks', 'participants')], [b'csv', 6, 3])
    self.assertEqual(totals['counts'], {
        'clicks: outside the image': 4, 'rows: unreadable': 1,
        'images: too few participants': 1, 'images: image not found': 1,
        'images: image outside --image_dir': 1})
    self.assertIn({'name': 'clicks.csv, row 14', 'reason': 'row: unreadable',
                   'detail': 'cat/b.png: the clicks are no list of (x, y)'},
                  self.left_out(folder))

  def test_labels_from_a_column_and_from_a_file(self):
    rows = [('cat/a.png', '[(9, 9)]', 'u', '7'),
            ('dog/c.png', '[]', 'u', 'cat'),
            ('cat/b.png', '[(9, 9)]', 'u', '1'),
            ('cat/b.png', '[(9, 9)]', 'v', '2')]
    header = ('image_path', 'clicks', 'user_id', 'class')
    common = dict(clicks=[self.csv(rows, header)], image_dir=self.images_dir,
                  rules=clicks.Rules(min_participants=1))
    folder, totals = self.build(label_column='class', **common)
    self.assertEqual(
        {k: r['image/class/label'] for k, r in building.read(folder).items()},
        {'cat/a.png': 7})
    self.assertEqual(totals['counts'], {'images: no label': 1,
                                        'images: too few participants': 1,
                                        'rows: too few clicks': 1})
    labels = self.write('labels.csv', b'image,label\ncat/a,bird\ncat/b.png,0\n')
    names = self.write('names.txt', b'fish\nbird\n')
    folder, _ = self.build('b', labels=labels, class_names=names, **common)
    self.assertEqual(
        {k: r['image/class/label'] for k, r in building.read(folder).items()},
        {'cat/a.png': 1, 'cat/b.png': 0})
    labels = self.write('fewer.csv', b'image,label\ncat/a,bird\n')
    beyond = self.write('beyond.csv', b'image,label\ncat/a,2\ncat/b.png,1\n')
    folder, _ = self.build('n', labels=beyond, class_names=names, **common)
    self.assertEqual([*self.labels(folder)], ['cat/b.png'])
    self.assertIn('class 2 is beyond the 2 names; expected 0 to 1 or a name',
                  [row['detail'] for row in self.left_out(folder)])
    folder, _ = self.build('c', labels=labels, class_names=names, **common)
    self.assertIn('not in the file of --labels as cat/b.png',
                  [row['detail'] for row in self.left_out(folder)])

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
            ('', 'y', '[(4, 4)]', 'no')))
    common = dict(clicks=[self.write('c.csv', text.encode('utf-16'))],
                  rules=clicks.Rules(min_participants=1, drop_mobile=True),
                  image_dir=self.images_dir)
    with self.assertRaisesRegex(ValueError, '--strip_prefix=imagenet/train,'):
      self.build('silent', **common)
    folder, totals = self.build(strip_prefix='imagenet/train', **common)
    self.assertEqual(self.labels(folder), {'cat/a.png': 0, 'dog/c.png': 1})
    self.assertEqual(
        building.read(folder)['cat/a.png']['image/heatmap/clicks'], 3)
    self.assertEqual(totals['counts'], {
        'clicks: without a place (null)': 1, 'rows: made on a phone': 1,
        'rows: participant again on the same image': 1, 'rows: unreadable': 3,
        'rows: taken, not known whether made on a phone': 1,
        'images: image_path is empty': 1})
    details = {row['detail'] for row in self.left_out(folder)}
    self.assertEqual(details, {
        'dog/c.png: user_id is empty', '1 rows, the first is c.csv, row 9',
        "dog/c.png: is_mobile is 'maybe'; expected true or false"})

  def test_the_prefix_may_be_below_the_folder_of_images(self):
    (self.folder / 'imagenet').mkdir()
    os.rename(self.images_dir, self.folder / 'imagenet/train')
    rows = [(f'imagenet/train/{n}.png', '[(1, 1)]', 'u')
            for n in ('cat/a', 'dog/c')]
    folder, _ = self.build(
        clicks=[self.csv(rows)], image_dir=str(self.folder),
        rules=clicks.Rules(min_participants=1), strip_prefix='imagenet/train/')
    self.assertEqual(self.labels(folder), {'cat/a.png': 0, 'dog/c.png': 1})

  def test_what_a_table_lacks_is_not_ignored(self):
    rules = clicks.Rules(min_participants=1, drop_mobile=True)
    with self.assertRaisesRegex(ValueError, 'no column is_mobile'):
      self.build(clicks=[self.csv(self.rows())], image_dir=self.images_dir,
                 rules=rules)
    rows = [('cat/a.png', '[(1, 1)]', 'a', '.9'), ('cat/a.png', '[]', 'b', ''),
            ('cat/a.png', '[(1, 1)]', 'c', '1.0')]
    folder, totals = self.build(
        'catch', image_dir=self.images_dir,
        clicks=[self.csv(rows, ('image_path', 'clicks', 'user_id',
                                'user_catch_trial'))],
        rules=clicks.Rules(min_participants=1))
    self.assertEqual(self.labels(folder), {'cat/a.png': 0})
    self.assertEqual(totals['counts'], {'rows: catch trials not passed': 2})

  def test_the_summary_names_one_class_and_the_first_unreadable_row(self):
    rows = [('cat/a.png', '[(1, 1)]', 'u'), ('cat/b.png', '[(1, 1)]', 'u'),
            ('cat/a.png', '[(1', 'v')]
    with mock.patch('sys.stdout', io.StringIO()) as printed:
      self.build(clicks=[self.csv(rows)], image_dir=self.images_dir,
                 rules=clicks.Rules(min_participants=1))
    self.assertIn('2  of class 0 (cat)\nAll records are of one class',
                  printed.getvalue())
    self.assertIn('such as clicks.csv, row 3: cat/a.png: the clicks are',
                  printed.getvalue())

  def test_npz_of_odd_types(self):
    fields = dict(
        file_pointer=np.array([b'cat/a.png'] * 6),
        clickmap_x=_objects([5], [6], [7], [[1, 2], [3]], None, [8]),
        clickmap_y=_objects([5], [6], [7], [1], None, [8]),
        user_id=_objects(b'a', 'b', 3., 'd', 'e', None),
        is_mobile=_objects([False], [True], [], [False], np.array([]), [False]))
    folder, totals = self.build(
        clicks=[self.write('c.NPZ', building.npz(**fields))], trust_pickle=True,
        image_dir=self.images_dir,
        rules=clicks.Rules(min_participants=1, drop_mobile=True))
    record = building.read(folder)['cat/a.png']
    self.assertEqual([record[f'image/heatmap/{k}'] for k in (
        'source', 'clicks', 'participants')], [b'npz', 2, 2])
    self.assertEqual(totals['counts'], {
        'rows: made on a phone': 1, 'rows: too few clicks': 1,
        'rows: unreadable': 2,
        'rows: taken, not known whether made on a phone': 2})
    fields['user_id'] = np.array('a')
    with self.assertRaisesRegex(ValueError, 'user_id is a single value'):
      self.build('scalar', trust_pickle=True, image_dir=self.images_dir,
                 clicks=[self.write('c.npz', building.npz(**fields))])

  def test_npz_of_clicks(self):
    fields = dict(
        file_pointer=np.array(['cat/a.png'] * 3 + ['dog/c.png']),
        clickmap_x=_objects([200, 201], [200], [1], [128]),
        clickmap_y=_objects([30, 31], [30], [1], [64]),
        user_id=np.array(['a', 'b', 'cheat', 'a']),
        user_catch_trial=np.array([1., .95, .5, 1.]),
        is_mobile=np.array([False, True, False, False]))
    path = self.write('clicks.npz', building.npz(**fields))
    common = dict(clicks=[path], image_dir=self.images_dir, click_frame=256,
                  rules=clicks.Rules(min_participants=1))
    with self.assertRaisesRegex(PermissionError,
                                'clickmap_x of .*clicks.npz.*--trust_pickle'):
      self.build(**common)
    folder, totals = self.build('trusted', trust_pickle=True, **common)
    record = building.read(folder)['cat/a.png']
    self.assertEqual(totals['counts'], {'rows: catch trials not passed': 1})
    self.assertEqual([record[f'image/heatmap/{k}'] for k in (
        'height', 'width', 'source', 'clicks', 'participants')],
                     [256, 256, b'npz', 3, 2])
    heatmap = tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)
    self.assertEqual(heatmap.numpy()[30, 200, 0], 65535)

  def test_wrong_files_are_refused(self):
    good = self.csv(self.rows())
    for fields, problem in (
        ({}, 'One source'),
        (dict(clicks=[good]), 'needs --image_dir'),
        (dict(clicks=[good], npz=good, image_dir='x'), 'One source'),
        (dict(clicks=['nowhere.csv'], image_dir=self.images_dir), 'not exist'),
        (dict(npz=good), 'neither a folder nor a readable zip'),
        (dict(clicks=[good], image_dir=self.images_dir, label_column='wnid'),
         'no column wnid'),
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
    np.save(buffer, grey * .5)
    self.write('m/0/b.npy', buffer.getvalue())
    self.write('m/0/c.npz', building.npz(heatmap=grey))
    folder, totals = self.build(image_dir=str(self.folder / 'i'),
                                map_dir=str(self.folder / 'm'))
    self.assertCountEqual(building.read(folder),
                          ['0/a.png', '0/b.png', '0/c.png'])
    self.assertEqual(totals['counts'], {
        'images: image without a map': 1, 'images: map without an image': 1,
        'images: map not usable': 1})

  def test_a_map_that_is_its_image(self):
    rng = np.random.default_rng(0)
    for name in 'abcd':
      self.write(f'i/0/{name}.png', building.png(
          rng.integers(0, 256, (4, 4), np.uint8)))
    images, maps = self.folder / 'i/0', self.folder / 'm/0'
    maps.mkdir(parents=True)
    os.symlink(images / 'a.png', maps / 'a.png')
    os.link(images / 'b.png', maps / 'b.png')
    maps.joinpath('c.png').write_bytes(images.joinpath('c.png').read_bytes())
    maps.joinpath('d.png').write_bytes(images.joinpath('a.png').read_bytes())
    os.symlink('gone.png', images / 'e.png')
    os.symlink('gone.png', maps / 'e.png')
    folder, totals = self.build(image_dir=str(images.parent),
                                map_dir=str(maps.parent))
    self.assertCountEqual(building.read(folder), ['0/d.png'])
    self.assertEqual(totals['counts'], {'images: map not usable': 3,
                                        'images: image not found': 1})
    self.assertIn('is the same file as its image 0/a.png',
                  ' '.join(row['detail'] for row in self.left_out(folder)))
    with self.assertRaisesRegex(ValueError, 'nothing tells them apart'):
      self.build('same', image_dir=str(images), map_dir=str(images))

  def test_an_archive_of_a_mac(self):
    archive = self.archive(2)
    with zipfile.ZipFile(archive, 'a') as z:
      z.writestr('__MACOSX/sub/._000.npz', b'Mac OS X')
      z.writestr('sub/B.NPZ', building.entry(5))
    folder, totals = self.build(npz=archive)
    self.assertEqual(totals['counts'], {})
    self.assertCountEqual(building.read(folder),
                          ['sub/000.npz', 'sub/001.npz', 'sub/B.NPZ'])
    with zipfile.ZipFile(archive, 'a') as z, self.assertWarns(UserWarning):
      z.writestr('sub/B.NPZ', building.entry(6))
    with self.assertRaisesRegex(ValueError, 'holds sub/B.NPZ twice'):
      self.build('twice', npz=archive)

  def test_the_twenty_real_pairs_come_back(self):
    if not _SAMPLES.is_dir():
      self.skipTest(f'{_SAMPLES} is not there; '
                    'CLICKME_SAMPLES says where else.')
    pairs = sorted(p.name[:-len('_image.png')]
                   for p in _SAMPLES.glob('*_image.png'))
    classes = sorted({p.split('_')[0] for p in pairs})
    labels = self.write('labels.csv', ('image,label\n' + ''.join(
        f'{p}_image,{p.split("_")[0]}\n' for p in pairs)).encode())
    names = self.write('names.txt', '\n'.join(classes).encode())
    folder, _ = self.build(
        image_dir=str(_SAMPLES), map_dir=str(_SAMPLES), image_suffix='_image',
        map_suffix='_map', labels=labels, class_names=names, images_per_shard=7)
    records = building.read(folder)
    self.assertLen(pairs, 20)
    self.assertEqual(sorted(records), [f'{p}.png' for p in pairs])
    decoder = classification_input.Decoder()
    for pair in pairs:
      record = records[f'{pair}.png']
      host = decoder.decode(record['serialized'])
      for encoded, part in ((host['image/encoded'], 'image'),
                            (record['image/heatmap/encoded'], 'map')):
        self.assertAllEqual(
            tf.squeeze(tf.io.decode_image(encoded)),
            np.asarray(Image.open(_SAMPLES / f'{pair}_{part}.png')))
      self.assertEqual(classes[int(host['image/class/label'])],
                       pair.split('_')[0])


if __name__ == '__main__':
  tf.test.main()
