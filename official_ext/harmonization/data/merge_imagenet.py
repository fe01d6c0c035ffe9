# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Adds human maps to Model Garden's ImageNet records, by image id.

  python -m official_ext.harmonization.data.merge_imagenet \
      --imagenet='imagenet/train-*' --map_records='clickme/train-*' \
      --output_dir=data/imagenet_clickme/train

The id of an image is the name of its file without folder and extension. Maps
are canonical records that name their image (--map_records), or files named by
the id (--map_dir). Every input shard becomes a canonical shard of the same
name. Maps without an image are listed in maps_without_image.csv; the command
fails if no map has one. Run the same command again to resume.
"""

import dataclasses
import os

from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization.data.maps import map_options

with epy.lazy_imports():
  from official_ext.harmonization.data.records import imagenet_merger


@dataclasses.dataclass(frozen=True)
class Options(map_options.Framing):
  """What is merged, and how."""

  imagenet: str = cli.flag('', 'Pattern of the ImageNet shards.', path=True)
  map_records: str = cli.flag(
    '', 'Pattern of canonical shards with maps and image/filename.', path=True
  )
  map_dir: str = cli.flag(
    '',
    'Folder of maps (grey images, npy, npz with heatmap) named by image id.',
    path=True,
  )
  output_dir: str = cli.flag('', 'Where the shards are written.', path=True)
  key: str = cli.flag(
    'image/filename',
    "Field of the ImageNet records that holds the image's name.",
  )
  map_key: str = cli.flag(
    'image/filename', "Field of --map_records that holds the image's name."
  )
  label_offset: int = cli.flag(0, 'Added to every label.')
  only_mapped: bool = cli.flag(False, 'Skip images without a map.')
  workers: int = cli.flag(os.cpu_count() or 1, 'Processes.', at_least=1)


def main(options: Options):
  """Merges maps and images."""
  matched = imagenet_merger.merge(**dataclasses.asdict(options))
  if not matched:
    raise ValueError(
      'No map has an image. Compare the ids in '
      f'{imagenet_merger.UNMATCHED} with --key of the ImageNet records.'
    )


def run():
  """Runs the command."""
  cli.run(main, Options)


if __name__ == '__main__':
  run()
