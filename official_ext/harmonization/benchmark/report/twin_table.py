"""Baselines beside their harmonized twins."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from official_ext.harmonization.benchmark.report import html
from official_ext.harmonization.benchmark.report import leaderboard


def build(
  models: Sequence[Mapping[str, Any]], twins: Sequence[tuple[str, str]]
) -> html.Markup:
  """Makes a table of what changed from each baseline to its twin.

  Args:
    models: as `benchmark.Benchmark.run` returns them.
    twins: names of baselines and of their harmonized twins.

  Returns:
    The table; nothing where no pair was scored.
  """
  by_name = {model['name']: model for model in models}
  shown = leaderboard.headlines(leaderboard.columns(models))
  rows = [
    [f'{a} → {b}', *(_change(by_name[a], by_name[b], c) for c in shown)]
    for a, b in twins
    if a in by_name and b in by_name
  ]
  if not rows:
    return html.Markup('')
  return html.table(
    ['baseline → twin', *(c.title for c in shown)],
    rows,
    'Change from each baseline to its harmonized twin, and both values.',
    numeric=True,
  )


def _change(baseline, twin, column) -> html.Markup:
  before, after = (leaderboard.cell(m, column).value for m in (baseline, twin))
  if math.isnan(before) or math.isnan(after):
    return html.text('-')
  return html.join(
    f'{after - before:+.3f}', html.tag('small', f'{before:.3f} → {after:.3f}')
  )
