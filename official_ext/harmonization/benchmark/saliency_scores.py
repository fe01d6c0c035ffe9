# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The field's saliency metrics, from the maps of all images.

Maps are those that models are ranked by: both are blurred by the same Gaussian
(`specific_alignment.RANKED`). Human maps are cut strictly above their 90th
percentile for AUC and pointing. Shuffled AUC takes its negatives from the cut
maps of other groups of images, each with the same weight, and information gain
compares with the mean human map of other groups.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import map_store
from official_ext.harmonization.benchmark import specific_alignment
from official_ext.harmonization.benchmark import specificity
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import saliency_metrics
from official_ext.harmonization.evaluation import scores

_PERCENTILE = 90.0
# Maps of noise, or of other images, that are drawn in all, and the least and
# the most for each image. Few images need more, because the interval does not
# contain the error of the draws.
_DRAWS, _LEAST, _MOST = 2000, 4, 20

_Maps = Callable[[int], np.ndarray]


def measure(
  store: map_store.MapStore,
  images: specific_alignment.Images,
  preprocessing: str,
  control: str = '',
  *,
  has_emd: bool = False,
) -> tuple[dict[str, scores.Score], list[dict[str, Any]]]:
  """Computes the metrics of all images.

  Args:
    store: of the maps.
    images: what must be known of them.
    preprocessing: of images and maps, in one line.
    control: the name of a control whose maps are made of other maps, one of
      `controls.FROM_MAPS`; '' if the store has the model's maps.
    has_emd: whether the earth mover's distance is computed too.

  Returns:
    The scores by name, and a dict of the values of each image.
  """
  human = _blurred(store)
  is_defined = np.array(
    [np.isfinite(m).all() and np.ptp(m) > 0 for m in human], bool
  )
  baseline = _rest(human, images.groups, is_defined)
  if control == 'mean-map':
    model = _alone(baseline)
  elif control == 'other-maps':
    model = _others(human, images.groups, is_defined)
  elif control == 'noise':
    model = _noise(store.size, len(human))
  else:
    model = _model(store)
  shape = (len(human), human[0].size if len(human) else 0)
  exceedance = store.array('exceedance', shape)
  cut = store.array('cut', shape)
  rows: list[dict[str, float]] = [{}] * len(human)

  def measure_one(i):
    maps = model(i)
    people = np.broadcast_to(human[i], maps.shape)
    found = _scores_of_maps(maps, people, baseline(i), has_emd)
    rows[i] = {name: float(values.mean()) for name, values in found.items()}
    # A hit or a miss; the mean of several draws would be neither.
    rows[i]['pointing'] = float(found['pointing'][0])
    # As in `specificity`, an image enters as itself and as the other image of
    # the rest, or not at all.
    top = human[i] > np.percentile(human[i], _PERCENTILE)
    if np.isfinite(rows[i]['auc']):
      above = saliency_metrics.exceedance(
        maps, np.broadcast_to(top, maps.shape)
      )
      exceedance[i] = above.mean(axis=0).ravel()
      cut[i] = top.ravel() / top.sum()
    else:
      exceedance[i] = cut[i] = np.nan

  specific_alignment.each(measure_one, range(len(human)))
  shuffled = specificity.measure(exceedance, cut, images.groups)
  for row, value in zip(rows, shuffled.outward):
    row['shuffled_auc'] = float(value)
  text = (
    f'{preprocessing}; both maps blurred with sigma = '
    f'{specific_alignment.RANKED} px at 224'
  )
  made = {
    name: _score(name, [row[name] for row in rows], images.groups, text)
    for name in (rows[0] if rows else ())
  }
  if made:
    # Each human map gives negatives to all other images, so that their values
    # are not independent; see `specificity`.
    influence = shuffled.own - shuffled.influence
    made['shuffled_auc'] = _score(
      'shuffled_auc', influence, images.groups, text
    )
    for row, value in zip(rows, influence):
      row['shuffled_auc_influence'] = float(value)
  return made, rows


def _blurred(store: map_store.MapStore) -> np.ndarray:
  """Blurs the human maps; maps without a value are kept as they are."""
  maps = store.read(specific_alignment.HUMAN)
  found = store.array('smooth', maps.shape)

  def blur(i):
    found[i] = specific_alignment.blur(
      maps[i : i + 1], specific_alignment.RANKED
    )[0]

  specific_alignment.each(blur, range(len(maps)))
  return found


def _rest(
  human: np.ndarray, groups: np.ndarray, is_defined: np.ndarray
) -> _Maps:
  """Returns a function that gives the mean map of other groups, (H, W)."""
  total = np.zeros(human.shape[1:])
  for i in np.flatnonzero(is_defined):
    total += human[i]

  def rest(i):
    members = np.flatnonzero((groups == groups[i]) & is_defined)
    count = np.count_nonzero(is_defined) - len(members)
    if not count:
      return np.full(total.shape, np.nan)
    return (total - human[members].sum(axis=0, dtype=np.float64)) / count

  return rest


def _draws(images: int) -> int:
  """Returns the number of maps that are drawn for each image."""
  return min(max(_DRAWS // images, _LEAST), _MOST)


def _alone(map_of: _Maps) -> _Maps:
  """Returns a function that gives a map (H, W) as a batch, (1, H, W)."""
  return lambda i: map_of(i)[np.newaxis]


def _others(
  human: np.ndarray, groups: np.ndarray, is_defined: np.ndarray
) -> _Maps:
  """Returns a function that draws maps of other groups, (D, H, W)."""

  def others(i):
    partners = np.flatnonzero((groups != groups[i]) & is_defined)
    drawn = np.random.default_rng(i).permutation(partners)[: _draws(len(human))]
    # Without a partner, a constant map, whose scores are undefined.
    return human[drawn] if len(drawn) else np.zeros_like(human[:1])

  return others


def _noise(size, images: int) -> _Maps:
  """Returns a function that draws maps of noise, (D, H, W)."""
  pool = specific_alignment.blur(
    controls.noise(0, specific_alignment.NOISE_DRAWS, size[0]),
    specific_alignment.RANKED,
  )

  def noise(i):
    rng = np.random.default_rng(i)
    return pool[rng.choice(len(pool), _draws(images), replace=False)]

  return noise


def _model(store: map_store.MapStore) -> _Maps:
  """Returns a function that gives the model's blurred map, (1, H, W)."""
  maps = store.read(specific_alignment.MODEL)
  return lambda i: specific_alignment.blur(
    maps[i : i + 1], specific_alignment.RANKED
  )


def _scores_of_maps(
  maps: np.ndarray, people: np.ndarray, baseline: np.ndarray, has_emd: bool
) -> dict[str, np.ndarray]:
  """Computes the metrics of maps (D, H, W) of one image, each (D,)."""
  found = numpy_metrics.localization_scores(maps, people, _PERCENTILE)
  found['shuffled_auc'] = np.full(len(maps), np.nan)  # Needs all images.
  found['information_gain'] = saliency_metrics.information_gain(
    maps, people, np.broadcast_to(baseline, maps.shape)
  )
  found['nss'] = saliency_metrics.nss(maps, people)
  found['cc'] = saliency_metrics.cc(maps, people)
  found['kl'] = saliency_metrics.kl_divergence(maps, people)
  found['sim'] = saliency_metrics.similarity(maps, people)
  if has_emd:
    found['emd'] = saliency_metrics.earth_movers_distance(maps, people)
  return found


def _score(name, values, groups, preprocessing) -> scores.Score:
  score = specific_alignment.score_of(
    name, statistics.mean(values, groups), len(values), preprocessing
  )
  if name != 'pointing':
    return score
  low, high = statistics.proportion(values, groups)
  method = statistics.proportion_method(groups)
  return dataclasses.replace(
    score, low=low, high=high, details={'interval': method}
  )
