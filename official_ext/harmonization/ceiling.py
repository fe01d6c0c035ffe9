# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures how well people agree on where to look: ceilings and a floor.

  python -m official_ext.harmonization.ceiling \
      --clicks=clicks.csv --click_frame=256 --output_dir=runs/ceiling

The input is raw ClickMe 2.0 clicks, in CSV or NPZ files. Random halves of each
image's participants are scored against each other, each participant against the
others, and both against those of other images (the floors), by Spearman's rank
correlation of their maps. Maps are resized and blurred as they are for ranking
models. The command writes images.csv, a row per image, and ceilings.json, the
means with their intervals, for evaluate --ceilings.

Run it again to resume an interrupted measurement. Results in --output_dir from
the same clicks and settings are used again; others are kept in its folder
earlier/.
"""

from collections.abc import Callable, Mapping, Sequence
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

  from official_ext.harmonization import files
  from official_ext.harmonization.benchmark import beam_ceilings
  from official_ext.harmonization.benchmark import ceiling_folder
  from official_ext.harmonization.benchmark import ceiling_groups
  from official_ext.harmonization.benchmark import identity
  from official_ext.harmonization.benchmark import measured_ceilings
  from official_ext.harmonization.benchmark import user_jackknife
  from official_ext.harmonization.data.maps import click_files
  from official_ext.harmonization.data.maps import participant_maps
  from official_ext.harmonization.evaluation import scores

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
    '', 'Folder for images.csv and ceilings.json.', path=True, required=True
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
    'compared, in pixels of a map of 224; 0: no blur. By default 10, with '
    'which models are ranked, or 0 with --release_blur.',
    at_least=0,
  )
  release_blur: bool = cli.flag(
    False,
    'Blur maps as the ClickMe release does: resized to 64, 10x10 Gaussian with '
    'sigma 10. The published score is computed from such maps.',
  )
  images: int = cli.flag(
    0, 'Measure only this many images, chosen at random; 0: all.', at_least=0
  )
  user_groups: int = cli.flag(
    0,
    'Exclude participants in turn, for an interval over participants who saw '
    'several images: each of them, or, if they are more than this number, '
    'each of this number of random groups, such as 50. Takes several times '
    'as long. 0: no such interval.',
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
      '--user_groups=1 excludes all participants at once; expected 0, or at '
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


def _beam(
  paths: list[str],
  maps: 'participant_maps.ParticipantMaps',
  users: dict[str, str],
  options: Options,
) -> Callable[[Mapping[int, Sequence[str]]], list[list[Any]]]:
  """Returns a function that measures groups with Apache Beam."""
  return lambda groups: beam_ceilings.measure(
    paths,
    _click_arguments(options),
    groups,
    maps,
    functools.partial(
      ceiling_groups.measure_group, settings=options.settings, users=users
    ),
    options.output_dir,
    options.beam,
  )


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
  with ceiling_folder.CeilingFolder(options.output_dir).claimed() as folder:
    return _measure(options, paths, folder)


def _measure(
  options: Options, paths: list[str], folder: 'ceiling_folder.CeilingFolder'
) -> 'dict[str, scores.Score]':
  """As `measure`, in a folder that no other process uses."""
  with tempfile.TemporaryDirectory() as temporary:
    table = click_files.Table(os.path.join(temporary, 'clicks.sqlite'))
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
    digest = table.fingerprint(folder.clicks_digest())
    depends_on = _identity(maps, digest, options)
    stored = folder.stored(depends_on)
    if stored:
      return stored
    progress = folder.open_progress(depends_on)
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
    if maps.repeated and not options.user_groups:
      print(
        'Participants saw several images, so that intervals of '
        'controlled_person over images are too narrow. Set --user_groups=50 '
        'for an interval over participants.'
      )
    rows = ceiling_groups.measure(
      maps,
      progress,
      options.settings,
      users,
      options.workers,
      _beam(paths, maps, users, options) if options.beam else None,
    )
  found = ceilings.summarize(
    rows, options.settings, preprocessing=_preprocessing(options)
  )
  if not found['split_half'].n:
    raise ValueError(
      f'The agreement is undefined for all {len(rows)} images; expected maps '
      'that are not constant. Use a larger --size, or give more clicks.'
    )
  folder.write(
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
      'repeated_participants': maps.repeated,
      **(
        {'users': ceiling_groups.jackknife(progress.items, maps.images_by_user)}
        if users and progress.items
        else {}
      ),
    },
  )
  progress.end()
  return found


def main(options: Options):
  """Measures agreement and prints a summary."""
  found = measure(options)
  print(summary(found))
  names = f'{measured_ceilings.IMAGES} and {measured_ceilings.RESULTS}'
  print(f'Results: {names} in {options.output_dir}.')


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
      f'{measured_ceilings.IMAGES} names.'
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
