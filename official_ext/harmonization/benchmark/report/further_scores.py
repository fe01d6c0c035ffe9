# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The table of a protocol's further scores, by which models are not ranked."""

from collections.abc import Sequence

from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import leaderboard


def tables(
  models: Sequence[results.ModelResults],
  protocol: str,
  comparisons: Sequence[run_results.Comparison] = (),
) -> list[blocks.Block]:
  """Makes the table and a sentence on each score.

  Args:
    models: with results of the protocol. Networks whose results have none of
      the scores, as those of earlier versions, have dashes.
    protocol: its name.
    comparisons: of networks with controls, for the marks.

  Returns:
    A table and its explanations; none if no result has such scores.
  """
  found = registry.get(protocol)
  meanings = found.further_scores
  shown = [
    c._replace(title=found.score_words[c.score])
    for c in leaderboard.columns(models)
    if c.protocol == protocol and c.score in meanings
  ]
  if not shown:
    return []
  table = leaderboard.table(
    models,
    shown,
    'Further metrics of the maps that specific is computed from. Most of them '
    'favour maps of the image centre, so compare networks with the controls.',
    comparisons,
    keeps_networks=True,
  )
  return [table, blocks.Sentences([meanings[c.score] for c in shown])]
