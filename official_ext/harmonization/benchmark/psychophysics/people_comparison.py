# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Accuracy curves and scores of a network and people in the same experiment.

Images, and people, are resampled together for all scores, so that intervals of
differences and ratios hold for pairs of the same resample.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark.psychophysics import accuracy_curves
from official_ext.harmonization.benchmark.psychophysics import consistency
from official_ext.harmonization.benchmark.psychophysics import human_values
from official_ext.harmonization.benchmark.psychophysics import psychometrics
from official_ext.harmonization.evaluation import scores

_ALIGNMENTS = {
  'psychophysics_l2': psychometrics.l2,
  'psychophysics_negative_log_mse': psychometrics.negative_log_mse,
}


def compare(
  model: accuracy_curves.ResponseCounts,
  people: accuracy_curves.ResponseCounts
  | accuracy_curves.TabulatedAccuracy
  | None,
  images: accuracy_curves.ExperimentImages,
  resamples: int,
  seed: int,
  details: Mapping[str, Any],
  facts: Mapping[str, Any],
) -> tuple[dict[str, accuracy_curves.Curve], list[scores.Score]]:
  """Computes the curves and scores of a network and, if given, of people.

  Args:
    model: the network's responses.
    people: theirs at the same levels; None to score only the network.
    images: of the experiment.
    resamples: number of bootstrap resamples.
    seed: of the bootstrap.
    details: of every score.
    facts: further fields of every `scores.Score`.

  Returns:
    Curves by 'model' and 'human', and a list of scores.
  """
  rng = np.random.default_rng(seed)
  confidence = facts['confidence']
  weights = images.resample(resamples, rng)
  sides = {'model': model, **({'human': people} if people else {})}
  curves, resampled, thresholds, drawn = {}, {}, {}, {}
  for name, responses in sides.items():
    drawn[name] = responses.draw(resamples, rng)
    curve = responses.curve()
    resampled[name] = responses.resample(weights, drawn[name])
    thresholds[name] = responses.thresholds(weights, drawn[name])
    if not curve.logistic.problem:
      low, high, _ = accuracy_curves.interval(thresholds[name], confidence)
      curve = dataclasses.replace(curve, threshold_interval=(low, high))
    curves[name] = curve

  def score(name, value, values, **more):
    low, high, undefined = accuracy_curves.interval(values, confidence)
    return scores.Score(
      name,
      float(value),
      low=low,
      high=high,
      details={**details, 'n_undefined_resamples': undefined, **more},
      **facts,
    )

  # A network is a single participant, so only images are resampled.
  made = [
    score(
      'psychophysics_accuracy',
      curves['model'].accuracy.mean(),
      resampled['model'].mean(axis=1),
      bootstrap='images',
    )
  ]
  if people:
    for name, measure in _ALIGNMENTS.items():
      made.append(
        score(
          name,
          measure(curves['human'].accuracy, curves['model'].accuracy),
          measure(resampled['human'], resampled['model']),
          people=_split_half(people, measure, seed, confidence),
        )
      )
    ratios = np.log10(thresholds['model'] / thresholds['human'])
    made.append(
      score(
        'psychophysics_log_threshold_ratio',
        np.log10(curves['model'].threshold / curves['human'].threshold),
        ratios,
        p=consistency.p_value(ratios),
      )
    )
  if isinstance(people, accuracy_curves.ResponseCounts):
    found = consistency.compare(
      model.proportions(), people.proportions(), weights, drawn['human']
    )
    for i, name in enumerate(consistency.MEASURES):
      ours, theirs = found.resampled_model[i], found.resampled_people[i]
      if name == 'accuracy_difference':
        ours = _centred(ours, found.model[i])
        theirs = _centred(theirs, found.people[i])
      is_kappa = name == 'error_consistency'
      more: dict[str, Any] = {
        'people': _with_interval(
          found.people[i], theirs, confidence, theirs if is_kappa else None
        ),
        'difference': _with_interval(
          found.model[i] - found.people[i],
          ours - theirs,
          confidence,
          ours - theirs,
        ),
        'participants': dict(zip(people.names, found.participants[i].tolist())),
      }
      if is_kappa:
        more['p'] = consistency.p_value(ours)
      made.append(score(f'psychophysics_{name}', found.model[i], ours, **more))
  return curves, made


def _centred(values, value):
  """Shifts bootstrap values so that their mean is the estimate.

  Resampling adds noise to both accuracies, and noise increases their squared
  difference: unshifted, an interval need not contain its estimate.
  """
  values = np.asarray(values)
  defined = values[~np.isnan(values)]
  return values + (value - defined.mean()) if len(defined) else values


def _with_interval(value, values, confidence, tested=None) -> dict[str, Any]:
  """Returns a number with its bootstrap interval, and a test of being 0."""
  low, high, _ = accuracy_curves.interval(values, confidence)
  return human_values.Value(
    float(value),
    low,
    high,
    'bootstrapped over images and participants',
    math.nan if tested is None else consistency.p_value(tested),
  ).to_json()


def _split_half(people, measure, seed, confidence) -> dict[str, Any] | None:
  """Returns the distance between halves of people; None if it is unknown."""
  value, low, high = people.split_half(measure, seed, confidence=confidence)
  if np.isnan(value):
    return None
  return human_values.Value(
    value, low, high, 'jackknife over participants'
  ).to_json()
