"""The leaderboard: a row per model, a column per score.

For people it comes in a part of few columns, and a part per experiment.
"""

from collections.abc import Iterator, Mapping, Sequence
import csv
import io
import math
from typing import (
  Any,
  NamedTuple,
)

from official_ext.harmonization.benchmark.report import observers

_EXPERIMENTS = {
  'imagenet': 'ImageNet',
  'clickme': 'ClickMe',
  'clicktionary': 'Clicktionary',
  'psychophysics': 'Psychophysics',
}
_SCORES = {
  'top1': 'top-1',
  'accuracy': 'accuracy',
  'threshold': 'threshold (% revealed)',
  'd_prime': "d' (mean of levels)",
  'spearman': 'rho',
  'dice': 'Dice',
  'iou': 'IoU',
  'l2': 'L2 (small is good)',
  'negative_log_mse': '-log MSE',
}
# What stands in the first part.
_HEADLINES = (
  ('imagenet', 'top1'),
  ('clickme', 'top1'),
  ('clickme', 'spearman'),
  ('clicktionary', 'spearman'),
  ('psychophysics', 'psychophysics_accuracy'),
  ('psychophysics', 'psychophysics_l2'),
)
# What models are ranked by: the first that was measured.
_RANKED_BY = (
  ('clickme', 'spearman'),
  ('clicktionary', 'spearman'),
  ('imagenet', 'top1'),
)


class Column(NamedTuple):
  """A score of an experiment.

  Attributes:
    experiment: its name.
    score: its name.
    title: for people.
    normalized: whether it is shown over a ceiling.
  """

  experiment: str
  score: str
  title: str
  normalized: bool


class Cell(NamedTuple):
  """A score as it is shown: value and interval, NaN where there is none."""

  value: float
  low: float
  high: float

  def text(self) -> str:
    """The value with its interval; a dash where it does not exist."""
    if math.isnan(self.value):
      return '-'
    if math.isnan(self.low) or math.isnan(self.high):
      return f'{self.value:.3f}'
    return f'{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]'


def scores_of(model: Mapping[str, Any]) -> dict[tuple, Mapping[str, Any]]:
  """A model's scores by (experiment, score), with those of its curve."""
  found = {
    (experiment, name): score
    for experiment, result in model['experiments'].items()
    for name, score in result['scores'].items()
  }
  for name, score in observers.scores_of(model).items():
    found[observers.EXPERIMENT, name] = score
  return found


def columns(models: Sequence[Mapping[str, Any]]) -> list[Column]:
  """The columns of a table of models.

  Args:
    models: as `benchmark.Benchmark.run` returns them.

  Returns:
    One column per score that any model has.
  """
  found: dict[tuple, bool] = {}
  for model in models:
    for key, score in scores_of(model).items():
      found[key] = found.get(key, False) or score['ceiling'] is not None
  order = list(_EXPERIMENTS)
  keys = sorted(
    found,
    key=lambda key: order.index(key[0]) if key[0] in order else len(order),
  )
  return [Column(*key, _title(*key, found[key]), found[key]) for key in keys]


def _title(experiment: str, score: str, normalized: bool) -> str:
  if normalized:
    return f'{_EXPERIMENTS.get(experiment, experiment)} alignment'
  plain = score.removeprefix(f'{experiment}_')
  words = _SCORES.get(plain, plain.replace('_', ' '))
  return f'{_EXPERIMENTS.get(experiment, experiment)} {words}'


def cell(model: Mapping[str, Any], column: Column) -> Cell:
  """What a model's row has in a column, over the ceiling where there is one."""
  return _cell(scores_of(model).get((column.experiment, column.score)), column)


def _cell(score: Mapping[str, Any] | None, column: Column) -> Cell:
  names = ('value', 'low', 'high')
  if column.normalized:
    names = ('normalized', 'normalized_low', 'normalized_high')
  values = [(score or {}).get(name) for name in names]
  return Cell(*(math.nan if v is None else float(v) for v in values))


def people_cells(
  models: Sequence[Mapping[str, Any]], shown: Sequence[Column]
) -> list[Cell]:
  """People's row: their own scores, and how far they are from each other.

  Args:
    models: as `benchmark.Benchmark.run` returns them.
    shown: the columns.

  Returns:
    A cell per column; no cells where nothing of people is known.
  """
  found = observers.people(models)
  if not any(c.experiment == observers.EXPERIMENT for c in shown) or not found:
    return []
  return [
    _cell(
      found.get(c.score) if c.experiment == observers.EXPERIMENT else None, c
    )
    for c in shown
  ]


def intervals(
  models: Sequence[Mapping[str, Any]], shown: Sequence[Column]
) -> str:
  """Says what the brackets in a table hold, as they were really made.

  Args:
    models: as `benchmark.Benchmark.run` returns them.
    shown: the columns of the table.

  Returns:
    A sentence; '' where nothing is in brackets.
  """
  made: dict[tuple, list[str]] = {}
  for column in shown:
    for model in models:
      score = scores_of(model).get((column.experiment, column.score)) or {}
      if score.get('low') is not None and score.get('high') is not None:
        drawn = (score.get('details') or {}).get('bootstrap', 'images')
        titles = made.setdefault((score.get('confidence', 0.95), drawn), [])
        titles += [column.title] * (column.title not in titles)
  words = [
    (f'{100 * confidence:g} % intervals, bootstrapped over {drawn}', titles)
    for (confidence, drawn), titles in made.items()
  ]
  if not words:
    return ''
  if len(words) == 1:
    return f'In brackets, {words[0][0]}.'
  return (
    'In brackets: '
    + '; '.join(f'{", ".join(titles)}: {text}' for text, titles in words)
    + '.'
  )


def ranked(
  models: Sequence[Mapping[str, Any]], shown: Sequence[Column]
) -> list[Mapping[str, Any]]:
  """Models, best first by the first of ClickMe, Clicktionary, ImageNet."""
  by = ranking_column(shown)
  if by is None:
    return list(models)

  def key(model):
    value = cell(model, by).value
    return (math.isnan(value), 0.0 if math.isnan(value) else -value)

  return sorted(models, key=key)


def ranking_column(shown: Sequence[Column]) -> Column | None:
  """The column that models are ranked by, None if there is none."""
  by_key = {(c.experiment, c.score): c for c in shown}
  return next((by_key[key] for key in _RANKED_BY if key in by_key), None)


def headlines(shown: Sequence[Column]) -> list[Column]:
  """Of columns, the few that a first look needs."""
  return [c for c in shown if (c.experiment, c.score) in _HEADLINES]


def of_experiment(shown: Sequence[Column], experiment: str) -> list[Column]:
  """Of columns, those of an experiment."""
  return [c for c in shown if c.experiment == experiment]


def _tables(models) -> Iterator[list[list[str]]]:
  """Tables of titles and a row per model, best first.

  The headlines alone come without intervals, and only where there are several
  experiments; then each experiment.
  """
  shown = columns(models)
  experiments = dict.fromkeys(c.experiment for c in shown)
  if len(experiments) > 1:
    yield [
      [text.partition(' [')[0] for text in row]
      for row in _table(models, headlines(shown))
    ]
  for name in experiments:
    yield _table(models, of_experiment(shown, name))


def _table(models, part: Sequence[Column]) -> list[list[str]]:
  rows = [
    [model['name'], *(cell(model, c).text() for c in part)]
    for model in ranked(models, columns(models))
  ]
  people = [c.text() for c in people_cells(models, part)]
  if people:
    rows.append([observers.PEOPLE, *people])
  return [['model', *(c.title for c in part)], *rows]


def _columns_of_spaces(rows) -> str:
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
    '  '.join(text.ljust(width) for text, width in zip(row, widths)).rstrip()
    for row in rows
  )


def _markdown(rows) -> str:
  titles, *rows = [[text.replace('|', '\\|') for text in row] for row in rows]
  ruler = ['---', *['---:'] * (len(titles) - 1)]
  return '\n'.join(f'| {" | ".join(row)} |' for row in [titles, ruler, *rows])


def as_text(models: Sequence[Mapping[str, Any]]) -> str:
  """The tables in columns of spaces, for a terminal."""
  return '\n\n'.join(map(_columns_of_spaces, _tables(models)))


def as_markdown(models: Sequence[Mapping[str, Any]]) -> str:
  """The tables in Markdown."""
  return '\n\n'.join(map(_markdown, _tables(models)))


def origins(models: Sequence[Mapping[str, Any]]) -> list[str]:
  """Sentences on the results that were not scored this time."""
  return [
    f'{model["name"]} ({name}): {result["earlier"]}.'
    for model in models
    for name, result in model['experiments'].items()
    if 'earlier' in result
  ]


def as_csv(models: Sequence[Mapping[str, Any]]) -> str:
  """The table for other programs: every number of every score, unrounded.

  People's own values are in columns that end in `_people`, equal in all rows.
  """
  fields = (
    'value',
    'low',
    'high',
    'n',
    'n_undefined',
    'ceiling',
    'normalized',
    'normalized_low',
    'normalized_high',
  )
  shown = columns(models)
  people = observers.people(models)
  theirs = [
    c
    for c in shown
    if c.experiment == observers.EXPERIMENT and c.score in people
  ]
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(
    ['model', 'spec', 'preprocessing']
    + [
      f'{c.experiment}_{c.score}' + ('' if f == 'value' else f'_{f}')
      for c in shown
      for f in fields
    ]
    + [f'{c.experiment}_{c.score}_people' for c in theirs]
  )
  for model in ranked(models, shown):
    by_key = scores_of(model)
    found = [by_key.get((c.experiment, c.score), {}) for c in shown]
    values = [score.get(f) for score in found for f in fields]
    values += [people[c.score]['value'] for c in theirs]
    writer.writerow(
      [
        model['name'],
        model['settings']['spec'],
        model['adapter']['preprocessing'],
      ]
      + ['' if value is None else value for value in values]
    )
  return text.getvalue()
