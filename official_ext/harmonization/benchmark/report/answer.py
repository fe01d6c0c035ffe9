# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Does any network see as people do? Comparisons with the controls."""

from collections.abc import Sequence
import math

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import leaderboard

# Networks in the table.
_SHOWN = 5


def sentences(report: run_results.Report) -> list[str]:
  """Answers the question for each protocol with controls.

  Args:
    report: what was measured.

  Returns:
    A paragraph per protocol; none without comparisons.
  """
  found = []
  for protocol in dict.fromkeys(c.protocol for c in report.comparisons):
    compared = _of(report, protocol)
    best = next(iter(compared))
    winners = [n for n, rows in compared.items() if all(c.beats for c in rows)]
    label = registry.get(protocol).label
    defined = [c for c in compared[best] if not math.isnan(c.difference)]
    if not defined:
      found.append(
        f'{label}: no network can be compared with the controls, because '
        'specific alignment is undefined; expected at least two different '
        'images with human maps that are not constant.'
      )
      continue
    closest = min(defined, key=lambda c: c.difference)
    found.append(
      f'{label}: {_who(winners, len(compared))} more specifically aligned with '
      f'people than every control'
      + (f' ({", ".join(winners)})' if winners else '')
      + f'. The best, {best}, is {_words(closest)} the strongest control, '
      f'{closest.control}: {closest.difference:+.3f} {_test(closest)}, over '
      f'{choices.plural(closest.n, "image")}.' + _others(closest, defined)
    )
  return found


def _who(winners: Sequence[str], count: int) -> str:
  """Returns subject and verb for the networks that win, out of `count`."""
  if count == 1:
    return 'the network is' if winners else 'the network is not'
  verb = 'is' if len(winners) < 2 else 'are'
  return f'{len(winners) or "none"} of {count} networks {verb}'


def _others(
  closest: run_results.Comparison, found: list[run_results.Comparison]
) -> str:
  """Names controls that are not beaten, although the strongest is."""
  others = [c for c in found if not c.beats and c is not closest]
  if not closest.beats or not others:
    return ''
  texts = [f'{c.control} ({c.difference:+.3f} {_test(c)})' for c in others]
  return f' It is not distinguishable from {" and ".join(texts)}.'


def _words(c: run_results.Comparison) -> str:
  """Says in words what a comparison shows."""
  if c.beats:
    return 'above'
  if c.is_below:
    return 'below'
  # Below on its own, but one of several tests.
  if c.difference < 0 and c.p < 0.05:
    return 'below, though not after the correction for several tests (Holm),'
  return 'not distinguishable from'


def _test(c: run_results.Comparison) -> str:
  """Returns interval and p-value, which one group of images does not have."""
  if math.isnan(c.low):
    return '(no interval)'
  return f'[{c.low:.3f}, {c.high:.3f}], {statistics.p_words(c.p)}'


def _of(
  report: run_results.Report, protocol: str
) -> dict[str, list[run_results.Comparison]]:
  """Returns the comparisons of each network, best network first."""
  ranked = leaderboard.ranked(report.models, leaderboard.columns(report.models))
  by_model = {
    model.name: [
      c
      for c in report.comparisons
      if (c.protocol, c.model) == (protocol, model.name)
    ]
    for model in ranked
  }
  return {name: rows for name, rows in by_model.items() if rows}


def section(report: run_results.Report) -> list[blocks.Block]:
  """Makes tables of the best networks against all controls.

  Args:
    report: what was measured.

  Returns:
    A table for each protocol, by its first explainer; none without comparisons.
  """
  return [
    table
    for protocol in report.protocols
    if not protocol_names.is_variant(protocol)
    for table in tables(report, protocol)
  ]


def tables(report: run_results.Report, protocol: str) -> list[blocks.Block]:
  """Makes a table of the best networks against all controls.

  Args:
    report: what was measured.
    protocol: its name.

  Returns:
    The table; none if nothing was compared.
  """
  found: list[blocks.Block] = []
  if any(c.protocol == protocol for c in report.comparisons):
    compared = dict(list(_of(report, protocol).items())[:_SHOWN])
    # Random twins differ between networks, and share a row.
    names = dict.fromkeys(_row(c) for rows in compared.values() for c in rows)
    cells = {
      (_row(c), c.model): blocks.Cell(
        '-' if math.isnan(c.difference) else f'{c.difference:+.3f}',
        ('' if math.isnan(c.difference) else _test(c))
        + ('' if c.beats else ' ' + (_BELOW if c.is_below else _NOT)),
      )
      for rows in compared.values()
      for c in rows
    }
    found.append(
      blocks.Table(
        ['control', *compared],
        [
          [
            blocks.Cell(name, _description(name)),
            *(cells.get((name, model), '-') for model in compared),
          ]
          for name in names
        ],
        f'{registry.get(protocol).label}: specific alignment of each network '
        'minus that of each control, 95 % intervals and paired tests over '
        f'images. {_NOT}: not above the control at .05; {_BELOW}: below it '
        'after Holm.',
        is_numeric=True,
      )
    )
  return found


_NOT, _BELOW = leaderboard.NOT_BEATEN, leaderboard.BELOW
_TWINS = 'random weights'


def _row(c: run_results.Comparison) -> str:
  return _TWINS if c.control.startswith('random-') else c.control


def _description(row: str) -> str:
  """Says in one sentence how the maps of a control are made."""
  if row == _TWINS:
    return 'The same network with fresh weights, averaged over its draws.'
  return controls.DESCRIPTIONS.get(row.removeprefix(controls.PREFIX), '')
