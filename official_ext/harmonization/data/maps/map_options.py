# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Flags that several commands share: which clicks count, and what a map shows.

Nothing heavy is imported here, so that commands can list the flags in --help.
"""

import dataclasses

from official_ext.harmonization import cli
from official_ext.harmonization import option_values


@dataclasses.dataclass(frozen=True)
class ClickFilter:
  """Which clicks count, and how they become a map."""

  min_clicks: int = cli.flag(
    1,
    'Skip a participant with fewer clicks inside the image.',
    at_least=1,
  )
  max_clicks: int = cli.flag(
    0,
    "Use only the first of a participant's clicks on an image, at most this "
    'many; 0: all.',
    at_least=0,
  )
  min_participants: int = cli.flag(
    5, 'Skip an image with fewer participants.', at_least=1
  )
  min_catch_trial: float = cli.flag(
    0.95,
    'Skip participants who passed a smaller fraction of their catch trials, if '
    'the fraction is known.',
  )
  drop_mobile: bool = cli.flag(False, 'Skip participants on phones.')
  blur: str = cli.flag(
    'disc',
    'How counts of clicks become a map: blurred twice with a disc, or once '
    'with a Gaussian, as earlier versions of the ClickMe 2.0 tools did.',
    choices=option_values.CLICK_BLURS,
  )

  def __post_init__(self):
    if not 0 <= self.min_catch_trial <= 1:
      raise ValueError(
        f'--min_catch_trial is {self.min_catch_trial}; expected a '
        'fraction of the catch trials, from 0 to 1. Write 0.95 for 95 %.'
      )


@dataclasses.dataclass(frozen=True)
class Framing:
  """What a map shows of its image, see `map_framing.fit`."""

  framing: str = cli.flag(
    'same',
    "What a map shows: the same as its image; the image stretched to the map's "
    "shape; or the image's largest central square.",
    choices=option_values.FRAMINGS,
  )


@dataclasses.dataclass(frozen=True)
class StripPrefix:
  """Folders above those of the classes."""

  strip_prefix: str = cli.flag(
    '',
    "Folders above those of the classes with which images' paths may begin, "
    'such as imagenet/train in the files of ClickMe 2.0.',
  )


@dataclasses.dataclass(frozen=True)
class Suffixes:
  """How the names of images and of their maps differ."""

  image_suffix: str = cli.flag(
    '',
    "End of the images' names, before the extension, that the names of their "
    'maps lack, such as _image.',
  )
  map_suffix: str = cli.flag(
    '',
    "End of the maps' names, before the extension, that the names of their "
    'images lack, such as _map.',
  )


@dataclasses.dataclass(frozen=True)
class MapFolders(Suffixes, Framing, StripPrefix):
  """Images with human maps in files, and their classes."""

  npz: str = cli.flag(
    '',
    'Folder or zip file of npz files with image, heatmap and label.',
    path=True,
  )
  image_dir: str = cli.flag(
    '', 'Folder of images: JPEG, PNG, WebP, GIF, BMP, TIFF.', path=True
  )
  map_dir: str = cli.flag(
    '',
    'Folder of maps, named like their images: grey images, npy files, or npz '
    'files with heatmap.',
    path=True,
  )
  labels: str = cli.flag(
    '',
    'CSV file with the columns image and label. Without it, the class of an '
    'image is the first folder of its path.',
    path=True,
  )
  class_names: str = cli.flag(
    '',
    'File of class names, one per line, class 0 first. Without it, folders are '
    'numbered in alphabetical order.',
    path=True,
  )
