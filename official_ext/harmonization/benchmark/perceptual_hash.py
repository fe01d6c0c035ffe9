# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Perceptual hashes: images that differ only in coding or size are neighbours.

The hash of an image is the signs of its 16x16 lowest frequencies: luminance is
averaged to 64x64, transformed by a discrete cosine transform, and each of the
256 lowest coefficients is compared with their median. This is the pHash of
Zauner ("Implementation and benchmarking of perceptual image hash functions",
2010) with the 256 bits of PDQ (Facebook, 2019); 64 bits confuse too many
unrelated images. docs/benchmark.md has the measured distances.

  codes, is_structured = perceptual_hash.hashes(thumbnails)
  index, distance = perceptual_hash.nearest(codes, training_codes)
"""

from concurrent import futures
import os

import numpy as np
from scipy import fft

# Height and width of thumbnails, and of their lowest frequencies.
SIDE, _LOW = 64, 16
# Part of the names of stored hashes; increase it when hashes change.
VERSION = 1
# Copies of one image differ in at most this many of 256 bits.
MOST_DISTANT = 31
# The smallest median absolute deviation of the coefficients, in grey levels
# times 64. Below it, coding changes more than a tenth of the bits.
LEAST_STRUCTURE = 4.0
_WORDS = _LOW * _LOW // 64
_BLOCK = 1 << 15
_ONES = np.array([i.bit_count() for i in range(1 << 16)], np.uint8)


def hashes(
  thumbnails: np.ndarray, *, flip: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the hashes of images.

  Args:
    thumbnails: luminance in 0..255, any real dtype, (B, 64, 64).
    flip: whether to hash the images flipped left to right.

  Returns:
    Codes, uint64 (B, 4), and whether the image has enough structure, bool (B,).
    In constant and very smooth images, most coefficients are close to their
    median, so that noise decides on the bits.

  Raises:
    ValueError: the shape is wrong.
  """
  thumbnails = np.asarray(thumbnails, np.float64)
  if thumbnails.ndim != 3 or thumbnails.shape[1:] != (SIDE, SIDE):
    raise ValueError(
      f'thumbnails: their shape is {thumbnails.shape}; expected '
      f'(B, {SIDE}, {SIDE}).'
    )
  low = np.asarray(fft.dctn(thumbnails, axes=(1, 2), norm='ortho'))
  low = low[:, :_LOW, :_LOW]
  if flip:
    # A cosine of odd frequency is odd about the centre.
    low = low * np.where(np.arange(_LOW) % 2, -1, 1)
  low = low.reshape(-1, _LOW * _LOW)
  # The first, the mean of the image, is always large.
  above = low - np.median(low[:, 1:], axis=1, keepdims=True)
  is_structured = np.median(abs(above[:, 1:]), axis=1) >= LEAST_STRUCTURE
  return np.packbits(above > 0, axis=1).view(np.uint64), is_structured


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Counts the bits in which codes differ.

  Args:
    a: uint64 (..., 4).
    b: uint64, of a shape that broadcasts to that of `a`.

  Returns:
    Hamming distances in 0..256, int64 (...).
  """
  return _count(a ^ b).sum(axis=-1, dtype=np.int64)


def _count(words: np.ndarray) -> np.ndarray:
  """Counts the ones in each word, uint8."""
  if hasattr(np, 'bitwise_count'):  # From NumPy 2.
    return np.bitwise_count(words)
  parts = np.ascontiguousarray(words).view(np.uint16)
  ones = _ONES[parts].reshape(*words.shape, 4)
  return ones.sum(axis=-1, dtype=np.uint8)


def nearest(
  queries: np.ndarray, references: np.ndarray, most: int = MOST_DISTANT
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest reference of each query.

  All pairs are compared, in threads: 1,000 queries and a million references
  take a few seconds.

  Args:
    queries: codes, uint64 (Q, 4).
    references: codes, uint64 (R, 4).
    most: the largest distance of a neighbour.

  Returns:
    The index of the reference, the first of equally near ones, or -1; and its
    distance, or 257. Both int64 (Q,).
  """
  count = len(queries)
  index = np.full(count, -1, np.int64)
  distance = np.full(count, 64 * _WORDS + 1, np.int64)

  def search(start):
    words = np.ascontiguousarray(references[start : start + _BLOCK].T)
    found = []
    for i, query in enumerate(queries):
      # Half of the bits exclude nearly all references.
      half = _count(words[0] ^ query[0]) + _count(words[1] ^ query[1])
      near = np.flatnonzero(half <= most)
      if len(near):
        whole = distances(words[:, near].T, query)
        best = int(whole.argmin())
        if whole[best] <= most:
          found.append((i, start + int(near[best]), int(whole[best])))
    return found

  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    # In the order of the blocks, so that the first of equals wins.
    for found in pool.map(search, range(0, len(references), _BLOCK)):
      for i, j, d in found:
        if d < distance[i]:
          index[i], distance[i] = j, d
  return index, distance
