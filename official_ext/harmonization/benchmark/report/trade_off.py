"""The trade-off plot: accuracy against alignment with people.

One dot per model, the convex hull of the ordinary models shaded, an arrow from
each baseline to its harmonized twin (Fel et al., NeurIPS 2022, figure 1).
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

from matplotlib import figure
from matplotlib import transforms
import numpy as np
from scipy import spatial

from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.benchmark.report import leaderboard

_ACCURACY = (
  ('imagenet', 'top1'),
  ('clickme', 'top1'),
  ('clicktionary', 'top1'),
)
_ALIGNMENT = (('clickme', 'spearman'), ('clicktionary', 'spearman'))
# Names beside dots can be read up to here; beyond, only twins have theirs.
_MOST_NAMES = 40
# Where a name may stand, from its dot, in points and as alignments of text.
_PLACES = (
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
    is_twin: whether it is the harmonized one of a pair.
  """

  name: str
  accuracy: leaderboard.Cell
  alignment: leaderboard.Cell
  is_twin: bool

  @property
  def place(self) -> tuple[float, float]:
    """Accuracy and alignment."""
    return self.accuracy.value, self.alignment.value


def axes_of(
  models: Sequence[Mapping[str, Any]],
) -> tuple[leaderboard.Column, leaderboard.Column] | None:
  """Which scores the plot shows.

  Args:
    models: as `benchmark.Benchmark.run` returns them.

  Returns:
    The columns of accuracy (ImageNet's, or else of the images with maps) and of
    alignment (ClickMe's, or else Clicktionary's); None where one is missing.
  """
  by_key = {(c.experiment, c.score): c for c in leaderboard.columns(models)}
  chosen = [
    next((by_key[k] for k in keys if k in by_key), None)
    for keys in (_ACCURACY, _ALIGNMENT)
  ]
  return None if None in chosen else tuple(chosen)


def points(
  models: Sequence[Mapping[str, Any]], twins: Sequence[tuple[str, str]]
) -> list[Point]:
  """The models that have both scores.

  Args:
    models: as `benchmark.Benchmark.run` returns them.
    twins: names of baselines and of their harmonized twins.

  Returns:
    Their points.
  """
  chosen = axes_of(models)
  if chosen is None:
    return []
  harmonized = {twin for _, twin in twins}
  found = [
    Point(
      model['name'],
      *(leaderboard.cell(model, c) for c in chosen),
      model['name'] in harmonized,
    )
    for model in models
  ]
  return [p for p in found if all(map(math.isfinite, p.place))]


def hull(ordinary: Sequence[Point]) -> np.ndarray | None:
  """The corners of the ordinary models' convex hull.

  Args:
    ordinary: points of models.

  Returns:
    float (n, 2), in order around it; None where the points span no area.
  """
  places = np.array([p.place for p in ordinary])
  if len(places) < 3:
    return None
  try:
    return places[spatial.ConvexHull(places).vertices]
  except spatial.QhullError:
    return None


def draw(
  models: Sequence[Mapping[str, Any]],
  twins: Sequence[tuple[str, str]],
  theme: figures.Theme = figures.LIGHT,
) -> figure.Figure:
  """Draws the plot.

  Args:
    models: as `benchmark.Benchmark.run` returns them; some have both scores.
    twins: names of baselines and of their harmonized twins.
    theme: colours.

  Returns:
    The figure.
  """
  accuracy, alignment = axes_of(models)
  found = points(models, twins)
  picture, plot = figures.axes(theme)
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
  _arrows(plot, {p.name: p for p in found}, twins, theme)
  plot.set_xlabel(f'accuracy: {accuracy.title}')
  plot.set_ylabel(
    'alignment: '
    + alignment.title
    + (' (rho / ceiling)' if alignment.normalized else ' (raw)')
  )
  plot.margins(0.12)
  figures.legend(plot, theme, loc='best')
  _names(picture, plot, found, theme)
  return picture


def _dots(plot, shown, colour, marker, label):
  """Dots with their intervals."""
  if not shown:
    return
  x, y = np.array([p.place for p in shown]).T
  for cells, values, direction in (
    ([p.accuracy for p in shown], x, 'xerr'),
    ([p.alignment for p in shown], y, 'yerr'),
  ):
    # An interval that does not exist has no length.
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


def _arrows(plot, by_name, twins, theme):
  """Arrows between the pairs that both have a place."""
  for baseline, twin in twins:
    if baseline in by_name and twin in by_name:
      plot.annotate(
        '',
        by_name[twin].place,
        by_name[baseline].place,
        arrowprops={
          'arrowstyle': '-|>',
          'color': theme.twin,
          'lw': 1.2,
          'shrinkA': 5,
          'shrinkB': 5,
          'alpha': 0.8,
        },
      )


def _names(picture, plot, shown, theme):
  """Names beside the dots, each where it is least in the way."""
  if len(shown) > _MOST_NAMES:
    shown = [p for p in shown if p.is_twin]
  # Only what is laid out can be measured, and must then not move.
  picture.draw_without_rendering()
  picture.set_layout_engine('none')
  frame = plot.get_window_extent()
  dots = plot.transData.transform([p.place for p in shown]) if shown else []
  taken = [
    transforms.Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in dots
  ]
  for number, point in enumerate(shown):
    # Over another name is worst, nearer to another dot misleads.
    cost = {}
    for place in _PLACES:
      text = _name(plot, point, place, theme)
      box = text.get_window_extent()
      text.remove()
      is_outside = box.x0 < frame.x0 or frame.x1 < box.x1
      overlaps = sum(box.overlaps(other) for other in taken)
      cost[place] = (is_outside, overlaps, _nearest(box, dots) != number)
    best = min(_PLACES, key=cost.get)
    taken.append(_name(plot, point, best, theme).get_window_extent())


def _name(plot, point, place, theme):
  dx, dy, horizontal, vertical = place
  return plot.annotate(
    point.name,
    point.place,
    (dx, dy),
    textcoords='offset points',
    ha=horizontal,
    va=vertical,
    fontsize=8,
    color=theme.ink,
  )


def _nearest(box, dots):
  """Which dot is nearest to a box, all in pixels."""
  away = np.maximum(np.maximum(box.min - dots, dots - box.max), 0.0)
  return int(np.argmin(np.hypot(*away.T)))
