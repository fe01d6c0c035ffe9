# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Do the scores agree on which networks are better?

Spearman's rank correlation of each pair of scores over networks; controls and
random twins are excluded. With few networks, intervals are wide.
"""

from collections.abc import Sequence
import csv
import io
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import leaderboard

# A pair of scores needs as many networks.
MIN_NETWORKS = 5


class Correlation(NamedTuple):
  """Rank correlation of two scores over networks.

  Attributes:
    a: column of one score.
    b: column of the other.
    rho: NaN if one score is the same for all networks.
    low: lower end of the 95 % interval; NaN if rho is -1 or 1.
    high: its upper end.
    n: number of networks with both scores.
  """

  a: leaderboard.Column
  b: leaderboard.Column
  rho: float
  low: float
  high: float
  n: int


def spearman(
  x: Sequence[float], y: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float]:
  """Computes Spearman's rank correlation and its interval.

  The interval is that of Fisher's z with the standard error
  sqrt((1 + rho^2 / 2) / (n - 3)) (Bonett and Wright, Psychometrika 65, 2000).

  Args:
    x: n numbers, n of at least 4.
    y: n numbers.
    confidence: of the interval.

  Returns:
    The correlation and the ends of its interval. All are NaN if x or y is
    constant. The ends are NaN if the correlation is -1 or 1, where z is
    infinite.
  """
  if min(np.ptp(x), np.ptp(y)) == 0:
    return math.nan, math.nan, math.nan
  rho = float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])
  if abs(rho) > 1 - 1e-12:
    return rho, math.nan, math.nan
  error = math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
  half = float(stats.norm.ppf(0.5 + confidence / 2)) * error
  z = math.atanh(rho)
  return rho, math.tanh(z - half), math.tanh(z + half)


def correlations(
  models: Sequence[results.ModelResults],
) -> list[Correlation]:
  """Correlates all pairs of scores.

  Args:
    models: of which the networks are used.

  Returns:
    The pairs that at least `MIN_NETWORKS` networks have, in the order of the
    leaderboard.
  """
  networks = [m for m in models if m.is_network]
  shown = leaderboard.columns(networks)
  values = np.array(
    [[leaderboard.cell(m, c).value for m in networks] for c in shown]
  )
  found = []
  for i, a in enumerate(shown):
    for j in range(i):
      has_both = np.isfinite(values[i]) & np.isfinite(values[j])
      n = int(has_both.sum())
      if n >= MIN_NETWORKS:
        measured = spearman(values[j][has_both], values[i][has_both])
        found.append(Correlation(shown[j], a, *measured, n))
  return found


def section(models: Sequence[results.ModelResults]) -> list[blocks.Block]:
  """Makes the table of correlations.

  Args:
    models: of which the networks are used.

  Returns:
    A paragraph and a table; none with fewer than `MIN_NETWORKS` networks.
  """
  found = correlations(models)
  if not found:
    return []
  by_pair = {(c.a, c.b): c for c in found}
  shown = list(dict.fromkeys(column for pair in by_pair for column in pair))
  rows = []
  for i, column in enumerate(shown):
    cells = [_cell(by_pair.get((other, column))) for other in shown[:i]]
    blank = [''] * (len(shown) - i - 1)
    rows.append([f'{i + 1} {column.title}', *cells, '1', *blank])
  counts = sorted({c.n for c in found})
  n = f'{counts[0]}' if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'
  return [
    blocks.Paragraph(
      f"Spearman's rank correlation of scores over {n} networks, without "
      "controls and random twins. In brackets, 95 % intervals (Fisher's z), "
      'which treat networks as a random sample, although networks of one '
      'family are alike; a correlation of -1 or 1 has none. A dash: one score '
      'is the same for all networks, or too few networks have both. A score '
      'of which lower is better correlates negatively with those that agree '
      'with it.'
    ),
    blocks.Table(
      ['score', *(str(i) for i in range(1, len(shown) + 1))],
      rows,
      'Columns have the numbers of the rows.',
      is_numeric=True,
    ),
  ]


def _cell(found: Correlation | None) -> blocks.Cell:
  if found is None or math.isnan(found.rho):
    return blocks.Cell('-')
  if math.isnan(found.low):
    return blocks.Cell(f'{found.rho:.2f}')
  return blocks.Cell(f'{found.rho:.2f}', f'[{found.low:.2f}, {found.high:.2f}]')


def as_csv(found: Sequence[Correlation]) -> str:
  """Returns a row per pair: the scores, rho, low, high and n."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['score_a', 'score_b', 'rho', 'low', 'high', 'n'])
  for c in found:
    numbers = ('' if math.isnan(v) else v for v in (c.rho, c.low, c.high))
    names = (f'{x.protocol}_{x.score}' for x in (c.a, c.b))
    writer.writerow([*names, *numbers, c.n])
  return text.getvalue()
