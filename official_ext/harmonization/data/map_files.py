"""Reads files of images and maps."""

import os

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.data import npz
from official_ext.harmonization.data import pictures

IMAGE_TYPES = ('.jpg', '.jpeg', '.png')
MAP_TYPES = ('.png', '.npy', '.npz', '.jpg', '.jpeg')


def read_file(*parts: str) -> bytes:
  """Returns the bytes of a file."""
  with tf.io.gfile.GFile(os.path.join(*parts), 'rb') as f:
    return f.read()


def read_map(path: str) -> np.ndarray:
  """Reads a map from a grey picture, an npy or an npz with `heatmap`.

  Args:
    path: of the file.

  Returns:
    The map as it stands there.

  Raises:
    ValueError: it cannot be read.
  """
  if path.lower().endswith('.npy'):
    return npz.single(read_file(path), path)
  if path.lower().endswith('.npz'):
    with tf.io.gfile.GFile(path, 'rb') as f:
      return npz.load(f, path, {'heatmap': True})['heatmap']
  return pictures.decode_map(read_file(path))
