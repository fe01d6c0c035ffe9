# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the networks of `tf_keras.applications` as backbones."""

# Bazel: tags = ["networks"]

import importlib
import os
from unittest import mock

from absl.testing import parameterized
import numpy as np
from official.vision.ops import preprocess_ops
from official.vision.serving import export_saved_model_lib
import tensorflow as tf
import tf_keras

from official_ext.harmonization.configs import backbones
from official_ext.harmonization.modeling import keras_application
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures

_MODULES = 'tf_keras.src.applications.'


def _module(name):
  """Returns the module that defines a network of `tf_keras.applications`."""
  return importlib.import_module(
    getattr(tf_keras.applications, name).__module__
  )


def _resnet(module, **options):
  return module.resnet.ResNet(
    lambda x: module.resnet.stack2(x, 8, 2, name='conv2'),
    True,
    True,
    'resnet50v2',
    **options,
  )


def _efficientnet(module, **options):
  return module.EfficientNet(
    1.0,
    1.0,
    224,
    model_name='efficientnetb0',
    blocks_args=module.DEFAULT_BLOCKS_ARGS[:2],
    **options,
  )


def _convnext(module, **options):
  return module.ConvNeXt(
    [1] * 4, [8] * 4, model_name='convnext_tiny', **options
  )


# Keras's own blocks, but few of them, since tracing a second-order step of
# the whole networks takes most of a minute each.
_SHALLOW = {
  'ResNet50V2': _resnet,
  'EfficientNetB0': _efficientnet,
  'ConvNeXtTiny': _convnext,
}


def _shallow(name):
  """Replaces a network by one of few blocks."""
  module = _module(name)

  def build(**options):
    return _SHALLOW[name](module, **options)

  build.__module__ = module.__name__
  return mock.patch.object(tf_keras.applications, name, build)


def _task(name, size=32, classes=1000, **fields):
  """Returns a harmonized task with a network of `tf_keras.applications`."""
  task = fixtures.experiment(size=size, batch_size=2).task
  task.override(
    {
      'model': {
        'num_classes': classes,
        'backbone': {
          'type': 'keras_application',
          'keras_application': {'name': name, 'weights': ''},
        },
      },
      'losses': {'l2_weight_decay': 0.0},
    }
  )
  task.model.backbone.get().override(fields)
  return task_lib.HarmonizedImageClassificationTask(task)


def _application(name, size, weights=None):
  """Returns the network of Keras with weights of similar magnitude."""
  tf_keras.utils.set_random_seed(1)
  network = getattr(tf_keras.applications, name)(
    weights=weights, classifier_activation=None, input_shape=(size, size, 3)
  )
  rng = np.random.default_rng(2)
  for variable in network.weights:
    if not variable.dtype.is_floating:
      continue
    if len(variable.shape) < 2:
      # Scales, offsets, means and variances must differ from their initial
      # values.
      variable.assign(rng.uniform(0.5, 1.5, variable.shape))
  for layer in network.layers:
    if isinstance(layer, tf_keras.layers.Normalization):
      layer.finalize_state()
  return network


def _images(size):
  """Returns an image in 0..255, and as Model Garden feeds it."""
  rgb = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3))
  host = (rgb - preprocess_ops.MEAN_RGB) / preprocess_ops.STDDEV_RGB
  return rgb.astype(np.float32), tf.constant(host, tf.float32)


def _converted(name, rgb):
  """Returns the network's preprocessing of colours, from its NumPy code."""
  return _module(name).preprocess_input(rgb.copy())


class KerasApplicationTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    for name in _SHALLOW:
      self.enterContext(_shallow(name))

  @parameterized.parameters(
    'VGG16', 'ResNet50V2', 'DenseNet121', 'EfficientNetB0'
  )
  def test_images_are_converted_exactly(self, name):
    rgb, host = _images(8)
    expected = _converted(name, rgb)
    found = keras_application.FromModelGardenImages(name)(host)
    self.assertAllClose(
      found, expected, rtol=0.0, atol=1e-6 * np.abs(expected).max()
    )

  @parameterized.parameters(
    'VGG16', 'ResNet50V2', 'EfficientNetB0', 'ConvNeXtTiny'
  )
  def test_equals_the_application_and_takes_a_step(self, name):
    network = _application(name, 32)
    path = os.path.join(self.get_temp_dir(), 'weights.h5')
    network.save_weights(path)
    task = _task(name, weights=path)
    model = task.build_model()
    task.initialize(model)

    rgb, host = _images(32)
    expected = network(_converted(name, rgb), training=False)
    found = model(host, training=False)
    self.assertGreater(np.std(expected), 0.0)
    self.assertAllClose(
      found, expected, rtol=0.0, atol=1e-5 * np.abs(expected).max()
    )
    self._step(task, model, host)

  def _step(self, task, model, images):
    metrics = task.build_metrics(training=True)
    optimizer = tf_keras.optimizers.SGD(1e-4)
    optimizer.build(model.trainable_variables)
    batch = {
      'labels': tf.constant([3, 7]),
      'heatmaps': tf.random.stateless_uniform(images.shape[:3], [3, 4]) ** 3,
      'heatmap_weights': tf.ones([2]),
      'valid': tf.ones([2]),
    }
    before = model.trainable_variables[0].numpy()
    tf.function(task.train_step)((images, batch), model, optimizer, metrics)
    losses = {m.name: float(m.result()) for m in metrics}
    self.assertGreater(losses['harmonization_loss'], 0.0)
    for variable in model.trainable_variables:
      self.assertTrue(np.all(np.isfinite(variable)), variable.name)
    self.assertNotAllClose(
      model.trainable_variables[0], before, rtol=0.0, atol=0.0
    )

  def test_efficientnets_second_scale_is_taken_in(self):
    network = _application('EfficientNetB0', 224)
    path = os.path.join(self.get_temp_dir(), 'imagenet.h5')
    network.save_weights(path)
    with mock.patch(
      _MODULES + 'efficientnet.data_utils.get_file', return_value=path
    ):
      task = _task('EfficientNetB0', weights='imagenet')
      model = task.build_model()
      task.initialize(model)
      # As Keras builds it for its own weights, with a smaller classifier.
      expected = tf_keras.applications.EfficientNetB0(
        weights='imagenet', classifier_activation=None
      )
    features = model.backbone.get_layer('EfficientNetB0')
    stem = features.get_layer('stem_conv_pad')
    reference = expected.get_layer('stem_conv_pad')
    images = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3))
    found = tf_keras.Model(features.input, stem.input)(images)
    wide = np.pad(images, ((0, 0), (0, 192), (0, 192), (0, 0)))
    self.assertAllClose(
      found,
      tf_keras.Model(expected.input, reference.input)(wide)[:, :32, :32],
      rtol=1e-5,
    )

  def test_a_files_second_scale_and_restored_normalization(self):
    plain, scaled = (
      os.path.join(self.get_temp_dir(), f'{name}.h5')
      for name in ('plain', 'scaled')
    )
    variances = []
    _application('EfficientNetB0', 32).save_weights(plain)
    with mock.patch(
      _MODULES + 'efficientnet.data_utils.get_file', return_value=plain
    ):
      tf_keras.applications.EfficientNetB0(
        weights='imagenet', classifier_activation=None
      ).save_weights(scaled)
    for path in (plain, scaled):
      task = _task('EfficientNetB0', weights=path)
      model = task.build_model()
      task.initialize(model)
      features = model.backbone.get_layer('EfficientNetB0')
      (layer,) = (
        layer
        for layer in features.layers
        if isinstance(layer, tf_keras.layers.Normalization)
      )
      variances.append(layer.adapt_variance.numpy())
    self.assertAllClose(
      variances[1] / variances[0], np.ravel(preprocess_ops.STDDEV_NORM)
    )
    images = tf.ones([1, 2, 2, 3])
    run = tf.function(layer)
    before = run(images)
    # As when a checkpoint is restored, after the function was traced.
    layer.adapt_mean.assign_add([1.0, 2.0, 3.0])
    change = [-1.0, -2.0, -3.0] / np.sqrt(variances[1])
    for call in (run, layer):
      self.assertAllClose((call(images) - before)[0, 0, 0], change, rtol=1e-5)

  def test_the_hosts_options_reach_the_layers(self):
    task = _task('MobileNet')
    task.task_config.override(
      {
        'model': {'norm_activation': {'use_sync_bn': True}},
        'losses': {'l2_weight_decay': 1e-3},
      }
    )
    model = task.build_model()
    layers = model.backbone.get_layer('MobileNet').layers
    norms = [
      layer
      for layer in layers
      if isinstance(layer, tf_keras.layers.BatchNormalization)
    ]
    self.assertNotEmpty(norms)
    self.assertTrue(all(layer.synchronized for layer in norms))
    kernels = [
      v
      for v in model.trainable_variables
      if 'kernel' in v.name and 'depthwise' not in v.name
    ]
    expected = sum(5e-4 * tf.reduce_sum(v**2) for v in kernels)
    self.assertAllClose(sum(model.losses), expected, rtol=1e-5)

  def test_is_exported_with_the_state_of_its_normalization(self):
    task = _task('EfficientNetB0')
    model = task.build_model()
    model.backbone.get_layer('EfficientNetB0').get_layer(
      index=2
    ).adapt_mean.assign([0.4, 0.5, 0.6])
    image = _images(32)[1][:1]
    config = fixtures.experiment()
    config.task = task.task_config
    folder = self.get_temp_dir()
    export_saved_model_lib.export_inference_graph(
      input_type='tflite',
      batch_size=1,
      input_image_size=[32, 32],
      params=config,
      export_dir=folder,
      checkpoint_path=tf.train.Checkpoint(model=model).write(folder + '/x'),
    )
    serve = tf.saved_model.load(folder).signatures['serving_default']
    expected = model(image, training=False)
    self.assertGreater(np.std(expected), 0.0)
    self.assertAllClose(serve(inputs=image)['logits'], expected, atol=1e-6)

  def test_other_classes_start_anew(self):
    path = os.path.join(self.get_temp_dir(), 'weights.h5')
    network = _application('MobileNet', 32)
    network.save_weights(path)
    task = _task('MobileNet', classes=10, weights=path)
    model = task.build_model()
    head = model.layers[-1].get_weights()
    task.initialize(model)
    self.assertAllEqual(model.layers[-1].get_weights()[0], head[0])
    features = model.backbone.get_layer('MobileNet')
    self.assertAllEqual(features.get_weights()[0], network.get_weights()[0])

  def test_what_cannot_be_is_named(self):
    with self.assertRaisesRegex(
      ValueError, "keras_application.name is 'VGG61'.*VGG16"
    ):
      _task('VGG61').build_model()
    task = _task('MobileNet', weights='/nowhere.h5')
    model = task.build_model()
    with self.assertRaisesRegex(
      ValueError, "keras_application.weights is '/nowhere.h5'.*imagenet"
    ):
      task.initialize(model)
    config = task.task_config.replace(init_checkpoint='/a/checkpoint')
    with self.assertRaisesRegex(
      ValueError, "init_checkpoint is '/a/checkpoint'"
    ):
      keras_application.initialize(model, config)

  def test_the_stock_backbones_are_left_alone(self):
    task = _task('MobileNet').task_config
    self.assertIsInstance(task.model.backbone, backbones.Backbone)
    task.model.backbone.type = 'resnet'
    keras_application.initialize(None, task)


if __name__ == '__main__':
  tf.test.main()
