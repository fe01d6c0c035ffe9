# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Builds canonical records from images and human maps or clicks.

  python -m official_ext.harmonization.data.build_clickme_records \
      --npz=clickme_train.zip --output_dir=data/clickme/train --split=train

Give one kind of input: --npz (a folder or zip file of npz files with image,
heatmap and label), --map_dir with --image_dir (files of the same name), or
--clicks with --image_dir (raw ClickMe 2.0 clicks, CSV or NPZ). The shards,
their manifest.json and a list of what was skipped, left_out.csv, are written to
--output_dir. Run the same command again to resume an interrupted build.
"""

from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization.data.records import build_options

with epy.lazy_imports():
  from official_ext.harmonization.data.records import clickme_builder


def main(options: build_options.Options):
  """Builds the records."""
  build_options.refuse_without_effect(options)
  totals = clickme_builder.build(options)
  clickme_builder.check_made(totals)


def run():
  """Runs the command."""
  cli.run(main, build_options.Options)


if __name__ == '__main__':
  run()
