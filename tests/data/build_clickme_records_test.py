"""Tests of the builder of canonical records."""

import csv
import io
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock
import zipfile

import numpy as np
from PIL import Image
import tensorflow as tf, tf_keras

from official.vision.dataloaders import classification_input
from official_ext.harmonization.data import build_clickme_records
from official_ext.harmonization.data import canonical_maker
from official_ext.harmonization.data import clicks
from official_ext.harmonization.data import manifest
from official_ext.harmonization.data import shards

Options = build_clickme_records.Options

_SAMPLES = pathlib.Path(os.environ.get(
    'CLICKME_SAMPLES',
    pathlib.Path(__file__).resolve().parents[3] / 'shared/clickme_samples'))


def _arrays(seed, **other):
  """An image, a map and a label as an npz of the ClickMe archives has them."""
  rng = np.random.default_rng(seed)
  return {
      'image': rng.integers(0, 256, (24, 32, 3), np.uint8),
      'heatmap': rng.integers(0, 65536, (24, 32)).astype(np.uint16),
      'label': np.int64(seed % 7), **other
  }


def _npz(**arrays):
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def _png(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


def _read(folder):
  """All records of a folder, by file name, as dicts of values."""
  found = {}
  for shard in manifest.read(folder)['shards']:
    path = os.path.join(folder, shard['file'])
    for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
      example = tf.train.Example.FromString(serialized)
      fields = {k: getattr(v, v.WhichOneof('kind')).value[0]
                for k, v in example.features.feature.items()}
      fields['serialized'] = serialized
      found[fields['image/filename'].decode()] = fields
  return found


def _bytes(folder):
  """Contents of what is built, but for notes."""
  return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()
          if p.is_file()}


def _slow_build(options):
  """Builds so slowly that it can be killed on the way."""
  outcome = canonical_maker.Maker.outcome

  def slow(self, *args):
    time.sleep(.05)
    return outcome(self, *args)

  with mock.patch.object(canonical_maker.Maker, 'outcome', slow):
    build_clickme_records.build(options)


class _Case(tf.test.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.get_temp_dir()) / self._testMethodName
    self.folder.mkdir()

  def write(self, name, content):
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)

  def archive(self, count, name='all.zip', **other):
    """A zip of `count` npz files; `other` replaces whole entries."""
    path = self.folder / name
    with zipfile.ZipFile(path, 'w') as z:
      for i in range(count):
        z.writestr(f'sub/{i:03d}.npz', other.get(f'n{i}', _npz(**_arrays(i))))
    return str(path)

  def build(self, out='out', **options):
    options = Options(output_dir=str(self.folder / out), **options)
    totals = build_clickme_records.build(options)
    return options.output_dir, totals

  def left_out(self, folder):
    with open(os.path.join(folder, shards.LEFT_OUT)) as f:
      return list(csv.DictReader(f))


class NpzTest(_Case):

  def test_round_trip_through_the_hosts_decoder(self):
    folder, totals = self.build(
        npz=self.archive(20), images_per_shard=6, label_offset=1)
    self.assertEqual(totals['records'], 20)
    records = _read(folder)
    self.assertLen(records, 20)
    self.assertLen(manifest.read(folder)['shards'], 4)
    decoder = classification_input.Decoder()
    for i in range(20):
      record, arrays = records[f'sub/{i:03d}.npz'], _arrays(i)
      host = decoder.decode(record['serialized'])
      self.assertEqual(host['image/class/label'], i % 7 + 1)
      self.assertAllEqual(tf.io.decode_image(host['image/encoded']),
                          arrays['image'])
      heatmap = tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)
      self.assertAllEqual(heatmap[..., 0], arrays['heatmap'])
      self.assertEqual(
          {k: record[f'image/{k}'] for k in (
              'height', 'width', 'channels', 'format', 'heatmap/height',
              'heatmap/width', 'heatmap/source')},
          {'height': 24, 'width': 32, 'channels': 3, 'format': b'PNG',
           'heatmap/height': 24, 'heatmap/width': 32,
           'heatmap/source': b'clickme'})
      self.assertNotIn('image/heatmap/clicks', record)

  def test_folder_and_zip_and_any_number_of_workers_are_the_same(self):
    archive = self.archive(13)
    first, _ = self.build('a', npz=archive, images_per_shard=5)
    with zipfile.ZipFile(archive) as z:
      z.extractall(self.folder / 'extracted')
    second, _ = self.build('b', npz=str(self.folder / 'extracted'),
                           images_per_shard=5, workers=2)
    third, _ = self.build('c', npz=archive, images_per_shard=5, seed=1)
    a, b, c = (_bytes(f) for f in (first, second, third))
    for content in (a, b, c):
      content.pop(manifest.FILE)
    self.assertEqual(a, b)
    self.assertNotEqual(a, c)
    self.assertEqual(_read(first).keys(), _read(third).keys())

  def test_maps_of_other_types_keep_order_and_zeros(self):
    values = np.array([[0., 1e-3], [.5, .25]])
    bytes_map = np.array([[0, 3], [255, 3]], np.uint8)
    folder, _ = self.build(npz=self.archive(
        2, n0=_npz(**_arrays(0, heatmap=values[..., np.newaxis])),
        n1=_npz(**_arrays(1, heatmap=bytes_map))))
    found = [tf.io.decode_png(r['image/heatmap/encoded'], 1, t)[..., 0]
             for (_, r), t in zip(sorted(_read(folder).items()),
                                  (tf.uint16, tf.uint8))]
    self.assertAllEqual(found[0], np.round(values * 2 * 65535))
    self.assertAllEqual(found[1], bytes_map)

  def test_what_cannot_be_used_is_counted_and_named(self):
    whole = _npz(**_arrays(0))
    bad = {
        'n0': whole[:len(whole) // 2],
        'n1': b'\x80\x04N.',  # A pickle of None is no npz, and not unpickled.
        'n2': _npz(image=_arrays(0)['image'], heatmap=_arrays(0)['heatmap']),
        'n3': _npz(**_arrays(3, label=np.array([1, 2]))),
        'n4': _npz(**_arrays(4, label=np.float32('nan'))),
        'n5': _npz(**_arrays(5, label=-1)),
        'n6': _npz(**_arrays(6, heatmap=np.zeros((4, 4)))),
        'n7': _npz(**_arrays(7, heatmap=-np.eye(4))),
        'n8': _npz(**_arrays(8, heatmap=np.full((4, 4), np.nan))),
        'n9': _npz(**_arrays(9, heatmap=np.zeros((4, 4, 3)))),
        'n10': _npz(**_arrays(10, image=np.zeros((4, 4, 4), np.uint8))),
        'n11': _npz(**_arrays(11, image=np.full((4, 4, 3), 256))),
        'n12': _npz(**_arrays(12, image=np.full((4, 4, 3), np.nan))),
    }
    folder, totals = self.build(npz=self.archive(14, **bad), label_offset=0)
    self.assertEqual(totals['records'], 1)
    self.assertEqual(totals['counts'], {
        'images: npz not readable': 3, 'images: no label': 3,
        'images: map not usable': 4, 'images: image not usable': 3})
    self.assertEqual(manifest.read(folder)['counts'], totals['counts'])
    left_out = {row['name']: row['detail'] for row in self.left_out(folder)}
    self.assertEqual(left_out.keys(), {f'sub/{i:03d}.npz' for i in range(13)})
    self.assertEqual(left_out['sub/001.npz'], 'sub/001.npz is no npz file')

  def test_pickles_are_refused_unless_trusted(self):
    marker = self.folder / 'ran'

    class Code:
      def __reduce__(self):
        return pathlib.Path.touch, (marker,)

    harmful = np.array([Code()], object)
    archive = self.archive(1, n0=_npz(**_arrays(0, label=harmful)))
    with self.assertRaisesRegex(PermissionError, '000.npz .*--trust_pickle'):
      self.build(npz=archive)
    self.assertFalse(marker.exists())
    harmless = self.archive(
        1, 'b.zip', n0=_npz(**_arrays(0, label=np.array(3, object))))
    folder, _ = self.build('b', npz=harmless, trust_pickle=True)
    self.assertEmpty(_read(folder))
    self.assertEqual(self.left_out(folder)[0]['reason'], 'no label')


class ResumeTest(_Case):

  def test_a_killed_build_goes_on_where_it_was(self):
    archive = self.archive(60)
    options = Options(output_dir=str(self.folder / 'killed'), npz=archive,
                      images_per_shard=12)
    process = multiprocessing.get_context('spawn').Process(
        target=_slow_build, args=(options,))
    process.start()
    jobs = shards.names('train', 5)
    while not (any(shards.is_whole(options.output_dir, s) for s in jobs) and
               list(self.folder.glob('killed/*.partial'))):
      self.assertTrue(process.is_alive())
      time.sleep(.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    whole = [s for s in jobs if shards.is_whole(options.output_dir, s)]
    self.assertNotEmpty(whole)
    self.assertLess(len(whole), 5)
    self.assertFalse((self.folder / 'killed' / manifest.FILE).exists())
    built = []
    write = shards.write

    def counting(directory, shard, outcomes):
      built.append(shard)
      return write(directory, shard, outcomes)

    with mock.patch.object(shards, 'write', counting):
      build_clickme_records.build(options)
    self.assertEqual(sorted(built + whole), jobs)
    through, _ = self.build('through', npz=archive, images_per_shard=12)
    self.assertEqual(_bytes(options.output_dir), _bytes(through))

  def test_damaged_or_missing_shards_are_built_again(self):
    folder, _ = self.build(npz=self.archive(9), images_per_shard=3)
    before = _bytes(folder)
    names = shards.names('train', 3)
    os.truncate(os.path.join(folder, names[0]), 10)
    os.remove(os.path.join(folder, names[1]))
    untouched = os.stat(os.path.join(folder, names[2])).st_mtime_ns
    self.build(npz=str(self.folder / 'all.zip'), images_per_shard=3)
    self.assertEqual(_bytes(folder), before)
    self.assertEqual(os.stat(os.path.join(folder, names[2])).st_mtime_ns,
                     untouched)

  def test_other_settings_or_input_are_not_mixed_in(self):
    archive = self.archive(4)
    folder, _ = self.build(npz=archive)
    before = _bytes(folder)
    for other in (dict(seed=1), dict(label_offset=1), dict(jpeg_quality=90),
                  dict(images_per_shard=2)):
      with self.assertRaisesRegex(ValueError, f'{list(other)[0]} = .*--output'):
        self.build(npz=archive, **other)
    with self.assertRaisesRegex(ValueError, 'input = '):
      self.build(npz=self.archive(5))
    self.assertEqual(_bytes(folder), before)

  def test_a_folder_of_others_is_not_written_to(self):
    self.write('out/train-00000-of-00001', b'mine')
    with self.assertRaisesRegex(ValueError, 'not made by this command'):
      self.build(npz=self.archive(2))

  def test_a_second_run_is_kept_out(self):
    archive = self.archive(2)
    with shards.alone(str(self.folder / 'out')):
      with self.assertRaisesRegex(ValueError, 'Another run'):
        self.build(npz=archive)
    self.build(npz=archive)

  def test_memory_holds_one_record_at_a_time(self):
    alive = []

    def outcomes():
      for i in range(5):
        alive.append(i)
        yield shards.Outcome(str(i), record=b'x')

    def write(_, record):
      self.assertLen(alive, 1)
      alive.pop()

    with mock.patch.object(tf.io.TFRecordWriter, 'write', write):
      shards.claim(str(self.folder / 'o'), ['s'], {})
      shards.write(str(self.folder / 'o'), 's', outcomes())


class ClicksTest(_Case):

  def setUp(self):
    super().setUp()
    self.images = {}
    for i, name in enumerate(('cat/a', 'cat/b', 'dog/c', 'dog/few')):
      pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
      self.write(f'images/{name}.png', _png(pixels))
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
    records = _read(folder)
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
        {k: r['image/class/label'] for k, r in _read(folder).items()},
        {'cat/a.png': 7})
    self.assertEqual(totals['counts'], {'images: no label': 1,
                                        'images: too few participants': 1,
                                        'rows: too few clicks': 1})
    labels = self.write('labels.csv', b'image,label\ncat/a,bird\ncat/b.png,5\n')
    names = self.write('names.txt', b'fish\nbird\n')
    folder, _ = self.build('b', labels=labels, class_names=names, **common)
    self.assertEqual(
        {k: r['image/class/label'] for k, r in _read(folder).items()},
        {'cat/a.png': 1, 'cat/b.png': 5})

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
    path = self.write('clicks.npz', _npz(**fields))
    common = dict(clicks=[path], image_dir=self.images_dir, click_frame=256,
                  rules=clicks.Rules(min_participants=1))
    with self.assertRaisesRegex(PermissionError,
                                'clickmap_x of .*clicks.npz.*--trust_pickle'):
      self.build(**common)
    folder, totals = self.build('trusted', trust_pickle=True, **common)
    record = _read(folder)['cat/a.png']
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


class PicturesTest(_Case):

  def test_images_and_maps_of_the_same_name(self):
    image = _png(np.zeros((4, 4, 3), np.uint8))
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for name in ('a', 'b', 'c', 'lonely', 'colour'):
      self.write(f'i/0/{name}.png', image)
    self.write('m/0/a.png', _png(grey))
    self.write('m/0/stray.png', _png(grey))
    self.write('m/0/colour.png', image)
    buffer = io.BytesIO()
    np.save(buffer, grey * .5)
    self.write('m/0/b.npy', buffer.getvalue())
    self.write('m/0/c.npz', _npz(heatmap=grey))
    folder, totals = self.build(image_dir=str(self.folder / 'i'),
                                map_dir=str(self.folder / 'm'))
    self.assertCountEqual(_read(folder), ['0/a.png', '0/b.png', '0/c.png'])
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
    records = _read(folder)
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


class CommandTest(_Case):

  def test_flags_are_the_options(self):
    archive = self.archive(3)
    typed = subprocess.run(
        [sys.executable, '-m', build_clickme_records.__name__,
         f'--npz={archive}', f'--output_dir={self.folder}/typed', '--seed=3',
         '--label_offset=1', '--split=val', '--images_per_shard=2',
         '--workers=1'], capture_output=True, text=True, check=False,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    self.assertEqual(typed.returncode, 0, typed.stderr)
    self.assertIn('typed: 3 records.', typed.stdout)
    folder, _ = self.build(npz=archive, seed=3, label_offset=1, split='val',
                           images_per_shard=2)
    self.assertEqual(_bytes(self.folder / 'typed'), _bytes(folder))


if __name__ == '__main__':
  tf.test.main()
