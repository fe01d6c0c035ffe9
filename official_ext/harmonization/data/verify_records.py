# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Reads every record of TFRecord files and names each that is bad.

  python -m official_ext.harmonization.data.verify_records \
      'data/click-me/train/*.tfrecords' 'data/click-me/val/*.tfrecords'

A folder means the record files in it and below. For every bad record the
command prints the file, the byte and what is wrong, and continues as far as it
can find the next record. A record is bad if its checksums do not match, the
file ends inside it, it cannot be decoded (--nodecode checks only the
checksums), or its label is not a class (--num_classes). The format of each file
is recognized unless --map_decoder gives it. A file whose maps are all constant
is bad, too; a few constant maps, copies of images, and a single class are
warnings. Files with a manifest.json next to them are compared with it. The exit
code is 1 if anything is bad.
"""

import dataclasses
import os

from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization import resources
from official_ext.harmonization.dataloaders import registry

with epy.lazy_imports():
  from official_ext.harmonization.data.records import record_checks
  from official_ext.harmonization.data.records import verification


@dataclasses.dataclass(frozen=True)
class Options:
  """What is checked."""

  decode: bool = cli.flag(True, 'Decode every record.')
  map_decoder: str | None = cli.flag(
    None,
    'Format of the records; recognized by default.',
    choices=registry.names,
  )
  raw_image_max: float | None = cli.flag(
    None,
    'The value of white in records of raw pixels; by default recognized from 1 '
    'and 255.',
  )
  num_classes: int | None = cli.flag(
    None,
    'If given, a record is bad unless its label plus --label_offset is one of '
    'the classes 0..num_classes-1 (1..1000 of 1001).',
    at_least=1,
  )
  label_offset: int | None = cli.flag(
    None,
    'Added to the labels of the records; by default what training adds: 1 for '
    'the format clickme and 1001 classes, else 0.',
  )
  workers: int = cli.flag(
    os.cpu_count() or 1, 'Files that are read at the same time.', at_least=1
  )
  report: str = cli.flag(
    '', 'JSON file for the result: every file and problem.', path=True
  )


def _without_effect(options: Options):
  """Yields why flags have no effect, and their names."""
  if not options.decode:
    # Labels are among the decoded fields in every format.
    yield (
      'with --nodecode, which checks only checksums',
      ('num_classes', 'label_offset', 'raw_image_max'),
    )
  if options.num_classes is None:
    yield 'without --num_classes', ('label_offset',)
  if options.map_decoder and not registry.is_raw(options.map_decoder):
    yield (
      f'with --map_decoder={options.map_decoder}, whose images are encoded',
      ('raw_image_max',),
    )


def main(options: Options, patterns: list[str]):
  """Verifies the files that the arguments name."""
  if not patterns:
    raise ValueError(
      'No file is given. Add paths, folders or patterns of TFRecord files.'
    )
  cli.refuse_without_effect(_without_effect(options))
  checker = None
  if options.decode:
    checker = record_checks.Checker(
      options.map_decoder,
      options.num_classes,
      options.label_offset,
      options.raw_image_max,
    )
  results = verification.verify_and_print(
    [resources.working_path(p) for p in patterns], options.workers, checker
  )
  if options.report:
    verification.write_report(options.report, results)
  print(verification.summary(results, checker))
  if any(result.problems for result in results):
    raise SystemExit(1)


def run():
  """Runs the command."""
  cli.run(main, Options, takes_arguments=True, resumes=False)


if __name__ == '__main__':
  run()
