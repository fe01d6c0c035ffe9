# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Builds a folder of canonical records from images and maps or clicks."""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import itertools
import os
import posixpath
import re
from typing import Any

from absl import logging
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import click_frames
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.data.maps import map_readers
from official_ext.harmonization.data.maps import pairs
from official_ext.harmonization.data.records import build_options
from official_ext.harmonization.data.records import class_labels
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_builder
from official_ext.harmonization.data.records import shard_builder

# Rows of clicks, and images, that are inspected before a build.
_INSPECTED_ROWS = 20_000
_INSPECTED_IMAGES = 1000
# Names of classes without records that are printed.
_NAMES_SHOWN = 5
# The clicks by image, while the shards are being built.
_TABLE = 'clicks.sqlite'
# File names that a pattern such as train-* matches can begin with this.
_SPLIT = re.compile(r'[^\s/\\*?\[\],.][^\s/\\*?\[\],]*')


def check(options: build_options.Options):
  """Checks that the options name one kind of input, and that it exists.

  Args:
    options: what is built from what.

  Raises:
    ValueError: they do not, or `split` cannot begin a file name.
  """
  if not options.output_dir:
    raise ValueError('--output_dir is missing. Give the folder of the shards.')
  if not _SPLIT.fullmatch(options.split):
    raise ValueError(
      f'--split={options.split!r}: expected the first part of file names, '
      'such as train, without spaces, commas, slashes, * ? [ ], or a dot at '
      'its start. Choose such a name.'
    )
  given = build_options.given_inputs(options)
  if len(given) != 1:
    raise ValueError(
      f'The input flags are {", ".join(given) or "missing"}; expected one of '
      '--npz, --map_dir and --clicks. Give one.'
    )
  if given != ['npz'] and not options.image_dir:
    raise ValueError(f'--{given[0]} needs --image_dir, the folder of images.')
  for flag in ('npz', 'image_dir', 'map_dir', 'labels', 'class_names'):
    _check_exists(flag, getattr(options, flag))
  click_files.expand(options.clicks)
  files.refuse_output_in(
    options.output_dir,
    {name: getattr(options, name) for name in ('image_dir', 'map_dir', 'npz')},
  )


def _check_exists(flag: str, path: str):
  if path and not tf.io.gfile.exists(path):
    raise ValueError(f'--{flag}={path} does not exist. Check the path.')


def labels(options: build_options.Options) -> class_labels.Labels:
  """Returns the classes of the images; npz files contain their own."""
  if options.npz:
    return class_labels.Labels()
  prefix = options.strip_prefix
  table = class_labels.read(options.labels) if options.labels else None
  names = []
  if options.class_names:
    names = class_labels.read_names(options.class_names)
  elif table is None and not options.label_column:
    names = class_labels.folders(_images(options), prefix)
  return class_labels.Labels(table, names, prefix)


def _images(options: build_options.Options) -> list[str]:
  """Returns the paths of the images below --image_dir."""
  if options.map_dir:
    return pairs.images(
      pairs.find(
        options.image_dir,
        options.map_dir,
        options.image_suffix,
        options.map_suffix,
        log=False,
      )
    )
  return [
    image for image, _ in folders.find(options.image_dir, map_files.IMAGE_TYPES)
  ]


def check_folders(
  options: build_options.Options,
  images: Iterable[str],
  classes: class_labels.Labels,
):
  """Checks the folders of images if they say which class an image is of.

  Args:
    options: what is built from what.
    images: paths of the images.
    classes: of the images.

  Raises:
    ValueError: all images would have one class, see
      `class_labels.check_folders`.
  """
  if not (options.npz or options.labels or options.label_column):
    class_labels.check_folders(
      {posixpath.dirname(image) for image in images},
      classes.names if options.class_names else (),
      options.strip_prefix,
    )


def click_rows(
  options: build_options.Options,
) -> Iterator[tuple[str, clicks.ParticipantClicks]]:
  """Yields the images and rows of all files of clicks."""
  return itertools.chain.from_iterable(
    click_files.read(file, **click_arguments(options))
    for file in click_files.expand(options.clicks)
  )


def click_arguments(options: build_options.Options) -> dict[str, Any]:
  """Returns the arguments of `click_files.read`, without the file."""
  chosen = options.click_filter
  # The default keeps participants whose catch trials are unknown. Only another
  # threshold needs the column.
  default = map_options.ClickFilter().min_catch_trial
  needs_trials = chosen.min_catch_trial not in (0, default)
  return {
    'label_column': options.label_column,
    'trust_pickle': options.trust_pickle,
    'prefix': options.strip_prefix,
    'needed': ('is_mobile',) * chosen.drop_mobile
    + ('user_catch_trial',) * needs_trials,
  }


def reader(
  options: build_options.Options,
  classes: class_labels.Labels,
  table: click_files.Table | None = None,
):
  """Makes the reader of images and maps.

  Args:
    options: what is built from what.
    classes: of the images.
    table: of the clicks, for --clicks; None if each image is read together with
      its clicks.

  Returns:
    One of the readers in `map_readers`.
  """
  if options.npz:
    return map_readers.NpzReader(
      options.npz, options.jpeg_quality, options.trust_pickle, options.framing
    )
  if options.map_dir:
    return map_readers.FolderReader(
      options.image_dir,
      options.map_dir,
      classes,
      options.image_suffix,
      options.map_suffix,
      options.jpeg_quality,
      options.framing,
    )
  return map_readers.ClickReader(
    options.image_dir,
    classes,
    options.click_filter,
    options.click_frame,
    click_files.kind(click_files.expand(options.clicks)[0]),
    table,
    options.strip_prefix,
    options.jpeg_quality,
    options.framing,
  )


def check_frame(
  rows: Iterable[tuple[str, clicks.ParticipantClicks]],
  images: Any,
  options: build_options.Options,
):
  """Checks that clicks lie in the frame that --click_frame names.

  Args:
    rows: images and rows of clicks; only the first are inspected.
    images: a `map_readers.ClickReader`.
    options: what is built from what.

  Raises:
    ValueError: most clicks lie outside of it, or they seem to have been made in
      a smaller frame.
  """
  click_frames.check(
    itertools.islice(rows, _INSPECTED_ROWS), images.size, options.click_frame
  )
  if options.click_frame and options.framing == 'same':
    logging.warning(
      '--click_frame=%d: it is assumed that people saw the whole image, '
      'stretched to that square. If they saw its central square, add '
      '--framing=center_crop.',
      options.click_frame,
    )


def shard_count(options: build_options.Options, names: Sequence[str]) -> int:
  """Returns the number of shards.

  Without --shards there are as many as --images_per_shard asks for, and at
  least one for each worker. A build that is resumed keeps its number, even with
  another number of workers.

  Args:
    options: what is built from what.
    names: of the images.

  Raises:
    ValueError: the input holds no images.
  """
  if not names:
    raise ValueError(
      'The input holds no images; expected at least one. Check --npz, '
      '--image_dir, --map_dir or --clicks.'
    )
  if options.shards:
    return options.shards
  started = output_folder.claimed(options.output_dir)
  if 'shard_count' in started:
    return started['shard_count']
  count = -(-len(names) // options.images_per_shard)
  # Earlier versions had no minimum of one shard per worker.
  return count if started else max(count, min(options.workers, len(names)))


def settings(
  options: build_options.Options,
  fingerprint: str,
  classes: class_labels.Labels,
  count: int,
) -> dict[str, Any]:
  """Returns everything that the content of the shards depends on.

  Args:
    options: what is built from what.
    fingerprint: of the images and maps.
    classes: of the images.
    count: number of shards.
  """
  everything = dataclasses.asdict(options)
  everything['click_frame'] = options.click_frame or 0
  # The name under which earlier versions saved it.
  everything['rules'] = everything.pop('click_filter')
  kept = ['split', 'label_offset', 'seed', 'shards', 'images_per_shard']
  if options.npz:
    kept.append('jpeg_quality')
  if options.clicks:
    kept += ['rules', 'click_frame']
  # Earlier versions lacked these options, and built with today's defaults.
  defaults = build_options.Options()
  kept += [
    name
    for name in ('framing', 'jpeg_quality', 'map_resize')
    if everything[name] != getattr(defaults, name)
  ]
  return {
    **{name: everything[name] for name in kept},
    'shard_count': count,
    'input': fingerprint,
    'classes': classes.fingerprint(),
  }


def build(options: build_options.Options) -> dict[str, Any]:
  """Builds the missing shards, and the manifest.

  Args:
    options: what is built from what.

  Returns:
    The totals, see `shard_builder.finish`.

  Raises:
    ValueError: the options are wrong, or an input file is.
  """
  check(options)
  with output_folder.alone(options.output_dir):
    return _build(options)


def _build(options: build_options.Options) -> dict[str, Any]:
  """Builds in a folder that this process has locked."""
  directory = options.output_dir
  classes = labels(options)
  table = None
  if options.clicks:
    table = click_files.Table(output_folder.working_file(directory, _TABLE))
    table.fill(click_rows(options))
  images = reader(options, classes, table)
  names = images.names()
  check_folders(options, names, classes)
  if table:
    # Images are sorted by name: a few from everywhere, not the first.
    some = names[:: max(1, len(names) // _INSPECTED_IMAGES)]
    check_frame(
      ((name, row) for name in some for row in table.rows(name)),
      images,
      options,
    )
  count = shard_count(options, names)
  jobs = shard_builder.assign(names, options.split, count, options.seed)
  known = output_folder.claimed(directory).get('input', '')
  used = settings(options, images.fingerprint(known), classes, count)
  output_folder.claim(
    directory,
    jobs,
    used,
    {'input': images.inventory(), 'classes': classes.inventory()},
    defaults={'shard_count': count},
  )
  builder = record_builder.RecordBuilder(
    images, options.label_offset, options.map_resize
  )
  shard_builder.build(
    directory,
    jobs,
    builder,
    options.workers,
    {shard: len(images) for shard, images in jobs.items()},
  )
  totals = finish(options, list(jobs), classes, used)
  if table:
    os.remove(table.path)
  return totals


def finish(
  options: build_options.Options,
  jobs: Sequence[str],
  classes: class_labels.Labels,
  used: dict[str, Any],
) -> dict[str, Any]:
  """Writes the manifest, and prints a summary.

  Args:
    options: what was built from what.
    jobs: names of the shards.
    classes: of the images.
    used: as from `settings`.

  Returns:
    The totals, see `shard_builder.finish`.
  """
  given = options.npz or options.map_dir or ','.join(options.clicks)
  totals = shard_builder.finish(
    options.output_dir,
    jobs,
    source=given,
    settings=used,
    class_names=classes.names,
  )
  names = {i + options.label_offset: n for i, n in enumerate(classes.names)}
  print(shard_builder.summary(options.output_dir, totals, names))
  if options.class_names and totals['classes'] is not None:
    unused = [
      name for label, name in names.items() if not totals['classes'].get(label)
    ]
    if unused:
      print(
        f'{len(unused)} of the {len(names)} names in --class_names have no '
        f'record: {", ".join(unused[:_NAMES_SHOWN])}'
        + ', ...'
        * (len(unused) > _NAMES_SHOWN)
      )
  return totals


def check_made(totals: dict[str, Any]):
  """Raises ValueError if no record was made.

  Args:
    totals: as from `build`.
  """
  if not totals['records']:
    raise ValueError(
      'No record was made, for the reasons above. Repair the input, or change '
      'the flags.'
    )
