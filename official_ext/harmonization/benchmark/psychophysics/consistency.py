# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Compares observers trial by trial: do they err on the same images?

Two observers agree on a trial if both are right or both are wrong. Error
consistency is Cohen's kappa, the agreement beyond what their accuracies imply
(Geirhos, Meding and Wichmann, "Beyond accuracy", NeurIPS 2020):

  kappa = (observed - expected) / (1 - expected),
  expected = p q + (1 - p) (1 - q), with the accuracies p and q.

Accuracy rises with the level, so that trials of all levels pooled would agree
even for independent observers. Expected agreement is therefore computed within
each level, and the levels are combined as a stratified kappa (Barlow, Lai and
Azen, "A comparison of methods for calculating a stratified kappa", Statistics
in Medicine 10, 1991), a ratio of sums over the levels:

  kappa = sum n (observed - expected) / sum n (1 - expected).

With one level this is Cohen's kappa.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from numpy import typing as npt

MEASURES = ('error_consistency', 'observed_consistency', 'accuracy_difference')


class Agreement(NamedTuple):
  """Agreement of pairs of observers; NaN where they share no trial.

  Attributes:
    error_consistency: kappa, (O, O) or a number; NaN also if both are always
      right (or always wrong), where chance leaves nothing to explain.
    observed_consistency: proportion of trials on which both are right or both
      are wrong.
    accuracy_difference: mean over levels of the squared difference between
      accuracies on the shared trials (Geirhos et al., "Partial success in
      closing the gap between human and machine vision", NeurIPS 2021).
  """

  error_consistency: Any
  observed_consistency: Any
  accuracy_difference: Any


def agreement(
  right: np.ndarray, seen: np.ndarray, weights: np.ndarray | None = None
) -> Agreement:
  """Compares each observer with each, on the trials that both have seen.

  Args:
    right: float (L, O, I), for each level, observer and image the proportion of
      correct responses in [0, 1]; below 1 and above 0 only where an observer
      has seen a stimulus repeatedly.
    seen: bool (L, O, I), whether there are responses.
    weights: (I,) of the images; None for 1.

  Returns:
    Three arrays float64 (O, O), symmetric.
  """
  there = np.asarray(seen, np.float32)
  right = np.asarray(right, np.float32) * there
  weigh = 1.0 if weights is None else np.asarray(weights, np.float32)
  # Sums over the images that both have seen, (L, O, O).
  n, p_sum, both = (
    ((a * weigh) @ b.swapaxes(1, 2)).astype(np.float64)
    for a, b in ((there, there), (right, there), (right, right))
  )
  q_sum = p_sum.swapaxes(1, 2)
  with np.errstate(invalid='ignore', divide='ignore'):
    p, q = p_sum / n, q_sum / n
    expected = np.where(n > 0, p * q + (1 - p) * (1 - q), 0.0)
    agreed = n - p_sum - q_sum + 2 * both
    total = n.sum(axis=0)
    possible = total - (n * expected).sum(axis=0)
    kappa = (agreed - n * expected).sum(axis=0) / possible
    return Agreement(
      # Rounding errors of expected leave a tiny denominator.
      np.where(possible > 1e-9 * total, kappa, np.nan),
      agreed.sum(axis=0) / total,
      np.nansum((p - q) ** 2, axis=0) / (n > 0).sum(axis=0),
    )


def against_others(
  values: np.ndarray, drawn: np.ndarray | None = None
) -> np.ndarray:
  """Averages each participant's values over the other participants.

  Args:
    values: (P, P), NaN where undefined.
    drawn: (P,), how often each participant was drawn; None for once. Copies of
      a participant do not count as others, because they agree with each other
      completely.

  Returns:
    (P,), NaN if undefined for all others.
  """
  count = len(values)
  weights = np.ones(count) if drawn is None else np.asarray(drawn, float)
  is_other = ~np.eye(count, dtype=bool) & ~np.isnan(values)
  return _mean(values, weights * is_other)


def _mean(values, weights):
  """Returns the weighted mean over the last axis; NaN values count nowhere."""
  weights = np.where(np.isnan(values), 0.0, weights)
  with np.errstate(invalid='ignore'):
    return (np.nan_to_num(values) * weights).sum(axis=-1) / weights.sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A network and people, compared trial by trial.

  Attributes:
    model: means over participants of the network against each.
    people: means over participants of each against the others.
    participants: each participant against the others, three arrays (P,).
    resampled_model: bootstrap values of `model`, three arrays (R,).
    resampled_people: likewise of `people`, with the same images and
      participants drawn, so that differences are paired.
  """

  model: Agreement
  people: Agreement
  participants: Agreement
  resampled_model: Agreement
  resampled_people: Agreement


def compare(
  model: tuple[np.ndarray, np.ndarray],
  people: tuple[np.ndarray, np.ndarray],
  image_weights: np.ndarray,
  drawn: np.ndarray,
) -> Comparison:
  """Compares a network with people, and people with each other.

  Args:
    model: `right` and `seen` of `agreement` with a single observer.
    people: the same of P participants, for the same levels and images.
    image_weights: (R, I) bootstrap weights of the images.
    drawn: (R, P), how often each participant was drawn.

  Returns:
    The comparison.
  """
  right, seen = (np.concatenate(both, axis=1) for both in zip(people, model))

  def means(weights, times):
    found = agreement(right, seen, weights)
    of_model, of_people, each = [], [], []
    for values in found:
      of_model.append(float(_mean(values[-1, :-1], times)))
      rest = against_others(values[:-1, :-1], times)
      each.append(rest)
      of_people.append(float(_mean(rest, times)))
    return of_model, of_people, each

  of_model, of_people, each = means(None, np.ones(drawn.shape[1]))
  resampled = [means(w, d)[:2] for w, d in zip(image_weights, drawn)]
  values = np.array(resampled).reshape(-1, 2, len(MEASURES))
  return Comparison(
    Agreement(*of_model),
    Agreement(*of_people),
    Agreement(*each),
    Agreement(*values[:, 0].T),
    Agreement(*values[:, 1].T),
  )


def p_value(values: npt.ArrayLike) -> float:
  """Tests whether a bootstrapped quantity is 0.

  Args:
    values: (R,) bootstrap values; NaN values are excluded.

  Returns:
    The two-sided p-value 2 (1 + k) / (R + 1), at most 1, where k is the number
    of values on the rarer side of 0, including those that are 0; NaN if fewer
    than half of the values are defined.
  """
  drawn = np.asarray(values, float)
  defined = drawn[~np.isnan(drawn)]
  if 2 * len(defined) < len(drawn) or not len(defined):
    return math.nan
  k = min(np.sum(defined <= 0), np.sum(defined >= 0))
  return float(min(1.0, 2 * (1 + k) / (len(defined) + 1)))
