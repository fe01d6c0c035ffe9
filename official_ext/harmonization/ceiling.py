r"""Measures how well people agree on where to look: ceilings and a floor.

  python -m official_ext.harmonization.ceiling \
      --clicks=clicks.csv --click_frame=256 --output_dir=runs/ceiling

From raw ClickMe 2.0 clicks, CSV or NPZ. Halves of each image's participants are
scored against each other, each participant against the others, and halves
against those of another image (the floor), by Spearman's rank correlation of
their maps. images.csv gets a row per image, ceilings.json the means with their
intervals. Run it again to resume. Results of other clicks or settings in
--output_dir are kept in its folder earlier.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import math
import os
import tempfile
from typing import Any

from absl import flags
import numpy as np
import tensorflow as tf
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import earlier
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal
from official_ext.harmonization.data import build_clickme_records
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import participant_maps
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import workers
from official_ext.harmonization.evaluation import scores

FLAGS = flags.FLAGS

_IMAGES = 'images.csv'
_RESULTS = 'ceilings.json'
# Rows of the groups that are done, as long as not all are.
_PROGRESS = 'ceilings.partial.jsonl'
_CLAIM = 'ceilings.claim'
# Of how agreement is measured.
_VERSION = 1
_TITLES = {
  'split_half': 'half of the participants against the other half',
  'spearman_brown': 'the same, corrected to all participants',
  'leave_one_out': 'each participant against the others',
  'floor': "half of the participants against half of another image's",
}


def define_flags():
  """Defines the tool's flags."""
  defaults = ceilings.Settings()
  flags.DEFINE_list(
    'clicks',
    None,
    'Files of raw clicks: CSV with image_path, '
    'clicks, user_id, or NPZ with file_pointer, clickmap_x, '
    'clickmap_y, user_id, user_catch_trial, is_mobile.',
  )
  flags.DEFINE_string(
    'output_dir', None, f'Where {_IMAGES} and {_RESULTS} are written.'
  )
  flags.DEFINE_integer(
    'click_frame',
    0,
    'Side of the square in whose pixels '
    'clicks are given (256); 0: in the pixels of the images '
    'in --image_dir.',
    lower_bound=0,
  )
  flags.DEFINE_string(
    'image_dir',
    None,
    'Folder of the images, for their sizes; not needed with --click_frame.',
  )
  flags.DEFINE_integer(
    'size', 224, 'Side at which maps are compared.', lower_bound=2
  )
  flags.DEFINE_integer(
    'iterations',
    defaults.iterations,
    "Halvings of each image's participants.",
    lower_bound=1,
  )
  flags.DEFINE_bool(
    'resample',
    defaults.resample,
    'Resample halves to full size, as the ClickMe 2.0 tools do.',
  )
  flags.DEFINE_integer(
    'images',
    0,
    'Measure that many images, drawn at random; 0: all.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', defaults.seed, 'Of all draws.', lower_bound=0)
  flags.DEFINE_bool(
    'trust_pickle',
    False,
    'Unpickle arrays of objects. A '
    'pickle can run any code: only for files you would run.',
  )
  flags.DEFINE_integer(
    'workers', os.cpu_count() or 1, 'Processes.', lower_bound=1
  )
  build_clickme_records.define_strip_prefix()
  build_clickme_records.define_rules()
  flags.adopt_module_key_flags(build_clickme_records)
  flags.mark_flags_as_required(['clicks', 'output_dir'])


@dataclasses.dataclass(frozen=True)
class Options:
  """What is measured; every field but the first two is a flag.

  Attributes:
    rules: which clicks count, and how they become a map.
    settings: how agreement is measured.
    clicks: files of raw clicks.
    output_dir: where the results are written.
    click_frame: side of the square in whose pixels clicks are given, or 0.
    image_dir: folder of the images, where their sizes are needed.
    size: side at which maps are compared.
    images: how many are measured; 0 for all.
    trust_pickle: whether arrays of objects may be unpickled.
    workers: processes.
    strip_prefix: folders that are taken off the start of images' paths.
  """

  # Before the field `clicks`, which hides the module.
  rules: clicks.Rules
  settings: ceilings.Settings
  clicks: Sequence[str]
  output_dir: str
  click_frame: int = 0
  image_dir: str = ''
  size: int = 224
  images: int = 0
  trust_pickle: bool = False
  workers: int = 1
  strip_prefix: str = ''


def options_of_flags() -> Options:
  """Returns what the flags say, with paths as the user means them."""
  rules = build_clickme_records.rules_of_flags()
  return Options(
    rules,
    ceilings.Settings(
      FLAGS.iterations, FLAGS.resample, rules.min_participants, seed=FLAGS.seed
    ),
    clicks=[resources.working_path(c) for c in FLAGS.clicks],
    output_dir=resources.working_path(FLAGS.output_dir),
    click_frame=FLAGS.click_frame,
    image_dir=FLAGS.image_dir and resources.working_path(FLAGS.image_dir),
    size=FLAGS.size,
    images=FLAGS.images,
    trust_pickle=FLAGS.trust_pickle,
    workers=FLAGS.workers,
    strip_prefix=FLAGS.strip_prefix,
  )


def _check(options: Options):
  if bool(options.click_frame) == bool(options.image_dir):
    raise ValueError(
      'Clicks are pixels of a square, then give its side by '
      '--click_frame=256, or of the images, then give their '
      'folder by --image_dir: one of the two.'
    )
  for flag, paths in (
    ('clicks', options.clicks),
    ('image_dir', filter(None, [options.image_dir])),
  ):
    for path in paths:
      if not tf.io.gfile.exists(path):
        raise ValueError(f'--{flag}={path} does not exist.')


def _names(table: click_files.Table, options: Options) -> list[str]:
  """Returns the images to measure, sorted."""
  names = table.images()
  if not names:
    raise ValueError(
      f'There is no click in --clicks={",".join(options.clicks)}.'
    )
  if not options.images or options.images >= len(names):
    return names
  generator = np.random.default_rng(options.settings.seed)
  return sorted(generator.choice(names, options.images, replace=False).tolist())


def _check_people(source: participant_maps.ParticipantMaps, options: Options):
  """Checks that there is something to measure: a mean over nothing is NaN."""
  names = source.names()
  most = max(names, key=source.participants)
  if source.participants(most) >= options.settings.min_participants:
    return
  reasons = [f'{reason} ({n})' for reason, n in source.left_out.items()]
  reasons += [f'{place}: {why}' for place, why in source.unreadable[:1]]
  raise ValueError(
    f'None of the {len(names)} images in --clicks={",".join(options.clicks)} '
    f'has {options.settings.min_participants} participants whose clicks '
    f'count; {most!r} has the most, {source.participants(most)}. Not '
    f'counted: {"; ".join(reasons) or "nothing"}. Give more clicks, or lower '
    '--min_participants.'
  )


def _measure(
  groups: dict[int, list[str]], source: ceilings.MapReader, options: Options
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
  """Yields the rows of each group, in any order."""
  return workers.run(
    _measure_group,
    [(i, source, group, options.settings) for i, group in groups.items()],
    options.workers,
    lambda images: None,
  )


def _measure_group(
  i: int,
  source: ceilings.MapReader,
  group: list[str],
  settings: ceilings.Settings,
  _,
) -> tuple[int, list[dict[str, Any]]]:
  """Returns the number and the rows of a group, in any process."""
  return i, ceilings.measure(source, group, settings)


def _rows(
  source: participant_maps.ParticipantMaps,
  progress: journal.Journal,
  options: Options,
) -> list[dict[str, Any]]:
  """Returns the rows of all images, sorted by their names."""
  groups, rows = ceilings.plan(source, options.settings)
  done = {i for i, _ in progress.items}
  todo = {i: g for i, g in enumerate(groups) if i not in done}
  total = sum(map(len, groups))
  bar = tqdm.tqdm(
    total=total,
    initial=total - sum(map(len, todo.values())),
    desc='agreement',
    unit=' images',
    disable=None,
  )
  with bar:
    for i, found in _measure(todo, source, options):
      progress.add([[i, found]])
      bar.update(len(found))
  rows += itertools.chain.from_iterable(found for _, found in progress.items)
  return sorted(rows, key=lambda row: row['image'])


def _preprocessing(options: Options) -> str:
  frame = (
    f'a square of {options.click_frame} pixels'
    if options.click_frame
    else "the image's own pixels"
  )
  return (
    f'clicks counted in {frame}, blur {options.rules.blur}, resized to '
    f'{options.size} x {options.size} (bilinear)'
  )


def _identity(
  source: participant_maps.ParticipantMaps, clicks_digest: str, options: Options
) -> dict[str, Any]:
  """What the rows depend on, see `benchmark.identity`."""
  return scores.json_safe(
    {
      'protocol': f'ceiling {_VERSION}',
      'data': {
        'clicks': clicks_digest,
        'frames': identity.sha256(source.shapes),
      },
      'options': {
        'rules': dataclasses.asdict(options.rules),
        'settings': dataclasses.asdict(options.settings),
        'preprocessing': _preprocessing(options),
        'images': options.images,
      },
      'versions': identity.versions(),
    }
  )


def _open_progress(
  options: Options, depends_on: dict[str, Any]
) -> journal.Journal:
  """Opens the rows so far, and says what becomes of them."""
  path = os.path.join(options.output_dir, _PROGRESS)
  progress = journal.Journal(path, depends_on)
  if progress.note:
    tqdm.tqdm.write(f'{path}: {progress.note}; the measurement begins anew.')
  if progress.items:
    number = sum(len(rows) for _, rows in progress.items)
    tqdm.tqdm.write(
      f'{number} images are from a run that began on '
      f'{identity.date(progress.begun)}.'
    )
  return progress


def _write(
  options: Options, rows: list[dict[str, Any]], results: dict[str, Any]
):
  """Writes table and results; what they replace is kept if it is another."""
  folder = options.output_dir
  path = os.path.join(folder, _RESULTS)
  if tf.io.gfile.exists(path):
    reason, date = _difference(folder, results['identity'])
    if reason:
      kept = earlier.move(folder, [_RESULTS, _IMAGES], date)
      tqdm.tqdm.write(
        f'{path} was not of this measurement: {reason}. It is kept in {kept}.'
      )
  scores.write_rows(os.path.join(folder, _IMAGES), rows)
  results['contents'] = {
    _IMAGES: manifest.sha256(os.path.join(folder, _IMAGES))
  }
  scores.write_json(
    path, {**results, 'digest': identity.sha256(scores.json_safe(results))}
  )


def _difference(folder: str, depends_on: dict[str, Any]) -> tuple[str, str]:
  """Says why results in the folder are not those of now, and their date."""
  try:
    found = files.read_json(os.path.join(folder, _RESULTS))
    digest, date = found.pop('digest'), found['created']
    table = os.path.join(folder, _IMAGES)
    if digest != identity.sha256(found):
      return 'it was edited', date
    if not tf.io.gfile.exists(table) or (
      manifest.sha256(table) != found['contents'][_IMAGES]
    ):
      return f'{_IMAGES} was edited or removed', date
    return identity.differences(found['identity'], depends_on), date
  except (AttributeError, KeyError, TypeError, ValueError):
    return ('it is damaged, or does not say what it depends on', 'unverified')


def measure(options: Options) -> dict[str, scores.Score]:
  """Measures, and writes what was found.

  Args:
    options: what is measured.

  Returns:
    The scores by each of `ceilings.MEASURES`.

  Raises:
    ValueError: the options or their files do not allow it.
    PermissionError: a file needs --trust_pickle.
  """
  _check(options)
  tf.io.gfile.makedirs(options.output_dir)
  try:
    with claims.Claim(os.path.join(options.output_dir, _CLAIM)):
      return _claimed(options)
  except claims.Taken as e:
    raise ValueError(
      f'--output_dir={options.output_dir} is in use by {e}. Wait for it, or '
      'choose another folder.'
    ) from None


def _claimed(options: Options) -> dict[str, scores.Score]:
  """As `measure`, in a folder that no other process writes to."""
  with tempfile.TemporaryDirectory() as folder:
    table = click_files.Table(os.path.join(folder, 'clicks.sqlite'))
    table.fill(
      itertools.chain.from_iterable(
        click_files.read(
          file,
          trust_pickle=options.trust_pickle,
          prefix=options.strip_prefix,
          needed=('is_mobile',) if options.rules.drop_mobile else (),
        )
        for file in options.clicks
      )
    )
    source = participant_maps.ParticipantMaps(
      table,
      _names(table, options),
      options.rules,
      options.size,
      options.click_frame,
      options.image_dir,
      options.strip_prefix,
    )
    _check_people(source, options)
    depends_on = _identity(source, table.fingerprint, options)
    progress = _open_progress(options, depends_on)
    rows = _rows(source, progress, options)
  found = ceilings.summarize(
    rows, options.settings, preprocessing=_preprocessing(options)
  )
  if not found['split_half'].n:
    raise ValueError(
      f'The agreement on none of the {len(rows)} images is defined; expected '
      'maps that are not constant. Compare them at a larger --size, or give '
      'more clicks.'
    )
  _write(
    options,
    rows,
    {
      'identity': depends_on,
      'created': identity.now(),
      'clicks': list(options.clicks),
      'rules': dataclasses.asdict(options.rules),
      'left_out': source.left_out,
      'unreadable': source.unreadable,
      'scores': {name: score.to_json() for name, score in found.items()},
    },
  )
  progress.end()
  return found


def main(_):
  """Measures what the flags describe, and prints it."""
  options = options_of_flags()
  found = measure(options)
  print(summary(found))
  print(f'Written: {_IMAGES} and {_RESULTS} in {options.output_dir}.')


def summary(found: dict[str, scores.Score]) -> str:
  """Formats the scores as text, one line each.

  Args:
    found: scores by each of `ceilings.MEASURES`.

  Returns:
    The lines.
  """
  width = max(map(len, _TITLES.values()))
  lines = [
    f'{title:<{width}} {_in_words(found[name])}'
    for name, title in _TITLES.items()
  ]
  few = found['split_half'].details['too_few_participants']
  if few:
    lines.append(
      f'{len(few)} images have too few participants; they are named '
      f'in {_IMAGES}.'
    )
  return '\n'.join(lines)


def _in_words(score: scores.Score) -> str:
  if not score.n:
    return 'not measured: it needs another image'
  interval = (
    'no interval from one image'
    if math.isnan(score.low)
    else f'[{score.low:.4f}, {score.high:.4f}]'
  )
  return f'{score.value:7.4f}  {interval}  {score.n} images'


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
