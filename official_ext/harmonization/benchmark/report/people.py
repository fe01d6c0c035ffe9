# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tables that compare models with people in the psychophysics experiment."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark.psychophysics import human_values
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.evaluation import scores

_L2 = 'psychophysics_l2'
_RATIO = 'psychophysics_log_threshold_ratio'
_KAPPA = 'psychophysics_error_consistency'
_MEASURES = {
  _KAPPA: 'error consistency (κ)',
  'psychophysics_observed_consistency': 'observed consistency',
  'psychophysics_accuracy_difference': 'squared accuracy difference',
}
# More rows than these are not read one by one.
_MAX_PARTICIPANTS = 50

Found = Mapping[str, results.StoredResult]


def tables(found: Found) -> list[blocks.Table]:
  """Returns the tables for which there are data.

  Args:
    found: results by model.
  """
  made = (_distances(found), _consistency(found), _participants(found))
  return [table for table in made if table.rows]


def _text(value: float, sign: str = '') -> str:
  return '-' if math.isnan(value) else f'{value:{sign}.3f}'


def _cell(
  found: scores.Score | human_values.Value | None, sign: str = ''
) -> blocks.Cell:
  """Returns a number with its interval; a dash if it is unknown."""
  if found is None:
    return blocks.Cell('-')
  ends = [_text(end, sign) for end in (found.low, found.high)]
  note = '' if '-' in ends else f'[{", ".join(ends)}]'
  return blocks.Cell(_text(found.value, sign), note)


def _p(value: float) -> str:
  return '< .001' if value < 0.001 else _text(value)


def _distances(found: Found) -> blocks.Table:
  """Compares the models' distance from people with that between people."""
  rows = []
  for name, result in found.items():
    distance, ratio = (result.scores.get(s) for s in (_L2, _RATIO))
    if distance is None:
      continue
    people = human_values.HumanValues.of(distance).people
    if not math.isnan(people.value):
      p = human_values.HumanValues.of(ratio).p if ratio else math.nan
      rows.append(
        [name, _cell(distance), _cell(people), _cell(ratio, '+'), _p(p)]
      )
  return blocks.Table(
    [
      'model',
      'L2 to people',
      'L2 between people',
      'log10 threshold ratio',
      'p',
    ],
    rows,
    'Distance of accuracy curves from that of people, next to the distance '
    'between two random halves of the participants (interval: jackknife over '
    "participants), and the model's threshold over people's (0: equal; 1: ten "
    'times as much must be revealed; images and participants resampled).',
    is_numeric=True,
  )


def _consistency(found: Found) -> blocks.Table:
  """Tests the models' error consistency against 0 and against people's."""
  shown = {
    name: score
    for name, result in found.items()
    if (score := result.scores.get(_KAPPA))
  }
  human = [human_values.HumanValues.of(score) for score in shown.values()]
  adjusted = statistics.holm([h.difference.p for h in human])
  rows = [
    [
      name,
      _cell(score),
      _p(h.p),
      _cell(h.people),
      _cell(h.difference, '+'),
      _p(p),
    ]
    for (name, score), h, p in zip(shown.items(), human, adjusted)
  ]
  return blocks.Table(
    [
      'model',
      'κ with people',
      'p (κ = 0)',
      'κ among people',
      'difference',
      'p (Holm)',
    ],
    rows,
    'Error consistency: do models and people err on the same trials, beyond '
    'what their accuracies at each level imply? 0 is chance, 1 the same '
    'errors. Images and participants are resampled; the difference is paired, '
    f'and its test is adjusted for the number of models ({len(rows)}).',
    is_numeric=True,
  )


def _participants(found: Found) -> blocks.Table:
  """Lists each participant against the others, and their mean."""
  # People are the same in the results of all models.
  measured = [
    result.scores
    for result in found.values()
    if _MEASURES.keys() <= result.scores.keys()
  ]
  if not measured:
    return blocks.Table([], [], '')
  each = [
    human_values.HumanValues.of(score)
    for name in _MEASURES
    for score in [measured[0].get(name)]
    if score
  ]
  kappa = each[0].participants
  names = [
    who
    for _, who in sorted(
      (math.inf if math.isnan(value) else -value, who)
      for who, value in kappa.items()
    )
  ]
  caption = (
    'People, trial by trial: each participant against the others, by error '
    'consistency'
  )
  if len(names) > _MAX_PARTICIPANTS:
    caption += f' (only the mean of {len(names)} participants)'
    names = []
  rows: list[Sequence[Any]] = [
    [f'mean of {len(kappa)}', *(_cell(h.people) for h in each)]
  ]
  for who in names:
    rows.append(
      [who, *(_text(h.participants.get(who, math.nan)) for h in each)]
    )
  return blocks.Table(
    ['participant', *_MEASURES.values()], rows, f'{caption}.', is_numeric=True
  )
