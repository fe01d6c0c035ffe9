# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Combines several runs of one network, named by ?group=NAME, into one row.

  models = run_groups.with_means(models, protocols, output_dir)

The row has the means of the runs' scores. Intervals are over images and seeds
if there are enough runs, see `repeated_runs`; otherwise they hold for these
runs only, and say so.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import os
from typing import Any

import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import image_tables
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import scores as scores_lib

Models = Sequence[results.ModelResults]


def with_means(
  models: Models,
  protocols: Sequence[protocol_lib.Protocol],
  output_dir: str,
) -> list[results.ModelResults]:
  """Adds a row for each group of runs.

  Args:
    models: with their results.
    protocols: that measured them.
    output_dir: that the paths of tables start from.

  Returns:
    The models, and after them a model for each group, named after it. Random
    twins of a run become twins of its group.
  """
  groups: dict[str, list[results.ModelResults]] = {}
  for model in models:
    if model.group:
      groups.setdefault(model.group, []).append(model)
  group_of = {m.name: name for name, runs in groups.items() for m in runs}
  found = [
    dataclasses.replace(
      model,
      settings={**model.settings, 'random_twin_of': group_of[model.twin_of]},
    )
    if model.twin_of in group_of
    else model
    for model in models
  ]
  for name, runs in groups.items():
    mean = _mean(name, runs, protocols, output_dir)
    if runs[0].size_of:
      size_of = group_of.get(runs[0].size_of, runs[0].size_of)
      mean.settings = {**mean.settings, 'input_size_of': size_of}
    found.append(mean)
  return found


def tables(
  model: results.ModelResults,
  models: Models,
  protocol: protocol_lib.Protocol,
  output_dir: str,
) -> list[image_tables.Table]:
  """Reads the tables of a model, or of all runs of a group.

  Args:
    model: one of `models`.
    models: all, among them the runs of a group.
    protocol: of which the model has a result.
    output_dir: that the paths of tables start from.

  Returns:
    A table for each run, with the columns of `Protocol.with_people`.
  """
  runs = [m for m in models if m.name in model.runs] if model.runs else [model]
  return [
    protocol.with_people(
      image_tables.read(
        os.path.join(output_dir, m.results[protocol.name].table)
      )
    )
    for m in runs
    if protocol.name in m.results
  ]


def _mean(
  name: str,
  runs: Models,
  protocols: Sequence[protocol_lib.Protocol],
  output_dir: str,
) -> results.ModelResults:
  """Returns the mean of the runs of a group."""
  found = {}
  for protocol in protocols:
    measured = [m for m in runs if protocol.name in m.results]
    if not measured:
      continue
    estimates: Mapping[str, repeated_runs.Estimate] = {}
    if protocol.image_values:
      read = [tables(m, runs, protocol, output_dir)[0] for m in measured]
      values = image_tables.values(read, protocol.image_values)
      estimates = {
        score: repeated_runs.mean(of_runs, values.groups)
        for score, of_runs in values.by_score.items()
      }
    found[protocol.name] = _result(measured, protocol.name, estimates)
  specs = ', '.join(m.spec for m in runs)
  settings = {'spec': specs, 'runs': [m.name for m in runs]}
  return results.ModelResults(name, settings, runs[0].adapter, found)


def _result(
  runs: Models,
  protocol: str,
  estimates: Mapping[str, repeated_runs.Estimate],
) -> results.StoredResult:
  """Returns the mean result of runs of which each has one."""
  stored = [m.results[protocol] for m in runs]
  first = stored[0]
  explainers = {}
  for name, explained in (first.explainers or {}).items():
    each = [(r.explainers or {}).get(name) for r in stored]
    if None in each:
      continue
    explainers[name] = results.Explained(
      _scores([e.scores for e in each if e], estimates),
      [
        results.Smoothed(
          smoothed.width,
          **{
            score: _score([getattr(e.by_width[i], score) for e in each if e])
            for score in ('own', 'shuffled', 'specific')
          },
        )
        for i, smoothed in enumerate(explained.by_width)
      ],
    )
  return results.StoredResult(
    scores=_scores([r.scores for r in stored], estimates),
    settings=first.settings,
    table='',
    examples=first.examples,
    warnings=[
      f'{m.name}: {warning}'
      for m in runs
      for warning in m.results[protocol].warnings
    ],
    explainers=explainers or None,
    created=max(r.created for r in stored),
    origin='; '.join(dict.fromkeys(r.origin for r in stored if r.origin)),
  )


def _scores(
  of_runs: Sequence[Mapping[str, scores_lib.Score]],
  estimates: Mapping[str, repeated_runs.Estimate],
) -> dict[str, scores_lib.Score]:
  """Averages the scores that all runs have."""
  return {
    name: _score([found[name] for found in of_runs], estimates.get(name))
    for name in of_runs[0]
    if all(name in found for found in of_runs)
  }


def _score(
  of_runs: Sequence[scores_lib.Score],
  estimate: repeated_runs.Estimate | None = None,
) -> scores_lib.Score:
  """Averages a score over runs.

  Args:
    of_runs: the score of each run.
    estimate: of the mean over runs and images; None if the images' values are
      not known.

  Returns:
    The mean. Without an estimate, the variance is the sum of those between the
    runs and of their mean over images, which is more than that of the mean.
    Intervals of proportions stay between 0 and 1 (`statistics.bounded`). One
    run keeps its own interval.
  """
  first, count = of_runs[0], len(of_runs)
  if count == 1:
    method = f'{first.interval_method} ({repeated_runs.not_estimable(1)})'
    kept = {k: first.details[k] for k in _KEPT if k in first.details}
    kept |= _over_participants(of_runs)
    return dataclasses.replace(
      first, details={'interval': method, 'runs': 1, **kept}
    )
  over_seeds = count >= repeated_runs.LEAST_RUNS
  seeds = (
    f' and over the seeds of {count} runs'
    if over_seeds
    else f' ({repeated_runs.not_estimable(count)})'
  )
  values = np.array([score.value for score in of_runs])
  value = float(values.mean())
  if estimate is not None:
    low, high, value = estimate.low, estimate.high, estimate.value
    method = f"Student's t over images{seeds}"
  else:
    quantile = stats.norm.ppf(0.5 + first.confidence / 2)
    errors = [(s.high - s.low) / 2 / quantile for s in of_runs]
    variance = float(np.mean(np.square(errors)))
    if over_seeds:
      variance += values.var(ddof=1) / count
      quantile = stats.t.ppf(0.5 + first.confidence / 2, count - 1)
    low, high = (
      value + sign * quantile * math.sqrt(variance) for sign in (-1, 1)
    )
    method = f'from the variance of each run over images{seeds}'
  known = [s.n for s in of_runs if s.n is not None]
  n = estimate.n if estimate else min(known) if known else None
  if n and first.interval_method.startswith('Wilson'):
    trials = estimate.variance.groups if estimate and estimate.variance else n
    low, high = statistics.bounded(
      value, float(low), float(high), trials, first.confidence
    )
    method = method.replace("Student's t", 'Wilson with the variance')
  return dataclasses.replace(
    first,
    value=value,
    low=float(low),
    high=float(high),
    n=n,
    n_undefined=None
    if n is None or first.n is None
    else first.n + (first.n_undefined or 0) - n,
    details={
      'interval': method,
      'runs': count,
      **{k: first.details[k] for k in _KEPT if k in first.details},
      **_over_participants(of_runs),
    },
  )


def _over_participants(of_runs: Sequence[scores_lib.Score]) -> dict[str, Any]:
  """Averages the intervals over participants, if all runs have one.

  Without participants, the ratios of all runs change by the same factor, so
  that the interval of the mean is the mean of the intervals.
  """
  name = 'participants_interval'
  ends = [s.details[name] for s in of_runs if s.details.get(name)]
  if len(ends) < len(of_runs):
    return {}
  return {name: np.mean(ends, axis=0).tolist()}


# What tables show of the details of a score besides its intervals. What people
# reach is the same for all runs.
_KEPT = (
  'people',
  'compared_at',
  'explainer',
  'limit',
  'reason',
  'denominator',
  'ceilings',
)
