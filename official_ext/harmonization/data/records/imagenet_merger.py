# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Adds human maps to Model Garden's ImageNet records, by image id."""

from collections.abc import Iterator, Mapping
import csv
import hashlib
import os

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_index
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.records import shard_builder

UNMATCHED = record_files.UNMATCHED
_LABEL = 'image/class/label'


class Merger:
  """Makes the records of one shard, with maps."""

  def __init__(
    self,
    index: Mapping[str, map_index.RecordLocation],
    key: str,
    framing: str,
    label_offset: int,
    only_mapped: bool,
  ):
    """Initializes the merger.

    Args:
      index: locations of the maps, by image id.
      key: name of the field that holds an image's name.
      framing: what a map shows of its image, see `map_framing.fit`.
      label_offset: added to every label.
      only_mapped: whether images without a map are skipped.
    """
    self._index = index
    self._key = key
    self._framing = framing
    self._label_offset = label_offset
    self._only_mapped = only_mapped

  def __call__(self, path: str) -> Iterator[shard_builder.RecordOutcome]:
    """Yields the outcome of each record of a shard.

    Args:
      path: of the shard.

    Yields:
      The record, with its map if there is one.

    Raises:
      ValueError: a record is damaged or lacks a label or image, or a map has
        another aspect ratio than its image.
    """
    for where, _, example in map_index.examples(path):
      yield self._outcome(example, where)

  def _outcome(self, example, where) -> shard_builder.RecordOutcome:
    """Returns the outcome of one record."""
    name = map_index.text(example, self._key)
    image_id = map_index.image_id(name)
    location = self._index.get(image_id) if image_id else None
    shape, is_new = self._complete(example, where, location is not None)
    if location is None:
      reason = 'without a map' if image_id else f'without {self._key}'
      if self._only_mapped:
        return shard_builder.RecordOutcome(name or where, reason=reason)
      counts = {f'images: {reason}': 1}
    else:
      counts = {'images: with a map': 1}
      if is_new:
        counts[image_codec.ANEW] = 1
      try:
        fields = map_index.fit(
          map_index.read(location), shape.height, shape.width, self._framing
        )
      except ValueError as e:
        raise ValueError(
          f'{location.file}: the map does not fit {name} in {where}: {e}. '
          'Repair or remove the map.'
        ) from None
      record_writer.add_fields(example, fields)
    return shard_builder.RecordOutcome(
      name,
      example.SerializeToString(deterministic=True),
      counts=counts,
      map_id=image_id if location else '',
      label=example.features.feature[_LABEL].int64_list.value[0],
    )

  def _complete(
    self, example, where, has_map: bool
  ) -> tuple[image_codec.Shape, bool]:
    """Adds missing fields of an image.

    Args:
      example: the record, which is changed.
      where: its file and index, for messages.
      has_map: whether a map is added. The image is then stored as people see it
        (rotated, for example), because the map belongs to that view. Images
        without a map are not changed.

    Returns:
      The image's shape, and whether the image was encoded again.
    """
    feature = example.features.feature
    labels = feature[_LABEL].int64_list.value
    encoded = feature['image/encoded'].bytes_list.value
    if not labels or not encoded:
      missing = 'image/encoded' if labels else _LABEL
      raise ValueError(
        f'{where} has no {missing}; expected the fields of Model '
        "Garden's ImageNet records. Give such records."
      )
    try:
      image = image_codec.as_seen(encoded[0]) if has_map else encoded[0]
      shape = image_codec.shape(image)
    except ValueError as e:
      raise ValueError(
        f'{where}: image/encoded is {e}. Repair or remove the record.'
      ) from None
    is_new = image != encoded[0]
    record_writer.add_fields(
      example,
      {
        'image/encoded': image,
        _LABEL: labels[0] + self._label_offset,
        'image/height': shape.height,
        'image/width': shape.width,
        'image/channels': shape.channels,
        'image/format': shape.format.encode(),
      },
    )
    return shape, is_new


def _inputs(pattern: str) -> dict[str, str]:
  """Returns the paths of the ImageNet shards by their names."""
  paths = record_files.expand([pattern], 'imagenet')
  jobs = {os.path.basename(path): path for path in paths}
  if len(jobs) < len(paths):
    raise ValueError(
      f'--imagenet={pattern} matches files of the same name in several '
      'folders; expected different names. Merge one folder at a time.'
    )
  return jobs


def _fingerprint(jobs, index) -> str:
  """Returns a checksum of names, sizes and offsets, not of contents."""
  digest = hashlib.sha256()
  sizes = {}
  for name, path in jobs.items():
    digest.update(f'{name} {tf.io.gfile.stat(path).length}\n'.encode())
  for image_id, location in sorted(index.items()):
    if location.file not in sizes:
      sizes[location.file] = tf.io.gfile.stat(location.file).length
    digest.update(
      f'{image_id} {os.path.basename(location.file)} {location.offset} '
      f'{sizes[location.file]}\n'.encode()
    )
  return digest.hexdigest()


def _inventory(jobs, index) -> dict[str, int]:
  """Returns the sizes of the files that the checksum summarizes."""
  maps = {location.file for location in index.values()}
  return {
    path: tf.io.gfile.stat(path).length
    for path in sorted({*jobs.values(), *maps})
  }


def merge(
  imagenet: str,
  output_dir: str,
  map_records: str = '',
  map_dir: str = '',
  key: str = 'image/filename',
  map_key: str = 'image/filename',
  framing: str = 'same',
  label_offset: int = 0,
  only_mapped: bool = False,
  workers: int = 1,
) -> int:
  """Writes the missing shards and the manifest, and prints a summary.

  Args:
    imagenet: pattern of the ImageNet shards.
    output_dir: where the shards are written.
    map_records: pattern of canonical shards with maps, or empty.
    map_dir: folder of maps, or empty.
    key: field of the ImageNet records that holds the image's name.
    map_key: field of the canonical records that holds the image's name.
    framing: what a map shows of its image, see `map_framing.fit`.
    label_offset: added to every label.
    only_mapped: whether images without a map are skipped.
    workers: number of processes.

  Returns:
    The number of maps that were added to an image.

  Raises:
    ValueError: an argument is missing, or an input file is wrong.
  """
  if not imagenet or not output_dir:
    raise ValueError('--imagenet and --output_dir must be given.')
  if bool(map_records) == bool(map_dir):
    raise ValueError(
      'Expected one input of maps, --map_records or --map_dir. Give one.'
    )
  files.refuse_output_in(output_dir, {'map_dir': map_dir})
  jobs = _inputs(imagenet)
  index = (
    map_index.of_folder(map_dir)
    if map_dir
    else map_index.of_records(map_records, map_key)
  )
  if not index:
    raise ValueError(
      f'{map_dir or map_records} holds no maps; expected at least one. Check '
      '--map_dir or --map_records.'
    )
  settings = {
    'key': key,
    'framing': framing,
    'label_offset': label_offset,
    'only_mapped': only_mapped,
    'input': _fingerprint(jobs, index),
  }
  merger = Merger(index, key, framing, label_offset, only_mapped)
  with output_folder.alone(output_dir):
    output_folder.claim(
      output_dir, jobs, settings, {'input': _inventory(jobs, index)}
    )
    shard_builder.build(output_dir, jobs, merger, workers)
    totals = shard_builder.finish(
      output_dir,
      list(jobs),
      settings=settings,
      source=f'{imagenet} and {map_dir or map_records}',
    )
    unmatched = sorted(index.keys() - totals['map_ids'])
    _write_unmatched(os.path.join(output_dir, UNMATCHED), index, unmatched)
  print(shard_builder.summary(output_dir, totals))
  print(
    f'{len(index) - len(unmatched)} of {len(index)} maps were added to an image'
    f'{f"; the others are listed in {UNMATCHED}" if unmatched else ""}.'
  )
  return len(index) - len(unmatched)


def _write_unmatched(path, index, unmatched):
  """Lists the maps without an image."""
  with files.atomic(path) as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(('image_id', 'file', 'offset'))
    writer.writerows((name, *index[name]) for name in unmatched)
