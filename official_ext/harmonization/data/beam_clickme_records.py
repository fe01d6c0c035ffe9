# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Builds canonical records as build_clickme_records does, with Apache Beam.

  python -m official_ext.harmonization.data.beam_clickme_records \
      --npz=gs://BUCKET/clickme --output_dir=gs://BUCKET/records/train \
      --beam=--runner=DataflowRunner,--project=PROJECT,--region=REGION

For more images than one machine can process. The command has the flags of
build_clickme_records, takes those of the Beam runner in --beam, and needs the
optional extra (pip install '.[beam]'). It writes the same bytes: shards,
manifest.json, left_out.csv. --clicks needs --shards. Complete shards are not
built again.
"""

import dataclasses

from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization.data.records import build_options

with epy.lazy_imports():
  from official_ext.harmonization.data.records import beam_builder
  from official_ext.harmonization.data.records import clickme_builder


@dataclasses.dataclass(frozen=True)
class Options(build_options.Options):
  """What records are built from, how, and by which runner."""

  beam: tuple[str, ...] = cli.flag(
    ('--runner=DirectRunner',), 'Options of the runner, separated by commas.'
  )


def main(options: Options):
  """Builds the records."""
  beam_builder.check_installed()
  build_options.refuse_without_effect(options)
  totals = beam_builder.build(options, options.beam)
  clickme_builder.check_made(totals)


def run():
  """Runs the command."""
  cli.run(main, Options)


if __name__ == '__main__':
  run()
