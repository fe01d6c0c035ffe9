# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Downloads the ClickMe release: images, classes and human maps.

  python -m official_ext.harmonization.data.download_clickme \
      --output_dir=data/click-me

The 319 shards of train and 18 of val are saved in <output_dir>/<split>. A shard
gets its name only after every record has been read and its checksums match. Run
the same command again to resume: complete shards are kept, and partial ones are
continued. manifest.json in each split lists the shards with their records,
bytes and SHA-256.
"""

import dataclasses

from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization.data.records import release_layout

with epy.lazy_imports():
  from official_ext.harmonization.data.records import clickme_download


@dataclasses.dataclass(frozen=True)
class Options:
  """What is downloaded, and how."""

  output_dir: str = cli.flag(
    '',
    'Where <split>/<split>-<i>.tfrecords are written.',
    path=True,
    required=True,
  )
  base_url: str = cli.flag(
    release_layout.BASE_URL, 'Address of <split>/<split>-<i>.tfrecords.'
  )
  split: tuple[str, ...] = cli.flag(
    tuple(release_layout.SHARDS),
    'Split to download; may be given twice.',
    repeated=True,
    choices=tuple(release_layout.SHARDS),
  )
  shards: tuple[str, ...] | None = cli.flag(
    None, 'Numbers of shards, such as 0-9,17; all by default.'
  )
  retries: int = cli.flag(
    5, 'Attempts in a row without new data, for each shard.', at_least=0
  )
  timeout: float = cli.flag(
    60.0, 'Seconds without a byte until an attempt fails.', at_least=0.1
  )
  workers: int = cli.flag(
    4, 'Shards that are downloaded at the same time.', at_least=1
  )


def main(options: Options):
  """Downloads the shards."""
  if not options.base_url.startswith(('http://', 'https://')):
    raise ValueError(
      f'--base_url is {options.base_url!r}; expected an address that begins '
      'with http:// or https://.'
    )
  if '://' in options.output_dir:
    raise ValueError(
      f'--output_dir is {options.output_dir}; expected a local folder. '
      'Download to one, then copy the files.'
    )
  clickme_download.run(
    options.output_dir,
    {
      split: clickme_download.shard_numbers(split, options.shards)
      for split in options.split
    },
    base_url=options.base_url,
    retries=options.retries,
    timeout=options.timeout,
    workers=options.workers,
  )


def run():
  """Runs the command."""
  cli.run(main, Options)


if __name__ == '__main__':
  run()
