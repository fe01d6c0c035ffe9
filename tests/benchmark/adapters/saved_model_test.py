# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of SavedModels."""

# Bazel: tags = ["networks"]

import os
import tempfile

from absl.testing import parameterized
import keras
import numpy as np
from official.core import exp_factory
from official.vision.serving import export_saved_model_lib
from official.vision.serving import image_classification
import tensorflow as tf
import tf_keras

from official_ext.harmonization import registry_imports
from official_ext.harmonization.benchmark.adapters import spec
from tests.benchmark.adapters import networks


class SavedModelTest(tf.test.TestCase, parameterized.TestCase):
  def _folder(self):
    return tempfile.mkdtemp(dir=self.get_temp_dir())

  def _check(self, adapter, model):
    inputs = adapter.preprocess(networks.pixels(size=adapter.input_size))
    one_hot = networks.labels()
    logits, gradients = adapter.logits_and_gradients(inputs, one_hot)
    wanted = networks.expected(model, inputs, one_hot)
    self.assertAllClose(logits, wanted[0], rtol=1e-4, atol=1e-6)
    self.assertAllClose(gradients, wanted[1], rtol=1e-4, atol=1e-6)
    self.assertGreater(np.abs(gradients).max(), 0)
    self.assertAllClose(adapter.logits(inputs), logits)
    self.assertEqual(networks.weights_in(adapter), networks.weights_in(model))

  def test_export_of_model_garden(self):
    config = exp_factory.get_exp_config('harmonized_resnet_imagenet')
    model, folder = networks.network(), self._folder()
    tf.train.Checkpoint(model=model).write(os.path.join(folder, 'ckpt'))
    exported = os.path.join(folder, 'exported')
    # A small network in Model Garden's exporter, which builds large ones.
    kwargs = dict(
      params=config,
      batch_size=None,
      input_type='tflite',
      input_image_size=[networks.SIZE, networks.SIZE],
    )
    export_saved_model_lib.export_inference_graph(
      **kwargs,
      checkpoint_path=os.path.join(folder, 'ckpt'),
      export_dir=exported,
      export_saved_model_subdir='saved_model',
      export_module=image_classification.ClassificationModule(
        **kwargs, model=model
      ),
    )
    for path in (exported, os.path.join(exported, 'saved_model')):
      with self.assertNoLogs('absl', level='WARNING'):
        adapter = spec.build(f'saved_model:{path}')
      self.assertRegex(adapter.preprocessing, r'^16x16 pixels, torch: .*\)$')
      self.assertNotIn('assumed', adapter.preprocessing)
    self._check(adapter, model)

  def test_saved_by_tf_keras(self):
    model, folder = networks.network(), self._folder()
    model.save(folder, save_format='tf')
    adapter = spec.build(f'saved_model:{folder}?preprocessing=tf&name=net')
    self.assertEqual((adapter.name, adapter.input_size), ('net', (16, 16)))
    self.assertEqual(adapter.preprocessing, '16x16 pixels, tf: RGB / 127.5 - 1')
    self._check(adapter, model)

  def test_exported_by_keras_3(self):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
      [
        keras.Input((None, None, 3)),
        keras.layers.Conv2D(6, 3, activation='swish'),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(5),
      ]
    )
    folder = self._folder()
    model.export(folder, verbose=False)
    with self.assertLogs(level='WARNING') as logs:
      adapter = spec.build(f'saved_model:{folder}?input_size=12')
    self.assertRegex(''.join(logs.output), 'assuming preprocessing=torch')
    self._check(adapter, model)
    with self.assertRaisesRegex(ValueError, 'expected .input_size'):
      spec.build(f'saved_model:{folder}')

  def _save(self, function, *inputs, holds=None):
    """Saves a function of tensors as a SavedModel."""
    module, folder = tf.Module(), self._folder()
    module.holds = holds
    module.f = tf.function(function, input_signature=inputs)
    tf.saved_model.save(module, folder, signatures={'serve': module.f})
    return folder

  def test_one_batch_size(self):
    model = networks.network()
    for size in (2, 4):
      folder = self._save(
        model, tf.TensorSpec([size, 16, 16, 3], name='x'), holds=model
      )
      adapter = spec.build(f'saved_model:{folder}?signature=serve')
      self._check(adapter, model)

  @parameterized.parameters(
    # The dtypes of Model Garden's image_tensor and image_bytes.
    (tf.TensorSpec([None, 16, 16, 3], tf.uint8, 'x'), 'uint8'),
    (tf.TensorSpec([None], tf.string, 'x'), 'string'),
  )
  def test_an_input_without_gradient_says_how_to_export(self, image, dtype):
    folder = self._save(lambda x: tf.ones([tf.shape(x)[0], 5]), image)
    with self.assertRaisesRegex(
      ValueError, f"'x' is {dtype}, .*--input_type=tflite"
    ):
      spec.build(f'saved_model:{folder}?signature=serve')

  def test_options_choose_signature_and_output(self):
    model = networks.network()
    images = tf.TensorSpec([None, networks.SIZE, networks.SIZE, 3], name='x')
    folder = self._save(
      lambda x: {'a': model(x), 'b': tf.nn.softmax(model(x))},
      images,
      holds=model,
    )
    prefix = f'saved_model:{folder}?preprocessing=unit'
    with self.assertRaisesRegex(ValueError, "'serving_default'.*one of serve"):
      spec.build(prefix)
    with self.assertRaisesRegex(ValueError, "output 'logits'; .*a, b"):
      spec.build(f'{prefix}&signature=serve')
    with self.assertRaisesRegex(ValueError, 'probabilities'):
      spec.build(f'{prefix}&signature=serve&output=b')
    for output in ('a', '0'):
      self._check(
        spec.build(f'{prefix}&signature=serve&output={output}'), model
      )

  def test_inputs_of_16_and_64_bits(self):
    model = networks.network()
    for dtype in (tf.float16, tf.bfloat16, tf.float64):
      folder = self._save(
        lambda x: model(tf.cast(x, tf.float32)),
        tf.TensorSpec([None, 16, 16, 3], dtype, name='x'),
        holds=model,
      )
      adapter = spec.build(f'saved_model:{folder}?signature=serve')
      inputs = adapter.preprocess(networks.pixels())
      found = adapter.logits_and_gradients(inputs, networks.labels())
      rounded = tf.cast(tf.cast(inputs, dtype), tf.float32).numpy()
      wanted = networks.expected(model, rounded, networks.labels())
      self.assertAllClose(found[0], wanted[0], rtol=1e-4, atol=1e-6)
      self.assertAllClose(
        found[1], wanted[1], rtol=0.02, atol=1e-3 * np.abs(wanted[1]).max()
      )

  @parameterized.parameters(
    (tf.nn.log_softmax, 'log_softmax'),
    (tf.sigmoid, 'sigmoid'),
    (tf.math.log_sigmoid, 'log_sigmoid'),
    (lambda z: tf.math.log(tf.nn.softmax(z) + 1e-7), 'log of softmax'),
    (lambda z: tf.constant([2.0]) * tf.nn.softmax(z) - 1, 'softmax'),
    (tf_keras.activations.hard_sigmoid, 'hard_sigmoid'),
    (keras.activations.hard_sigmoid, 'relu6'),
  )
  def test_squashing_ends_in_the_graph_are_refused(self, squash, name):
    model = networks.network()
    folder = self._save(
      lambda x: squash(model(x)),
      tf.TensorSpec([None, 16, 16, 3], name='x'),
      holds=model,
    )
    with self.assertRaisesRegex(ValueError, f'.it ends with {name}'):
      spec.build(f'saved_model:{folder}?signature=serve')

  def test_normalization_inside_is_recognized(self):
    for version in (tf_keras, keras):
      layers = version.layers
      for first, found in (
        ([layers.Rescaling(1 / 255.0)], 'none'),
        (
          [
            layers.Normalization(
              mean=[0.485, 0.456, 0.406], variance=[0.052, 0.05, 0.051]
            )
          ],
          'unit',
        ),
        ([layers.ZeroPadding2D()], 'torch'),
      ):
        model, folder = (
          version.Sequential(
            [
              version.Input((16, 16, 3)),
              *first,
              layers.Conv2D(4, 3),
              layers.Flatten(),
              layers.Dense(5),
            ]
          ),
          self._folder(),
        )
        if version is keras:
          model.export(folder, verbose=False)
        else:
          model.save(folder, save_format='tf')
        adapter = spec.build(f'saved_model:{folder}')
        self.assertRegex(adapter.preprocessing, f', {found}:')
        self.assertEqual('assumed' in adapter.preprocessing, found == 'torch')
    model = networks.network()
    folder = self._save(
      lambda x: model(x / 127.5 - 1),
      tf.TensorSpec([2, 16, 16, 3], name='x'),
      holds=model,
    )
    adapter = spec.build(f'saved_model:{folder}?signature=serve')
    self.assertRegex(adapter.preprocessing, ', none:')

  def test_active_augmentation_in_an_export_is_refused(self):
    model = keras.Sequential(
      [
        keras.Input((16, 16, 3)),
        keras.layers.RandomFlip('horizontal'),
        keras.layers.Conv2D(4, 3),
        keras.layers.Flatten(),
        keras.layers.Dense(5),
      ]
    )
    folder = self._folder()
    model.export(folder, verbose=False)
    with self.assertRaisesRegex(ValueError, 'give different logits'):
      spec.build(f'saved_model:{folder}?preprocessing=unit')

  def test_batch_statistics_are_refused(self):
    model = networks.network()
    for size in (None, 2):
      folder = self._save(
        lambda x: model(x, training=True),
        tf.TensorSpec([size, 16, 16, 3], name='x'),
        holds=model,
      )
      with self.assertRaisesRegex(ValueError, 'statistics of the batch'):
        spec.build(f'saved_model:{folder}?signature=serve')

  def test_inputs_that_are_not_images(self):
    folder = self._save(
      lambda x, y: {'z': x + y},
      tf.TensorSpec([2], name='x'),
      tf.TensorSpec([2], name='y'),
    )
    with self.assertRaisesRegex(ValueError, 'the inputs x, y'):
      spec.build(f'saved_model:{folder}?signature=serve')
    folder = self._save(
      lambda x: {'z': x + 1}, tf.TensorSpec([None, 3], name='x')
    )
    with self.assertRaisesRegex(ValueError, r"'x' has shape \(None, 3\)"):
      spec.build(f'saved_model:{folder}?signature=serve')

  def test_a_folder_without_a_model(self):
    with self.assertRaisesRegex(FileNotFoundError, 'has no saved_model.pb'):
      spec.build(f'saved_model:{self._folder()}')


if __name__ == '__main__':
  tf.test.main()
