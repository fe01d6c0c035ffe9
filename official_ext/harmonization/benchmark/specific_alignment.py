# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Scores of specific alignment, from the maps of all images.

Maps of a network are noisy and human maps are smooth, and the smoother of two
maps agrees more with people. Both are therefore blurred by the same Gaussian
before they are ranked. Models are compared at `RANKED`; the other widths show
whether the comparison depends on this choice. See `specificity` for the
statistic.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
import dataclasses
import math
import os
import tempfile
from typing import Any

import numpy as np
from scipy import ndimage
from scipy import sparse

from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import map_store
from official_ext.harmonization.benchmark import normalization
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import specificity
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import scores

# Standard deviations of the Gaussian in pixels of a map of 224 x 224.
WIDTHS = (0, 5, 10, 20)
RANKED = 10
_UNIT = 224
# The kinds of maps in the store; controls that people's maps make up have no
# maps of their own.
MODEL, HUMAN, RELEASED = 'model', 'human', 'released'
# Maps of noise that are averaged for each image.
NOISE_DRAWS = 200
_MOST_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True)
class Images:
  """What the statistic must know of the images.

  Attributes:
    groups: int (n,), see `specificity`.
    classes: int (n,).
  """

  groups: np.ndarray
  classes: np.ndarray


def groups(names: Sequence[str], digests: Sequence[str]) -> np.ndarray:
  """Groups images that have the same name or the same pixels.

  Args:
    names: (n,), what images of one group share; '' is shared by none.
    digests: (n,), of the pixels.

  Returns:
    int (n,), the group of each image.
  """
  n = len(names)
  keys: dict[tuple[str, str], int] = {}
  rows, columns = [], []
  for i, pair in enumerate(zip(names, digests)):
    for kind, key in zip(('name', 'pixels'), pair):
      if key:
        rows.append(i)
        columns.append(n + keys.setdefault((kind, key), len(keys)))
  size = n + len(keys)
  links = sparse.coo_array(
    (np.ones(len(rows)), (rows, columns)), shape=(size, size)
  )
  _, found = sparse.csgraph.connected_components(links, directed=False)
  return np.unique(found[:n], return_inverse=True)[1]


def blur(maps: np.ndarray, width: float) -> np.ndarray:
  """Blurs maps with a Gaussian.

  Args:
    maps: (B, H, W).
    width: its standard deviation at a height of 224 pixels.

  Returns:
    float32 (B, H, W).
  """
  sigma = width * maps.shape[1] / _UNIT
  if not sigma:
    return np.asarray(maps, np.float32)
  return ndimage.gaussian_filter(
    np.asarray(maps, np.float32), (0, sigma, sigma), mode='reflect'
  )


class HumanRanks:
  """Ranks of the human maps, computed once for all models.

  They are kept in a temporary folder as long as the object, unless they are
  larger than `_MOST_BYTES`.
  """

  def __init__(self):
    self._folder = tempfile.TemporaryDirectory(prefix='ranks')
    self._kept: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}

  def get(
    self, store: map_store.MapStore, kind: str, width: float, images: Images
  ) -> tuple[np.ndarray, np.ndarray]:
    """Ranks human maps and, for each image, the mean map of other groups.

    Args:
      store: of the maps; all stores of one dataset have the same.
      kind: of the maps, `HUMAN` or `RELEASED`.
      width: of the Gaussian.
      images: what must be known of them.

    Returns:
      Two arrays of unit ranks, float32 (n, H * W).
    """
    maps = store.read(kind)
    key = (kind, width, *maps.shape)
    if key in self._kept:
      return self._kept[key]
    shape = (len(maps), int(np.prod(maps.shape[1:])))
    is_kept = 2 * len(WIDTHS) * 4 * math.prod(shape) <= _MOST_BYTES
    name = os.path.join(self._folder.name, '-'.join(map(str, key)))
    human, mean = (
      np.memmap(f'{name}-{what}', np.float32, 'w+', shape=shape)
      if is_kept
      else store.array(what, shape)
      for what in ('human', 'mean')
    )
    self._rank(store, maps, width, images, human, mean)
    if is_kept:
      self._kept[key] = human, mean
    return human, mean

  def _rank(self, store, maps, width, images, human, mean):
    """Fills in the two arrays."""
    count, size = len(maps), maps.shape[1:]
    blurred = store.array('blurred', human.shape)

    def rank(i):
      one = blur(maps[i : i + 1], width)
      human[i] = numpy_metrics.unit_ranks(one)[0]
      blurred[i] = one.ravel() if np.isfinite(human[i, 0]) else 0

    each(rank, range(count))
    total = blurred.sum(axis=0, dtype=np.float64)

    # The mean map is a mean of blurred maps, not of their ranks.
    def rank_rest(members):
      rest = total - blurred[members].sum(axis=0, dtype=np.float64)
      mean[members] = numpy_metrics.unit_ranks(rest.reshape(1, *size))[0]

    keys = images.groups
    each(rank_rest, [np.flatnonzero(keys == key) for key in np.unique(keys)])


def each(function: Callable[[Any], None], items: Sequence[Any]):
  """Calls a function for each item, in threads; sorting releases the GIL."""
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for _ in pool.map(function, items):
      pass


def _model_ranks(
  store: map_store.MapStore,
  width: float,
  images: Images,
  control: str,
  human: np.ndarray,
  mean: np.ndarray,
) -> np.ndarray:
  """Returns unit ranks of the model's maps, or of a control made of others."""
  count, size = len(human), store.size
  if control == 'mean-map':
    return mean
  if control == 'other-maps':
    return specificity.other_maps(human, images.groups)
  if control == 'noise':
    # Each image draws from a common pool, which is cheaper than new noise.
    pool = numpy_metrics.unit_ranks(
      blur(controls.noise(0, 2 * NOISE_DRAWS, size[0]), width)
    )
    order = np.random.default_rng(1).permuted(
      np.tile(np.arange(len(pool)), (count, 1)), axis=1
    )
    weights = (order < NOISE_DRAWS).astype(np.float32) / NOISE_DRAWS
    return weights @ pool
  maps = store.read(MODEL)
  found = store.array('model', human.shape)

  def rank(i):
    found[i] = numpy_metrics.unit_ranks(blur(maps[i : i + 1], width))[0]

  each(rank, range(count))
  return found


def measure(
  store: map_store.MapStore,
  images: Images,
  preprocessing: str,
  control: str = '',
  people: HumanRanks | None = None,
) -> tuple[results.Explained, list[dict[str, Any]]]:
  """Computes the scores at all widths.

  Args:
    store: of the maps of all images.
    images: what must be known of them.
    preprocessing: of images and maps, in one line.
    control: the name of a control whose maps are made of other maps, one of
      `controls.FROM_MAPS`; '' if the store has the model's maps.
    people: ranks of the human maps, which models share.

  Returns:
    The scores, and a dict per image: group, own, outward, inward, influence.
  """
  people = people or HumanRanks()
  by_width: list[results.Smoothed] = []
  ranked: dict[str, scores.Score] = {}
  rows: list[dict[str, Any]] = []
  for width in WIDTHS:
    text = f'{preprocessing}; both maps blurred with sigma = {width} px at 224'
    human, mean = people.get(store, HUMAN, width, images)
    model = _model_ranks(store, width, images, control, human, mean)
    found = specificity.measure(model, human, images.groups)
    made = _scores(found, images.groups, text)
    by_width.append(results.Smoothed(width, **made))
    if width == RANKED:
      values = _conditional(model, human, mean, found, images, store.size)
      ranked = {
        **made,
        **{n: _score(n, v, images.groups, text) for n, v in values.items()},
      }
      rows = [
        dict(zip(('group', 'own', 'outward', 'inward', 'influence'), row))
        for row in zip(
          images.groups.tolist(),
          found.own.tolist(),
          found.outward.tolist(),
          found.inward.tolist(),
          found.influence.tolist(),
        )
      ]
  return results.Explained(ranked, by_width), rows


def published(
  store: map_store.MapStore,
  images: Images,
  preprocessing: str,
  control: str,
  people: HumanRanks,
) -> scores.Score:
  """Computes the published rank correlation of a control made of other maps."""
  human, mean = people.get(store, RELEASED, 0, images)
  model = _model_ranks(store, 0, images, control, human, mean)
  own = specificity.measure(model, human, images.groups).own
  return _score('spearman', own, images.groups, preprocessing)


def score_of(
  name: str,
  estimate: statistics.Estimate | normalization.Normalized,
  images: int,
  preprocessing: str,
  **details: Any,
) -> scores.Score:
  """Makes a score of an estimate over groups of images.

  Args:
    name: of the score.
    estimate: with its 95 % interval.
    images: their number, with and without a value.
    preprocessing: of images and maps, in one line.
    **details: of the score.

  Returns:
    The score.
  """
  return scores.Score(
    name=name,
    value=estimate.value,
    n=estimate.n,
    n_undefined=images - estimate.n,
    low=estimate.low,
    high=estimate.high,
    confidence=0.95,
    ceiling=None,
    preprocessing=preprocessing,
    details={'interval': "Student's t over groups of images", **details},
  )


def _score(name, values, in_groups, preprocessing) -> scores.Score:
  estimate = statistics.mean(values, in_groups)
  return score_of(name, estimate, len(values), preprocessing)


def _scores(
  found: specificity.Specificity, in_groups, preprocessing
) -> dict[str, scores.Score]:
  return {
    name: _score(name, values, in_groups, preprocessing)
    for name, values in (
      ('own', found.own),
      # Its influence is what that of `specific` lacks of own.
      ('shuffled', found.own - found.influence),
      ('specific', found.influence),
    )
  }


def _conditional(
  model: np.ndarray,
  human: np.ndarray,
  mean: np.ndarray,
  found: specificity.Specificity,
  images: Images,
  size: Sequence[int],
) -> dict[str, np.ndarray]:
  """Returns values of the images for other partners, and given covariates."""
  values = {}
  for name, partners in (
    ('specific_same_class', 'same class'),
    ('specific_other_class', 'other class'),
  ):
    values[name] = specificity.measure(
      model, human, images.groups, images.classes, partners=partners
    ).influence
  height, width = size
  black = np.zeros((1, height, width, 3))
  centre = numpy_metrics.unit_ranks(controls.maps('centre', black, height))
  for name, covariate in (
    ('given_centre', np.broadcast_to(centre, human.shape)),
    ('given_mean_map', mean),
  ):
    values[name] = specificity.partial_correlation(
      found.own,
      specificity.products(model, covariate),
      specificity.products(human, covariate),
    )
  return values
