"""Builds a folder of canonical shards: in parallel, resumable, never mixed.

A shard is built by one process, record by record, and appears when it is
whole, together with a note of what is in it (`.build/<shard>.json`). What has
both is not built again. The manifest is written last.
"""

import collections
from concurrent import futures
import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import os
from typing import Any, Callable, Iterable, Mapping, Sequence

import tensorflow as tf, tf_keras
import tqdm

from official_ext.harmonization.data import manifest
from official_ext.harmonization.data import record_writer

_NOTES = '.build'
_SETTINGS = 'settings.json'
LEFT_OUT = 'left_out.csv'

# What makes the records of a shard, in the process that builds it.
_make = None


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of one image.

  Attributes:
    name: of the image.
    record: its serialized record; empty where it is left out.
    reason: why it is left out, in words that others share.
    detail: what was found.
    counts: how many clicks and the like were left out, by reason.
    rows: other things that were left out: name, reason and detail of each.
    map_id: of the map that was attached, where maps are looked up by id.
  """
  name: str
  record: bytes = b''
  reason: str = ''
  detail: str = ''
  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
  rows: Sequence[tuple[str, str, str]] = ()
  map_id: str = ''


def position(name: str, seed: int) -> int:
  """An image's place in the order that a seed gives.

  It depends on nothing but the image and the seed, so that any number of
  processes or machines agree on it.

  Args:
    name: of the image.
    seed: of the order.

  Returns:
    A whole number below 2**64, evenly spread.
  """
  digest = hashlib.blake2b(f'{seed}/{name}'.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big')


def index(name: str, seed: int, count: int) -> int:
  """Returns which of `count` shards an image belongs to."""
  return position(name, seed) * count >> 64


def names(split: str, count: int) -> list[str]:
  """Returns the names of a split's shards."""
  return [f'{split}-{i:05d}-of-{count:05d}' for i in range(count)]


def assign(images: Iterable[str], split: str, count: int, seed: int
          ) -> dict[str, list[str]]:
  """Deals images to shards.

  Args:
    images: their names.
    split: name of the split.
    count: of the shards.
    seed: of the order.

  Returns:
    The images of each shard, in order.
  """
  jobs = {shard: [] for shard in names(split, count)}
  order = list(jobs)
  for image in sorted(images, key=lambda name: (position(name, seed), name)):
    jobs[order[index(image, seed, count)]].append(image)
  return jobs


def _write_json(path: str, content):
  """Writes a small file, whole or not at all."""
  with tf.io.gfile.GFile(f'{path}.partial', 'w') as f:
    f.write(json.dumps(content, indent=1, sort_keys=True))
  tf.io.gfile.rename(f'{path}.partial', path, overwrite=True)


def _read_json(path: str):
  with tf.io.gfile.GFile(path) as f:
    return json.load(f)


def working_file(directory: str, name: str) -> str:
  """Returns the path of a file that only the building needs.

  Args:
    directory: of the shards.
    name: of the file.

  Returns:
    Its path, in a folder that exists.
  """
  folder = os.path.join(directory, _NOTES)
  tf.io.gfile.makedirs(folder)
  return os.path.join(folder, name)


def _note(directory: str, shard: str) -> str:
  return os.path.join(directory, _NOTES, f'{shard}.json')


def claim(directory: str, shards: Iterable[str], settings: Mapping[str, Any]):
  """Says what a folder is going to hold, or that it is not free for that.

  Args:
    directory: of the shards.
    shards: their names.
    settings: what their content depends on; must survive JSON.

  Raises:
    ValueError: the folder holds something else.
  """
  # As JSON gives it back.
  settings = json.loads(json.dumps(settings))
  path = os.path.join(directory, _NOTES, _SETTINGS)
  if tf.io.gfile.exists(path):
    found = _read_json(path)
    differ = sorted(k for k in {*found, *settings}
                    if found.get(k) != settings.get(k))
    if differ:
      raise ValueError(
          f'{directory} holds shards made with ' +
          ', '.join(f'{k} = {found.get(k)!r}' for k in differ) +
          ', asked for is ' +
          ', '.join(f'{k} = {settings.get(k)!r}' for k in differ) +
          ': choose another --output_dir, or remove this one.')
    return
  for file in (*shards, manifest.FILE):
    if tf.io.gfile.exists(os.path.join(directory, file)):
      raise ValueError(
          f'{directory} holds {file}, which was not made by this command: '
          'choose another --output_dir.')
  _write_json(working_file(directory, _SETTINGS), settings)


@contextlib.contextmanager
def alone(directory: str):
  """Keeps a second run on this machine out of a folder.

  Args:
    directory: of the shards, local or not; a folder elsewhere is not locked.

  Yields:
    Nothing.

  Raises:
    ValueError: another run is at work there.
  """
  if '://' in directory:
    yield
    return
  # The system lets go of it when the process ends, however it ends.
  with open(working_file(directory, 'lock'), 'w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f'Another run is writing to {directory}: let it end, or '
                       'choose another --output_dir.') from None
    yield


def is_whole(directory: str, shard: str) -> bool:
  """Whether a shard stands there as its note has it."""
  path, note = os.path.join(directory, shard), _note(directory, shard)
  if not (tf.io.gfile.exists(path) and tf.io.gfile.exists(note)):
    return False
  size = _read_json(note)['shard']['bytes']
  return tf.io.gfile.stat(path).length == size


def write(directory: str, shard: str, outcomes: Iterable[Outcome]) -> int:
  """Writes one shard, and its note.

  Args:
    directory: of the shards.
    shard: its name.
    outcomes: of its images, in order; only one is held at a time.

  Returns:
    The number of its records.
  """
  path = os.path.join(directory, shard)
  counts, left_out, map_ids, records = collections.Counter(), [], [], 0
  with record_writer.shard(path) as writer:
    for outcome in outcomes:
      counts.update(outcome.counts)
      left_out.extend(outcome.rows)
      if outcome.map_id:
        map_ids.append(outcome.map_id)
      if outcome.record:
        writer.write(outcome.record)
        records += 1
      else:
        counts[f'images: {outcome.reason}'] += 1
        left_out.append((outcome.name, outcome.reason, outcome.detail))
  _write_json(_note(directory, shard), {
      'shard': manifest.describe(path, records), 'counts': counts,
      'left_out': left_out, 'map_ids': map_ids})
  return records


def _start(make):
  """Starts a process: what it makes is handed over once, not per shard."""
  global _make
  _make = make


def _build_one(directory: str, shard: str, job: Any) -> int:
  return write(directory, shard, _make(job))


def build(directory: str, jobs: Mapping[str, Any],
          make: Callable[[Any], Iterable[Outcome]], workers: int = 1):
  """Builds the shards that are not there yet, behind a progress bar.

  Args:
    directory: of the shards; claimed.
    jobs: what `make` needs for each shard, by the shard's name.
    make: yields the outcomes of a shard's images, in order. Where there are
      several workers it must survive pickling.
    workers: processes that build; each holds one record at a time. With 1,
      this process does.
  """
  todo = [shard for shard in jobs if not is_whole(directory, shard)]
  bar = tqdm.tqdm(total=len(jobs), initial=len(jobs) - len(todo),
                  desc=os.path.basename(os.path.normpath(directory)),
                  unit=' shards', disable=None)
  total = 0
  with bar:
    for records in _run(directory, jobs, todo, make, workers):
      total += records
      bar.set_postfix(records=total, refresh=False)
      bar.update()


def _run(directory, jobs, todo, make, workers):
  """Yields the number of records of each shard that is done."""
  workers = min(workers, len(todo))
  if workers <= 1:
    _start(make)
    for shard in todo:
      yield _build_one(directory, shard, jobs[shard])
    return
  # Forking a process in which TensorFlow is loaded may lock up.
  pool = futures.ProcessPoolExecutor(
      workers, multiprocessing.get_context('spawn'), _start, (make,))
  try:
    for done in futures.as_completed([
        pool.submit(_build_one, directory, shard, jobs[shard])
        for shard in todo
    ]):
      yield done.result()
  finally:
    pool.shutdown(cancel_futures=True)


def finish(directory: str, shards: Sequence[str], source: str,
           **facts) -> dict[str, Any]:
  """Writes the manifest, and the list of what was left out, of whole shards.

  Args:
    directory: of the shards.
    shards: their names.
    source: where the records come from.
    **facts: what else the manifest is to say.

  Returns:
    `records` and `counts` as in the manifest, `map_ids` of the maps that were
    attached, and `left_out`, the number of lines of the list.

  Raises:
    ValueError: a shard is missing.
  """
  counts, map_ids, described = collections.Counter(), set(), []
  left_out = 0
  path = os.path.join(directory, LEFT_OUT)
  with tf.io.gfile.GFile(f'{path}.partial', 'w') as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(('name', 'reason', 'detail'))
    for shard in shards:
      if not is_whole(directory, shard):
        raise ValueError(f'{os.path.join(directory, shard)} is missing or cut: '
                         'run the same command again, it goes on from here.')
      note = _read_json(_note(directory, shard))
      described.append(note['shard'])
      counts.update(note['counts'])
      map_ids.update(note['map_ids'])
      writer.writerows(note['left_out'])
      left_out += len(note['left_out'])
  tf.io.gfile.rename(f'{path}.partial', path, overwrite=True)
  counts = dict(sorted(counts.items()))
  manifest.write(directory, source=source, shards=described, counts=counts,
                 **facts)
  return {'records': sum(shard['records'] for shard in described),
          'counts': counts, 'map_ids': map_ids, 'left_out': left_out}


def summary(directory: str, totals: Mapping[str, Any]) -> str:
  """Says in a few lines what was made and what was left out.

  Args:
    directory: of the shards.
    totals: as from `finish`.

  Returns:
    The lines.
  """
  lines = [f'{directory}: {totals["records"]} records.']
  lines += [f'{count:>10}  {reason}'
            for reason, count in totals['counts'].items()]
  if totals['left_out']:
    lines.append(f'Images and rows left out are listed in {LEFT_OUT} there.')
  return '\n'.join(lines)
