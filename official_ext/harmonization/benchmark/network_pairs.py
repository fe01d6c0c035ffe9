# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Compares pairs of networks with each other, on the same images.

Two scores whose intervals overlap may differ significantly, because the images
are the same. The difference of each image's values is tested instead, and for
several runs of each network also the seeds (`repeated_runs`).

  found = network_pairs.compare(folder, models, protocols, [('one', 'two')])
  [c for c in found if c.is_significant]
"""

from collections.abc import Sequence
import dataclasses
import math

from official_ext.harmonization.benchmark import image_tables
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_groups
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark import statistics


def compare(
  output_dir: str,
  models: Sequence[results.ModelResults],
  protocols: Sequence[protocol_lib.Protocol],
  pairs: Sequence[tuple[str, str]],
) -> list[run_results.PairComparison]:
  """Compares the networks of each pair.

  Args:
    output_dir: that the paths of tables start from.
    models: among them those that the pairs name.
    protocols: of which those with values of images are compared.
    pairs: names of two networks.

  Returns:
    A comparison for each pair and score that both networks have. P-values are
    adjusted (Holm) over the pairs, for each score of a protocol. Interval and
    p-value are NaN if all images have the same difference.
  """
  by_name = {model.name: model for model in models}
  pairs = [p for p in dict.fromkeys(pairs) if {*p} <= by_name.keys()]
  found = []
  for protocol in protocols:
    if not protocol.image_values:
      continue
    tables = {
      name: run_groups.tables(by_name[name], models, protocol, output_dir)
      for name in {name for pair in pairs for name in pair}
      if protocol.name in by_name[name].results
    }
    compared = [
      c
      for first, second in pairs
      if first in tables and second in tables
      for c in _compare(protocol, first, tables[first], second, tables[second])
    ]
    for score in protocol.image_values:
      of_score = [c for c in compared if c.score == score]
      adjusted = statistics.holm([c.p for c in of_score])
      found += [
        dataclasses.replace(c, p_holm=p) for c, p in zip(of_score, adjusted)
      ]
  return found


def _compare(
  protocol: protocol_lib.Protocol,
  first: str,
  first_tables: Sequence[image_tables.Table],
  second: str,
  second_tables: Sequence[image_tables.Table],
) -> list[run_results.PairComparison]:
  """Compares all scores of two networks."""
  runs = len(first_tables)
  values = image_tables.values(
    [*first_tables, *second_tables], protocol.image_values
  )
  found = []
  for score, of_runs in values.by_score.items():
    estimate = repeated_runs.difference(
      of_runs[runs:], of_runs[:runs], values.groups
    )
    # If all images have the same difference, their spread shows nothing.
    if not estimate.standard_error:
      unknown = math.nan
      estimate = repeated_runs.Estimate(
        estimate.value, unknown, unknown, unknown, unknown, estimate.n
      )
    found.append(
      run_results.PairComparison.of(
        estimate,
        protocol=protocol.name,
        score=score,
        first=first,
        second=second,
        over_seeds=estimate.over_seeds,
      )
    )
  return found
