# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that functional models of every kind open in all Keras versions."""

# Bazel: tags = ["subprocess"]

import importlib
import os
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import keras_models
from official_ext.harmonization.benchmark.adapters import spec
from testing import optional
from tests.benchmark.adapters import keras_variants
from tests.benchmark.adapters import networks

# Tolerance for logits, which are several hundred.
_TOLERANCE = 1e-4


class FunctionalModelsTest(tf.test.TestCase):
  def _folder(self):
    return tempfile.mkdtemp(dir=self.get_temp_dir())

  def test_files_open_with_the_same_logits(self):
    of_keras_2 = (
      keras_variants.nested,
      keras_variants.shared_model,
      keras_variants.dict_input,
      keras_variants.mixed_float16,
      keras_variants.operations,
    )
    for version, variants in (
      (tf_keras, of_keras_2),
      (keras, keras_variants.ALL),
    ):
      for path, wanted in keras_variants.write(
        version, self._folder(), variants
      ):
        with self.subTest(version=version.__version__, path=path):
          self.assertLess(
            keras_variants.largest_difference(path, wanted), _TOLERANCE
          )

  def test_files_of_the_oldest_keras_3(self):
    """Files are written and opened by it, and opened by the installed one."""
    folder = self._folder()
    path = [optional.folder('keras'), os.getcwd(), *sys.path]
    result = subprocess.run(
      [sys.executable, '-m', keras_variants.__name__, folder],
      check=False,
      capture_output=True,
      text=True,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, path))},
    )
    self.assertEqual(result.returncode, 0, result.stderr[-2000:])
    version, *lines = result.stdout.splitlines()
    self.assertEqual(version, '3.10.0')
    self.assertLen(lines, 2 * len(keras_variants.ALL) - 2)
    for line in lines:
      name, difference = line.split()
      with self.subTest(name=name):
        self.assertLess(float(difference), _TOLERANCE)
        if name.endswith('.h5'):
          continue  # The layers are the same.
        file = os.path.join(folder, name)
        self.assertLess(
          keras_variants.largest_difference(file, np.load(f'{file}.npy')),
          _TOLERANCE,
        )

  def test_gradients_of_a_mapping_of_inputs_and_outputs(self):
    for version in (tf_keras, keras):
      version.utils.set_random_seed(0)
      image = version.Input(keras_variants.SHAPE, name='image')
      x = version.layers.Conv2D(4, 3, activation='swish')(image)
      scores = version.layers.Dense(5)(version.layers.Flatten()(x))
      path = os.path.join(self._folder(), 'net.keras')
      version.Model({'image': image}, {'logits': scores, 'map': x}).save(path)
      adapter = spec.build(f'keras:{path}?preprocessing=tf')
      inputs, labels = (
        adapter.preprocess(networks.pixels()),
        networks.labels(),
      )
      found = adapter.logits_and_gradients(inputs, labels)
      wanted = networks.expected(version.Model(image, scores), inputs, labels)
      self.assertAllClose(found[0], wanted[0], rtol=1e-5, atol=1e-5)
      self.assertAllClose(found[1], wanted[1], rtol=1e-4, atol=1e-6)

  def test_several_inputs_are_refused_by_name(self):
    for version in (tf_keras, keras):
      inputs = {
        'photo': version.Input((16, 16, 3), name='photo'),
        'age': version.Input((1,), name='age'),
      }
      flat = version.layers.Flatten()(inputs['photo'])
      output = version.layers.Dense(5)(
        version.layers.Concatenate()([flat, inputs['age']])
      )
      for structure in (inputs, list(inputs.values())):
        path = os.path.join(self._folder(), 'net.keras')
        version.Model(structure, output).save(path)
        with self.assertRaisesRegex(
          ValueError, 'has the inputs (photo, age|age, photo); expected one'
        ):
          spec.build(f'keras:{path}')

  def test_layers_that_keras_does_not_register(self):
    """ConvNeXt's, whose .h5 tf_keras writes and does not open."""
    convnext = importlib.import_module('tf_keras.src.applications.convnext')
    image = tf_keras.Input((16, 16, 3))
    x = tf_keras.layers.Conv2D(4, 3)(image)
    x = convnext.StochasticDepth(0.1)(convnext.LayerScale(0.5, 4)(x))
    model = tf_keras.Model(
      image, tf_keras.layers.Dense(5)(tf_keras.layers.Flatten()(x))
    )
    path = os.path.join(self._folder(), 'net.h5')
    model.save(path)
    self.assertEqual(
      keras_variants.largest_difference(path, keras_variants.logits(model)), 0
    )

  def test_files_that_keras_cannot_read_back_are_refused(self):
    path = os.path.join(self._folder(), 'net.h5')
    keras_variants.operations(keras).save(path)
    with self.assertRaisesRegex(
      ValueError, r"net.h5, written by Keras .*'GetItem'.*Save it as .keras"
    ):
      keras_models.load(path)


if __name__ == '__main__':
  tf.test.main()
