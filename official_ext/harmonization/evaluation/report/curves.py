"""Accuracy curves of the psychophysics: people and models, by percent shown."""

from typing import Any, List, Mapping, Sequence, Tuple

import matplotlib
from matplotlib import figure
from matplotlib import ticker
import numpy as np

from official_ext.harmonization.evaluation.report import figures

# The level of the whole, untouched image, and where it stands on the axis: one
# step of the levels past 100 percent.
_FULL_LEVEL = 200
_FULL_PLACE = 10**2.2
_TICKS = (1, 2.5, 6.3, 16, 40, 100)
# A legend of more lines covers the plot.
_MOST_NAMES = 12


def of_models(models: Sequence[Mapping[str, Any]]
             ) -> List[Tuple[str, Mapping[str, Any]]]:
  """The models' curves.

  Args:
    models: as `benchmark.Benchmark.run` returns them.

  Returns:
    (model's name, curve) of each that has one.
  """
  return [(m['name'], m['experiments']['psychophysics']['curves']['model'])
          for m in models if _curves(m)]


def of_people(models: Sequence[Mapping[str, Any]]):
  """People's curve, the same for all models; None where it is not known."""
  return next((_curves(m)['human'] for m in models
               if _curves(m) and _curves(m).get('human')), None)


def _curves(model):
  return model['experiments'].get('psychophysics', {}).get('curves')


def draw(models: Sequence[Mapping[str, Any]], twins: Sequence[Tuple[str, str]],
         theme: figures.Theme = figures.LIGHT) -> figure.Figure:
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
  shades = matplotlib.colormaps['viridis'](np.linspace(0.15, 0.9, max(len(found), 1)))
  for shade, (name, curve) in zip(shades, found):
    _line(plot, curve, name, shade, '-' if name in harmonized else '--')
  human = of_people(models)
  if human:
    _line(plot, human, 'people', theme.human, '-', width=2.4)
  plot.axhline(0.5, color=theme.ink, linewidth=0.8, linestyle=':')
  plot.set_xscale('log')
  plot.set_xticks([*_TICKS, _FULL_PLACE], [f'{t:g}' for t in _TICKS] + ['full'])
  plot.xaxis.set_minor_locator(ticker.NullLocator())
  plot.set_xlabel('percent of the image revealed')
  plot.set_ylabel('accuracy, animal or not')
  plot.set_ylim(None, 1.02)
  if len(found) <= _MOST_NAMES:
    figures.legend(plot, theme, loc='best')
  return picture


def _line(plot, curve, label, colour, style, width=1.4):
  """A curve with its standard errors where they are known."""
  places = [_FULL_PLACE if level == _FULL_LEVEL else percent
            for level, percent in zip(curve['levels'], curve['percents'])]
  accuracy, error = (
      np.array([np.nan if v is None else v for v in curve[key]], np.float64)
      for key in ('accuracy', 'standard_error'))
  plot.plot(places, accuracy, style, color=colour, linewidth=width,
            marker='o', markersize=3, label=label)
  plot.fill_between(places, accuracy - error, accuracy + error, color=colour,
                    alpha=0.15, linewidth=0)
