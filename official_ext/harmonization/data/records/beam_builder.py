# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Builds a folder of canonical records with Apache Beam."""

from collections.abc import Iterable, Sequence
import posixpath
from typing import Any

try:
  import apache_beam as beam
except ImportError:
  beam = None

from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.records import build_options
from official_ext.harmonization.data.records import clickme_builder
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_builder
from official_ext.harmonization.data.records import shard_builder


def check_installed():
  """Raises ImportError if Apache Beam is not installed."""
  if beam is None:
    raise ImportError(
      "apache-beam is not installed; run: pip install '.[beam]'."
    )


def _ordered_rows(job, arguments):
  """Yields image, position and row of a file of clicks."""
  number, file = job
  for i, (image, row) in enumerate(click_files.read(file, **arguments)):
    yield image, ((number, i), row)


def _outcome_of_rows(grouped, builder: record_builder.RecordBuilder):
  """Returns the outcome of an image whose rows came in any order."""
  image, rows = grouped
  ordered = sorted(rows, key=lambda positioned: positioned[0])
  return builder.outcome(image, [row for _, row in ordered])


def _write(grouped, directory: str, order: list[str], seed: int):
  """Writes a shard, whose records are held in memory to sort them."""
  index, outcomes = grouped
  shard_builder.write(
    directory,
    order[index],
    sorted(
      (o for o in outcomes if o is not None),
      key=lambda o: (shard_builder.position(o.name, seed), o.name),
    ),
  )


# Beam is optional.
_PTransform: Any = beam.PTransform if beam else object


class WriteShards(_PTransform):
  """Writes outcomes to shards, each in the order that a seed gives."""

  def __init__(
    self,
    directory: str,
    order: Sequence[str],
    missing: Iterable[int],
    seed: int,
  ):
    """Initializes the transform.

    Args:
      directory: folder of the shards, which has been claimed.
      order: names of all shards.
      missing: positions in `order` of the shards to write.
      seed: of the order of the images.
    """
    super().__init__()
    self._directory = directory
    self._order = order
    self._missing = list(missing)
    self._seed = seed

  def expand(self, outcomes):
    """Builds the transform."""
    count, seed = len(self._order), self._seed
    keyed = outcomes | beam.Map(
      lambda o: (shard_builder.index(o.name, seed, count), o)
    )
    # Shards without an image are written, too.
    every = outcomes.pipeline | 'Shards' >> beam.Create(
      [(i, None) for i in self._missing]
    )
    return (
      (keyed, every)
      | beam.Flatten()
      | beam.GroupByKey()
      | beam.Map(_write, self._directory, self._order, seed)
    )


def _outcomes(pipeline, options, names, builder, missing, count):
  """Returns the outcomes of all images of the missing shards."""
  seed = options.seed

  def wanted(name):
    return shard_builder.index(name, seed, count) in missing

  if names is not None:
    return (
      pipeline
      | beam.Create([n for n in names if wanted(n)])
      | beam.Reshuffle()
      | beam.Map(builder.outcome)
    )
  return (
    pipeline
    | beam.Create(list(enumerate(click_files.expand(options.clicks))))
    | beam.Reshuffle()
    | beam.FlatMap(_ordered_rows, clickme_builder.click_arguments(options))
    | beam.Filter(lambda positioned: wanted(positioned[0]))
    | beam.GroupByKey()
    | beam.Map(_outcome_of_rows, builder)
  )


def build(
  options: build_options.Options,
  runner: Sequence[str] = ('--runner=DirectRunner',),
) -> dict[str, Any]:
  """Builds the missing shards, and the manifest.

  Args:
    options: what is built from what.
    runner: options of the Beam runner.

  Returns:
    The totals, see `shard_builder.finish`.

  Raises:
    ValueError: the options are wrong, or an input file is.
  """
  clickme_builder.check(options)
  if options.clicks and not options.shards:
    raise ValueError(
      '--clicks needs --shards here, because the number of images is unknown '
      'before all clicks are read. Give the number of shards.'
    )
  directory = options.output_dir
  classes = clickme_builder.labels(options)
  reader = clickme_builder.reader(options, classes)
  if options.clicks:
    names, count = None, options.shards
    used_folders = set()

    def noted():
      for image, row in clickme_builder.click_rows(options):
        used_folders.add(posixpath.dirname(image))
        yield image, row

    known = output_folder.claimed(directory).get('input', '')
    fingerprint = click_files.fingerprint(noted(), known)
    clickme_builder.check_folders(
      options, [f'{folder}/' for folder in used_folders], classes
    )
    clickme_builder.check_frame(
      clickme_builder.click_rows(options), reader, options
    )
  else:
    names = reader.names()
    clickme_builder.check_folders(options, names, classes)
    count = clickme_builder.shard_count(options, names)
    fingerprint = reader.fingerprint()
  order = shard_builder.names(options.split, count)
  used = clickme_builder.settings(options, fingerprint, classes, count)
  output_folder.claim(
    directory,
    order,
    used,
    {} if options.clicks else {'input': reader.inventory()},
    defaults={'shard_count': count},
  )
  missing = {
    i for i in range(count) if not shard_builder.is_whole(directory, order[i])
  }
  builder = record_builder.RecordBuilder(
    reader, options.label_offset, options.map_resize
  )
  with beam.Pipeline(argv=list(runner)) as pipeline:
    outcomes = _outcomes(pipeline, options, names, builder, missing, count)
    _ = outcomes | WriteShards(directory, order, sorted(missing), options.seed)
  return clickme_builder.finish(options, order, classes, used)
