# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Alignment next to what people reach on the same images."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from matplotlib import figure

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import figures

_UPPER, _LOWER = 'upper_ceiling', 'leave_one_out'
_CEILINGS = {
  _UPPER: 'upper ceiling: a map without noise',
  _LOWER: 'lower ceiling: a participant and the mean of the others',
  'split_half': 'one half of the participants and the other half',
  'floor': 'half of the participants and half of those of another image',
  'leave_one_out_shuffled': 'a participant and the mean of those of another '
  'image',
}
_OWN = 'own'
_RATIOS = ('controlled', 'controlled_person')


def section(
  found: Mapping[str, results.StoredResult], file: str
) -> list[blocks.Block]:
  """Makes the picture and the tables.

  Args:
    found: results by model.
    file: name of the file that the picture is also written to.

  Returns:
    The band between the ceilings with the raw correlations of the models, their
    ratios, and the ceilings; none without measured ceilings.
  """
  explained = {
    name: next(iter(result.explainers.values())).scores
    for name, result in found.items()
    if result.explainers
  }
  shown = {
    name: s for name, s in explained.items() if {_OWN, *_RATIOS} <= s.keys()
  }
  people = [s[_RATIOS[0]].details.get('ceilings') for s in shown.values()]
  people = [
    p
    for p in people
    if p and None not in (_number(p[_UPPER][0]), _number(p[_LOWER][0]))
  ]
  if not people:
    return []
  # Controls and networks are measured on the same images; random twins perhaps
  # on some of them.
  ceilings = people[0]
  rows = []
  for name, s in shown.items():
    own = s[_OWN]
    cells: list[blocks.Cell | str] = [_cell(own.value, own.low, own.high)]
    for ratio in _RATIOS:
      score = s[ratio]
      cells.append(_cell(score.value, score.low, score.high))
      ends = score.details.get('participants_interval')
      cells.append(_interval(*ends) if ends else '-')
    rows.append([name, *cells])
  over = 'over images'
  if any('seeds' in s[_OWN].interval_method for s in shown.values()):
    over += ', of means of runs over images and seeds'
  return [
    figures.themed_picture(
      lambda theme: _draw(shown, ceilings, theme),
      'Mean rank correlation of each model with people, and the band between '
      'the lower and the upper ceiling.',
      'Own, the raw mean rank correlation with the human map of the same image '
      f'(bars: 95 % intervals {over}). The band reaches from the lower '
      'ceiling, a participant against the mean of the others, to the upper '
      'ceiling, which a map without noise would reach. Controls can be in the '
      'band too, because own includes what the maps of all images share.',
      file,
    ),
    blocks.Table(
      [
        'model',
        'own (raw rho)',
        'controlled',
        'over participants',
        'controlled_person',
        'over participants',
      ],
      rows,
      'Raw correlation, and specific alignment divided by that of an observer '
      'without noise (controlled) and of one participant (controlled_person). '
      f'The intervals below the values are {over}. Those over participants '
      'are a jackknife that leaves out participants, if ceiling ran with '
      '--user_groups; images and human maps stay the same.',
      is_numeric=True,
    ),
    blocks.Table(
      ['people', 'mean rank correlation'],
      [
        [title, _cell(*ceilings[name])]
        for name, title in _CEILINGS.items()
        if name in ceilings
      ],
      'What people reach on these images, with 95 % intervals over images.',
      is_numeric=True,
    ),
  ]


def _number(value: Any) -> float | None:
  """Returns a finite number, or None; JSON has null for NaN."""
  return None if value is None or not math.isfinite(value) else float(value)


def _interval(low: Any, high: Any) -> str:
  ends = [_number(low), _number(high)]
  return '-' if None in ends else f'[{ends[0]:.3f}, {ends[1]:.3f}]'


def _cell(value: Any, low: Any, high: Any) -> blocks.Cell:
  found, note = _number(value), _interval(low, high)
  return blocks.Cell(
    '-' if found is None else f'{found:.3f}', '' if note == '-' else note
  )


def _draw(
  shown: Mapping[str, Mapping[str, Any]],
  ceilings: Mapping[str, Sequence[float]],
  theme: figures.Theme,
) -> figure.Figure:
  """Draws raw correlations, one line per model, and the band of people."""
  rows = [
    (name, s[_OWN])
    for name, s in shown.items()
    if _number(s[_OWN].value) is not None
  ]
  rows.sort(key=lambda row: row[1].value)
  drawing, plot = figures.axes(theme, height=1.6 + 0.26 * len(rows))
  low, high = ceilings[_LOWER][0], ceilings[_UPPER][0]
  plot.axvspan(low, high, color=theme.human, alpha=0.15, linewidth=0)
  for end, words, side in ((low, 'lower', 'right'), (high, 'upper', 'left')):
    plot.axvline(end, color=theme.human, linewidth=1.2)
    # The labels are outside the band, which is narrow where people agree.
    plot.annotate(
      f'{words} ceiling',
      (end, 1),
      (-3 if side == 'right' else 3, 3),
      xycoords=('data', 'axes fraction'),
      textcoords='offset points',
      ha=side,
      color=theme.ink,
      fontsize=9,
    )
  for place, (_, own) in enumerate(rows):
    plot.plot([own.value], [place], 'o', color=theme.ordinary, markersize=4)
    if _number(own.low) is not None and _number(own.high) is not None:
      plot.plot([own.low, own.high], [place] * 2, color=theme.ordinary)
  plot.set_yticks(range(len(rows)), [name for name, _ in rows])
  plot.set_xlabel('own: mean rank correlation with people (raw)')
  return drawing
