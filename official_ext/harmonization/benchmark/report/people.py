# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tables that compare models with people in the psychophysics experiment.

A score of the experiment has the same number for people in `details['people']`,
the difference and its test in `details['difference']`, and the value of each
participant against the others in `details['participants']`.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark.report import blocks

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


def _number(value: Any) -> float:
  return math.nan if value is None else float(value)


def _text(value: Any, sign: str = '') -> str:
  value = _number(value)
  return '-' if math.isnan(value) else f'{value:{sign}.3f}'


def _with_interval(content: Mapping[str, Any], sign: str = '') -> blocks.Cell:
  """Returns a cell of `value`, `low` and `high`; a dash if it is unknown."""
  ends = [_text(content.get(end), sign) for end in ('low', 'high')]
  return blocks.Cell(
    _text(content.get('value'), sign),
    '' if '-' in ends else f'[{", ".join(ends)}]',
  )


def _of_score(score, sign: str = '') -> blocks.Cell:
  return _with_interval(
    {'value': score.value, 'low': score.low, 'high': score.high}, sign
  )


def _p(value: Any) -> str:
  value = _number(value)
  if math.isnan(value):
    return '-'
  return '< .001' if value < 0.001 else f'{value:.3f}'


def _distances(found: Found) -> blocks.Table:
  """Compares the models' distance from people with that between people."""
  rows = []
  for name, result in found.items():
    distance, ratio = (result.scores.get(s) for s in (_L2, _RATIO))
    people = distance and distance.details.get('people')
    if not distance or not people:
      continue
    rows.append(
      [
        name,
        _of_score(distance),
        _with_interval(people),
        _of_score(ratio, '+') if ratio else '-',
        _p(ratio.details.get('p')) if ratio else '-',
      ]
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
    name: result.scores[_KAPPA]
    for name, result in found.items()
    if _KAPPA in result.scores
  }
  differences = {n: s.details.get('difference', {}) for n, s in shown.items()}
  p_values = [_number(d.get('p')) for d in differences.values()]
  rows = [
    [
      name,
      _of_score(score),
      _p(score.details.get('p')),
      _with_interval(score.details.get('people', {})),
      _with_interval(differences[name], '+'),
      _p(p),
    ]
    for (name, score), p in zip(shown.items(), statistics.holm(p_values))
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
  details: dict[str, Mapping[str, Any]] = {}
  for result in found.values():
    for name, score in result.scores.items():
      if name in _MEASURES and score.details.get('participants'):
        details.setdefault(name, score.details)
  if len(details) < len(_MEASURES):
    return blocks.Table([], [], '')
  participants = {
    name: {who: _number(v) for who, v in details[name]['participants'].items()}
    for name in _MEASURES
  }
  kappa = participants[_KAPPA]
  names = sorted(kappa, key=lambda who: (math.isnan(kappa[who]), -kappa[who]))
  caption = (
    'People, trial by trial: each participant against the others, by error '
    'consistency'
  )
  if len(names) > _MAX_PARTICIPANTS:
    caption += f' (the mean of {len(names)} participants only)'
    names = []
  rows: list[Sequence[Any]] = [
    [
      f'mean of {len(kappa)}',
      *(_with_interval(details[name].get('people', {})) for name in _MEASURES),
    ]
  ]
  for who in names:
    rows.append([who, *(_text(participants[m][who]) for m in _MEASURES)])
  return blocks.Table(
    ['participant', *_MEASURES.values()], rows, f'{caption}.', is_numeric=True
  )
