"""Builds a folder of canonical shards: in parallel, resumable, never mixed.

A shard is built by one process, record by record, and appears when it is
whole, together with a note of what is in it (`.build/<shard>.json`). What has
both is not built again. The manifest is written last, from the notes.
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

from official_ext.harmonization import files
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import workers

LEFT_OUT = record_files.LEFT_OUT
# The records of each of more classes are not listed.
_CLASSES_SHOWN = 20

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
    counts: how many clicks and the like were skipped, by reason.
    rows: other things that were left out: name, reason and detail of each.
    map_id: of the map that was attached, where maps are looked up by id.
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


def assign(
  images: Iterable[str], split: str, count: int, seed: int
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


def is_whole(directory: str, shard: str) -> bool:
  """Whether a shard stands there as its note has it."""
  path = os.path.join(directory, shard)
  note = output_folder.note(directory, shard)
  if not (tf.io.gfile.exists(path) and tf.io.gfile.exists(note)):
    return False
  size = files.read_json(note)['shard']['bytes']
  return tf.io.gfile.stat(path).length == size


def write(
  directory: str,
  shard: str,
  outcomes: Iterable[Outcome],
  progress: Callable[[int], None] = lambda images: None,
) -> int:
  """Writes one shard, and its note.

  Args:
    directory: of the shards.
    shard: its name.
    outcomes: of its images, in order; only one is held at a time.
    progress: is called with how many more images are done.

  Returns:
    The number of its records.
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
    # Of the bytes that this process wrote, whoever else writes the shard.
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
  """Starts a process: what it makes is handed over once, not per shard."""
  global _make
  _make = make


def _build_one(directory, shard, job, progress) -> int:
  return write(directory, shard, _make(job), progress)


def build(
  directory: str,
  jobs: Mapping[str, Any],
  make: Callable[[Any], Iterable[Outcome]],
  processes: int = 1,
  images: Mapping[str, int] | None = None,
):
  """Builds the shards that are not there yet, behind a progress bar of images.

  Args:
    directory: of the shards; claimed.
    jobs: what `make` needs for each shard, by the shard's name.
    make: yields the outcomes of a shard's images, in order. Where there are
      several processes it must survive pickling.
    processes: that build; each holds one record at a time. With 1, this process
      does.
    images: how many each shard is made of; None where that is not known. The
      bar then expects as many in each as in those that are done.
  """
  todo = [shard for shard in jobs if not is_whole(directory, shard)]
  total = sum(images.values()) if images else None
  left = sum(images[shard] for shard in todo) if images else 0
  bar = tqdm.tqdm(
    total=total,
    initial=total - left if images else 0,
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
  """Writes the manifest, and the list of what was skipped, of whole shards.

  Args:
    directory: of the shards.
    shards: their names.
    source: where the records come from.
    **facts: what else the manifest is to say.

  Returns:
    `records` and `counts` as in the manifest; `map_ids` of the maps that were
    attached; `left_out`, the number of lines of the list; `first`, the name and
    the detail of the first image or row of each reason; and `classes`, how many
    records there are by class, None where a shard of an earlier version does
    not say.

  Raises:
    ValueError: a shard is missing.
  """
  counts, classes = collections.Counter(), collections.Counter()
  map_ids, described, first, left_out = set(), [], {}, 0
  with files.atomic(os.path.join(directory, LEFT_OUT)) as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(('name', 'reason', 'detail'))
    for shard in shards:
      if not is_whole(directory, shard):
        raise ValueError(
          f'{os.path.join(directory, shard)} is missing or cut. Run the same '
          'command again: it builds what is missing.'
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
  directory: str, totals: Mapping[str, Any], class_names: Sequence[str] = ()
) -> str:
  """Says in a few lines what was made and what was skipped.

  Args:
    directory: of the shards.
    totals: as from `finish`.
    class_names: in the order of the classes' numbers, where they have names.

  Returns:
    The lines.
  """
  lines = [f'{directory}: {totals["records"]} records.']
  if totals['classes']:
    lines += _of_classes(totals['classes'], class_names)
  lines += counted(totals['counts'], totals['first'])
  if totals['left_out']:
    lines.append(
      f'Everything skipped is listed in {os.path.join(directory, LEFT_OUT)}.'
    )
  return '\n'.join(lines)


def counted(
  counts: Mapping[str, int], first: Mapping[str, tuple[str, str]]
) -> list[str]:
  """Says how many there are of each kind, with an example.

  Args:
    counts: by kind.
    first: name and detail of the first of a kind, where there is one.

  Returns:
    The lines.
  """
  lines = []
  for kind, count in counts.items():
    lines.append(f'{count:>10}  {kind}')
    # A list of rows names each: 'row: unreadable'.
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


def _of_classes(classes: Mapping[int, int], names: Sequence[str]) -> list[str]:
  """Says how many records there are of each class."""
  if len(classes) <= _CLASSES_SHOWN:
    lines = [
      f'{count:>10}  of class {label}'
      + (f' ({names[label]})' if label < len(names) else '')
      for label, count in classes.items()
    ]
    if len(classes) == 1 and sum(classes.values()) > 1:
      lines.append(
        'All records are of one class: check the folders, labels or '
        '--strip_prefix if there should be more.'
      )
    return lines
  least, most = min(classes.values()), max(classes.values())
  return [
    f'{len(classes):>10}  classes, {min(classes)} to {max(classes)}, of '
    f'{least} to {most} records each'
  ]
