"""Accuracy curves of the psychophysics: people and models, by percent shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure
from matplotlib import ticker
import numpy as np

from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.benchmark.report import observers

# The level of the whole, untouched image, and its place on the axis: one
# step of the levels past 100 percent.
_FULL_LEVEL = 200
_FULL_PLACE = 10**2.2
_TICKS = (1, 2.5, 6.3, 16, 40, 100)
# More lines than these cannot be told apart: they get the colour of their kind.
_MARKERS = 's^vDP<>Xph'


def of_models(
  models: Sequence[Mapping[str, Any]],
) -> list[tuple[str, Mapping[str, Any]]]:
  """The models' curves.

  Args:
    models: as `benchmark.Benchmark.run` returns them.

  Returns:
    (model's name, curve) of each that has one.
  """
  return [
    (m['name'], observers.curve_of(m)) for m in models if observers.curve_of(m)
  ]


def draw(
  models: Sequence[Mapping[str, Any]],
  twins: Sequence[tuple[str, str]],
  theme: figures.Theme = figures.LIGHT,
) -> figure.Figure:
  """Draws accuracy against the percent of the image that is shown.

  Args:
    models: as `benchmark.Benchmark.run` returns them; some have a curve.
    twins: names of baselines and of their harmonized twins, drawn solid.
    theme: colours.

  Returns:
    The figure.
  """
  picture, plot = figures.axes(theme)
  harmonized = {twin for _, twin in twins}
  found = of_models(models)
  handles = {}
  for number, (name, curve) in enumerate(found):
    is_twin = name in harmonized
    if len(found) > len(_MARKERS):
      label, marker = 'harmonized' if is_twin else 'ordinary', 'o'
      label += ' models'
      colour = theme.twin if is_twin else theme.ordinary
      key = is_twin  # Of lines with one label, one is in the legend.
    else:
      label, marker, colour = name, _MARKERS[number], theme.lines[number]
      key = number
    line = _line(plot, curve, label, colour, '-' if is_twin else '--', marker)
    handles.setdefault(key, line)
  human = observers.of_people(models)
  if human:
    handles['people'] = _line(plot, human, 'people', theme.human, '-', 'o', 2.4)
    _band(plot, human, theme.human)
  plot.axhline(0.5, color=theme.ink, linewidth=0.8, linestyle=':')
  plot.set_xscale('log')
  plot.set_xticks([*_TICKS, _FULL_PLACE], [f'{t:g}' for t in _TICKS] + ['full'])
  plot.xaxis.set_minor_locator(ticker.NullLocator())
  plot.set_xlabel('percent of the image revealed')
  plot.set_ylabel('accuracy, animal or not')
  plot.set_ylim(None, 1.02)
  figures.legend(plot, theme, handles=list(handles.values()), loc='best')
  return picture


def _places(curve):
  """Where the curve's levels are on the axis."""
  return [
    _FULL_PLACE if level == _FULL_LEVEL else percent
    for level, percent in zip(curve['levels'], curve['percents'])
  ]


def _values(curve, key):
  """Numbers of a curve, NaN where there is none."""
  return np.array([np.nan if v is None else v for v in curve[key]], np.float64)


def _line(plot, curve, label, colour, style, marker, width=1.4):
  (line,) = plot.plot(
    _places(curve),
    _values(curve, 'accuracy'),
    style,
    color=colour,
    linewidth=width,
    marker=marker,
    markersize=4,
    label=label,
  )
  return line


def _band(plot, curve, colour):
  """Standard errors, where they are known."""
  accuracy, error = (_values(curve, k) for k in ('accuracy', 'standard_error'))
  plot.fill_between(
    _places(curve),
    accuracy - error,
    accuracy + error,
    color=colour,
    alpha=0.15,
    linewidth=0,
  )
