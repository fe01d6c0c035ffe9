r"""Downloads the ClickMe release: images, classes and human maps.

  python -m official_ext.harmonization.data.download_clickme \
      --output_dir=data/click-me

The 319 shards of train and 18 of val go to <output_dir>/<split>. A shard stands
under its name only when every one of its records has been read and its
checksums match. Typed again, the command goes on where it was: what is whole
stays, what is half there is continued. Each split's manifest.json lists its
shards with their records, bytes and SHA-256.
"""

from collections.abc import Sequence
from concurrent import futures
import os
import threading
from typing import Any

from absl import flags
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import resources
from official_ext.harmonization.data.records import http_shard
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder

FLAGS = flags.FLAGS

BASE_URL = (
  'https://storage.googleapis.com/serrelab/prj_harmonization/dataset/click-me'
)
# The release's loaders stop one shard short of these in each split.
SHARDS = {'train': 319, 'val': 18}

# So many shards failing one after the other are a matter of the network, not of
# the shards.
_GIVE_UP = 4


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
    'output_dir', None, 'Where <split>/<split>-<i>.tfrecords are written.'
  )
  flags.DEFINE_string(
    'base_url', BASE_URL, 'Where <split>/<split>-<i>.tfrecords are.'
  )
  flags.DEFINE_multi_enum(
    'split',
    list(SHARDS),
    list(SHARDS),
    'Split to download; may be given twice.',
  )
  flags.DEFINE_list(
    'shards', None, 'Numbers of shards, such as 0-9,17. Left out, all.'
  )
  flags.DEFINE_integer(
    'retries',
    5,
    'Attempts in a row that may bring nothing new, for each shard.',
    lower_bound=0,
  )
  flags.DEFINE_float(
    'timeout',
    60.0,
    'Seconds without a byte after which an attempt has failed.',
    lower_bound=0.1,
  )
  flags.DEFINE_integer(
    'workers', 4, 'Shards that are downloaded at the same time.', lower_bound=1
  )
  flags.mark_flag_as_required('output_dir')


class _Bar:
  """A progress bar of bytes, whose total grows as it becomes known."""

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
    """Counts bytes that have come, and bytes that are to come."""
    with self._bar.get_lock():
      self._bar.total += total
      self._bar.update(size)

  def finish_shard(self):
    """Counts a shard that is whole."""
    self._done += 1
    self._bar.set_description(f'{self._done}/{self._shards} shards')

  def close(self):
    """Leaves the bar as it is."""
    self._bar.close()


def shard_numbers(split: str, chosen: Sequence[str] | None) -> list[int]:
  """Says which shards of a split are meant.

  Args:
    split: its name.
    chosen: numbers and ranges, such as ['0-9', '17']; None for all.

  Returns:
    Their numbers, each once, in order.

  Raises:
    ValueError: there is no such shard.
  """
  count = SHARDS[split]
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
        f'--shards is {part!r}, and {split} has shards 0..{count - 1}: name '
        'numbers or ranges of them, such as 0-9,17, and --split for one '
        'split alone.'
      )
    numbers.update(range(int(first), int(last) + 1))
  return sorted(numbers)


class _Split:
  """A split's folder and its manifest."""

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
    """Lists a shard that is whole, so that a run that is killed keeps it."""
    if self.known.get(shard['file']) != shard:
      self.known[shard['file']] = shard
      manifest.write(
        self.folder, source=self.url, shards=list(self.known.values())
      )


def download(
  output_dir: str,
  numbers: dict[str, list[int]],
  base_url: str = BASE_URL,
  retries: int = 5,
  timeout: float = 60.0,
  workers: int = 4,
):
  """Downloads shards that are not there yet, and lists them in the manifests.

  Args:
    output_dir: folder of the splits.
    numbers: of the shards, by split.
    base_url: where the splits are.
    retries: attempts in a row that may bring nothing new, for each shard.
    timeout: seconds without a byte after which an attempt has failed.
    workers: shards that are downloaded at the same time.

  Raises:
    http_shard.DownloadError: a shard is missing at the end. All others are
      there, unless several failed in a row.
    ValueError: a folder holds a manifest that is not one of shards.
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
        shard = http_shard.Shard(
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
      except http_shard.DownloadError as e:
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
    raise http_shard.DownloadError(
      f'{failed[0]}{also}. What is whole stays: type the command again to go '
      'on, or check --base_url and --shards.'
    )


def main(_):
  """Downloads what the flags describe."""
  output_dir = resources.working_path(FLAGS.output_dir)
  if not FLAGS.base_url.startswith(('http://', 'https://')):
    raise ValueError(
      f'--base_url is {FLAGS.base_url!r}; expected an address '
      'that begins with http:// or https://.'
    )
  if '://' in output_dir:
    raise ValueError(
      f'--output_dir is {output_dir}; expected a local folder. '
      'Download to one, then copy the files.'
    )
  numbers = {s: shard_numbers(s, FLAGS.shards) for s in FLAGS.split}
  with output_folder.alone(output_dir):
    download(
      output_dir,
      numbers,
      FLAGS.base_url,
      FLAGS.retries,
      FLAGS.timeout,
      FLAGS.workers,
    )
  for split, chosen in numbers.items():
    print(
      f'{os.path.join(output_dir, split)}: {len(chosen)} of '
      f'{SHARDS[split]} shards are there and whole.'
    )


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
