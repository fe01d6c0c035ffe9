# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the builder of canonical records."""

# Bazel: tags = ["subprocess"]

import contextlib
import dataclasses
import io
import json
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
from official.vision.dataloaders import classification_input
import tensorflow as tf

from official_ext.harmonization.data import build_clickme_records
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.data.records import build_options
from official_ext.harmonization.data.records import clickme_builder
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_builder
from official_ext.harmonization.data.records import shard_builder
from official_ext.harmonization.data.records import verification
from testing import processes
from tests import forked
from tests.data import building
from tests.data import number_records

Options = build_options.Options


def _slow_build(options):
  """Builds so slowly that it can be killed on the way."""
  outcome = record_builder.RecordBuilder.outcome

  def slow(self, *args):
    time.sleep(0.05)
    return outcome(self, *args)

  with mock.patch.object(record_builder.RecordBuilder, 'outcome', slow):
    clickme_builder.build(options)


class NpzTest(building.Case):
  def test_round_trip_through_the_hosts_decoder(self):
    folder, totals = self.build(
      npz=self.archive(20), images_per_shard=6, label_offset=1
    )
    self.assertEqual(totals['records'], 20)
    records = building.read(folder)
    self.assertLen(records, 20)
    self.assertLen(manifest.read(folder)['shards'], 4)
    decoder = classification_input.Decoder()
    for i in range(20):
      record, arrays = records[f'sub/{i:03d}.npz'], building.arrays(i)
      host = decoder.decode(record['serialized'])
      self.assertEqual(host['image/class/label'], i % 7 + 1)
      self.assertAllEqual(
        tf.io.decode_image(host['image/encoded']), arrays['image']
      )
      heatmap = tf.io.decode_png(record['image/heatmap/encoded'], 1, tf.uint16)
      self.assertAllEqual(heatmap[..., 0], arrays['heatmap'])
      self.assertEqual(
        {
          k: record[f'image/{k}']
          for k in (
            'height',
            'width',
            'channels',
            'format',
            'heatmap/height',
            'heatmap/width',
            'heatmap/source',
          )
        },
        {
          'height': 24,
          'width': 32,
          'channels': 3,
          'format': b'PNG',
          'heatmap/height': 24,
          'heatmap/width': 32,
          'heatmap/source': b'clickme',
        },
      )
      self.assertNotIn('image/heatmap/clicks', record)

  def test_folder_and_zip_and_any_number_of_workers_are_the_same(self):
    archive = self.archive(13)
    first, _ = self.build('a', npz=archive, images_per_shard=5)
    with zipfile.ZipFile(archive) as z:
      z.extractall(self.folder / 'extracted')
    second, _ = self.build(
      'b', npz=str(self.folder / 'extracted'), images_per_shard=5, workers=2
    )
    third, _ = self.build('c', npz=archive, images_per_shard=5, seed=1)
    a, b, c = (building.contents(f) for f in (first, second, third))
    for content in (a, b, c):
      content.pop(manifest.FILE)
    self.assertEqual(a, b)
    self.assertNotEqual(a, c)
    self.assertEqual(building.read(first).keys(), building.read(third).keys())

  def test_maps_of_other_types_keep_order_and_zeros(self):
    values = np.array([[0.0, 1e-3], [0.5, 0.25]])
    bytes_map = np.array([[0, 3], [255, 3]], np.uint8)
    folder, _ = self.build(
      npz=self.archive(
        2,
        n0=building.entry(0, heatmap=values[..., np.newaxis]),
        n1=building.entry(1, heatmap=bytes_map),
      )
    )
    found = [
      tf.io.decode_png(r['image/heatmap/encoded'], 1, t)[..., 0]
      for (_, r), t in zip(
        sorted(building.read(folder).items()), (tf.uint16, tf.uint8)
      )
    ]
    self.assertAllEqual(found[0], np.round(values * 2 * 65535))
    self.assertAllEqual(found[1], bytes_map)

  def test_what_cannot_be_used_is_counted_and_named(self):
    whole = building.entry(0)
    bad = {
      'n0': whole[: len(whole) // 2],
      'n1': b'\x80\x04N.',  # A pickle of None is not an npz, and not unpickled.
      'n2': building.npz(
        image=np.zeros((4, 4, 3), np.uint8), heatmap=np.eye(4)
      ),
      'n3': building.entry(3, label=np.array([1, 2])),
      'n4': building.entry(4, label=np.float32('nan')),
      'n5': building.entry(5, label=-1),
      'n6': building.entry(6, heatmap=np.zeros((4, 4))),
      'n7': building.entry(7, heatmap=-np.eye(4)),
      'n8': building.entry(8, heatmap=np.full((4, 4), np.nan)),
      'n9': building.entry(9, heatmap=np.zeros((4, 4, 3))),
      'n10': building.entry(10, image=np.zeros((4, 4, 4), np.uint8)),
      'n11': building.entry(11, image=np.full((4, 4, 3), 256)),
      'n12': building.entry(12, image=np.full((4, 4, 3), np.nan)),
    }
    folder, totals = self.build(npz=self.archive(14, **bad), label_offset=0)
    self.assertEqual(totals['records'], 1)
    self.assertEqual(
      totals['counts'],
      {
        'images: npz not readable': 3,
        'images: no label': 3,
        'images: map not usable': 4,
        'images: image not usable': 3,
      },
    )
    self.assertEqual(manifest.read(folder)['counts'], totals['counts'])
    left_out = {row['name']: row['detail'] for row in self.left_out(folder)}
    self.assertEqual(left_out.keys(), {f'sub/{i:03d}.npz' for i in range(13)})
    self.assertEqual(left_out['sub/001.npz'], 'sub/001.npz is not an npz file')

  def test_pickles_are_refused_unless_trusted(self):
    marker = self.folder / 'ran'

    class Code:
      def __reduce__(self):
        return pathlib.Path.touch, (marker,)

    harmful = np.array([Code()], object)
    archive = self.archive(1, n0=building.entry(0, label=harmful))
    with self.assertRaisesRegex(PermissionError, '000.npz .*--trust_pickle'):
      self.build(npz=archive)
    self.assertFalse(marker.exists())
    harmless = self.archive(
      1, 'b.zip', n0=building.entry(0, label=np.array(3, object))
    )
    folder, _ = self.build('b', npz=harmless, trust_pickle=True)
    self.assertEmpty(building.read(folder))
    self.assertEqual(self.left_out(folder)[0]['reason'], 'no label')


class ResumeTest(building.Case):
  def test_a_killed_build_goes_on_where_it_was(self):
    archive = self.archive(60)
    options = Options(
      output_dir=str(self.folder / 'killed'),
      npz=archive,
      images_per_shard=12,
      workers=1,
    )
    process = multiprocessing.get_context('spawn').Process(
      target=_slow_build, args=(options,)
    )
    process.start()
    jobs = shard_builder.names('train', 5)
    while not (
      any(shard_builder.is_whole(options.output_dir, s) for s in jobs)
      and list(self.folder.glob('killed/.*.partial'))
    ):
      self.assertTrue(process.is_alive())
      time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    whole = [s for s in jobs if shard_builder.is_whole(options.output_dir, s)]
    self.assertNotEmpty(whole)
    self.assertLess(len(whole), 5)
    self.assertFalse((self.folder / 'killed' / manifest.FILE).exists())
    built = []
    write = shard_builder.write

    def counting(directory, shard, *args):
      built.append(shard)
      return write(directory, shard, *args)

    with mock.patch.object(shard_builder, 'write', counting):
      clickme_builder.build(options)
    self.assertEqual(sorted(built + whole), jobs)
    through, _ = self.build('through', npz=archive, images_per_shard=12)
    self.assertEqual(
      building.contents(options.output_dir), building.contents(through)
    )

  def test_a_parent_killed_at_any_point_leaves_nothing_that_is_taken_for_whole(
    self,
  ):
    expected = number_records.build(str(self.folder / 'through'), 0.0, 1)
    self.assertEqual(expected['classes'], {0: 40, 1: 40, 2: 40})
    out = self.folder / 'killed'
    process = multiprocessing.get_context('spawn').Process(
      target=number_records.build, args=(str(out), 0.02, 2)
    )
    process.start()
    while not list(out.glob('.train-*.partial')):
      self.assertTrue(process.is_alive())
      time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 1.0))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    # At once, while what it started is still there; and once more.
    for _ in range(2):
      self.assertEqual(number_records.build(str(out), 0.0, 1), expected)
      self.assertEqual(
        building.contents(out), building.contents(self.folder / 'through')
      )
    self.assertEmpty(
      [p for r in verification.verify([str(out)]) for p in r.problems]
    )

  def test_a_run_without_records_does_not_claim_the_folder(self):
    nothing = self.archive(
      2,
      'nothing.zip',
      n0=building.entry(0, label=-1),
      n1=building.entry(1, heatmap=np.zeros((4, 4))),
    )
    folder, totals = self.build(npz=nothing)
    self.assertEqual((totals['records'], totals['left_out']), (0, 2))
    # A label that is made good by an offset, and another input.
    self.assertEqual(self.build(npz=nothing, label_offset=1)[1]['records'], 1)
    with self.assertRaisesRegex(ValueError, 'label_offset was 1 and is now 0'):
      self.build(npz=nothing)
    other, _ = self.build('other', npz=nothing)
    self.assertEqual(
      self.build('other', npz=self.archive(3), seed=1, shards=2)[1]['records'],
      3,
    )
    self.assertLen(building.read(other), 3)
    self.assertNotIn('train-00000-of-00001', os.listdir(other))
    self.assertIn(manifest.FILE, os.listdir(folder))

  def test_each_worker_has_a_shard_and_a_resumed_build_keeps_their_number(self):
    options = Options(
      npz=self.archive(5), workers=4, output_dir=str(self.folder / 'out')
    )
    names = [f'{i}' for i in range(5)]
    count = clickme_builder.shard_count
    self.assertEqual(count(options, names), 4)
    self.assertEqual(count(options, names[:3]), 3)
    self.assertEqual(count(dataclasses.replace(options, shards=1), names), 1)
    self.assertEqual(
      count(dataclasses.replace(options, images_per_shard=1), names), 5
    )
    self.build(npz=options.npz, images_per_shard=2)
    self.assertEqual(count(options, names), 3)
    # A folder of an earlier version, which did not note the number.
    path = pathlib.Path(
      output_folder.working_file(options.output_dir, 'settings.json')
    )
    settings = json.loads(path.read_text())
    self.assertEqual(settings.pop('shard_count'), 3)
    path.write_text(json.dumps(settings))
    self.assertEqual(
      self.build(npz=options.npz, images_per_shard=2, workers=4)[1]['records'],
      5,
    )

  def test_damaged_or_missing_shards_are_built_again(self):
    folder, _ = self.build(npz=self.archive(9), images_per_shard=3)
    before = building.contents(folder)
    names = shard_builder.names('train', 3)
    os.truncate(os.path.join(folder, names[0]), 10)
    os.remove(os.path.join(folder, names[1]))
    untouched = os.stat(os.path.join(folder, names[2])).st_mtime_ns
    self.build(npz=str(self.folder / 'all.zip'), images_per_shard=3)
    self.assertEqual(building.contents(folder), before)
    self.assertEqual(
      os.stat(os.path.join(folder, names[2])).st_mtime_ns, untouched
    )

  def test_other_settings_or_input_are_not_mixed_in(self):
    archive = self.archive(4)
    folder, _ = self.build(npz=archive)
    before = building.contents(folder)
    for other in (
      dict(seed=1),
      dict(label_offset=1),
      dict(jpeg_quality=90),
      dict(images_per_shard=2),
    ):
      with self.assertRaisesRegex(
        ValueError, f'{list(other)[0]} was .*--output'
      ):
        self.build(npz=archive, **other)
    with self.assertRaisesRegex(
      ValueError,
      r'input has changed \(different: sub/001.npz; new: '
      r'sub/004.npz\)',
    ) as caught:
      self.build(npz=self.archive(5, n1=building.entry(9)))
    message = str(caught.exception).replace(str(self.folder), '')
    self.assertNotRegex(message, '[0-9a-f]{16}')
    self.assertEqual(building.contents(folder), before)

  def test_a_folder_of_others_is_not_written_to(self):
    self.write('out/train-00000-of-00001', b'mine')
    with self.assertRaisesRegex(ValueError, 'not made by this command'):
      self.build(npz=self.archive(2))

  def test_a_second_run_is_kept_out(self):
    archive = self.archive(2)
    with output_folder.alone(str(self.folder / 'out')):
      with self.assertRaisesRegex(ValueError, 'another process'):
        self.build(npz=archive)
    self.build(npz=archive)

  def test_memory_holds_one_record_at_a_time(self):
    alive = []

    def outcomes():
      for i in range(5):
        alive.append(i)
        yield shard_builder.RecordOutcome(str(i), record=b'x')

    def write(_, record):
      self.assertLen(alive, 1)
      alive.pop()

    with mock.patch.object(tf.io.TFRecordWriter, 'write', write):
      output_folder.claim(str(self.folder / 'o'), ['s'], {})
      shard_builder.write(str(self.folder / 'o'), 's', outcomes())


class SummaryTest(building.Case):
  def test_classes_and_the_first_of_each_kind_are_shown(self):
    broken = building.npz(
      image=np.zeros((4, 4, 5), np.uint8), label=0, heatmap=np.eye(4)
    )
    folder, totals = self.build(
      npz=self.archive(9, n2=broken, n4=broken, n5=building.entry(5, label=-1))
    )
    text = shard_builder.summary(folder, totals, {0: 'cat', 1: 'dog'})
    self.assertRegex(text, r'(?m)^ +2  of class 0 \(cat\)$')
    self.assertRegex(text, r'(?m)^ +2  of class 1 \(dog\)$')
    self.assertRegex(text, r'(?m)^ +1  of class 3$')
    self.assertRegex(
      text,
      r'(?m)^ +2  images: image not usable\n +such as '
      r'sub/00[24]\.npz: \S.*$',
    )
    self.assertRegex(
      text,
      r'(?m)^ +1  images: no label\n +such as '
      r'sub/005.npz: class -1.*$',
    )
    self.assertIn('left_out.csv', text)

  def test_misspelled_class_names_are_shown(self):
    for name in ('cat/a', 'dog/b', 'dog/c'):
      for folder, pixels in (
        ('images', np.zeros((8, 8, 3), np.uint8)),
        ('maps', np.eye(8, dtype=np.uint8)),
      ):
        self.write(f'{folder}/{name}.png', building.png(pixels))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      folder, totals = self.build(
        image_dir=str(self.folder / 'images'),
        map_dir=str(self.folder / 'maps'),
        class_names=self.write('names.txt', b'cat\ndogg\nox\n'),
        label_offset=1,
      )
    self.assertEqual(totals['counts'], {'images: no label': 2})
    text = printed.getvalue()
    self.assertRegex(text, r'(?m)^ +1  of class 1 \(cat\)$')
    self.assertRegex(text, "class 'dog' is .*did you mean dogg")
    self.assertRegex(text, '2 of the 3 names in --class_names.*: dogg, ox$')

  def test_many_classes_are_summed_up(self):
    totals = {
      'records': 90,
      'classes': {i: 1 + i % 4 for i in range(36)},
      'counts': {},
      'first': {},
      'left_out': 0,
    }
    self.assertIn(
      '36  classes, 0 to 35, with 1 to 4 records each',
      shard_builder.summary('x', totals),
    )

  def test_no_message_holds_an_address(self):
    out = str(self.folder)
    made = shard_builder.RecordOutcome(
      'a.png',
      reason='image not usable',
      detail=('cannot identify image file <_io.BytesIO object at 0x7f3a2c1b>'),
    )
    output_folder.claim(out, ['s'], {})
    shard_builder.write(out, 's', [made])
    totals = shard_builder.finish(out, ['s'], 'a test')
    self.assertEqual(
      self.left_out(out)[0]['detail'], 'cannot identify image file'
    )
    self.assertNotIn('0x', shard_builder.summary(out, totals).replace(out, ''))


class CommandTest(building.Case):
  def test_splits_that_no_file_name_begins_with(self):
    archive = self.archive(2)
    for split in (
      '',
      'a/b',
      'a*',
      'a?',
      '[a]',
      'a b',
      ' ',
      '.a',
      'a,b',
      'a\\b',
    ):
      with self.assertRaisesRegex(ValueError, '^--split='):
        self.build(npz=archive, split=split)
    self.assertFalse((self.folder / 'out').exists())

  def test_flags_without_effect(self):
    for given, message in (
      (('--npz=a', '--strip_prefix=b'), '--strip_prefix has .* with --npz'),
      (('--map_dir=a', '--label_column=b'), '--label_column .* --clicks'),
      (
        ('--map_dir=a', '--min_catch_trial=1', '--drop_mobile'),
        '--min_catch_trial, --drop_mobile have no effect without --clicks',
      ),
      (('--clicks=a', '--map_suffix=b'), '--map_suffix .*without --map_dir'),
      (
        ('--clicks=a', '--labels=b', '--label_column=c'),
        '--label_column has no effect with --labels',
      ),
    ):
      found = forked.command(
        'data.build_clickme_records', '--output_dir=out', *given
      )
      self.assertEqual(found.code, 1)
      self.assertRegex(found.errors, message)

  def test_only_another_threshold_needs_the_catch_trials(self):
    arguments = clickme_builder.click_arguments
    self.assertEqual(arguments(Options(clicks=('a',)))['needed'], ())
    chosen = map_options.ClickFilter(min_catch_trial=0.5)
    self.assertEqual(
      arguments(Options(clicks=('a',), click_filter=chosen))['needed'],
      ('user_catch_trial',),
    )

  def test_flags_are_the_options(self):
    archive = self.archive(3)
    typed = subprocess.run(
      [
        sys.executable,
        '-m',
        build_clickme_records.__name__,
        f'--npz={archive}',
        f'--output_dir={self.folder}/typed',
        '--seed=3',
        '--label_offset=1',
        '--split=val',
        '--images_per_shard=2',
        '--workers=1',
      ],
      capture_output=True,
      text=True,
      check=False,
      env=processes.environment(),
    )
    self.assertEqual(typed.returncode, 0, typed.stderr)
    self.assertIn('typed: 3 records.', typed.stdout)
    folder, _ = self.build(
      npz=archive, seed=3, label_offset=1, split='val', images_per_shard=2
    )
    self.assertEqual(
      building.contents(self.folder / 'typed'), building.contents(folder)
    )


if __name__ == '__main__':
  tf.test.main()
