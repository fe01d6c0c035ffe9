# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tables and a picture of how often the truth of `model_recovery` comes first.

Clicks are drawn from the explanation that is scored ("the same"), or from the
others. Only the second tells which explanation to prefer: by which people would
explain themselves is not known.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

from matplotlib import figure
import numpy as np

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.evaluation import scores

SAME, OTHERS = 'the same', 'the others'
_SETTING = ('explainer', 'score', 'blur', 'images', 'participants')
# Suffix of the columns, and what the truth competes with.
_FIELDS = {'': 'networks', '_of_all': 'networks, random twins and controls'}


def recovery(
  truths: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """Averages how often the truth comes first, over truths and draws.

  The interval is over truths: explanations, clicks and images of one network
  are not independent.

  Args:
    truths: rows of `model_recovery` whose candidate is the truth.

  Returns:
    A row for each explainer, score, blur, number of images and participants,
    and whether the clicks are from the same explanation.
  """
  cells = collections.defaultdict(list)
  for row in truths:
    is_same = row['truth_explainer'] == row['explainer']
    key = (*(row[k] for k in _SETTING), SAME if is_same else OTHERS)
    cells[key].append(row)
  found = []
  for key, rows in cells.items():
    made = dict(zip((*_SETTING, 'clicks_from'), key))
    networks = [row['truth'] for row in rows]
    made['truths'] = len(set(networks))
    for suffix in _FIELDS:
      hits = statistics.mean([row[f'first{suffix}'] for row in rows], networks)
      low, high = statistics.bounded(
        hits.value, hits.low, hits.high, made['truths']
      )
      made[f'recovery{suffix}'] = hits.value
      made[f'low{suffix}'], made[f'high{suffix}'] = low, high
      made[f'mean_rank{suffix}'] = float(
        np.mean([row[f'rank{suffix}'] for row in rows])
      )
    found.append(made)
  return found


def select(table: Sequence[dict], **chosen: Any) -> list[dict]:
  """Returns the rows of a table with these values."""
  return [r for r in table if all(r[k] == v for k, v in chosen.items())]


def _largest(table: Sequence[dict]) -> dict[str, int]:
  """Returns the largest numbers of images and of participants."""
  return {k: max(r[k] for r in table) for k in ('images', 'participants')}


def _label(row: Mapping[str, Any]) -> str:
  blur = row['blur']
  if blur == 'published':
    return f'{row["score"]}, as published'
  return f'{row["score"]}, blur {blur} px'


def _cell(row: Mapping[str, Any], suffix: str) -> str:
  parts = (row[f'{k}{suffix}'] for k in ('recovery', 'low', 'high'))
  return '{:.2f} [{:.2f}, {:.2f}]'.format(*parts)


def ordered(table: Sequence[dict], suffix: str) -> list[dict]:
  """Sorts rows, those in which the truth comes first most often first."""
  return sorted(
    table,
    key=lambda r: (-r[f'recovery{suffix}'], r[f'mean_rank{suffix}']),
  )


def _pivot(table, suffix: str) -> list[str]:
  """Makes a Markdown table of scores by explainers."""
  explainers = list(dict.fromkeys(row['explainer'] for row in table))
  best: dict[str, float] = {}
  cells: dict[tuple[str, str], str] = {}
  for row in table:
    label = _label(row)
    cells[label, row['explainer']] = _cell(row, suffix)
    best[label] = max(best.get(label, 0), row[f'recovery{suffix}'])
  lines = ['| score | ' + ' | '.join(f'`{e}`' for e in explainers) + ' |']
  lines += ['|---' * (len(explainers) + 1) + '|']
  lines += [
    f'| {label} | '
    + ' | '.join(cells.get((label, e), '') for e in explainers)
    + ' |'
    for label in sorted(best, key=lambda k: -best[k])
  ]
  return lines


def markdown(
  table: Sequence[dict],
  candidates: Callable[[str], Sequence[str]],
  accuracy: Mapping[str, float],
) -> str:
  """Formats the recovery at the largest numbers of images and participants.

  Args:
    table: as from `recovery`.
    candidates: returns all rows that have maps by an explainer.
    accuracy: of networks and random twins.
  """
  largest = _largest(table)
  explainer = table[0]['explainer']
  networks, everyone = table[0]['truths'], len(candidates(explainer))
  lines = [
    '# Which explanation and score find the network behind the clicks',
    '',
    f'Part of the {networks} truths that come first, with {largest["images"]} '
    f'images and {largest["participants"]} participants. Brackets are 95 % '
    'intervals over truths. By chance, it would be '
    f'{1 / networks:.2f} among networks and {1 / everyone:.2f} among networks, '
    'random twins and controls.',
    '',
    'Accuracy: '
    + ', '.join(f'{name} {value:.3f}' for name, value in accuracy.items())
    + '.',
  ]
  for clicks in (OTHERS, SAME):
    for suffix, among in _FIELDS.items():
      lines += [
        '',
        f'## Clicks drawn from {clicks}; among {among}',
        '',
        *_pivot(select(table, clicks_from=clicks, **largest), suffix),
      ]
  return '\n'.join([*lines, ''])


def picture(table: Sequence[dict]) -> figure.Figure:
  """Draws the recovery from clicks of other explanations, by color."""
  largest = _largest(table)
  rows = select(table, clicks_from=OTHERS, **largest)
  labels = list(dict.fromkeys(_label(r) for r in rows))
  explainers = list(dict.fromkeys(r['explainer'] for r in rows))
  drawn = figure.Figure(figsize=(10, 2 + 0.2 * len(labels)), layout='tight')
  for axes, (suffix, among) in zip(
    drawn.subplots(1, 2, sharey=True), _FIELDS.items()
  ):
    values = np.full((len(labels), len(explainers)), np.nan)
    for r in rows:
      at = labels.index(_label(r)), explainers.index(r['explainer'])
      values[at] = r[f'recovery{suffix}']
      axes.text(
        at[1],
        at[0],
        f'{values[at]:.2f}',
        ha='center',
        va='center',
        size=7,
        color='white' if values[at] < 0.5 else 'black',
      )
    axes.imshow(values, vmin=0, vmax=1, cmap='viridis', aspect='auto')
    axes.set_title(f'among {among}', size=9)
    axes.set_xticks(range(len(explainers)))
    axes.set_xticklabels(
      [e.replace('_', ' ') for e in explainers], rotation=30, ha='right', size=8
    )
    axes.set_yticks(range(len(labels)))
    axes.set_yticklabels(labels, size=7)
  drawn.suptitle(
    'How often the network behind the clicks comes first\n'
    '(clicks drawn from other explanations than the one that is scored)',
    size=10,
  )
  return drawn


def write(
  truths: Sequence[Mapping[str, Any]],
  output_dir: str,
  candidates: Callable[[str], Sequence[str]],
  accuracy: Mapping[str, float],
):
  """Writes recovery.csv, recovery.md and recovery.png, and prints the best.

  Args:
    truths: rows of `model_recovery` whose candidate is the truth.
    output_dir: an existing folder.
    candidates: returns all rows that have maps by an explainer.
    accuracy: of networks and random twins.
  """
  table = recovery(truths)
  scores.write_rows(
    os.path.join(output_dir, 'recovery.csv'),
    [
      {k: f'{v:.4g}' if isinstance(v, float) else v for k, v in row.items()}
      for row in table
    ],
  )
  files.write(
    os.path.join(output_dir, 'recovery.md'),
    markdown(table, candidates, accuracy),
  )
  with files.replacing(os.path.join(output_dir, 'recovery.png')) as partial:
    picture(table).savefig(partial, format='png', dpi=150)
  largest = _largest(table)
  rows = select(table, clicks_from=OTHERS, **largest)
  print('Clicks from other explanations; the truth comes first:')
  for row in ordered(rows, '_of_all')[:10]:
    print(f'  {row["explainer"]}, {_label(row)}: {_cell(row, "_of_all")}')
  print(f'Written: {output_dir}/recovery.md, .csv, .png and rows.csv.gz')
