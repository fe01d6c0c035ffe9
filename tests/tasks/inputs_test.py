# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the harmonized task's inputs."""

# Bazel: tags = ["training"]

from absl.testing import parameterized
import numpy as np
from official.core import base_trainer
from official.core import train_utils
import tensorflow as tf
import tensorflow_datasets as tfds
import tf_keras

from official_ext.harmonization.dataloaders import images_with_maps
from official_ext.harmonization.dataloaders import labels as labels_lib
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures
from tests import devices


def _task(**kwargs):
  return task_lib.HarmonizedImageClassificationTask(
    fixtures.experiment(**kwargs).task
  )


class InputsTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.get_temp_dir()
    self.mapped = fixtures.write_numbered(folder, 'mapped.tfrecords', 7)
    self.plain = fixtures.write_numbered(folder, 'plain.tfrecords', 5)

  @parameterized.parameters((1.0, 4), (0.5, 2), (0.2, 1))
  def test_training_shapes_are_static(self, fraction, rows):
    task = _task(mapped=self.mapped, plain=self.plain, mapped_fraction=fraction)
    dataset = task.build_inputs(task.task_config.train_data)
    images, batch = dataset.element_spec
    self.assertEqual(images.shape, [4, 32, 32, 3])
    self.assertEqual(
      {k: v.shape.as_list() for k, v in batch.items()},
      {
        'labels': [4],
        'heatmaps': [rows, 32, 32],
        'heatmap_weights': [rows],
        'valid': [4],
        'bad_records': [rows],
      },
    )
    images, batch = next(iter(dataset))
    self.assertAllEqual(batch['heatmap_weights'], np.ones(rows))
    self.assertAllInRange(batch['heatmaps'], 0.0, 1.0)

  def test_mixing_keeps_labels_unsmoothed_in_both_sources(self):
    task = _task(mapped=self.mapped, plain=self.plain, mapped_fraction=0.5)
    mixup = dict(mixup_alpha=1.0, cutmix_alpha=0.0, label_smoothing=0.1)
    task.task_config.override(
      {
        'losses': {'one_hot': False, 'soft_labels': True},
        'train_data': {'mixup_and_cutmix': mixup},
        'mapped_data': {'mixup_and_cutmix': mixup},
      }
    )
    images, batch = next(iter(task.build_inputs(task.task_config.train_data)))
    labels = batch['labels'].numpy()
    self.assertAllClose(labels.sum(-1), np.ones(4))
    # At most two classes; smoothing would leave no zeros.
    self.assertAllInRange((labels > 0).sum(-1), 1, 2)
    # The loss smooths them.
    model = tf_keras.Sequential([tf_keras.layers.Flatten()])
    model.add(tf_keras.layers.Dense(4))
    smoothed = labels * 0.9 + 0.1 / 4
    expected = tf.nn.softmax_cross_entropy_with_logits(smoothed, model(images))
    task.task_config.harmonization.weight = 0.0
    logs = task.train_step((images, batch), model, tf_keras.optimizers.SGD(0.1))
    self.assertAllClose(logs[task.loss], tf.reduce_mean(expected), rtol=1e-5)

  def test_the_same_seed_gives_the_same_batches(self):
    task = _task(mapped=self.mapped)
    task.task_config.mapped_data.override({'seed': 3, 'deterministic': True})
    batches = []
    for _ in range(2):
      dataset = task.build_inputs(task.task_config.train_data)
      batches.append([images for images, _ in dataset.take(3)])
    self.assertAllEqual(batches[0], batches[1])
    self.assertNotAllClose(batches[0][0], batches[0][1])

  @parameterized.parameters(
    (dict(omit=['heatmap']), 'field heatmap .* is missing'),
    (dict(omit=['label']), 'field label is missing'),
    (dict(image=b'?'), 'field image is not a decodable'),
    (dict(label=4), 'label 4 .*0..3'),
  )
  def test_bad_records_are_named(self, change, reason):
    path = fixtures.write(
      self.get_temp_dir(),
      'bad.tfrecords',
      [fixtures.record(), fixtures.record(**change)],
    )
    task = _task(mapped=path, validation=path)
    for params in (
      task.task_config.train_data,
      task.task_config.validation_data,
    ):
      with self.assertRaisesRegex(
        tf.errors.InvalidArgumentError, f'bad.tfrecords, record 1 .*{reason}'
      ):
        for _ in task.build_inputs(params).take(3):
          pass

  @parameterized.parameters(False, True)
  def test_plain_labels_outside_the_range_name_the_source(self, mixed):
    path = fixtures.write(
      self.get_temp_dir(), 'wrong.tfrecords', [fixtures.record(label=9)] * 4
    )
    task = _task(mapped=self.mapped, plain=path, mapped_fraction=0.5)
    if mixed:
      mixup = dict(mixup_alpha=1.0, cutmix_alpha=0.0, label_smoothing=0.1)
      task.task_config.override(
        {
          'losses': {'one_hot': False, 'soft_labels': True},
          'train_data': {'mixup_and_cutmix': mixup},
        }
      )
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError, 'task.train_data.*wrong.tfrecords.*0..3'
    ):
      next(iter(task.build_inputs(task.task_config.train_data)))

  def _imagenet(self, split, labels, offset, classes, **fields):
    """Returns labels from a dataset without maps, with ImageNet's classes."""
    task = fixtures.experiment(mapped=self.mapped, mapped_fraction=0.5).task
    task.model.num_classes = classes
    task.override({f'{split}_label_offset': offset})
    # The field names of train_data apply to both datasets.
    task.train_data.override(
      {
        'image_field_key': 'image/encoded',
        'label_field_key': 'image/class/label',
      }
    )
    getattr(task, f'{split}_data').override(fields)
    task.mapped_data.label_offset = labels_lib.OFFSETS[classes]
    task.mapped_validation_data.label_offset = labels_lib.OFFSETS[classes]

    def as_dataset(_, *args, **kwargs):
      del args, kwargs
      return tf.data.Dataset.from_tensor_slices(
        {
          'image': np.zeros((len(labels), 20, 20, 3), np.uint8),
          'label': np.array(labels, np.int64),
        }
      ).repeat(4)

    if not fields:
      getattr(task, f'{split}_data').override(
        {'tfds_name': 'imagenet2012', 'tfds_split': 'train', 'input_path': ''}
      )
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
      task = task_lib.HarmonizedImageClassificationTask(task)
      params = getattr(task.task_config, f'{split}_data')
      found = set()
      # Rows with maps, which come first in training, are not compared.
      start = 2 if split == 'train' else 0
      for _, batch in task.build_inputs(params).take(8):
        rows = batch['labels'][start:]
        if rows.dtype.is_floating:
          rows = tf.argmax(rows, -1)
        found |= set(rows.numpy()[batch['valid'][start:] > 0].tolist())
      return found

  @parameterized.product(
    split=('train', 'validation'), classes_and_offset=((1001, 1), (1000, 0))
  )
  def test_tfds_imagenet(self, split, classes_and_offset):
    classes, offset = classes_and_offset
    found = self._imagenet(split, [0, 1, 998, 999], offset, classes)
    self.assertEqual(found, {label + offset for label in (0, 1, 998, 999)})

  @parameterized.product(
    split=('train', 'validation'), classes_and_offset=((1001, 0), (1000, -1))
  )
  def test_imagenet_of_the_host(self, split, classes_and_offset):
    classes, offset = classes_and_offset
    path = self._write_plain(1, 2, 999, 1000)
    found = self._imagenet(split, None, offset, classes, input_path=path)
    self.assertEqual(found, {label + offset for label in (1, 2, 999, 1000)})

  @parameterized.parameters(
    (1001, 0, (0, 3)),
    (1001, 1, (1000, 1)),
    (1000, 0, (1000, 1)),
    (1000, -1, (0, 1)),
  )
  def test_wrong_offset_stops(self, classes, offset, labels):
    path = self._write_plain(*labels * 2)
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError,
      'task.train_data.*task.train_label_offset.*outside',
    ):
      self._imagenet('train', None, offset, classes, input_path=path)

  def test_label_of_64_bits_does_not_become_a_class(self):
    path = self._write_plain(1, 2, 3, 2**32 + 2)
    for split in ('train', 'validation'):
      with self.assertRaisesRegex(
        tf.errors.InvalidArgumentError, f'task.{split}_data.*outside'
      ):
        self._imagenet(split, None, 0, 1000, input_path=path)

  def test_missing_label_does_not_become_a_class(self):
    path = self._write_plain(1, 2, 3, None)
    with self.assertRaisesRegex(
      tf.errors.InvalidArgumentError, 'task.train_data.*without a label'
    ):
      self._imagenet('train', None, 1, 1001, input_path=path)

  def test_offset_comes_before_mixing(self):
    path = self._write_plain(0, 1, 2, 999)
    task = _task(mapped=self.mapped, plain=path, mapped_fraction=0.5)
    mixup = dict(mixup_alpha=1.0, cutmix_alpha=1.0, label_smoothing=0.1)
    task.task_config.override(
      {
        'model': {'num_classes': 1001},
        'train_label_offset': 1,
        'losses': {'one_hot': False, 'soft_labels': True},
        'mapped_data': {'label_offset': 1},
        'train_data': {
          'mixup_and_cutmix': mixup,
          'image_field_key': 'image/encoded',
          'label_field_key': 'image/class/label',
        },
      }
    )
    found = set()
    for _, batch in task.build_inputs(task.task_config.train_data).take(8):
      rows = batch['labels'][2:]
      self.assertAllClose(tf.reduce_sum(rows, -1), [1.0, 1.0])
      found |= set(np.flatnonzero(np.sum(rows, 0)).tolist())
    self.assertEqual(found, {1, 2, 3, 1000})

  def _write_plain(self, *labels):
    """Writes records with Model Garden's fields; None omits the label."""
    serialized = []
    for label in labels:
      example = tf.train.Example()
      example.features.feature['image/encoded'].bytes_list.value.append(
        tf.io.encode_jpeg(fixtures.pixels(1)).numpy()
      )
      if label is not None:
        example.features.feature['image/class/label'].int64_list.value.append(
          label
        )
      serialized.append(example.SerializeToString())
    return fixtures.write(self.get_temp_dir(), 'imagenet.tfrecords', serialized)

  def test_effective_mapped_fraction_is_logged(self):
    task = _task(mapped=self.mapped, plain=self.plain, mapped_fraction=0.3)
    with self.assertLogs('absl', level='INFO') as logs:
      task.build_inputs(task.task_config.train_data)
    self.assertRegex(
      ' '.join(logs.output),
      r'1 of the 4 images .* 0.25 \(.*_fraction is 0.3',
    )

  def test_validation_says_which_record_is_which(self):
    folder = self.get_temp_dir()
    b = fixtures.write_numbered(folder, 'b.tfrecords', 4)
    a = fixtures.write(
      folder,
      'a.tfrecords',
      [fixtures.record(label=label) for label in (3, 2, 1)],
    )
    task = _task(validation=f'{b},{a}', plain_validation=self.plain)
    params = task.task_config.mapped_validation_data
    self.assertEqual(images_with_maps.files(params), [a, b])
    found = []
    for _, batch in task.build_inputs(task.task_config.validation_data):
      self.assertEqual(batch['records'].shape, [4, 2])
      rows = batch['heatmap_weights'] * batch['valid'] > 0
      found += np.column_stack(
        [batch['records'][rows], batch['labels'][rows]]
      ).tolist()
    self.assertCountEqual(
      found,
      [
        [0, 0, 3],
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 0],
        [1, 1, 1],
        [1, 2, 2],
        [1, 3, 3],
      ],
    )

  def test_batch_that_replicas_cannot_share(self):
    for replicas, size in ((3, 4), (8, 4), (1, 0)):
      task = _task(mapped=self.mapped, validation=self.mapped, batch_size=size)
      context = tf.distribute.InputContext(num_replicas_in_sync=replicas)
      for name in ('train_data', 'validation_data'):
        with self.assertRaisesRegex(
          ValueError,
          f'task.{name}.global_batch_size is {size}; .*{replicas} replicas',
        ):
          task.build_inputs(getattr(task.task_config, name), context)

  @parameterized.parameters(('', 0.5, 'mapped_data'), ('a', 0.5, 'train_data'))
  def test_nothing_to_train_on(self, mapped, fraction, name):
    task = _task(mapped=mapped and self.mapped, mapped_fraction=fraction)
    with self.assertRaisesRegex(
      ValueError, f'task.{name}.input_path is .*mapped_fraction'
    ):
      task.build_inputs(task.task_config.train_data)

  def test_nothing_to_evaluate_on(self):
    task = _task()
    with self.assertRaisesRegex(
      ValueError, 'mapped_validation_data.input_path'
    ):
      task.build_inputs(task.task_config.validation_data)


class BadRecordsTest(tf.test.TestCase, parameterized.TestCase):
  def _config(self, **kwargs):
    bad = fixtures.record(omit=['heatmap'])
    good = [fixtures.record(i, i % 4) for i in range(4)]
    path = fixtures.write(
      self.get_temp_dir(),
      'some_bad.tfrecords',
      [bad, good[0], good[1], bad, b'?', good[2], good[3]],
    )
    config = fixtures.experiment(mapped=path, validation=path, **kwargs)
    for data in (config.task.mapped_data, config.task.mapped_validation_data):
      data.on_bad_record = 'skip'
    config.task.mapped_data.override(
      {'shuffle_buffer_size': 1, 'deterministic': True}
    )
    config.trainer.train_steps = 100
    return config

  @parameterized.parameters((1.0, 1), (0.0, 1), (0.0, 2))
  def test_training_logs_the_count_of_all_replicas(self, weight, replicas):
    config = self._config(weight=weight, batch_size=4)
    strategy = (
      devices.two_replicas() if replicas == 2 else tf.distribute.get_strategy()
    )
    with strategy.scope():
      task = task_lib.HarmonizedImageClassificationTask(config.task)
      trainer = base_trainer.Trainer(
        config,
        task,
        model=task.build_model(),
        optimizer=train_utils.create_optimizer(task, config),
        evaluate=False,
      )
      # Each pass over the file returns four good records and skips three.
      for _ in range(2):
        logs = trainer.train(tf.constant(3))
        self.assertEqual(float(np.asarray(logs['bad_records'])), 9.0)

  @parameterized.parameters(2, 3, 8)
  def test_evaluation_scores_the_rest(self, batch_size):
    config = self._config(batch_size=batch_size)
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    trainer = base_trainer.Trainer(
      config,
      task,
      model=task.build_model(),
      optimizer=train_utils.create_optimizer(task, config),
      train=False,
    )
    logs = {
      k: float(np.asarray(v))
      for k, v in trainer.evaluate(tf.constant(-1)).items()
    }
    self.assertEqual(
      (logs['bad_records'], logs['alignment_n'], logs['alignment_n_undefined']),
      (3.0, 4.0, 0.0),
    )
    config.task.mapped_validation_data.input_path = fixtures.write_numbered(
      self.get_temp_dir(), 'good.tfrecords', 4
    )
    expected = trainer.evaluate(tf.constant(-1))
    for name in ('alignment', 'clickme_accuracy'):
      self.assertAllClose(logs[name], expected[name])

  def test_no_count_where_nothing_is_skipped(self):
    task = _task(validation='some')
    for training in (True, False):
      names = {m.name for m in task.build_metrics(training)}
      self.assertNotIn('bad_records', names)


if __name__ == '__main__':
  tf.test.main()
