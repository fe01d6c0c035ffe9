# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What explainers are made from, and what they share."""

from collections.abc import Callable
from typing import Protocol
import zlib

import numpy as np

from official_ext.harmonization import choices
from official_ext.harmonization.ops import saliency

# explainer(images, labels) -> maps, see `benchmark.explainers`.
Explainer = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Network(Protocol):
  """A network f in inference mode, as functions of NumPy arrays.

  Every adapter is one. Some explainers need more of what an adapter has:
  `activations` for GradCAM and token gradients, `attention` for rollout.
  """

  def logits(self, inputs: np.ndarray) -> np.ndarray:
    """Returns f(x_b), float32 (B, C), for images (B, H, W, 3)."""
    ...

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns d(sum_c labels[b, c] * f_c(x_b)) / dx_b, float32 (B, H, W, 3)."""
    ...


# The sum over channels preserves a pixel's share of the score. The other
# reductions are those of saliency maps.
_REDUCTIONS = {'sum': lambda g: g.sum(-1), **saliency.REDUCTIONS}


def reduce_channels(values: np.ndarray, reduction: str) -> np.ndarray:
  """Reduces (B, H, W, 3) over channels to float32 (B, H, W).

  Args:
    values: the array.
    reduction: 'abs_max', 'abs_mean', 'signed_mean' or 'sum'.

  Raises:
    ValueError: the reduction is unknown.
  """
  choices.require('reduction', reduction, _REDUCTIONS)
  return np.asarray(_REDUCTIONS[reduction](values), np.float32)


def require_at_least(name: str, value: float, least: float):
  """Raises ValueError if an option is below its bound, or NaN."""
  if not value >= least:
    raise ValueError(f'{name} is {value}; expected at least {least}.')


def generators(seed: int, images: np.ndarray) -> list[np.random.Generator]:
  """Returns a random generator for each image.

  What it draws depends only on the seed and the image, so a map does not depend
  on the batch that the image is in.

  Args:
    seed: of all generators.
    images: float32 (B, H, W, 3).
  """
  return [
    np.random.default_rng((seed, zlib.crc32(image.tobytes())))
    for image in images
  ]
