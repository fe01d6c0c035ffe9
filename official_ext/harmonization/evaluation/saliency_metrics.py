# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The field's metrics of saliency maps, for human maps instead of fixations.

Rank correlation, Dice and IoU, and AUC and the pointing game are in
`numpy_metrics`. The metrics here are described and compared by Bylinskii et al.
("What do different evaluation metrics tell us about saliency models?", IEEE
PAMI 41(3), 2019). A human map h takes the place of fixations: with p_h = h /
sum(h), a mean over fixations becomes a mean over pixels weighted by p_h, and
equals it if h counts the fixations of each pixel.

All functions take batches of maps and return one number per image, NaN where
either map is constant or has a value that is not finite.

  saliency_metrics.nss(model_maps, human_maps)  # (B,)
"""

import numpy as np
from numpy import typing as npt
from scipy import stats

# Weight of the uniform density in KL divergence and information gain.
REGULARIZATION = 0.01
# Height and width of the grid of the earth mover's distance.
EMD_CELLS = 7


def _float_maps(*maps: npt.ArrayLike) -> list[np.ndarray]:
  """Returns maps as float64 of one shape; values as float32 holds them."""
  found = [np.asarray(m, np.float32).astype(np.float64) for m in maps]
  if found[0].ndim != 3 or len({m.shape for m in found}) > 1:
    shapes = ', '.join(str(m.shape) for m in found)
    raise ValueError(
      f'Maps have the shapes {shapes}; expected (B, H, W), the same for all.'
    )
  return found


def _or_nan(scores: np.ndarray, *maps: np.ndarray) -> np.ndarray:
  """Replaces the scores of constant and of not finite maps by NaN."""
  is_defined = np.ones(len(scores), bool)
  for m in maps:
    is_defined &= np.isfinite(m).all(axis=(1, 2))
    is_defined &= np.ptp(m, axis=(1, 2)) > 0
  return np.where(is_defined, scores, np.nan)


def densities(maps: npt.ArrayLike, regularization: float = 0.0) -> np.ndarray:
  """Converts maps to probability densities.

  A map with negative values is shifted so that its minimum is 0, and divided by
  its sum, as in pysaliency. A map of zeros gives the uniform density.

  Args:
    maps: (B, H, W).
    regularization: weight w of the uniform density: p becomes
      (1 - w) p + w / (H W).

  Returns:
    float64 (B, H, W), each with the sum 1.
  """
  (found,) = _float_maps(maps)
  found -= np.minimum(found.min(axis=(1, 2), keepdims=True), 0.0)
  total = found.sum(axis=(1, 2), keepdims=True)
  uniform = 1.0 / (found.shape[1] * found.shape[2])
  found = np.where(total > 0, found / np.where(total > 0, total, 1.0), uniform)
  return (1.0 - regularization) * found + regularization * uniform


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  return np.einsum('bij,bij->b', values, weights)


@np.errstate(invalid='ignore', divide='ignore')
def cc(model_maps: npt.ArrayLike, human_maps: npt.ArrayLike) -> np.ndarray:
  """Computes Pearson's linear correlation of the pixels of two maps.

  Args:
    model_maps: (B, H, W).
    human_maps: of the same shape.

  Returns:
    float64 (B,), in -1..1; 1 if one map is a linear function of the other.
  """
  a, b = _float_maps(model_maps, human_maps)
  x, y = (m - m.mean(axis=(1, 2), keepdims=True) for m in (a, b))
  norm = np.sqrt(_weighted_mean(x, x) * _weighted_mean(y, y))
  return _or_nan(_weighted_mean(x, y) / norm, a, b)


@np.errstate(invalid='ignore', divide='ignore')
def nss(model_maps: npt.ArrayLike, human_maps: npt.ArrayLike) -> np.ndarray:
  """Computes the normalized scanpath saliency, weighted by the human map.

  sum_x p_h(x) (s(x) - mean(s)) / std(s), with the standard deviation over all
  pixels (Peters et al., Vision Research 45, 2005).

  Args:
    model_maps: (B, H, W), s.
    human_maps: of the same shape, h.

  Returns:
    float64 (B,), in standard deviations of the model map; 0 at chance.
  """
  a, b = _float_maps(model_maps, human_maps)
  z = a - a.mean(axis=(1, 2), keepdims=True)
  z /= a.std(axis=(1, 2), keepdims=True)
  return _or_nan(_weighted_mean(z, densities(b)), a, b)


@np.errstate(invalid='ignore')
def similarity(
  model_maps: npt.ArrayLike, human_maps: npt.ArrayLike
) -> np.ndarray:
  """Computes the intersection of two densities, SIM.

  sum_x min(p_s(x), p_h(x)) (Judd et al., MIT-CSAIL-TR-2012-001).

  Args:
    model_maps: (B, H, W), s.
    human_maps: of the same shape, h.

  Returns:
    float64 (B,), in 0..1; 1 for equal densities.
  """
  a, b = _float_maps(model_maps, human_maps)
  shared = np.minimum(densities(a), densities(b)).sum(axis=(1, 2))
  return _or_nan(shared, a, b)


@np.errstate(invalid='ignore', divide='ignore')
def kl_divergence(
  model_maps: npt.ArrayLike,
  human_maps: npt.ArrayLike,
  regularization: float = REGULARIZATION,
) -> np.ndarray:
  """Computes the Kullback-Leibler divergence of the human from the model map.

  sum_x p_h(x) ln(p_h(x) / q_s(x)), where q_s is the density of the model map,
  regularized as in `densities`: without it, one pixel with the value 0 would
  make the divergence infinite.

  Args:
    model_maps: (B, H, W), s.
    human_maps: of the same shape, h.
    regularization: weight of the uniform density in q_s.

  Returns:
    float64 (B,), in nats; 0 for equal densities, and lower is better.
  """
  a, b = _float_maps(model_maps, human_maps)
  p, q = densities(b), densities(a, regularization)
  terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / q), 0.0)
  return _or_nan(terms.sum(axis=(1, 2)), a, b)


@np.errstate(invalid='ignore', divide='ignore')
def information_gain(
  model_maps: npt.ArrayLike,
  human_maps: npt.ArrayLike,
  baseline_maps: npt.ArrayLike,
  regularization: float = REGULARIZATION,
) -> np.ndarray:
  """Computes the information gain of the model over a baseline.

  sum_x p_h(x) log2(q_s(x) / q_b(x)) (Kuemmerer, Wallis and Bethge, PNAS 112,
  2015), with both densities regularized as in `densities`. The baseline should
  not know the image, such as the mean human map of other images.

  Args:
    model_maps: (B, H, W), s.
    human_maps: of the same shape, h.
    baseline_maps: of the same shape, b.
    regularization: weight of the uniform density in q_s and q_b.

  Returns:
    float64 (B,), in bits; 0 if the model is as good as the baseline.
  """
  a, b, c = _float_maps(model_maps, human_maps, baseline_maps)
  gain = np.log2(densities(a, regularization) / densities(c, regularization))
  p = densities(b)
  # A pixel without weight does not count, even where the gain is infinite.
  terms = np.where(p > 0, p * gain, 0.0)
  return _or_nan(terms.sum(axis=(1, 2)), a, b, c)


@np.errstate(invalid='ignore', divide='ignore')
def exceedance(
  model_maps: npt.ArrayLike, positives: npt.ArrayLike
) -> np.ndarray:
  """Computes how much of the positives each pixel is exceeded by.

  Args:
    model_maps: (B, H, W), the values that are compared.
    positives: of the same shape, weights of at least 0, such as a cut human
      map.

  Returns:
    float64 (B, H, W): the share of the positives' weight on pixels with a
    larger value, plus half of that on pixels with the same value. Its mean
    over negatives is the area under the ROC curve.
  """
  maps, weights = _float_maps(model_maps, positives)
  found = np.full(maps.shape, np.nan)
  for result, values, weight in zip(found, maps, weights):
    if not np.isfinite(values).all():
      continue
    _, index = np.unique(values.astype(np.float32), return_inverse=True)
    at = np.bincount(index.ravel(), weight.ravel())
    above = at[::-1].cumsum()[::-1] - at / 2
    result[:] = (above / weight.sum())[index].reshape(values.shape)
  return found


@np.errstate(invalid='ignore', divide='ignore')
def shuffled_auc(
  model_maps: npt.ArrayLike,
  positives: npt.ArrayLike,
  negatives: npt.ArrayLike,
) -> np.ndarray:
  """Computes AUC with negatives where people look in other images.

  A map that only knows where people usually look does not profit from it
  (Tatler et al., Vision Research 45, 2005; Borji et al., IEEE TIP 22, 2013).
  The negatives are all of them, not a sample.

  Args:
    model_maps: (B, H, W), the values that are compared.
    positives: of the same shape, weights of at least 0: the cut human map, or
      counts of fixations.
    negatives: of the same shape: the mean of other images' cut human maps, or
      counts of their fixations.

  Returns:
    float64 (B,), the probability that the model's value at a positive exceeds
    that at a negative, with ties counted as a half; 0.5 at chance. NaN also
    where positives or negatives are empty.
  """
  maps, _, weights = _float_maps(model_maps, positives, negatives)
  mean = _weighted_mean(exceedance(maps, positives), weights)
  return _or_nan(mean / weights.sum(axis=(1, 2)), maps)


def earth_movers_distance(
  model_maps: npt.ArrayLike,
  human_maps: npt.ArrayLike,
  cells: int = EMD_CELLS,
) -> np.ndarray:
  """Computes the earth mover's distance of two densities.

  The least mean distance by which the mass of one density must be moved to give
  the other (Rubner et al., IJCV 40, 2000), solved exactly as a linear program.
  Densities are first summed over the cells of a grid, since the cost grows with
  the fourth power of its side; 7 x 7 cells are 32 pixels wide at 224, as in
  Bylinskii et al.

  Args:
    model_maps: (B, H, W).
    human_maps: of the same shape.
    cells: height and width of the grid.

  Returns:
    float64 (B,), in parts of the side of the maps; 0 for equal densities, and
    lower is better.
  """
  a, b = _float_maps(model_maps, human_maps)
  rows, columns = (_cell_weights(side, cells) for side in a.shape[1:])
  found = np.full(len(a), np.nan)
  for i in np.flatnonzero(np.isfinite(_or_nan(np.zeros(len(a)), a, b))):
    p, q = (rows @ densities(m[i : i + 1])[0] @ columns.T for m in (a, b))
    # Distances are a metric, so that shared mass remains where it is.
    surplus = (p - q).ravel()
    gives, takes = surplus > 1e-12, surplus < -1e-12
    if not gives.any() or not takes.any():
      found[i] = 0.0
      continue
    places = (np.indices(p.shape).reshape(2, -1).T + 0.5) / cells
    found[i] = surplus[gives].sum() * stats.wasserstein_distance_nd(
      places[gives], places[takes], surplus[gives], -surplus[takes]
    )
  return found


def _cell_weights(side: int, cells: int) -> np.ndarray:
  """Returns the part of each pixel in each cell, (cells, side)."""
  edges = np.linspace(0, side, cells + 1)[:, np.newaxis]
  pixels = np.arange(side)
  return np.diff(np.clip(edges - pixels, 0, 1), axis=0)
