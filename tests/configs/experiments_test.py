# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the registered experiments, and of gin on the stock ones."""

# Bazel: tags = ["training"]
# Bazel: data = [":golden"]

import dataclasses
import os

from absl.testing import parameterized
from official.core import exp_factory
from official.core import train_utils
from official.vision.configs import image_classification as stock
import tensorflow as tf
import tf_keras
import yaml

import gin
from official_ext.harmonization import experiment_parser
from official_ext.harmonization.configs import backbones
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.configs import task_checks
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures

_GOLDEN = os.path.join(os.path.dirname(__file__), 'golden')
_NAMES = sorted(name.removesuffix('.yaml') for name in os.listdir(_GOLDEN))


@dataclasses.dataclass
class Subclass(stock.ImageClassificationTask):
  """Another project's task, whose fields may have another meaning."""


@exp_factory.register_config_factory('never_seen')
def never_seen():
  config = stock.image_classification_imagenet_deit_pretrain()
  config.task.train_data.color_jitter = 0.3
  return config


@exp_factory.register_config_factory('never_seen_converted')
def never_seen_converted():
  return exp_cfg.convert(stock.image_classification_imagenet())


@exp_factory.register_config_factory('never_seen_subclass')
def never_seen_subclass():
  config = stock.image_classification_imagenet()
  config.task = Subclass(train_data=config.task.train_data)
  return config


def _registered():
  return sorted(exp_factory._REGISTERED_CONFIGS)


def _stock_names():
  """Names of all registered experiments whose task is exactly the stock one."""
  tasks = {n: exp_factory.get_exp_config(n).task for n in _registered()}
  return [
    n
    for n, task in tasks.items()
    if type(task) is stock.ImageClassificationTask
  ]


def _parse(experiment, **flags):
  return experiment_parser.parse_configuration(
    train_utils.ParseConfigOptions(experiment, [], tpu=None, **flags)
  )


def _part_of(found, wanted):
  """Returns the parts of `found` whose keys are in `wanted`."""
  if not isinstance(wanted, dict) or not isinstance(found, dict):
    return found
  return {k: _part_of(found[k], v) for k, v in wanted.items()}


class ExperimentsTest(tf.test.TestCase, parameterized.TestCase):
  def tearDown(self):
    super().tearDown()
    gin.clear_config()

  @parameterized.parameters(_NAMES)
  def test_resolves_to_its_golden(self, name):
    with open(os.path.join(_GOLDEN, f'{name}.yaml')) as f:
      golden = yaml.safe_load(f)
    found = _parse(name).as_dict()
    self.assertEqual(_part_of(found, golden), golden)

  def test_each_has_a_golden(self):
    self.assertEqual(
      [n for n in _registered() if n.startswith('harmonized_')], _NAMES
    )

  @parameterized.parameters(set(_NAMES) - {'harmonized_resnet_imagenet'})
  def test_keeps_the_stock_recipe(self, name):
    found = _parse(name).as_dict()
    expected = exp_factory.get_exp_config(
      name.removeprefix('harmonized_')
    ).as_dict()
    expected['trainer']['validation_steps'] = -1
    self.assertEqual(_part_of(found, expected), expected)

  def test_gin_reaches_each(self):
    gin.parse_config('harmonize.weight = 3.5')
    for name in _NAMES:
      config = exp_factory.get_exp_config(name)
      self.assertEqual(config.task.harmonization.weight, 3.5, name)


class GinTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    gin.parse_config(
      [
        'harmonize.enabled = True',
        "harmonize.input_path = 'a'",
        "harmonize.validation_input_path = 'b'",
        'harmonize.label_offset = 1',
      ]
    )

  def tearDown(self):
    super().tearDown()
    gin.clear_config()

  def test_harmonizes_every_stock_experiment(self):
    names = _stock_names()
    self.assertContainsSubset(
      [
        'never_seen',
        'resnet_imagenet',
        'maxvit_imagenet',
        'revnet_imagenet',
        'efficientnet_imagenet',
        'image_classification',
      ],
      names,
    )
    for name in names:
      # This experiment leaves the network to the user.
      sized = 'task.model.num_classes=4,task.model.input_size=[32,32,3]'
      bare = name == 'image_classification'
      config = _parse(name, params_override=sized if bare else None)
      self.assertTrue(config.task.harmonization.enabled, name)
      self.assertEqual(config.task.mapped_data.input_path, 'a', name)
      expected = exp_factory.get_exp_config(name).as_dict()
      expected['trainer']['validation_steps'] = -1
      if bare:
        expected['task']['model'].update(num_classes=4, input_size=[32, 32, 3])
      self.assertEqual(_part_of(config.as_dict(), expected), expected, name)

  def test_images_with_maps_are_augmented_as_those_without(self):
    task = _parse('never_seen').task
    for field in ('aug_type', 'mixup_and_cutmix'):
      found = getattr(task.mapped_data, field).as_dict()
      self.assertEqual(found, getattr(task.train_data, field).as_dict())
    self.assertEqual(task.mapped_data.color_jitter, 0.3)

  def test_reaches_experiments_that_do_not_call_harmonize(self):
    task = _parse('never_seen_converted').task
    self.assertTrue(task.harmonization.enabled)
    self.assertEqual(task.mapped_data.input_path, 'a')

  def test_a_subclass_is_refused_by_name(self):
    with self.assertRaisesRegex(
      ValueError,
      rf'{__name__}\.Subclass; expected the stock',
    ):
      _parse('never_seen_subclass')

  def test_any_of_them_can_take_our_backbone(self):
    override = (
      'task.model.backbone.type=keras_application,'
      'task.model.backbone.keras_application.name=VGG16'
    )
    task = _parse('never_seen', params_override=override).task
    self.assertIsInstance(task.model.backbone, backbones.Backbone)
    self.assertEqual(task.model.backbone.get().name, 'VGG16')
    # An experiment with other backbones keeps them.
    task = _parse('maxvit_imagenet').task
    self.assertEqual(task.model.backbone.get().model_name, 'maxvit-tiny')


class FirstStepTest(tf.test.TestCase):
  """Families that `double_backward_test` does not test, and a zero head."""

  def _first_step(self, name, backbone, run, size=32):
    """Returns a step's losses; all variables must be finite after it."""
    task = exp_factory.get_exp_config(name).task
    task.override(
      {
        'model': {
          'num_classes': fixtures.CLASSES,
          'input_size': [size, size, 3],
          'backbone': backbone,
        },
        'mapped_data': {'label_offset': 0},
        'mapped_validation_data': {'label_offset': 0},
      }
    )
    task_checks.check(task)
    tf_keras.utils.set_random_seed(0)
    task = task_lib.HarmonizedImageClassificationTask(task)
    model = task.build_model()
    metrics = task.build_metrics(training=True)
    optimizer = tf_keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    images = tf.random.stateless_normal([4, size, size, 3], [1, 2])
    batch = {
      'labels': tf.one_hot(tf.range(4) % fixtures.CLASSES, fixtures.CLASSES),
      'heatmaps': tf.random.stateless_uniform([2, size, size], [3, 4]) ** 3,
      'heatmap_weights': tf.ones([2]),
      'valid': tf.ones([4]),
    }
    if not task.task_config.losses.soft_labels:
      batch['labels'] = tf.argmax(batch['labels'], axis=-1)
    run(task.train_step)((images, batch), model, optimizer, metrics)
    for variable in model.trainable_variables:
      self.assertAllEqual(
        tf.math.is_finite(variable), tf.ones(variable.shape, bool)
      )
    return {m.name: float(m.result()) for m in metrics}

  def test_vit_whose_head_is_zero_at_first(self):
    # Its saliency is zero, where the loss must have a finite gradient.
    self.assertEqual(
      exp_factory.get_exp_config(
        'harmonized_deit_imagenet_pretrain'
      ).task.model.kernel_initializer,
      'zeros',
    )
    found = self._first_step(
      'harmonized_deit_imagenet_pretrain',
      {'vit': {'model_name': 'vit-ti16', 'representation_size': 192}},
      run=lambda step: step,
    )
    self.assertAllClose(found['classification_loss'], tf.math.log(4.0))
    self.assertGreaterEqual(found['harmonization_loss'], 0.0)

  def test_maxvit(self):
    found = self._first_step(
      'harmonized_maxvit_imagenet',
      {
        'maxvit': {
          'stem_hsize': (8,),
          'num_blocks': (1,),
          'hidden_size': (16,),
          'window_size': 4,
          'grid_size': 4,
          'head_size': 8,
          'representation_size': 16,
          'survival_prob': 0.9,
          'block_type': ('maxvit',),
        }
      },
      run=tf.function,
    )
    self.assertGreater(found['harmonization_loss'], 0.0)


if __name__ == '__main__':
  tf.test.main()
