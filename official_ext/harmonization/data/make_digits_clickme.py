# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Makes a small dataset of handwritten digits in the ClickMe release's format.

  python -m official_ext.harmonization.data.make_digits_clickme

The 1,797 digits of scikit-learn, light and half as wide as the image, are drawn
on coloured clutter. A decoy, a coloured patch in a corner, often indicates the
class, as in decoy-MNIST (Ross et al., "Right for the Right Reasons", 2017). The
"human" map is the ink of the digit. Three splits share no digit: train and val
have such decoys, and in ood the decoy always indicates another class. A fourth,
swapped, has the images of val with decoys that indicate another class.
"""

import dataclasses

from etils import epy

from official_ext.harmonization import cli

with epy.lazy_imports():
  from official_ext.harmonization.data.records import digits


@dataclasses.dataclass(frozen=True)
class Options:
  """The size of the dataset, and its decoys."""

  output_dir: str = cli.flag(
    'data/digits',
    'Where <split>/<split>-<i>.tfrecords are written.',
    path=True,
  )
  train_images: int = cli.flag(1000, 'Images in train.', at_least=1)
  val_images: int = cli.flag(500, 'Images in val.', at_least=1)
  ood_images: int = cli.flag(500, 'Images in ood.', at_least=1)
  decoy_strength: float = cli.flag(
    0.9,
    'Part of the images of train and val whose decoy indicates their class.',
    at_least=0.0,
    at_most=1.0,
  )
  images_per_shard: int = cli.flag(1000, 'Images in one shard.', at_least=1)
  seed: int = cli.flag(0, 'Seed of everything that is random.')
  overwrite: bool = cli.flag(
    False, 'Replace a dataset with other settings in --output_dir.'
  )


def main(options: Options):
  """Makes the dataset."""
  written = digits.make(**dataclasses.asdict(options))
  print(
    f'{options.output_dir}: ' + ('written.' if written else 'already exists.')
  )


def run():
  """Runs the command."""
  cli.run(main, Options)


if __name__ == '__main__':
  run()
