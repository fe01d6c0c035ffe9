"""Tests that a run without data stops before it starts."""

import os
import tempfile
import types
from unittest import mock

from absl.testing import parameterized
import tensorflow as tf, tf_keras

from official_ext.harmonization import input_checks
from official_ext.harmonization import train
from official_ext.harmonization.dataloaders import plain_source
from tests import fixtures


def _png():
  return tf.io.encode_png(fixtures.pixels(3)).numpy()


class CheckDataTest(tf.test.TestCase, parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    self.good = fixtures.write_numbered(self.folder, 'a.tfrecords', 2)

  def _check(self, mode='train_and_eval', **fields):
    config = fixtures.experiment(**{
        'mapped': self.good, 'validation': self.good, **fields})
    config.trainer.train_steps = 1
    input_checks.check_data(config, mode)

  def _empty(self, name):
    return fixtures.write(self.folder, name, [])

  def test_good_data_pass(self):
    self._check()
    self._check(plain=self.good, plain_validation=self.good,
                mapped_fraction=.5)

  def test_empty_shards(self):
    one, two = self._empty('0.tfrecords'), self._empty('1.tfrecords')
    self.assertEqual(os.path.getsize(one), 0)
    with self.assertRaisesRegex(ValueError, f'mapped_data.*{one} is empty:'):
      self._check(mapped=one)
    with self.assertRaisesRegex(
        ValueError, f'mapped_validation_data.*{one} is empty, as are all'):
      self._check(validation=f'{one},{two}')
    with self.assertLogs('absl', 'WARNING') as logs:
      self._check(mapped=f'{self.folder}/*.tfrecords')
    self.assertRegex(''.join(logs.output),
                     r'mapped_data.* 2 of its 3 files are empty, \S+/[01]\.tf')

  @parameterized.parameters(
      (dict(mapped=''), 'task.mapped_data.input_path.*it is empty'),
      (dict(mapped='/nowhere/*'), 'task.mapped_data.*does not match any'),
      (dict(mapped='/nowhere/a'), '/nowhere/a does not exist'),
      (dict(mapped='/'), 'task.mapped_data.*/ is a folder'),
      (dict(mapped_fraction=.5), 'task.train_data.input_path.*it is empty'),
      (dict(validation=''), 'task.mapped_validation_data.*it is empty'))
  def test_nothing_to_read(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      self._check(**fields)

  @parameterized.parameters(
      'manifest.json', 'left_out.csv', 'maps_without_image.csv', 'stimuli.csv',
      '.build', 'train-0.tfrecords.partial', '.train-0.host-1-0.partial')
  def test_files_beside_the_records_are_refused_by_name(self, name):
    fixtures.write(self.folder, name, [])
    for fields in (dict(mapped=f'{self.folder}/*'),
                   dict(plain=f'{self.folder}/*', mapped_fraction=.5)):
      with self.assertRaisesRegex(ValueError, f'{name}, which it matches'):
        self._check(**fields)

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
          ValueError, f"task.init_checkpoint is '{path}', which is no"):
        input_checks.check_data(config, 'train')
    written = tf.train.Checkpoint(v=tf.Variable(1.)).write(
        os.path.join(self.folder, 'ckpt'))
    config.task.init_checkpoint = written
    input_checks.check_data(config, 'train')


class UnreadableTest(tf.test.TestCase, parameterized.TestCase):
  """The host names no record: the driver looks for it."""

  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    self.good = fixtures.write_numbered(self.folder, 'good.tfrecords', 3)

  def _task(self, record, **fields):
    bad = fixtures.write(self.folder, 'bad.tfrecords',
                         [fixtures.record(0), record, record])
    return fixtures.experiment(plain=f'{self.good},{bad}', **fields).task

  @parameterized.parameters(
      (lambda: dict(image=_png()),
       r'field image is not an image that can be read \(Invalid JPEG data, '
       r'size \d+\). Repair .* set task.train_data.decode_jpeg_only to False'),
      (lambda: dict(image=b'?'), 'field image is not an image'),
      (lambda: dict(leave_out=['image']),
       'field image is missing .*image_field_key'))
  def test_is_named(self, change, reason):
    task = self._task(fixtures.record(**change()))
    dataset = tf.data.Dataset.from_tensors(b'?').map(tf.io.decode_jpeg)
    with self.assertRaises(tf.errors.InvalidArgumentError) as caught:
      next(iter(dataset))
    with self.assertRaisesRegex(
        SystemExit, r'train.py: Bad record: \S+bad.tfrecords, record 1 '
        rf'\(counted from 0\): {reason}'):
      input_checks.stop_at_unreadable(task, caught.exception)

  def test_the_driver_asks(self):
    params = fixtures.experiment(plain=self.good)
    params.task = self._task(fixtures.record(image=b'?'))
    typed = types.SimpleNamespace(
        dry_run=False, mode='eval', model_dir=self.folder, seed=None,
        enable_async_checkpointing=False)
    error = tf.errors.InvalidArgumentError(None, None, 'DecodeJpeg')
    with mock.patch.multiple(train, FLAGS=typed, _configure=lambda: params), \
        mock.patch.object(train.runner, 'Runner', side_effect=error):
      with self.assertRaisesRegex(SystemExit, 'bad.tfrecords, record 1 '):
        train.main([])

  def test_pngs_pass_where_they_may(self):
    task = self._task(fixtures.record(image=_png()))
    task.train_data.decode_jpeg_only = False
    error = tf.errors.InvalidArgumentError(None, None, 'DecodeJpeg')
    with self.assertRaises(tf.errors.InvalidArgumentError):
      input_checks.stop_at_unreadable(task, error)

  def test_other_errors_are_not_looked_into(self):
    error = tf.errors.InvalidArgumentError(None, None, 'MatMul: 3 is not 4')
    with mock.patch.object(plain_source, 'first_unreadable') as look:
      with self.assertRaises(tf.errors.InvalidArgumentError):
        input_checks.stop_at_unreadable(self._task(fixtures.record()), error)
    look.assert_not_called()


if __name__ == '__main__':
  tf.test.main()
