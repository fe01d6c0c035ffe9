r"""Makes stimuli that reveal an image by what people found important.

  python -m official_ext.harmonization.data.make_psychophysics_stimuli \
      --records='data/click-me/val/*.tfrecords' --animal_classes=0-397 \
      --vehicle_classes=404,779,814,817,867 --images_per_target=100 \
      --output_dir=data/stimuli

One source is given: --records (with --map_decoder), --npz, or --image_dir with
--map_dir. Each image becomes grey pictures at 11 levels, which show the 1,
1.58, ... 63.1, 100 percent around the map's maximum on a ground that has the
image's amplitude spectrum and no more, and the full image:

  <output_dir>/animal/{level}_{class}{digit}.png, .../vehicle/...

stimuli.csv lists them with a checksum each, left_out.csv what was skipped.
Stopped and started again, it goes on where it was. docs/psychophysics.md
defines all of it.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import os
from typing import Any, NamedTuple

from absl import flags
import numpy as np
from PIL import Image
import tensorflow as tf
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.data import build_clickme_records
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_framing
from official_ext.harmonization.data.records import class_labels
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import shards
from official_ext.harmonization.data.stimuli import reveal
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.data.stimuli import stimulus_sources
from official_ext.harmonization.data.stimuli import stimulus_targets
from official_ext.harmonization.dataloaders import registry

FLAGS = flags.FLAGS

LIST = record_files.STIMULI
_COLUMNS = (
  'file',
  'target',
  'class',
  'image',
  'level',
  'percent',
  'pixels',
  'sha256',
  'source',
)
_PATHS = ('output_dir', 'npz', 'image_dir', 'map_dir', 'labels', 'class_names')


@dataclasses.dataclass(frozen=True)
class Options:
  """What is made from what; every field is a flag."""

  output_dir: str = ''
  records: Sequence[str] = ()
  map_decoder: str = 'clickme'
  raw_image_max: float = 255.0
  npz: str = ''
  image_dir: str = ''
  map_dir: str = ''
  image_suffix: str = ''
  map_suffix: str = ''
  framing: str = 'same'
  labels: str = ''
  class_names: str = ''
  strip_prefix: str = ''
  animal_classes: Sequence[str] = ()
  vehicle_classes: Sequence[str] = ()
  images_per_target: int = 0
  size: int = 256
  connectivity: int = 4
  percent_of: str = 'image'
  seed: int = 0


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string('output_dir', None, 'Where the stimuli are written.')
  flags.DEFINE_list(
    'records', [], 'TFRecord files with maps; may have wildcards.'
  )
  flags.DEFINE_enum(
    'map_decoder', 'clickme', registry.names(), 'The format of the records.'
  )
  flags.DEFINE_float('raw_image_max', 255.0, 'White in records of raw pixels.')
  flags.DEFINE_string(
    'npz', None, 'Folder or zip of npz files with image, heatmap and label.'
  )
  flags.DEFINE_string(
    'image_dir',
    None,
    "Folder of images; the class is the first folder of an image's path.",
  )
  flags.DEFINE_string('map_dir', None, 'Folder of maps, named as the images.')
  flags.DEFINE_string(
    'image_suffix',
    '',
    "End of the images' names that the maps' names have not.",
  )
  flags.DEFINE_string('map_suffix', '', "The same of the maps' names.")
  map_framing.define_flag()
  flags.adopt_module_key_flags(map_framing)
  flags.DEFINE_string(
    'labels', None, 'CSV with image and label, instead of folders.'
  )
  flags.DEFINE_string(
    'class_names', None, 'File of class names, one per line, class 0 first.'
  )
  build_clickme_records.define_strip_prefix()
  flags.adopt_module_key_flags(build_clickme_records)
  flags.DEFINE_list(
    'animal_classes',
    [],
    'Classes that are animals: names, '
    'numbers or ranges (0-397). May be left out where classes '
    'are called animal and vehicle.',
  )
  flags.DEFINE_list(
    'vehicle_classes',
    [],
    'Classes that are the other answer; without it, all other classes.',
  )
  flags.DEFINE_integer(
    'images_per_target',
    0,
    'Images of animals and of vehicles, each; 0: all.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'size',
    256,
    'Side of the stimuli in pixels: the '
    'central square of an image is resized to it.',
    lower_bound=8,
  )
  flags.DEFINE_enum(
    'percent_of',
    'image',
    ('image', 'map'),
    'Percent of all pixels, or of those where the map is not 0.',
  )
  flags.DEFINE_integer('connectivity', 4, 'Neighbours of a pixel, 4 or 8.')
  flags.DEFINE_integer('seed', 0, 'Seed of all that is drawn.')


def _unused():
  """Yields why flags have no effect, and their names."""
  if FLAGS.records:
    yield (
      'with --records, which hold images, maps and labels',
      (
        'image_dir',
        'image_suffix',
        'map_suffix',
        'framing',
        'labels',
        'strip_prefix',
      ),
    )
    if not registry.is_raw(FLAGS.map_decoder):
      yield (
        f'on records of the format {FLAGS.map_decoder}, whose images are '
        'encoded',
        ('raw_image_max',),
      )
    return
  yield 'without --records', ('map_decoder', 'raw_image_max')
  if FLAGS.npz:
    yield (
      'with --npz, whose files hold images and labels',
      ('image_dir', 'image_suffix', 'map_suffix', 'labels', 'strip_prefix'),
    )


def options_of_flags() -> Options:
  """Returns what the flags say, with paths as the user means them.

  Raises:
    ValueError: a flag was given that would have no effect.
  """
  unused = cli.without_effect(_unused())
  if unused:
    raise ValueError(unused)
  values = {
    field.name: FLAGS[field.name].value for field in dataclasses.fields(Options)
  }
  for name in _PATHS:
    values[name] = values[name] and resources.working_path(values[name])
  values['records'] = [resources.working_path(r) for r in values['records']]
  return Options(**values)


def _square(pixels: np.ndarray, size: int) -> np.ndarray:
  """Resizes the central square, bilinearly (antialiased); float64."""
  height, width = pixels.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  picture = Image.fromarray(
    np.float32(pixels[top : top + side, left : left + side])
  )
  return np.asarray(picture.resize((size, size), Image.BILINEAR), np.float64)


def square(image: np.ndarray, heatmap: np.ndarray, size: int):
  """Brings an image and its map to one square.

  Args:
    image: uint8 (H, W, 3).
    heatmap: (h, w), of the image's framing.
    size: side of the square in pixels.

  Returns:
    Brightness, 0..255, and map, not negative; float64 (size, size).
  """
  height, width = image.shape[:2]
  heatmap = np.asarray(
    Image.fromarray(np.float32(heatmap)).resize((width, height), Image.BILINEAR)
  )
  return (
    _square(reveal.grey(image), size),
    np.maximum(_square(heatmap, size), 0.0),
  )


def counts(values: np.ndarray, percent_of: str) -> dict[int, int]:
  """Says how many pixels each level reveals.

  Args:
    values: (size, size), the map.
    percent_of: 'image' for percent of all pixels, 'map' for percent of those
      that are not 0.

  Returns:
    Numbers by level; at least 1, and all for the full image.
  """
  of = values.size if percent_of == 'image' else np.count_nonzero(values)
  return {
    level: values.size
    if level == stimulus_files.FULL
    else reveal.revealed_pixels(stimulus_files.percent(level), of)
    for level in stimulus_files.LEVELS
  }


def render(
  bright: np.ndarray, values: np.ndarray, name: str, options: Options
) -> Iterator[tuple[int, np.ndarray]]:
  """Makes the stimuli of an image.

  Args:
    bright: (size, size), 0..255.
    values: (size, size), the map.
    name: of the image, which with the seed decides what is drawn.
    options: what is made.

  Yields:
    Level and stimulus, uint8 (size, size).

  Raises:
    ValueError: the map cannot be grown from.
  """
  place = shards.position(name, options.seed)
  order = reveal.growth_order(
    values, np.random.default_rng([place, 0]), options.connectivity
  )
  ground = reveal.scramble_phase(bright, np.random.default_rng([place, 1]))
  for level, count in counts(values, options.percent_of).items():
    yield level, reveal.compose(bright, ground, order, count)


def _folders(options: Options) -> build_clickme_records.Options:
  """Returns the options that the builder of records has too."""
  names = {f.name for f in dataclasses.fields(build_clickme_records.Options)}
  return build_clickme_records.Options(
    **{
      name: value
      for name, value in dataclasses.asdict(options).items()
      if name in names - {'rules', 'shards', 'split'}
    }
  )


class _Source(NamedTuple):
  """Where images come from.

  Attributes:
    items: the images.
    total: how many they are, or None.
    fingerprint: what tells the source from others; survives JSON.
    inventory: what the fingerprint sums up, by name.
    names: of the classes.
  """

  items: Iterator[stimulus_sources.Item]
  total: int | None
  fingerprint: list
  inventory: Mapping[str, Any]
  names: list[str]


def source(options: Options) -> _Source:
  """Opens what the options name.

  Args:
    options: what is made from what.

  Returns:
    The source.

  Raises:
    ValueError: there is no source, more than one, it is not there, or another
      option is wrong.
  """
  if not options.output_dir:
    raise ValueError('--output_dir is missing: say where the stimuli go.')
  if options.connectivity not in reveal.CONNECTIVITIES:
    raise ValueError(
      f'--connectivity={options.connectivity}: a pixel has '
      'neighbours at its 4 sides, or 8 with the corners.'
    )
  names = []
  if options.class_names:
    names = class_labels.read_names(options.class_names)
  if options.records:
    if options.npz or options.map_dir:
      raise ValueError(
        '--records stands beside --npz or --map_dir: one source '
        'is read at a time.'
      )
    paths = record_files.expand(options.records, 'records')
    sizes = [(os.path.basename(p), tf.io.gfile.stat(p).length) for p in paths]
    return _Source(
      stimulus_sources.of_records(
        paths, options.map_decoder, options.raw_image_max
      ),
      manifest.count(paths),
      [options.map_decoder, options.raw_image_max, sizes],
      {
        '--map_decoder': options.map_decoder,
        '--raw_image_max': options.raw_image_max,
        **dict(sizes),
      },
      names,
    )
  folders = _folders(options)
  build_clickme_records.check(folders)
  labels = build_clickme_records.labels(folders)
  found = build_clickme_records.source(folders, labels)
  build_clickme_records.check_folders(folders, found.names(), labels)
  return _Source(
    stimulus_sources.of_maps(found, options.seed),
    len(found.names()),
    [found.fingerprint(), labels.fingerprint()],
    {**found.inventory(), **labels.inventory()},
    labels.names or names,
  )


def make(options: Options) -> dict[str, int]:
  """Makes the stimuli that are not there yet, and their list; says which.

  Args:
    options: what is made from what.

  Returns:
    Number of images by target, and of images left out by reason.

  Raises:
    ValueError: the options or their files do not allow it.
  """
  found = source(options)
  targets = stimulus_targets.Targets(
    options.animal_classes, options.vehicle_classes, found.names
  )
  with output_folder.alone(options.output_dir):
    output_folder.claim(
      options.output_dir,
      [],
      {
        'input': found.fingerprint,
        'class_names': found.names,
        **{
          name: getattr(options, name)
          for name in (
            'animal_classes',
            'vehicle_classes',
            'images_per_target',
            'size',
            'connectivity',
            'percent_of',
            'seed',
          )
        },
        # A folder of a time before it could be set was made with 'same'.
        **({} if options.framing == 'same' else {'framing': options.framing}),
      },
      {'input': found.inventory},
    )
    for target in stimulus_files.TARGETS:
      folder = os.path.join(options.output_dir, target)
      if os.path.isdir(folder):
        files.remove_partial(folder)
    maker = _Maker(options, targets)
    limit = 2 * options.images_per_target
    with tqdm.tqdm(
      total=limit or found.total,
      unit=' images',
      disable=None,
      desc=os.path.basename(os.path.normpath(options.output_dir)),
    ) as bar:
      for item in found.items:
        made = maker.take(item)
        bar.update(made if limit else 1)
        if maker.is_full():
          break
    maker.finish()
  print(maker.summary())
  return dict(maker.totals)


class _Maker:
  """Writes the stimuli of one image after the other, and remembers them."""

  def __init__(self, options: Options, targets: stimulus_targets.Targets):
    self._options = options
    self._targets = targets
    self._digits = collections.Counter()
    self._rows, self._left_out, self._first = [], [], {}
    self.totals = collections.Counter()

  def is_full(self) -> bool:
    """Whether there are as many images of each target as were asked for."""
    limit = self._options.images_per_target
    return 0 < limit <= min(self.totals[t] for t in stimulus_files.TARGETS)

  def _leave_out(self, item, reason, detail=''):
    detail = files.without_addresses(detail)
    self.totals[reason] += 1
    self._left_out.append((item.name, reason, detail))
    self._first.setdefault(reason, (item.name, detail))
    return False

  def take(self, item: stimulus_sources.Item) -> bool:
    """Writes an image's stimuli, or notes why there are none.

    Args:
      item: the image.

    Returns:
      Whether it has stimuli now.
    """
    if item.reason:
      return self._leave_out(item, item.reason, item.detail)
    target = self._targets.of(item.label)
    if not target:
      return self._leave_out(
        item, 'class is neither animal nor vehicle', f'class {item.label}'
      )
    limit = self._options.images_per_target
    if limit and self.totals[target] >= limit:
      return False
    image_class = self._targets.image_class(item.label)
    digit = self._digits[image_class]
    try:
      rows = self._write(item, target, image_class, digit)
    except ValueError as e:
      return self._leave_out(item, 'map not usable', e)
    self._rows += rows
    self._digits[image_class] += 1
    self.totals[target] += 1
    return True

  def _write(self, item, target, image_class, digit):
    """Writes the stimuli of an image that are not there; returns all rows."""
    bright, values = square(*item.load(), self._options.size)
    names = {
      level: os.path.join(
        target, stimulus_files.file_name(level, image_class, digit)
      )
      for level in stimulus_files.LEVELS
    }
    paths = {
      level: os.path.join(self._options.output_dir, file)
      for level, file in names.items()
    }
    if not all(map(tf.io.gfile.exists, paths.values())):
      tf.io.gfile.makedirs(os.path.join(self._options.output_dir, target))
      for level, picture in render(bright, values, item.name, self._options):
        files.write(paths[level], image_codec.encode_image(picture))
    revealed = counts(values, self._options.percent_of)
    return [
      (
        names[level],
        target,
        image_class,
        f'{image_class}{digit}',
        stimulus_files.level_name(level),
        stimulus_files.percent(level),
        revealed[level],
        manifest.sha256(paths[level]),
        item.name,
      )
      for level in names
    ]

  def finish(self):
    """Writes the lists, when all stimuli are there."""
    folder = self._options.output_dir
    _write_table(
      os.path.join(folder, shards.LEFT_OUT),
      ('name', 'reason', 'detail'),
      self._left_out,
    )
    _write_table(os.path.join(folder, LIST), _COLUMNS, self._rows)

  def summary(self) -> str:
    """Says in a few lines what was made and what was skipped."""
    folder = self._options.output_dir
    lines = [f'{folder}:']
    lines += shards.counted(self.totals, self._first)
    lines += self._warnings()
    if self._left_out:
      lines.append(
        'Everything skipped is listed in '
        f'{os.path.join(folder, shards.LEFT_OUT)}.'
      )
    return '\n'.join(lines)

  def _warnings(self):
    """Yields what a reader of the accuracies must know."""
    limit = self._options.images_per_target
    made = {target: self.totals[target] for target in stimulus_files.TARGETS}
    numbers = ' and '.join(f'{n} of {target}s' for target, n in made.items())
    if min(made.values()) < limit:
      yield (
        f'WARNING: --images_per_target={limit}, but the source has only '
        'enough images for fewer: stimuli of ' + numbers + ' were made.'
      )
    if len({*made.values()}) > 1 and all(made.values()):
      yield (
        f'WARNING: there are unequal numbers of images, {numbers}, so '
        'always giving one answer is not right half of the time. '
        f'--images_per_target={min(made.values())} makes them equal.'
      )


def _write_table(path: str, columns: Sequence[str], rows):
  with files.atomic(path) as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(columns)
    writer.writerows(rows)


def main(_):
  """Makes what the flags describe."""
  totals = make(options_of_flags())
  missing = [t for t in stimulus_files.TARGETS if not totals.get(t)]
  if missing:
    raise SystemExit(
      'make_psychophysics_stimuli: no image of the target '
      f'{" or ".join(missing)} was made; expected both. Check '
      '--animal_classes and --vehicle_classes.'
    )


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
