# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tables of specific alignment by answer, animacy, size of maps, and class."""

from collections.abc import Mapping, Sequence
import math

from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark import subgroups
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import leaderboard

# Networks in the tables.
_NETWORKS = 4
# Controls that are made from the image and could favour some of the images.
_CONTROLS = tuple(controls.PREFIX + name for name in controls.FROM_IMAGE)


def tables(
  report: run_results.Report,
  protocol: str,
  class_names: Mapping[int, str] | None = None,
) -> list[blocks.Block]:
  """Makes a table of kinds of images, and one of classes.

  Args:
    report: what was measured.
    protocol: its name.
    class_names: names of the classes by number, where they are known.

  Returns:
    The tables; none if no network has subgroups.
  """
  found = [s for s in report.subgroups if s.protocol == protocol]
  measured = {s.model for s in found}
  ranked = leaderboard.ranked(report.models, leaderboard.columns(report.models))
  networks = [m.name for m in ranked if m.is_network and m.name in measured]
  if not networks:
    return []
  models = networks[:_NETWORKS] + [c for c in _CONTROLS if c in measured]
  label = registry.get(protocol).label
  kinds = [s for s in found if s.kind != subgroups.CLASS]
  classes = [s for s in found if s.kind == subgroups.CLASS]
  return [
    _table(
      kinds,
      models,
      f'{label}: specific alignment by kind of image. The value of an image is '
      'its influence on the score: own, minus the mean of its map with other '
      "images' human maps, minus that of its human map with other images' "
      'maps, plus shuffled. The other images are those of the whole dataset, '
      'not only those of the row. In brackets: 95 % intervals, '
      "Student's t over groups of images; of differences, Welch's. They are "
      'not adjusted for the number of rows. Human maps are sorted into thirds '
      'by the part of the image that they cover, their effective number of '
      'pixels. If controls show the same difference, it may lie in the images, '
      'not in how a network sees.' + _missing(kinds) + _runs(report, models),
    ),
    _table(
      classes,
      models,
      f'{label}: specific alignment by class of the image, for the '
      f'{subgroups.CLASSES} classes with the most images.',
      class_names,
    ),
  ]


def _runs(report: run_results.Report, shown: Sequence[str]) -> str:
  """Says how means of runs differ, if the table has any."""
  if not any(m.runs for m in report.models if m.name in shown):
    return ''
  return (
    ' Intervals of means of runs are over images, for these runs, and thus '
    'narrower than in the leaderboard. Their answers may differ, so that such '
    'means are not divided into correct and wrong.'
  )


def _missing(found: Sequence[subgroups.Subgroup]) -> str:
  """Says which kinds are unknown."""
  known = {s.kind for s in found}
  words = {
    subgroups.ANIMACY: 'which classes are animals, since the network does not '
    "have ImageNet's classes",
    subgroups.EXTENT: 'the size of the human maps, which an earlier version '
    'did not record',
  }
  missing = [text for kind, text in words.items() if kind not in known]
  return f' Not known: {"; ".join(missing)}.' if missing else ''


def _table(
  found: Sequence[subgroups.Subgroup],
  models: Sequence[str],
  caption: str,
  class_names: Mapping[int, str] | None = None,
) -> blocks.Table:
  cells = {(s.kind, s.name, s.model): s for s in found}
  first: dict[tuple[str, str], subgroups.Subgroup] = {}
  for s in found:
    first.setdefault((s.kind, s.name), s)
  order = sorted(first, key=lambda key: subgroups.KINDS.index(key[0]))
  return blocks.Table(
    ['images', *models],
    [
      [
        _heading(first[key], class_names or {}),
        *(_cell(cells.get((*key, model))) for model in models),
      ]
      for key in order
    ],
    caption,
    is_numeric=True,
  )


def _heading(
  found: subgroups.Subgroup, class_names: Mapping[int, str]
) -> blocks.Cell:
  if found.kind != subgroups.CLASS or not found.name.isdigit():
    return blocks.Cell(found.name, found.detail)
  name = class_names.get(int(found.name))
  return blocks.Cell(f'class {found.name}', name or '')


def _cell(found: subgroups.Subgroup | None) -> blocks.Cell:
  """Shows value, interval and number of images; a dash without a value."""
  if found is None:
    return blocks.Cell('-')
  count = f'n = {found.n}' + (
    f' ({found.n_undefined} undefined)' if found.n_undefined else ''
  )
  if math.isnan(found.value):
    return blocks.Cell('-', count)
  lines = [f'[{found.low:.3f}, {found.high:.3f}]', count]
  if math.isnan(found.low):
    lines = [count]  # One group of images does not show how values vary.
  if not math.isnan(found.p):
    lines.append(statistics.p_words(found.p))
  is_difference = ' minus ' in found.name
  text = f'{found.value:+.3f}' if is_difference else f'{found.value:.3f}'
  return blocks.Cell(text, '\n'.join(lines))
