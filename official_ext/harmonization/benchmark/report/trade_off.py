# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The trade-off plot: accuracy against alignment with people.

The plot has a dot per model, the shaded convex hull of the ordinary models, and
an arrow from each baseline to its harmonized twin (Fel et al., NeurIPS 2022,
figure 1).
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from matplotlib import figure
from matplotlib import transforms
import numpy as np
from scipy import spatial

from official_ext.harmonization.benchmark.report import differences
from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.benchmark.report import leaderboard

# With more models than this, only twins have names, which would be unreadable.
_MOST_NAMES = 40
# Height of a line of text as a fraction of the plot's.
_NAME_HEIGHT = 0.025
# Candidate positions of a name: offset from its dot in points, and alignment.
_OFFSETS = (
  (6, 5, 'left', 'bottom'),
  (6, -5, 'left', 'top'),
  (-6, 5, 'right', 'bottom'),
  (-6, -5, 'right', 'top'),
  (0, 9, 'center', 'bottom'),
  (0, -9, 'center', 'top'),
  (12, 14, 'left', 'bottom'),
  (12, -14, 'left', 'top'),
  (-12, 14, 'right', 'bottom'),
  (-12, -14, 'right', 'top'),
)


class Point(NamedTuple):
  """A model in the plot.

  Attributes:
    name: of the model.
    accuracy: with its interval.
    alignment: with its interval.
    is_twin: whether it is the harmonized model of a pair.
  """

  name: str
  accuracy: leaderboard.Cell
  alignment: leaderboard.Cell
  is_twin: bool

  @property
  def position(self) -> tuple[float, float]:
    """Accuracy and alignment."""
    return self.accuracy.value, self.alignment.value


def axes_of(
  models: leaderboard.Models,
) -> tuple[leaderboard.Column, leaderboard.Column] | None:
  """Chooses the scores that the plot shows.

  Args:
    models: with their results.

  Returns:
    The first columns of accuracy and of alignment, in the order of the
    protocols; None if either is missing.
  """
  shown = leaderboard.columns(models)
  accuracy = leaderboard.accuracy_column(shown)
  alignment = leaderboard.alignment_column(shown)
  return (accuracy, alignment) if accuracy and alignment else None


def points(
  models: leaderboard.Models, twins: Sequence[tuple[str, str]]
) -> list[Point]:
  """Returns the points of the models that have both scores.

  Args:
    models: with their results.
    twins: names of baselines and of their harmonized twins.
  """
  chosen = axes_of(models)
  if chosen is None:
    return []
  harmonized = {twin for _, twin in twins}
  found = [
    Point(
      model.name,
      leaderboard.cell(model, chosen[0]),
      leaderboard.cell(model, chosen[1]),
      model.name in harmonized,
    )
    for model in models
    if model.is_network
  ]
  return [p for p in found if all(map(math.isfinite, p.position))]


def hull(ordinary: Sequence[Point]) -> np.ndarray | None:
  """Computes the convex hull of the ordinary models.

  Args:
    ordinary: their points.

  Returns:
    Its corners in order, float (n, 2); None if the points span no area.
  """
  positions = np.array([p.position for p in ordinary])
  if len(positions) < 3:
    return None
  try:
    return positions[spatial.ConvexHull(positions).vertices]
  except spatial.QhullError:
    return None


def draw(
  models: leaderboard.Models,
  twins: Sequence[tuple[str, str]],
  theme: figures.Theme = figures.LIGHT,
  pairs: differences.Pairs = (),
  **size: float,
) -> figure.Figure:
  """Draws the plot.

  Args:
    models: of which some have both scores.
    twins: names of baselines and of their harmonized twins.
    theme: colours.
    pairs: comparisons of the twins. Arrows are dashed where the alignment does
      not differ significantly, or was not tested.
    **size: of the figure, for `figures.axes`.

  Returns:
    The figure.
  """
  chosen = axes_of(models)
  assert chosen, 'no model has both scores'
  accuracy, alignment = chosen
  found = points(models, twins)
  drawing, plot = figures.axes(theme, **size)
  corners = hull([p for p in found if not p.is_twin])
  if corners is not None:
    plot.fill(
      *corners.T,
      color=theme.ordinary,
      alpha=0.13,
      linewidth=0,
      label='convex hull of ordinary models',
    )
  for is_twin, label in ((False, 'ordinary models'), (True, 'harmonized')):
    _dots(
      plot,
      [p for p in found if p.is_twin == is_twin],
      theme.twin if is_twin else theme.ordinary,
      'D' if is_twin else 'o',
      label,
    )
  by_name = {p.name: p for p in found}
  _arrows(plot, by_name, twins, alignment, pairs, theme)
  _controls(plot, models, alignment, theme)
  plot.set_xlabel(f'accuracy: {accuracy.title}')
  plot.set_ylabel(
    'alignment: '
    + alignment.title
    + (' (rho / ceiling)' if alignment.normalized else '')
  )
  plot.margins(0.12)
  figures.legend(plot, theme, loc='best')
  _names(drawing, plot, found, theme)
  return drawing


def _dots(plot, shown, colour, marker, label):
  """Draws dots with their intervals."""
  if not shown:
    return
  x, y = np.array([p.position for p in shown]).T
  for cells, values, direction in (
    ([p.accuracy for p in shown], x, 'xerr'),
    ([p.alignment for p in shown], y, 'yerr'),
  ):
    # A missing interval is drawn with length 0.
    spread = np.nan_to_num(
      [[v - c.low, c.high - v] for c, v in zip(cells, values)]
    ).T
    plot.errorbar(
      x,
      y,
      fmt='none',
      ecolor=colour,
      elinewidth=0.8,
      alpha=0.45,
      **{direction: np.maximum(spread, 0.0)},
    )
  plot.scatter(x, y, s=38, color=colour, marker=marker, label=label, zorder=3)


def _controls(plot, models, alignment, theme):
  """Draws a line at each control and at the mean of the random twins."""
  lines = {
    model.name.removeprefix('control-'): leaderboard.cell(model, alignment)
    for model in models
    if model.is_control
  }
  values = {n: c.value for n, c in lines.items() if math.isfinite(c.value)}
  twins = [leaderboard.cell(m, alignment).value for m in models if m.twin_of]
  if twins:
    values['random weights'] = sum(twins) / len(twins)
  low, high = plot.get_ylim()
  near: list[tuple[list[str], float]] = []
  for name, value in sorted(values.items(), key=lambda pair: pair[1]):
    plot.axhline(value, color=theme.human, lw=0.8, ls=':', alpha=0.7, zorder=1)
    # Names of lines that almost coincide share a line of text.
    if near and value - near[-1][1] < _NAME_HEIGHT * (high - low):
      near[-1][0].append(name)
    else:
      near.append(([name], value))
  for names, value in near:
    plot.annotate(
      ', '.join(names),
      (1, value),
      (2, 0),
      xycoords=('axes fraction', 'data'),
      textcoords='offset points',
      va='center',
      fontsize=7,
      color=theme.ink,
    )


def _arrows(plot, by_name, twins, alignment, pairs, theme):
  """Draws arrows between pairs of which both models have a point."""
  styles = {}
  for baseline, twin in twins:
    if baseline in by_name and twin in by_name:
      c = differences.find(
        pairs, baseline, twin, alignment.protocol, alignment.score
      )
      style, words = (
        ('-', 'alignment differs (p < .05, Holm)')
        if c and c.is_significant
        else ('--', 'not significant' if c else 'not tested')
      )
      styles[words] = style
      plot.annotate(
        '',
        by_name[twin].position,
        by_name[baseline].position,
        arrowprops={
          'arrowstyle': '-|>',
          'color': theme.twin,
          'lw': 1.2,
          'linestyle': style,
          'shrinkA': 5,
          'shrinkB': 5,
          'alpha': 0.8,
        },
      )

  for words, style in styles.items():
    plot.plot([], [], style, color=theme.twin, lw=1.2, label=words)


def _names(drawing, plot, shown, theme):
  """Draws each name where it overlaps least with names and dots."""
  if len(shown) > _MOST_NAMES:
    shown = [p for p in shown if p.is_twin]
  # Text can be measured only after layout, which must not change afterwards.
  drawing.draw_without_rendering()
  drawing.set_layout_engine('none')
  frame = plot.get_window_extent()
  dots = plot.transData.transform([p.position for p in shown]) if shown else []
  taken = [
    transforms.Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in dots
  ]
  for number, point in enumerate(shown):
    # Leaving the plot is worst, then covering a name; a name that is nearer to
    # another dot misleads.
    cost = {}
    for offset in _OFFSETS:
      text = _name(plot, point, offset, theme)
      box = text.get_window_extent()
      text.remove()
      is_outside = box.x0 < frame.x0 or frame.x1 < box.x1
      overlaps = sum(box.overlaps(other) for other in taken)
      cost[offset] = (is_outside, overlaps, _nearest(box, dots) != number)
    best = min(cost, key=lambda offset: cost[offset])
    taken.append(_name(plot, point, best, theme).get_window_extent())


def _name(plot, point, offset, theme):
  dx, dy, horizontal, vertical = offset
  return plot.annotate(
    point.name,
    point.position,
    (dx, dy),
    textcoords='offset points',
    ha=horizontal,
    va=vertical,
    fontsize=8,
    color=theme.ink,
  )


def _nearest(box, dots):
  """Returns the index of the dot nearest to a box, all in pixels."""
  away = np.maximum(np.maximum(box.min - dots, dots - box.max), 0.0)
  return int(np.argmin(np.hypot(*away.T)))
