# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Scores and warnings from the images' values of `explanation_checks`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import faithfulness
from official_ext.harmonization.benchmark import faithfulness_words
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import specific_alignment
from official_ext.harmonization.benchmark import statistics

# Names of the maps that `explanation_checks` measures; see the words.
ORDERS = tuple(faithfulness_words.ORDERS)
FORMS = tuple(faithfulness_words.FORMS)
RELATED = tuple(faithfulness_words.RELATED)
MAIN = tuple(faithfulness_words.TITLES)

# The noise that is as smooth as the map, by score.
_NOISE = {
  'map_minus_noise': ('map', 'noise'),
  'blurred_map_minus_noise': ('blurred_map', 'blurred_noise'),
  'human_minus_noise': ('human', 'blurred_noise'),
}


def image_values(row: Mapping[str, Any]) -> dict[str, float]:
  """Computes an image's values of all scores.

  Args:
    row: of an image, as `explanation_checks` makes it.

  Returns:
    By score: `MAIN`; deletion, insertion and their difference of each order,
    averaged over fills; the difference for each fill; and the rank correlations
    of each form. NaN where undefined.
  """
  found: dict[str, float] = {}
  for order in ORDERS:
    by_fill = {
      direction: [
        row[f'{direction}_{order}_{fill}'] for fill in faithfulness.FILLS
      ]
      for direction in ('deletion', 'insertion')
    }
    for direction, values in by_fill.items():
      found[f'{direction}_{order}'] = float(np.mean(values))
    differences = np.subtract(by_fill['insertion'], by_fill['deletion'])
    found[f'difference_{order}'] = float(differences.mean())
    for fill, value in zip(faithfulness.FILLS, differences):
      found[f'difference_{order}_{fill}'] = float(value)
  for form in FORMS:
    for name in RELATED:
      found[f'{form}_{name}'] = row[f'{form}_{name}']
    found[f'{form}_excess'] = row[f'{form}_all'] - row[f'{form}_unrelated']
  main = {
    name: found[f'difference_{order}'] - found[f'difference_{noise}']
    for name, (order, noise) in _NOISE.items()
  }
  main['randomized_rho'] = found['rho_all']
  main['randomized_excess'] = found['rho_excess']
  main['class_distance'] = 1 - row['rho_other_class']
  main['class_insertion'] = found['insertion_map'] - float(
    np.mean(
      [row[f'insertion_other_class_{fill}'] for fill in faithfulness.FILLS]
    )
  )
  return {**main, **found}


def measure(
  rows: Sequence[Mapping[str, Any]],
  *,
  explainer: str,
  preprocessing: str,
  limit: int | None,
) -> results.Measurement:
  """Averages the values of all images.

  Args:
    rows: of the images, as `explanation_checks` makes them.
    explainer: its name.
    preprocessing: of images and maps, in one line.
    limit: number of records of a trial, or None.

  Returns:
    The measurement; its rows have the values of `MAIN` too.
  """
  values = [image_values(row) for row in rows]
  groups = [row['group'] for row in rows]
  estimates = {
    name: statistics.mean([v[name] for v in values], groups)
    for name in values[0]
  }
  return results.Measurement(
    scores=[
      specific_alignment.score_of(
        name,
        estimate,
        len(rows),
        preprocessing,
        explainer=explainer,
        limit=limit,
      )
      for name, estimate in estimates.items()
    ],
    rows=[
      {**row, **{name: v[name] for name in MAIN}}
      for row, v in zip(rows, values)
    ],
    warnings=_warnings(rows, values, estimates, explainer),
  )


def _warnings(rows, values, estimates, explainer) -> list[str]:
  found = []
  failed = [
    form
    for form in FORMS
    if faithfulness.fails_randomization(
      estimates[f'{form}_all'], estimates[f'{form}_excess']
    )
  ]
  if failed:
    found.append(
      f'The explanation {explainer} fails the randomization of weights: its '
      'maps hardly depend on what the network learned. After all weights are '
      'drawn anew, the rank correlation with the maps of the trained network '
      'is '
      + '; '.join(
        f'{_text(estimates[f"{form}_all"])} ({faithfulness_words.FORMS[form]}; '
        f'{estimates[f"{form}_unrelated"].value:.2f} between two images)'
        for form in failed
      )
      + '. Do not compare networks by this explanation.'
    )
  reasons = dict.fromkeys(r['not_randomized'] for r in rows)
  found += [
    f'The weights cannot be drawn anew, so the dependence of {explainer} on '
    f'them is not known: {reason}'
    for reason in reasons
    if reason
  ]
  undefined = sum(np.isnan(v['map_minus_noise']) for v in values)
  if undefined:
    found.append(
      f'{undefined} of {len(rows)} images have no order of pixels, because the '
      'map of the network is constant or not finite. They are excluded.'
    )
  return found


def _text(estimate: statistics.Estimate) -> str:
  return f'{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]'
