"""Raw clicks as maps of single participants, image by image."""

import collections
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import click_frames
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files

# Images whose clicks are looked at before all are.
_LOOKED_AT = 1000


class ParticipantMaps:
  """Maps of participants, as `benchmark.ceilings` takes them.

  A map is the participant's clicks, counted at each pixel of the frame that
  they were made in, blurred, and resized. Blur and resizing are linear, so that
  the mean of participants' maps is the map of them all.

  Attributes:
    left_out: how many clicks or rows were left out, by reason.
    unreadable: of rows that could not be read, place and reason.
    shapes: height and width of the frame of each image's clicks.
  """

  def __init__(
    self,
    table: click_files.Table,
    names: Sequence[str],
    rules: clicks.Rules,
    size: int,
    frame: int = 0,
    image_dir: str = '',
    prefix: str = '',
  ):
    """Looks through the clicks once, behind a progress bar.

    Args:
      table: of the clicks.
      names: of the images, some or all of the table's.
      rules: which clicks count, and how they become a map.
      size: side of the maps.
      frame: side of the square in whose pixels clicks are given; 0 where they
        are given in the image's own.
      image_dir: folder of the images, whose sizes are needed without a frame.
      prefix: folders that were taken off the images' paths, which may be in
        that folder all the same.

    Raises:
      ValueError: an image is not there, or is none; or most clicks lie outside.
    """
    self._table = table
    self._rules = rules
    self._size = size
    self._frame = frame
    self._image_dir = image_dir
    self._prefix = files.normal(prefix)
    self._counts = {}
    self.shapes = {}
    self.left_out = collections.Counter()
    self.unreadable = []
    some = names[:_LOOKED_AT]
    click_frames.check(
      ((name, row) for name in some for row in table.rows(name)),
      self._shape,
      frame,
    )
    for name in tqdm.tqdm(names, 'clicks', unit=' images', disable=None):
      people = self._people(name)
      self._counts[name] = len(people.points)
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
        f'The size of {name} in --image_dir={self._image_dir} '
        f'is not known ({e}): give the folder of all images, or '
        '--click_frame.'
      ) from None

  def _people(self, name: str) -> clicks.Participants:
    return clicks.participants(
      self._table.rows(name), *self._shape(name), self._rules
    )

  def names(self) -> list[str]:
    """Returns the images, in the order in which they were given."""
    return list(self._counts)

  def participants(self, name: str) -> int:
    """Returns how many participants' clicks on an image count."""
    return self._counts[name]

  def maps(self, name: str) -> np.ndarray:
    """Returns an image's maps, float32 (P, size, size)."""
    shape = self._shape(name)
    people = self._people(name)
    maps = np.stack(
      [
        clicks.blur(clicks.count(points, *shape), self._rules.blur)
        for points in people.points.values()
      ]
    )
    # As in evaluation: bilinear, and not smoothed before.
    return tf.image.resize(maps[..., np.newaxis], (self._size, self._size))[
      ..., 0
    ].numpy()
