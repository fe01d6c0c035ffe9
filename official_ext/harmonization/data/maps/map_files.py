# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads files of images and maps."""

import os

import numpy as np
import tensorflow as tf

from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import npz

IMAGE_TYPES = image_codec.ENDINGS
MAP_TYPES = (*image_codec.ENDINGS, '.npy', '.npz')


def read_file(*parts: str) -> bytes:
  """Returns the bytes of a file."""
  with tf.io.gfile.GFile(os.path.join(*parts), 'rb') as f:
    return f.read()


def read_map(path: str) -> np.ndarray:
  """Reads a map from a grey image, an npy or an npz file with `heatmap`.

  Args:
    path: of the file.

  Returns:
    (H, W), see `image_codec.as_map`.

  Raises:
    ValueError: the file is damaged, or is not a map.
  """
  ending = os.path.splitext(path)[1].lower()
  if ending == '.npy':
    values = npz.single(read_file(path), path)
  elif ending == '.npz':
    with tf.io.gfile.GFile(path, 'rb') as f:
      values = npz.load(f, path, {'heatmap': True})['heatmap']
  else:
    values = image_codec.decode_map(read_file(path))
  return image_codec.as_map(values)
