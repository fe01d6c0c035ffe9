# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that every damage of a shard is found, and where it is."""

# Bazel: tags = ["files"]

import dataclasses
import gzip
import json
import os
import shutil
import struct
from unittest import mock

from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data import verify_records
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_checks
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.records import verification
from testing import fixtures
from tests import forked

_RECORDS = [b'', b'x', b'a record', bytes(range(256)) * 3, b'the last']
# Of the first byte of each record, and of the end of the file.
_OFFSETS = np.cumsum([0] + [len(r) + 16 for r in _RECORDS]).tolist()
_LENGTH, _LENGTH_CHECKSUM, _DATA = 8, 4, 12


def _read(path, **options):
  return list(record_reader.read(path, **options))


class ShardCase(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = fixtures.write(self.get_temp_dir(), 'shard', _RECORDS)
    with open(self.path, 'rb') as f:
      self.bytes = f.read()

  def _write(self, content):
    with open(self.path, 'wb') as f:
      f.write(content)

  def _flip(self, position, mask=1):
    changed = bytearray(self.bytes)
    changed[position] ^= mask
    self._write(bytes(changed))


class ReaderTest(ShardCase):
  def test_reads_what_tensorflow_wrote(self):
    self.assertEqual(
      _read(self.path),
      [
        record_reader.Record(i, offset, data)
        for i, (offset, data) in enumerate(zip(_OFFSETS, _RECORDS))
      ],
    )

  def test_checksum(self):
    # RFC 3720, B.4: CRC-32C of 32 zeros and of 32 ones.
    for data, crc in ((bytes(32), 0x8A9136AA), (b'\xff' * 32, 0x62A8AB43)):
      masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
      self.assertEqual(record_reader.masked_crc32c(data), masked)
    # And TensorFlow's own, of the data of a record.
    (written,) = struct.unpack('<I', self.bytes[-4:])
    self.assertEqual(record_reader.masked_crc32c(_RECORDS[-1]), written)

  def _assert_found(self, position):
    """Checks what is said of a file with one byte changed."""
    bad = max(i for i, o in enumerate(_OFFSETS) if o <= position)
    in_length = position - _OFFSETS[bad] < _DATA
    expected = [
      record_reader.Record(i, _OFFSETS[i], data)
      for i, data in enumerate(_RECORDS)
    ]
    found = _read(self.path)
    what = "the record's length" if in_length else "the record's data"
    self.assertIn(what, found[bad].problem, position)
    expected[bad] = record_reader.Record(
      bad,
      _OFFSETS[bad],
      None,
      found[bad].problem,
      unread=len(self.bytes) - _OFFSETS[bad] if in_length else 0,
    )
    self.assertEqual(
      found, expected[: bad + 1] if in_length else expected, position
    )

  def test_every_byte_of_a_shard(self):
    rng = np.random.default_rng(0)
    for position in range(len(self.bytes)):
      self._flip(position, int(rng.integers(1, 256)))
      self._assert_found(position)

  def test_every_bit_of_the_framing(self):
    for offset, data in zip(_OFFSETS, _RECORDS):
      for position in (
        *range(offset, offset + _DATA),
        *range(offset + _DATA + len(data), offset + _DATA + len(data) + 4),
      ):
        for bit in range(8):
          self._flip(position, 1 << bit)
          self._assert_found(position)

  def test_every_length_a_shard_can_be_cut_to(self):
    for size in range(len(self.bytes)):
      self._write(self.bytes[:size])
      found = _read(self.path)
      whole = sum(o <= size for o in _OFFSETS[1:])
      self.assertEqual([r.data for r in found[:whole]], _RECORDS[:whole], size)
      if size in _OFFSETS:
        self.assertLen(found, whole, size)
      else:
        self.assertLen(found, whole + 1, size)
        self.assertIn(
          f'ends {size - _OFFSETS[whole]} bytes into', found[-1].problem
        )
        self.assertEqual(found[-1].unread, size - _OFFSETS[whole])

  def test_bytes_put_in_and_taken_out(self):
    rng = np.random.default_rng(1)
    for _ in range(300):
      position = int(rng.integers(0, len(self.bytes) - 1))
      count = int(rng.integers(1, 40))
      if rng.random() < 0.5:
        changed = (
          self.bytes[:position] + rng.bytes(count) + self.bytes[position:]
        )
      else:
        changed = self.bytes[:position] + self.bytes[position + count :]
      self._write(changed)
      first = max(i for i, o in enumerate(_OFFSETS) if o <= position)
      found = _read(self.path)
      good = [r.data for r in found if not r.problem]
      if len(changed) in _OFFSETS and changed == self.bytes[: len(changed)]:
        continue  # Whole records from the end: no framing can tell.
      bad = [r for r in found if r.problem]
      self.assertNotEmpty(bad, (position, count))
      self.assertGreaterEqual(bad[0].index, first)
      self.assertTrue(all(data in _RECORDS for data in good))

  def test_a_length_that_is_too_long_is_not_believed(self):
    length = struct.pack('<Q', 1 << 60)
    header = length + struct.pack('<I', record_reader.masked_crc32c(length))
    self._write(self.bytes[: _OFFSETS[2]] + header + b'abc')
    found = _read(self.path)
    self.assertLen(found, 3)
    self.assertRegex(found[2].problem, 'ends 15 bytes into a record of 1152')

  def test_a_length_like_the_mark_of_gzip_is_a_length(self):
    path = fixtures.write(self.get_temp_dir(), 'long', [b'z' * 0x8B1F])
    with open(path, 'rb') as f:
      self.assertEqual(f.read(2), b'\x1f\x8b')
    self.assertEqual(_read(path)[0].problem, '')
    self._write(gzip.compress(self.bytes))
    self.assertIn('gzip', _read(self.path)[0].problem)

  def test_files_of_another_kind(self):
    for content, kind in (
      (tf.io.encode_png(fixtures.pixels(0)).numpy(), 'a PNG image'),
      (b'\xff\xd8\xff\xe0 and more bytes', 'a JPEG image'),
      ('image,label\nà.png,1\n'.encode(), 'text'),
      (b'short', 'text'),
    ):
      self._write(content)
      (found,) = _read(self.path)
      self.assertEqual(
        found.problem, f'the file is {kind}; expected a TFRecord file'
      )
    self._write(b'\0\1\2\3' * 9)
    self.assertIn('checksum', _read(self.path)[0].problem)

  def test_start(self):
    self._flip(_OFFSETS[1] + _DATA)
    self.assertEqual(
      [r.index for r in _read(self.path, start=_OFFSETS[2])], [2, 3, 4]
    )
    self.assertEqual(
      [bool(r.problem) for r in _read(self.path, start=1)],
      [True, False, False, False],
    )


class VerifyTest(ShardCase):
  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.get_temp_dir(), 'shards')
    os.makedirs(self.folder, exist_ok=True)
    for old in os.listdir(self.folder):
      os.remove(os.path.join(self.folder, old))
    self.good = [
      fixtures.write_numbered(self.folder, f'{i}.tfrecords', 3 + i)
      for i in range(2)
    ]
    self.pattern = os.path.join(self.folder, '*.tfrecords')

  def _problems(self, *patterns, **options):
    results = verification.verify(list(patterns or [self.pattern]), **options)
    return [p for r in results for p in r.problems]

  def _manifest(self):
    manifest.write(
      self.folder,
      source='a test',
      shards=[manifest.describe(p, 3 + i) for i, p in enumerate(self.good)],
    )

  def test_good_files(self):
    self._manifest()
    check = verification.decoder_check('clickme', fixtures.CLASSES)
    for pattern in (self.pattern, os.path.join(self.folder, '*')):
      results = list(verification.verify([pattern], check, workers=2))
      self.assertEqual([r.records for r in results], [3, 4])
      self.assertEqual(
        [r.bytes for r in results], [os.path.getsize(p) for p in self.good]
      )
      self.assertEmpty(self._problems())

  def test_names_file_record_and_byte(self):
    self._flip(_OFFSETS[2] + _DATA)
    (found,) = self._problems(self.path, self.pattern)
    self.assertEqual(found[:3], (self.path, 2, _OFFSETS[2]))
    self.assertEqual(
      str(found),
      f'{self.path}, record 2 (counted from 0) at byte {_OFFSETS[2]}: the '
      "checksum of the record's data does not match",
    )

  def test_says_how_much_was_not_read(self):
    self._flip(_OFFSETS[2])
    (found,) = self._problems(self.path)
    self.assertIn(f'{len(self.bytes) - _OFFSETS[2]} bytes', found.reason)

  def test_goes_on_after_bad_records(self):
    changed = bytearray(self.bytes)
    for i in (1, 3, 4):
      changed[_OFFSETS[i] + _DATA] ^= 1
    self._write(bytes(changed))
    self.assertEqual([p.record for p in self._problems(self.path)], [1, 3, 4])

  @parameterized.parameters(
    ({'omit': ['heatmap']}, 'heatmap'),
    ({'omit': ['label']}, 'label is missing'),
    ({'image': b'no image'}, 'image'),
    ({'label': 4}, 'label 4 .*0..3'),
    ({'label': -1}, 'label -1'),
  )
  def test_what_records_hold(self, damage, reason):
    path = fixtures.write(
      self.get_temp_dir(),
      'damaged',
      [fixtures.record(0), fixtures.record(1, **damage), fixtures.record(2)],
    )
    check = verification.decoder_check('clickme', fixtures.CLASSES)
    (found,) = self._problems(path, check=check)
    self.assertEqual(found.record, 1)
    self.assertRegex(found.reason, reason)
    self.assertEmpty(self._problems(path))

  def test_a_record_that_is_no_example(self):
    path = fixtures.write(
      self.get_temp_dir(),
      'no_example',
      [b'\xff\xff\xff', b'field', fixtures.record(0)],
    )
    check = verification.decoder_check('clickme')
    found = self._problems(path, check=check)
    self.assertEqual([p.record for p in found], [0, 1])
    self.assertIn('it is not a tf.train.Example', found[0].reason)

  def test_label_offset(self):
    check = verification.decoder_check('clickme', fixtures.CLASSES, 1)
    found = self._problems(check=check)
    self.assertEqual([(p.file, p.record) for p in found], [(self.good[1], 3)])
    self.assertIn('label 3 plus label_offset 1', found[0].reason)

  def test_files_that_are_none(self):
    missing = os.path.join(self.folder, 'nowhere')
    empty = fixtures.write(self.get_temp_dir(), 'empty', [])
    found = self._problems(missing, empty)
    self.assertCountEqual([p.file for p in found], [missing, empty])
    self.assertIn('is empty', [p.reason for p in found if p.file == empty][0])
    with self.assertRaisesRegex(ValueError, 'matches no file'):
      self._problems(os.path.join(self.folder, '*.nothing'))

  def test_a_folder_means_its_records(self):
    self._manifest()
    for name in (
      '.build/0.json',
      '.2.tfrecords.host-1-2.partial',
      '3.tfrecords.partial',
      'left_out.csv',
      'stimuli.csv',
    ):
      path = os.path.join(self.folder, name)
      os.makedirs(os.path.dirname(path), exist_ok=True)
      with open(path, 'w') as f:
        f.write('not a record')
    self.addCleanup(shutil.rmtree, os.path.join(self.folder, '.build'))
    above, name = os.path.split(self.folder)
    for patterns in (
      [self.folder],
      [f'{self.folder}/'],
      [f'{self.folder}/*'],
      [self.pattern, f'{above}/./{name}'],
    ):
      results = list(verification.verify(patterns))
      self.assertEqual([r.file for r in results], self.good, patterns)
      self.assertEmpty([p for r in results for p in r.problems])
    with self.assertRaisesRegex(ValueError, 'manifest.json; expected TFRecord'):
      self._problems(os.path.join(self.folder, manifest.FILE))
    os.remove(self.good[1])
    (found,) = self._problems(self.folder)
    self.assertRegex(str(found), '1.tfrecords: .*lists it, but it does not')

  def test_folders_in_folders(self):
    above = os.path.join(self.get_temp_dir(), 'above')
    for split in ('train', 'val'):
      os.makedirs(os.path.join(above, split), exist_ok=True)
      fixtures.write_numbered(os.path.join(above, split), f'{split}-0', 2)
    self.assertLen(list(verification.verify([above])), 2)
    os.makedirs(os.path.join(above, 'empty'), exist_ok=True)
    with self.assertRaisesRegex(ValueError, 'empty holds no file of records'):
      self._problems(os.path.join(above, 'empty'))

  def test_the_manifest_is_kept_to(self):
    self._manifest()
    first, second = self.good
    fixtures.write_numbered(self.folder, '0.tfrecords', 2)
    fixtures.write(
      self.folder,
      '1.tfrecords',
      [fixtures.record(i, (i + 1) % 4) for i in range(4)],
    )
    extra = fixtures.write_numbered(self.folder, '2.tfrecords', 1)
    found = {p.file: p.reason for p in self._problems()}
    self.assertRegex(found[first], r'has \d+ bytes.* manifest.json says \d+')
    self.assertRegex(found[second], 'SHA-256|bytes')
    self.assertRegex(found[extra], 'does not list it')
    self.assertLen(found, 3)

  def test_the_manifest_knows_order_and_absence(self):
    content = [fixtures.record(0), fixtures.record(1)]
    fixtures.write(self.folder, '1.tfrecords', content)
    manifest.write(
      self.folder,
      source='a test',
      shards=[manifest.describe(p, n) for p, n in zip(self.good, (3, 2))],
    )
    fixtures.write(self.folder, '1.tfrecords', content[::-1])
    os.remove(self.good[0])
    found = {p.file: p.reason for p in self._problems()}
    self.assertRegex(found[self.good[0]], 'lists it, but it does not exist')
    self.assertRegex(found[self.good[1]], 'SHA-256')
    # Nobody asked for the other one.
    self.assertLen(self._problems(self.good[1]), 1)

  def test_the_manifest_that_is_none(self):
    with open(os.path.join(self.folder, manifest.FILE), 'w') as f:
      f.write('{"train_images": 5}')
    (found,) = self._problems()
    self.assertRegex(str(found), 'manifest.json.*no list of "shards"')

  def test_the_command(self):
    report = os.path.join(self.get_temp_dir(), 'report.json')
    self._flip(_OFFSETS[3] + _DATA)
    options = verify_records.Options(decode=False, workers=1, report=report)
    verify_records.main(options, [self.folder])
    with self.assertRaises(SystemExit) as caught:
      verify_records.main(options, [self.pattern, self.path])
    self.assertEqual(caught.exception.code, 1)
    with self.assertRaisesRegex(ValueError, 'No file'):
      verify_records.main(options, [])
    with open(report) as f:
      found = json.load(f)
    self.assertEqual((found['records'], found['problems']), (12, 1))
    by_file = {r['file']: r['problems'] for r in found['files']}
    self.assertEqual(by_file[self.path][0]['offset'], _OFFSETS[3])
    self.assertEqual([by_file[file] for file in self.good], [[], []])


def _raw(side, white, label=1, flat=False, seed=0):
  """A record of raw pixels."""
  rng = np.random.default_rng(seed)
  image = rng.random((side, side, 3)) * white
  heatmap = np.ones((side, side)) if flat else rng.random((side, side))
  return record_writer.serialize(
    {
      'image': image.astype('<f4').tobytes(),
      'heatmap': heatmap.astype('<f4').tobytes(),
      'label': label,
    }
  )


def _canonical(seed, label=1, heatmap=True, flat=False, image=None):
  values = (
    np.full((8, 8), 7, np.uint8)
    if flat
    else np.arange(64, dtype=np.uint8).reshape(8, 8)
  )
  return record_writer.canonical_example(
    image or tf.io.encode_jpeg(fixtures.pixels(seed)).numpy(),
    label,
    f'{seed}.jpg',
    image_codec.encode_map(values)
    if heatmap and not flat
    else tf.io.encode_png(values[..., np.newaxis]).numpy()
    if flat
    else None,
    'test',
  )


class ContentTest(tf.test.TestCase, parameterized.TestCase):
  def verify(self, files, **options):
    """Writes and verifies files; returns checker, problems and warnings."""
    folder = os.path.join(self.get_temp_dir(), self._testMethodName)
    os.makedirs(folder, exist_ok=True)
    for name, records in files.items():
      fixtures.write(folder, name, records)
    checker = record_checks.Checker(**options)
    results = list(verification.verify([folder], checker=checker))
    return (
      checker,
      *(
        [
          str(p).replace(folder + '/', '')
          for r in results
          for p in getattr(r, kind)
        ]
        for kind in ('problems', 'warnings')
      ),
    )

  def test_formats_are_recognized(self):
    checker, problems, _ = self.verify(
      {
        'a': [_canonical(0), _canonical(1, heatmap=False)],
        'b': [fixtures.record(2), fixtures.record(3)],
        'c': [_raw(224, 255)],
        'd': [_raw(256, 255)],
      }
    )
    self.assertEmpty(problems)
    self.assertEqual(
      checker.formats(),
      [
        'canonical',
        'clickme',
        'clickme_2018, white at 255',
        'clickme_per_category, white at 255',
      ],
    )

  def test_another_format_is_suggested(self):
    _, (problem,), _ = self.verify(
      {'a': [_canonical(0)]}, map_decoder='clickme'
    )
    self.assertRegex(
      problem, 'read as clickme.*did you mean --map_decoder=canonical'
    )

  def test_white_is_recognized_or_said(self):
    ones = {'a': [_raw(224, 1, i, seed=i) for i in range(2)]}
    checker, problems, _ = self.verify(ones)
    self.assertEmpty(problems)
    self.assertEqual(checker.formats(), ['clickme_per_category, white at 1'])
    self.assertLen(self.verify(ones, raw_image_max=255.0)[1], 2)
    half = {'a': [_raw(224, 1000, i, seed=i) for i in range(2)]}
    self.assertRegex(self.verify(half)[1][0], 'record 0 .*raw_image_max is 255')
    self.assertEmpty(self.verify(half, raw_image_max=1000.0)[1])
    _, problems, _ = self.verify({**ones, 'b': [_raw(224, 255, seed=3)]})
    self.assertRegex(
      problems[-1],
      'differ in the value of white: .*a is '
      'clickme_per_category, white at 1; .*b is .* 255',
    )

  def test_class_0_of_1001_is_the_background(self):
    canonical = {'a': [_canonical(i, i) for i in range(3)]}
    _, (problem,), _ = self.verify(canonical, num_classes=1001)
    self.assertRegex(problem, r'record 0 .*label 0 .*1\.\.1000.*background')
    for options in (
      dict(num_classes=1001, label_offset=1),
      dict(num_classes=1000),
      dict(),
    ):
      self.assertEmpty(self.verify(canonical, **options)[1])
    # Training shifts the labels of the release by itself.
    release = {'a': [fixtures.record(i, i) for i in range(3)]}
    self.assertEmpty(self.verify(release, num_classes=1001)[1])
    self.assertLen(self.verify(release, num_classes=1001, label_offset=0)[1], 1)

  @parameterized.parameters('canonical', 'clickme', 'clickme_2018')
  def test_constant_maps(self, kind):
    flat = [
      {
        'canonical': lambda i: _canonical(i, i, flat=True),
        'clickme': lambda i: fixtures.record(
          i,
          i,
          heatmap=tf.io.encode_jpeg(np.full((8, 8, 1), 7, np.uint8)).numpy(),
        ),
        'clickme_2018': lambda i: _raw(256, 255, i, True, i),
      }[kind](i)
      for i in range(2)
    ]
    good = {
      'canonical': lambda: _canonical(5),
      'clickme': lambda: fixtures.record(5),
      'clickme_2018': lambda: _raw(256, 255),
    }[kind]()
    _, problems, warnings = self.verify({'a': flat, 'b': [*flat, good]})
    constant = 'maps are constant, so their alignment is undefined'
    self.assertEqual(problems, [f'a: all 2 {constant}'])
    self.assertIn(f'b: 2 of 3 {constant}', warnings)

  def test_one_class_and_copies(self):
    one = _canonical(0, 1)
    image = (
      tf.train.Example.FromString(one)
      .features.feature['image/encoded']
      .bytes_list.value[0]
    )
    _, problems, warnings = self.verify(
      {'a': [one, _canonical(1, 1)], 'b': [_canonical(2, 1), one]}
    )
    self.assertEmpty(problems)
    self.assertRegex(warnings[0], 'all 4 records have the label 1')
    self.assertRegex(
      warnings[1],
      '1 image is a copy of an earlier one.* For example, '
      r'record 1 of b \(label 1\) is a copy of record 0 of a ',
    )
    _, _, (warning,) = self.verify(
      {'a': [one, _canonical(1, 1)], 'b': [_canonical(2, 2, image=image)]}
    )
    self.assertIn('1 of them with another label', warning)

  def test_the_command_says_what_it_found(self):
    folder = self.get_temp_dir()
    path = fixtures.write(folder, 'one', [_canonical(i, i) for i in range(3)])
    options = verify_records.Options(
      num_classes=1001, workers=1, report=os.path.join(folder, 'r.json')
    )
    with self.assertRaises(SystemExit), mock.patch('builtins.print') as said:
      verify_records.main(options, [path])
    self.assertRegex(
      said.call_args.args[0],
      r'^3 records \(canonical\), \d+ bytes: 1 problem\.$',
    )
    with mock.patch('builtins.print') as said:
      verify_records.main(dataclasses.replace(options, label_offset=1), [path])
    self.assertRegex(said.call_args.args[0], 'all good')
    self.assertEqual(files.read_json(options.report)['warnings'], 0)

  def test_flags_without_effect(self):
    path = fixtures.write(
      self.get_temp_dir(), 'labels', [_canonical(i, i) for i in range(10)]
    )
    for given, message in (
      (
        ('--nodecode', '--num_classes=3'),
        '--num_classes has no effect with --nodecode',
      ),
      (
        ('--nodecode', '--label_offset=1', '--raw_image_max=1'),
        '--label_offset, --raw_image_max have no effect with --nodecode',
      ),
      (('--label_offset=1',), '--label_offset has .*without --num_classes'),
      (
        ('--map_decoder=canonical', '--raw_image_max=1'),
        '--raw_image_max has no effect with --map_decoder=canonical',
      ),
    ):
      found = forked.command('data.verify_records', path, *given)
      self.assertEqual(found.code, 1)
      self.assertRegex(found.errors, message)
    _, _, warnings = self.verify(
      {'a': [_canonical(0), _canonical(1, 2)]}, raw_image_max=1.0
    )
    self.assertEqual(
      warnings,
      [
        '1 file: raw_image_max=1 has no effect: the records are canonical, '
        'whose images are encoded'
      ],
    )
    _, _, warnings = self.verify(
      {'a': [_raw(224, 1, i, seed=i) for i in range(2)]}, raw_image_max=1.0
    )
    self.assertEmpty(warnings)


class LocateTest(ShardCase):
  def _error(self, files):
    """What TensorFlow raises when it reads files to their end."""
    with self.assertRaises(tf.errors.DataLossError) as caught:
      for _ in tf.data.TFRecordDataset(files):
        pass
    return caught.exception

  @parameterized.parameters(*range(5))
  def test_finds_what_tensorflow_failed_at(self, record):
    copies = [
      fixtures.write(self.get_temp_dir(), f'good{i}', _RECORDS)
      for i in range(3)
    ]
    files = copies[:2] + [self.path] + copies[2:]
    self._flip(_OFFSETS[record] + 3)
    cut = self.bytes[: _OFFSETS[record] + 13]
    for content in (None, cut):
      if content:
        self._write(content)
      found = verification.locate(files, self._error(files))
      self.assertEqual(found[:3], (self.path, record, _OFFSETS[record]))

  def test_looks_there_first(self):
    """A file is not read to its end to find what TensorFlow has located."""
    self._flip(_OFFSETS[3] + _DATA)
    error = self._error([self.path])
    with open(self.path, 'rb') as f:
      self.bytes = f.read()
    # A reader that starts at the beginning finds this record.
    self._flip(_OFFSETS[1] + _DATA)
    self.assertEqual(verification.locate([self.path], error).record, 3)

  def test_reads_all_where_the_error_names_no_place(self):
    self._flip(_OFFSETS[3] + _DATA)
    error = tf.errors.DataLossError(None, None, 'something is wrong')
    self.assertEqual(verification.locate([self.path], error).record, 3)

  def test_good_files_and_missing_ones(self):
    error = tf.errors.DataLossError(None, None, 'corrupted record at 5')
    self.assertIsNone(verification.locate([self.path], error))
    gone = self.path + '.gone'
    self.assertEqual(verification.locate([gone], error).file, gone)


class ManifestTest(tf.test.TestCase):
  def test_what_is_written_is_read(self):
    folder = self.get_temp_dir()
    shards = []
    for name, count in (('t-10', 2), ('t-9', 3)):
      path = os.path.join(folder, name)
      with record_writer.open_shard(path) as writer:
        for _ in range(count):
          writer.write(b'x')
      shards.append(manifest.describe(path, count))
    manifest.write(folder, source='here', shards=shards, kernel='disc')
    found = manifest.read(folder)
    self.assertEqual(
      found,
      {
        'source': 'here',
        'kernel': 'disc',
        'records': 5,
        'shards': shards[::-1],
      },
    )
    self.assertEqual(
      sorted(os.listdir(folder)), ['manifest.json', 't-10', 't-9']
    )

  def test_what_is_no_manifest(self):
    folder = os.path.join(self.get_temp_dir(), 'none')
    os.makedirs(folder)
    with self.assertRaisesRegex(FileNotFoundError, 'manifest.json does not'):
      manifest.read(folder)
    shard = {'file': 'a', 'records': 1, 'bytes': 2, 'sha256': 'x'}
    for content, reason in (
      ('{', 'is not JSON'),
      ('[]', 'shards'),
      ('{"shards": 1}', 'shards'),
      (json.dumps({'shards': [shard, 5]}), '"file" of shard 1 is None'),
      (
        json.dumps({'shards': [{**shard, 'bytes': '2'}]}),
        '"bytes" of shard 0 is \'2\'',
      ),
      (
        json.dumps({'shards': [{**shard, 'records': True}]}),
        '"records" of shard 0 is True',
      ),
    ):
      with open(os.path.join(folder, manifest.FILE), 'w') as f:
        f.write(content)
      with self.assertRaisesRegex(ValueError, f'manifest.json.*{reason}'):
        manifest.read(folder)


if __name__ == '__main__':
  tf.test.main()
