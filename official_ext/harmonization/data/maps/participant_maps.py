# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Makes maps of single participants from raw clicks, image by image."""

import collections
from collections.abc import Sequence
import copy
from typing import Protocol

import numpy as np
from scipy import ndimage
import tensorflow as tf
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import click_frames
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.ops import blur

# Pixels in which the width of a blur is given.
_UNIT = 224
# Images whose clicks are inspected before all are read.
_INSPECTED = 1000


class Rows(Protocol):
  """Rows of clicks by image, such as a `click_files.Table`."""

  def rows(self, image: str) -> Sequence[clicks.ParticipantClicks]:
    """Returns an image's rows, in the order in which they were recorded."""
    ...


class ParticipantMaps:
  """Maps of participants, for `benchmark.ceilings`.

  The clicks of a participant are counted at each pixel of the frame in which
  they were made; the counts are blurred, resized and possibly blurred again as
  for evaluation. All steps are linear, so that the mean of participants' maps
  is the map of all participants.

  Attributes:
    left_out: numbers of skipped clicks and rows, by reason.
    unreadable: place of and reason for each unreadable row.
    shapes: height and width of the frame of each image's clicks.
    images_by_user: number of images of each participant.
  """

  def __init__(
    self,
    table: Rows,
    names: Sequence[str],
    click_filter: map_options.ClickFilter,
    size: int,
    frame: int = 0,
    image_dir: str = '',
    prefix: str = '',
    release_blur: bool = False,
    blur_width: float = 0,
  ):
    """Reads all clicks once, with a progress bar.

    Args:
      table: of the clicks.
      names: of the images, some or all of those in the table.
      click_filter: which clicks count, and how they become a map.
      size: side of the maps.
      frame: side of the square in whose pixels clicks are given; 0 for the
        pixels of the image.
      image_dir: folder of the images, whose sizes are needed without a frame.
      prefix: folders that were removed from the images' paths; they may exist
        in that folder.
      release_blur: whether maps get the release's blur, see `ops.blur`.
      blur_width: standard deviation of a Gaussian that maps of the given size
        are blurred with at last, in pixels of a map of 224; 0 for none.

    Raises:
      ValueError: an image is missing or unreadable, or most clicks are outside.
    """
    self._table = table
    self._click_filter = click_filter
    self._size = size
    self._frame = frame
    self._image_dir = image_dir
    self._prefix = files.normal(prefix)
    self._release_blur = release_blur
    self._sigma = blur_width * size / _UNIT
    self._axes = {}
    self._counts = {}
    self.shapes = {}
    self.images_by_user = collections.Counter()
    self.left_out = collections.Counter()
    self.unreadable = []
    some = names[:_INSPECTED]
    click_frames.check(
      ((name, row) for name in some for row in table.rows(name)),
      self._shape,
      frame,
    )
    for name in tqdm.tqdm(names, 'clicks', unit=' images', disable=None):
      people = self._people(name)
      self._counts[name] = len(people.points)
      self.images_by_user.update(people.points.keys())
      self.left_out.update(people.left_out)
      self.unreadable += people.unreadable

  def _shape(self, name: str) -> tuple[int, int]:
    """Returns height and width of the frame of an image's clicks."""
    if name not in self.shapes:
      self.shapes[name] = self._read_shape(name)
    return self.shapes[name]

  def _read_shape(self, name: str) -> tuple[int, int]:
    if self._frame:
      return self._frame, self._frame
    try:
      if not files.is_below(name):
        raise ValueError('it is not below that folder')
      encoded = map_files.read_file(
        folders.locate(self._image_dir, name, self._prefix)
      )
      return image_codec.size_as_seen(encoded)
    except (tf.errors.OpError, OSError, ValueError) as e:
      raise ValueError(
        f'--image_dir={self._image_dir}: the size of {name} cannot be read '
        f'({e}); expected all images. Give their folder, or --click_frame.'
      ) from None

  def _people(self, name: str) -> clicks.Participants:
    return clicks.participants(
      self._table.rows(name), *self._shape(name), self._click_filter
    )

  def of(self, table: 'Rows', names: Sequence[str]) -> 'ParticipantMaps':
    """Returns a reader with these settings of other rows, for a worker.

    Args:
      table: of the rows.
      names: of its images.
    """
    found = copy.copy(self)
    found._table = table
    found._counts, found.shapes = {}, {}
    found.images_by_user = collections.Counter()
    found.left_out, found.unreadable = collections.Counter(), []
    found._counts = {n: len(found._people(n).points) for n in names}
    return found

  @property
  def repeated(self) -> int:
    """The number of participants who saw several images."""
    return sum(number > 1 for number in self.images_by_user.values())

  def names(self) -> list[str]:
    """Returns the images, in the order in which they were given."""
    return list(self._counts)

  def participants(self, name: str) -> int:
    """Returns the number of participants whose clicks on an image count."""
    return self._counts[name]

  def users(self, name: str) -> list[str]:
    """Returns the participants, in the order of an image's maps."""
    return list(self._people(name).points)

  def maps(self, name: str) -> np.ndarray:
    """Returns an image's maps, float32 (P, size, size)."""
    shape = self._shape(name)
    people = self._people(name)
    maps = np.stack(
      [
        clicks.click_density(points, *shape, self._click_filter.blur)
        for points in people.points.values()
      ],
      dtype=np.float32,
      casting='same_kind',
    )
    down, across = (self._axis(n, axis) for axis, n in enumerate(shape))
    # All steps act on rows and columns separately.
    return down @ (maps.reshape(-1, shape[1]) @ across.T).reshape(
      len(maps), shape[0], self._size
    )

  def _axis(self, length: int, axis: int) -> np.ndarray:
    """Returns what is done along an axis, as a matrix (size, length)."""
    if (length, axis) not in self._axes:
      if self._release_blur:
        cells = _resizing(length, blur.WORKING_SIZE)
        steps = [
          cells,
          blur.filters('released')[axis],
          _resizing(blur.WORKING_SIZE, self._size),
        ]
      else:
        # As `benchmark.labelled_images` resizes the maps that are ranked.
        steps = [_resizing(length, self._size, antialias=True)]
      if self._sigma:
        steps.append(
          ndimage.gaussian_filter1d(
            np.eye(self._size), self._sigma, axis=0, mode='reflect'
          )
        )
      matrix = np.eye(length)
      for step in steps:
        matrix = step @ matrix
      self._axes[length, axis] = matrix.astype(np.float32)
    return self._axes[length, axis]


def _resizing(length: int, size: int, antialias: bool = False) -> np.ndarray:
  """Returns a bilinear resizing of an axis as a matrix (size, length)."""
  columns = np.eye(length, dtype=np.float32)[..., np.newaxis]
  resized = tf.image.resize(columns, (size, length), antialias=antialias)
  return resized[..., 0].numpy()
