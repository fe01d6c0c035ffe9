# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the configuration, of gin and of the registered recipe."""

import dataclasses
import importlib

from absl.testing import parameterized
import numpy as np
from official.core import exp_factory
from official.modeling import optimization
from official.vision.configs import image_classification as stock
import tensorflow as tf

import gin
from official_ext.harmonization import registry_imports
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.configs import task_checks
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import registry
from testing import fixtures


class HarmonizeTest(tf.test.TestCase, parameterized.TestCase):
  def tearDown(self):
    super().tearDown()
    gin.clear_config()

  def test_gives_stock_experiments_the_option_and_changes_nothing_else(self):
    for name in (
      'resnet_imagenet',
      'resnet_rs_imagenet',
      'vit_imagenet_pretrain',
      'mobilenet_imagenet',
    ):
      expected = exp_factory.get_exp_config(name)
      config = exp_cfg.harmonize(exp_factory.get_exp_config(name))
      self.assertIsInstance(config.task, stock.ImageClassificationTask)
      self.assertFalse(config.task.harmonization.enabled)
      found = config.as_dict()
      for added in (
        'harmonization',
        'alignment_report',
        'mapped_data',
        'mapped_validation_data',
        'train_label_offset',
        'validation_label_offset',
      ):
        del found['task'][added]
      self.assertEqual(found, expected.as_dict())

  def test_gin_reaches_every_field(self):
    values = {
      'enabled': True,
      'weight': 3.0,
      'levels': 4,
      'standardization': 'per_level',
      'normalization': 'mapped',
      'saliency': 'abs_max',
      'saliency_target': 'centered_logit',
      'batch_norm': 'inference',
      'mapped_fraction': 0.5,
      'interval': 2,
      'warmup_steps': 7,
      'ceiling': 0.5,
      'evaluation_explainer': 'smoothgrad_squared',
      'explainer_samples': 3,
    }
    self.assertEqual(set(values), set(exp_cfg.Harmonization().as_dict()))
    gin.parse_config(
      [f'harmonize.{k} = {v!r}' for k, v in values.items()]
      + [
        "harmonize.input_path = 'a*'",
        "harmonize.validation_input_path = 'b*'",
        "harmonize.map_decoder = 'clickme'",
        'harmonize.label_offset = 5',
        'harmonize.min_max = False',
      ]
    )
    config = exp_cfg.harmonize(exp_factory.get_exp_config('resnet_imagenet'))
    self.assertEqual(config.task.harmonization.as_dict(), values)
    self.assertEqual(config.task.mapped_data.input_path, 'a*')
    self.assertEqual(config.task.mapped_validation_data.input_path, 'b*')
    self.assertEqual(config.task.mapped_data.label_offset, 5)
    self.assertEqual(config.task.mapped_validation_data.label_offset, 5)
    self.assertFalse(config.task.mapped_data.min_max)
    self.assertEqual(config.trainer.validation_steps, -1)
    self.assertEmpty(exp_cfg.idle_bindings(config))

  def test_gin_sets_what_the_configuration_declares(self):
    declared = {f.name for f in dataclasses.fields(exp_cfg.MappedDataConfig)}
    stock_fields = {f.name for f in dataclasses.fields(stock.DataConfig)}
    self.assertEqual(
      set(exp_cfg.SETTINGS),
      set(exp_cfg.Harmonization().as_dict())
      | (declared - stock_fields)
      | {'input_path', 'validation_input_path'},
    )

  def test_gin_reaches_registered_experiments(self):
    gin.parse_config('harmonize.weight = 3.5')
    config = exp_factory.get_exp_config('harmonized_resnet_imagenet')
    self.assertEqual(config.task.harmonization.weight, 3.5)

  def test_gin_reaches_resizing_and_kernel_of_both_sources(self):
    gin.parse_config(
      [
        "harmonize.map_resize = 'antialias'",
        "harmonize.blur_kernel = 'centred'",
      ]
    )
    config = exp_factory.get_exp_config('harmonized_resnet_imagenet')
    for data in (config.task.mapped_data, config.task.mapped_validation_data):
      self.assertEqual(
        (data.map_resize, data.blur_kernel), ('antialias', 'centred')
      )
    task_checks.check(config.task)

  def test_resizing_follows_the_format(self):
    data = exp_cfg.MappedDataConfig()
    self.assertEqual((data.map_resize, data.blur_kernel), (None, 'released'))
    self.assertEqual(
      {n: registry.map_resize(n) for n in registry.names()},
      {
        'canonical': 'antialias',
        'clickme': 'released',
        'clickme_2018': 'released',
        'clickme_per_category': 'released',
      },
    )
    self.assertEqual(registry.map_resize('canonical', 'released'), 'released')

  def test_unknown_binding_stops(self):
    with self.assertRaisesRegex(ValueError, 'wieght'):
      gin.parse_config('harmonize.wieght = 3.5')

  def test_idle_bindings_are_named(self):
    gin.parse_config(['harmonize.weight = 3.', "harmonize.input_path = 'a'"])
    config = exp_cfg.harmonize(exp_factory.get_exp_config('resnet_imagenet'))
    self.assertEqual(
      exp_cfg.idle_bindings(config),
      ['harmonize.weight', 'harmonize.input_path'],
    )

  @parameterized.parameters(
    'darknet_classification', 'retinanet_resnetfpn_coco'
  )
  def test_other_tasks_are_refused_by_name(self, name):
    importlib.import_module(
      'official.projects.yolo.configs.darknet_classification'
    )
    config = exp_factory.get_exp_config(name)
    with self.assertRaisesRegex(
      ValueError, f'{type(config.task).__module__}.*stock'
    ):
      exp_cfg.harmonize(config)

  def test_label_offset_follows_the_number_of_classes(self):
    for classes, decoder, offset in (
      (1001, 'clickme', 1),
      (1000, 'clickme', 0),
      (10, 'clickme', None),
      # The user must set the offset of these formats.
      (1001, 'clickme_2018', None),
      (1000, 'canonical', None),
    ):
      config = exp_factory.get_exp_config('harmonized_resnet_imagenet')
      config.task.model.num_classes = classes
      config.task.mapped_data.map_decoder = decoder
      self.assertEqual(
        labels.offset_with_map(config.task.mapped_data, classes), offset
      )
      if offset is None:
        with self.assertRaisesRegex(ValueError, 'label_offset is None'):
          task_checks.check(config.task)
      else:
        task_checks.check(config.task)


class CheckTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(
    ('harmonization.weight', -1.0),
    ('harmonization.levels', 0),
    ('harmonization.standardization', 'before'),
    ('harmonization.normalization', 'image'),
    ('harmonization.saliency', 'max'),
    ('harmonization.saliency_target', 'logits'),
    ('harmonization.batch_norm', 'training'),
    ('harmonization.mapped_fraction', 0.0),
    ('harmonization.mapped_fraction', 1.5),
    ('harmonization.interval', 0),
    ('harmonization.warmup_steps', -1),
    ('harmonization.ceiling', 0.0),
    ('harmonization.ceiling', 65.753),
    ('harmonization.evaluation_explainer', 'smoothgrad'),
    ('harmonization.explainer_samples', 0),
    ('mapped_data.map_decoder', 'clikme'),
    ('mapped_data.blur', 'before'),
    ('mapped_data.map_resize', 'area'),
    ('mapped_validation_data.blur_kernel', 'centered'),
    ('mapped_data.label_offset', None),
    ('mapped_validation_data.label_offset', None),
    ('mapped_data.repeated_augment', 2),
    ('mapped_data.cache', True),
    ('mapped_data.aug_type', {'type': 'ssd_random_crop'}),
    (
      'mapped_data.aug_type',
      {'type': 'randaug', 'randaug': {'magnitude_std': 0.5}},
    ),
    (
      'mapped_data.aug_type',
      {'type': 'autoaug', 'autoaug': {'augmentation_name': 'detection_v0'}},
    ),
    ('mapped_data.on_bad_record', 'ignore'),
    ('mapped_data.max_bad_records', 0),
    ('mapped_data.raw_image_max', 0.0),
    ('mapped_validation_data.raw_image_max', 1.0),
    ('mapped_data.mixup_and_cutmix', {'cutmix_alpha': 1.0}),
    ('mapped_validation_data.color_jitter', 0.1),
    ('mapped_validation_data.three_augment', True),
    ('mapped_data.global_batch_size', 3),
    ('train_data.is_multilabel', True),
    ('losses.use_binary_cross_entropy', True),
    ('losses.soft_labels', True),
    ('losses.label_smoothing', 1.0),
    ('losses.label_smoothing', -0.1),
    ('model.input_size', []),
    ('model.input_size', [32, 32, 1]),
    ('model.input_size', [32, 0, 3]),
    ('model.num_classes', 0),
    ('harmonization.levels', 7),
    ('mapped_data.dtype', 'float8'),
    ('mapped_data.tf_resize_method', 'bilinera'),
    ('mapped_data.input_path', {'a': 'b'}),
    ('mapped_data.crop_area_range', [0.5, 0.1]),
    ('mapped_data.crop_area_range', [0.0, 1.0]),
    ('mapped_validation_data.center_crop_fraction', 0.0),
  )
  def test_names_the_field(self, field, value):
    task = fixtures.experiment().task
    task_checks.check(task)
    section, name = field.split('.')
    task.override({section: {name: value}})
    with self.assertRaisesRegex(ValueError, field):
      task_checks.check(task)
    task.harmonization.enabled = False
    task_checks.check(task)

  @parameterized.parameters((6, 'before_pyramid'), (5, 'per_level'))
  def test_levels_that_the_image_has(self, most, standardization):
    task = fixtures.experiment(
      levels=most, standardization=standardization
    ).task
    task_checks.check(task)
    task.harmonization.levels = most + 1
    with self.assertRaisesRegex(
      ValueError, f'levels is {most + 1}; .*images of 32x32 .* have {most}'
    ):
      task_checks.check(task)

  def test_both_sources_of_a_batch_have_one_dtype(self):
    task = fixtures.experiment(mapped='a', plain='b').task
    task.train_data.dtype = 'bfloat16'
    with self.assertRaisesRegex(
      ValueError, "mapped_data.dtype is 'float32'; .*bfloat16"
    ):
      task_checks.check(task)
    task.mapped_data.dtype = 'bfloat16'
    task_checks.check(task)

  def test_smoothing_that_nothing_would_do(self):
    task = exp_factory.get_exp_config('harmonized_resnet_imagenet').task
    task.losses.label_smoothing = 0.2
    with self.assertRaisesRegex(
      ValueError, 'label_smoothing is 0.2; .*mixed .* 0.1'
    ):
      task_checks.check(task)
    task = fixtures.experiment().task
    task.override({'losses': {'label_smoothing': 0.1}})
    task_checks.check(task)
    task.losses.one_hot = False
    with self.assertRaisesRegex(
      ValueError, 'label_smoothing is 0.1; .*one_hot'
    ):
      task_checks.check(task)

  def test_interval_without_a_loss_is_refused(self):
    task = fixtures.experiment(interval=4).task
    task_checks.check(task)
    task.harmonization.weight = 0.0
    with self.assertRaisesRegex(ValueError, 'interval is 4.*weight 0'):
      task_checks.check(task)

  def test_joint_augmentation_is_accepted(self):
    task = fixtures.experiment().task
    task.override(
      {
        'mapped_data': {
          'aug_type': {'type': 'randaug'},
          'three_augment': True,
          'color_jitter': 0.1,
          'random_erasing': {'probability': 0.5},
          'mixup_and_cutmix': {'cutmix_alpha': 1.0},
        },
        'losses': {'one_hot': False, 'soft_labels': True},
      }
    )
    task_checks.check(task)

  def test_clickme_labels_and_imagenet_classes(self):
    task = fixtures.experiment().task
    for classes, good, bad in ((1001, 1, 0), (1000, 0, 1)):
      task.model.num_classes = classes
      task.mapped_validation_data.label_offset = good
      task.mapped_data.label_offset = good
      task_checks.check(task)
      task.mapped_data.label_offset = bad
      with self.assertRaisesRegex(ValueError, f'label_offset.*need {good}'):
        task_checks.check(task)

  def test_raw_formats_take_a_white(self):
    task = fixtures.experiment().task
    for decoder in ('clickme_2018', 'clickme_per_category'):
      task.mapped_data.override(
        {
          'map_decoder': decoder,
          'raw_image_max': 1.0,
          'on_bad_record': 'skip',
          'max_bad_records': 1,
        }
      )
      task_checks.check(task)

  @parameterized.parameters('train', 'validation')
  def test_tfds_labels_and_imagenet_classes(self, split):
    task = fixtures.experiment().task
    task.override({f'{split}_data': {'tfds_name': 'imagenet2012'}})
    for classes, good, bad in ((1001, 1, 0), (1000, 0, 1), (1000, 0, -1)):
      task.model.num_classes = classes
      task.mapped_data.label_offset = None
      task.mapped_validation_data.label_offset = None
      task.override({f'{split}_label_offset': good})
      task_checks.check(task)
      task.override({f'{split}_label_offset': bad})
      with self.assertRaisesRegex(
        ValueError, f'task.{split}_label_offset is {bad}.*need {good}'
      ):
        task_checks.check(task)

  def test_offset_that_the_stock_task_would_lose_is_refused(self):
    task = fixtures.experiment(enabled=False).task
    task_checks.check(task)
    task.train_label_offset = 1
    with self.assertRaisesRegex(ValueError, 'task.train_label_offset is 1'):
      task_checks.check(task)

  def test_two_smoothings_are_refused(self):
    task = exp_factory.get_exp_config('harmonized_resnet_imagenet').task
    task_checks.check(task)
    self.assertEqual(exp_cfg.label_smoothing(task), 0.1)
    task.mapped_data.mixup_and_cutmix.label_smoothing = 0.2
    with self.assertRaisesRegex(ValueError, 'label_smoothing is 0.2'):
      task_checks.check(task)


class RecipeTest(tf.test.TestCase):
  def test_is_the_papers(self):
    config = exp_factory.get_exp_config('harmonized_resnet_imagenet')
    task, trainer = config.task, config.trainer
    self.assertEqual(task.model.backbone.resnet.model_id, 50)
    self.assertEqual(task.train_data.global_batch_size, 512)
    self.assertTrue(task.train_data.aug_rand_hflip)
    self.assertGreater(task.mapped_data.mixup_and_cutmix.mixup_alpha, 0)
    self.assertTrue(task.harmonization.enabled)
    optimizer = trainer.optimizer_config.optimizer
    self.assertEqual((optimizer.type, optimizer.sgd.momentum), ('sgd', 0.9))
    self.assertEqual(trainer.train_steps, 90 * (1281167 // 512))

  def test_learning_rate_is_as_drawn_at_every_epoch(self):
    trainer = exp_factory.get_exp_config('harmonized_resnet_imagenet').trainer
    epoch = trainer.train_steps // 90
    rate = optimization.OptimizerFactory(
      trainer.optimizer_config
    ).build_learning_rate()

    def cosine(epochs):
      pieces = (
        (0, 30, 0.3, 0.03),
        (30, 50, 0.03, 0.003),
        (50, 80, 0.003, 0.0003),
        (80, 91, 0.0003, 0.0),
      )
      begin, end, high, low = next(p for p in pieces if epochs < p[1])
      part = (epochs - begin) / (end - begin)
      return low + (high - low) * (1 + np.cos(np.pi * part)) / 2

    for epochs in np.arange(0.0, 90.25, 0.25):
      expected = cosine(epochs) if epochs >= 5 else cosine(5) * epochs / 5
      found = float(rate(tf.constant(int(epochs * epoch), tf.int64)))
      self.assertTrue(np.isfinite(found), epochs)
      self.assertAllClose(found, expected, rtol=2e-3, atol=1e-7)
    self.assertTrue(np.isfinite(float(rate(trainer.train_steps))))


if __name__ == '__main__':
  tf.test.main()
