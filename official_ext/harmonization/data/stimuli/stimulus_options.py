# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The flags of make_psychophysics_stimuli."""

from collections.abc import Iterator
import dataclasses

from official_ext.harmonization import cli
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.dataloaders import registry


@dataclasses.dataclass(frozen=True)
class Options(map_options.MapFolders):
  """What stimuli are made from, and how."""

  output_dir: str = cli.flag('', 'Where the stimuli are written.', path=True)
  records: tuple[str, ...] = cli.flag(
    (), 'TFRecord files with maps; may have wildcards.', path=True
  )
  map_decoder: str = cli.flag(
    'clickme', 'Format of the records.', choices=registry.names
  )
  raw_image_max: float = cli.flag(
    255.0, 'The value of white in records of raw pixels: 255 or 1.'
  )
  animal_classes: tuple[str, ...] = cli.flag(
    (),
    'Classes that are animals: names, numbers or ranges (0-397). Not needed if '
    'classes are named animal and vehicle.',
  )
  vehicle_classes: tuple[str, ...] = cli.flag(
    (), 'Classes for the other answer; all other classes by default.'
  )
  images_per_target: int = cli.flag(
    0, 'Number of images of animals, and of vehicles; 0: all.', at_least=0
  )
  size: int = cli.flag(
    256,
    'Side of the stimuli in pixels, to which the central square of an image is '
    'resized.',
    at_least=8,
  )
  percent_of: str = cli.flag(
    'image',
    'Whether levels are percent of all pixels, or of those where the map is '
    'not 0.',
    choices=('image', 'map'),
  )
  connectivity: int = cli.flag(4, 'Neighbours of a pixel: 4 or 8.')
  seed: int = cli.flag(0, 'Seed of everything that is random.')


def refuse_without_effect(options: Options):
  """Raises ValueError if a flag was given in vain.

  Args:
    options: the parsed flags.
  """
  cli.refuse_without_effect(_without_effect(options))


def _without_effect(options: Options) -> Iterator[tuple]:
  """Yields why flags have no effect, and their names."""
  if options.records:
    yield (
      'with --records, which hold images, maps and labels',
      (
        'image_dir',
        'image_suffix',
        'map_suffix',
        'framing',
        'labels',
        'strip_prefix',
      ),
    )
    if not registry.is_raw(options.map_decoder):
      yield (
        f'on records of the format {options.map_decoder}, whose images are '
        'encoded',
        ('raw_image_max',),
      )
    return
  yield 'without --records', ('map_decoder', 'raw_image_max')
  if options.npz:
    yield (
      'with --npz, whose files hold images and labels',
      ('image_dir', 'image_suffix', 'map_suffix', 'labels', 'strip_prefix'),
    )
