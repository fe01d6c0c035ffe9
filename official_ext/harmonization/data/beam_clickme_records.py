r"""Builds canonical records as build_clickme_records does, with Apache Beam.

  python -m official_ext.harmonization.data.beam_clickme_records \
      --npz=gs://BUCKET/clickme --output_dir=gs://BUCKET/records/train \
      --beam=--runner=DataflowRunner,--project=PROJECT,--region=REGION

For more images than one machine can take. It has the flags of
build_clickme_records and those of the runner in --beam, needs the optional
extra (pip install '.[beam]'), and writes the same bytes: shards, manifest.json,
left_out.csv. Clicks need --shards. Shards that are whole are not built again.
"""

from collections.abc import Iterable, Sequence
import posixpath

from absl import flags

try:
  import apache_beam as beam
except ImportError:
  beam = None

from official_ext.harmonization import cli
from official_ext.harmonization.data import build_clickme_records
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.records import canonical_maker
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import shards

FLAGS = flags.FLAGS


def define_flags():
  """Defines the tool's flags."""
  build_clickme_records.define_flags()
  flags.adopt_module_key_flags(build_clickme_records)
  flags.DEFINE_list(
    'beam',
    ['--runner=DirectRunner'],
    'Options of the runner, with commas between them.',
  )


def _ordered_rows(job, reading):
  """Yields image, place and row of a file of clicks."""
  number, file = job
  rows = click_files.read(file, **reading)
  for i, (image, row) in enumerate(rows):
    yield image, ((number, i), row)


def _outcome_of_rows(grouped, maker: canonical_maker.Maker):
  """Returns the outcome of an image whose rows came in any order."""
  image, rows = grouped
  ordered = sorted(rows, key=lambda placed: placed[0])
  return maker.outcome(image, [row for _, row in ordered])


def _write(grouped, directory: str, order: Sequence[str], seed: int):
  """Writes a shard; the records of one are held in memory to be ordered."""
  index, outcomes = grouped
  shards.write(
    directory,
    order[index],
    sorted(
      (o for o in outcomes if o is not None),
      key=lambda o: (shards.position(o.name, seed), o.name),
    ),
  )


class WriteShards(beam.PTransform if beam else object):
  """Outcomes to shards, each whole or absent, in the order of a seed."""

  def __init__(
    self, directory: str, order: Sequence[str], todo: Iterable[int], seed: int
  ):
    """Initializes the transform.

    Args:
      directory: of the shards; claimed.
      order: the names of all of them.
      todo: which of them are to be written.
      seed: of the order.
    """
    super().__init__()
    self._directory = directory
    self._order = order
    self._todo = list(todo)
    self._seed = seed

  def expand(self, outcomes):
    """Builds the transform."""
    count, seed = len(self._order), self._seed
    keyed = outcomes | beam.Map(
      lambda o: (shards.index(o.name, seed, count), o)
    )
    # A shard that no image falls into is there too, and empty.
    every = outcomes.pipeline | 'Shards' >> beam.Create(
      [(i, None) for i in self._todo]
    )
    return (
      (keyed, every)
      | beam.Flatten()
      | beam.GroupByKey()
      | beam.Map(_write, self._directory, self._order, seed)
    )


def _outcomes(pipeline, options, names, maker, todo, count):
  """Returns the outcomes of all images of the shards that are to be written."""
  seed = options.seed

  def wanted(name):
    return shards.index(name, seed, count) in todo

  if names is not None:
    return (
      pipeline
      | beam.Create([n for n in names if wanted(n)])
      | beam.Reshuffle()
      | beam.Map(maker.outcome)
    )
  return (
    pipeline
    | beam.Create(list(enumerate(options.clicks)))
    | beam.Reshuffle()
    | beam.FlatMap(_ordered_rows, build_clickme_records.reading(options))
    | beam.Filter(lambda placed: wanted(placed[0]))
    | beam.GroupByKey()
    | beam.Map(_outcome_of_rows, maker)
  )


def build(
  options: build_clickme_records.Options,
  runner: Sequence[str] = ('--runner=DirectRunner',),
):
  """Builds the shards that are not there yet, and their manifest.

  Args:
    options: what is built from what.
    runner: options of the runner.

  Returns:
    What `shards.finish` does.

  Raises:
    ValueError: the options or their files do not allow it.
  """
  build_clickme_records.check(options)
  if options.clicks and not options.shards:
    raise ValueError(
      '--clicks needs --shards here: the number of images is '
      'not known before all of the clicks are read.'
    )
  directory = options.output_dir
  classes = build_clickme_records.labels(options)
  source = build_clickme_records.source(options, classes)
  if options.clicks:
    names, count = None, options.shards
    places = set()

    def noted():
      for image, row in build_clickme_records.click_rows(options):
        places.add(posixpath.dirname(image))
        yield image, row

    fingerprint = click_files.fingerprint(noted())
    build_clickme_records.check_folders(
      options, [f'{place}/' for place in places], classes
    )
    build_clickme_records.check_frame(
      build_clickme_records.click_rows(options), source, options
    )
  else:
    names = source.names()
    build_clickme_records.check_folders(options, names, classes)
    count = build_clickme_records.shard_count(options, names)
    fingerprint = source.fingerprint()
  order = shards.names(options.split, count)
  used = build_clickme_records.settings(options, fingerprint, classes, count)
  output_folder.claim(
    directory,
    order,
    used,
    {} if options.clicks else {'input': source.inventory()},
    defaults={'shard_count': count},
  )
  todo = {i for i in range(count) if not shards.is_whole(directory, order[i])}
  with beam.Pipeline(argv=list(runner)) as pipeline:
    maker = canonical_maker.Maker(
      source, options.label_offset, options.map_resize
    )
    outcomes = _outcomes(pipeline, options, names, maker, todo, count)
    _ = outcomes | WriteShards(directory, order, sorted(todo), options.seed)
  return build_clickme_records.finish(options, order, classes, used)


def main(_):
  """Builds what the flags describe."""
  if beam is None:
    raise SystemExit(
      'beam_clickme_records: apache-beam is not installed: '
      "pip install '.[beam]'."
    )
  build_clickme_records.report(
    'beam_clickme_records', lambda options: build(options, FLAGS.beam)
  )


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
