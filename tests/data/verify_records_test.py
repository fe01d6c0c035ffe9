"""Tests that every damage of a shard is found, and where it is."""

import gzip
import json
import os
import struct
import types
from unittest import mock

from absl.testing import parameterized
import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.data import manifest
from official_ext.harmonization.data import record_reader
from official_ext.harmonization.data import record_writer
from official_ext.harmonization.data import verify_records
from tests import fixtures

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
        [record_reader.Record(i, offset, data)
         for i, (offset, data) in enumerate(zip(_OFFSETS, _RECORDS))])

  def test_checksum(self):
    # RFC 3720, B.4: CRC-32C of 32 zeros and of 32 ones.
    for data, crc in ((bytes(32), 0x8A9136AA), (b'\xff' * 32, 0x62A8AB43)):
      masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
      self.assertEqual(record_reader.masked_crc32c(data), masked)
    # And TensorFlow's own, of the data of a record.
    written, = struct.unpack('<I', self.bytes[-4:])
    self.assertEqual(record_reader.masked_crc32c(_RECORDS[-1]), written)

  def _assert_found(self, position):
    """Checks what is said of a file with one byte changed."""
    bad = max(i for i, o in enumerate(_OFFSETS) if o <= position)
    in_length = position - _OFFSETS[bad] < _DATA
    expected = [record_reader.Record(i, _OFFSETS[i], data)
                for i, data in enumerate(_RECORDS)]
    found = _read(self.path)
    what = "the record's length" if in_length else "the record's data"
    self.assertIn(what, found[bad].problem, position)
    expected[bad] = record_reader.Record(
        bad, _OFFSETS[bad], None, found[bad].problem,
        unread=len(self.bytes) - _OFFSETS[bad] if in_length else 0)
    self.assertEqual(found, expected[:bad + 1] if in_length else expected,
                     position)

  def test_every_byte_of_a_shard(self):
    rng = np.random.default_rng(0)
    for position in range(len(self.bytes)):
      self._flip(position, int(rng.integers(1, 256)))
      self._assert_found(position)

  def test_every_bit_of_the_framing(self):
    for offset, data in zip(_OFFSETS, _RECORDS):
      for position in (*range(offset, offset + _DATA),
                       *range(offset + _DATA + len(data),
                              offset + _DATA + len(data) + 4)):
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
        self.assertIn(f'ends {size - _OFFSETS[whole]} bytes into',
                      found[-1].problem)
        self.assertEqual(found[-1].unread, size - _OFFSETS[whole])

  def test_bytes_put_in_and_taken_out(self):
    rng = np.random.default_rng(1)
    for _ in range(300):
      position = int(rng.integers(0, len(self.bytes) - 1))
      count = int(rng.integers(1, 40))
      if rng.random() < .5:
        changed = (self.bytes[:position] + rng.bytes(count)
                   + self.bytes[position:])
      else:
        changed = self.bytes[:position] + self.bytes[position + count:]
      self._write(changed)
      first = max(i for i, o in enumerate(_OFFSETS) if o <= position)
      found = _read(self.path)
      good = [r.data for r in found if not r.problem]
      if len(changed) in _OFFSETS and changed == self.bytes[:len(changed)]:
        continue  # Whole records from the end: no framing can tell.
      bad = [r for r in found if r.problem]
      self.assertNotEmpty(bad, (position, count))
      self.assertGreaterEqual(bad[0].index, first)
      self.assertTrue(all(data in _RECORDS for data in good))

  def test_a_length_that_is_too_long_is_not_believed(self):
    length = struct.pack('<Q', 1 << 60)
    header = length + struct.pack('<I', record_reader.masked_crc32c(length))
    self._write(self.bytes[:_OFFSETS[2]] + header + b'abc')
    found = _read(self.path)
    self.assertLen(found, 3)
    self.assertRegex(found[2].problem, 'ends 15 bytes into a record of 1152')

  def test_a_length_like_the_mark_of_gzip_is_a_length(self):
    path = fixtures.write(self.get_temp_dir(), 'long', [b'z' * 0x8b1f])
    with open(path, 'rb') as f:
      self.assertEqual(f.read(2), b'\x1f\x8b')
    self.assertEqual(_read(path)[0].problem, '')
    self._write(gzip.compress(self.bytes))
    self.assertIn('gzip', _read(self.path)[0].problem)

  def test_start(self):
    self._flip(_OFFSETS[1] + _DATA)
    self.assertEqual([r.index for r in _read(self.path, start=_OFFSETS[2])],
                     [2, 3, 4])
    self.assertEqual([bool(r.problem) for r in _read(self.path, start=1)],
                     [True, False, False, False])


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
    results = verify_records.verify(list(patterns or [self.pattern]), **options)
    return [p for r in results for p in r['problems']]

  def _manifest(self):
    manifest.write(
        self.folder, source='a test',
        shards=[manifest.describe(p, 3 + i) for i, p in enumerate(self.good)])

  def test_good_files(self):
    self._manifest()
    check = verify_records.decoder_check('clickme', fixtures.CLASSES)
    for pattern in (self.pattern, os.path.join(self.folder, '*')):
      results = list(verify_records.verify([pattern], check, workers=2))
      self.assertEqual([r['records'] for r in results], [3, 4])
      self.assertEqual([r['bytes'] for r in results],
                       [os.path.getsize(p) for p in self.good])
      self.assertEmpty(self._problems())

  def test_names_file_record_and_byte(self):
    self._flip(_OFFSETS[2] + _DATA)
    found, = self._problems(self.path, self.pattern)
    self.assertEqual(found[:3], (self.path, 2, _OFFSETS[2]))
    self.assertEqual(
        str(found),
        f'{self.path}, record 2 (counted from 0) at byte {_OFFSETS[2]}: the '
        "checksum of the record's data does not match")

  def test_says_how_much_was_not_read(self):
    self._flip(_OFFSETS[2])
    found, = self._problems(self.path)
    self.assertIn(f'{len(self.bytes) - _OFFSETS[2]} bytes', found.reason)

  def test_goes_on_after_bad_records(self):
    changed = bytearray(self.bytes)
    for i in (1, 3, 4):
      changed[_OFFSETS[i] + _DATA] ^= 1
    self._write(bytes(changed))
    self.assertEqual([p.record for p in self._problems(self.path)], [1, 3, 4])

  @parameterized.parameters(
      ({'leave_out': ['heatmap']}, 'heatmap'), ({'leave_out': ['label']},
                                                'label is missing'),
      ({'image': b'no image'}, 'image'), ({'label': 4}, 'label 4 .*0..3'),
      ({'label': -1}, 'label -1'))
  def test_what_records_hold(self, damage, reason):
    path = fixtures.write(
        self.get_temp_dir(), 'damaged',
        [fixtures.record(0), fixtures.record(1, **damage), fixtures.record(2)])
    check = verify_records.decoder_check('clickme', fixtures.CLASSES)
    found, = self._problems(path, check=check)
    self.assertEqual(found.record, 1)
    self.assertRegex(found.reason, reason)
    self.assertEmpty(self._problems(path))

  def test_a_record_that_is_no_example(self):
    path = fixtures.write(self.get_temp_dir(), 'no_example',
                          [b'\xff\xff\xff', b'field', fixtures.record(0)])
    check = verify_records.decoder_check('clickme')
    found = self._problems(path, check=check)
    self.assertEqual([p.record for p in found], [0, 1])
    self.assertIn('it is not a tf.train.Example', found[0].reason)

  def test_label_offset(self):
    check = verify_records.decoder_check('clickme', fixtures.CLASSES, 1)
    found = self._problems(check=check)
    self.assertEqual([(p.file, p.record) for p in found], [(self.good[1], 3)])
    self.assertIn('label 3 plus label_offset 1', found[0].reason)

  def test_files_that_are_none(self):
    missing = os.path.join(self.folder, 'nowhere')
    empty = fixtures.write(self.get_temp_dir(), 'empty', [])
    found = self._problems(missing, empty, self.folder)
    self.assertCountEqual([p.file for p in found],
                          [missing, empty, self.folder])
    self.assertIn('is empty', [p.reason for p in found if p.file == empty][0])
    with self.assertRaisesRegex(ValueError, 'does not match'):
      self._problems(os.path.join(self.folder, '*.nothing'))

  def test_the_manifest_is_kept_to(self):
    self._manifest()
    first, second = self.good
    fixtures.write_numbered(self.folder, '0.tfrecords', 2)
    fixtures.write(self.folder, '1.tfrecords',
                   [fixtures.record(i, (i + 1) % 4) for i in range(4)])
    extra = fixtures.write_numbered(self.folder, '2.tfrecords', 1)
    found = {p.file: p.reason for p in self._problems()}
    self.assertRegex(found[first], r'has \d+ bytes, manifest.json says \d+')
    self.assertRegex(found[second], 'SHA-256|bytes')
    self.assertRegex(found[extra], 'does not list it')
    self.assertLen(found, 3)

  def test_the_manifest_knows_order_and_absence(self):
    content = [fixtures.record(0), fixtures.record(1)]
    fixtures.write(self.folder, '1.tfrecords', content)
    manifest.write(
        self.folder, source='a test',
        shards=[manifest.describe(p, n) for p, n in zip(self.good, (3, 2))])
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
    found, = self._problems()
    self.assertRegex(str(found), 'manifest.json.*no list of "shards"')

  def test_the_command(self):
    report = os.path.join(self.get_temp_dir(), 'report.json')
    self._flip(_OFFSETS[3] + _DATA)
    typed = types.SimpleNamespace(
        decode=False, map_decoder='clickme', num_classes=None, label_offset=0,
        workers=1, report=report)
    with mock.patch.object(verify_records, 'FLAGS', typed):
      verify_records.main(['verify', self.pattern])
      with self.assertRaises(SystemExit) as caught:
        verify_records.main(['verify', self.pattern, self.path])
      self.assertEqual(caught.exception.code, 1)
      with self.assertRaisesRegex(SystemExit, 'no file is named'):
        verify_records.main(['verify'])
    with open(report) as f:
      found = json.load(f)
    self.assertEqual((found['records'], found['problems']), (12, 1))
    by_file = {r['file']: r['problems'] for r in found['files']}
    self.assertEqual(by_file[self.path][0]['offset'], _OFFSETS[3])
    self.assertEqual([by_file[file] for file in self.good], [[], []])


class LocateTest(ShardCase):

  def _error(self, files):
    """What TensorFlow raises when it reads files to their end."""
    with self.assertRaises(tf.errors.DataLossError) as caught:
      for _ in tf.data.TFRecordDataset(files):
        pass
    return caught.exception

  @parameterized.parameters(*range(5))
  def test_finds_what_tensorflow_failed_at(self, record):
    copies = [fixtures.write(self.get_temp_dir(), f'good{i}', _RECORDS)
              for i in range(3)]
    files = copies[:2] + [self.path] + copies[2:]
    self._flip(_OFFSETS[record] + 3)
    cut = self.bytes[:_OFFSETS[record] + 13]
    for content in (None, cut):
      if content:
        self._write(content)
      found = verify_records.locate(files, self._error(files))
      self.assertEqual(found[:3], (self.path, record, _OFFSETS[record]))

  def test_looks_there_first(self):
    """A file is not read to its end to find what TensorFlow has located."""
    self._flip(_OFFSETS[3] + _DATA)
    with mock.patch.object(record_reader, '_read_data',
                           wraps=record_reader._read_data) as reads:
      verify_records.locate([self.path], self._error([self.path]))
    self.assertEqual(reads.call_count, 1)

  def test_reads_all_where_the_error_names_no_place(self):
    self._flip(_OFFSETS[3] + _DATA)
    error = tf.errors.DataLossError(None, None, 'something is wrong')
    self.assertEqual(verify_records.locate([self.path], error).record, 3)

  def test_good_files_and_missing_ones(self):
    error = tf.errors.DataLossError(None, None, 'corrupted record at 5')
    self.assertIsNone(verify_records.locate([self.path], error))
    gone = self.path + '.gone'
    self.assertEqual(verify_records.locate([gone], error).file, gone)


class ManifestTest(tf.test.TestCase):

  def test_what_is_written_is_read(self):
    folder = self.get_temp_dir()
    shards = []
    for name, count in (('t-10', 2), ('t-9', 3)):
      path = os.path.join(folder, name)
      with record_writer.shard(path) as writer:
        for _ in range(count):
          writer.write(b'x')
      shards.append(manifest.describe(path, count))
    manifest.write(folder, source='here', shards=shards, kernel='disc')
    found = manifest.read(folder)
    self.assertEqual(found, {'source': 'here', 'kernel': 'disc', 'records': 5,
                             'shards': shards[::-1]})
    self.assertEqual(sorted(os.listdir(folder)),
                     ['manifest.json', 't-10', 't-9'])

  def test_what_is_no_manifest(self):
    folder = os.path.join(self.get_temp_dir(), 'none')
    os.makedirs(folder)
    with self.assertRaisesRegex(FileNotFoundError, 'manifest.json does not'):
      manifest.read(folder)
    shard = {'file': 'a', 'records': 1, 'bytes': 2, 'sha256': 'x'}
    for content, reason in (
        ('{', 'is not JSON'), ('[]', 'shards'), ('{"shards": 1}', 'shards'),
        (json.dumps({'shards': [shard, 5]}), '"file" of shard 1 is None'),
        (json.dumps({'shards': [{**shard, 'bytes': '2'}]}),
         '"bytes" of shard 0 is \'2\''),
        (json.dumps({'shards': [{**shard, 'records': True}]}),
         '"records" of shard 0 is True')):
      with open(os.path.join(folder, manifest.FILE), 'w') as f:
        f.write(content)
      with self.assertRaisesRegex(ValueError, f'manifest.json.*{reason}'):
        manifest.read(folder)


if __name__ == '__main__':
  tf.test.main()
