"""Pictures of images beside human and model maps."""

from typing import Mapping

from matplotlib import figure
import numpy as np

from official.vision.ops import preprocess_ops

_INCHES = 1.4


def to_display(images: np.ndarray) -> np.ndarray:
  """Undoes the host's normalization.

  Args:
    images: float (B, H, W, 3), as a parser returns them.

  Returns:
    float (B, H, W, 3) in [0, 1].
  """
  pixels = images * np.array(preprocess_ops.STDDEV_RGB) + np.array(
      preprocess_ops.MEAN_RGB)
  return np.clip(pixels / 255., 0., 1.)


def draw(path: str, images: np.ndarray, maps: Mapping[str, np.ndarray]):
  """Draws one row per image: the image, then each of its maps.

  Args:
    path: of the picture; its ending gives the format.
    images: float (B, H, W, 3) in [0, 1].
    maps: column titles to maps (B, H, W), each drawn on its own scale.
  """
  rows, columns = len(images), 1 + len(maps)
  # Not pyplot: a figure of its own needs no display and leaves no state.
  picture = figure.Figure(
      figsize=(_INCHES * columns, _INCHES * rows + 0.3), layout='constrained')
  axes = picture.subplots(rows, columns, squeeze=False)
  for row in range(rows):
    axes[row, 0].imshow(images[row])
    for column, values in enumerate(maps.values(), 1):
      axes[row, column].imshow(values[row], cmap='magma')
  for axis, title in zip(axes[0], ['image', *maps]):
    axis.set_title(title, fontsize=9)
  for axis in axes.flat:
    axis.set_axis_off()
  picture.savefig(path, dpi=120)
