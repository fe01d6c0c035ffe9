# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of control maps."""

import io

from absl.testing import parameterized
import numpy as np
from PIL import Image
from scipy import ndimage
from scipy import stats
import tensorflow as tf

from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark.adapters import base
from tests import samples

_IMAGE_MAPS = ('centre', *controls.FROM_IMAGE)


def _images(count=3, size=28, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


class ControlsTest(parameterized.TestCase):
  def test_every_control_has_a_description(self):
    self.assertEqual(set(controls.NAMES), set(controls.DESCRIPTIONS))

  @parameterized.parameters(*_IMAGE_MAPS)
  def test_shape_dtype_and_no_dependence_on_the_batch(self, name):
    images = _images(size=20)
    found = controls.maps(name, images, 28)
    self.assertEqual(found.shape, (3, 28, 28))
    self.assertEqual(found.dtype, np.float32)
    for i in range(3):
      np.testing.assert_array_equal(
        controls.maps(name, images[i : i + 1], 28)[0], found[i]
      )

  def test_centre_is_minus_the_distance_for_every_image(self):
    found = controls.maps('centre', _images(size=3), 3)
    root = -np.sqrt(2)
    np.testing.assert_allclose(
      found,
      np.tile([[root, -1, root], [-1, 0, -1], [root, -1, root]], (3, 1, 1)),
      rtol=1e-6,
    )

  def test_sobel_of_a_ramp_and_against_its_kernel(self):
    ramp = np.zeros((1, 6, 6, 3), np.float32)
    ramp[0] = np.arange(6)[None, :, None]
    # The kernel's weights sum to 4 on each side, at a distance of 2.
    np.testing.assert_allclose(
      controls.maps('sobel', ramp, 6)[0, 1:-1, 1:-1], 8
    )
    images = _images()
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    for image, found in zip(images, controls.maps('sobel', images, 28)):
      grey = image.mean(-1)
      x, y = (ndimage.correlate(grey, k) for k in (kernel, kernel.T))
      np.testing.assert_allclose(found, np.hypot(x, y), rtol=1e-5)

  def test_contrast_is_the_weighted_standard_deviation(self):
    size, sigma = 28, 10 * 28 / 224
    image = _images(1, size)
    impulse = np.zeros((size, size))
    impulse[14, 14] = 1
    weights = ndimage.gaussian_filter(impulse, sigma)
    grey = image[0].mean(-1)
    mean = np.sum(weights * grey)
    expected = np.sqrt(np.sum(weights * (grey - mean) ** 2))
    found = controls.maps('contrast', image, size)[0, 14, 14]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_contrast_of_a_constant_image_is_zero(self):
    image = np.full((1, 28, 28, 3), 77, np.uint8)
    np.testing.assert_array_equal(controls.maps('contrast', image, 28), 0)

  def test_colour_is_the_distance_from_the_border(self):
    image = np.zeros((1, 28, 28, 3), np.uint8)
    image[...] = (10, 20, 30)
    image[0, 10, 12] = (13, 24, 42)  # A distance of 13.
    expected = np.zeros((28, 28))
    expected[10, 12] = 13
    np.testing.assert_allclose(
      controls.maps('colour', image, 28)[0], expected, atol=1e-6
    )
    # The border of 8 pixels of 224 is one pixel of 28.
    image[0, 0] = (10, 20, 31)
    mean = 30 + 28 / (4 * 27)
    np.testing.assert_allclose(
      controls.maps('colour', image, 28)[0, 5, 5], mean - 30, rtol=1e-5
    )

  def test_noise_is_standard_normal_and_follows_the_seed(self):
    found = controls.noise(1, 4, 64)
    self.assertEqual(found.shape, (4, 64, 64))
    self.assertEqual(found.dtype, np.float32)
    self.assertLess(abs(found.mean()), 0.03)
    self.assertLess(abs(found.std() - 1), 0.03)
    np.testing.assert_array_equal(controls.noise(1, 2, 64), found[:2])
    self.assertFalse(np.array_equal(controls.noise(2, 4, 64), found))

  @parameterized.parameters('mean-map', 'noise', 'unknown')
  def test_maps_that_do_not_come_from_images_are_refused(self, name):
    with self.assertRaisesRegex(ValueError, name):
      controls.maps(name, _images(), 28)

  def test_wrong_shape_is_refused(self):
    with self.assertRaisesRegex(ValueError, r'\(28, 28, 3\)'):
      controls.maps('sobel', _images()[0], 28)


class SamplesTest(parameterized.TestCase):
  """The figures of twenty real pairs, measured independently."""

  # (control, blur in pixels, own, mean over the other images' maps).
  @parameterized.parameters(
    ('centre', 0, 0.753, 0.753),
    ('sobel', 0, 0.111, 0.053),
    ('sobel', 10, 0.307, 0.161),
    ('contrast', 0, 0.366, 0.202),
    ('colour', 0, 0.268, 0.129),
  )
  def test_figures(self, name, sigma, own, shuffled):
    images, human = [], []
    for _, image, drawn in samples.pairs():
      images.append(np.asarray(Image.open(io.BytesIO(image)).convert('RGB')))
      human.append(np.asarray(Image.open(io.BytesIO(drawn)).convert('L')))
    cells = tf.image.resize(
      np.stack(human)[..., np.newaxis], (64, 64), antialias=True
    ).numpy()
    human = base.resize(
      ndimage.gaussian_filter(cells, (0, 3, 3, 0)), (224, 224)
    )[..., 0]
    maps = controls.maps(name, np.stack(images), 224)
    maps = ndimage.gaussian_filter(maps, (0, sigma, sigma))
    ranks = []
    for group in (maps, human):
      ranked = stats.rankdata(group.reshape(len(group), -1), axis=1)
      ranked -= ranked.mean(axis=1, keepdims=True)
      ranks.append(ranked / np.linalg.norm(ranked, axis=1, keepdims=True))
    products = ranks[0] @ ranks[1].T
    count = len(products)
    others = (products.sum() - np.trace(products)) / (count * (count - 1))
    self.assertAlmostEqual(np.trace(products) / count, own, delta=0.005)
    self.assertAlmostEqual(others, shuffled, delta=0.005)


if __name__ == '__main__':
  tf.test.main()
