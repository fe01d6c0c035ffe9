# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The flags of build_clickme_records and beam_clickme_records."""

from collections.abc import Iterator
import dataclasses
import os

from official_ext.harmonization import cli
from official_ext.harmonization import option_values
from official_ext.harmonization.data.maps import map_options


@dataclasses.dataclass(frozen=True)
class Options(map_options.MapFolders):
  """What records are built from, and how."""

  click_filter: map_options.ClickFilter = map_options.ClickFilter()
  output_dir: str = cli.flag('', 'Where the shards are written.', path=True)
  split: str = cli.flag('train', "First part of the shards' names.")
  clicks: tuple[str, ...] = cli.flag(
    (),
    'Files of raw clicks, or patterns: CSV with image_path, clicks, user_id, '
    'or NPZ with file_pointer, clickmap_x, clickmap_y, user_id; both may have '
    'user_catch_trial and is_mobile. Image paths are relative to --image_dir.',
    path=True,
  )
  click_frame: int | None = cli.flag(
    None,
    'Side of the square in whose pixels clicks are given, such as 256; 0: in '
    "the image's own pixels, which is assumed unless the clicks contradict it.",
    at_least=0,
  )
  label_column: str = cli.flag(
    '', "Column of the clicks' CSV that holds the class."
  )
  label_offset: int = cli.flag(0, 'Added to every label.')
  jpeg_quality: int = cli.flag(
    0,
    'Quality of images that --npz gives as numbers, and of others that must be '
    'encoded again, such as rotated ones; 0: PNG, which is lossless. Model '
    "Garden's own input needs JPEG unless decode_jpeg_only is false.",
    at_least=0,
    at_most=100,
  )
  map_resize: str = cli.flag(
    'antialias',
    'How training will resize the maps before they are blurred, as in '
    'task.mapped_data.map_resize. Maps that would lose most of their mass '
    'are counted; the records do not depend on this flag.',
    choices=option_values.MAP_RESIZES,
  )
  trust_pickle: bool = cli.flag(
    False,
    'Unpickle arrays of Python objects. A pickle can run any code: set this '
    'only for files that you would run as programs.',
  )
  images_per_shard: int = cli.flag(
    1000, 'Approximate number of images in a shard.', at_least=1
  )
  shards: int = cli.flag(
    0,
    'Number of shards; 0: as many as --images_per_shard asks for, and at least '
    'one for each worker.',
    at_least=0,
  )
  seed: int = cli.flag(0, 'Seed of the order of the images.')
  workers: int = cli.flag(os.cpu_count() or 1, 'Processes.', at_least=1)


def given_inputs(options: Options) -> list[str]:
  """Returns the names of the flags that give an input of maps."""
  return [f for f in ('npz', 'map_dir', 'clicks') if getattr(options, f)]


def refuse_without_effect(options: Options):
  """Raises ValueError if a flag of `Options` was given in vain.

  Args:
    options: the parsed flags.
  """
  # Otherwise `clickme_builder.check` describes what is wrong.
  if len(given_inputs(options)) == 1:
    cli.refuse_without_effect(_without_effect(options))


def _without_effect(options: Options) -> Iterator[tuple]:
  """Yields why flags have no effect, and their names."""
  if not options.clicks:
    names = [
      field.name for field in dataclasses.fields(map_options.ClickFilter)
    ]
    yield 'without --clicks', ('label_column', 'click_frame', *names)
  if not options.map_dir:
    yield 'without --map_dir', ('image_suffix', 'map_suffix')
  if options.npz:
    yield (
      'with --npz, whose files hold images and labels',
      ('image_dir', 'labels', 'class_names', 'strip_prefix'),
    )
  if options.labels:
    yield 'with --labels', ('label_column',)
  if options.shards:
    yield 'with --shards', ('images_per_shard',)
