# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the pyramid and of the release's blur."""

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy import signal
import tensorflow as tf

from official_ext.harmonization.ops import blur
from official_ext.harmonization.ops import pyramid
from testing import released

_ROW = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0


def _coarser(maps):
  """Computes the next level with scipy; 'SAME' starts at 1 or 0."""
  kernel = np.outer(_ROW, _ROW)
  row, column = ((size + 1) % 2 for size in maps.shape[1:])
  return np.stack(
    [
      signal.correlate2d(m, kernel, mode='same')[row::2, column::2]
      for m in maps
    ]
  )


class PyramidTest(tf.test.TestCase):
  def test_levels_equal_scipy(self):
    for size in ((16, 16), (15, 13), (7, 10)):
      maps = np.random.default_rng(0).normal(size=(2,) + size)
      levels = pyramid.gaussian_pyramid(tf.constant(maps), 4)
      self.assertLen(levels, 4)
      self.assertAllEqual(levels[0], maps)
      for fine, coarse in zip(levels, levels[1:]):
        expected = _coarser(fine.numpy())
        self.assertEqual(coarse.shape, expected.shape)
        self.assertAllClose(coarse, expected, rtol=1e-12, atol=1e-12)

  def test_goes_on_at_one_pixel(self):
    levels = pyramid.gaussian_pyramid(tf.ones([1, 2, 2]), 4)
    self.assertEqual([level.shape[1] for level in levels], [2, 1, 1, 1])

  def test_takes_arrays_and_lists(self):
    maps = np.arange(36).reshape(1, 6, 6)
    expected = pyramid.gaussian_pyramid(tf.constant(maps, tf.float32), 3)
    for array in (
      maps,
      maps.astype(np.uint8),
      maps.astype('>f4').astype('f4'),
      maps.tolist(),
    ):
      for ours, theirs in zip(pyramid.gaussian_pyramid(array, 3), expected):
        self.assertAllEqual(ours, theirs)

  def test_refuses_no_levels_and_wrong_rank(self):
    with self.assertRaisesRegex(ValueError, 'levels is 0'):
      pyramid.gaussian_pyramid(tf.ones([1, 2, 2]), 0)
    with self.assertRaises(ValueError):
      pyramid.gaussian_pyramid(tf.ones([1, 2, 2, 1]), 2)

  def test_equals_released(self):
    theirs = released.load('training.pyramid')
    maps = tf.random.stateless_normal([2, 24, 24], [1, 2])
    for a, b in zip(
      pyramid.gaussian_pyramid(maps, 6),
      theirs.pyramidal_representation(maps[..., tf.newaxis], 5),
    ):
      self.assertAllClose(a, b[..., 0], rtol=1e-5, atol=1e-6)


class BlurTest(tf.test.TestCase):
  def test_equals_scipy(self):
    maps = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 1))
    columns = np.arange(-5, 5)
    kernel = np.exp(-(columns[None, :] ** 2 + columns[::-1, None] ** 2) / 200.0)
    # SAME with an even kernel pads one less before than after.
    padded = np.pad(maps[0, ..., 0], ((4, 5), (4, 5)))
    expected = signal.correlate2d(padded, kernel / kernel.sum(), mode='valid')
    result = blur.blur_maps(tf.constant(maps, tf.float32), [64, 64])
    self.assertAllClose(result[0, ..., 0], expected, rtol=1e-4)

  def test_equals_released(self):
    theirs = released.load('common.blur')
    maps = tf.random.stateless_uniform([1, 256, 256, 1], [1, 2], 0.0, 255.0)
    expected = tf.image.resize(maps[0], (64, 64))
    expected = theirs.gaussian_blur(expected, theirs.gaussian_kernel())
    expected = tf.image.resize(expected, (224, 224))
    self.assertAllClose(
      blur.blur_maps(maps, [224, 224])[0], expected, rtol=1e-5, atol=1e-4
    )

  def _moved(self, kernel):
    """Returns the shift of a map's centre of mass, (y, x) in pixels of 224."""
    maps = np.zeros((1, 256, 256, 1), np.float32)
    maps[0, 124:132, 124:132] = 1.0
    found = blur.blur_maps(maps, [224, 224], kernel=kernel)[0, ..., 0]
    return np.array(ndimage.center_of_mass(found.numpy())) - 111.5

  def test_the_released_kernel_is_off_centre_and_the_centred_one_is_not(self):
    offsets = np.arange(-5, 5)
    weights = np.exp(-(offsets**2) / 200.0)
    # A tap at k reads k - 4 cells ahead, so the map moves back by as much.
    x = -(weights * np.arange(-4, 6)).sum() / weights.sum()
    y = -(weights[::-1] * np.arange(-4, 6)).sum() / weights.sum()
    self.assertAllClose(self._moved('released'), [y * 3.5, x * 3.5], atol=1e-3)
    self.assertAllClose([y * 3.5, x * 3.5], [-1.6, -1.9], atol=0.02)
    self.assertAllClose(self._moved('centred'), [0.0, 0.0], atol=1e-4)

  def test_the_centred_kernel_is_the_mean_of_the_four_reflections(self):
    maps = tf.random.stateless_uniform([1, 64, 64, 1], [1, 2])
    expected = 0.0
    for axes in ([], [1], [2], [1, 2]):
      expected += (
        tf.reverse(blur.blur_cells(tf.reverse(maps, axes)), axes) / 4.0
      )
    self.assertAllClose(blur.blur_cells(maps, 'centred'), expected, atol=1e-5)

  def test_single_fixations_keep_their_mass_where_all_pixels_are_seen(self):
    rng = np.random.default_rng(0)
    maps = np.zeros((64, 256, 256, 1), np.float32)
    for one, (y, x) in zip(maps, rng.integers(8, 248, (64, 2))):
      one[y, x] = 1.0
    mass = {
      kind: blur.to_cells(maps, kind).numpy().sum((1, 2, 3)) * 16.0
      for kind in blur.RESIZES
    }
    self.assertAllClose(mass['antialias'], np.ones(64), atol=1e-4)
    # Two of four pixels per axis.
    self.assertGreater((mass['released'] == 0.0).mean(), 0.6)
    # Pillow's bilinear resizing is antialiased too.
    smooth = rng.random((90, 130)).astype(np.float32)
    expected = Image.fromarray(smooth).resize((64, 64), Image.BILINEAR)
    self.assertAllClose(
      blur.to_cells(smooth[np.newaxis, ..., np.newaxis], 'antialias')[
        0, ..., 0
      ],
      expected,
      atol=1e-5,
    )


if __name__ == '__main__':
  tf.test.main()
