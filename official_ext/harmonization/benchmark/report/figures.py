"""What the report's plots share: two themes, and PNGs of either."""

from collections.abc import Callable
import dataclasses
import io

from matplotlib import figure
from matplotlib.backends import backend_agg

_DPI = 144


@dataclasses.dataclass(frozen=True)
class Theme:
  """Colours of a plot; the pairs can be told apart without colour vision.

  All but the faint one have a contrast of at least 3 to the ground (WCAG 2.2,
  1.4.11).

  Attributes:
    ground: behind the plot.
    ink: of text and axes.
    faint: of grids and of what is in the background.
    ordinary: of ordinary models.
    twin: of harmonized ones.
    human: of people.
    lines: of curves that have names, beside markers and dashes.
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


def axes(theme: Theme, width: float = 7.2, height: float = 4.6):
  """Makes a figure with one plot.

  Args:
    theme: its colours.
    width: in inches.
    height: in inches.

  Returns:
    The `Figure` and its `Axes`.
  """
  # Not pyplot: a figure of its own needs no display and leaves no state.
  picture = figure.Figure(
    figsize=(width, height),
    layout='constrained',
    dpi=_DPI,
    facecolor=theme.ground,
  )
  # It measures text, so that labels can make room for each other.
  backend_agg.FigureCanvasAgg(picture)
  plot = picture.subplots()
  plot.set_facecolor(theme.ground)
  plot.grid(color=theme.faint, linewidth=0.6)
  plot.set_axisbelow(True)
  plot.tick_params(colors=theme.ink, labelsize=9)
  for side, spine in plot.spines.items():
    spine.set_visible(side in ('left', 'bottom'))
    spine.set_color(theme.ink)
  for label in (plot.xaxis.label, plot.yaxis.label):
    label.set_color(theme.ink)
  return picture, plot


def legend(plot, theme: Theme, **kwargs):
  """Adds a legend in the theme's colours."""
  box = plot.legend(frameon=False, fontsize=9, **kwargs)
  for text in box.get_texts():
    text.set_color(theme.ink)


def both(draw: Callable[[Theme], figure.Figure]) -> dict[str, bytes]:
  """Renders a plot in both themes.

  Args:
    draw: makes the figure.

  Returns:
    PNGs under 'light' and 'dark'.
  """
  return {
    name: png(draw(theme)) for name, theme in (('light', LIGHT), ('dark', DARK))
  }


def png(picture: figure.Figure) -> bytes:
  """Returns a figure as a PNG."""
  buffer = io.BytesIO()
  picture.savefig(buffer, format='png', dpi='figure')
  return buffer.getvalue()
