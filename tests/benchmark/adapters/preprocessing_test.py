# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the named preprocessings."""

from absl.testing import parameterized
import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import preprocessing
from testing import released


def _pixels():
  pixels = np.random.default_rng(0).uniform(0, 255, (2, 5, 6, 3))
  return pixels.astype(np.float32)


class PreprocessingTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters('caffe', 'tf', 'torch')
  def test_equals_keras(self, name):
    expected = tf_keras.applications.imagenet_utils.preprocess_input(
      _pixels(), mode=name
    )
    result = preprocessing.get(name).apply(_pixels())
    self.assertAllClose(result, expected, rtol=1e-5, atol=1e-4)
    self.assertEqual(result.dtype, np.float32)

  def test_torch_equals_model_garden_and_the_release(self):
    expected = preprocess_ops.normalize_image(
      tf.constant(_pixels()),
      offset=preprocess_ops.MEAN_RGB,
      scale=preprocess_ops.STDDEV_RGB,
    )
    result = preprocessing.get('torch').apply(_pixels())
    self.assertAllClose(result, expected, rtol=1e-5, atol=1e-5)
    theirs = released.load('models.preprocess').preprocess_input(_pixels())
    self.assertAllClose(result, theirs, rtol=1e-5, atol=1e-5)

  def test_plain_scales(self):
    self.assertAllEqual(preprocessing.get('none').apply(_pixels()), _pixels())
    self.assertAllClose(
      preprocessing.get('unit').apply(_pixels()), _pixels() / 255
    )

  @parameterized.parameters(*preprocessing.NAMED)
  def test_does_not_modify_its_argument(self, name):
    pixels = _pixels()
    preprocessing.get(name).apply(pixels)[:] = 0
    self.assertAllEqual(pixels, _pixels())

  @parameterized.parameters(
    (tf_keras.applications.vgg16, 'caffe'),
    (tf_keras.applications.resnet_v2, 'tf'),
    (tf_keras.applications.densenet, 'torch'),
    (tf_keras.applications.convnext, 'none'),
  )
  def test_recognizes_the_preprocessings_of_keras(self, module, name):
    found = preprocessing.recognize(
      preprocessing.of_function('other', module.preprocess_input)
    )
    self.assertEqual(found.name, name)

  def test_keeps_an_unknown_function(self):
    found = preprocessing.recognize(
      preprocessing.of_function('other', lambda x: x - 7)
    )
    self.assertEqual(found.name, 'other')
    self.assertAllClose(found.apply(_pixels()), _pixels() - 7)

  def test_scaled_by_the_same_numbers_is_recognized(self):
    same = preprocessing.scaled(
      'timm', (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    self.assertEqual(preprocessing.recognize(same).name, 'torch')
    half = preprocessing.scaled('timm', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    self.assertEqual(preprocessing.recognize(half).name, 'tf')
    other = preprocessing.scaled('timm', (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    self.assertEqual(
      str(preprocessing.recognize(other)),
      'timm: (RGB / 255 - (0.48, 0.46, 0.41)) / (0.27, 0.26, 0.28)',
    )

  def test_an_unknown_name_lists_the_known(self):
    with self.assertRaisesRegex(ValueError, 'caffe: .*unit: RGB / 255'):
      preprocessing.get('imagenet')


if __name__ == '__main__':
  tf.test.main()
