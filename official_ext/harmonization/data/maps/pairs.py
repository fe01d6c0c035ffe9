"""Finds the map of each image by their paths."""

import os
from typing import NamedTuple

from absl import logging
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import map_files


class Pair(NamedTuple):
  """An image and its map, as paths below their folders; '' where one lacks."""

  image: str
  map: str


class Pairs(NamedTuple):
  """What two folders hold.

  Attributes:
    named: pairs by what their paths have in common, sorted: folders and name,
      without suffix and extension, as `files.normal` writes them.
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
    map_dir: folder of maps; may be the same, or in it.
    image_suffix: end of an image's name before its extension that its map's
      name has not, such as '_image'.
    map_suffix: the same of a map's name, such as '_map'.
    log: whether files that are passed over are logged.

  Returns:
    The pairs, with images without a map and maps without an image.

  Raises:
    ValueError: two images or two maps have the same path, but for the
      extension; or nothing tells images from maps.
  """
  same = folders.is_same(image_dir, map_dir)
  images = folders.find(
    image_dir, map_files.IMAGE_TYPES, '' if same else map_dir, log
  )
  maps = folders.find(
    map_dir, map_files.MAP_TYPES, '' if same else image_dir, log and not same
  )
  if same and image_suffix == map_suffix:
    # A picture would be its own map.
    maps = [m for m in maps if not m[0].lower().endswith(map_files.IMAGE_TYPES)]
    if images and not maps:
      raise ValueError(
        f'{image_dir} holds images and maps, and nothing tells them apart; '
        'expected names with different ends. Give them by --image_suffix and '
        '--map_suffix, such as _image and _map.'
      )
  by_name, others = {}, []
  for role, found, suffix, other in (
    (0, images, image_suffix, map_suffix),
    (1, maps, map_suffix, image_suffix),
  ):
    for path, _ in found:
      stem = os.path.splitext(path)[0]
      # In one folder the longer suffix decides: '' is the end of every name.
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
      '%d files do not end in --image_suffix=%s or --map_suffix=%s and are '
      'not read (%s, ...).',
      len({*others}),
      image_suffix,
      map_suffix,
      others[0],
    )
  return Pairs(
    {name: Pair(*by_name[name]) for name in sorted(by_name)}, images + maps
  )


def images(found: Pairs) -> list[str]:
  """Returns the paths of all images, with a map or without."""
  return [pair.image for pair in found.named.values() if pair.image]


def _add(pair: list[str], role: int, path: str, folder: str):
  """Notes an image (0) or a map (1), of which there may be only one."""
  before = pair[role]
  if before:
    alike = (
      ' (they differ in the Unicode form of their names)'
      if before != path and files.normal(before) == files.normal(path)
      else ''
    )
    raise ValueError(
      f'{folder} holds {before} and {path}{alike}: leave one of them, or '
      'tell images and maps apart by --image_suffix and --map_suffix.'
    )
  pair[role] = path


def is_same_file(image: bytes, heatmap: str) -> bool:
  """Whether a map's file is its image: the same, a link to it, or a copy.

  Args:
    image: contents of the image's file.
    heatmap: path of the map's file.
  """
  return (
    tf.io.gfile.stat(heatmap).length == len(image)
    and map_files.read_file(heatmap) == image
  )
