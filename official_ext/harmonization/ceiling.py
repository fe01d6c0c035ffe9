# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures how well people agree on where to look: ceilings and a floor.

  python -m official_ext.harmonization.ceiling \
      --clicks=clicks.csv --click_frame=256 --output_dir=runs/ceiling

The input is raw ClickMe 2.0 clicks, in CSV or NPZ files. Random halves of each
image's participants are scored against each other, each participant against the
others, and both against those of other images (the floors), by Spearman's rank
correlation of their maps, which are resized and blurred as where models are
ranked. The command writes images.csv, a row per image, and ceilings.json, the
means with their intervals, for evaluate --ceilings.

Run it again to resume an interrupted measurement. Results in --output_dir from
the same clicks and settings are used again; others are kept in its folder
earlier/.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import math
import os
import tempfile
from typing import Any

from etils import epy

from official_ext.harmonization import choices
from official_ext.harmonization import cli
from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.data.maps import map_options

with epy.lazy_imports():
  import numpy as np
  import tensorflow as tf
  import tqdm

  from official_ext.harmonization import files
  from official_ext.harmonization.benchmark import beam_ceilings
  from official_ext.harmonization.benchmark import claims
  from official_ext.harmonization.benchmark import earlier
  from official_ext.harmonization.benchmark import identity
  from official_ext.harmonization.benchmark import journal
  from official_ext.harmonization.benchmark import user_jackknife
  from official_ext.harmonization.data.maps import click_files
  from official_ext.harmonization.data.maps import participant_maps
  from official_ext.harmonization.data.records import manifest
  from official_ext.harmonization.data.records import workers
  from official_ext.harmonization.evaluation import scores

_IMAGES = 'images.csv'
_RESULTS = 'ceilings.json'
# Rows of the finished groups, until all groups are finished.
_PROGRESS = 'ceilings.partial.jsonl'
_CLAIM = 'ceilings.claim'
# Version of the method; part of the identity of results.
_VERSION = 2
_TITLES = {
  'split_half': 'half of the participants against the other half',
  'spearman_brown': 'the same, corrected to all participants',
  'upper_ceiling': 'upper ceiling, the root of this',
  'floor': "half of the participants against half of another image's",
  'leave_one_out': 'lower ceiling, each participant against the others',
  'leave_one_out_shuffled': "each participant against another image's",
}
# Standard deviation of the Gaussian at which models are ranked.
_RANKED_WIDTH = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(map_options.StripPrefix):
  """The flags of the command.

  Attributes:
    rules: which clicks count, and how they become a map. Its `min_participants`
      replaces that of `settings`.
    settings: how agreement is measured.
  """

  clicks: tuple[str, ...] = cli.flag(
    (),
    'Files of raw clicks, or patterns: CSV with the columns image_path, '
    'clicks, user_id, or NPZ with file_pointer, clickmap_x, clickmap_y, '
    'user_id, user_catch_trial, is_mobile.',
    path=True,
    required=True,
  )
  output_dir: str = cli.flag(
    '', f'Folder for {_IMAGES} and {_RESULTS}.', path=True, required=True
  )
  click_frame: int = cli.flag(
    0,
    'Clicks are in pixels of a square with this side (256); 0: in pixels of '
    'the images in --image_dir.',
    at_least=0,
  )
  image_dir: str = cli.flag(
    '',
    'Folder of the images, for their sizes; give it or --click_frame.',
    path=True,
  )
  size: int = cli.flag(
    224,
    'Height and width at which maps are compared.',
    at_least=2,
    aliases=('comparison_size',),
  )
  width: float | None = cli.flag(
    None,
    'Standard deviation of the Gaussian that blurs maps before they are '
    'compared, in pixels of a map of 224; 0: no blur. By default 10, as where '
    'models are ranked, or 0 with --release_blur.',
    at_least=0,
  )
  release_blur: bool = cli.flag(
    False,
    'Blur maps as the ClickMe release does: resized to 64, 10x10 Gaussian with '
    'sigma 10. For the published score, which uses such maps.',
  )
  images: int = cli.flag(
    0, 'Measure only this many images, chosen at random; 0: all.', at_least=0
  )
  user_groups: int = cli.flag(
    0,
    'Measure again without each participant, for an interval over '
    'participants where they saw several images; of more than this number, '
    'without each of this number of random groups (50). 0: do not. Takes '
    'several times as long.',
    at_least=0,
  )
  trust_pickle: bool = cli.flag(
    False,
    'Unpickle arrays of objects. A pickle can run any code, so use this only '
    'for files you trust.',
  )
  workers: int = cli.flag(
    os.cpu_count() or 1, 'Number of processes.', at_least=1
  )
  beam: tuple[str, ...] = cli.flag(
    (),
    'Measure with Apache Beam: options of its runner, separated by commas, '
    'such as --runner=DirectRunner. The results are the same. By default, '
    '--workers processes measure.',
  )
  rules: map_options.ClickFilter = map_options.ClickFilter()
  settings: ceilings.Settings = ceilings.Settings()

  def __post_init__(self):
    settings = dataclasses.replace(
      self.settings, min_participants=self.rules.min_participants
    )
    # The way to set a field of a frozen dataclass in __post_init__.
    object.__setattr__(self, 'settings', settings)

  @property
  def blur_width(self) -> float:
    """The width, or its default."""
    if self.width is not None:
      return float(self.width)
    return 0.0 if self.release_blur else _RANKED_WIDTH


def _check(options: Options):
  """Checks the options, and that the files exist."""
  if options.beam:
    beam_ceilings.check_installed()
  if bool(options.click_frame) == bool(options.image_dir):
    raise ValueError(
      f'--click_frame is {options.click_frame} and --image_dir is '
      f'{options.image_dir!r}; expected exactly one of them. Use '
      '--click_frame=256 for clicks in pixels of a square with this side, or '
      '--image_dir for clicks in pixels of the images.'
    )
  if options.user_groups == 1:
    raise ValueError(
      '--user_groups=1 leaves out all participants at once; expected 0, or at '
      'least 2 groups. Set 50.'
    )
  folder = options.image_dir
  if folder and not tf.io.gfile.exists(folder):
    raise ValueError(f'--image_dir={folder} does not exist. Check the path.')
  files.refuse_output_in(options.output_dir, {'image_dir': folder})


def _names(table: 'click_files.Table', options: Options) -> list[str]:
  """Returns the images to measure, sorted."""
  names = table.images()
  if not names:
    raise ValueError(
      f'--clicks={",".join(options.clicks)} contains no clicks; expected some. '
      'Check the files.'
    )
  if not options.images or options.images >= len(names):
    return names
  generator = np.random.default_rng(options.settings.seed)
  return sorted(generator.choice(names, options.images, replace=False).tolist())


def _check_people(maps: 'participant_maps.ParticipantMaps', options: Options):
  """Checks that at least one image has enough participants."""
  names = maps.names()
  most = max(names, key=maps.participants)
  if maps.participants(most) >= options.settings.min_participants:
    return
  reasons = [f'{reason} ({n})' for reason, n in maps.left_out.items()]
  reasons += [f'{place}: {why}' for place, why in maps.unreadable[:1]]
  raise ValueError(
    f'None of the {len(names)} images in --clicks={",".join(options.clicks)} '
    f'has {options.settings.min_participants} participants whose clicks '
    f'count; {most!r} has the most, {maps.participants(most)}. Not '
    f'counted: {"; ".join(reasons) or "nothing"}. Give more clicks, or lower '
    '--min_participants.'
  )


def _measure_group(
  i: int,
  reader: 'user_jackknife.UserMapReader',
  group: list[str],
  settings: ceilings.Settings,
  users: dict[str, str],
  progress,
) -> list[Any]:
  """Measures a group of images; runs in any process.

  Returns:
    The number of the group, its rows, and, with groups of users, its sums
    without each of them.
  """
  del progress  # A group is too short to report its progress.
  found = [i, ceilings.measure(reader, group, settings)]
  if users:
    found.append(user_jackknife.measure(reader, group, settings, users))
  return found


def _rows(
  maps: 'participant_maps.ParticipantMaps',
  progress: 'journal.Journal',
  users: dict[str, str],
  options: Options,
) -> list[dict[str, Any]]:
  """Measures the groups that are not finished; returns the rows of all images.

  Args:
    maps: of the participants.
    progress: to which `_measure_group` of each group is added.
    users: the group of each participant for a jackknife; may be empty.
    options: the flags.

  Returns:
    Rows, sorted by the images' names.
  """
  groups, rows = ceilings.plan(maps, options.settings)
  if options.beam:
    progress.restart()
    progress.add(_with_beam(dict(enumerate(groups)), maps, users, options))
  done = {item[0] for item in progress.items}
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
    for item in workers.run(
      _measure_group,
      [(i, maps, group, options.settings, users) for i, group in todo.items()],
      options.workers,
      lambda images: None,
    ):
      progress.add([item])
      bar.update(len(item[1]))
  rows += itertools.chain.from_iterable(item[1] for item in progress.items)
  return sorted(rows, key=lambda row: row['image'])


def _with_beam(
  groups: Mapping[int, Sequence[str]],
  maps: 'participant_maps.ParticipantMaps',
  users: dict[str, str],
  options: Options,
) -> list[list[Any]]:
  """Measures all groups with Apache Beam; returns items for the journal."""
  return beam_ceilings.measure(
    click_files.expand(options.clicks),
    _click_arguments(options),
    groups,
    maps,
    functools.partial(_work, settings=options.settings, users=users),
    options.output_dir,
    options.beam,
  )


def _work(i, reader, group, settings, users):
  """As `_measure_group`, for Beam."""
  return _measure_group(i, reader, group, settings, users, None)


def _click_arguments(options: Options) -> dict[str, Any]:
  """Returns the arguments of `click_files.read`."""
  return {
    'trust_pickle': options.trust_pickle,
    'prefix': options.strip_prefix,
    'needed': ('is_mobile',) if options.rules.drop_mobile else (),
  }


def _preprocessing(options: Options) -> str:
  """Describes how the maps are made, in one line."""
  frame = (
    f'a square of {options.click_frame} pixels'
    if options.click_frame
    else "the image's own pixels"
  )
  blur = "the release's blur at 64 x 64, " if options.release_blur else ''
  return (
    f'clicks counted in {frame}, blur {options.rules.blur}, {blur}resized to '
    f'{options.size} x {options.size} (bilinear), blurred with sigma = '
    f'{options.blur_width:g} px at 224'
  )


def _identity(
  maps: 'participant_maps.ParticipantMaps', clicks_digest: str, options: Options
) -> dict[str, Any]:
  """Returns the identity of the rows, see `benchmark.identity`."""
  return scores.json_safe(
    {
      'protocol': f'ceiling {_VERSION}',
      'data': {
        'clicks': clicks_digest,
        'frames': identity.sha256(maps.shapes),
      },
      'options': {
        'rules': dataclasses.asdict(options.rules),
        'settings': dataclasses.asdict(options.settings),
        'preprocessing': _preprocessing(options),
        'images': options.images,
        # Absent from results of versions without it.
        **({'user_groups': options.user_groups} if options.user_groups else {}),
      },
      'versions': identity.versions(),
    }
  )


def _open_progress(
  options: Options, depends_on: dict[str, Any]
) -> 'journal.Journal':
  """Opens the rows of an earlier run, and reports whether they are used."""
  path = os.path.join(options.output_dir, _PROGRESS)
  progress = journal.Journal(path, depends_on)
  if progress.note:
    tqdm.tqdm.write(f'{path}: {progress.note}; the measurement starts again.')
  if progress.items:
    number = sum(len(item[1]) for item in progress.items)
    tqdm.tqdm.write(
      f'Kept {choices.plural(number, "image")} from a run that began on '
      f'{identity.date(progress.begun)}.'
    )
  return progress


def _write(
  options: Options, rows: list[dict[str, Any]], results: dict[str, Any]
):
  """Writes the table and the results; keeps earlier results that differ."""
  folder = options.output_dir
  path = os.path.join(folder, _RESULTS)
  if tf.io.gfile.exists(path):
    reason, date = _difference(folder, results['identity'])
    if reason:
      kept = earlier.move(folder, [_RESULTS, _IMAGES], date)
      tqdm.tqdm.write(
        f'{path} was the result of another measurement: {reason}. It is kept '
        f'in {kept}.'
      )
  scores.write_rows(os.path.join(folder, _IMAGES), rows)
  results['contents'] = {
    _IMAGES: manifest.sha256(os.path.join(folder, _IMAGES))
  }
  scores.write_json(
    path, {**results, 'digest': identity.sha256(scores.json_safe(results))}
  )


def _digest(folder: str) -> str:
  """Returns the checksum of the clicks of the results in the folder, or ''."""
  try:
    found = files.read_json(os.path.join(folder, _RESULTS))
    return found['identity']['data']['clicks']
  except (KeyError, TypeError, ValueError, tf.errors.NotFoundError):
    return ''


def _stored(
  folder: str, depends_on: dict[str, Any]
) -> 'dict[str, scores.Score]':
  """Returns the scores in the folder if they are those to be measured.

  Args:
    folder: of the results.
    depends_on: as from `_identity`.

  Returns:
    Scores by name, and a note is printed; empty without stored results, or if
    they depend on anything else.
  """
  path = os.path.join(folder, _RESULTS)
  if not tf.io.gfile.exists(path):
    return {}
  reason, date = _difference(folder, depends_on)
  if reason:
    return {}
  found = files.read_json(path)['scores']
  # A process may have been killed between the result and this file's removal.
  progress = os.path.join(folder, _PROGRESS)
  if tf.io.gfile.exists(progress):
    tf.io.gfile.remove(progress)
  tqdm.tqdm.write(
    f'{path}: measured from the same clicks with the same settings on '
    f'{identity.date(date)}; nothing is measured again.'
  )
  return {
    name: scores.Score.from_json(content) for name, content in found.items()
  }


def _difference(folder: str, depends_on: dict[str, Any]) -> tuple[str, str]:
  """Returns why the results in the folder differ, or '', and their date."""
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
    return ('it is damaged, or has no identity', 'unverified')


def measure(options: Options) -> 'dict[str, scores.Score]':
  """Measures agreement and writes the results, unless they exist.

    options = ceiling.Options(
        clicks=('clicks.csv',), click_frame=256, output_dir='runs/ceiling')
    scores = ceiling.measure(options)

  Args:
    options: the flags.

  Returns:
    A score for each of `ceilings.MEASURES`, and `ceilings.UPPER`.

  Raises:
    ValueError: an option or file is invalid, or no image can be measured.
    PermissionError: a file needs --trust_pickle.
  """
  _check(options)
  paths = click_files.expand(options.clicks)
  tf.io.gfile.makedirs(options.output_dir)
  try:
    with claims.Claim(os.path.join(options.output_dir, _CLAIM)):
      return _claimed(options, paths)
  except claims.Taken as e:
    raise ValueError(
      f'--output_dir={options.output_dir} is in use by {e}. Wait until it '
      'ends, or choose another folder.'
    ) from None


def _claimed(options: Options, paths: list[str]) -> 'dict[str, scores.Score]':
  """As `measure`, in a folder that no other process uses."""
  with tempfile.TemporaryDirectory() as folder:
    table = click_files.Table(os.path.join(folder, 'clicks.sqlite'))
    table.fill(
      itertools.chain.from_iterable(
        click_files.read(file, **_click_arguments(options)) for file in paths
      )
    )
    maps = participant_maps.ParticipantMaps(
      table,
      _names(table, options),
      options.rules,
      options.size,
      options.click_frame,
      options.image_dir,
      options.strip_prefix,
      options.release_blur,
      options.blur_width,
    )
    _check_people(maps, options)
    folder = options.output_dir
    depends_on = _identity(maps, table.fingerprint(_digest(folder)), options)
    stored = _stored(folder, depends_on)
    if stored:
      return stored
    progress = _open_progress(options, depends_on)
    users = (
      user_jackknife.assign(maps.images_by_user, options.user_groups)
      if options.user_groups
      else {}
    )
    if options.user_groups and not users:
      print(
        '--user_groups has no effect: no participant saw more than one image, '
        'so that the interval over images is sufficient.'
      )
    rows = _rows(maps, progress, users, options)
  found = ceilings.summarize(
    rows, options.settings, preprocessing=_preprocessing(options)
  )
  if not found['split_half'].n:
    raise ValueError(
      f'The agreement is undefined for all {len(rows)} images; expected maps '
      'that are not constant. Use a larger --size, or give more clicks.'
    )
  _write(
    options,
    rows,
    {
      'identity': depends_on,
      'created': identity.now(),
      'clicks': paths,
      'maps': {
        'comparison_size': options.size,
        'width': options.blur_width,
        'release_blur': options.release_blur,
      },
      'rules': dataclasses.asdict(options.rules),
      'left_out': maps.left_out,
      'unreadable': maps.unreadable,
      'scores': {name: score.to_json() for name, score in found.items()},
      **_without_users(progress.items, maps.images_by_user, users),
    },
  )
  progress.end()
  return found


def _without_users(
  items: Sequence[list[Any]],
  images_by_user: Mapping[str, int],
  users: Mapping[str, str],
) -> dict[str, Any]:
  """Returns the jackknife over participants for the results; may be empty."""
  # In the order of the groups, so that sums do not depend on the processes.
  parts = [item[2] for item in sorted(items, key=lambda item: item[0]) if users]
  if not parts:
    return {}
  replicates = user_jackknife.Replicates.of(parts)
  return {
    'users': {
      'participants': len(images_by_user),
      'images_per_participant': sum(images_by_user.values())
      / len(images_by_user),
      'groups': len(replicates.without),
      **replicates.to_json(),
    }
  }


def main(options: Options):
  """Measures agreement and prints a summary."""
  found = measure(options)
  print(summary(found))
  print(f'Results: {_IMAGES} and {_RESULTS} in {options.output_dir}.')


def summary(found: 'dict[str, scores.Score]') -> str:
  """Formats scores as text, one line each.

  Args:
    found: as from `measure`.
  """
  width = max(map(len, _TITLES.values()))
  lines = [
    f'{title:<{width}} {_in_words(found[name])}'
    for name, title in _TITLES.items()
  ]
  few = found['split_half'].details['too_few_participants']
  if few:
    lines.append(
      f'Too few participants saw {choices.plural(len(few), "image")}, which '
      f'{_IMAGES} names.'
    )
  return '\n'.join(lines)


def _in_words(score: 'scores.Score') -> str:
  if not score.n:
    return 'not measured, because it needs another image'
  interval = (
    'no interval from one image'
    if math.isnan(score.low)
    else f'[{score.low:.4f}, {score.high:.4f}]'
  )
  return f'{score.value:7.4f}  {interval}  {choices.plural(score.n, "image")}'


def run():
  """Runs the command."""
  cli.run(main, Options)


if __name__ == '__main__':
  run()
