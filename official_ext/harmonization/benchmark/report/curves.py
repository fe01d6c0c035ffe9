# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Draws accuracy curves of people and models."""

from collections.abc import Mapping, Sequence

from matplotlib import figure
from matplotlib import ticker
import numpy as np

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark.report import figures

# The level of the whole, untouched image, and its position on the axis: one
# step of the levels past 100 percent.
_FULL_LEVEL = 200
_FULL_PLACE = 10**2.2
_TICKS = (1, 2.5, 6.3, 16, 40, 100)
# More lines than these cannot be distinguished; they get a colour per kind.
_MARKERS = 's^vDP<>Xph'


def draw(
  models: Mapping[str, results.Curve],
  people: results.Curve | None,
  twins: Sequence[tuple[str, str]],
  theme: figures.Theme = figures.LIGHT,
) -> figure.Figure:
  """Draws accuracy against the percent of the image that is shown.

  Args:
    models: curves by name.
    people: their curve, or None.
    twins: names of baselines and of their harmonized twins; twins have solid
      lines.
    theme: colours.

  Returns:
    The figure.
  """
  drawing, plot = figures.axes(theme)
  harmonized = {twin for _, twin in twins}
  handles = {}
  for number, (name, curve) in enumerate(models.items()):
    is_twin = name in harmonized
    if len(models) > len(_MARKERS):
      label, marker = 'harmonized' if is_twin else 'ordinary', 'o'
      label += ' models'
      colour = theme.twin if is_twin else theme.ordinary
      key = is_twin  # The legend has one line for each label.
    else:
      label, marker, colour = name, _MARKERS[number], theme.lines[number]
      key = number
    line = _line(plot, curve, label, colour, '-' if is_twin else '--', marker)
    handles.setdefault(key, line)
  if people:
    handles['people'] = _line(
      plot, people, 'people', theme.human, '-', 'o', 2.4
    )
    _band(plot, people, theme.human)
  plot.axhline(0.5, color=theme.ink, linewidth=0.8, linestyle=':')
  plot.set_xscale('log')
  plot.set_xticks([*_TICKS, _FULL_PLACE], [f'{t:g}' for t in _TICKS] + ['full'])
  plot.xaxis.set_minor_locator(ticker.NullLocator())
  plot.set_xlabel('percent of the image revealed')
  plot.set_ylabel('accuracy, animal or not')
  plot.set_ylim(None, 1.02)
  figures.legend(plot, theme, handles=list(handles.values()), loc='best')
  return drawing


def _positions(curve):
  """Returns the positions of the levels on the axis."""
  return [
    _FULL_PLACE if level == _FULL_LEVEL else percent
    for level, percent in zip(curve.levels, curve.percents)
  ]


def _line(plot, curve, label, colour, style, marker, width=1.4):
  (line,) = plot.plot(
    _positions(curve),
    curve.accuracy,
    style,
    color=colour,
    linewidth=width,
    marker=marker,
    markersize=4,
    label=label,
  )
  return line


def _band(plot, curve, colour):
  """Draws the standard errors, where they are known."""
  accuracy, error = np.array(curve.accuracy), np.array(curve.standard_error)
  plot.fill_between(
    _positions(curve),
    accuracy - error,
    accuracy + error,
    color=colour,
    alpha=0.15,
    linewidth=0,
  )
