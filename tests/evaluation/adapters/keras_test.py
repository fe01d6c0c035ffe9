"""Tests of Keras files and of tf_keras.applications."""

import json
import os
import tempfile
from unittest import mock
import zipfile

from absl.testing import parameterized
import h5py
import keras
import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation.adapters import keras_applications
from official_ext.harmonization.evaluation.adapters import spec
from tests.evaluation.adapters import networks


def _keras3(activation=None, lambdas=False):
  keras.utils.set_random_seed(0)
  layers = keras.layers
  return keras.Sequential([
      keras.Input((networks.SIZE, networks.SIZE, 3)),
      layers.Rescaling(1 / 127.5, -1),
      layers.Conv2D(6, 3, strides=2, activation='swish'),
      layers.GlobalAveragePooling2D(),
      layers.Dense(5, activation=activation),
  ] + ([layers.Lambda(lambda x: 2 * x, name='twice')] if lambdas else []))


class KerasFileTest(tf.test.TestCase, parameterized.TestCase):

  def _save(self, model, name='net.h5'):
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)
    model.save(path)
    return path

  def _check(self, adapter, model):
    """Checks logits and gradients against a twin without softmax."""
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
    self.assertRegex(''.join(logs.output), 'preprocessing=torch is assumed')
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
    for layer in (tf_keras.layers.Softmax(),
                  tf_keras.layers.Activation('softmax')):
      inner = tf_keras.Sequential([networks.network(), layer])
      outer = tf_keras.Sequential(
          [tf_keras.Input((networks.SIZE, networks.SIZE, 3)), inner])
      path = self._save(outer)
      self._check(spec.build(f'keras:{path}?preprocessing=tf'), plain)

  def test_options(self):
    model = networks.network(size=(None, None))
    path = self._save(model)
    adapter = spec.build(f'keras:{path}?preprocessing=caffe&input_size=12x16&'
                         'name=VGG16')
    self.assertEqual((adapter.name, adapter.input_size), ('VGG16', (12, 16)))
    images = networks.pixels(size=(12, 16))
    self.assertAllClose(
        adapter.preprocess(images),
        tf_keras.applications.vgg16.preprocess_input(images.copy()), atol=1e-4)
    with self.assertRaisesRegex(ValueError, 'write .input_size=224'):
      spec.build(f'keras:{path}')
    path = self._save(networks.network())
    with self.assertRaisesRegex(ValueError, 'images of 16x16 pixels alone'):
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
    model = tf_keras.Sequential([
        tf_keras.Input((16, 16, 3)), layers.TimeDistributed(inner),
        layers.Flatten(), layers.Dense(5)])
    path = self._save(model)
    with self.assertRaisesRegex(ValueError, "'twice' is a Lambda"):
      spec.build(f'keras:{path}')

  def test_files_that_are_no_models(self):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    weights = os.path.join(folder, 'net_weights.h5')
    networks.network().save_weights(weights)
    noise = os.path.join(folder, 'noise.h5')
    with open(noise, 'wb') as f:
      f.write(b'no HDF5')
    archive = os.path.join(folder, 'other.keras')
    with zipfile.ZipFile(archive, 'w') as f:
      f.writestr('a', 'b')
    for path, message in ((weights, 'holds weights alone'),
                          (noise, 'neither a .keras archive nor HDF5'),
                          (archive, 'not of Keras')):
      with self.assertRaisesRegex(ValueError, message):
        spec.build(f'keras:{path}')
    with self.assertRaisesRegex(FileNotFoundError, 'none.h5 does not exist'):
      spec.build(f'keras:{folder}/none.h5')

  def test_a_class_that_is_not_known_is_named(self):
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


class KerasApplicationsTest(tf.test.TestCase):

  def test_has_its_own_preprocessing_and_logits(self):
    adapter = spec.build('keras_app:MobileNet?classes=7&input_size=32',
                         weights='none')
    self.assertEqual((adapter.name, adapter.num_classes), ('MobileNet', 7))
    self.assertEqual(adapter.preprocessing, '32x32 pixels, tf: RGB / 127.5 - 1')
    inputs = adapter.preprocess(networks.pixels(2, (32, 32)))
    logits, gradients = adapter.logits_and_gradients(
        inputs, networks.labels(2, 7))
    self.assertGreater(np.abs(logits.sum(axis=-1) - 1).min(), 1e-3)
    self.assertGreater(np.abs(gradients).max(), 0)

  def test_weights_of_a_file(self):
    create = tf_keras.applications.MobileNetV3Small
    model = create(weights=None, classes=7, input_shape=(32, 32, 3),
                   classifier_activation=None)
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), 'w.h5')
    model.save_weights(path)
    adapter = spec.build(
        f'keras_app:MobileNetV3Small?classes=7&input_size=32&weights={path}')
    self.assertRegex(adapter.preprocessing, 'none: ')
    inputs = adapter.preprocess(networks.pixels(2, (32, 32)))
    self.assertAllClose(adapter.logits(inputs), model(inputs), rtol=1e-4,
                        atol=1e-6)

  def test_asks_for_imagenet_weights_without_the_softmax(self):
    calls = []

    def vgg16(weights='imagenet', classes=1000, input_shape=None,
              classifier_activation='softmax'):
      calls.append((weights, classes, input_shape, classifier_activation))
      return networks.network(classes=classes)

    vgg16.__module__ = tf_keras.applications.VGG16.__module__
    with mock.patch.object(tf_keras.applications, 'VGG16', vgg16):
      adapter = spec.build('keras_app:VGG16')
    self.assertEqual(calls, [('imagenet', 1000, None, None)])
    self.assertRegex(adapter.preprocessing, 'caffe: ')

  def test_a_download_that_fails_is_told(self):
    def vgg16(**unused_options):
      raise Exception('URL fetch failure')  # As Keras does.

    with mock.patch.object(tf_keras.applications, 'VGG16', vgg16):
      with self.assertRaisesRegex(ValueError, 'keras_app:VGG16: URL fetch'):
        spec.build('keras_app:VGG16')

  def test_every_network_takes_what_it_is_asked_with(self):
    self.assertContainsSubset(
        ['VGG16', 'ResNet50', 'ResNet50V2', 'EfficientNetB0', 'ConvNeXtTiny',
         'NASNetMobile', 'Xception'], keras_applications.names())

  def test_names_what_there_is(self):
    with self.assertRaisesRegex(ValueError, 'no network VGG: .*ResNet50V2'):
      spec.build('keras_app:VGG')
    with self.assertRaisesRegex(FileNotFoundError, 'none.h5 does not exist'):
      spec.build('keras_app:VGG16?weights=/none.h5')
    with self.assertRaisesRegex(ValueError, 'keras_app:VGG16.*at least 32'):
      spec.build('keras_app:VGG16?weights=none&input_size=8')


if __name__ == '__main__':
  tf.test.main()
