"""People's answers in the psychophysics experiment, from CSV files.

Trials have the columns of model-vs-human (Geirhos et al., 2021): subj, session,
trial, rt, object_response, category, condition, imagename. Here condition is
the level, object_response and category are animal or vehicle. A table of
accuracies has level and accuracy, and standard_error where it is known.
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
# What stands where a participant did not answer in time.
_NO_ANSWER = ('', 'na', 'nan', 'none')


@dataclasses.dataclass(frozen=True)
class Trial:
  """One answer.

  Attributes:
    participant: who gave it.
    level: 0, 10, ..., 100 or 200, see `data.stimuli.stimulus_files`.
    image: what was shown, the same at all levels.
    target: 'animal' or 'vehicle', the right answer.
    response: the answer.
  """

  participant: str
  level: int
  image: str
  target: str
  response: str


@dataclasses.dataclass(frozen=True)
class Trials:
  """All answers of an experiment.

  Attributes:
    trials: those that were given.
    n_no_answer: how many trials had none; they count nowhere.
  """

  trials: list[Trial]
  n_no_answer: int


@dataclasses.dataclass(frozen=True)
class Accuracies:
  """People's accuracy per level, where the trials are not at hand.

  Attributes:
    accuracy: in [0, 1], by level.
    standard_error: over participants, by level; NaN where it is not known.
  """

  accuracy: dict[int, float]
  standard_error: dict[int, float]


def read(path: str) -> Trials | Accuracies:
  """Reads trials or a table of accuracies, by the columns that there are.

  Args:
    path: of a CSV file with a line of names.

  Returns:
    The trials, or the accuracies.

  Raises:
    ValueError: the file is neither, or a line cannot be read; it is named.
  """
  with text_files.table(path) as table:
    # Some files of model-vs-human write Session.
    columns = table.columns
    if set(_NEEDED) <= {*columns}:
      table.check(_NEEDED)
      return _trials(path, _lines(table))
    if {'level', 'accuracy'} <= {*columns}:
      table.check(('level', 'accuracy'), ('standard_error',))
      return _accuracies(path, _lines(table))
  raise ValueError(
    f'{path} has the columns {columns}: trials need {", ".join(_NEEDED)}; a '
    'table of accuracies needs level and accuracy.'
  )


def _lines(table: text_files.Table) -> Iterator[tuple[str, Mapping[str, str]]]:
  """Yields where a row is, and its cells."""
  for row in table.rows:
    where = f'{table.path}, line {row.line}'
    if row.problem:
      raise ValueError(f'{where}: {row.problem}.')
    yield where, row.cells


def _target(where: str, column: str, text: str) -> str:
  target = stimulus_files.parse_target(text)
  if not target:
    raise ValueError(
      f'{where}: {column} is {text!r}, expected is animal or '
      'vehicle (non-animal).'
    )
  return target


def _level(where: str, column: str, text: str) -> int:
  try:
    return stimulus_files.parse_level(text)
  except ValueError as e:
    raise ValueError(f'{where}: {column} {e}.') from None


def _image(name: str) -> str:
  """Returns what a file shows, apart from how much of it."""
  base = name.replace('\\', '/').rpartition('/')[2]
  try:
    return stimulus_files.parse(base)[2]
  except ValueError:
    return base


def _trials(path: str, lines: Iterable[tuple[str, Mapping]]) -> Trials:
  """Reads trials, line by line."""
  trials, places = [], {}
  for where, row in lines:
    if not row['subj'] or not row['imagename']:
      raise ValueError(f'{where}: subj or imagename is empty.')
    level = _level(where, 'condition', row['condition'])
    target = _target(where, 'category', row['category'])
    has_answer = row['object_response'].lower() not in _NO_ANSWER
    response = has_answer and _target(
      where, 'object_response', row['object_response']
    )
    trial = Trial(
      row['subj'], level, _image(row['imagename']), target, response
    )
    _check_new(where, row, trial, places)
    if has_answer:
      trials.append(trial)
  missing = len(places) - len(trials)
  if not trials:
    raise ValueError(f'{path} holds no answer.')
  return Trials(trials, missing)


def _check_new(
  where: str, row: Mapping[str, str], trial: Trial, places: dict[tuple, str]
):
  """Refuses a trial that is in the table twice.

  Two observers of one name would become one, and rows that were copied twice
  would count twice.
  """
  session, number = (row.get(name, '') for name in ('session', 'trial'))
  key = (trial.participant, session, number, trial.level, trial.image)
  before = places.setdefault(key, where)
  if before != where:
    raise ValueError(
      f'{where}: subj {trial.participant!r}, session {session!r}, trial '
      f'{number!r} has answered to {row["imagename"]} in '
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
      f'{where}: {column} is {text!r}, expected is a number from 0 to {high:g}.'
    )
  return value


def _accuracies(path: str, lines: Iterable[tuple[str, Mapping]]) -> Accuracies:
  """Reads a table of accuracies, line by line."""
  accuracy, error = {}, {}
  for where, row in lines:
    level = _level(where, 'level', row['level'])
    if level in accuracy:
      raise ValueError(f'{where}: level {level} stands in the file twice.')
    accuracy[level] = _number(where, 'accuracy', row['accuracy'], 1.0)
    given = row.get('standard_error') or ''
    error[level] = (
      math.nan
      if given.strip().lower() in _NO_ANSWER
      else _number(where, 'standard_error', given, 1.0)
    )
  if not accuracy:
    raise ValueError(f'{path} holds no level.')
  return Accuracies(accuracy, error)


def row(
  participant: str,
  number: int,
  file: str,
  target: str,
  response: str,
  condition: str,
) -> dict[str, Any]:
  """Makes a line of model-vs-human's columns for a network's answer.

  Args:
    participant: the network's name.
    number: of the trial, from 1.
    file: of the stimulus.
    target: the right answer.
    response: the answer.
    condition: the level.

  Returns:
    Values by column, for `scores.write_rows`. A network's reaction time is NaN.
  """
  return dict(
    zip(
      COLUMNS,
      (participant, 1, number, math.nan, response, target, condition, file),
    )
  )
