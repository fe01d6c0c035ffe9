"""Human-alignment metrics on the host: numpy, image by image, without a graph.

The same scores as `evaluation.metrics`, in float64, with the same rule for what
is undefined; for maps that are in memory anyway, where starting a graph or
TensorFlow itself does not pay.
"""

from typing import NamedTuple

import numpy as np

_SIGN = np.uint32(1 << 31)
_NAN = float('nan')


class _Ranked(NamedTuple):
  """A map that can be ranked.

  Attributes:
    order: int (N,), the pixels in the order of their values.
    ranks: float64 (N,), each pixel's average rank r of 1..N as 2 r - (N + 1): a
      whole number, so that sums of products are exact.
    cut: the pixels strictly above the percentile, the end of `order`.
  """

  order: np.ndarray
  ranks: np.ndarray
  cut: np.ndarray


def _order(keys: np.ndarray) -> np.ndarray:
  """Sorts uint32 keys by their halves: numpy sorts 16 bits in linear time."""
  order = np.argsort(keys.astype(np.uint16), kind='stable')
  high = (keys >> np.uint32(16)).astype(np.uint16)
  return order[np.argsort(high[order], kind='stable')]


def _doubled_ranks(ordered: np.ndarray) -> np.ndarray:
  """Average ranks r of sorted values, as the whole numbers 2 r - (N + 1)."""
  size = len(ordered)
  starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
  if len(starts) == size - 1:  # No ties, as in most model maps: half the time.
    return np.arange(1.0 - size, size, 2.0)
  bounds = np.concatenate([[0], starts, [size]])
  return np.repeat(np.float64(bounds[:-1] + bounds[1:] - size), np.diff(bounds))


def _threshold(ordered: np.ndarray, percentile: float) -> np.float32:
  """`np.percentile` of sorted float32 values, method 'linear'."""
  position = (len(ordered) - 1) * percentile / 100.0
  below = int(position)
  low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
  return low + (high - low) * np.float32(position - below)


def _rank(values: np.ndarray, percentile: float) -> _Ranked | None:
  """Ranks a map's float32 values (N,); None where that cannot be done."""
  if not np.all(np.isfinite(values)):
    return None
  bits = values.view(np.uint32)
  order = _order(np.where(bits & _SIGN, ~bits, bits | _SIGN))
  ordered = values[order]
  if ordered[0] == ordered[-1]:
    return None
  ranks = np.empty(len(values))
  ranks[order] = _doubled_ranks(ordered)
  start = np.searchsorted(ordered, _threshold(ordered, percentile), 'right')
  return _Ranked(order, ranks, order[start:])


def _each(maps_a, maps_b, percentile, score, names) -> dict[str, np.ndarray]:
  """Applies `score` to each pair of ranked maps."""
  maps_a, maps_b = (np.asarray(m, np.float32) for m in (maps_a, maps_b))
  if maps_a.ndim != 3 or maps_a.shape != maps_b.shape:
    raise ValueError(
      f'Maps of shapes {maps_a.shape} and {maps_b.shape}: both '
      'must be (B, H, W), and the same.'
    )
  scores = np.full((len(maps_a), len(names)), _NAN)
  for i, pair in enumerate(zip(maps_a, maps_b)):
    a, b = (_rank(m.ravel(), percentile) for m in pair)
    if a is not None and b is not None:
      scores[i] = score(a, b)
  return dict(zip(names, scores.T))


def _share(part: float, whole: float) -> float:
  return part / whole if whole else _NAN


def _product(ranks_a: np.ndarray, ranks_b: np.ndarray) -> float:
  # Not BLAS, whose threads cost more than they save on vectors this short.
  return np.einsum('i,i->', ranks_a, ranks_b)


def _alignment(a: _Ranked, b: _Ranked):
  spearman = _product(a.ranks, b.ranks) / np.sqrt(
    _product(a.ranks, a.ranks) * _product(b.ranks, b.ranks)
  )
  in_a = np.zeros(len(a.ranks), bool)
  in_a[a.cut] = True
  both, sizes = np.count_nonzero(in_a[b.cut]), len(a.cut) + len(b.cut)
  return spearman, _share(2 * both, sizes), _share(both, sizes - both)


def _localization(a: _Ranked, b: _Ranked):
  positive = len(b.cut)
  negative = len(b.ranks) - positive
  auc = 0.5 + _share(np.sum(a.ranks[b.cut]), 2 * positive * negative)
  peak = np.argmax(a.ranks)
  return auc, float(peak in b.cut) if positive else _NAN


def alignment_scores(
  maps_a: np.ndarray, maps_b: np.ndarray, percentile: float = 90.0
) -> dict[str, np.ndarray]:
  """Spearman correlation, Dice and IoU of two batches of maps.

  Equal to `scipy.stats.spearmanr` (average ranks) and to the Dice and IoU of
  `harmonization` 0.0.9, from one sort per map.

  Args:
    maps_a: (B, H, W), compared as float32.
    maps_b: of the same shape.
    percentile: each map is cut strictly above its own value at this percentile.

  Returns:
    `spearman`, `dice` and `iou`, each float64 (B,). NaN where either map is
    constant or holds a value that is not finite; Dice and IoU also where both
    cut maps are empty.

  Raises:
    ValueError: the shapes differ, or are not (B, H, W).
  """
  return _each(
    maps_a, maps_b, percentile, _alignment, ('spearman', 'dice', 'iou')
  )


def localization_scores(
  model_maps: np.ndarray, human_maps: np.ndarray, percentile: float = 90.0
) -> dict[str, np.ndarray]:
  """ROC AUC and pointing game of model maps against cut human maps.

  AUC is that of `sklearn.metrics.roc_auc_score` with a model map's values as
  scores and the pixels of the cut human map as the positive class. The pointing
  game (Zhang et al., ECCV 2016; without a margin) is won, 1, where the model
  map's maximum, the first of equal ones row by row, lies in the cut human map.

  Args:
    model_maps: (B, H, W), compared as float32.
    human_maps: of the same shape; cut strictly above the percentile.
    percentile: of each human map.

  Returns:
    `auc` and `pointing`, each float64 (B,). NaN where either map is constant or
    holds a value that is not finite, or the cut human map is empty.

  Raises:
    ValueError: the shapes differ, or are not (B, H, W).
  """
  return _each(
    model_maps, human_maps, percentile, _localization, ('auc', 'pointing')
  )
