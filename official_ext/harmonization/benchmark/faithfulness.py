# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Is a map what the network uses? Deletion, insertion, and randomized weights.

Deletion replaces the pixels of an image in an order of importance, and
insertion restores them in the same order; the score of a class is a function of
the fraction of pixels (Petsiuk et al., "RISE", BMVC 2018). If the map is
faithful, the score falls early under deletion and rises early under insertion:
insertion minus deletion is high. For any network, image and fill, its
expectation is 0 for an order that is as likely as its reverse, such as noise,
because insertion in an order is deletion in the reverse order.

  ranked = faithfulness.order(saliency, np.random.default_rng(0))
  found = faithfulness.areas(score, image, fill, ranked)
  found.insertion - found.deletion

A map that stays the same when the network's weights are drawn anew cannot show
what the network learned (Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import typing as npt
from scipy import ndimage
from scipy import special

from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import numpy_metrics

# Curves have this many steps of equal size, from no pixel to all pixels.
STEPS = 10
# What replaces a pixel.
FILLS = ('blur', 'mean', 'other')
# Standard deviation of the Gaussian that blurs an image, in pixels at 224.
FILL_BLUR = 10.0
_UNIT = 224

# An explanation fails the randomization of weights if the lower end of the
# interval exceeds one of these: of the mean rank correlation between the maps
# of the trained network and of one whose weights are all drawn anew, minus that
# between maps of two images; and of the mean rank correlation itself. At the
# first, an untrained network is as close to the trained one as halfway from an
# unrelated map to the same map. The second finds maps that are the same for all
# images.
EXCESS_LIMIT, RHO_LIMIT = 0.5, 0.9

Score = Callable[[np.ndarray], np.ndarray]


class Areas(NamedTuple):
  """Areas under the curves of an order, of k scores.

  Attributes:
    deletion: float64 (k,).
    insertion: float64 (k,).
  """

  deletion: np.ndarray
  insertion: np.ndarray


def order(saliency: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
  """Sorts pixels, the most important first.

  Args:
    saliency: (H, W), larger is more important.
    rng: draws the order of pixels with equal values, which would otherwise be
      that of their positions.

  Returns:
    int (H * W,), the pixels in order; None if the map is constant or has a
    value that is not finite.
  """
  values = np.asarray(saliency).ravel()
  if not np.isfinite(values).all() or not np.ptp(values):
    return None
  return np.lexsort((rng.permutation(len(values)), -values))


def fills(image: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
  """Makes the images that replace an image's pixels.

  Args:
    image: (H, W, 3), RGB in 0..255.
    other: (H, W, 3), another image.

  Returns:
    By name, each float32 (H, W, 3): the blurred image, its mean colour, and the
    other image.
  """
  image = np.asarray(image, np.float32)
  sigma = FILL_BLUR * image.shape[0] / _UNIT
  return {
    'blur': ndimage.gaussian_filter(image, (sigma, sigma, 0), mode='reflect'),
    'mean': np.broadcast_to(image.mean(axis=(0, 1)), image.shape),
    'other': np.asarray(other, np.float32),
  }


def partners(groups: npt.ArrayLike) -> np.ndarray:
  """Chooses for each image another one that does not belong to its group.

  Images are put in a random order with a fixed seed. The partner of an image is
  the next one of another group.

  Args:
    groups: (n,), the group of each image.

  Returns:
    int (n,).

  Raises:
    ValueError: all images belong to one group.
  """
  group = np.asarray(groups)
  if len(np.unique(group)) < 2:
    raise ValueError(
      f'The {len(group)} images belong to one group; expected images of at '
      'least two. Use more images.'
    )
  cycle = np.random.default_rng(0).permutation(len(group))
  found = np.empty(len(group), np.int64)
  for place, image in enumerate(cycle):
    following = np.roll(cycle, -place - 1)
    found[image] = following[group[following] != group[image]][0]
  return found


def versions(
  image: np.ndarray, fill: np.ndarray, ranked: np.ndarray
) -> np.ndarray:
  """Makes the images between the original and the fill.

  Args:
    image: (H, W, 3).
    fill: (H, W, 3).
    ranked: int (H * W,), from `order`.

  Returns:
    float32 (2, STEPS - 1, H, W, 3). In [0, i], the first i + 1 of STEPS parts
    of the pixels are replaced by the fill; in [1, i], only these are not.
  """
  shape = image.shape[:2]
  position = np.empty(len(ranked), np.int64)
  position[ranked] = np.arange(len(ranked))
  counts = np.rint(np.arange(1, STEPS) * len(ranked) / STEPS)
  is_first = position.reshape(shape) < counts[:, np.newaxis, np.newaxis]
  is_first = is_first[..., np.newaxis]
  return np.stack(
    [np.where(is_first, fill, image), np.where(is_first, image, fill)]
  ).astype(np.float32)


def area(curve: np.ndarray) -> np.ndarray:
  """Computes the area under curves on [0, 1], by the trapezoidal rule.

  Args:
    curve: (points, ...), at equal distances.

  Returns:
    float64 (...).
  """
  curve = np.asarray(curve, np.float64)
  inner = curve.sum(axis=0) - (curve[0] + curve[-1]) / 2
  return inner / (len(curve) - 1)


def areas(
  score: Score,
  image: np.ndarray,
  fill: np.ndarray,
  ranked: np.ndarray,
  ends: np.ndarray | None = None,
) -> Areas:
  """Measures deletion and insertion of an image in one order.

  Args:
    score: function of images (n, H, W, 3) that returns k scores each, (n, k).
    image: (H, W, 3).
    fill: (H, W, 3), see `fills`.
    ranked: int (H * W,), from `order`.
    ends: (2, k), the scores of image and fill, if they are known.

  Returns:
    The areas; the score is called for 2 * (STEPS - 1) images.
  """
  if ends is None:
    ends = score(np.stack([image, fill]))
  made = versions(image, fill, ranked)
  inner = score(made.reshape(-1, *image.shape))
  deletion, insertion = np.split(inner, 2)
  whole, empty = ends[:1], ends[1:]
  return Areas(
    area(np.concatenate([whole, deletion, empty])),
    area(np.concatenate([empty, insertion, whole])),
  )


def class_scores(logits: np.ndarray, label: int) -> np.ndarray:
  """Computes the scores of a class.

  Args:
    logits: (n, classes).
    label: the class.

  Returns:
    float64 (n, 2): its softmax probability, and its logit.
  """
  logits = np.asarray(logits, np.float64)
  return np.stack(
    [special.softmax(logits, axis=1)[:, label], logits[:, label]], axis=1
  )


def highest_other_class(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the class of the largest logit besides the label's, int (B,).

  Args:
    logits: (B, classes), at least two classes.
    labels: int (B,).
  """
  logits = np.array(logits, np.float64)
  np.put_along_axis(logits, np.asarray(labels)[:, np.newaxis], -np.inf, axis=1)
  return np.argmax(logits, axis=1)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Computes Spearman's rank correlation of pairs of maps.

  Args:
    a: (B, H, W).
    b: (B, H, W).

  Returns:
    float64 (B,); NaN where a map is constant or not finite.
  """
  return numpy_metrics.alignment_scores(a, b)['spearman']


def fails_randomization(
  rho: statistics.Estimate, excess: statistics.Estimate
) -> bool:
  """Says whether maps depend too little on the network's weights.

  Args:
    rho: of the maps before and after all weights are drawn anew.
    excess: rho minus the rank correlation of the maps of two images.

  Returns:
    Whether the lower end of an interval exceeds `RHO_LIMIT` or `EXCESS_LIMIT`;
    not if it is unknown.
  """
  return rho.low > RHO_LIMIT or excess.low > EXCESS_LIMIT
