r"""Attaches people's maps to Model Garden's ImageNet records, by image id.

  python -m official_ext.harmonization.data.merge_imagenet \
      --imagenet='imagenet/train-*' --map_records='clickme/train-*' \
      --output_dir=data/imagenet_clickme/train

An image's id is its file's name without folder and ending. Maps are canonical
records that name their image (--map_records), or files named by the id
(--map_dir). Every input shard becomes a canonical shard of the same name; maps
that find no image are listed in maps_without_image.csv. The command fails if
no map finds one. Stopped and started again, it goes on where it was.
"""

from collections.abc import Iterator, Mapping
import csv
import hashlib
import os

from absl import flags
import tensorflow as tf

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_framing
from official_ext.harmonization.data.maps import map_index
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.records import shards

FLAGS = flags.FLAGS

UNMATCHED = record_files.UNMATCHED
_LABEL = 'image/class/label'
_PATHS = ('imagenet', 'output_dir', 'map_records', 'map_dir')


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string('imagenet', None, 'Pattern of the ImageNet shards.')
  flags.DEFINE_string(
    'map_records',
    None,
    'Pattern of canonical shards with maps and image/filename.',
  )
  flags.DEFINE_string(
    'map_dir',
    None,
    'Folder of maps (grey pictures, npy, npz with heatmap) named by image id.',
  )
  flags.DEFINE_string('output_dir', None, 'Where the shards are written.')
  flags.DEFINE_string(
    'key',
    'image/filename',
    "Field of the ImageNet records that holds the image's name.",
  )
  flags.DEFINE_string('map_key', 'image/filename', 'The same of --map_records.')
  map_framing.define_flag()
  flags.adopt_module_key_flags(map_framing)
  flags.DEFINE_integer('label_offset', 0, 'Is added to every label.')
  flags.DEFINE_bool('only_mapped', False, 'Leave out images without a map.')
  flags.DEFINE_integer(
    'workers', os.cpu_count() or 1, 'Processes.', lower_bound=1
  )


class Merger:
  """Makes the records of one shard."""

  def __init__(
    self,
    index: Mapping[str, map_index.Place],
    key: str,
    framing: str,
    label_offset: int,
    only_mapped: bool,
  ):
    """Initializes the merger.

    Args:
      index: where maps are, by image id.
      key: of the field that holds an image's name.
      framing: what a map shows of its image, see `map_framing.fit`.
      label_offset: is added to every label.
      only_mapped: whether images without a map are left out.
    """
    self._index = index
    self._key = key
    self._framing = framing
    self._label_offset = label_offset
    self._only_mapped = only_mapped

  def __call__(self, path: str) -> Iterator[shards.Outcome]:
    """Yields the outcome of each record of a shard.

    Args:
      path: of the shard.

    Yields:
      The record, with a map where there is one.

    Raises:
      ValueError: a record is damaged or has no label or image, or a map does
        not fit.
    """
    for where, _, example in map_index.examples(path):
      yield self._outcome(example, where)

  def _outcome(self, example, where) -> shards.Outcome:
    """Returns what becomes of a record."""
    name = map_index.text(example, self._key)
    image_id = map_index.image_id(name)
    place = self._index.get(image_id) if image_id else None
    shape, is_new = self._complete(example, where, place is not None)
    if place is None:
      reason = 'without a map' if image_id else f'without {self._key}'
      if self._only_mapped:
        return shards.Outcome(name or where, reason=reason)
      counts = {f'images: {reason}': 1}
    else:
      counts = {'images: with a map': 1}
      if is_new:
        counts[image_codec.ANEW] = 1
      try:
        fields = map_index.fit(
          map_index.read(place), shape.height, shape.width, self._framing
        )
      except ValueError as e:
        raise ValueError(
          f'The map in {place.file} does not fit {name} in {where}: {e}. '
          'Repair or remove it.'
        ) from None
      record_writer.add_fields(example, fields)
    return shards.Outcome(
      name,
      example.SerializeToString(deterministic=True),
      counts=counts,
      map_id=image_id if place else '',
      label=example.features.feature[_LABEL].int64_list.value[0],
    )

  def _complete(
    self, example, where, has_map: bool
  ) -> tuple[image_codec.Shape, bool]:
    """Completes the fields of an image.

    Args:
      example: is changed.
      where: it is from.
      has_map: whether a map is attached. The image is then stored as people see
        it, since the map belongs to that; others are kept as they are.

    Returns:
      The image's shape, and whether it was encoded anew.
    """
    feature = example.features.feature
    labels = feature[_LABEL].int64_list.value
    encoded = feature['image/encoded'].bytes_list.value
    if not labels or not encoded:
      lacking = 'image/encoded' if labels else _LABEL
      raise ValueError(
        f'{where} has no {lacking}: give records in Model '
        "Garden's ImageNet format."
      )
    try:
      image = image_codec.as_seen(encoded[0]) if has_map else encoded[0]
      shape = image_codec.shape(image)
    except ValueError as e:
      raise ValueError(
        f'image/encoded of {where} is {e}. Repair or remove it.'
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
      f'--imagenet={pattern} matches files of the same name in '
      'several folders: merge one folder at a time.'
    )
  return jobs


def _fingerprint(jobs, index) -> str:
  """Returns a checksum of names, sizes and places, not of contents."""
  digest = hashlib.sha256()
  sizes = {}
  for name, path in jobs.items():
    digest.update(f'{name} {tf.io.gfile.stat(path).length}\n'.encode())
  for image_id, place in sorted(index.items()):
    if place.file not in sizes:
      sizes[place.file] = tf.io.gfile.stat(place.file).length
    digest.update(
      f'{image_id} {os.path.basename(place.file)} {place.offset} '
      f'{sizes[place.file]}\n'.encode()
    )
  return digest.hexdigest()


def _inventory(jobs, index) -> dict[str, int]:
  """Returns the sizes of the files that the checksum is of."""
  maps = {place.file for place in index.values()}
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
  """Writes the shards that are not there yet, and their manifest.

  Args:
    imagenet: pattern of the ImageNet shards.
    output_dir: where the shards are written.
    map_records: pattern of canonical shards with maps, or empty.
    map_dir: folder of maps, or empty.
    key: of the ImageNet records' field that holds the image's name.
    map_key: the same of the canonical records.
    framing: what a map shows of its image, see `map_framing.fit`.
    label_offset: is added to every label.
    only_mapped: whether images without a map are left out.
    workers: processes.

  Returns:
    How many maps found an image.

  Raises:
    ValueError: the options or their files do not allow it.
  """
  if not imagenet or not output_dir:
    raise ValueError('--imagenet and --output_dir are needed.')
  if bool(map_records) == bool(map_dir):
    raise ValueError(
      'One source of maps is needed, --map_records or --map_dir.'
    )
  jobs = _inputs(imagenet)
  index = (
    map_index.of_folder(map_dir)
    if map_dir
    else map_index.of_records(map_records, map_key)
  )
  if not index:
    raise ValueError(
      f'{map_dir or map_records} holds no maps: check --map_dir '
      'or --map_records.'
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
    shards.build(output_dir, jobs, merger, workers)
    totals = shards.finish(
      output_dir,
      list(jobs),
      settings=settings,
      source=f'{imagenet} and {map_dir or map_records}',
    )
    unmatched = sorted(index.keys() - totals['map_ids'])
    _write_unmatched(os.path.join(output_dir, UNMATCHED), index, unmatched)
  print(shards.summary(output_dir, totals))
  print(
    f'{len(index) - len(unmatched)} of {len(index)} maps found an image'
    f'{f"; the others are listed in {UNMATCHED}" if unmatched else ""}.'
  )
  return len(index) - len(unmatched)


def _write_unmatched(path, index, unmatched):
  """Lists maps that found no image, whole or not at all."""
  with files.atomic(path) as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(('image_id', 'file', 'offset'))
    writer.writerows((name, *index[name]) for name in unmatched)


def main(_):
  """Merges what the flags describe."""
  paths = {
    flag: resources.working_path(FLAGS[flag].value) if FLAGS[flag].value else ''
    for flag in _PATHS
  }
  matched = merge(
    **paths,
    key=FLAGS.key,
    map_key=FLAGS.map_key,
    framing=FLAGS.framing,
    label_offset=FLAGS.label_offset,
    only_mapped=FLAGS.only_mapped,
    workers=FLAGS.workers,
  )
  if not matched:
    raise SystemExit(
      'merge_imagenet: no map found an image: compare the ids in '
      f'{UNMATCHED} with --key of the ImageNet records.'
    )


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
