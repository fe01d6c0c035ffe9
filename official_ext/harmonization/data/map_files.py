"""Finds and reads files of images and maps."""

import os
from typing import Iterator, Sequence

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.data import npz
from official_ext.harmonization.data import pictures

IMAGE_TYPES = ('.jpg', '.jpeg', '.png')
MAP_TYPES = ('.png', '.npy', '.npz', '.jpg', '.jpeg')


def files(folder: str, types: Sequence[str]) -> Iterator[tuple[str, int]]:
  """Finds files in a folder and below.

  Args:
    folder: to look in.
    types: endings, in lower case.

  Yields:
    Path below the folder, with / between its parts, and size in bytes.
  """
  for path, _, found in tf.io.gfile.walk(folder):
    for file in found:
      if file.lower().endswith(tuple(types)):
        whole = os.path.join(path, file)
        yield (os.path.relpath(whole, folder).replace(os.sep, '/'),
               tf.io.gfile.stat(whole).length)


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
  if path.endswith('.npy'):
    return npz.single(read_file(path), path)
  if path.endswith('.npz'):
    with tf.io.gfile.GFile(path, 'rb') as f:
      return npz.load(f, path, {'heatmap': True})['heatmap']
  return pictures.decode_map(read_file(path))
