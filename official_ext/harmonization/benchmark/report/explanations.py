# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tables of what maps show of a network, and a plot next to alignment."""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import NamedTuple

from matplotlib import figure

from official_ext.harmonization.benchmark import faithfulness_words
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.evaluation import scores

FILE = 'faithfulness.png'
_PROTOCOL, _ALIGNMENT = 'faithfulness', 'clickme'
_X, _Y = 'specific', 'blurred_map_minus_noise'
_MARKERS = 'osD^vP*X<>'
_MOST_NAMES = 12
# Of a name above its dot, in points.
_HEIGHTS = (5, -12, 15, -22)


def tables(
  found: Mapping[str, results.StoredResult],
) -> list[blocks.Block]:
  """Makes the detailed tables of an explanation.

  Args:
    found: results by model.

  Returns:
    A table of areas and one of rank correlations; none without results.
  """
  if not found:
    return []
  words = faithfulness_words
  areas, correlations = [], []
  for name, result in found.items():
    for order, title in words.ORDERS.items():
      areas.append(
        [
          blocks.Cell(name, title),
          *(
            _cell(result.scores.get(score))
            for score in (
              f'insertion_{order}',
              f'deletion_{order}',
              f'difference_{order}',
              *(f'difference_{order}_{fill}' for fill in words.FILLS),
            )
          ),
        ]
      )
    for form, title in words.FORMS.items():
      correlations.append(
        [
          blocks.Cell(name, title),
          *(_cell(result.scores.get(f'{form}_{r}')) for r in words.RELATED),
        ]
      )
  return [
    blocks.Table(
      [
        'model and order of pixels',
        'insertion',
        'deletion',
        'difference',
        *words.FILLS.values(),
      ],
      areas,
      'Areas under the probability of the true class, the mean over fills; '
      'their difference, and the difference for each fill. Below: 95 % '
      'intervals over images.',
      is_numeric=True,
    ),
    blocks.Table(
      ['model and form of maps', *words.RELATED.values()],
      correlations,
      "Rank correlation of the map with the same network's map after its last "
      'layer with weights, the last half of these layers, or all were drawn '
      'anew; with its map of another image; and with its map of the highest '
      'other class. Below: 95 % intervals over images.',
      is_numeric=True,
    ),
  ]


def _cell(score: scores.Score | None) -> blocks.Cell:
  if score is None or not math.isfinite(score.value):
    return blocks.Cell('-')
  if not (math.isfinite(score.low) and math.isfinite(score.high)):
    return blocks.Cell(f'{score.value:.3f}')
  return blocks.Cell(
    f'{score.value:.3f}', f'[{score.low:.3f}, {score.high:.3f}]'
  )


class Point(NamedTuple):
  """A network under an explanation.

  Attributes:
    model: its name.
    explainer: the explanation.
    specific: specific alignment.
    faithfulness: of the blurred map, which alignment compares.
  """

  model: str
  explainer: str
  specific: scores.Score
  faithfulness: scores.Score


def points(models: Sequence[results.ModelResults]) -> list[Point]:
  """Returns the networks and explanations that have both scores.

  Args:
    models: with their results.
  """
  return [
    p
    for p in _points(models)
    if math.isfinite(p.specific.value) and math.isfinite(p.faithfulness.value)
  ]


def _points(models) -> Iterator[Point]:
  for model in models:
    if model.is_companion or model.runs:
      continue
    for name, result in model.results.items():
      family, dot, variant = name.partition('.')
      aligned = model.results.get(f'{_ALIGNMENT}{dot}{variant}')
      if family != _PROTOCOL or aligned is None or _Y not in result.scores:
        continue
      for explainer, explained in (aligned.explainers or {}).items():
        if _X in explained.scores:
          yield Point(
            model.name, explainer, explained.scores[_X], result.scores[_Y]
          )


def section(models: Sequence[results.ModelResults]) -> list[blocks.Block]:
  """Draws faithfulness against alignment.

  Args:
    models: with their results.

  Returns:
    The picture; nothing if no network has both scores.
  """
  if not points(models):
    return []
  return [
    figures.themed_picture(
      lambda theme: draw(models, theme),
      'Scatter plot of specific alignment and faithfulness, a dot for each '
      'network and explanation. The tables have the same numbers.',
      'Specific alignment with people against faithfulness: insertion minus '
      'deletion in the order of the map minus that of noise, both blurred as '
      'for specific alignment. A dot for each network and explanation; bars '
      'are 95 % intervals. Dotted: 0, which is expected of maps that ignore '
      'the image, and of noise.',
      FILE,
      lambda theme: draw(models, theme, width=figures.NARROW_WIDTH),
    )
  ]


def draw(
  models: Sequence[results.ModelResults],
  theme: figures.Theme = figures.LIGHT,
  **size: float,
) -> figure.Figure:
  """Draws the plot.

  Args:
    models: with their results.
    theme: colours.
    **size: of the figure, for `figures.axes`.

  Returns:
    The figure; an explanation has a colour and a marker.
  """
  found = points(models)
  drawing, plot = figures.axes(theme, **size)
  for line in (plot.axhline, plot.axvline):
    line(0, color=theme.human, linestyle=':', linewidth=1)
  explainers = list(dict.fromkeys(p.explainer for p in found))
  for place, explainer in enumerate(explainers):
    shown = [p for p in found if p.explainer == explainer]
    colour = theme.lines[place % len(theme.lines)]
    x = [p.specific.value for p in shown]
    y = [p.faithfulness.value for p in shown]
    plot.errorbar(
      x,
      y,
      xerr=_bars([p.specific for p in shown]),
      yerr=_bars([p.faithfulness for p in shown]),
      fmt='none',
      ecolor=colour,
      elinewidth=1,
      alpha=0.6,
    )
    plot.plot(
      x,
      y,
      _MARKERS[place % len(_MARKERS)],
      color=colour,
      label=explainer,
      markersize=6,
    )
  if len(found) <= _MOST_NAMES:
    for p in found:
      plot.annotate(
        p.model,
        (p.specific.value, p.faithfulness.value),
        # Different for explanations, whose dots are often near each other.
        (6, _HEIGHTS[explainers.index(p.explainer) % len(_HEIGHTS)]),
        textcoords='offset points',
        fontsize=8,
        color=theme.ink,
      )
  plot.margins(0.15)
  plot.set_xlabel('specific alignment')
  plot.set_ylabel('faithfulness of the blurred map')
  figures.legend(
    plot, theme, loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=2
  )
  return drawing


def _bars(shown: Sequence[scores.Score]) -> list[list[float]]:
  """Returns the lengths of error bars; 0 for an unknown interval."""
  return [
    [0.0 if math.isnan(s.low) else s.value - s.low for s in shown],
    [0.0 if math.isnan(s.high) else s.high - s.value for s in shown],
  ]
