# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of several input pipelines: one per machine or tf.data worker."""

# Bazel: tags = ["training"]

import collections
import os

from absl.testing import parameterized
import numpy as np
from official.vision.configs import common as configs
from official.vision.dataloaders import classification_input
from official.vision.ops import augment
from official.vision.tasks import image_classification
import tensorflow as tf
import tensorflow_datasets as tfds

from official_ext.harmonization.dataloaders import pipelines
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import stateless_model_garden
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures

_PLAIN = dict(aug_rand_hflip=False, aug_crop=False, color_jitter=0.0)
# Kinds of random augmentation, each without the others.
_DRAWS = {
  'crop': dict(aug_crop=True),
  'flip': dict(aug_rand_hflip=True),
  'mixup': dict(mixup_and_cutmix=dict(mixup_alpha=0.5, cutmix_alpha=0.5)),
  'shuffle': dict(shuffle_buffer_size=12),
}
_STATEFUL = ('Random', 'SampleDistorted', 'Multinomial', 'Parameterized')


def _context(number, count):
  return tf.distribute.InputContext(
    num_input_pipelines=count,
    input_pipeline_id=number,
    num_replicas_in_sync=count,
  )


class DrawsTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    # Without a seed each process would have other random numbers.
    tf.random.set_seed(1)
    self.path = fixtures.write_numbered(self.get_temp_dir(), 'x.tfrecords', 12)

  def _task(self, options):
    """Returns a task whose datasets augment as the options say."""
    config = fixtures.experiment(
      mapped=self.path, plain=self.path, mapped_fraction=0.5, batch_size=8
    ).task
    config.losses.override({'one_hot': False, 'soft_labels': True})
    for name in ('mapped_data', 'train_data'):
      data = getattr(config, name)
      data.override(
        {
          'seed': 3,
          'shuffle_buffer_size': 1,
          'sharding': False,
          'deterministic': True,
          **_PLAIN,
          **options,
        }
      )
    return task_lib.HarmonizedImageClassificationTask(config)

  def _images(self, task, context):
    """Returns the first images of both datasets, (2, 12, ...)."""
    tf.random.set_seed(1)
    data = task.task_config.train_data
    if context:  # Its share of a batch of two pipelines.
      data = data.replace(global_batch_size=16)
    found = np.stack(
      [images for images, _ in task.build_inputs(data, context).take(3)]
    )
    return np.stack(
      [np.concatenate(found[:, :4]), np.concatenate(found[:, 4:])]
    )

  @parameterized.parameters(*_DRAWS)
  def test_pipelines_draw_apart(self, draw):
    task = self._task(_DRAWS[draw])
    both = [self._images(task, _context(n, 2)) for n in (0, 1)]
    for first, second in zip(*both):
      self.assertNotAllClose(first, second)
      if draw == 'crop':
        crops = np.concatenate([first, second]).reshape(24, -1)
        self.assertLen(np.unique(crops.round(3), axis=0), 24)
    if draw == 'crop':
      self.assertAllEqual(self._images(task, _context(1, 2)), both[1])

  def test_pipelines_without_draws_are_alike(self):
    self.assertAllEqual(
      *(self._images(self._task({}), _context(n, 2)) for n in (0, 1))
    )

  def test_everything_that_model_gardens_parser_draws_has_the_images_seed(self):
    common = dict(
      output_size=[32, 32],
      num_classes=4,
      image_field_key='image',
      label_field_key='label',
      color_jitter=0.5,
      three_augment=True,
    )
    # Tracing all operations would take a minute.
    aug_type = configs.Augmentation(
      type='randaug',
      randaug=configs.RandAugment(
        num_layers=1,
        exclude_ops=[
          op
          for op in augment.RandAugment().available_ops
          if op not in ('Rotate', 'Cutout')
        ],
      ),
    )
    erasing = configs.RandomErasing(probability=1.0)

    def parse(serialized, images, labels, seed, module, mixer):
      parser = module.Parser(
        aug_type=aug_type, random_erasing=erasing, **common
      )
      decoded = classification_input.Decoder('image', 'label').decode(
        serialized
      )
      mix = mixer.MixupAndCutmix(num_classes=4)
      with stateless_model_garden.seeded(seed, 0):
        return parser.parse_fn(True)(decoded), mix(images, labels)

    def stateful(module, mixer):
      graph = (
        tf.function(parse)
        .get_concrete_function(
          tf.TensorSpec([], tf.string),
          tf.TensorSpec([4, 32, 32, 3]),
          tf.TensorSpec([4], tf.int32),
          tf.TensorSpec([2], tf.int64),
          module,
          mixer,
        )
        .graph.as_graph_def()
      )
      return {
        node.op
        for nodes in (graph.node, *(f.node_def for f in graph.library.function))
        for node in nodes
        if node.op.startswith(_STATEFUL)
      }

    self.assertContainsSubset(
      ['RandomUniform', 'RandomGamma', 'SampleDistortedBoundingBoxV2'],
      stateful(classification_input, augment),
    )
    self.assertEmpty(
      stateful(
        stateless_model_garden.classification_input,
        stateless_model_garden.augment,
      )
    )

  def test_seeds_of_pipelines(self):
    data = self._task({}).task_config.mapped_data

    def seed(number, purpose='x', **fields):
      return pipelines.own_seed(
        data.replace(**fields), purpose, _context(number, 4)
      )

    self.assertEqual(seed(0), 3)
    self.assertEqual(pipelines.own_seed(data, 'x', None), 3)
    seeds = [
      seed(n, seed=s, purpose=p)
      for n in (1, 2, 3)
      for s in (3, 4, -1, None)
      for p in 'xy'
    ]
    self.assertLen(set(seeds), len(seeds))
    self.assertAllInRange(seeds, 0, 2**31 - 1)
    # All machines must register the same graph with a tf.data service.
    self.assertEqual(seed(2, enable_tf_data_service=True), 3)
    tf.random.set_seed(None)
    self.assertIsNone(seed(2, seed=None))

  def test_first_pipeline_is_the_only_one_and_model_gardens(self):
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1  # Keeps the order.
    task = self._task(
      dict(aug_crop=True, aug_rand_hflip=True, shuffle_buffer_size=12)
    )
    data = task.task_config.train_data
    stock = image_classification.ImageClassificationTask(task.task_config)
    tf.random.set_seed(1)
    plain = stock.build_inputs(
      data.replace(global_batch_size=4, drop_remainder=True)
    )
    expected = [images for images, _ in plain.with_options(options).take(3)]
    found = []
    for context in (None, _context(0, 2)):
      tf.random.set_seed(1)
      size = data.replace(global_batch_size=16 if context else 8)
      found.append(
        [
          images
          for images, _ in task.build_inputs(size, context)
          .with_options(options)
          .take(3)
        ]
      )
    self.assertAllEqual(*found)
    self.assertAllEqual([images[4:] for images in found[0]], expected)
    self.assertNotAllClose(expected[0], expected[1])

  def test_workers_of_a_data_service_draw_apart(self):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    address = dispatcher.target.partition('://')[2]
    workers = [
      service.WorkerServer(service.WorkerConfig(address)) for _ in range(2)
    ]
    self.path = fixtures.write(
      self.get_temp_dir(), 'one.tfrecords', [fixtures.record()]
    )
    task = self._task(dict(aug_crop=True))
    task.task_config.train_data.override(
      {
        'enable_tf_data_service': True,
        'tf_data_service_address': dispatcher.target,
      }
    )
    found = [
      images
      for images, _ in task.build_inputs(
        task.task_config.train_data, _context(0, 1)
      ).take(12)
    ]
    # The seed of the process is unchanged.
    graph = tf.function(lambda: None).get_concrete_function().graph
    self.assertEqual(graph.seed, 1)
    images = np.concatenate(found).reshape(96, -1).round(3)
    # A few crops are equal by chance; with equal seeds, 48 would be.
    self.assertGreater(len(np.unique(images, axis=0)), 90)
    del workers


class EvaluationTest(tf.test.TestCase, parameterized.TestCase):
  def _evaluate(self, task, count):
    """Returns the positions and labels that all pipelines score."""
    places, plain, batches = [], [], []
    for number in range(count):
      batches.append(0)
      for images, batch in task.build_inputs(
        task.task_config.validation_data, _context(number, count)
      ):
        size = task.task_config.validation_data.global_batch_size // count
        self.assertEqual(images.shape[0], size)
        batches[-1] += 1
        valid = batch['valid'].numpy() > 0
        mapped = valid & (batch['heatmap_weights'].numpy() > 0)
        places += map(tuple, batch['records'].numpy()[mapped].tolist())
        plain += batch['labels'].numpy()[valid & ~mapped].tolist()
    return places, plain, batches

  @parameterized.parameters((15, 3, 2, 4), (2, 1, 3, 2))
  def test_every_image_once_and_as_many_batches(
    self, total, files, count, size
  ):
    folder = self.get_temp_dir()
    each = np.bincount(np.arange(total) % files)
    paths = [
      fixtures.write_numbered(folder, f'{i}-{total}.tfrecords', n)
      for i, n in enumerate(each)
    ]
    task = task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(
        validation=','.join(paths),
        plain_validation=','.join(paths),
        batch_size=size * count,
      ).task
    )
    for name in ('validation_data', 'mapped_validation_data'):
      getattr(task.task_config, name).override(
        {'deterministic': False, 'sharding': files != 3}
      )
    places, plain, batches = self._evaluate(task, count)
    self.assertCountEqual(
      places, [(i, j) for i, n in enumerate(each) for j in range(n)]
    )
    self.assertEqual(
      collections.Counter(plain),
      collections.Counter(
        label % fixtures.CLASSES for n in each for label in range(n)
      ),
    )
    self.assertLen(set(batches), 1)

  def test_bad_records_count_once(self):
    bad = fixtures.record(omit=['heatmap'])
    path = fixtures.write(
      self.get_temp_dir(),
      'bad.tfrecords',
      [fixtures.record(0), fixtures.record(1), bad, fixtures.record(3), bad],
    )
    task = task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(validation=path, batch_size=4).task
    )
    task.task_config.mapped_validation_data.override(
      {'on_bad_record': 'skip', 'aug_crop': True}
    )
    bad_records = valid = 0.0
    for number in range(2):
      for images, batch in task.build_inputs(
        task.task_config.validation_data, _context(number, 2)
      ):
        bad_records += batch['bad_records'].numpy().sum()
        valid += batch['valid'].numpy().sum()
        self.assertAllEqual(
          tf.math.is_finite(images), tf.ones_like(images, tf.bool)
        )
    self.assertEqual((bad_records, valid), (2.0, 3.0))

  def test_tfds(self):
    count = 3
    config = fixtures.experiment(batch_size=2 * count).task
    config.train_data.override(
      {
        'image_field_key': 'image/encoded',
        'label_field_key': 'image/class/label',
      }
    )
    config.validation_data.override(
      {'tfds_name': 'cifar10', 'tfds_split': 'test', 'input_path': ''}
    )

    def as_dataset(_, *args, **kwargs):
      del args, kwargs
      return tf.data.Dataset.from_tensor_slices(
        {
          'image': np.zeros((7, 20, 20, 3), np.uint8),
          'label': np.arange(7, dtype=np.int64),
        }
      )

    config.model.num_classes = 10
    config.mapped_data.label_offset = 0
    config.mapped_validation_data.label_offset = 0
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
      task = task_lib.HarmonizedImageClassificationTask(config)
      _, plain, batches = self._evaluate(task, count)
    self.assertCountEqual(plain, range(7))
    self.assertLen(set(batches), 1)

  def test_overlapping_patterns_count_once(self):
    folder = self.get_temp_dir()
    path = fixtures.write_numbered(folder, 'a.tfrecords', 3)
    other = fixtures.write_numbered(folder, 'b.tfrecords', 2)
    link, copy = (os.path.join(folder, n) for n in ('link', 'a-copy'))
    os.symlink(path, link)
    tf.io.gfile.copy(path, copy)
    around = f'{folder}-around'
    os.symlink(folder, around)
    self.addCleanup(os.remove, around)
    for patterns in (
      [path, path],
      f'{path}, {path}',
      [f'{folder}/a.tf*', path],
      [path, f'{folder}/./a.tfrecords', f'{folder}//a.tfrecords'],
      [path, link],
      [path, f'{around}/a.tfrecords'],
      f'{folder}/a.tf*,{folder}/[a].tfrecords*',
      [path, os.path.relpath(path)],
    ):
      self.assertEqual(records.files(patterns), [path], patterns)
    patterns = [f'{folder}/?.tfrecords', link]
    task = task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(validation=patterns, plain_validation=patterns).task
    )
    places, plain, _ = self._evaluate(task, 1)
    self.assertCountEqual(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)])
    self.assertLen(plain, 5)
    self.assertEqual(records.files([copy, other, path]), [copy, other, path])
    self.assertEqual(
      records.files(['gs://b/./x//a', 'gs://b/x/a', 's3://b/x/a']),
      ['gs://b/./x//a', 's3://b/x/a'],
    )
    self.assertEqual(records.files([link, path]), [link])


if __name__ == '__main__':
  tf.test.main()
