# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Makes stimuli that reveal an image by what people found important.

  python -m official_ext.harmonization.data.make_psychophysics_stimuli \
      --records='data/click-me/val/*.tfrecords' --animal_classes=0-397 \
      --vehicle_classes=404,779,814,817,867 --images_per_target=100 \
      --output_dir=data/stimuli

Give one kind of input: --records (with --map_decoder), --npz, or --image_dir
with --map_dir. Each image becomes twelve grey images. Eleven levels show the 1,
1.58, ... 63.1, 100 percent of the pixels around the map's maximum, on a
background with the image's amplitude spectrum and random phases; the last shows
the full image:

  <output_dir>/animal/{level}_{class}{digit}.png, .../vehicle/...

stimuli.csv lists them with their checksums, left_out.csv what was skipped. Run
the same command again to resume. docs/psychophysics.md describes the stimuli.
"""

from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization.data.stimuli import stimulus_options

with epy.lazy_imports():
  from official_ext.harmonization.data.stimuli import stimulus_builder


def main(options: stimulus_options.Options):
  """Makes the stimuli."""
  stimulus_options.refuse_without_effect(options)
  stimulus_builder.check_made(stimulus_builder.make(options))


def run():
  """Runs the command."""
  cli.run(main, stimulus_options.Options)


if __name__ == '__main__':
  run()
