"""Tests of records that are built from clicks and from pictures."""

import csv
import io
import os
import pathlib

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
    folder, _ = self.build('c', labels=labels, class_names=names, **common)
    self.assertIn('not in the file of --labels as cat/b.png',
                  [row['detail'] for row in self.left_out(folder)])

  def test_npz_of_clicks(self):
    def objects(*lists):
      out = np.empty(len(lists), object)
      out[:] = lists
      return out

    fields = dict(
        file_pointer=np.array(['cat/a.png'] * 3 + ['dog/c.png']),
        clickmap_x=objects([200, 201], [200], [1], [128]),
        clickmap_y=objects([30, 31], [30], [1], [64]),
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
