# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Builds a folder of canonical shards in parallel, and resumes a build.

One process builds a shard, record by record. The shard gets its name when it is
complete, with a note about its content (`.build/<shard>.json`). A shard
with a note is not built again. The manifest is written last, from the notes.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
import dataclasses
import hashlib
import os
import textwrap
from typing import Any

import tensorflow as tf
import tqdm

from official_ext.harmonization import choices
from official_ext.harmonization import files
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import workers

LEFT_OUT = record_files.LEFT_OUT
# With more classes, the summary does not list the number of records in each.
_CLASSES_SHOWN = 20

# Makes the records of a shard; set in each process that builds shards.
_make: Callable[[Any], Iterable['RecordOutcome']] | None = None


@dataclasses.dataclass(frozen=True)
class RecordOutcome:
  """What became of one image.

  Attributes:
    name: of the image.
    record: the serialized record; empty if the image was skipped.
    reason: why it was skipped, in words that are the same for all such images.
    detail: what was found in this image.
    counts: numbers of skipped clicks, rows and so on, by reason.
    rows: skipped rows of clicks: name, reason and detail of each.
    map_id: id of the map that was added, if maps are found by id.
    label: class in the record.
  """

  name: str
  record: bytes = b''
  reason: str = ''
  detail: str = ''
  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
  rows: Sequence[tuple[str, str, str]] = ()
  map_id: str = ''
  label: int | None = None


def position(name: str, seed: int) -> int:
  """Returns an image's position in the order that a seed gives.

  It depends only on the image and the seed, so that any number of processes or
  machines agree on it.

  Args:
    name: of the image.
    seed: of the order.

  Returns:
    An integer below 2**64; the positions of images are uniformly distributed.
  """
  digest = hashlib.blake2b(f'{seed}/{name}'.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big')


def index(name: str, seed: int, count: int) -> int:
  """Returns which of `count` shards an image belongs to."""
  return position(name, seed) * count >> 64


def names(split: str, count: int) -> list[str]:
  """Returns the names of a split's shards."""
  return [f'{split}-{i:05d}-of-{count:05d}' for i in range(count)]


def assign(
  images: Iterable[str], split: str, count: int, seed: int
) -> dict[str, list[str]]:
  """Distributes images over shards.

  Args:
    images: their names.
    split: name of the split.
    count: number of shards.
    seed: of the order.

  Returns:
    The images of each shard, in order, by the shard's name.
  """
  jobs = {shard: [] for shard in names(split, count)}
  order = list(jobs)
  for image in sorted(images, key=lambda name: (position(name, seed), name)):
    jobs[order[index(image, seed, count)]].append(image)
  return jobs


def is_whole(directory: str, shard: str) -> bool:
  """Whether a shard exists with the size that its note says."""
  path = os.path.join(directory, shard)
  note = output_folder.note(directory, shard)
  if not (tf.io.gfile.exists(path) and tf.io.gfile.exists(note)):
    return False
  size = files.read_json(note)['shard']['bytes']
  return tf.io.gfile.stat(path).length == size


def write(
  directory: str,
  shard: str,
  outcomes: Iterable[RecordOutcome],
  progress: Callable[[int], None] = lambda images: None,
) -> int:
  """Writes one shard, and the note about it.

  Args:
    directory: folder of the shards.
    shard: its name.
    outcomes: of its images, in order; only one is in memory at a time.
    progress: is called with the number of images done since its last call.

  Returns:
    The number of records.
  """
  path = os.path.join(directory, shard)
  counts, left_out, map_ids, records = collections.Counter(), [], [], 0
  classes = collections.Counter()
  with files.replacing(path) as partial:
    with tf.io.TFRecordWriter(partial) as writer:
      for outcome in outcomes:
        counts.update(outcome.counts)
        left_out.extend(outcome.rows)
        if outcome.map_id:
          map_ids.append(outcome.map_id)
        if outcome.record:
          writer.write(outcome.record)
          records += 1
          if outcome.label is not None:
            classes[outcome.label] += 1
        else:
          counts[f'images: {outcome.reason}'] += 1
          left_out.append(
            (
              outcome.name,
              outcome.reason,
              files.without_addresses(outcome.detail),
            )
          )
        progress(1)
    # Before it is renamed: another process may replace the final file.
    described = {**manifest.describe(partial, records), 'file': shard}
  files.write_json(
    output_folder.note(directory, shard),
    {
      'shard': described,
      'counts': counts,
      'left_out': left_out,
      'map_ids': map_ids,
      'classes': classes,
    },
    sort_keys=True,
  )
  return records


def _start(make):
  """Receives what makes the records, once per process, not per shard."""
  global _make
  _make = make


def _build_one(directory, shard, job, progress) -> int:
  assert _make  # Set by `_start`.
  return write(directory, shard, _make(job), progress)


def build(
  directory: str,
  jobs: Mapping[str, Any],
  make: Callable[[Any], Iterable[RecordOutcome]],
  processes: int = 1,
  images: Mapping[str, int] | None = None,
):
  """Builds the missing shards, with a progress bar of images.

  Args:
    directory: folder of the shards, which has been claimed.
    jobs: the argument of `make` for each shard, by the shard's name.
    make: yields the outcomes of a shard's images, in order. It must survive
      pickling if there are several processes.
    processes: number of processes, each of which holds one record at a time; 1
      to build in this process.
    images: number of images in each shard, or None if it is unknown; the bar
      then expects as many as in the average of the completed shards.
  """
  todo = [shard for shard in jobs if not is_whole(directory, shard)]
  total = sum(images.values()) if images else 0
  left = sum(images[shard] for shard in todo) if images else 0
  bar = tqdm.tqdm(
    total=total if images else None,
    initial=total - left,
    desc=os.path.basename(os.path.normpath(directory)),
    unit=' images',
    disable=None,
  )
  done = records = 0
  with bar:
    for made in workers.run(
      _build_one,
      [(directory, shard, jobs[shard]) for shard in todo],
      processes,
      bar.update,
      _start,
      (make,),
    ):
      done, records = done + 1, records + made
      if not images:
        bar.total = round(bar.n * len(todo) / done)
      bar.set_postfix(records=records, shards=f'{done}/{len(todo)}')


def finish(
  directory: str, shards: Sequence[str], source: str, **facts
) -> dict[str, Any]:
  """Writes the manifest and the list of what was skipped.

  Args:
    directory: folder of the shards.
    shards: their names; all are complete.
    source: where the records come from.
    **facts: further entries of the manifest.

  Returns:
    `records` and `counts`, as in the manifest; `map_ids`, the ids of the maps
    that were added; `left_out`, the number of lines in the list; `first`, name
    and detail of the first image or row for each reason; and `classes`, the
    number of records by class, or None if an earlier version wrote a note.

  Raises:
    ValueError: a shard is missing or incomplete.
  """
  counts, classes = collections.Counter(), collections.Counter()
  map_ids, described, first, left_out = set(), [], {}, 0
  with files.atomic(os.path.join(directory, LEFT_OUT)) as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(('name', 'reason', 'detail'))
    for shard in shards:
      if not is_whole(directory, shard):
        raise ValueError(
          f'{os.path.join(directory, shard)} is missing or incomplete. Run the '
          'same command again to build it.'
        )
      note = files.read_json(output_folder.note(directory, shard))
      described.append(note['shard'])
      counts.update(note['counts'])
      map_ids.update(note['map_ids'])
      if 'classes' in note or not note['shard']['records']:
        classes.update({int(k): n for k, n in note.get('classes', {}).items()})
      writer.writerows(note['left_out'])
      left_out += len(note['left_out'])
      for name, reason, detail in note['left_out']:
        first.setdefault(reason, (name, detail))
  counts = dict(sorted(counts.items()))
  records = sum(shard['records'] for shard in described)
  manifest.write(
    directory, source=source, shards=described, counts=counts, **facts
  )
  return {
    'records': records,
    'counts': counts,
    'map_ids': map_ids,
    'left_out': left_out,
    'first': first,
    'classes': dict(sorted(classes.items()))
    if sum(classes.values()) == records
    else None,
  }


def summary(
  directory: str,
  totals: Mapping[str, Any],
  class_names: Mapping[int, str] | None = None,
) -> str:
  """Returns a few lines on what was made and what was skipped.

  Args:
    directory: folder of the shards.
    totals: as from `finish`.
    class_names: names of the classes by label, if they have names.
  """
  lines = [f'{directory}: {choices.plural(totals["records"], "record")}.']
  if totals['classes']:
    lines += _of_classes(totals['classes'], class_names or {})
  lines += counted(totals['counts'], totals['first'])
  if totals['left_out']:
    lines.append(
      f'Everything skipped is listed in {os.path.join(directory, LEFT_OUT)}.'
    )
  return '\n'.join(lines)


def counted(
  counts: Mapping[str, int], first: Mapping[str, tuple[str, str]]
) -> list[str]:
  """Returns lines with the number of each kind, and an example.

  Args:
    counts: numbers by kind.
    first: name and detail of the first of a kind, if known.
  """
  lines = []
  for kind, count in counts.items():
    lines.append(f'{count:>10}  {kind}')
    # The list of skipped rows has the singular, such as 'row: unreadable'.
    if found := first.get(
      kind.removeprefix('images: ').replace('rows: ', 'row: ')
    ):
      name, detail = found
      lines.append(
        ' ' * 12
        + textwrap.shorten(
          f'such as {name}' + f': {detail}' * bool(detail),
          200,
          placeholder=' ...',
        )
      )
  return lines


def _of_classes(
  classes: Mapping[int, int], names: Mapping[int, str]
) -> list[str]:
  """Returns lines with the number of records in each class."""
  if len(classes) <= _CLASSES_SHOWN:
    lines = [
      f'{count:>10}  of class {label}'
      + (f' ({names[label]})' if label in names else '')
      for label, count in classes.items()
    ]
    if len(classes) == 1 and sum(classes.values()) > 1:
      lines.append(
        'All records have the same class. If there should be more classes, '
        'check the folders, the labels or --strip_prefix.'
      )
    return lines
  least, most = min(classes.values()), max(classes.values())
  return [
    f'{len(classes):>10}  classes, {min(classes)} to {max(classes)}, with '
    f'{least} to {most} records each'
  ]
