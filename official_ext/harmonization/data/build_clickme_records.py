r"""Builds canonical records from images and people's maps or clicks.

  python -m official_ext.harmonization.data.build_clickme_records \
      --npz=clickme_train.zip --output_dir=data/clickme/train --split=train

One source is given: --npz (a folder or zip of npz files with image, heatmap
and label), --map_dir with --image_dir (files of the same name), or --clicks
with --image_dir (raw ClickMe 2.0 clicks, CSV or NPZ). The shards, their
manifest.json and a list of what was skipped, left_out.csv, go to --output_dir.
Stopped and started again, it goes on where it was.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import itertools
import os
import posixpath
import re
from typing import Any

from absl import flags
from absl import logging
import tensorflow as tf

from official_ext.harmonization import cli
from official_ext.harmonization import resources
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import click_frames
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import map_framing
from official_ext.harmonization.data.maps import map_sources
from official_ext.harmonization.data.maps import pairs
from official_ext.harmonization.data.records import canonical_maker
from official_ext.harmonization.data.records import class_labels
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import shards
from official_ext.harmonization.ops import blur

FLAGS = flags.FLAGS

# Rows of clicks, and images, that are looked at before a build.
_LOOKED_AT = 20_000
_SOME_IMAGES = 1000
# Clicks by image, as long as the shards are being built.
_TABLE = 'clicks.sqlite'
# What may be the first part of a name that patterns such as train-* match.
_SPLIT = re.compile(r'[^\s/\\*?\[\],.][^\s/\\*?\[\],]*')
_PATHS = ('output_dir', 'npz', 'image_dir', 'map_dir', 'labels', 'class_names')


@dataclasses.dataclass(frozen=True)
class Options:
  """What is built from what; every field but `rules` is a flag.

  Attributes:
    rules: which clicks count, and how they become a map.
    output_dir: where the shards are written.
    split: first part of their names.
    npz: folder or zip of npz files with image, heatmap and label.
    image_dir: folder of images.
    map_dir: folder of maps.
    image_suffix: end of images' names that their maps' names have not.
    map_suffix: end of maps' names that their images' names have not.
    clicks: files of raw clicks.
    click_frame: side of the square in whose pixels clicks are given; 0 for the
      image's own; None where it is not known.
    framing: what a map shows of its image.
    labels: CSV of image and label.
    label_column: of the clicks' CSV that holds the class.
    class_names: file of names, one per line.
    strip_prefix: folders above those of the classes, which images' paths may
      begin with.
    label_offset: is added to every label.
    jpeg_quality: of images that are encoded anew; 0 for PNG.
    map_resize: how the maps will be resized before they are blurred.
    trust_pickle: whether arrays of objects may be unpickled.
    images_per_shard: about how many.
    shards: their number; 0 for as many as images_per_shard asks for, and at
      least one for each worker.
    seed: decides the order of the images.
    workers: processes.
  """

  # Before the field `clicks`, which hides the module.
  rules: clicks.Rules = clicks.Rules()
  output_dir: str = ''
  split: str = 'train'
  npz: str = ''
  image_dir: str = ''
  map_dir: str = ''
  image_suffix: str = ''
  map_suffix: str = ''
  clicks: Sequence[str] = ()
  click_frame: int | None = None
  framing: str = 'same'
  labels: str = ''
  label_column: str = ''
  class_names: str = ''
  strip_prefix: str = ''
  label_offset: int = 0
  jpeg_quality: int = 0
  map_resize: str = 'antialias'
  trust_pickle: bool = False
  images_per_shard: int = 1000
  shards: int = 0
  seed: int = 0
  workers: int = 1


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string('output_dir', None, 'Where the shards are written.')
  flags.DEFINE_string('split', 'train', "First part of the shards' names.")
  flags.DEFINE_string(
    'npz', None, 'Folder or zip of npz files with image, heatmap and label.'
  )
  flags.DEFINE_string(
    'image_dir', None, 'Folder of images: JPEG, PNG, WebP, GIF, BMP, TIFF.'
  )
  flags.DEFINE_string(
    'map_dir',
    None,
    'Folder of maps: grey pictures, npy, or '
    'npz with heatmap; named as the images are.',
  )
  flags.DEFINE_string(
    'image_suffix',
    '',
    "End of the images' names, before "
    "the extension, that the maps' names have not.",
  )
  flags.DEFINE_string('map_suffix', '', "The same of the maps' names.")
  flags.DEFINE_list(
    'clicks',
    [],
    'Files of raw clicks: CSV with image_path, '
    'clicks, user_id, or NPZ with file_pointer, clickmap_x, '
    'clickmap_y, user_id; both may have user_catch_trial and '
    'is_mobile. Image paths are below --image_dir.',
  )
  flags.DEFINE_integer(
    'click_frame',
    None,
    'Side of the square in whose '
    "pixels clicks are given (256); 0: in the image's own "
    'pixels, which is assumed unless the clicks contradict '
    'it.',
    lower_bound=0,
  )
  map_framing.define_flag()
  flags.adopt_module_key_flags(map_framing)
  flags.DEFINE_string(
    'labels',
    None,
    'CSV with image and label. Without it, '
    'a class is in --label_column or the first folder of the '
    "image's path.",
  )
  flags.DEFINE_string(
    'label_column', '', "Column of the clicks' CSV that holds the class."
  )
  flags.DEFINE_string(
    'class_names',
    None,
    'File of class names, one per line, '
    'class 0 first. Without it, folders are numbered in '
    'alphabetical order.',
  )
  define_strip_prefix()
  flags.DEFINE_integer('label_offset', 0, 'Is added to every label.')
  define_rules()
  flags.DEFINE_integer(
    'jpeg_quality',
    0,
    'Of images that --npz gives as '
    'numbers, and of others that must be encoded anew, such '
    'as turned ones; 0: PNG, which loses nothing. Model '
    "Garden's own stream wants JPEG unless "
    'decode_jpeg_only is false.',
    0,
    100,
  )
  flags.DEFINE_enum(
    'map_resize',
    'antialias',
    blur.RESIZES,
    'How maps will be '
    'resized before they are blurred, as in '
    'task.mapped_data.map_resize. Maps that lose most of their '
    'mass by that are counted; records do not depend on it.',
  )
  flags.DEFINE_bool(
    'trust_pickle',
    False,
    'Unpickle arrays of objects. A '
    'pickle can run any code: only for files you would run.',
  )
  flags.DEFINE_integer(
    'images_per_shard', 1000, 'Images in one shard, about.', lower_bound=1
  )
  flags.DEFINE_integer(
    'shards',
    0,
    'Number of shards; 0: as many as '
    '--images_per_shard asks for, and at least one for each '
    'worker.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Decides the order of the images.')
  flags.DEFINE_integer(
    'workers', os.cpu_count() or 1, 'Processes.', lower_bound=1
  )


def define_strip_prefix():
  """Defines the flag for paths that begin above the classes' folders."""
  flags.DEFINE_string(
    'strip_prefix',
    '',
    "Folders that images' paths may "
    'begin with, above those of the classes, such as '
    "imagenet/train in ClickMe 2.0's files.",
  )


def define_rules():
  """Defines the flags that say which clicks count, and how."""
  default = clicks.Rules()
  flags.DEFINE_integer(
    'min_clicks',
    default.min_clicks,
    'Rows with fewer clicks inside the image are left out.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'max_clicks',
    default.max_clicks,
    'First clicks of a row that count; 0: all.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'min_participants',
    default.min_participants,
    'Images with fewer are left out.',
    lower_bound=1,
  )
  flags.DEFINE_float(
    'min_catch_trial',
    default.min_catch_trial,
    'Participants who passed less of their catch trials are left out.',
  )
  flags.DEFINE_bool(
    'drop_mobile', default.drop_mobile, 'Leave out participants on phones.'
  )
  flags.DEFINE_enum(
    'blur',
    default.blur,
    clicks.BLURS,
    'How counts of clicks become a map: a disc twice, or (earlier) a Gaussian.',
  )


def _unused():
  """Yields why flags have no effect, and their names."""
  if not FLAGS.clicks:
    yield (
      'without --clicks',
      (
        'label_column',
        'click_frame',
        *(field.name for field in dataclasses.fields(clicks.Rules)),
      ),
    )
  if not FLAGS.map_dir:
    yield 'without --map_dir', ('image_suffix', 'map_suffix')
  if FLAGS.npz:
    yield (
      'with --npz, whose files hold images and labels',
      ('image_dir', 'labels', 'class_names', 'strip_prefix'),
    )
  if FLAGS.labels:
    yield 'with --labels', ('label_column',)
  if FLAGS.shards:
    yield 'with --shards', ('images_per_shard',)


def options_of_flags() -> Options:
  """Returns what the flags say, with paths as the user means them.

  Raises:
    ValueError: a flag was given that would have no effect.
  """
  if len([f for f in ('npz', 'map_dir', 'clicks') if FLAGS[f].value]) == 1:
    unused = cli.without_effect(_unused())
    if unused:
      raise ValueError(unused)
  values = {
    field.name: FLAGS[field.name].value
    for field in dataclasses.fields(Options)
    if field.name != 'rules'
  }
  for name in _PATHS:
    values[name] = values[name] and resources.working_path(values[name])
  values['clicks'] = [resources.working_path(c) for c in values['clicks']]
  return Options(**values, rules=rules_of_flags())


def rules_of_flags() -> clicks.Rules:
  """Returns the rules that the flags of `define_rules` say."""
  return clicks.Rules(
    **{
      field.name: FLAGS[field.name].value
      for field in dataclasses.fields(clicks.Rules)
    }
  )


def check(options: Options):
  """Checks that the options name one source, which is there.

  Args:
    options: what is built from what.

  Raises:
    ValueError: they do not.
  """
  if not options.output_dir:
    raise ValueError('--output_dir is missing: say where the shards go.')
  if not _SPLIT.fullmatch(options.split):
    raise ValueError(
      f'--split={options.split!r}: expected the first part of file names, '
      'such as train, without spaces, commas, slashes, * ? [ ], or a dot at '
      'its start. Choose such a name.'
    )
  given = [f for f in ('npz', 'map_dir', 'clicks') if getattr(options, f)]
  if len(given) != 1:
    raise ValueError(
      'One source of maps is needed, --npz, --map_dir or '
      f'--clicks; given: {", ".join(given) or "none"}.'
    )
  if given != ['npz'] and not options.image_dir:
    raise ValueError(f'--{given[0]} needs --image_dir, the folder of images.')
  for flag in ('npz', 'image_dir', 'map_dir', 'labels', 'class_names'):
    found = getattr(options, flag)
    if found and not tf.io.gfile.exists(found):
      raise ValueError(f'--{flag}={found} does not exist.')
  for file in options.clicks:
    if not tf.io.gfile.exists(file):
      raise ValueError(f'--clicks={file} does not exist.')


def labels(options: Options) -> class_labels.Labels:
  """Returns the classes of the images; npz files bring their own."""
  if options.npz:
    return class_labels.Labels()
  prefix = options.strip_prefix
  table = class_labels.read(options.labels) if options.labels else None
  names = []
  if options.class_names:
    names = class_labels.read_names(options.class_names)
  elif table is None and not options.label_column:
    names = class_labels.folders(_images(options), prefix)
  return class_labels.Labels(table, names, prefix)


def _images(options: Options) -> list[str]:
  """Returns the images in the folder of images."""
  if options.map_dir:
    return pairs.images(
      pairs.find(
        options.image_dir,
        options.map_dir,
        options.image_suffix,
        options.map_suffix,
        log=False,
      )
    )
  return [
    image for image, _ in folders.find(options.image_dir, map_files.IMAGE_TYPES)
  ]


def check_folders(
  options: Options, images: Iterable[str], classes: class_labels.Labels
):
  """Checks that images' folders can be their classes, where they are to be.

  Args:
    options: what is built from what.
    images: their paths.
    classes: of the images.

  Raises:
    ValueError: all images would be in one class, see
      `class_labels.check_folders`.
  """
  if not (options.npz or options.labels or options.label_column):
    class_labels.check_folders(
      {posixpath.dirname(image) for image in images},
      classes.names if options.class_names else (),
      options.strip_prefix,
    )


def click_rows(options: Options):
  """Yields the images and rows of all files of clicks."""
  return itertools.chain.from_iterable(
    click_files.read(file, **reading(options)) for file in options.clicks
  )


def reading(options: Options) -> dict[str, Any]:
  """Returns how files of clicks are read, for `click_files.read`."""
  rules = options.rules
  # The default counts participants whose catch trials are not known.
  asks = rules.min_catch_trial not in (0, clicks.Rules().min_catch_trial)
  return {
    'label_column': options.label_column,
    'trust_pickle': options.trust_pickle,
    'prefix': options.strip_prefix,
    'needed': ('is_mobile',) * rules.drop_mobile + ('user_catch_trial',) * asks,
  }


def source(
  options: Options,
  classes: class_labels.Labels,
  table: click_files.Table | None = None,
):
  """Makes the source of images and maps.

  Args:
    options: what is built from what.
    classes: of the images.
    table: of the clicks, where they are the source and are to be looked up.

  Returns:
    One of those in `map_sources`.
  """
  if options.npz:
    return map_sources.NpzFiles(
      options.npz, options.jpeg_quality, options.trust_pickle, options.framing
    )
  if options.map_dir:
    return map_sources.Pictures(
      options.image_dir,
      options.map_dir,
      classes,
      options.image_suffix,
      options.map_suffix,
      options.jpeg_quality,
      options.framing,
    )
  return map_sources.Clicks(
    options.image_dir,
    classes,
    options.rules,
    options.click_frame,
    click_files.kind(options.clicks[0]),
    table,
    options.strip_prefix,
    options.jpeg_quality,
    options.framing,
  )


def check_frame(rows, images: map_sources.Clicks, options: Options):
  """Checks some clicks for whether they lie in the frame that was named.

  Args:
    rows: images and rows of clicks, of which the first are looked at.
    images: the source of the images.
    options: what is built from what.

  Raises:
    ValueError: most lie outside, or they seem to be of a smaller frame.
  """
  click_frames.check(
    itertools.islice(rows, _LOOKED_AT), images.size, options.click_frame
  )
  if options.click_frame and options.framing == 'same':
    logging.warning(
      '--click_frame=%d: people are taken to have seen the whole image, '
      'squeezed into that square where it is not one. If they saw its '
      'central square, add --framing=center_crop.',
      options.click_frame,
    )


def shard_count(options: Options, names: Sequence[str]) -> int:
  """Returns how many shards are asked for.

  Where --shards does not say: as many as --images_per_shard asks for, and one
  for each worker, so that none is idle. A build that is resumed keeps its
  number, whatever the number of workers is now.

  Args:
    options: what is built from what.
    names: of the images.

  Raises:
    ValueError: there are no images.
  """
  if not names:
    raise ValueError(
      'The source holds no images: check --npz, --image_dir, '
      '--map_dir or --clicks.'
    )
  if options.shards:
    return options.shards
  started = output_folder.claimed(options.output_dir)
  if 'shard_count' in started:
    return started['shard_count']
  count = -(-len(names) // options.images_per_shard)
  # A folder of an earlier version has as many as the images ask for.
  return count if started else max(count, min(options.workers, len(names)))


def settings(
  options: Options, fingerprint: str, classes: class_labels.Labels, count: int
) -> dict[str, Any]:
  """Returns what the shards' content depends on.

  Args:
    options: what is built from what.
    fingerprint: of the source.
    classes: of the images.
    count: of the shards.
  """
  kept = ['split', 'label_offset', 'seed', 'shards', 'images_per_shard']
  if options.npz:
    kept.append('jpeg_quality')
  if options.clicks:
    kept += ['rules', 'click_frame']
  everything = dataclasses.asdict(options)
  everything['click_frame'] = options.click_frame or 0
  # Folders of a time before these could be set were built with the defaults.
  defaults = Options()
  kept += [
    name
    for name in ('framing', 'jpeg_quality', 'map_resize')
    if everything[name] != getattr(defaults, name)
  ]
  return {
    **{name: everything[name] for name in kept},
    'shard_count': count,
    'input': fingerprint,
    'classes': classes.fingerprint(),
  }


def build(options: Options) -> dict[str, Any]:
  """Builds the shards that are not there yet, and their manifest.

  Args:
    options: what is built from what.

  Returns:
    What `shards.finish` does.

  Raises:
    ValueError: the options or their files do not allow it.
  """
  check(options)
  with output_folder.alone(options.output_dir):
    return _build(options)


def _build(options: Options) -> dict[str, Any]:
  """Builds; no other run does in the same folder."""
  directory = options.output_dir
  classes = labels(options)
  table = None
  if options.clicks:
    table = click_files.Table(output_folder.working_file(directory, _TABLE))
    table.fill(click_rows(options))
  images = source(options, classes, table)
  names = images.names()
  check_folders(options, names, classes)
  if table:
    # Of images all over the table, which is in the order of their names.
    some = names[:: max(1, len(names) // _SOME_IMAGES)]
    check_frame(
      ((name, row) for name in some for row in table.rows(name)),
      images,
      options,
    )
  count = shard_count(options, names)
  jobs = shards.assign(names, options.split, count, options.seed)
  used = settings(options, images.fingerprint(), classes, count)
  output_folder.claim(
    directory,
    jobs,
    used,
    {'input': images.inventory(), 'classes': classes.inventory()},
    defaults={'shard_count': count},
  )
  maker = canonical_maker.Maker(
    images, options.label_offset, options.map_resize
  )
  shards.build(
    directory,
    jobs,
    maker,
    options.workers,
    {shard: len(images) for shard, images in jobs.items()},
  )
  totals = finish(options, list(jobs), classes, used)
  if table:
    os.remove(table.path)
  return totals


def finish(options: Options, jobs, classes, used) -> dict[str, Any]:
  """Writes the manifest, and says what was made."""
  given = options.npz or options.map_dir or ','.join(options.clicks)
  totals = shards.finish(
    options.output_dir,
    jobs,
    source=given,
    settings=used,
    class_names=classes.names,
  )
  print(shards.summary(options.output_dir, totals, classes.names))
  return totals


def report(command: str, make: Callable[[Options], dict[str, Any]]):
  """Runs a command that builds records; making none is a failure.

  Args:
    command: its name.
    make: builds what the flags describe, and returns what `shards.finish` does.
  """
  totals = make(options_of_flags())
  if not totals['records']:
    raise SystemExit(
      f'{command}: not one record was made, for the reasons '
      'above. Repair the input, or change the flags.'
    )


def main(_):
  """Builds what the flags describe."""
  report('build_clickme_records', build)


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
