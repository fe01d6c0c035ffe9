# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Maps from the scores of images with a part hidden."""

from collections.abc import Sequence

import numpy as np

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark.explanations import networks

_COMBINED = ('mean', 'sum')


def occlusion(
  network: networks.Network,
  *,
  patch: float = 1 / 7,
  stride: float = 1 / 14,
  fill: float | Sequence[float] = 0.0,
  combine: str = 'mean',
) -> networks.Explainer:
  """Returns the explainer that hides one square patch after another.

  Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV
  2014: a patch matters as much as the score falls when it is filled with one
  colour. A pixel has the mean of all patches that cover it. Patches never
  exceed the image, and the last row and column of patches touch its border.

  Args:
    network: the network; only its logits are used.
    patch: side of a patch as a fraction of the image's shorter side, rounded to
      pixels: 32 pixels for images of 224.
    stride: distance of neighbouring patches, as for patch: 16 pixels for images
      of 224. The cost is about (1 / stride)^2 passes of the batch.
    fill: a number or one per channel, in the units of the network's input. For
      standardized inputs 0 is the mean colour, not black.
    combine: 'mean', or 'sum' as in xplique, which favours the centre, because
      fewer patches cover a pixel near the border.

  Raises:
    ValueError: a fraction is not in (0, 1], or `combine` is unknown.
  """
  choices.require('combine', combine, _COMBINED)
  for name, value in (('patch', patch), ('stride', stride)):
    if not 0 < value <= 1:
      raise ValueError(
        f"{name} is {value}; expected a fraction of the image's side, more "
        'than 0 and at most 1.'
      )

  def explainer(images, labels):
    height, width = images.shape[1:3]
    side = min(height, width)
    size, step = (max(1, round(f * side)) for f in (patch, stride))
    score = _scores(network, images, labels)
    total = np.zeros(images.shape[:3])
    count = np.zeros((height, width))
    for y in _starts(height, size, step):
      for x in _starts(width, size, step):
        rows, columns = slice(y, y + size), slice(x, x + size)
        hidden = images.copy()
        hidden[:, rows, columns] = fill
        fall = score - _scores(network, hidden, labels)
        total[:, rows, columns] += fall[:, None, None]
        count[rows, columns] += 1
    if combine == 'mean':
      # Pixels between patches, if the stride is larger than a patch, have 0.
      total /= np.maximum(count, 1)
    return total.astype(np.float32)

  return explainer


def _starts(length: int, size: int, step: int) -> list[int]:
  """Returns where patches start along one side."""
  last = length - size
  return sorted({*range(0, last + 1, step), last})


def _scores(network, images, labels) -> np.ndarray:
  """Returns the score of each image's label, (B,)."""
  return np.einsum('bc,bc->b', network.logits(images), labels)
