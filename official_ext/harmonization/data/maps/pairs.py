# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Pairs images and maps by their paths."""

import os
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import map_framing


class Pair(NamedTuple):
  """Relative paths of an image and its map; '' if one is missing."""

  image: str
  map: str


class Pairs(NamedTuple):
  """The content of a folder of images and a folder of maps.

  Attributes:
    named: pairs by the common part of their paths (folders and name, without
      suffix and extension, as from `files.normal`), sorted.
    found: path and size of all files.
  """

  named: dict[str, Pair]
  found: list[tuple[str, int]]


def find(
  image_dir: str,
  map_dir: str,
  image_suffix: str = '',
  map_suffix: str = '',
  log: bool = True,
) -> Pairs:
  """Pairs images and maps by their paths below two folders.

  Args:
    image_dir: folder of images.
    map_dir: folder of maps; may be the same folder, or inside it.
    image_suffix: end of an image's name, before the extension, that the name of
      its map lacks, such as '_image'.
    map_suffix: the corresponding end of a map's name, such as '_map'.
    log: whether to log files that are skipped.

  Returns:
    The pairs, including images without a map and maps without an image.

  Raises:
    ValueError: two images or two maps differ only in the extension, or images
      cannot be distinguished from maps.
  """
  same = folders.is_same(image_dir, map_dir)
  images = folders.find(
    image_dir, map_files.IMAGE_TYPES, '' if same else map_dir, log
  )
  maps = folders.find(
    map_dir, map_files.MAP_TYPES, '' if same else image_dir, log and not same
  )
  if same and image_suffix == map_suffix:
    # Otherwise each image would be its own map.
    maps = [m for m in maps if not m[0].lower().endswith(map_files.IMAGE_TYPES)]
    if images and not maps:
      raise ValueError(
        f'{image_dir} holds both images and maps, which cannot be '
        'distinguished; expected names with different ends. Give these with '
        '--image_suffix and --map_suffix, such as _image and _map.'
      )
  by_name, others = {}, []
  for role, found, suffix, other in (
    (0, images, image_suffix, map_suffix),
    (1, maps, map_suffix, image_suffix),
  ):
    for path, _ in found:
      stem = os.path.splitext(path)[0]
      # In one folder the longer suffix decides, since '' ends every name.
      of_other = (
        same
        and other != suffix
        and stem.endswith(other)
        and (len(other) > len(suffix) or not stem.endswith(suffix))
      )
      if of_other or not stem.endswith(suffix):
        others += [] if of_other else [path]
        continue
      name = files.normal(stem[: len(stem) - len(suffix)])
      _add(
        by_name.setdefault(name, ['', '']),
        role,
        path,
        (image_dir, map_dir)[role],
      )
  if others and log:
    logging.warning(
      'Skipped %d files that do not end in --image_suffix=%s or '
      '--map_suffix=%s (%s, ...).',
      len({*others}),
      image_suffix,
      map_suffix,
      others[0],
    )
  return Pairs(
    {name: Pair(*by_name[name]) for name in sorted(by_name)}, images + maps
  )


def images(found: Pairs) -> list[str]:
  """Returns the paths of all images, with or without a map."""
  return [pair.image for pair in found.named.values() if pair.image]


def _add(pair: list[str], role: int, path: str, folder: str):
  """Adds an image (role 0) or a map (role 1) to a pair that lacks it."""
  before = pair[role]
  if before:
    alike = (
      ' (they differ in the Unicode form of their names)'
      if before != path and files.normal(before) == files.normal(path)
      else ''
    )
    raise ValueError(
      f'{folder} holds {before} and {path}{alike}; expected one of them. '
      'Remove one, or distinguish images and maps with --image_suffix and '
      '--map_suffix.'
    )
  pair[role] = path


def read_map(
  path: str,
  image: bytes,
  name: str,
  height: int,
  width: int,
  framing: str = 'same',
) -> np.ndarray:
  """Reads the map of an image, and fits it to the image.

  Args:
    path: of the map's file.
    image: content of the image's file.
    name: of the image, for messages.
    height: of the image as people see it.
    width: of that image.
    framing: what the map shows of its image, see `map_framing.fit`.

  Returns:
    (H, W), see `map_framing.fit`.

  Raises:
    ValueError: the file is not a map, is the image itself, or contradicts the
      framing.
    tf.errors.OpError: it cannot be read.
  """
  if is_same_file(image, path):
    raise ValueError(
      f'the map is the same file as its image {name}, or a copy of it'
    )
  return map_framing.fit(map_files.read_map(path), height, width, framing)


def is_same_file(image: bytes, heatmap: str) -> bool:
  """Whether a map is its own image: the same file, a link to it, or a copy.

  Args:
    image: content of the image's file.
    heatmap: path of the map's file.
  """
  return (
    tf.io.gfile.stat(heatmap).length == len(image)
    and map_files.read_file(heatmap) == image
  )
