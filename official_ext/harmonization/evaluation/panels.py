"""Pictures of images beside human and model maps."""

from collections.abc import Mapping, Sequence

from matplotlib import figure
from matplotlib.backends import backend_agg
import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization import files

_INCHES = 1.4
_DPI = 120


def to_display(images: np.ndarray) -> np.ndarray:
  """Undoes the host's normalization.

  Args:
    images: float (B, H, W, 3), as a parser returns them.

  Returns:
    float (B, H, W, 3) in [0, 1].
  """
  pixels = images * np.array(preprocess_ops.STDDEV_RGB) + np.array(
    preprocess_ops.MEAN_RGB
  )
  return np.clip(pixels / 255.0, 0.0, 1.0)


def _figure(images, maps, captions) -> figure.Figure:
  maps = list(maps.items() if isinstance(maps, Mapping) else maps)
  rows, columns = len(images), 1 + len(maps)
  # Not pyplot: a figure of its own needs no display and leaves no state.
  picture = figure.Figure(
    figsize=(_INCHES * columns, _INCHES * rows + 0.3),
    dpi=_DPI,
    layout='constrained',
  )
  axes = picture.subplots(rows, columns, squeeze=False)
  for row in range(rows):
    axes[row, 0].imshow(images[row])
    for column, (_, values) in enumerate(maps, 1):
      axes[row, column].imshow(values[row], cmap='magma')
  for axis, title in zip(axes[0], ['image', *(t for t, _ in maps)]):
    axis.set_title(title, fontsize=9)
  for axis in axes.flat:
    axis.set(xticks=[], yticks=[], frame_on=False)
  for axis, caption in zip(axes[:, 0], captions or ()):
    axis.set_ylabel(caption, fontsize=8)
  return picture


def draw(
  path: str,
  images: np.ndarray,
  maps: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]],
  captions: Sequence[str] | None = None,
):
  """Draws one row per image: the image, then each of its maps.

  Args:
    path: of the picture; its ending gives the format.
    images: float (B, H, W, 3) in [0, 1].
    maps: column titles to maps (B, H, W), each drawn on its own scale; or
      pairs of these, where titles may be equal.
    captions: B lines of text, one left of each row.
  """
  _figure(images, maps, captions).savefig(path)


def render(
  images: np.ndarray,
  maps: Mapping[str, np.ndarray],
  captions: Sequence[str] | None = None,
) -> np.ndarray:
  """Draws as `draw` does, into memory.

  Args:
    images: as of `draw`.
    maps: as of `draw`.
    captions: as of `draw`.

  Returns:
    The picture, uint8 (height, width, 3).
  """
  canvas = backend_agg.FigureCanvasAgg(_figure(images, maps, captions))
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_png(path: str, picture: np.ndarray):
  """Writes a picture, whole or not at all.

  Args:
    path: of the file, on any file system that TensorFlow knows.
    picture: uint8 (height, width, 3).
  """
  files.write(path, tf.io.encode_png(picture).numpy())
