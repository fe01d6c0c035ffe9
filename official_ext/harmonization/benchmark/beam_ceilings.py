# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Measures agreement between people with Apache Beam.

Rows of clicks are read by the workers and brought together by groups of images,
so that the maps of one group at a time are in the memory of a worker.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import os
from typing import Any

try:
  import apache_beam as beam
except ImportError:
  beam = None

import tensorflow as tf

from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import participant_maps

# Begins the names of the files that workers write.
_PREFIX = 'ceilings.beam'


def check_installed():
  """Raises ImportError if Apache Beam is not installed."""
  if beam is None:
    raise ImportError(
      "apache-beam is not installed; run: pip install '.[beam]'."
    )


class _Rows:
  """The rows of some images, as `click_files.Table`."""

  def __init__(self, rows: Mapping[str, Sequence[clicks.ParticipantClicks]]):
    self._rows = rows

  def rows(self, image: str) -> Sequence[clicks.ParticipantClicks]:
    return self._rows[image]


def _ordered_rows(job, arguments, group_of):
  """Yields the group, and image, position and row, of a file of clicks."""
  number, file = job
  for i, (image, row) in enumerate(click_files.read(file, **arguments)):
    if image in group_of:
      yield group_of[image], (image, (number, i), row)


def _measure(grouped, maps, work):
  """Measures a group whose rows came in any order; returns a line of JSON."""
  number, found = grouped
  ((images,), rows) = found['images'], found['rows']
  by_image = {image: [] for image in images}
  for image, position, row in rows:
    by_image[image].append((position, row))
  table = _Rows(
    {
      image: [row for _, row in sorted(some, key=lambda pair: pair[0])]
      for image, some in by_image.items()
    }
  )
  return json.dumps(work(number, maps.of(table, images), images))


def measure(
  paths: Sequence[str],
  arguments: Mapping[str, Any],
  groups: Mapping[int, Sequence[str]],
  maps: participant_maps.ParticipantMaps,
  work: Callable[..., list[Any]],
  output_dir: str,
  runner: Sequence[str],
) -> list[list[Any]]:
  """Measures groups of images.

  Args:
    paths: of the files of clicks, in the order in which they count.
    arguments: of `click_files.read`.
    groups: images of each group, by its number.
    maps: of the participants, with all settings.
    work: is called with the number of a group, a reader of its maps and its
      images; returns what JSON can hold, beginning with the number.
    output_dir: folder that all workers can write to.
    runner: options of the Beam runner.

  Returns:
    What `work` returned, in the order of the groups.
  """
  prefix = os.path.join(output_dir, _PREFIX)
  _remove(prefix)
  blank = maps.of(_Rows({}), [])
  with beam.Pipeline(argv=list(runner)) as pipeline:
    group_of = beam.pvalue.AsDict(
      pipeline
      | 'Groups by image'
      >> beam.Create([(name, i) for i, some in groups.items() for name in some])
    )
    rows = (
      pipeline
      | 'Files' >> beam.Create(list(enumerate(paths)))
      | beam.Reshuffle()
      | beam.FlatMap(_ordered_rows, dict(arguments), group_of)
    )
    images = pipeline | 'Images' >> beam.Create(
      [(i, list(some)) for i, some in groups.items()]
    )
    _ = (
      {'rows': rows, 'images': images}
      | beam.CoGroupByKey()
      | beam.Map(_measure, blank, work)
      | beam.io.WriteToText(prefix)
    )
  found = []
  for path in tf.io.gfile.glob(f'{prefix}*'):
    with tf.io.gfile.GFile(path) as f:
      found += [json.loads(line) for line in f.read().splitlines()]
  _remove(prefix)
  return sorted(found, key=lambda item: item[0])


def _remove(prefix: str):
  for path in tf.io.gfile.glob(f'{prefix}*'):
    tf.io.gfile.remove(path)
