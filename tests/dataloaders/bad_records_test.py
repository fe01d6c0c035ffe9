# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that bad records stop a run or are skipped, from file to batch."""

# Bazel: tags = ["graphs"]

import os

from absl.testing import parameterized
import numpy as np
from official.vision.configs import image_classification as stock
import tensorflow as tf

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.dataloaders import images_with_maps
from testing import fixtures


def _bad():
  return fixtures.record(omit=['heatmap'])


def _good(label):
  return fixtures.record(label, label)


def _read(
  path, is_training, batch_size=1, soft_labels=False, classes=4, **fields
):
  """Returns the batches of a file, in the file's order."""
  params = exp_cfg.MappedDataConfig(
    input_path=path,
    is_training=is_training,
    global_batch_size=batch_size,
    shuffle_buffer_size=1,
    deterministic=True,
    drop_remainder=is_training,
    aug_crop=False,
    **{'label_offset': 0, 'on_bad_record': 'skip', **fields},
  )
  model = stock.ImageClassificationModel(
    num_classes=classes, input_size=[16, 16, 3]
  )
  return images_with_maps.read(params, model, soft_labels)


def _columns(dataset, *names):
  batches = [batch for _, batch in dataset]
  return [np.concatenate([b[n] for b in batches]).tolist() for n in names]


class SkipTest(tf.test.TestCase, parameterized.TestCase):
  def _write(self, *serialized, name='a.tfrecords'):
    return fixtures.write(self.get_temp_dir(), name, serialized)

  def test_training_counts_what_was_left_out_before_every_record(self):
    path = self._write(
      _bad(), _good(1), _bad(), b'?', _good(2), _good(3), _bad()
    )
    dataset = _read(path, is_training=True).take(7)
    labels, counts, weights = _columns(
      dataset, 'labels', 'bad_records', 'heatmap_weights'
    )
    self.assertEqual(labels, [1, 2, 3, 1, 2, 3, 1])
    self.assertEqual(counts, [1, 2, 0, 2, 2, 0, 2])
    self.assertEqual(weights, [1] * 7)

  def test_evaluation_counts_the_last_ones_too(self):
    path = self._write(_good(1), _bad(), _good(2), _bad(), b'?')
    dataset = _read(path, is_training=False, batch_size=2)
    labels, counts, valid, weights = _columns(
      dataset, 'labels', 'bad_records', 'valid', 'heatmap_weights'
    )
    self.assertEqual(counts, [0, 1, 0, 1, 1])
    self.assertEqual(valid, [1, 0, 1, 0, 0])
    self.assertEqual(weights, valid)
    self.assertEqual((labels[0], labels[2]), (1, 2))

  def test_mixing_leaves_the_counts_alone(self):
    path = self._write(_bad(), _good(1), _good(2), _good(3))
    mixup = dict(mixup_alpha=1.0, cutmix_alpha=0.0)
    dataset = _read(
      path, True, batch_size=3, soft_labels=True, mixup_and_cutmix=mixup
    )
    (counts,) = _columns(dataset.take(2), 'bad_records')
    self.assertEqual(counts, [1, 0, 0] * 2)

  def test_cap_counts_different_records(self):
    path = self._write(_good(1), _bad(), _good(2), _bad())
    (counts,) = _columns(
      _read(path, True, max_bad_records=2).take(40), 'bad_records'
    )
    self.assertEqual(sum(counts), 39)

  @parameterized.parameters(False, True)
  def test_cap_stops_and_names_the_last(self, is_training):
    path = self._write(_good(1), _bad(), _good(2), b'?', _bad(), _good(3))
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError,
      r'More than 2 bad records \(max_bad_records\).*a.tfrecords, record 4 '
      r'\(counted from 0\): field heatmap .* is missing. .*raise max_bad',
    ):
      _columns(_read(path, is_training, max_bad_records=2).take(9), 'labels')

  def test_nothing_good_is_no_endless_search(self):
    path = self._write(_bad(), _bad())
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError,
      '300 in a row without a good one.*a.tfrecords',
    ):
      next(iter(_read(path, is_training=True, max_bad_records=3)))

  @parameterized.parameters(False, True)
  def test_label_outside_the_range_is_never_skipped(self, is_training):
    path = self._write(_good(1), fixtures.record(label=4))
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError, 'a.tfrecords, record 1 .*label 4 .*0..3'
    ):
      _columns(_read(path, is_training).take(3), 'labels')

  @parameterized.product(
    on_bad_record=('fail', 'skip'),
    is_training=(False, True),
    damage=('flip', 'cut'),
  )
  def test_damaged_file_stops_in_both_modes(
    self, on_bad_record, is_training, damage
  ):
    path = self._write(*(_good(i % 4) for i in range(6)))
    size = os.path.getsize(path)
    with open(path, 'r+b') as f:
      f.seek(size // 2)
      byte = f.read(1)[0]
      f.seek(size // 2)
      f.write(bytes([byte ^ 1]))
      if damage == 'cut':
        f.truncate(size - 20)
    seen = []
    with self.assertRaises(tf.errors.DataLossError):
      for _, batch in _read(path, is_training, on_bad_record=on_bad_record):
        seen += batch['labels'].numpy().tolist()
    self.assertLess(len(seen), 6)

  def test_fail_is_the_default_and_names_the_record(self):
    self.assertEqual(exp_cfg.MappedDataConfig().on_bad_record, 'fail')
    path = self._write(_good(1), b'?')
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError, 'a.tfrecords, record 1 .*tf.train.Example'
    ):
      _columns(_read(path, False, on_bad_record='fail'), 'labels')


class WithoutMapTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    records = []
    for label, encoded in ((1, True), (2, False), (3, True)):
      example = tf.train.Example()
      fields = {
        'image/encoded': tf.io.encode_jpeg(fixtures.pixels(label)).numpy()
      }
      if encoded:
        fields['image/heatmap/encoded'] = tf.io.encode_png(
          fixtures.pixels(5, channels=1)
        ).numpy()
      for name, value in fields.items():
        example.features.feature[name].bytes_list.value.append(value)
      example.features.feature['image/class/label'].int64_list.value.append(
        label
      )
      records.append(example.SerializeToString())
    self.path = fixtures.write(self.get_temp_dir(), 'c.tfrecords', records)

  @parameterized.product(
    on_bad_record=('fail', 'skip'), blur=('before_crop', 'after_crop', 'none')
  )
  def test_training_gives_it_weight_zero(self, **fields):
    dataset = _read(
      self.path, True, batch_size=3, map_decoder='canonical', **fields
    )
    _, batch = next(iter(dataset))
    self.assertAllEqual(batch['labels'], [1, 2, 3])
    self.assertAllEqual(batch['heatmap_weights'], [1, 0, 1])
    self.assertAllEqual(tf.reduce_max(batch['heatmaps'], [1, 2]), [1, 0, 1])

  def test_evaluation_refuses_it(self):
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError,
      'c.tfrecords, record 1 .*no human map.*task.validation_data',
    ):
      _columns(
        _read(self.path, False, map_decoder='canonical', on_bad_record='fail'),
        'labels',
      )

  def test_evaluation_leaves_it_out_and_counts_it(self):
    valid, counts = _columns(
      _read(self.path, False, map_decoder='canonical'), 'valid', 'bad_records'
    )
    self.assertEqual((valid, counts), ([1, 0, 1], [0, 1, 0]))


if __name__ == '__main__':
  tf.test.main()
