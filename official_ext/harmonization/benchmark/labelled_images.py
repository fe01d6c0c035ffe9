"""Labelled images from records, every one once, in order.

What a network is scored on: images at the size that it takes, labels as the
classes that it is scored in, human maps with the released preprocessing. The
order is that of the sorted files, so that two models see the same images, and
the last batch is as small as what is left.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from official.common import dataset_fn
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.data import verify_records
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.dataloaders import decoding
from official_ext.harmonization.dataloaders import harmonization_input
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import registry
from official_ext.harmonization.ops import blur

_NO_MAP = 'it has no human map to compare with'


class BadDataError(ValueError):
  """Records cannot be scored, whatever the model: nothing is left out."""


@dataclasses.dataclass(frozen=True)
class Source:
  """Records, and how they are read.

  Attributes:
    input_path: path or glob of TFRecord files, or several with commas.
    map_decoder: their format, see `dataloaders.registry`.
    label_offset: added to the recorded label to give one of the classes that a
      network is scored in (0..999 for ImageNet).
    raw_image_max: the value of white where a format's pixels are raw.
    blur: whether maps are blurred as in the release.
    map_resize: how they come to the size that is blurred, see `ops.blur`; None
      for what `dataloaders.registry` says of the format.
    blur_kernel: of that blur, see there.
    has_maps: whether images come with maps; without, the map is not read.
    center_crop: whether the central 87.5 % of the image is taken, as the host
      evaluates ImageNet; the release takes the whole image.
    limit: only the first so many records, for a trial; None for all.
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

  def files(self) -> list[str]:
    """The files, sorted.

    Returns:
      Their paths.

    Raises:
      BadDataError: there is none, or one is missing.
    """
    try:
      return record_files.expand([self.input_path])
    except ValueError as e:
      raise BadDataError(str(e)) from None

  def resize(self) -> str:
    """How maps are resized, see `ops.blur.RESIZES`."""
    return registry.map_resize(self.map_decoder, self.map_resize)

  def _fields(self) -> dict[str, Any]:
    """What the fields come to, but for those that are as released."""
    fields = {**dataclasses.asdict(self), 'map_resize': self.resize()}
    # Scores of a time before these could be chosen do not name them; nor do
    # those that no map has a part in.
    return {
      name: value
      for name, value in fields.items()
      if name not in ('map_resize', 'blur_kernel')
      or self.has_maps
      and value != 'released'
    }

  def settings(self) -> dict[str, Any]:
    """What a score depends on: the fields, and every file and its size."""
    sizes = {
      os.path.basename(file): tf.io.gfile.stat(file).length
      for file in self.files()
    }
    return {**self._fields(), 'bytes': sum(sizes.values()), 'files': len(sizes)}

  def options(self) -> dict[str, Any]:
    """How records are read, whatever their files are called."""
    options = self._fields()
    del options['input_path']
    if not registry.is_raw(self.map_decoder):
      del options['raw_image_max']  # Which only raw pixels need.
    return options

  def contents(self, digests: identity.Digests) -> dict[str, Any]:
    """Identifies the records.

    Args:
      digests: of files' contents.

    Returns:
      As `identity.Digests.of`.

    Raises:
      BadDataError: a file is missing.
      OSError or tf.errors.OpError: one cannot be read, or digests not be kept.
    """
    return digests.of(self.files())


class Batch(NamedTuple):
  """A batch of at most the size that was asked for.

  Attributes:
    images: float32 (B, h, w, 3), RGB in 0..255.
    maps: float32 (B, H, W), the human maps; None where there are none.
    labels: int64 (B,), of the classes that are scored.
    places: (file, position from 0) of each record.
  """

  images: np.ndarray
  maps: np.ndarray | None
  labels: np.ndarray
  places: list[tuple[str, int]]

  def targets(self, num_classes: int) -> np.ndarray:
    """The labels as one-hot rows, float32 (B, num_classes)."""
    return np.eye(num_classes, dtype=np.float32)[self.labels]


def _prepare(
  record: Mapping[str, tf.Tensor],
  decoder: decoding.Decoder,
  source: Source,
  image_size,
  map_size,
) -> dict[str, tf.Tensor]:
  """Decodes and resizes one record; a bad one becomes black."""
  decoded = {
    'has_map': tf.constant(True),
    **decoder.decode(record['serialized']),
  }
  problem = decoded['problem']
  if source.has_maps:
    problem = tf.where((problem == '') & ~decoded['has_map'], _NO_MAP, problem)

  def image():
    pixels = decoded['image']
    if source.center_crop:
      begin, size = harmonization_input.centre_window(
        tf.shape(pixels)[:2], preprocess_ops.CENTER_CROP_FRACTION
      )
      pixels = tf.slice(pixels, [begin[0], begin[1], 0], [size[0], size[1], 3])
    return tf.image.resize(pixels, image_size)

  def human_map():
    if source.blur:
      return blur.blur_maps(
        decoded['heatmap'][tf.newaxis],
        map_size,
        source.resize(),
        source.blur_kernel,
      )[0]
    return tf.image.resize(
      decoded['heatmap'], map_size, antialias=source.resize() == 'antialias'
    )

  good = problem == ''
  prepared = {
    'file': record['file'],
    'index': record['index'],
    'label': decoded['label'],
    'problem': problem,
    'image': tf.cond(good, image, lambda: tf.zeros([*image_size, 3])),
  }
  if source.has_maps:
    prepared['map'] = tf.cond(
      good, human_map, lambda: tf.zeros([*map_size, 1])
    )[..., 0]
  return prepared


def _check(batch: Mapping[str, np.ndarray], source: Source, num_classes: int):
  """Raises where a record, or its label, cannot be used."""
  for file, index, label, problem in zip(
    *(batch[key] for key in ('file', 'index', 'label', 'problem'))
  ):
    where = f'{file.decode()}, record {index} (counted from 0)'
    if problem:
      raise BadDataError(
        f'Bad record: {where}: {problem.decode(errors="replace")}. Repair or '
        f'remove it; it was read as {source.map_decoder}.'
      )
    if not 0 <= label + source.label_offset < num_classes:
      # Another model may have that class, so this is no bad record.
      raise ValueError(
        f'{where}: its label {label} plus the label offset '
        f"{source.label_offset} is outside the model's classes "
        f'0..{num_classes - 1}: set the offset, or leave the model out.'
      )


def batches(
  source: Source,
  image_size: tuple[int, int],
  map_size: tuple[int, int],
  num_classes: int,
  batch_size: int,
  start: int = 0,
) -> Iterator[Batch]:
  """Reads every record once.

  An image is resized to `image_size` (bilinear), as a whole or after a central
  crop. A map is blurred at 64x64 and resized to `map_size`
  (`ops.blur.blur_maps`; `harmonization` 0.0.9, `common/clickme_dataset.py`).

  Args:
    source: of the records.
    image_size: (height, width) that the network takes.
    map_size: (height, width) that maps are compared at.
    num_classes: that the network is scored in.
    batch_size: of all batches but the last.
    start: the number of records that are passed over.

  Yields:
    The batches; only a few are held at a time.

  Raises:
    BadDataError: a record cannot be used, or a file is damaged; it is named.
    ValueError: a label is none of the classes.
  """
  decoder = registry.get_decoder(source.map_decoder, source.raw_image_max)
  read = records.located(dataset_fn.pick_dataset_fn('tfrecord'))
  files = source.files()
  dataset = read(files)
  if source.limit is not None:
    dataset = dataset.take(source.limit)
  dataset = dataset.skip(start)
  dataset = dataset.map(
    lambda record: _prepare(record, decoder, source, image_size, map_size),
    num_parallel_calls=tf.data.AUTOTUNE,
  )
  for batch in _iterate(dataset.batch(batch_size).prefetch(1), files):
    _check(batch, source, num_classes)
    yield Batch(
      images=batch['image'],
      maps=batch.get('map'),
      labels=batch['label'] + source.label_offset,
      places=[
        (file.decode(), int(index))
        for file, index in zip(batch['file'], batch['index'])
      ],
    )


def _iterate(dataset: tf.data.Dataset, files):
  """Yields batches; where TensorFlow cannot read on, finds out why."""
  try:
    yield from dataset.as_numpy_iterator()
  except tf.errors.DataLossError as e:
    bad = verify_records.locate(files, e)
    raise BadDataError(
      f'Bad record: {bad or e.message}. Repair or remove it; python -m '
      'official_ext.harmonization.data.verify_records --nodecode FILES names '
      'all that are bad.'
    ) from None
