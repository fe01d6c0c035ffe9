# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Images of a folder with their human maps and class labels."""

import os
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import pairs
from official_ext.harmonization.data.records import class_labels


class ImageFolder:
  """Images, each with an optional human map and an optional class label.

  Attributes:
    folder: that contains the images.
    names: paths of the images below it.
  """

  def __init__(
    self,
    images: str,
    maps: str | None = None,
    *,
    image_suffix: str = '',
    map_suffix: str = '',
    framing: str = 'same',
    labels: str | None = None,
  ):
    """Finds the images and their maps.

    Args:
      images: an image, or a folder of images.
      maps: folder of human maps; a map has the path of its image.
      image_suffix: end of the images' names that the maps' names lack.
      map_suffix: end of the maps' names that the images' names lack.
      framing: what a map shows of its image, see `map_framing.fit`.
      labels: CSV file with the columns image and label.

    Raises:
      ValueError: no image is found, no map belongs to an image, or the labels
        cannot be read.
    """
    self._map_dir = maps or ''
    self._framing = framing
    self._sizes: dict[str, tuple[int, int]] = {}
    self._labels = (
      class_labels.Labels(class_labels.read(labels)) if labels else None
    )
    is_folder = tf.io.gfile.isdir(images)
    folder, name = (images, '') if is_folder else os.path.split(images)
    self.folder = folder or '.'
    exists = tf.io.gfile.exists(images)
    self._maps = {}
    if exists and maps:
      self._maps = self._pairs(image_suffix, map_suffix, log=is_folder)
    if not is_folder:
      self.names = [name] * exists
    elif maps:
      self.names = sorted(self._maps)
    else:
      self.names = [
        image for image, _ in folders.find(self.folder, map_files.IMAGE_TYPES)
      ]
    if not self.names:
      raise ValueError(
        f'--images={images} is neither an image nor a folder of images; '
        f'expected {", ".join(map_files.IMAGE_TYPES)}. Check the path.'
      )
    if maps:
      self._check_maps(image_suffix, map_suffix)

  def _pairs(
    self, image_suffix: str, map_suffix: str, log: bool
  ) -> dict[str, str]:
    """Returns the map of each image in the folder; '' for images without."""
    found = pairs.find(
      self.folder, self._map_dir, image_suffix, map_suffix, log
    ).named.values()
    unused = [pair.map for pair in found if not pair.image]
    if log and unused:
      logging.warning(
        '%d maps in --maps=%s have no image (%s, ...).',
        len(unused),
        self._map_dir,
        unused[0],
      )
    return {pair.image: pair.map for pair in found if pair.image}

  def _check_maps(self, image_suffix: str, map_suffix: str):
    """Checks that some images have maps, and warns if others do not."""
    number = sum(bool(self._maps.get(n)) for n in self.names)
    if not number:
      expected = (
        os.path.splitext(self.names[0])[0].removesuffix(image_suffix)
        + map_suffix
      )
      raise ValueError(
        f'--maps={self._map_dir} has no map with the name of an image; '
        'expected the same path below both folders, such as '
        f'{expected}.png for {self.names[0]}. Rename the maps, or set '
        '--image_suffix and --map_suffix.'
      )
    if number < len(self.names):
      logging.warning(
        '%d of %d images have no map in --maps=%s and are drawn without one.',
        len(self.names) - number,
        len(self.names),
        self._map_dir,
      )

  def pixels(self, name: str, size) -> np.ndarray:
    """Reads an image and resizes it, float32 (h, w, 3), RGB in 0..255."""
    try:
      image = image_codec.decode_image(map_files.read_file(self.folder, name))
    except ValueError as e:
      raise ValueError(f'{os.path.join(self.folder, name)}: {e}.') from None
    self._sizes[name] = image.shape[:2]
    return base.resize(image, size)

  def human_map(self, name: str, size) -> np.ndarray:
    """Reads the human map of an image and resizes it.

    `pixels` must have read the image before, because the map is fitted to the
    image's original size.

    Args:
      name: of the image.
      size: height and width.

    Returns:
      float32 of that size, not negative; all NaN if the image has no map.
    """
    if not self._maps.get(name):
      return np.full(size, np.nan, np.float32)
    path = os.path.join(self._map_dir, self._maps[name])
    try:
      values = pairs.read_map(
        path,
        map_files.read_file(self.folder, name),
        name,
        *self._sizes[name],
        self._framing,
      )
    except ValueError as e:
      raise ValueError(f'{path}: {e}.') from None
    # Bilinear resizing without antialiasing samples two pixels per side: single
    # fixations could vanish if the map shrinks by more than that.
    shrinks = bool(max(np.divide(values.shape, size)) > 2)
    return tf.image.resize(
      values[..., np.newaxis].astype(np.float32), size, antialias=shrinks
    )[..., 0].numpy()

  def contents(
    self, names: list[str], classes: int, digests: identity.Digests
  ) -> dict[str, Any]:
    """Returns digests of images and maps, and labels, for an identity."""
    maps = [self._maps[n] for n in names if self._maps.get(n)]
    return {
      'images': digests.of(
        [os.path.join(self.folder, n) for n in names], names
      ),
      'maps': digests.of([os.path.join(self._map_dir, m) for m in maps], maps)
      if maps
      else None,
      'labels': [self.label(n, classes) for n in names],
    }

  def label(self, name: str, classes: int) -> int | None:
    """Returns the class of an image; None without --labels.

    Args:
      name: of the image.
      classes: number of classes that the network scores.

    Raises:
      ValueError: the image has no label, or not one of the network's classes.
    """
    if self._labels is None:
      return None
    try:
      label = self._labels.of(name)
    except ValueError as e:
      raise ValueError(f'{name}: {e}.') from None
    if label >= classes:
      raise ValueError(
        f'--labels: {name} has class {label}; expected one of the classes that '
        f'the network scores, 0..{classes - 1}. Correct the file.'
      )
    return label
