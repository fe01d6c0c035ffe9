# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Draws panels: images next to human maps and model maps."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from matplotlib import figure
from matplotlib.backends import backend_agg
import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization import files

_INCHES = 1.4
_DPI = 120
# For two lines below a map.
_NOTE_INCHES = 0.35
_PERCENTILE = 99


def to_display(images: np.ndarray) -> np.ndarray:
  """Undoes Model Garden's normalization.

  Args:
    images: float (B, H, W, 3), as a parser returns them.

  Returns:
    float (B, H, W, 3) in [0, 1].
  """
  pixels = images * np.array(preprocess_ops.STDDEV_RGB) + np.array(
    preprocess_ops.MEAN_RGB
  )
  return np.clip(pixels / 255.0, 0.0, 1.0)


def _shown(values: np.ndarray) -> dict[str, Any]:
  """Returns the arguments by which `imshow` draws a map.

  The scale ends at the 99th percentile, because a few hot pixels would leave
  the rest of a gradient black. Zero is white in a map with both signs.
  """
  values = np.asarray(values, np.float64)
  finite = values[np.isfinite(values)]
  low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
  if low < 0 < high:
    limit = np.percentile(np.abs(finite), _PERCENTILE) or high
    return {'X': values, 'cmap': 'RdBu_r', 'vmin': -limit, 'vmax': limit}
  limit = np.percentile(finite, _PERCENTILE) if finite.size else high
  # A sparse map has the lowest value at the percentile too.
  limit = limit if limit > low else high
  return {'X': values, 'cmap': 'magma', 'vmin': low, 'vmax': limit}


def _figure(
  images, maps, captions, notes=(), ground='white', ink='black'
) -> figure.Figure:
  maps = list(maps.items() if isinstance(maps, Mapping) else maps)
  rows, columns = len(images), 1 + len(maps)
  # A Figure without pyplot needs no display and leaves no global state.
  picture = figure.Figure(
    figsize=(
      _INCHES * columns,
      (_INCHES + (_NOTE_INCHES if notes else 0)) * rows + 0.3,
    ),
    dpi=_DPI,
    layout='constrained',
    facecolor=ground,
  )
  axes = picture.subplots(rows, columns, squeeze=False)
  for row in range(rows):
    axes[row, 0].imshow(images[row])
    for column, (_, values) in enumerate(maps, 1):
      axes[row, column].imshow(**_shown(values[row]))
  for axis, title in zip(axes[0], ['image', *(t for t, _ in maps)]):
    axis.set_title(title, fontsize=9, color=ink)
  for axis in axes.flat:
    axis.set(xticks=[], yticks=[], frame_on=False)
  for axis, caption in zip(axes[:, 0], captions or ()):
    axis.set_ylabel(caption, fontsize=8, color=ink)
  for column, texts in enumerate(notes or (), 1):
    for axis, text in zip(axes[:, column], texts):
      axis.set_xlabel(text, fontsize=7.5, color=ink, parse_math=False)
  return picture


def draw(
  path: str | BinaryIO,
  images: np.ndarray,
  maps: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]],
  captions: Sequence[str] | None = None,
  notes: Sequence[Sequence[str]] | None = None,
  ground: str = 'white',
  ink: str = 'black',
):
  """Draws one row per image: the image, then each of its maps.

  Args:
    path: of the image file, whose extension determines the format; or a binary
      file, for PNG.
    images: float (B, H, W, 3) in [0, 1].
    maps: maps (B, H, W) by column title, or pairs of title and maps if titles
      can be equal. Each map is drawn on its own scale, which ends at its 99th
      percentile; maps with both signs are blue below 0 and red above.
    captions: B lines of text, left of the rows.
    notes: for each column of maps, B texts that are written below the maps.
    ground: colour of the background.
    ink: colour of the text.
  """
  _figure(images, maps, captions, notes, ground, ink).savefig(path)


def render(
  images: np.ndarray,
  maps: Mapping[str, np.ndarray],
  captions: Sequence[str] | None = None,
) -> np.ndarray:
  """Draws as `draw` does, into memory.

  Args:
    images: as in `draw`.
    maps: as in `draw`.
    captions: as in `draw`.

  Returns:
    The panels, uint8 (height, width, 3).
  """
  canvas = backend_agg.FigureCanvasAgg(_figure(images, maps, captions))
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_png(path: str, picture: np.ndarray):
  """Writes a PNG file atomically.

  Args:
    path: local or remote (gs://).
    picture: uint8 (height, width, 3).
  """
  files.write(path, tf.io.encode_png(picture).numpy())
