# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Scores of many models on many sets of human maps, at a low cost.

Most metrics are products of a feature of the model's map and a feature of the
human map. Their mean over all pairs of different images is then a product of
sums, so that the specific form of each metric (the mean over the right pairs
minus that over all others) costs no more than its own form.

  model = recovery_scores.model_features(model_maps)
  people = recovery_scores.human_features(human_maps)
  found = recovery_scores.scores(model, people, subsets, groups)
  found['specific spearman']  # float64, one value per subset of the images
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import saliency_metrics

_PERCENTILE = 90.0
# A larger value is a better agreement for all of them; 'kl' is minus the
# divergence. Dice and pointing have no specific form: their features are not
# normalized by image.
METRICS = ('spearman', 'cc', 'auc', 'nss', 'kl', 'dice', 'pointing')
_WITH_SPECIFIC = ('spearman', 'cc', 'auc', 'nss', 'kl')
NAMES = (*METRICS, *(f'specific {m}' for m in _WITH_SPECIFIC))


class Features(NamedTuple):
  """What metrics need of maps.

  Attributes:
    values: float32 (n, N) by metric; rows of NaN for undefined maps.
    constants: float64 (n,) by metric, which are added to the products.
    is_defined: bool (n,); a map that is constant or not finite is undefined.
  """

  values: dict[str, np.ndarray]
  constants: dict[str, np.ndarray]
  is_defined: np.ndarray


def _flat(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns maps (n, N), float64, and which of them are defined."""
  flat = np.asarray(maps, np.float32).reshape(len(maps), -1).astype(np.float64)
  return flat, np.isfinite(flat).all(1) & (np.ptp(flat, axis=1) > 0)


def _features(maps, make) -> Features:
  flat, is_defined = _flat(maps)
  values, constants = make(flat[is_defined], maps[is_defined])

  def spread(part, shape):
    whole = np.full((len(maps), *shape), np.nan, part.dtype)
    whole[is_defined] = part
    return whole

  return Features(
    {
      k: spread(v.astype(np.float32), flat.shape[1:]) for k, v in values.items()
    },
    {k: spread(v, ()) for k, v in constants.items()},
    is_defined,
  )


def _standardized(flat: np.ndarray) -> np.ndarray:
  centred = flat - flat.mean(1, keepdims=True)
  return centred / flat.std(1, keepdims=True)


def _above(flat: np.ndarray) -> np.ndarray:
  """Cuts maps strictly above their 90th percentile, 1.0 or 0.0."""
  # In float32, as everywhere: otherwise a value could exceed itself, rounded.
  flat = flat.astype(np.float32)
  cut = flat > np.percentile(flat, _PERCENTILE, axis=1, keepdims=True)
  return cut.astype(np.float64)


def model_features(maps: np.ndarray) -> Features:
  """Computes the features of a model's maps, (n, H, W)."""

  def make(flat, maps):
    z = _standardized(flat)
    cut = _above(flat)
    peak = np.zeros(flat.shape)
    peak[np.arange(len(flat)), flat.argmax(1)] = 1
    density = saliency_metrics.densities(maps, saliency_metrics.REGULARIZATION)
    return {
      'spearman': numpy_metrics.unit_ranks(maps),
      'cc': z / np.sqrt(flat.shape[1]),
      # The part of all pixels below each pixel, centred.
      'auc': stats.rankdata(flat, axis=1) - (flat.shape[1] + 1) / 2,
      'nss': z,
      'kl': np.log(density.reshape(flat.shape)),
      'dice': cut,
      'pointing': peak,
    }, {'dice': cut.sum(1)}

  return _features(maps, make)


def human_features(maps: np.ndarray) -> Features:
  """Computes the features of human maps, (n, H, W)."""

  def make(flat, maps):
    cut = _above(flat)
    positive = cut.sum(1, keepdims=True)
    negative = flat.shape[1] - positive
    density = saliency_metrics.densities(maps).reshape(flat.shape)
    return {
      'spearman': numpy_metrics.unit_ranks(maps),
      'cc': _standardized(flat) / np.sqrt(flat.shape[1]),
      'auc': cut / np.maximum(positive * negative, 1),
      'nss': density,
      'kl': density,
      'dice': cut,
      'pointing': cut,
    }, {
      'auc': np.full(len(flat), 0.5),
      'kl': stats.entropy(density, axis=1),
      'dice': cut.sum(1),
    }

  return _features(maps, make)


def _products(metric: str, model: Features, people: Features) -> np.ndarray:
  """Returns the metric of each image, float64 (n,)."""
  # Faster than np.einsum in float64, which converts both.
  terms = model.values[metric] * people.values[metric]
  found = terms.sum(1, dtype=np.float64)
  if metric == 'dice':
    return 2 * found / (model.constants[metric] + people.constants[metric])
  return found + people.constants.get(metric, 0)


def scores(
  model: Features,
  people: Features,
  subsets: np.ndarray,
  groups: Sequence[int],
  metrics: Sequence[str] = METRICS,
) -> Mapping[str, np.ndarray]:
  """Computes scores of each subset of the images.

  Args:
    model: of the model's maps of n images.
    people: of the human maps of the same images.
    subsets: bool (S, n), the images of each subset.
    groups: (n,), the group of each image: those of one group are not other
      images for each other.
    metrics: which are computed.

  Returns:
    By name, the mean of a metric, and of 'specific ' and a metric, the mean
    over the right pairs minus that over pairs of different groups. float64
    (S,); NaN where fewer than two images have both maps.
  """
  good = model.is_defined & people.is_defined
  member = (subsets & good).astype(np.float32)
  count = member.sum(1, dtype=np.float64)
  with np.errstate(invalid='ignore', divide='ignore'):
    found = {}
    for metric in metrics:
      own = np.where(good, _products(metric, model, people), 0)
      found[metric] = np.where(count > 1, member @ own / count, np.nan)
      if metric in _WITH_SPECIFIC:
        shuffled = _shuffled(metric, model, people, member, own, groups)
        found[f'specific {metric}'] = found[metric] - shuffled
  return found


def _shuffled(metric, model, people, member, own, groups):
  """Returns the mean over pairs of different groups, float64 (S,)."""
  good = member.any(0)
  s, h = model.values[metric], people.values[metric]
  if not good.all():
    s, h = (np.where(good[:, np.newaxis], m, np.float32(0)) for m in (s, h))
  constants = people.constants.get(metric, np.zeros(len(s)))
  constants = np.where(good, constants, 0)
  member = member.astype(np.float64)
  count = member.sum(1)
  # Over all pairs of images, and then without those within a group.
  sums = (member.astype(np.float32) @ maps for maps in (s, h))
  total = np.einsum('ij,ij->i', *sums, dtype=np.float64)
  total += count * (member @ constants)
  pairs = count**2
  _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
  single = member * (sizes[index] == 1)
  total -= single @ own
  pairs -= single.sum(1)
  for group in np.flatnonzero(sizes > 1):
    (rows,) = np.nonzero(index == group)
    products = s[rows].astype(np.float64) @ h[rows].T + constants[rows]
    part = member[:, rows]
    total -= np.einsum('ki,ij,kj->k', part, products, part)
    pairs -= part.sum(1) ** 2
  return np.where(pairs > 0, total / pairs, np.nan)
