# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Makes the stimuli of the psychophysics experiment, and their list."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
import tensorflow as tf
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.data.records import build_options
from official_ext.harmonization.data.records import class_labels
from official_ext.harmonization.data.records import clickme_builder
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import shard_builder
from official_ext.harmonization.data.stimuli import reveal
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.data.stimuli import stimulus_options
from official_ext.harmonization.data.stimuli import stimulus_readers
from official_ext.harmonization.data.stimuli import stimulus_targets

LIST = record_files.STIMULI
_COLUMNS = (
  'file',
  'target',
  'class',
  'image',
  'level',
  'percent',
  'pixels',
  'sha256',
  'source',
)
# Options that decide what the stimuli show.
_SETTINGS = (
  'animal_classes',
  'vehicle_classes',
  'images_per_target',
  'size',
  'connectivity',
  'percent_of',
  'seed',
)


def _square(pixels: np.ndarray, size: int) -> np.ndarray:
  """Resizes the central square, bilinearly with antialiasing; float64."""
  height, width = pixels.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  picture = Image.fromarray(
    np.float32(pixels[top : top + side, left : left + side])
  )
  return np.asarray(
    picture.resize((size, size), Image.Resampling.BILINEAR), np.float64
  )


def square(image: np.ndarray, heatmap: np.ndarray, size: int):
  """Resizes the central squares of an image and its map.

  Args:
    image: uint8 (H, W, 3).
    heatmap: (h, w); shows the same as the image.
    size: side of the result in pixels.

  Returns:
    The brightness in 0..255 and the map, not negative; float64 (size, size).
  """
  height, width = image.shape[:2]
  heatmap = np.asarray(
    Image.fromarray(np.float32(heatmap)).resize(
      (width, height), Image.Resampling.BILINEAR
    )
  )
  return (
    _square(reveal.grey(image), size),
    np.maximum(_square(heatmap, size), 0.0),
  )


def counts(values: np.ndarray, percent_of: str) -> dict[int, int]:
  """Returns how many pixels each level reveals.

  Args:
    values: the map, (size, size).
    percent_of: 'image' for percent of all pixels, 'map' for percent of those
      that are not 0.

  Returns:
    Numbers of pixels by level: at least 1, and all for the full image.
  """
  of = values.size if percent_of == 'image' else int(np.count_nonzero(values))
  return {
    level: values.size
    if level == stimulus_files.FULL
    else reveal.revealed_pixels(stimulus_files.percent(level), of)
    for level in stimulus_files.LEVELS
  }


def render(
  bright: np.ndarray,
  values: np.ndarray,
  name: str,
  options: stimulus_options.Options,
) -> Iterator[tuple[int, np.ndarray]]:
  """Makes the stimuli of an image.

  Args:
    bright: brightness of the image, (size, size), in 0..255.
    values: the map, (size, size).
    name: of the image; with `options.seed` it seeds everything random.
    options: what is made.

  Yields:
    Level and stimulus, uint8 (size, size).

  Raises:
    ValueError: the map has no maximum to start from, see `reveal.growth_order`.
  """
  position = shard_builder.position(name, options.seed)
  order = reveal.growth_order(
    values, np.random.default_rng([position, 0]), options.connectivity
  )
  background = reveal.scramble_phase(
    bright, np.random.default_rng([position, 1])
  )
  for level, count in counts(values, options.percent_of).items():
    yield level, reveal.compose(bright, background, order, count)


class _Input(NamedTuple):
  """The images that stimuli are made of.

  Attributes:
    images: the images with their maps.
    total: number of the images, or None if it is unknown.
    fingerprint: identifies the input; survives JSON.
    inventory: what the fingerprint summarizes, by name.
    class_names: of the classes.
  """

  images: Iterator[stimulus_readers.StimulusImage]
  total: int | None
  fingerprint: list
  inventory: Mapping[str, Any]
  class_names: list[str]


def open_input(options: stimulus_options.Options) -> _Input:
  """Opens the files that the options name.

  Args:
    options: what is made from what.

  Raises:
    ValueError: no input is given or more than one, a file does not exist, or
      another option is wrong.
  """
  if not options.output_dir:
    raise ValueError('--output_dir is missing. Give the folder of the stimuli.')
  # Stimuli are pictures, and a folder of records means all files below it.
  folders = {'image_dir': options.image_dir, 'map_dir': options.map_dir}
  for pattern in options.records:
    if tf.io.gfile.isdir(pattern):
      folders['records'] = pattern
  files.refuse_output_in(options.output_dir, folders, below=True)
  if options.connectivity not in reveal.CONNECTIVITIES:
    raise ValueError(
      f'--connectivity={options.connectivity}; expected 4 for the neighbours '
      "at a pixel's sides, or 8 for those at its corners as well."
    )
  if not options.records:
    return _open_folders(options)
  if options.npz or options.map_dir:
    raise ValueError(
      '--records is given together with --npz or --map_dir; expected one '
      'kind of input. Remove one of the flags.'
    )
  paths = record_files.expand(options.records, 'records')
  sizes = [(os.path.basename(p), tf.io.gfile.stat(p).length) for p in paths]
  return _Input(
    stimulus_readers.from_records(
      paths, options.map_decoder, options.raw_image_max
    ),
    manifest.count(paths),
    [options.map_decoder, options.raw_image_max, sizes],
    {
      '--map_decoder': options.map_decoder,
      '--raw_image_max': options.raw_image_max,
      **dict(sizes),
    },
    _class_names(options),
  )


def _open_folders(options: stimulus_options.Options) -> _Input:
  """Opens folders of images and maps, as the builder of records does."""
  folders = build_options.Options(
    output_dir=options.output_dir,
    **{
      field.name: getattr(options, field.name)
      for field in dataclasses.fields(map_options.MapFolders)
    },
  )
  clickme_builder.check(folders)
  labels = clickme_builder.labels(folders)
  reader = clickme_builder.reader(folders, labels)
  names = reader.names()
  clickme_builder.check_folders(folders, names, labels)
  return _Input(
    stimulus_readers.from_maps(reader, options.seed),
    len(names),
    [reader.fingerprint(), labels.fingerprint()],
    {**reader.inventory(), **labels.inventory()},
    # npz files have numbers for classes, to which the names belong.
    labels.names or _class_names(options),
  )


def _class_names(options: stimulus_options.Options) -> list[str]:
  path = options.class_names
  return class_labels.read_names(path) if path else []


def make(options: stimulus_options.Options) -> dict[str, int]:
  """Makes the missing stimuli and their list, and prints a summary.

  Args:
    options: what is made from what.

  Returns:
    Number of images by target, and of skipped images by reason.

  Raises:
    ValueError: the options are wrong, or an input file is.
  """
  found = open_input(options)
  targets = stimulus_targets.Targets(
    options.animal_classes, options.vehicle_classes, found.class_names
  )
  with output_folder.alone(options.output_dir):
    settings = {
      'input': found.fingerprint,
      'class_names': found.class_names,
      **{name: getattr(options, name) for name in _SETTINGS},
    }
    # Earlier versions lacked this option, and used today's default.
    if options.framing != 'same':
      settings['framing'] = options.framing
    output_folder.claim(
      options.output_dir, [], settings, {'input': found.inventory}
    )
    for target in stimulus_files.TARGETS:
      folder = os.path.join(options.output_dir, target)
      if os.path.isdir(folder):
        files.remove_partial(folder)
    writer = _StimulusWriter(options, targets)
    limit = 2 * options.images_per_target
    with tqdm.tqdm(
      total=limit or found.total,
      unit=' images',
      disable=None,
      desc=os.path.basename(os.path.normpath(options.output_dir)),
    ) as bar:
      for image in found.images:
        made = writer.take(image)
        bar.update(made if limit else 1)
        if writer.is_full():
          break
    writer.finish()
  print(writer.summary())
  return dict(writer.totals)


class _StimulusWriter:
  """Writes the stimuli of images, and collects the rows of their list."""

  def __init__(
    self, options: stimulus_options.Options, targets: stimulus_targets.Targets
  ):
    self._options = options
    self._targets = targets
    self._digits = collections.Counter()
    self._rows, self._skipped, self._first = [], [], {}
    self.totals = collections.Counter()

  def is_full(self) -> bool:
    """Whether each target has --images_per_target images."""
    limit = self._options.images_per_target
    return 0 < limit <= min(self.totals[t] for t in stimulus_files.TARGETS)

  def _skip(self, name: str, reason: str, detail: str | Exception = ''):
    detail = files.without_addresses(detail)
    self.totals[reason] += 1
    self._skipped.append((name, reason, detail))
    self._first.setdefault(reason, (name, detail))
    return False

  def take(self, image: stimulus_readers.StimulusImage) -> bool:
    """Writes an image's stimuli, or notes why the image is skipped.

    Args:
      image: an image with its map.

    Returns:
      Whether the image has stimuli now.
    """
    if image.reason:
      return self._skip(image.name, image.reason, image.detail)
    target = self._targets.of(image.label)
    if not target:
      return self._skip(
        image.name,
        'class is neither animal nor vehicle',
        f'class {image.label}',
      )
    limit = self._options.images_per_target
    if limit and self.totals[target] >= limit:
      return False
    image_class = self._targets.image_class(image.label)
    digit = self._digits[image_class]
    try:
      rows = self._write(image, target, image_class, digit)
    except ValueError as e:
      return self._skip(image.name, 'map not usable', e)
    self._rows += rows
    self._digits[image_class] += 1
    self.totals[target] += 1
    return True

  def _write(self, image, target, image_class, digit):
    """Writes the missing stimuli of an image; returns the rows of all."""
    pixels, heatmap = image.load()
    bright, values = square(pixels, heatmap, self._options.size)
    names = {
      level: os.path.join(
        target, stimulus_files.file_name(level, image_class, digit)
      )
      for level in stimulus_files.LEVELS
    }
    paths = {
      level: os.path.join(self._options.output_dir, file)
      for level, file in names.items()
    }
    if not all(map(tf.io.gfile.exists, paths.values())):
      tf.io.gfile.makedirs(os.path.join(self._options.output_dir, target))
      for level, picture in render(bright, values, image.name, self._options):
        files.write(paths[level], image_codec.encode_image(picture))
    revealed = counts(values, self._options.percent_of)
    return [
      (
        names[level],
        target,
        image_class,
        f'{image_class}{digit}',
        stimulus_files.level_name(level),
        stimulus_files.percent(level),
        revealed[level],
        manifest.sha256(paths[level]),
        image.name,
      )
      for level in names
    ]

  def finish(self):
    """Writes the lists of stimuli and of skipped images."""
    folder = self._options.output_dir
    _write_table(
      os.path.join(folder, shard_builder.LEFT_OUT),
      ('name', 'reason', 'detail'),
      self._skipped,
    )
    _write_table(os.path.join(folder, LIST), _COLUMNS, self._rows)

  def summary(self) -> str:
    """Returns a few lines on what was made and what was skipped."""
    folder = self._options.output_dir
    lines = [f'{folder}:']
    lines += shard_builder.counted(self.totals, self._first)
    lines += self._warnings()
    if self._skipped:
      lines.append(
        'Everything skipped is listed in '
        f'{os.path.join(folder, shard_builder.LEFT_OUT)}.'
      )
    return '\n'.join(lines)

  def _warnings(self):
    """Yields warnings that concern accuracies on these stimuli."""
    limit = self._options.images_per_target
    made = {target: self.totals[target] for target in stimulus_files.TARGETS}
    numbers = ' and '.join(f'{n} of {target}s' for target, n in made.items())
    if min(made.values()) < limit:
      yield (
        f'WARNING: --images_per_target={limit}, but the input has fewer '
        f'images: stimuli of {numbers} were made.'
      )
    if len({*made.values()}) > 1 and all(made.values()):
      yield (
        f'WARNING: the numbers of images differ, {numbers}, so that the '
        'same answer to every image is not correct half of the time. '
        f'--images_per_target={min(made.values())} makes them equal.'
      )


def _write_table(path: str, columns: Sequence[str], rows):
  with files.atomic(path) as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(columns)
    writer.writerows(rows)


def check_made(totals: Mapping[str, int]):
  """Raises ValueError if a target has no stimuli.

  Args:
    totals: as from `make`.
  """
  missing = [t for t in stimulus_files.TARGETS if not totals.get(t)]
  if missing:
    raise ValueError(
      f'No image of the target {" or ".join(missing)} was made; expected '
      'both. Check --animal_classes and --vehicle_classes.'
    )
