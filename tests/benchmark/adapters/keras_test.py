# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of Keras files and of tf_keras.applications."""

# Bazel: size = "large"
# Bazel: tags = ["networks"]

import json
import os
import tempfile
from unittest import mock
import zipfile

from absl.testing import parameterized
import h5py
import keras
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import keras_applications
from official_ext.harmonization.benchmark.adapters import spec
from tests.benchmark.adapters import networks


def _keras3(activation=None, lambdas=False):
  keras.utils.set_random_seed(0)
  layers = keras.layers
  return keras.Sequential(
    [
      keras.Input((networks.SIZE, networks.SIZE, 3)),
      layers.Rescaling(1 / 127.5, -1),
      layers.Conv2D(6, 3, strides=2, activation='swish'),
      layers.GlobalAveragePooling2D(),
      layers.Dense(5, activation=activation),
    ]
    + ([layers.Lambda(lambda x: 2 * x, name='twice')] if lambdas else [])
  )


class KerasFileTest(tf.test.TestCase, parameterized.TestCase):
  def _save(self, model, name='net.h5'):
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)
    model.save(path)
    return path

  def _check(self, adapter, model):
    """Checks logits and gradients against a network without softmax."""
    inputs = adapter.preprocess(networks.pixels())
    logits, gradients = adapter.logits_and_gradients(inputs, networks.labels())
    wanted = networks.expected(model, inputs, networks.labels())
    self.assertAllClose(logits, wanted[0], rtol=1e-5, atol=1e-6)
    self.assertAllClose(gradients, wanted[1], rtol=1e-5, atol=1e-7)

  @parameterized.product(ending=['h5', 'keras'], activation=[None, 'softmax'])
  def test_file_of_tf_keras(self, ending, activation):
    path = self._save(networks.network(activation=activation), f'net.{ending}')
    with self.assertLogs(level='WARNING') as logs:
      adapter = spec.build(f'keras:{path}')
    self.assertRegex(''.join(logs.output), 'assuming preprocessing=torch')
    self.assertRegex(adapter.preprocessing, 'torch: .*assumed')
    self.assertEqual((adapter.name, adapter.input_size), ('net', (16, 16)))
    self._check(adapter, networks.network())

  @parameterized.product(ending=['h5', 'keras'], activation=[None, 'softmax'])
  def test_file_of_keras_3(self, ending, activation):
    path = self._save(_keras3(activation), f'net.{ending}')
    with self.assertNoLogs(level='WARNING'):
      adapter = spec.build(f'keras:{path}')
    self.assertEqual(adapter.preprocessing, '16x16 pixels, none: RGB in 0..255')
    self._check(adapter, _keras3())

  def test_softmax_as_a_layer_and_in_a_nested_model(self):
    plain = networks.network()
    for layer in (
      tf_keras.layers.Softmax(),
      tf_keras.layers.Activation('softmax'),
    ):
      inner = tf_keras.Sequential([networks.network(), layer])
      outer = tf_keras.Sequential(
        [tf_keras.Input((networks.SIZE, networks.SIZE, 3)), inner]
      )
      path = self._save(outer)
      self._check(spec.build(f'keras:{path}?preprocessing=tf'), plain)

  def test_options(self):
    model = networks.network(size=(None, None))
    path = self._save(model)
    adapter = spec.build(
      f'keras:{path}?preprocessing=caffe&input_size=12x16&name=VGG16'
    )
    self.assertEqual((adapter.name, adapter.input_size), ('VGG16', (12, 16)))
    images = networks.pixels(size=(12, 16))
    self.assertAllClose(
      adapter.preprocess(images),
      tf_keras.applications.vgg16.preprocess_input(images.copy()),
      atol=1e-4,
    )
    with self.assertRaisesRegex(ValueError, 'expected .input_size=224'):
      spec.build(f'keras:{path}')
    path = self._save(networks.network())
    with self.assertRaisesRegex(ValueError, 'only images of 16x16 pixels'):
      spec.build(f'keras:{path}?input_size=32')

  def test_code_in_a_file_is_not_run(self):
    legacy = networks.network()
    legacy.add(tf_keras.layers.Lambda(lambda x: 2 * x, name='twice'))
    for model in (legacy, _keras3(lambdas=True)):
      for ending in ('h5', 'keras'):
        path = self._save(model, f'net.{ending}')
        with self.assertRaisesRegex(ValueError, "'twice' is a Lambda, wh"):
          spec.build(f'keras:{path}')

  def test_code_in_a_nested_model_is_not_run(self):
    layers = tf_keras.layers
    inner = tf_keras.Sequential([layers.Lambda(lambda x: 2 * x, name='twice')])
    model = tf_keras.Sequential(
      [
        tf_keras.Input((16, 16, 3)),
        layers.TimeDistributed(inner),
        layers.Flatten(),
        layers.Dense(5),
      ]
    )
    path = self._save(model)
    with self.assertRaisesRegex(ValueError, "'twice' is a Lambda"):
      spec.build(f'keras:{path}')

  def test_files_that_are_not_models(self):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    weights = os.path.join(folder, 'net_weights.h5')
    networks.network().save_weights(weights)
    noise = os.path.join(folder, 'noise.h5')
    with open(noise, 'wb') as f:
      f.write(b'no HDF5')
    archive = os.path.join(folder, 'other.keras')
    with zipfile.ZipFile(archive, 'w') as f:
      f.writestr('a', 'b')
    for path, message in (
      (weights, 'no model configuration'),
      (noise, 'neither a .keras archive nor HDF5'),
      (archive, 'without the files of Keras'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        spec.build(f'keras:{path}')
    with self.assertRaisesRegex(FileNotFoundError, 'none.h5 does not exist'):
      spec.build(f'keras:{folder}/none.h5')

  def test_an_unknown_class_is_named(self):
    path = self._save(networks.network())
    with h5py.File(path, 'r+') as f:
      config = json.loads(f.attrs['model_config'])
      config['config']['layers'][1]['class_name'] = 'MyConv'
      config['config']['layers'][1]['registered_name'] = 'mine>MyConv'
      f.attrs['model_config'] = json.dumps(config)
    with self.assertRaisesRegex(ValueError, 'cannot be opened: .*MyConv'):
      spec.build(f'keras:{path}')

  def test_a_second_input_is_refused(self):
    layers = tf_keras.layers
    inputs = [layers.Input((16, 16, 3)), layers.Input((16, 16, 3))]
    output = layers.Flatten()(layers.Add()(inputs))
    path = self._save(tf_keras.Model(inputs, output))
    with self.assertRaisesRegex(ValueError, 'one batch of images'):
      spec.build(f'keras:{path}')


def _features(version):
  """The input of a functional model, and features of it."""
  version.utils.set_random_seed(0)
  image = version.Input((networks.SIZE, networks.SIZE, 3))
  x = version.layers.Rescaling(1 / 255.0)(image)
  x = version.layers.Conv2D(6, 3, strides=2, activation='swish')(x)
  return image, version.layers.GlobalAveragePooling2D()(x)


class HeadsTest(tf.test.TestCase, parameterized.TestCase):
  """Removal of softmax and sigmoid from a network's end."""

  def _open(self, model, options='', ending='keras'):
    path = os.path.join(
      tempfile.mkdtemp(dir=self.get_temp_dir()), f'net.{ending}'
    )
    model.save(path)
    return spec.build(f'keras:{path}{options}')

  def _check(self, adapter, image, logits):
    model = type(image).__module__.startswith('tf_keras')
    model = (tf_keras if model else keras).Model(image, logits)
    inputs = adapter.preprocess(networks.pixels())
    found = adapter.logits_and_gradients(inputs, networks.labels())
    wanted = networks.expected(model, inputs, networks.labels())
    self.assertAllClose(found[0], wanted[0], rtol=1e-5, atol=1e-6)
    self.assertAllClose(found[1], wanted[1], rtol=1e-5, atol=1e-7)

  def test_squashing_layers_are_removed(self):
    layers = {2: tf_keras.layers, 3: keras.layers}
    ends = [
      (2, lambda z: layers[2].Activation('sigmoid')(z)),
      (2, lambda z: tf.nn.log_softmax(z)),
      (2, lambda z: tf.math.log_sigmoid(z)),
      (2, lambda z: tf.math.log(tf.nn.softmax(z))),
      (3, lambda z: keras.ops.log_softmax(z)),
      (3, lambda z: keras.ops.log_sigmoid(z)),
      (3, lambda z: keras.ops.log(keras.ops.softmax(z))),
      # A float32 activation after the softmax, as in mixed precision.
      (
        3,
        lambda z: layers[3].Activation('linear', dtype='float32')(
          layers[3].Dropout(0.5)(layers[3].Softmax()(z))
        ),
      ),
    ]
    for version, end in ends:
      of = tf_keras if version == 2 else keras
      image, features = _features(of)
      logits = of.layers.Dense(5)(features)
      self._check(self._open(of.Model(image, end(logits))), image, logits)

  @parameterized.parameters('log_softmax', 'log_sigmoid', 'hard_sigmoid')
  def test_an_activation_is_removed(self, activation):
    image, features = _features(keras)
    dense = keras.layers.Dense(5, activation=activation)
    model = keras.Model(image, dense(features))
    adapter = self._open(model)
    logits = keras.ops.matmul(features, dense.kernel) + dense.bias
    self._check(adapter, image, logits)

  def test_a_shared_layer_keeps_its_softmax_elsewhere(self):
    for version in (tf_keras, keras):
      image, features = _features(version)
      softmax = version.layers.Softmax()
      logits = version.layers.Dense(5)(softmax(features))
      for ending in ('keras', 'h5'):
        model = version.Model(image, softmax(logits))
        self._check(self._open(model, ending=ending), image, logits)

  def test_ends_that_cannot_be_removed_are_refused(self):
    layers = keras.layers
    image, features = _features(keras)
    logits = layers.Dense(5)(features)
    ends = {
      'log of softmax': keras.ops.log(keras.ops.softmax(logits) + 1e-7),
      'ends with softmax': layers.Average()(
        [layers.Softmax()(logits), layers.Dense(5, 'softmax')(features)]
      ),
      'a single number': layers.Dense(1, activation='sigmoid')(features),
      'cannot be removed': layers.Softmax(axis=0)(logits),
    }
    for message, end in ends.items():
      with self.assertRaisesRegex(ValueError, f'net.keras: .*{message}.*expec'):
        self._open(keras.Model(image, end))

  def test_outputs(self):
    for version in (tf_keras, keras):
      image, features = _features(version)
      logits = version.layers.Dense(5)(features)
      probabilities = version.layers.Softmax(name='probabilities')(logits)
      several = version.Model(image, [features, probabilities])
      self._check(self._open(several, '?output=probabilities'), image, logits)
      with self.assertRaisesRegex(
        ValueError, "no output 'logits'; .*probabilities"
      ):
        self._open(several)

  def test_outputs_of_one_shared_layer(self):
    for version in (tf_keras, keras):
      image, features = _features(version)
      head = version.layers.Dense(5, name='head')
      if version is keras:  # Also a nested model that is called twice.
        inner = keras.Input(features.shape[1:])
        head = keras.Model(inner, head(inner), name='head')
      ends = [head(features), head(2 * features)]
      model = version.Model(image, ends)
      for i, logits in enumerate(ends):
        self._check(self._open(model, f'?output={i}'), image, logits)
      with self.assertRaisesRegex(
        ValueError,
        'one of head.*, head[._]1'
        if version is tf_keras
        else r'one of head\.0, head\.1',
      ):
        self._open(model)

  def test_squashing_before_further_layers_is_refused(self):
    for version in (tf_keras, keras):
      layers = version.layers
      for activation, *after in (
        ('softmax', layers.Rescaling(100.0)),
        ('softmax', layers.Rescaling(1.0, -0.5), layers.Reshape((5,))),
        ('sigmoid', layers.Rescaling(2.0, -1.0)),
        ('tanh',),
      ):
        image, x = _features(version)
        x = layers.Dense(5, activation=activation)(x)
        for layer in after:
          x = layer(x)
        with self.assertRaisesRegex(ValueError, f'ends with {activation}'):
          self._open(version.Model(image, x))
      # A gate before further weights is part of the network.
      image, x = _features(version)
      gate = layers.Dense(6, activation='sigmoid')(x)
      logits = layers.Dense(5)(layers.Multiply()([x, gate]))
      self._check(self._open(version.Model(image, logits)), image, logits)

  def test_an_input_of_integers_is_refused(self):
    for version in (tf_keras, keras):
      model = version.Sequential(
        [
          version.Input((16, 16, 3), dtype='uint8'),
          version.layers.Rescaling(1 / 255.0),
          version.layers.Flatten(),
          version.layers.Dense(5),
        ]
      )
      with self.assertRaisesRegex(ValueError, 'input is uint8, .*float32'):
        self._open(model)


class PreprocessingTest(tf.test.TestCase):
  """Recognition of layers before the first weights."""

  def _open(self, version, *layers):
    model = version.Sequential(
      [
        version.Input((networks.SIZE, networks.SIZE, 3)),
        *layers,
        version.layers.Conv2D(4, 3),
        version.layers.Flatten(),
        version.layers.Dense(5),
      ]
    )
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), 'net.keras')
    model.save(path)
    return spec.build(f'keras:{path}').preprocessing.partition(', ')[2]

  def test_follows_the_path_to_the_first_weights(self):
    for version in (tf_keras, keras):
      layers = version.layers
      # The augmentation of TensorFlow's tutorial, and rescaling behind it.
      augmentation = version.Sequential(
        [layers.RandomFlip('horizontal'), layers.RandomRotation(0.1)]
      )
      with self.assertNoLogs('absl', level='WARNING'):
        self.assertRegex(
          self._open(version, augmentation, layers.Rescaling(1 / 255.0)),
          '^none: RGB in 0..255$',
        )
        self.assertRegex(
          self._open(
            version,
            version.Sequential(
              [
                version.Sequential(
                  [layers.Resizing(20, 20), layers.Rescaling(1 / 127.5, -1)]
                )
              ]
            ),
          ),
          '^none',
        )
      # Statistics of pixels in 0..1, in 0..255, and after rescaling.
      small = dict(mean=[0.485, 0.456, 0.406], variance=[0.052, 0.05, 0.051])
      large = dict(
        mean=[123.0, 116.0, 103.0], variance=[3400.0, 3200.0, 3300.0]
      )
      self.assertRegex(
        self._open(version, layers.Normalization(**small)), '^unit: RGB / 2'
      )
      self.assertRegex(
        self._open(version, layers.Normalization(**large)), '^none'
      )
      self.assertRegex(
        self._open(
          version, layers.Rescaling(1 / 255.0), layers.Normalization(**small)
        ),
        '^none',
      )
      self.assertRegex(
        self._open(version, layers.Rescaling(2.0, -1.0)), '^unit'
      )
      self.assertRegex(self._open(version, layers.Rescaling(0.5, 0.5)), '^tf')

  def test_later_layers_are_not_preprocessing(self):
    for version in (tf_keras, keras):
      layers = version.layers
      base = version.Sequential(
        [layers.Dense(3, kernel_initializer='identity')]
      )
      base.trainable = False
      for first in (
        [base, layers.Rescaling(1 / 255.0)],
        [layers.BatchNormalization(), layers.Rescaling(1 / 255.0)],
        [layers.ZeroPadding2D(), layers.RandomFlip()],
        [layers.Rescaling(-1.0, 1.0)],
        [layers.Activation('tanh')],
        [layers.UnitNormalization()],
        [layers.Normalization(mean=0.0, variance=1.0)],
      ):
        with self.assertLogs('absl', level='WARNING'):
          self.assertRegex(self._open(version, *first), r'^torch.*\(assumed\)$')

  def test_operations_on_pixels(self):
    for preprocess, found in (
      (keras.applications.resnet50.preprocess_input, 'none'),
      (keras.applications.mobilenet_v2.preprocess_input, 'none'),
      (lambda x: (x - 0.45) / 0.22, 'unit'),
    ):
      image = keras.Input((networks.SIZE, networks.SIZE, 3))
      x = keras.layers.Conv2D(4, 3)(preprocess(image))
      model = keras.Model(
        image, keras.layers.Dense(5)(keras.layers.Flatten()(x))
      )
      path = os.path.join(
        tempfile.mkdtemp(dir=self.get_temp_dir()), 'net.keras'
      )
      model.save(path)
      self.assertRegex(spec.build(f'keras:{path}').preprocessing, f', {found}:')


class KerasApplicationsTest(tf.test.TestCase):
  def test_has_its_own_preprocessing_and_logits(self):
    adapter = spec.build(
      'keras_app:MobileNet?classes=7&input_size=32', weights='none'
    )
    self.assertEqual((adapter.name, adapter.num_classes), ('MobileNet', 7))
    self.assertEqual(adapter.preprocessing, '32x32 pixels, tf: RGB / 127.5 - 1')
    inputs = adapter.preprocess(networks.pixels(2, (32, 32)))
    logits, gradients = adapter.logits_and_gradients(
      inputs, networks.labels(2, 7)
    )
    self.assertGreater(np.abs(logits.sum(axis=-1) - 1).min(), 1e-3)
    self.assertGreater(np.abs(gradients).max(), 0)

  def test_weights_of_a_file(self):
    create = tf_keras.applications.MobileNetV3Small
    model = create(
      weights=None,
      classes=7,
      input_shape=(32, 32, 3),
      classifier_activation=None,
    )
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), 'w.h5')
    model.save_weights(path)
    adapter = spec.build(
      f'keras_app:MobileNetV3Small?classes=7&input_size=32&weights={path}'
    )
    self.assertRegex(adapter.preprocessing, 'none: ')
    inputs = adapter.preprocess(networks.pixels(2, (32, 32)))
    self.assertAllClose(
      adapter.logits(inputs), model(inputs), rtol=1e-4, atol=1e-6
    )

  def test_asks_for_imagenet_weights_without_the_softmax(self):
    calls = []

    def vgg16(
      weights='imagenet',
      classes=1000,
      input_shape=None,
      classifier_activation='softmax',
    ):
      calls.append((weights, classes, input_shape, classifier_activation))
      return networks.network(classes=classes)

    vgg16.__module__ = tf_keras.applications.VGG16.__module__
    with mock.patch.object(tf_keras.applications, 'VGG16', vgg16):
      adapter = spec.build('keras_app:VGG16')
    self.assertEqual(calls, [('imagenet', 1000, None, None)])
    self.assertRegex(adapter.preprocessing, 'caffe: ')

  def test_a_failed_download_is_reported(self):
    def vgg16(**unused_options):
      raise Exception('URL fetch failure')  # As Keras does.

    with mock.patch.object(tf_keras.applications, 'VGG16', vgg16):
      with self.assertRaisesRegex(ValueError, 'keras_app:VGG16: URL fetch'):
        spec.build('keras_app:VGG16')

  def test_every_network_accepts_the_arguments(self):
    self.assertContainsSubset(
      [
        'VGG16',
        'ResNet50',
        'ResNet50V2',
        'EfficientNetB0',
        'ConvNeXtTiny',
        'NASNetMobile',
        'Xception',
      ],
      keras_applications.names(),
    )

  def test_unknown_names_list_the_known(self):
    with self.assertRaisesRegex(ValueError, 'network is .VGG.; .*ResNet50V2'):
      spec.build('keras_app:VGG')
    with self.assertRaisesRegex(FileNotFoundError, 'none.h5 does not exist'):
      spec.build('keras_app:VGG16?weights=/none.h5')
    with self.assertRaisesRegex(ValueError, 'keras_app:VGG16.*at least 32'):
      spec.build('keras_app:VGG16?weights=none&input_size=8')


if __name__ == '__main__':
  tf.test.main()
