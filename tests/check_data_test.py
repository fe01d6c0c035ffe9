# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that a run without data stops before it starts."""

import os
import re
import tempfile
from unittest import mock

from absl.testing import parameterized
import tensorflow as tf

from official_ext.harmonization import input_checks
from official_ext.harmonization import train
from testing import fixtures


def _png():
  return tf.io.encode_png(fixtures.pixels(3)).numpy()


class CheckDataTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    self.good = fixtures.write_numbered(self.folder, 'a.tfrecords', 2)

  def _check(self, mode='train_and_eval', **fields):
    config = fixtures.experiment(
      **{'mapped': self.good, 'validation': self.good, **fields}
    )
    config.trainer.train_steps = 1
    input_checks.check_data(config, mode)

  def _empty(self, name):
    return fixtures.write(self.folder, name, [])

  def test_good_data_pass(self):
    self._check()
    self._check(
      plain=self.good, plain_validation=self.good, mapped_fraction=0.5
    )

  def test_empty_shards(self):
    one, two = self._empty('0.tfrecords'), self._empty('1.tfrecords')
    self.assertEqual(os.path.getsize(one), 0)
    with self.assertRaisesRegex(ValueError, f'mapped_data.*{one} is empty;'):
      self._check(mapped=one)
    with self.assertRaisesRegex(
      ValueError, f'mapped_validation_data.*{one} is empty, like all'
    ):
      self._check(validation=f'{one},{two}')
    with self.assertLogs('absl', 'WARNING') as logs:
      self._check(mapped=f'{self.folder}/*.tfrecords')
    self.assertRegex(
      ''.join(logs.output),
      r'mapped_data.* 2 of its 3 files are empty; .* \S+/[01]\.tf',
    )

  @parameterized.parameters(
    (dict(mapped=''), 'task.mapped_data.input_path.*it is empty'),
    (dict(mapped='/nowhere/*'), 'task.mapped_data.*does not match any'),
    (dict(mapped='/nowhere/a'), '/nowhere/a does not exist'),
    (dict(mapped='/'), 'task.mapped_data.*/ is a folder'),
    (dict(mapped_fraction=0.5), 'task.train_data.input_path.*it is empty'),
    (dict(validation=''), 'task.mapped_validation_data.*it is empty'),
  )
  def test_nothing_to_read(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      self._check(**fields)

  @parameterized.parameters(
    'manifest.json',
    'left_out.csv',
    'maps_without_image.csv',
    'stimuli.csv',
    '.build',
    'train-0.tfrecords.partial',
    '.train-0.host-1-0.partial',
  )
  def test_files_beside_the_records_are_refused_by_name(self, name):
    fixtures.write(self.folder, name, [])
    for fields in (
      dict(mapped=f'{self.folder}/*'),
      dict(plain=f'{self.folder}/*', mapped_fraction=0.5),
    ):
      with self.assertRaisesRegex(
        ValueError, f'matches .*{name}, which is not'
      ):
        self._check(**fields)

  def _canonical(self, name, maps):
    """Writes canonical records, some without a map."""
    serialized = []
    for i, has_map in enumerate(maps):
      example = tf.train.Example()
      feature = example.features.feature
      feature['image/encoded'].bytes_list.value.append(_png())
      feature['image/class/label'].int64_list.value.append(i % 4)
      if has_map is not None:
        feature['image/heatmap/encoded'].bytes_list.value.append(
          tf.io.encode_png(fixtures.pixels(i, channels=1)).numpy()
          if has_map
          else b''
        )
      serialized.append(example.SerializeToString())
    return fixtures.write(self.folder, name, serialized)

  def _check_maps(self, path, mode='train_and_eval', **fields):
    config = fixtures.experiment(mapped=self.good, validation=path)
    config.trainer.train_steps = 1
    config.task.mapped_validation_data.override(
      {'map_decoder': 'canonical', 'label_offset': 0, **fields}
    )
    input_checks.check_data(config, mode)

  def test_validation_records_without_a_map(self):
    good = self._canonical('good', [True] * 3)
    for name, maps, place in (
      ('first', [None, True], 0),
      ('last', [True] * 9 + [None], 9),
      ('blank', [True, False], 1),
    ):
      path = self._canonical(name, maps)
      with (
        self.subTest(name),
        self.assertRaisesRegex(
          ValueError,
          f'task.mapped_validation_data.*{path}, record {place} '
          r'.*image/heatmap/encoded .* is missing.*on_bad_record to skip',
        ),
      ):
        self._check_maps(f'{good},{path}')
    self._check_maps(good)
    # Cases that do not stop an evaluation, or are not evaluated.
    self._check_maps(path, on_bad_record='skip')
    self._check_maps(path, mode='train')
    # The same in another format.
    path = fixtures.write(
      self.folder,
      'clickme',
      [fixtures.record(), fixtures.record(omit=['heatmap'])],
    )
    with self.assertRaisesRegex(ValueError, f'{path}, record 1 .*heatmap'):
      self._check(validation=path)
    with self.assertRaisesRegex(ValueError, 'record 0 .*tf.train.Example'):
      self._check(validation=fixtures.write(self.folder, 'text', [b'text']))

  def test_nothing_of_tensorflow_runs_before_the_strategy(self):
    # Otherwise the collectives of several processes could not be set up.
    path = self._canonical('all', [True] * 3)
    with mock.patch.object(tf.data, 'TFRecordDataset', None):
      self._check_maps(path)

  def test_damaged_validation_file(self):
    with open(self.good, 'rb') as f:
      content = bytearray(f.read())
    content[len(content) // 4] ^= 1
    path = os.path.join(self.folder, 'damaged')
    with open(path, 'wb') as f:
      f.write(content)
    with self.assertRaisesRegex(ValueError, f'{path}, record 0'):
      self._check(validation=path)

  def test_many_validation_files_are_looked_at_in_turn(self):
    files = [self._canonical(f'{i}', [True, True]) for i in range(4)]
    files.append(self._canonical('9', [True, None]))
    data = fixtures.experiment(
      validation=','.join(files)
    ).task.mapped_validation_data
    data.map_decoder = 'canonical'
    self.assertIn('9, record 1', input_checks.first_without_map(data, most=10))
    self.assertEqual(input_checks.first_without_map(data, most=5), '')

  @parameterized.parameters('train_data', 'validation_data')
  def test_empty_batches(self, name):
    config = fixtures.experiment(mapped=self.good, validation=self.good)
    config.task.override({name: {'global_batch_size': 0}})
    with self.assertRaisesRegex(
      ValueError, f'task.{name}.global_batch_size is 0; expected 1'
    ):
      input_checks.check_data(config, 'train_and_eval')

  def test_unreachable_places(self):
    for path in ('s3://bucket/a*', 'gs2://bucket/a'):
      with self.assertRaisesRegex(
        ValueError,
        'task.mapped_data.input_path is '
        f"'{re.escape(path)}', and it cannot be accessed .*not implemented",
      ):
        self._check(mapped=path)

  def test_nothing_to_train(self):
    config = fixtures.experiment(mapped=self.good, validation=self.good)
    config.trainer.train_steps = 0
    with self.assertRaisesRegex(ValueError, 'trainer.train_steps is 0'):
      input_checks.check_data(config, 'train')
    input_checks.check_data(config, 'eval')
    config.trainer.train_steps = 1
    for path in (self.good, self.folder, '/nowhere'):
      config.task.init_checkpoint = path
      with self.assertRaisesRegex(
        ValueError, f"task.init_checkpoint is '{path}'; expected"
      ):
        input_checks.check_data(config, 'train')
    written = tf.train.Checkpoint(v=tf.Variable(1.0)).write(
      os.path.join(self.folder, 'ckpt')
    )
    config.task.init_checkpoint = written
    input_checks.check_data(config, 'train')


class UnreadableTest(tf.test.TestCase, parameterized.TestCase):
  """Model Garden names no record, so the driver searches for it."""

  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    self.good = fixtures.write_numbered(self.folder, 'good.tfrecords', 3)

  def _task(self, record, **fields):
    bad = fixtures.write(
      self.folder, 'bad.tfrecords', [fixtures.record(0), record, record]
    )
    return fixtures.experiment(plain=f'{self.good},{bad}', **fields).task

  @parameterized.parameters(
    (
      lambda: dict(image=_png()),
      r'field image is not an image that can be read \(Invalid JPEG data, '
      r'size \d+\). Repair .* set task.train_data.decode_jpeg_only to False',
    ),
    (lambda: dict(image=b'?'), 'field image is not an image'),
    (
      lambda: dict(omit=['image']),
      'field image is missing .*image_field_key',
    ),
  )
  def test_is_named(self, change, reason):
    task = self._task(fixtures.record(**change()))
    dataset = tf.data.Dataset.from_tensors(b'?').map(tf.io.decode_jpeg)
    with self.assertRaises(tf.errors.InvalidArgumentError) as caught:
      next(iter(dataset))
    with self.assertRaisesRegex(
      SystemExit,
      r'train.py: Bad record: \S+bad.tfrecords, record 1 '
      rf'\(counted from 0\): {reason}',
    ):
      input_checks.stop_at_unreadable(task, caught.exception)

  def test_the_driver_asks(self):
    params = fixtures.experiment(plain=self.good)
    params.task = self._task(fixtures.record(image=b'?'))
    error = tf.errors.InvalidArgumentError(None, None, 'DecodeJpeg')
    with (
      mock.patch.object(train.runner, 'Runner', side_effect=error),
      self.assertRaisesRegex(SystemExit, 'bad.tfrecords, record 1 '),
    ):
      train.run_experiment(
        params,
        experiment='harmonized_resnet_imagenet',
        mode='eval',
        model_dir=self.folder,
        enable_async_checkpointing=False,
      )

  def test_pngs_pass_where_they_may(self):
    task = self._task(fixtures.record(image=_png()))
    task.train_data.decode_jpeg_only = False
    error = tf.errors.InvalidArgumentError(None, None, 'DecodeJpeg')
    with self.assertRaises(tf.errors.InvalidArgumentError):
      input_checks.stop_at_unreadable(task, error)

  def test_errors_of_other_operations_are_raised(self):
    error = tf.errors.InvalidArgumentError(None, None, 'MatMul: 3 is not 4')
    with self.assertRaisesRegex(tf.errors.InvalidArgumentError, 'MatMul'):
      input_checks.stop_at_unreadable(
        self._task(fixtures.record(image=b'?')), error
      )


if __name__ == '__main__':
  tf.test.main()
