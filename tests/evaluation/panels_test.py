# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of panels."""

import os

import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization.evaluation import panels


def _left_margin_ink(picture):
  """Counts dark pixels left of the red image, in the upper and lower half."""
  red = np.all(picture == [255, 0, 0], axis=-1)
  # One pixel beside the image may be blended with its edge.
  margin = picture[:, : np.flatnonzero(red.any(0))[0] - 1]
  rows = picture.shape[0] // 2
  return [np.sum(np.all(m < 128, -1)) for m in (margin[:rows], margin[rows:])]


class PanelsTest(tf.test.TestCase):
  def test_display_undoes_model_gardens_normalization(self):
    pixels = tf.random.stateless_uniform([8, 9, 3], [1, 2], maxval=255.0)
    normalized = preprocess_ops.normalize_image(
      pixels, preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB
    )
    self.assertAllClose(
      panels.to_display(normalized.numpy()[np.newaxis])[0],
      pixels / 255.0,
      atol=1e-5,
    )

  def test_shows_what_it_is_given(self):
    red = np.zeros((2, 6, 6, 3))
    red[0, ..., 0] = 1.0
    step = np.stack([np.triu(np.ones((6, 6)))] * 2)
    picture = panels.render(red, {'human map': step})
    self.assertEqual(picture.dtype, np.uint8)
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
    quarters = [
      picture[:rows, :columns],
      picture[rows:, :columns],
      picture[:rows, columns:],
    ]

    def share(quarter, color):
      return np.mean(np.all(quarter == color, axis=-1))

    for quarter, color in zip(quarters, ([255, 0, 0], [0, 0, 0], [0, 0, 3])):
      self.assertGreater(share(quarter, color), 0.2)
    self.assertEqual(share(quarters[1], [255, 0, 0]), 0.0)
    captioned = panels.render(red, {'human map': step}, ['one', ''])
    self.assertEqual(_left_margin_ink(picture), [0, 0])
    upper, lower = _left_margin_ink(captioned)
    self.assertGreater(upper, 20)
    self.assertEqual(lower, 0)

  def test_one_hot_pixel_does_not_blacken_a_map(self):
    ramp = np.linspace(0, 1, 400).reshape(1, 20, 20)
    hot = ramp.copy()
    hot[0, 0, 0] = 1000.0
    black = np.zeros((1, 20, 20, 3))
    plain, picture = (panels.render(black, {'map': m}) for m in (ramp, hot))
    half = picture.shape[1] // 2
    self.assertNear(picture[:, half:].mean(), plain[:, half:].mean(), 2.0)

  def test_both_signs_are_shown(self):
    signed = np.zeros((1, 10, 10))
    signed[0, :, :4], signed[0, :, 6:] = -2.0, 1.0
    picture = panels.render(np.zeros((1, 10, 10, 3)), {'map': signed})
    red, _, blue = np.moveaxis(
      picture[:, picture.shape[1] // 2 :].astype(int), -1, 0
    )
    self.assertGreater(np.mean(blue > red + 50), 0.2)
    self.assertGreater(np.mean(red > blue + 50), 0.2)

  def test_written_pictures(self):
    folder = self.get_temp_dir()
    pixels = np.random.default_rng(0).random((2, 6, 7, 3))
    picture = panels.render(pixels, {'a': pixels[..., 0]})
    panels.write_png(os.path.join(folder, 'memory.png'), picture)
    panels.draw(os.path.join(folder, 'file.png'), pixels, {'a': pixels[..., 0]})
    self.assertCountEqual(os.listdir(folder), ['memory.png', 'file.png'])
    for name in ('memory.png', 'file.png'):
      with open(os.path.join(folder, name), 'rb') as f:
        self.assertAllEqual(tf.io.decode_png(f.read(), channels=3), picture)


if __name__ == '__main__':
  tf.test.main()
