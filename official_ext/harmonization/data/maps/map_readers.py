# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads images and maps from npz archives, from image files, and from clicks.

A reader lists the names of its images (`names`), identifies its input with a
checksum (`fingerprint`, which summarizes `inventory`), and loads one image at a
time (`sample`).
"""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import io
import os
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import map_framing
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.data.maps import npz
from official_ext.harmonization.data.maps import pairs
from official_ext.harmonization.data.records import class_labels


class SkippedImage(Exception):
  """An image is skipped.

  Attributes:
    reason: why, in words that are the same for all such images.
    detail: what was found in this image.
    counts: numbers of skipped clicks, rows and so on, by reason.
    rows: name, reason and detail of skipped rows.
  """

  def __init__(
    self, reason: str, detail: str | Exception = '', counts=None, rows=()
  ):
    super().__init__(f'{reason} ({detail})')
    self.reason = reason
    self.detail = str(detail)
    self.counts = counts or {}
    self.rows = rows


@dataclasses.dataclass(frozen=True)
class Sample:
  """An image and its map.

  Attributes:
    image: a JPEG or PNG.
    filename: of the image; without folder and extension it is the image's id.
    label: class.
    heatmap: (H, W), as from `image_codec.as_map`; shows the same as the image.
    source: kind of the input, for the record.
    clicks: number of clicks in the map, if known.
    participants: number of people who made it, if known.
    counts: numbers of skipped clicks, rows and so on, by reason.
    rows: name, reason and detail of skipped rows.
  """

  image: bytes
  filename: str
  label: int
  heatmap: np.ndarray
  source: str
  clicks: int | None = None
  participants: int | None = None
  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  rows: Sequence[tuple[str, str, str]] = ()


def _fitted(values: np.ndarray, image: bytes, framing: str) -> np.ndarray:
  """Converts a map with `map_framing.fit`, or raises `SkippedImage`."""
  try:
    return map_framing.fit(
      image_codec.as_map(values), *image_codec.shape(image)[:2], framing
    )
  except ValueError as e:
    raise SkippedImage('map not usable', e) from None


def _digest(parts: Iterable) -> str:
  digest = hashlib.sha256()
  for part in parts:
    digest.update(f'{part}\n'.encode())
  return digest.hexdigest()


class NpzReader:
  """Reads npz files with image, heatmap and label from a folder or zip."""

  kind = 'clickme'
  _FIELDS = {'image': True, 'heatmap': True, 'label': True}

  def __init__(
    self,
    path: str,
    jpeg_quality: int = 0,
    trust_pickle: bool = False,
    framing: str = 'same',
  ):
    """Initializes the reader.

    Args:
      path: of the folder or zip file, which is not unpacked.
      jpeg_quality: of the encoded images; 0 for PNG.
      trust_pickle: whether arrays of Python objects may be unpickled.
      framing: what a map shows of its image, see `map_framing.fit`.
    """
    self._framing = framing
    self._path = path
    self._quality = jpeg_quality
    self._trust = trust_pickle
    self._archive = None

  def __getstate__(self):
    # Open files cannot be shared between processes.
    return {**self.__dict__, '_archive': None}

  def _zip(self) -> zipfile.ZipFile:
    if self._archive is None:
      self._archive = zipfile.ZipFile(tf.io.gfile.GFile(self._path, 'rb'))
    return self._archive

  def _found(self):
    """Returns names, and sizes or checksums of the contents."""
    if tf.io.gfile.isdir(self._path):
      return folders.find(self._path, ('.npz',))
    try:
      found = sorted(
        (i.filename, (i.file_size, i.CRC))
        for i in self._zip().infolist()
        if i.filename.lower().endswith('.npz')
        and not folders.is_hidden(i.filename)
      )
    except (zipfile.BadZipFile, tf.errors.OpError) as e:
      raise ValueError(
        f'--npz={self._path}: not a readable zip file ({e}); expected a folder '
        'or zip file. Check the path.'
      ) from None
    for (name, _), (following, _) in zip(found, found[1:]):
      if name == following:  # A zip file may; only the last can be read.
        raise ValueError(
          f'{self._path} holds {name} twice; expected different names. Remove '
          'one of them.'
        )
    return found

  def names(self) -> list[str]:
    """Returns the names of the images, sorted."""
    return [name for name, _ in self._found()]

  def fingerprint(self, known: str = '') -> str:
    """Returns a checksum of the input."""
    del known  # Earlier versions computed the same checksum.
    return _digest(self._found())

  def inventory(self) -> dict:
    """Returns what the checksum summarizes, by name."""
    return dict(self._found())

  def sample(self, name: str) -> Sample:
    """Loads one image, or raises `SkippedImage`."""
    try:
      content = (
        map_files.read_file(self._path, name)
        if tf.io.gfile.isdir(self._path)
        else self._zip().read(name)
      )
      arrays = npz.load(io.BytesIO(content), name, self._FIELDS, self._trust)
    except (
      zipfile.BadZipFile,
      zlib.error,
      RuntimeError,
      ValueError,
      tf.errors.OpError,
    ) as e:
      raise SkippedImage('npz not readable', e) from None
    label = np.asarray(arrays['label'])
    if (
      label.size != 1
      or label.dtype.kind not in 'iuf'
      or (label.item() % 1 != 0)
    ):
      raise SkippedImage(
        'no label', f'label is {label!r}; expected one integer'
      )
    try:
      image = image_codec.encode_image(arrays['image'], self._quality)
    except ValueError as e:
      raise SkippedImage('image not usable', e) from None
    return Sample(
      image,
      name,
      int(label.item()),
      _fitted(arrays['heatmap'], image, self._framing),
      self.kind,
    )


class _FolderReader:
  """Reads images of a folder, and their classes."""

  def __init__(
    self,
    folder: str,
    labels: class_labels.Labels,
    jpeg_quality: int,
    prefix: str = '',
  ):
    self._folder = folder
    self._labels = labels
    self._quality = jpeg_quality
    self._prefix = prefix

  def read(self, path: str) -> bytes:
    """Returns the bytes of an image, or raises `SkippedImage`."""
    inside = files.normal(path)
    if not files.is_below(inside):
      raise SkippedImage('image outside --image_dir')
    try:
      return map_files.read_file(
        folders.locate(self._folder, inside, self._prefix)
      )
    except tf.errors.NotFoundError:
      raise SkippedImage(
        'image not found', f'it is not in {self._folder}'
      ) from None
    except (tf.errors.OpError, OSError) as e:
      raise SkippedImage('image not readable', e) from None

  def seen(self, found: bytes) -> tuple[bytes, dict[str, int]]:
    """Returns an image as people see it, and a count if that changed it."""
    try:
      encoded = image_codec.as_seen(found, self._quality)
    except ValueError as e:
      raise SkippedImage('image not usable', e) from None
    return encoded, {} if encoded == found else {image_codec.ANEW: 1}

  def label(self, path: str, recorded: str = '') -> int:
    try:
      return self._labels.of(path, recorded)
    except ValueError as e:
      raise SkippedImage('no label', e) from None


class FolderReader(_FolderReader):
  """Reads images and maps with the same names in two folders, or in one."""

  kind = 'pictures'

  def __init__(
    self,
    image_dir: str,
    map_dir: str,
    labels: class_labels.Labels,
    image_suffix: str = '',
    map_suffix: str = '',
    jpeg_quality: int = 0,
    framing: str = 'same',
  ):
    """Initializes the reader.

    Args:
      image_dir: folder of images.
      map_dir: folder of maps; may be the same.
      labels: classes of the images.
      image_suffix: see `pairs.find`.
      map_suffix: see `pairs.find`.
      jpeg_quality: of images that must be encoded again, see
        `image_codec.as_seen`.
      framing: what a map shows of its image, see `map_framing.fit`.
    """
    super().__init__(image_dir, labels, jpeg_quality)
    self._framing = framing
    self._map_dir = map_dir
    self._pairs, self._seen = pairs.find(
      image_dir, map_dir, image_suffix, map_suffix
    )

  def names(self) -> list[str]:
    """Returns the common parts of the names of images and maps, sorted."""
    return list(self._pairs)

  def fingerprint(self, known: str = '') -> str:
    """Returns a checksum of the input."""
    del known  # Earlier versions computed the same checksum.
    return _digest([*self._seen, *self._pairs])

  def inventory(self) -> dict:
    """Returns what the checksum summarizes, by name."""
    found = {}
    for path, size in self._seen:
      # An image and its map may have the same path below their folders.
      found.setdefault(path, []).append(size)
    return found

  def sample(self, name: str) -> Sample:
    """Loads one image, or raises `SkippedImage`."""
    image, heatmap = self._pairs[name]
    if not image:
      raise SkippedImage('map without an image', heatmap)
    if not heatmap:
      raise SkippedImage('image without a map', image)
    found = self.read(image)
    encoded, counts = self.seen(found)
    path = os.path.join(self._map_dir, heatmap)
    try:
      values = pairs.read_map(
        path, found, image, *image_codec.shape(encoded)[:2], self._framing
      )
    except (tf.errors.OpError, OSError) as e:
      raise SkippedImage('map not readable', e) from None
    except ValueError as e:
      raise SkippedImage('map not usable', e) from None
    return Sample(
      encoded,
      name + os.path.splitext(image)[1],
      self.label(image),
      values,
      self.kind,
      counts=counts,
    )


class ClickReader(_FolderReader):
  """Reads images of a folder, and makes their maps from clicks."""

  def __init__(
    self,
    image_dir: str,
    labels: class_labels.Labels,
    click_filter: map_options.ClickFilter,
    frame: int | None,
    kind: str,
    table: click_files.Table | None = None,
    prefix: str = '',
    jpeg_quality: int = 0,
    framing: str = 'same',
  ):
    """Initializes the reader.

    Args:
      image_dir: folder of images.
      labels: classes of the images.
      click_filter: which clicks count, and how they become a map.
      frame: side of the square in whose pixels the clicks are given; 0 or None
        for the pixels of the image.
      kind: of the file of clicks, 'csv' or 'npz'.
      table: of the clicks; None if only `from_rows` is used.
      prefix: folders that were removed from the images' paths; they may exist
        in the folder of images.
      jpeg_quality: of images that must be encoded again, see
        `image_codec.as_seen`.
      framing: what a square frame shows: the whole image, stretched ('same' and
        'stretched'), or its largest central square ('center_crop').
    """
    super().__init__(image_dir, labels, jpeg_quality, files.normal(prefix))
    self.kind = kind
    self._framing = 'stretched' if frame and framing == 'same' else framing
    self._click_filter = click_filter
    self._frame = frame
    self._table = table

  def names(self) -> list[str]:
    """Returns the images with clicks, sorted."""
    return self._table.images()

  def fingerprint(self, known: str = '') -> str:
    """Returns a checksum of the clicks, see `click_files.Table`."""
    return self._table.fingerprint(known)

  def inventory(self) -> dict:
    """Returns what the checksum summarizes, by image."""
    return self._table.digests()

  def sample(self, name: str) -> Sample:
    """Loads one image, or raises `SkippedImage`."""
    return self.from_rows(name, self._table.rows(name))

  def size(self, name: str) -> tuple[int, int] | None:
    """Returns height and width of an image as seen; None if unreadable."""
    try:
      return image_codec.size_as_seen(self.read(name))
    except (SkippedImage, ValueError):
      return None

  def from_rows(
    self, name: str, rows: Sequence[clicks.ParticipantClicks]
  ) -> Sample:
    """Loads one image, and makes its map from rows of clicks.

    Args:
      name: its path below the folder.
      rows: its clicks, in the order in which they were recorded.

    Returns:
      The image and its map.

    Raises:
      SkippedImage: the image or its map cannot be used.
    """
    if not name:
      raise SkippedImage(
        'image_path is empty', f'{len(rows)} rows, the first is {rows[0].place}'
      )
    encoded, counts = self.seen(self.read(name))
    height, width = (
      self._frame or side for side in image_codec.shape(encoded)[:2]
    )
    made = clicks.click_map(rows, height, width, self._click_filter)
    counts.update(made.left_out)
    unreadable = [
      (place, 'row: unreadable', f'{name}: {problem}')
      for place, problem in made.unreadable
    ]
    if made.values is None:
      raise SkippedImage(
        'too few participants', f'{made.participants} left', counts, unreadable
      )
    recorded = sorted({row.label for row in rows})
    if len(recorded) > 1:
      raise SkippedImage(
        'no label',
        f'its rows have the classes {recorded}; expected one',
        counts,
        unreadable,
      )
    try:
      label = self.label(name, recorded[0])
      values = _fitted(made.values, encoded, self._framing)
    except SkippedImage as e:
      raise SkippedImage(e.reason, e.detail, counts, unreadable) from None
    return Sample(
      encoded,
      name,
      label,
      values,
      self.kind,
      made.clicks,
      made.participants,
      counts,
      unreadable,
    )
