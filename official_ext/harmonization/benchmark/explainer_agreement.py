# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Do two explainers rank networks alike?

Networks are ranked by specific alignment under each explainer, on the images
that both were measured on. The rank correlations have an interval over images:
groups of images are resampled, the same for all networks and explainers. It
says whether the correlation of these networks could be due to the choice of
images, and nothing about other networks.

  found = explainer_agreement.compare(folder, models, protocols)
  found[0].spearman.value, found[0].spearman.low
"""

from collections.abc import Callable, Sequence
import itertools
import math
from typing import Any

import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import image_tables
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_groups
from official_ext.harmonization.benchmark import run_results

# With fewer networks, a rank correlation says little.
FEW = 4
_RESAMPLES, _SEED = 1000, 0
_INFLUENCE = {'specific': ('influence',)}


def explainer_of(protocol: str, models: Sequence[results.ModelResults]) -> str:
  """Returns the explainer of a protocol's results; '' if none is known."""
  for model in models:
    if protocol in model.results and not model.is_control:
      for name in model.results[protocol].explainers or {}:
        return name
  return ''


def compare(
  output_dir: str,
  models: Sequence[results.ModelResults],
  protocols: Sequence[protocol_lib.Protocol],
) -> list[run_results.Agreement]:
  """Compares all pairs of explainers of each protocol.

  Args:
    output_dir: that the paths of tables start from.
    models: with their results; of several runs, the mean is used.
    protocols: of which those with controls are compared, with their variants.

  Returns:
    The pairs with at least two networks that have both explainers.
  """
  families: dict[str, list[protocol_lib.Protocol]] = {}
  for protocol in protocols:
    if protocol.has_controls:
      family = protocol_names.family(protocol.name)
      families.setdefault(family, []).append(protocol)
  found = []
  for family, variants in families.items():
    for pair in itertools.combinations(variants, 2):
      networks = [
        m
        for m in models
        # Results of early versions have no influences.
        if m.is_network
        and all(p.name in m.results for p in pair)
        and all(m.results[p.name].explainers for p in pair)
      ]
      if len(networks) > 1:
        found.append(_compare(output_dir, models, networks, family, pair))
  return found


def _compare(
  output_dir, models, networks, family, pair
) -> run_results.Agreement:
  """Compares two protocols of one family, which differ in the explainer."""
  tables = [
    run_groups.tables(model, models, protocol, output_dir)
    for protocol in pair
    for model in networks
  ]
  values = image_tables.values([t for of in tables for t in of], _INFLUENCE)
  # Several runs of a network count as their mean.
  ends = np.cumsum([len(of) for of in tables])[:-1]
  means = [
    runs.mean(axis=0) for runs in np.split(values.by_score['specific'], ends)
  ]
  influence = np.array(means).reshape(2, len(networks), -1)
  is_defined = ~np.isnan(influence).any(axis=(0, 1))
  influence = influence[..., is_defined]
  _, groups = np.unique(values.groups[is_defined], return_inverse=True)
  names = [m.name for m in networks]
  scores = (
    influence.mean(axis=-1)
    if influence.size
    else np.full((2, len(names)), np.nan)
  )
  drawn = _resampled(influence, groups)
  orders = [[names[i] for i in np.argsort(-s, kind='stable')] for s in scores]
  first, second = (explainer_of(p.name, networks) for p in pair)
  return run_results.Agreement(
    protocol=family,
    first=first,
    second=second,
    networks=orders[0],
    order=orders[1],
    images=int(is_defined.sum()),
    groups=int(groups.max(initial=-1) + 1),
    spearman=_correlation(stats.spearmanr, scores, drawn),
    kendall=_correlation(stats.kendalltau, scores, drawn),
    same_order=_same_order(drawn),
  )


def _resampled(influence: np.ndarray, groups: np.ndarray) -> np.ndarray:
  """Returns specific alignment of resampled groups.

  Args:
    influence: (2, networks, n).
    groups: int (n,), numbered from 0.

  Returns:
    (resamples, 2, networks); no resample if there are fewer than two groups.
  """
  count = groups.max(initial=-1) + 1
  if count < 2:
    return np.empty((0, *influence.shape[:2]))
  sums = influence @ np.eye(count)[groups]
  weights = np.random.default_rng(_SEED).multinomial(
    count, np.full(count, 1 / count), _RESAMPLES
  )
  images = weights @ np.bincount(groups)
  return np.einsum('rg,eng->ren', weights, sums) / images[:, None, None]


def _correlation(
  measure: Callable[..., Any],
  scores: np.ndarray,
  drawn: np.ndarray,
) -> run_results.RankCorrelation:
  """Measures a correlation and its percentile interval."""
  if np.isnan(scores).any() or (np.ptp(scores, axis=1) == 0).any():
    return run_results.RankCorrelation(math.nan, math.nan, math.nan)
  found = [measure(*pair)[0] for pair in drawn if np.ptp(pair, axis=1).all()]
  ends: Any = np.percentile(found, (2.5, 97.5)) if found else (math.nan,) * 2
  return run_results.RankCorrelation(
    float(measure(*scores)[0]), *map(float, ends)
  )


def _same_order(drawn: np.ndarray) -> float:
  if not len(drawn):
    return math.nan
  order = np.argsort(-drawn, axis=-1, kind='stable')
  return float((order[:, 0] == order[:, 1]).all(axis=-1).mean())
