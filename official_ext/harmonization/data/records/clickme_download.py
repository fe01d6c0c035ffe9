# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Downloads shards of the ClickMe release."""

from collections.abc import Sequence
from concurrent import futures
import os
import threading
from typing import Any

import tqdm

from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import release_layout
from official_ext.harmonization.data.records import shard_download

# When this many shards fail in a row, the network is the cause, not the shards.
_GIVE_UP = 4


class _Bar:
  """A progress bar of bytes, whose total grows as sizes become known."""

  def __init__(self, shards: int):
    self._shards, self._done = shards, 0
    self._bar = tqdm.tqdm(
      desc=f'0/{shards} shards',
      total=0,
      unit='B',
      unit_scale=True,
      disable=None,
    )

  def add(self, size: int, total: int):
    """Adds to the bytes that have arrived, and to the expected total."""
    with self._bar.get_lock():
      self._bar.total += total
      self._bar.update(size)

  def finish_shard(self):
    """Counts a complete shard."""
    self._done += 1
    self._bar.set_description(f'{self._done}/{self._shards} shards')

  def close(self):
    """Stops updating the bar."""
    self._bar.close()


def shard_numbers(split: str, chosen: Sequence[str] | None) -> list[int]:
  """Parses the numbers of shards.

  Args:
    split: name of the split.
    chosen: numbers and ranges, such as ['0-9', '17']; None for all.

  Returns:
    The numbers, sorted, without duplicates.

  Raises:
    ValueError: a number or range is invalid, or the split has no such shard.
  """
  count = release_layout.SHARDS[split]
  if chosen is None:
    return list(range(count))
  numbers = set()
  for part in chosen:
    first, _, last = part.partition('-')
    last = last or first
    if not (
      first.isdigit() and last.isdigit() and int(first) <= int(last) < count
    ):
      raise ValueError(
        f'--shards is {part!r}, but {split} has shards 0..{count - 1}; '
        'expected numbers or ranges, such as 0-9,17. Add --split to choose '
        'one split.'
      )
    numbers.update(range(int(first), int(last) + 1))
  return sorted(numbers)


class _Split:
  """The folder of a split, and its manifest."""

  def __init__(self, output_dir: str, base_url: str, split: str):
    self.folder = os.path.join(output_dir, split)
    self.url = f'{base_url.rstrip("/")}/{split}'
    os.makedirs(self.folder, exist_ok=True)
    try:
      shards = manifest.read(self.folder)['shards']
    except FileNotFoundError:
      shards = []
    self.known = {
      shard['file']: shard
      for shard in shards
      if os.path.exists(os.path.join(self.folder, shard['file']))
    }

  def add(self, shard: dict[str, Any]):
    """Adds a complete shard to the manifest, which a killed run then keeps."""
    if self.known.get(shard['file']) != shard:
      self.known[shard['file']] = shard
      manifest.write(
        self.folder, source=self.url, shards=list(self.known.values())
      )


def download(
  output_dir: str,
  numbers: dict[str, list[int]],
  base_url: str = release_layout.BASE_URL,
  retries: int = 5,
  timeout: float = 60.0,
  workers: int = 4,
):
  """Downloads missing shards, and lists them in the manifests.

  Args:
    output_dir: folder of the splits.
    numbers: of the shards, by split.
    base_url: address of the splits.
    retries: attempts in a row without new data, for each shard.
    timeout: seconds without a byte until an attempt fails.
    workers: shards that are downloaded at the same time.

  Raises:
    shard_download.DownloadError: a shard could not be downloaded. All others
      are complete, unless several failed in a row.
    ValueError: a folder holds a manifest.json of something else.
  """
  stop = threading.Event()
  bar = _Bar(sum(map(len, numbers.values())))
  executor = futures.ThreadPoolExecutor(workers)
  jobs = {}
  try:
    for name, chosen in numbers.items():
      split = _Split(output_dir, base_url, name)
      for i in chosen:
        file = f'{name}-{i}.tfrecords'
        shard = shard_download.ShardDownload(
          f'{split.url}/{file}',
          os.path.join(split.folder, file),
          timeout,
          bar.add,
          stop,
        )
        jobs[executor.submit(shard.fetch, split.known.get(file), retries)] = (
          split
        )
    failed, in_a_row = [], 0
    for job in futures.as_completed(jobs):
      try:
        jobs[job].add(job.result())
        bar.finish_shard()
        in_a_row = 0
      except shard_download.DownloadError as e:
        failed.append(e)
        in_a_row += 1
        if in_a_row == _GIVE_UP:
          break
  finally:
    stop.set()
    executor.shutdown(cancel_futures=True)
    bar.close()
  if failed:
    also = f', and {len(failed) - 1} more' if failed[1:] else ''
    raise shard_download.DownloadError(
      f'{failed[0]}{also}. Complete shards are kept. Run the same command '
      'again to resume, or check --base_url and --shards.'
    )


def run(output_dir: str, numbers: dict[str, list[int]], **options: Any):
  """Downloads shards to a folder that no other process is using.

  Args:
    output_dir: folder of the splits.
    numbers: of the shards, by split.
    **options: the other arguments of `download`.
  """
  with output_folder.alone(output_dir):
    download(output_dir, numbers, **options)
  for split, chosen in numbers.items():
    print(
      f'{os.path.join(output_dir, split)}: {len(chosen)} of '
      f'{release_layout.SHARDS[split]} shards are complete.'
    )
