# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Alignment that a map can only have if it depends on the image.

A map that ignores the image, such as the distance from the image centre, agrees
with every human map. Its alignment does not depend on the image, so that
alignment is compared between the right and the wrong human maps:

  own: mean rank correlation of a model's map with the human map of its image.
  shuffled: mean rank correlation with the human maps of other images.
  specific: own - shuffled; 0 for a map that ignores the image.

Frames of one video and several maps of one image are not other images for each
other. They form a group, and a pair of images is admissible if their groups
differ.

With unit ranks r, K_ij = r(model map i) . r(human map j), m_i admissible
partners of image i, and M pairs in total, `shuffled` = sum_admissible K / M is
a U-statistic: each map enters many pairs, so that the terms own_i - shuffled_i
of single images are not independent. The uncertainty comes from the influence
of each image on the statistic instead (Hoeffding, Annals of Mathematical
Statistics 19, 1948, section 7; van der Vaart, "Asymptotic Statistics", 1998,
chapter 12):

  e_i = own_i - (n / M) (sum_j K_ij + sum_j K_ji - 2 m_i shuffled) - shuffled

whose mean is `specific`. Without groups, this is own_i - out_i - in_i +
mean(out), where out_i is the mean over other human maps and in_i the mean over
other model maps.

  found = specificity.measure(
      numpy_metrics.unit_ranks(model_maps), numpy_metrics.unit_ranks(human_maps)
  )
  found.specific, statistics.mean_interval(found.influence)
"""

from collections.abc import Iterable
import dataclasses

import numpy as np
from numpy import typing as npt

# Rows converted to float64 at a time: 25 MB at 224 x 224.
_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Specificity:
  """Own, shuffled and specific alignment, and the images' contributions.

  Arrays have one value per image, NaN for images without ranks. Images without
  an admissible partner have `own` only, and do not enter `shuffled` and
  `specific`.

  Attributes:
    own: float64 (n,), each model map with the human map of its image.
    outward: (n,), each model map with other images' human maps, on average.
    inward: (n,), each human map with other images' model maps, on average.
    influence: (n,), e_i, whose mean is `specific`.
    shuffled: the mean over all admissible pairs; NaN without any.
    specific: the mean of own minus `shuffled`.
  """

  own: np.ndarray
  outward: np.ndarray
  inward: np.ndarray
  influence: np.ndarray
  shuffled: float
  specific: float


def measure(
  model: npt.ArrayLike,
  human: npt.ArrayLike,
  groups: npt.ArrayLike | None = None,
  classes: npt.ArrayLike | None = None,
  *,
  partners: str = 'all',
) -> Specificity:
  """Measures alignment with the right and the wrong human maps.

  Time and memory grow with the number of images, not with that of pairs.

  Args:
    model: (n, N), unit ranks of the model's maps; rows of NaN have none. A mean
      of unit ranks stands for the mean over several maps, such as noise.
    human: (n, N), unit ranks of the human maps, likewise.
    groups: (n,), the group of each image; by default, each is its own.
    classes: (n,), the class of each image, for `partners`.
    partners: which images are others: 'all', 'same class' or 'other class'.

  Returns:
    The alignment.

  Raises:
    ValueError: the shapes differ, or `partners` requires classes.
  """
  model, human = np.asarray(model), np.asarray(human)
  if model.ndim != 2 or model.shape != human.shape:
    raise ValueError(
      f'Unit ranks have the shapes {model.shape} and {human.shape}; expected '
      '(images, pixels) for both.'
    )
  if partners != 'all' and classes is None:
    raise ValueError(
      f'partners is {partners!r}, but classes is None; expected the class of '
      'each image.'
    )
  n = len(model)
  # The first value tells, because a row is NaN as a whole.
  is_defined = np.isfinite(model[:, 0]) & np.isfinite(human[:, 0])
  images = np.flatnonzero(is_defined)
  group = np.arange(n) if groups is None else np.asarray(groups)
  own = np.full(n, np.nan)
  own[images] = products(model, human, images)

  together = list(_sets(images, group))
  if partners == 'all':
    include, exclude = [images], together
  else:
    label = np.asarray(classes)
    same = list(_sets(images, label))
    both = [part for one in together for part in _sets(one, label)]
    if partners == 'same class':
      include, exclude = same, both
    elif partners == 'other class':
      # All others, without the group and without what shares only the class.
      include, exclude = [images], together
    else:
      raise ValueError(
        f'partners is {partners!r}; expected all, same class or other class.'
      )
  sums = _Sums(model, human)
  sums.add(include, +1)
  sums.add(exclude, -1)
  if partners == 'other class':
    sums.add(same, -1)
    sums.add(both, +1)
  return _summarize(own, sums)


class _Sums:
  """For each image, sums of K over its admissible partners."""

  def __init__(self, model: np.ndarray, human: np.ndarray):
    n = len(model)
    self._model, self._human = model, human
    self.outward, self.inward = np.zeros(n), np.zeros(n)
    self.partners = np.zeros(n, int)

  def add(self, sets: Iterable[np.ndarray], sign: int):
    """Adds or subtracts, for each image of a set, the pairs within the set."""
    for images in sets:
      if len(images) == 1:  # The pair of an image with itself.
        model, human = (_rows(m, images)[0] for m in (self._model, self._human))
        outward = inward = np.dot(model, human)
      else:
        human_sum = _total(self._human, images)
        model_sum = _total(self._model, images)
        outward, inward = np.empty(len(images)), np.empty(len(images))
        start = 0
        for rows in _chunks(images):
          part = slice(start, start + len(rows))
          outward[part] = _rows(self._model, rows) @ human_sum
          inward[part] = _rows(self._human, rows) @ model_sum
          start += len(rows)
      self.outward[images] += sign * outward
      self.inward[images] += sign * inward
      self.partners[images] += sign * len(images)


def _summarize(own: np.ndarray, sums: _Sums) -> Specificity:
  """Averages over the images that have partners."""
  with_partners = np.isfinite(own) & (sums.partners > 0)
  partners = np.where(with_partners, sums.partners, 1)

  def masked(values):
    return np.where(with_partners, values, np.nan)

  outward, inward = (
    masked(sums.outward / partners),
    masked(sums.inward / partners),
  )
  n, pairs = np.sum(with_partners), np.sum(sums.partners[with_partners])
  if not n:
    return Specificity(own, outward, inward, masked(own), np.nan, np.nan)
  shuffled = float(np.sum(sums.outward[with_partners]) / pairs)
  excess = (
    sums.outward + sums.inward - 2 * sums.partners * shuffled
  )  # of the image's pairs over what that number of pairs has on average
  influence = masked(own - n / pairs * excess - shuffled)
  return Specificity(
    own,
    outward,
    inward,
    influence,
    shuffled,
    float(np.mean(own[with_partners]) - shuffled),
  )


def other_maps(
  human: npt.ArrayLike, groups: npt.ArrayLike | None = None
) -> np.ndarray:
  """Returns, per image, the mean of the other images' unit ranks.

  As `model` of `measure`, they give the alignment of a model that shows another
  image's human map, averaged over all choices of that image. Its `specific` is
  at most 0.

  Args:
    human: (n, N), unit ranks; rows of NaN have none.
    groups: (n,), as in `measure`.

  Returns:
    float32 (n, N); NaN for images without ranks or without others.
  """
  human = np.asarray(human)
  images = np.flatnonzero(np.isfinite(human[:, 0]))
  group = np.arange(len(human)) if groups is None else np.asarray(groups)
  total = _total(human, images)
  found = np.full(human.shape, np.nan, np.float32)
  for members in _sets(images, group):
    others = len(images) - len(members)
    if others:
      found[members] = (total - _total(human, members)) / others
  return found


def products(
  a: np.ndarray, b: np.ndarray, images: np.ndarray | None = None
) -> np.ndarray:
  """Computes correlations of maps of the same image from their unit ranks.

  Args:
    a: (n, N).
    b: (n, N).
    images: indices of the rows; None for all.

  Returns:
    float64, one per image.
  """
  if images is None:
    images = np.arange(len(a))
  parts = [
    np.einsum('ij,ij->i', _rows(a, rows), _rows(b, rows))
    for rows in _chunks(images)
  ]
  return np.concatenate(parts) if parts else np.zeros(0)


def _sets(images: np.ndarray, key: np.ndarray) -> Iterable[np.ndarray]:
  """Yields the images of each key."""
  order = images[np.argsort(key[images], kind='stable')]
  if len(order):
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def _chunks(images: np.ndarray) -> Iterable[np.ndarray]:
  for start in range(0, len(images), _ROWS):
    yield images[start : start + _ROWS]


def _rows(ranks: np.ndarray, images: np.ndarray) -> np.ndarray:
  return ranks[images].astype(np.float64)


def _total(ranks: np.ndarray, images: np.ndarray) -> np.ndarray:
  total = np.zeros(ranks.shape[1])
  for rows in _chunks(images):
    total += _rows(ranks, rows).sum(axis=0)
  return total


def partial_correlation(
  own: npt.ArrayLike, model: npt.ArrayLike, human: npt.ArrayLike
) -> np.ndarray:
  """Computes rank correlations given a covariate, from the plain ones.

  Args:
    own: (n,), correlations of model and human maps.
    model: (n,), correlations of the model maps with the covariate.
    human: (n,), correlations of the human maps with the covariate.

  Returns:
    float64 (n,), (own - model human) / sqrt((1 - model^2) (1 - human^2)); NaN
    where a map is the covariate itself, up to its sign and the rounding of
    float32.
  """
  own, model, human = (np.asarray(r, np.float64) for r in (own, model, human))
  left, right = 1 - model**2, 1 - human**2
  is_covariate = (left < 1e-6) | (right < 1e-6)
  product = np.where(is_covariate, np.nan, left * right)
  return (own - model * human) / np.sqrt(product)
