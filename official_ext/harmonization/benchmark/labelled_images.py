# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads labelled images from records, each once and in order.

A network is scored on these: images at its input size, labels as the classes
that it is scored on, and human maps with the released preprocessing. Files are
read in sorted order, so that all models see the same images. The last batch
holds what remains.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
from typing import Any, NamedTuple

from google.protobuf import message
import numpy as np
from official.common import dataset_fn
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import data_cards
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import leakage as leakage_lib
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_checks
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.data.records import verification
from official_ext.harmonization.dataloaders import decoding
from official_ext.harmonization.dataloaders import harmonization_input
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import registry
from official_ext.harmonization.ops import blur

_NO_MAP = 'it has no human map to compare with'
# Settings that the report shows, with their labels.
FACTS = {
  'input_path': 'data',
  'files': 'files',
  'bytes': 'bytes',
  'map_decoder': 'format',
  'label_offset': 'label offset',
  'limit': 'only the first records',
  'training_copies': 'in training records too',
}


def working_paths(paths: str) -> str:
  """Resolves paths with commas between them, see `resources.working_path`."""
  return ','.join(resources.working_path(p.strip()) for p in paths.split(','))


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Records, and how they are read.

  Attributes:
    input_path: path or glob of TFRecord files, or several with commas.
    map_decoder: their format, see `dataloaders.registry`.
    label_offset: added to the recorded label to give one of the classes that a
      network is scored on (0..999 for ImageNet).
    raw_image_max: maximum pixel value in formats of raw pixels.
    blur: whether maps are blurred as in the release.
    map_resize: how maps are resized before the blur, see `ops.blur`; None for
      the default of the format.
    blur_kernel: of that blur, see `ops.blur`.
    has_maps: whether maps are read.
    center_crop: whether the central 87.5 % of the image is used, as in Model
      Garden's evaluation of ImageNet; the release uses the whole image.
    limit: only the first `limit` records, as a trial; None for all.
    sample: only this many records, drawn with a fixed seed; None for all.
    leakage: which images occur in training records too; None if unknown.
  """

  input_path: str
  map_decoder: str = 'clickme'
  label_offset: int = 0
  raw_image_max: float = 255.0
  blur: bool = True
  map_resize: str | None = None
  blur_kernel: str = 'released'
  has_maps: bool = True
  center_crop: bool = False
  limit: int | None = None
  sample: int | None = None
  leakage: leakage_lib.Leakage | None = None

  def files(self) -> list[str]:
    """Returns the paths of the files, sorted.

    Raises:
      protocol.BadDataError: a path or glob matches no file.
    """
    try:
      return record_files.expand([self.input_path])
    except ValueError as e:
      raise protocol.BadDataError(str(e)) from None

  def resize(self) -> str:
    """Returns how maps are resized, one of `ops.blur.RESIZES`."""
    return registry.map_resize(self.map_decoder, self.map_resize)

  def _fields(self) -> dict[str, Any]:
    """Returns the fields that describe the scores."""
    fields = {**vars(self), 'map_resize': self.resize()}
    del fields['leakage']
    # Older scores do not name these two, which were always as released. Scores
    # without maps do not depend on them.
    if self.sample is None:
      del fields['sample']
    return {
      name: value
      for name, value in fields.items()
      if name not in ('map_resize', 'blur_kernel')
      or self.has_maps
      and value != 'released'
    }

  def total(self) -> int | None:
    """Returns the number of images, if a manifest tells that of the records."""
    records = manifest.count(self.files())
    if records is None:
      return None
    if self.limit is not None:
      records = min(records, self.limit)
    records -= len(self._excluded())
    return records if self.sample is None else min(records, self.sample)

  def has_more_than(self, count: int) -> bool:
    """Whether there are more than `count` images; reads them if necessary."""
    total = self.total()
    if total is None:
      total = sum(
        1 for _ in _iterate(self.read().take(count + 1), self.files())
      )
    return total > count

  def _excluded(self) -> Sequence[int]:
    """Returns the positions of excluded records among the first `limit`."""
    if self.leakage is None or not self.leakage.is_excluded:
      return []
    return self.leakage.positions.tolist()

  def read(self) -> tf.data.Dataset:
    """Returns the records as `dataloaders.records.located` reads them."""
    found = records.located(dataset_fn.pick_dataset_fn('tfrecord'))(
      self.files()
    )
    if self.limit is not None:
      found = found.take(self.limit)
    if self._excluded():
      excluded = tf.constant(self._excluded(), tf.int64)
      found = (
        found.enumerate()
        .filter(lambda i, _: tf.reduce_all(i != excluded))
        .map(lambda _, record: record)
      )
    if self.sample is None:
      return found
    count = int(found.reduce(np.int64(0), lambda n, _: n + 1))
    if count <= self.sample:
      return found
    drawn = np.random.default_rng(0).permutation(count)[: self.sample]
    is_drawn = np.zeros(count, bool)
    is_drawn[drawn] = True
    return (
      tf.data.Dataset.zip(found, tf.data.Dataset.from_tensor_slices(is_drawn))
      .filter(lambda _, drawn: drawn)
      .map(lambda record, _: record)
    )

  def names(self) -> list[str]:
    """Reads the recorded names of the images, '' where they have none.

    Raises:
      protocol.BadDataError: a path matches no file, or a file is damaged.
    """
    return [
      _name(record['serialized']).decode(errors='replace')
      for record in _iterate(self.read(), self.files())
    ]

  def settings(self) -> dict[str, Any]:
    """Returns the fields, the number of files and their size in bytes."""
    sizes = {
      os.path.basename(file): tf.io.gfile.stat(file).length
      for file in self.files()
    }
    found = {
      **self._fields(),
      'bytes': sum(sizes.values()),
      'files': len(sizes),
    }
    return found | (self.leakage.settings() if self.leakage else {})

  def options(self) -> dict[str, Any]:
    """Returns how records are read, without the names of the files."""
    options = self._fields()
    del options['input_path']
    if not registry.is_raw(self.map_decoder):
      del options['raw_image_max']  # Encoded images do not depend on it.
    if self.leakage and self.leakage.identity():
      options['excluded'] = self.leakage.identity()
    return options

  def contents(self, digests: identity.Digests) -> dict[str, Any]:
    """Identifies the contents of the records.

    Args:
      digests: of files' contents.

    Returns:
      As `identity.Digests.of`.

    Raises:
      protocol.BadDataError: a path or glob matches no file.
      OSError or tf.errors.OpError: a file cannot be read, or the digests cannot
        be stored.
    """
    return digests.of(self.files())

  def origin(self, digests: identity.Digests) -> data_cards.Origin:
    """Finds where the records come from.

    Args:
      digests: of files' contents.

    Returns:
      As `data_cards.of_records`.
    """
    return data_cards.of_records(self.files(), digests.file, self.label_offset)


def require_records(input_path: str):
  """Reads the first record of each file, before a network is opened.

  Args:
    input_path: as in `Dataset`.

  Raises:
    protocol.BadDataError: a path or glob matches no file, a file does not begin
      with a record, such as a PNG image, or no file has a record.
  """
  has_records = False
  for path in Dataset(input_path).files():
    first = next(record_reader.read(path), None)
    if first and first.problem:
      problem = verification.Problem(
        path, first.index, first.offset, first.problem
      )
      raise protocol.BadDataError(
        f'Bad record: {problem}. Check the path, or repair or remove the file.'
      )
    has_records |= first is not None
  if not has_records:
    raise protocol.BadDataError(f'{input_path} does not contain any records.')


def recognized(input_path: str, name: str) -> tuple[str, float]:
  """Recognizes the format of records by the first one, and prints it.

  Args:
    input_path: as in `Dataset`.
    name: of the protocol.

  Returns:
    The format, see `dataloaders.registry`, and the value of white, which
    matters if pixels are raw.

  Raises:
    protocol.BadDataError: a path or glob matches no file.
  """
  for path in Dataset(input_path).files():
    found = record_checks.recognize_file(path)
    if found:
      kind, white = found
      raw = f', white at {white:g}' if registry.is_raw(kind) else ''
      print(f'{name}: {path} has the format {kind}{raw}.')
      return found
  return 'clickme', 255.0


def compared_with_training(
  dataset: Dataset, run: protocol.RunOptions, name: str
) -> Dataset:
  """Finds out which images occur in the records of --training_records too.

  Writes a table of them, `<name>.training_copies.csv`, and prints their number.

  Args:
    dataset: the evaluated images.
    run: names the training records, and says whether copies are excluded.
    name: of the protocol.

  Returns:
    The dataset, with `leakage` if there are training records.

  Raises:
    protocol.SettingsError: the training records match no file or are empty, or
      every image would be excluded.
    protocol.BadDataError: a file is damaged.
  """
  if not run.training_records:
    return dataset
  found = leakage_lib.find(
    dataset.files(),
    leakage_lib.training_files(working_paths(run.training_records)),
    run.output_dir,
    training_records=run.training_records,
    limit=dataset.limit,
    exclude=run.exclude,
  )
  if not found.training_images:
    raise protocol.SettingsError(
      f'--training_records={run.training_records} has no records; expected '
      'those that networks were trained on. Check the path.'
    )
  path = os.path.join(run.output_dir, f'{name}.training_copies.csv')
  found.write(path)
  print(f'{name}: {found.summary()}.' + (f' See {path}.' * bool(found.copies)))
  if found.is_excluded and len(found.copies) == found.images:
    raise protocol.SettingsError(
      f'--exclude: all images of --{name} occur in the training records; '
      'expected others. Evaluate other records.'
    )
  return dataclasses.replace(dataset, leakage=found)


class Batch(NamedTuple):
  """A batch of images.

  Attributes:
    images: float32 (B, h, w, 3), RGB in 0..255.
    maps: float32 (B, H, W), the human maps; None if they are not read.
    labels: int64 (B,), of the classes that are scored.
    locations: file and position from 0 of each record.
    unblurred: float32 (B, H, W), the human maps as recorded, only resized
      (antialiased); None if maps are not read.
    names: of the images, as recorded; '' where the format has none.
  """

  images: np.ndarray
  maps: np.ndarray | None
  labels: np.ndarray
  locations: list[tuple[str, int]]
  unblurred: np.ndarray | None = None
  names: list[str] | None = None

  def human_maps(self) -> np.ndarray:
    """Returns `maps` of a dataset that has maps."""
    assert self.maps is not None
    return self.maps

  def targets(self, num_classes: int) -> np.ndarray:
    """Returns the labels as one-hot rows, float32 (B, num_classes)."""
    return np.eye(num_classes, dtype=np.float32)[self.labels]


def _prepare(
  record: Mapping[str, tf.Tensor],
  decoder: decoding.Decoder,
  dataset: Dataset,
  image_size,
  map_size,
) -> dict[str, tf.Tensor]:
  """Decodes and resizes one record; a bad record becomes black."""
  decoded = {
    'has_map': tf.constant(True),
    **decoder.decode(record['serialized']),
  }
  problem = decoded['problem']
  if dataset.has_maps:
    problem = tf.where((problem == '') & ~decoded['has_map'], _NO_MAP, problem)

  def image():
    pixels = decoded['image']
    if dataset.center_crop:
      begin, size = harmonization_input.centre_crop(
        tf.shape(pixels)[:2], preprocess_ops.CENTER_CROP_FRACTION
      )
      pixels = tf.slice(pixels, [begin[0], begin[1], 0], [size[0], size[1], 3])
    return tf.image.resize(pixels, image_size)

  def human_map():
    if dataset.blur:
      return blur.blur_maps(
        decoded['heatmap'][tf.newaxis],
        map_size,
        dataset.resize(),
        dataset.blur_kernel,
      )[0]
    return tf.image.resize(
      decoded['heatmap'], map_size, antialias=dataset.resize() == 'antialias'
    )

  good = problem == ''
  prepared = {
    'file': record['file'],
    'index': record['index'],
    'label': decoded['label'],
    'problem': problem,
    'image': tf.cond(good, image, lambda: tf.zeros([*image_size, 3])),
    'name': tf.ensure_shape(
      tf.numpy_function(_name, [record['serialized']], tf.string), []
    ),
  }
  if dataset.has_maps:
    black = tf.zeros([*map_size, 1])
    prepared['map'] = tf.cond(good, human_map, lambda: black)[..., 0]
    prepared['unblurred'] = tf.cond(
      good,
      lambda: tf.image.resize(decoded['heatmap'], map_size, antialias=True),
      lambda: black,
    )[..., 0]
  return prepared


def _name(serialized: bytes) -> bytes:
  """Returns the recorded name of an image, or an empty one."""
  try:
    features = tf.train.Example.FromString(serialized).features.feature
  except message.DecodeError:
    return b''
  found = features['image/filename'].bytes_list.value
  return found[0] if found else b''


def _check(batch: Mapping[str, np.ndarray], dataset: Dataset, num_classes: int):
  """Raises an error if a record or its label cannot be used."""
  for file, index, label, problem in zip(
    *(batch[key] for key in ('file', 'index', 'label', 'problem'))
  ):
    where = f'{file.decode()}, record {index} (counted from 0)'
    if problem:
      hint = ''
      if dataset.has_maps:  # Otherwise no flag sets the format.
        hint = record_checks.other_format(
          record_reader.data_at(file.decode(), index), dataset.map_decoder
        )
      raise protocol.BadDataError(
        f'Bad record: {where}: {problem.decode(errors="replace")}'
        + (
          f'; {hint}'
          if hint
          else '. Repair or remove it, or set its format; it was read as '
          f'{dataset.map_decoder}.'
        )
      )
    if not 0 <= label + dataset.label_offset < num_classes:
      # Not a BadDataError: another model may have that class.
      raise ValueError(
        f'{where}: its label {label} plus the label offset '
        f"{dataset.label_offset} is outside the model's classes; expected "
        f'0..{num_classes - 1}. Set the offset, or remove the model.'
      )


def batches(
  dataset: Dataset,
  image_size: tuple[int, int],
  map_size: tuple[int, int],
  num_classes: int,
  batch_size: int,
  start: int = 0,
) -> Iterator[Batch]:
  """Reads each record once.

  An image is resized to `image_size` (bilinear), as a whole or after a central
  crop. A map is blurred at 64x64 and resized to `map_size`
  (`ops.blur.blur_maps`; `harmonization` 0.0.9, `common/clickme_dataset.py`).

  Args:
    dataset: the records.
    image_size: (height, width) of the network's input.
    map_size: (height, width) at which maps are compared.
    num_classes: number of classes that the network is scored on.
    batch_size: of all batches but the last.
    start: number of records to skip.

  Yields:
    The batches; only a few are in memory at a time.

  Raises:
    protocol.BadDataError: a record cannot be used or a file is damaged; the
      message names it.
    ValueError: a label is outside the classes.
  """
  decoder = registry.get_decoder(dataset.map_decoder, dataset.raw_image_max)
  prepared = (
    dataset.read()
    .skip(start)
    .map(
      lambda record: _prepare(record, decoder, dataset, image_size, map_size),
      num_parallel_calls=tf.data.AUTOTUNE,
    )
  )
  for batch in _iterate(
    prepared.batch(batch_size).prefetch(1), dataset.files()
  ):
    _check(batch, dataset, num_classes)
    yield Batch(
      images=batch['image'],
      maps=batch.get('map'),
      labels=batch['label'] + dataset.label_offset,
      locations=[
        (file.decode(), int(index))
        for file, index in zip(batch['file'], batch['index'])
      ],
      unblurred=batch.get('unblurred'),
      names=[name.decode(errors='replace') for name in batch['name']],
    )


def _iterate(prepared: tf.data.Dataset, files):
  """Yields batches; if TensorFlow cannot read a record, finds out which."""
  try:
    yield from prepared.as_numpy_iterator()
  except tf.errors.DataLossError as e:
    bad = verification.locate(files, e)
    raise protocol.BadDataError(
      f'Bad record: {bad or e.message}. Repair or remove it; python -m '
      'official_ext.harmonization.data.verify_records --nodecode FILES lists '
      'all bad records.'
    ) from None
