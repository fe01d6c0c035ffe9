# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of perceptual hashes and of the search for neighbours."""

from unittest import mock

from absl.testing import absltest
import numpy as np
from scipy import ndimage

from official_ext.harmonization.benchmark import perceptual_hash


def _images(count, seed=0):
  """Returns smooth random images, (count, 64, 64)."""
  noise = np.random.default_rng(seed).normal(size=(count, 64, 64))
  smooth = ndimage.gaussian_filter(noise, (0, 2, 2), mode='reflect')
  return np.clip(128 + 400 * smooth, 0, 255)


class HashesTest(absltest.TestCase):
  def test_bits_are_those_of_a_written_out_cosine_transform(self):
    image = _images(1)[0]
    cells = np.pi * (np.arange(64) + 0.5) / 64
    cosines = np.cos(np.arange(16)[:, np.newaxis] * cells)
    # Scaling frequencies 0 to unit norm changes the order of coefficients.
    cosines[0] /= np.sqrt(2)
    low = (cosines @ image @ cosines.T).ravel()
    expected = low > np.median(low[1:])
    codes, _ = perceptual_hash.hashes(image[np.newaxis])
    np.testing.assert_array_equal(np.unpackbits(codes.view(np.uint8)), expected)

  def test_a_flipped_hash_is_that_of_the_flipped_image(self):
    images = _images(4)
    flipped, _ = perceptual_hash.hashes(images, flip=True)
    of_flipped, _ = perceptual_hash.hashes(images[:, :, ::-1])
    self.assertLessEqual(
      perceptual_hash.distances(flipped, of_flipped).max(), 2
    )
    upright, _ = perceptual_hash.hashes(images)
    self.assertGreater(perceptual_hash.distances(flipped, upright).min(), 60)

  def test_copies_are_near_and_other_images_are_not(self):
    images = _images(30)
    codes, _ = perceptual_hash.hashes(images)
    noise = np.random.default_rng(1).normal(0, 4, images.shape)
    for change in (images + noise, 0.7 * images, images**1.2):
      copies, _ = perceptual_hash.hashes(change)
      self.assertLessEqual(
        perceptual_hash.distances(copies, codes).max(),
        perceptual_hash.MOST_DISTANT,
      )
    others = perceptual_hash.distances(codes[:, np.newaxis], codes)
    self.assertGreater(others[~np.eye(30, dtype=bool)].min(), 60)

  def test_images_without_structure_are_named(self):
    rng = np.random.default_rng(0)
    flat = np.full((64, 64), 200.0)
    wave = np.cos(np.pi * 3 * (np.arange(64) + 0.5) / 64)
    images = [
      flat,
      flat + rng.normal(0, 1, flat.shape),
      128 + 90 * np.tile(wave, (64, 1)),  # One frequency only.
      *_images(1),
      # Noise of 8 grey levels has coefficients of 8, whose median is 5.4.
      flat + rng.normal(0, 8, flat.shape),
      flat + rng.normal(0, 4, flat.shape),
    ]
    _, found = perceptual_hash.hashes(np.array(images))
    self.assertEqual(found.tolist(), [False, False, False, True, True, False])

  def test_shape(self):
    with self.assertRaisesRegex(ValueError, r'\(1, 32, 32\); expected'):
      perceptual_hash.hashes(np.zeros((1, 32, 32)))


class NearestTest(absltest.TestCase):
  def test_equals_a_double_loop(self):
    rng = np.random.default_rng(0)
    references = rng.integers(0, 1 << 64, (70, 4), np.uint64)
    references[50] = references[10]  # The first of equals is found.
    queries = rng.integers(0, 1 << 64, (40, 4), np.uint64)
    for i in range(30):
      # Copies with 0, 2, ..., 28, 31, 32, 34, ... other bits, in all words.
      bits = np.unpackbits(references[i + 5].view(np.uint8))
      bits[rng.choice(256, 2 * i + (i == 15), replace=False)] ^= 1
      queries[i] = np.packbits(bits).view(np.uint64)
    index, distance = [], []
    for query in queries:
      all_distances = [
        sum(int(word).bit_count() for word in query ^ reference)
        for reference in references
      ]
      best = int(np.argmin(all_distances))
      near = all_distances[best] <= 31
      index.append(best if near else -1)
      distance.append(all_distances[best] if near else 257)
    with mock.patch.object(perceptual_hash, '_BLOCK', 16):
      found = perceptual_hash.nearest(queries, references)
    np.testing.assert_array_equal(found, (index, distance))
    self.assertEqual(index[:6], [5, 6, 7, 8, 9, 10])
    self.assertEqual((np.array(index) >= 0).sum(), 16)

  def test_counts_without_numpys_function(self):
    words = np.random.default_rng(0).integers(0, 1 << 64, (5, 4), np.uint64)
    expected = perceptual_hash.distances(words, words[0])
    with mock.patch.object(np, 'bitwise_count', create=True):
      del np.bitwise_count
      found = perceptual_hash.distances(words, words[0])
    np.testing.assert_array_equal(found, expected)


if __name__ == '__main__':
  absltest.main()
