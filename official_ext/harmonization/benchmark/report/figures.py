# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Themes and PNG rendering for the plots of the report."""

from collections.abc import Callable
import dataclasses
import io

from matplotlib import figure
from matplotlib.backends import backend_agg

from official_ext.harmonization.benchmark.report import blocks

_DPI = 144
# Of a figure, in inches.
_WIDTH = 7.2
NARROW_WIDTH = 3.9


@dataclasses.dataclass(frozen=True)
class Theme:
  """Colours of a plot, distinguishable without colour vision.

  All but `faint` have a contrast of at least 3 to the ground (WCAG 2.2,
  1.4.11).

  Attributes:
    ground: the background.
    ink: text and axes.
    faint: grids.
    ordinary: ordinary models.
    twin: harmonized models.
    human: people.
    lines: curves with names, which also differ in markers and dashes.
  """

  ground: str
  ink: str
  faint: str
  ordinary: str
  twin: str
  human: str
  lines: tuple[str, ...]


# Hues of Okabe and Ito, "Color Universal Design" (2008), and of Paul Tol's
# "Colour Schemes" (2021).
LIGHT = Theme(
  '#ffffff',
  '#222222',
  '#d8d8d8',
  '#0072b2',
  '#d55e00',
  '#222222',
  (
    '#0072b2',
    '#d55e00',
    '#009e73',
    '#882255',
    '#8c6d00',
    '#332288',
    '#cc6677',
    '#117733',
    '#aa4499',
    '#6a6a6a',
  ),
)
DARK = Theme(
  '#1b1d21',
  '#e4e4e4',
  '#3c4047',
  '#56b4e9',
  '#e69f00',
  '#e4e4e4',
  (
    '#56b4e9',
    '#e69f00',
    '#44aa99',
    '#cc79a7',
    '#f0e442',
    '#88ccee',
    '#ee8866',
    '#bbcc33',
    '#c8a2f0',
    '#b0b0b0',
  ),
)


def axes(theme: Theme, width: float = _WIDTH, height: float = 4.6):
  """Makes a figure with one plot.

  Args:
    theme: colours.
    width: in inches.
    height: in inches.

  Returns:
    The `Figure` and its `Axes`.
  """
  # A Figure without pyplot needs no display and leaves no global state.
  drawing = figure.Figure(
    figsize=(width, height),
    layout='constrained',
    dpi=_DPI,
    facecolor=theme.ground,
  )
  # The canvas can measure text, which placing labels needs.
  backend_agg.FigureCanvasAgg(drawing)
  plot = drawing.subplots()
  plot.set_facecolor(theme.ground)
  plot.grid(color=theme.faint, linewidth=0.6)
  plot.set_axisbelow(True)
  plot.tick_params(colors=theme.ink, labelsize=9)
  for side, spine in plot.spines.items():
    spine.set_visible(side in ('left', 'bottom'))
    spine.set_color(theme.ink)
  for label in (plot.xaxis.label, plot.yaxis.label):
    label.set_color(theme.ink)
  return drawing, plot


def legend(plot, theme: Theme, **kwargs):
  """Adds a legend in the theme's colours."""
  box = plot.legend(frameon=False, fontsize=9, **kwargs)
  for text in box.get_texts():
    text.set_color(theme.ink)


def themed_picture(
  draw: Callable[[Theme], figure.Figure],
  alt: str,
  caption: str,
  file: str,
  draw_narrow: Callable[[Theme], figure.Figure] | None = None,
) -> blocks.Picture:
  """Draws a plot in both themes.

  Args:
    draw: makes the figure.
    alt: as in `blocks.Picture`.
    caption: as in `blocks.Picture`.
    file: as in `blocks.Picture`.
    draw_narrow: makes the figure for narrow screens, whose text would become
      too small if the other one were scaled down.

  Returns:
    The picture.
  """
  return blocks.Picture(
    png(draw(LIGHT)),
    alt,
    caption,
    file,
    png(draw(DARK)),
    (png(draw_narrow(LIGHT)), png(draw_narrow(DARK))) if draw_narrow else None,
  )


def png(drawing: figure.Figure) -> bytes:
  """Returns a figure as a PNG."""
  buffer = io.BytesIO()
  drawing.savefig(buffer, format='png', dpi='figure')
  return buffer.getvalue()
