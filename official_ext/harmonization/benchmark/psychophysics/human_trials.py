# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads people's responses in the psychophysics experiment from CSV files.

A table of trials has the columns of model-vs-human (Geirhos et al., 2021):
subj, session, trial, rt, object_response, category, condition, imagename. Here
condition is the level, and object_response and category are animal or vehicle.
A table of accuracies has the columns level, accuracy and, optionally,
standard_error.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import math
from typing import Any

from official_ext.harmonization import text_files
from official_ext.harmonization.data.stimuli import stimulus_files

COLUMNS = (
  'subj',
  'session',
  'trial',
  'rt',
  'object_response',
  'category',
  'condition',
  'imagename',
)
_NEEDED = ('subj', 'object_response', 'category', 'condition', 'imagename')
# Values of object_response for trials without a response.
_NO_ANSWER = ('', 'na', 'nan', 'none')


@dataclasses.dataclass(frozen=True)
class Trial:
  """One response.

  Attributes:
    participant: identifier of the person, or name of the network.
    level: 0, 10, ..., 100 or 200, see `data.stimuli.stimulus_files`.
    image: identifier of the image, the same at all levels.
    target: 'animal' or 'vehicle', the correct response.
    response: 'animal' or 'vehicle'.
  """

  participant: str
  level: int
  image: str
  target: str
  response: str


@dataclasses.dataclass(frozen=True)
class Trials:
  """All trials of an experiment.

  Attributes:
    trials: the trials with a response.
    n_no_answer: number of trials without a response, which are not scored.
  """

  trials: list[Trial]
  n_no_answer: int


@dataclasses.dataclass(frozen=True)
class Accuracies:
  """People's accuracy per level, for experiments without single trials.

  Attributes:
    accuracy: in [0, 1], by level.
    standard_error: over participants, by level; NaN if unknown.
  """

  accuracy: dict[int, float]
  standard_error: dict[int, float]


def read(path: str) -> Trials | Accuracies:
  """Reads trials or accuracies, depending on the columns of the file.

  Args:
    path: of a CSV file whose first line names the columns.

  Returns:
    The trials or the accuracies.

  Raises:
    ValueError: the file is neither, or a line is invalid; the message names the
      line.
  """
  with text_files.table(path) as table:
    # Already in lower case: some files of model-vs-human have a column Session.
    columns = table.columns
    if set(_NEEDED) <= {*columns}:
      table.check(_NEEDED)
      return _trials(path, _lines(table))
    if {'level', 'accuracy'} <= {*columns}:
      table.check(('level', 'accuracy'), ('standard_error',))
      return _accuracies(path, _lines(table))
  raise ValueError(
    f'{path} has the columns {columns}; expected {", ".join(_NEEDED)} for '
    'trials, or level and accuracy for accuracies.'
  )


def _lines(table: text_files.Table) -> Iterator[tuple[str, Mapping[str, str]]]:
  """Yields the location of each row, for messages, and its cells."""
  for row in table.rows:
    where = f'{table.path}, line {row.line}'
    if row.problem:
      raise ValueError(f'{where}: {row.problem}.')
    yield where, row.cells


def _target(where: str, column: str, text: str) -> str:
  target = stimulus_files.parse_target(text)
  if not target:
    raise ValueError(
      f'{where}: {column} is {text!r}; expected animal or vehicle (non-animal).'
    )
  return target


def _level(where: str, column: str, text: str) -> int:
  try:
    return stimulus_files.parse_level(text)
  except ValueError as e:
    raise ValueError(f'{where}: {column} {e}.') from None


def _image(name: str) -> str:
  """Returns the image of a stimulus file, without its level."""
  base = name.replace('\\', '/').rpartition('/')[2]
  try:
    return stimulus_files.parse(base)[2]
  except ValueError:
    return base


def _trials(path: str, lines: Iterable[tuple[str, Mapping]]) -> Trials:
  """Reads trials, line by line."""
  trials, lines_by_key = [], {}
  for where, row in lines:
    if not row['subj'] or not row['imagename']:
      raise ValueError(f'{where}: subj or imagename is empty. Fill it in.')
    level = _level(where, 'condition', row['condition'])
    target = _target(where, 'category', row['category'])
    has_answer = row['object_response'].lower() not in _NO_ANSWER
    response = ''
    if has_answer:
      response = _target(where, 'object_response', row['object_response'])
    trial = Trial(
      row['subj'], level, _image(row['imagename']), target, response
    )
    _refuse_duplicate(where, row, trial, lines_by_key)
    if has_answer:
      trials.append(trial)
  missing = len(lines_by_key) - len(trials)
  if not trials:
    raise ValueError(f'{path} has no trial with a response; expected some.')
  return Trials(trials, missing)


def _refuse_duplicate(
  where: str,
  row: Mapping[str, str],
  trial: Trial,
  lines_by_key: dict[tuple, str],
):
  """Refuses a trial that occurs twice in the table.

  Otherwise two observers with the same name would be merged, and copied rows
  would count twice.
  """
  session, number = (row.get(name, '') for name in ('session', 'trial'))
  key = (trial.participant, session, number, trial.level, trial.image)
  before = lines_by_key.setdefault(key, where)
  if before != where:
    raise ValueError(
      f'{where}: subj {trial.participant!r}, session {session!r}, trial '
      f'{number!r}, {row["imagename"]} is also in '
      f'{before.rpartition(", ")[2]}; '
      'expected one row per trial. Give observers different names in subj, '
      'number the trials in session and trial, or remove the copies.'
    )


def _number(where: str, column: str, text: str, high: float) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0.0 <= value <= high:
    raise ValueError(
      f'{where}: {column} is {text!r}; expected a number from 0 to {high:g}.'
    )
  return value


def _accuracies(path: str, lines: Iterable[tuple[str, Mapping]]) -> Accuracies:
  """Reads a table of accuracies, line by line."""
  accuracy, error = {}, {}
  for where, row in lines:
    level = _level(where, 'level', row['level'])
    if level in accuracy:
      raise ValueError(
        f'{where}: level {level} occurs twice; expected one row per level. '
        'Remove one.'
      )
    accuracy[level] = _number(where, 'accuracy', row['accuracy'], 1.0)
    given = row.get('standard_error') or ''
    error[level] = (
      math.nan
      if given.strip().lower() in _NO_ANSWER
      else _number(where, 'standard_error', given, 1.0)
    )
  if not accuracy:
    raise ValueError(f'{path} has no rows; expected one per level.')
  return Accuracies(accuracy, error)


def row(
  participant: str,
  number: int,
  file: str,
  target: str,
  response: str,
  condition: str,
) -> dict[str, Any]:
  """Returns a network's trial as a row with the columns of model-vs-human.

  Args:
    participant: name of the network.
    number: of the trial, from 1.
    file: of the stimulus.
    target: the correct response.
    response: the network's response.
    condition: the level.

  Returns:
    Values by column. The reaction time of a network is NaN.
  """
  return dict(
    zip(
      COLUMNS,
      (participant, 1, number, math.nan, response, target, condition, file),
    )
  )
