# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds evaluated images that a network may have been trained on.

Images of the evaluation and of training records are compared by perceptual
hashes of the whole image and of its central square, also flipped. Hashes are
stored by the digest of their file, so that each file is read once.

  found = leakage.find(['val.tfrecords'], ['train.tfrecords'], 'runs/alignment')
  print(found.summary())
"""

from collections.abc import Iterator, Sequence
import csv
import dataclasses
import functools
import io
import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization import files as files_lib
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import perceptual_hash
from official_ext.harmonization.benchmark import progress
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.data.records import record_checks
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.data.records import verification
from official_ext.harmonization.dataloaders import registry

# Of the output folder.
FOLDER = 'perceptual_hashes'
# Copies that the report lists.
_LISTED = 20
_BATCH = 256
_FRAME = record_reader.HEADER_SIZE + 4
_MEGABYTE = 1 << 20
# The views of an image that are hashed.
_WHOLE, _SQUARE = 0, 1


class Copy(NamedTuple):
  """An evaluated image that also occurs in a training record.

  Attributes:
    file: of the evaluated image.
    record: its position in that file, from 0.
    training_file: of the most similar training image.
    training_record: its position in that file, from 0.
    distance: of the hashes, in bits of 256.
    is_flipped: whether one is flipped left to right.
  """

  file: str
  record: int
  training_file: str
  training_record: int
  distance: int
  is_flipped: bool


@dataclasses.dataclass(frozen=True)
class Leakage:
  """Evaluated images that also occur in training records.

  Attributes:
    training_records: the paths or globs of the training records, as given.
    images: number of evaluated images.
    training_images: number of training images.
    copies: the evaluated images that have a copy, in order.
    positions: int64, their positions among all evaluated images, from 0.
    without_structure: number of evaluated images that cannot be compared.
    unreadable: number of training images that cannot be decoded.
    is_excluded: whether the copies are excluded from scores.
  """

  training_records: str
  images: int
  training_images: int
  copies: Sequence[Copy]
  positions: np.ndarray
  without_structure: int
  unreadable: int
  is_excluded: bool = False

  def identity(self) -> dict[str, Any] | None:
    """Identifies the excluded images; None if all are scored."""
    if not self.is_excluded or not len(self.positions):
      return None
    return {
      'images': len(self.positions),
      'sha256': identity.sha256(self.positions.tolist()),
    }

  def settings(self) -> dict[str, Any]:
    """Returns what a reader of the report must know, in JSON's types."""
    return {
      'training_records': self.training_records,
      'training_images': self.training_images,
      'training_copies': self.summary(),
      'exclude': self.is_excluded,
      'copies': [
        {
          **copy._asdict(),
          'file': os.path.basename(copy.file),
          'training_file': os.path.basename(copy.training_file),
        }
        for copy in self.copies[:_LISTED]
      ],
    }

  def summary(self) -> str:
    """Says how many images have copies, and what happens to them."""
    verb = 'occurs' if len(self.copies) == 1 else 'occur'
    found = (
      f'{len(self.copies)} of {choices.plural(self.images, "image")} also '
      f'{verb} in {self.training_records} '
      f'({choices.plural(self.training_images, "image")}'
    )
    if self.unreadable:
      found += f', {self.unreadable} of them unreadable'
    found += ')'
    if self.copies:
      found += (
        ' and are excluded from all scores'
        if self.is_excluded
        else ' and are scored; --exclude excludes them'
      )
    if self.without_structure:
      found += (
        f'; {self.without_structure} cannot be compared (too little structure)'
      )
    return found

  def write(self, path: str):
    """Writes the copies as a CSV table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(Copy._fields)
    writer.writerows(self.copies)
    files_lib.write(path, text.getvalue().encode())


class _Hashes(NamedTuple):
  """Hashes of the images of files, one after the other.

  Attributes:
    codes: uint64 (2, n, 4), of the whole image and of its central square.
    flipped: the same of the flipped image.
    is_structured: bool (2, n).
    is_readable: bool (n,).
  """

  codes: np.ndarray
  flipped: np.ndarray
  is_structured: np.ndarray
  is_readable: np.ndarray


def find(
  paths: Sequence[str],
  training_paths: Sequence[str],
  output_dir: str,
  *,
  training_records: str = '',
  limit: int | None = None,
  exclude: bool = False,
) -> Leakage:
  """Finds images that occur in training records too.

  Args:
    paths: files of the evaluated images.
    training_paths: files of the training images. Formats are recognized.
    output_dir: folder of the results, which keeps the hashes.
    training_records: names the training records in reports.
    limit: only the first `limit` evaluated images; None for all.
    exclude: whether the copies are to be excluded.

  Returns:
    The images with copies.

  Raises:
    protocol.BadDataError: a file is damaged.
  """
  folder = os.path.join(output_dir, FOLDER)
  digests = identity.Digests(identity.digests_path(output_dir))
  images = _all(paths, folder, digests, 'evaluated images')
  training = _all(training_paths, folder, digests, 'training images')
  places, training_places = _places(images)[:limit], _places(training)
  evaluated, trained = (_joined(h.values()) for h in (images, training))
  best = np.full((len(places), 3), [-1, 257, 0], np.int64)
  usable = evaluated.is_structured[:, : len(best)]
  for view in (_WHOLE, _SQUARE):
    for reference in (_WHOLE, _SQUARE):
      for is_flipped in (False, True):
        _search(best, evaluated, trained, view, reference, is_flipped)
  positions = np.flatnonzero(best[:, 0] >= 0)

  def copy(file, record, index, distance, is_flipped):
    trained_file, trained_record = training_places[index]
    return Copy(
      *(file, record, trained_file, trained_record),
      *(int(distance), bool(is_flipped)),
    )

  return Leakage(
    training_records or ','.join(training_paths),
    len(best),
    len(training_places),
    [copy(*places[i], *best[i]) for i in positions],
    positions,
    int((~usable.any(0) & evaluated.is_readable[: len(best)]).sum()),
    int((~trained.is_readable).sum()),
    exclude,
  )


def _search(best, evaluated, trained, view, reference, is_flipped):
  """Replaces rows (index, distance, flipped) of `best` by nearer ones."""
  n = len(best)
  queries = evaluated.flipped if is_flipped else evaluated.codes
  asked = evaluated.is_structured[view, :n].copy()
  given = trained.is_structured[reference].copy()
  if view == _SQUARE:  # Of a square image, both views are the same.
    asked &= (evaluated.codes[0, :n] != evaluated.codes[1, :n]).any(-1)
  if reference == _SQUARE:
    given &= (trained.codes[0] != trained.codes[1]).any(-1)
  asked, given = np.flatnonzero(asked), np.flatnonzero(given)
  index, distance = perceptual_hash.nearest(
    queries[view][asked], trained.codes[reference][given]
  )
  nearer = distance < best[asked, 1]
  rows = asked[nearer]
  best[rows, 0] = given[index[nearer]]
  best[rows, 1] = distance[nearer]
  best[rows, 2] = is_flipped


def _places(found: dict[str, _Hashes]) -> list[tuple[str, int]]:
  return [
    (path, i) for path, h in found.items() for i in range(len(h.is_readable))
  ]


def _joined(found) -> _Hashes:
  """Joins the hashes of files."""
  empty = np.zeros((2, 0, 4), np.uint64)
  parts = [
    _Hashes(empty, empty, np.zeros((2, 0), bool), np.zeros(0, bool)),
    *found,
  ]
  axes = (1, 1, 1, 0)
  return _Hashes(*(np.concatenate(p, a) for p, a in zip(zip(*parts), axes)))


def _all(
  paths: Sequence[str], folder: str, digests: identity.Digests, what: str
) -> dict[str, _Hashes]:
  """Returns the hashes of each file, computing those that are not stored."""
  names = {
    path: os.path.join(folder, f'{digest[-32:]}-v{perceptual_hash.VERSION}.npz')
    for path, digest in zip(paths, digests.each(paths))
  }
  missing = [p for p in paths if not tf.io.gfile.exists(names[p])]
  if missing:
    tf.io.gfile.makedirs(folder)
    sizes = [tf.io.gfile.stat(path).length for path in missing]
    total, done = sum(sizes), 0
    with progress.Progress(
      f'perceptual hashes of {what}', ' MiB', total // _MEGABYTE
    ) as shown:
      for path in missing:
        parts = []
        for part, size in _compute(path):
          parts.append(part)
          shown.update((done + size) // _MEGABYTE - done // _MEGABYTE)
          done += size
        buffer = io.BytesIO()
        np.savez(buffer, **_joined(parts)._asdict())
        files_lib.write(names[path], buffer.getvalue())
  return {path: _read(names[path]) for path in paths}


def _read(path: str) -> _Hashes:
  with tf.io.gfile.GFile(path, 'rb') as f:
    content = np.load(io.BytesIO(f.read()), allow_pickle=False)
  return _Hashes(**{name: content[name] for name in _Hashes._fields})


def _compute(path: str) -> Iterator[tuple[_Hashes, int]]:
  """Yields the hashes of a batch of records, and their size in bytes."""
  recognized = record_checks.recognize_file(path)
  if recognized is None:
    return
  data = tf.data.TFRecordDataset(path).map(
    _decoder(*recognized), num_parallel_calls=tf.data.AUTOTUNE
  )
  try:
    for batch in data.batch(_BATCH).prefetch(2).as_numpy_iterator():
      views = np.swapaxes(batch['views'], 0, 1)
      made = [perceptual_hash.hashes(view) for view in views]
      flipped = [perceptual_hash.hashes(view, flip=True)[0] for view in views]
      readable = batch['readable']
      yield (
        _Hashes(
          np.stack([codes for codes, _ in made]),
          np.stack(flipped),
          np.stack([structured & readable for _, structured in made]),
          readable,
        ),
        int(batch['bytes'].sum()),
      )
  except tf.errors.DataLossError as e:
    bad = verification.locate([path], e)
    raise protocol.BadDataError(
      f'Bad record: {bad or e.message}. Repair or remove it.'
    ) from None


@functools.cache
def _decoder(kind: str, white: float):
  """Returns a function from a record to thumbnails of its image."""
  decoder = registry.get_decoder(kind, white)
  sides = [perceptual_hash.SIDE] * 2

  def thumbnails(image):
    # The mean over each cell, so that thumbnails do not depend on the size.
    luminance = tf.reduce_mean(image, axis=-1, keepdims=True)
    shape = tf.shape(luminance)
    side = tf.minimum(shape[0], shape[1])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = luminance[top : top + side, left : left + side]
    resized = [
      tf.image.resize(view, sides, method='area')[..., 0]
      for view in (luminance, square)
    ]
    return tf.stack(resized)

  # Traced once for all files.
  @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
  def decode(serialized):
    found = decoder.decode(serialized)
    readable = found['problem'] == ''
    views = tf.cond(
      readable,
      lambda: thumbnails(found['image']),
      lambda: tf.zeros([2, *sides]),
    )
    size = tf.strings.length(serialized) + _FRAME
    return {'views': views, 'readable': readable, 'bytes': size}

  return decode


def training_files(pattern: str) -> list[str]:
  """Returns the files that --training_records names, sorted.

  Args:
    pattern: paths or globs, separated by commas.

  Raises:
    protocol.SettingsError: a path or glob matches no file.
  """
  try:
    return record_files.expand([pattern])
  except ValueError as e:
    raise protocol.SettingsError(f'--training_records: {e}') from None
