# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tables of differences between networks, and of what a study could detect."""

from collections.abc import Iterator, Sequence
import math

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import power
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import leaderboard

Pairs = Sequence[run_results.PairComparison]

# Differences that the table of power is made for.
DETECTED = (0.01, 0.02, 0.05)


def find(
  pairs: Pairs, first: str, second: str, protocol: str, score: str
) -> run_results.PairComparison | None:
  """Returns the comparison of two networks by a score, or None."""
  for c in pairs:
    if (c.first, c.second, c.protocol, c.score) == (
      first,
      second,
      protocol,
      score,
    ):
      return c
  return None


def table(
  models: leaderboard.Models,
  twins: Sequence[tuple[str, str]],
  pairs: Pairs = (),
) -> blocks.Table | None:
  """Makes a table of what changes from one network to another.

  Args:
    models: among them those that the pairs name.
    twins: names of baselines and of their harmonized twins.
    pairs: comparisons of these and of other pairs.

  Returns:
    The table; None if no pair was scored.
  """
  by_name = {model.name: model for model in models}
  shown = leaderboard.headlines(leaderboard.columns(models))
  named = dict.fromkeys([*twins, *((c.first, c.second) for c in pairs)])
  rows = [
    [f'{a} → {b}', column.title, *cells]
    for a, b in named
    if a in by_name and b in by_name
    for column in shown
    if (cells := _change(by_name[a], by_name[b], column, pairs))
  ]
  if not rows:
    return None
  titles = ['pair', 'score', 'values', 'difference']
  caption = (
    'Change from each baseline to its harmonized twin, or from the first to '
    'the second network of a pair.'
  )
  if pairs:
    titles += ['95 % interval', 'p', 'p, Holm']
    caption += (
      ' Intervals and tests are paired over images, and Holm adjusts for all '
      'pairs in the table, for each score. They are undefined where the '
      f'difference is the same for all images. {_seeds(pairs)}'
    )
    if any(c.score == 'controlled' for c in shown):
      caption += (
        ' Those of controlled include the uncertainty of what people reach.'
      )
  return blocks.Table(titles, rows, caption, is_numeric=True)


def _seeds(pairs: Pairs) -> str:
  """Says whether tests hold for other seeds."""
  if all(c.over_seeds for c in pairs):
    return 'They include the variance between seeds.'
  runs = f'fewer than {repeated_runs.LEAST_RUNS} runs'
  if any(c.over_seeds for c in pairs):
    return (
      'They include the variance between seeds, except where a network has '
      f'{runs} (*): it is not estimable then, and the test is on these runs.'
    )
  return (
    'They are tests on these runs: the variance between seeds is not estimable '
    f'with {runs} of each network (?group=NAME).'
  )


def _change(baseline, twin, column, pairs: Pairs) -> list[str]:
  """Returns the cells of a score; none if a network does not have it."""
  before, after = (leaderboard.cell(m, column).value for m in (baseline, twin))
  if math.isnan(before) or math.isnan(after):
    return []
  cells = [f'{before:.3f} → {after:.3f}']
  found = find(pairs, baseline.name, twin.name, column.protocol, column.score)
  if found is None:
    return [*cells, f'{after - before:+.3f}', *(['-'] * 3 if pairs else ())]
  unit = 1.0
  if column.normalized:
    key = (column.protocol, column.score)
    unit = leaderboard.scores_of(twin)[key].ceiling or 1.0
  difference, low, high = (
    value / unit for value in (found.difference, found.low, found.high)
  )
  mixed = {c.over_seeds for c in pairs} == {True, False}
  mark = '*' if mixed and not found.over_seeds else ''
  if math.isnan(found.p):
    return [*cells, f'{difference:+.3f}', *['-'] * 3]
  return [
    *cells,
    f'{difference:+.3f}{mark}',
    f'[{low:.3f}, {high:.3f}]',
    statistics.p_text(found.p),
    statistics.p_text(found.p_holm),
  ]


def power_table(report: run_results.Report) -> blocks.Table | None:
  """Makes a table of the images and seeds that detect small differences.

  Args:
    report: what was measured.

  Returns:
    A row for each pair of twins or networks; without pairs, for the best
    network and the control that is nearest to it. None without comparisons.
  """
  rows = [
    [name, *(_needed(d, variance, n) for d in DETECTED)]
    for name, variance, n in _observed(report)
  ]
  if not rows:
    return None
  return blocks.Table(
    ['true difference', *(f'{d:.2f}' for d in DETECTED)],
    rows,
    'Number of images, and below it of runs of each network, needed to detect '
    'a difference of this size with a probability of '
    f'{power.POWER:g} (paired t-test, two-sided, {power.LEVEL:g}), if it '
    'varies as in these data. Images: with as many runs as here; runs: with as '
    f'many images. With fewer than {repeated_runs.LEAST_RUNS} runs, the '
    'variance between seeds is not estimable, and the number of images holds '
    'for a comparison of two runs.',
    is_numeric=True,
  )


def _observed(
  report: run_results.Report,
) -> Iterator[tuple[str, repeated_runs.Variance, int]]:
  """Yields name, variance and number of images of differences."""
  shown = leaderboard.columns(report.models)
  titles = {(c.protocol, c.score): c.title for c in shown}
  chosen = set()
  for name in dict.fromkeys(c.protocol for c in report.pairs):
    protocol = registry.get(name)
    scores = {c.score for c in report.pairs if c.protocol == name}
    ranked = [s for s in protocol.alignment_scores if s in scores][:1]
    chosen |= {(name, s) for s in (*ranked, protocol.accuracy_score)}
  for c in report.pairs:
    if (c.protocol, c.score) in chosen and c.variance:
      title = titles.get((c.protocol, c.score), c.score)
      yield f'{title}: {c.second} - {c.first}', c.variance, c.n
  if report.pairs:
    return
  order = [m.name for m in leaderboard.ranked(report.models, shown)]
  for protocol in dict.fromkeys(c.protocol for c in report.comparisons):
    found = [c for c in report.comparisons if c.protocol == protocol]
    best = min((c.model for c in found), key=order.index)
    nearest = min(
      (c for c in found if c.model == best), key=lambda c: c.difference
    )
    if nearest.variance:
      title = titles.get((protocol, 'specific'), 'specific')
      yield f'{title}: {best} - {nearest.control}', nearest.variance, nearest.n


def _needed(
  difference: float, variance: repeated_runs.Variance, n: int
) -> blocks.Cell:
  """Returns the numbers of images and of runs that are needed."""
  groups = power.images_needed(difference, variance)
  if groups is None:
    runs = choices.plural(min(variance.runs), 'run')
    images = f'no number suffices with {runs}'
  else:
    # Images of a group are counted as they are grouped here.
    count = math.ceil(groups * n / variance.groups)
    images = f'{count:,}'
  if math.isnan(variance.seeds):
    return blocks.Cell(images, 'runs: not estimable')
  runs = power.runs_needed(difference, variance)
  return blocks.Cell(
    images,
    'runs: '
    + (f'no number suffices with {n} images' if runs is None else f'{runs:,}'),
  )
