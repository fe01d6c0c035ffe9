"""The leaderboard: a row per model, a column per score; as text, CSV, Markdown."""

import csv
import io
import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

_EXPERIMENTS = {
    'imagenet': 'ImageNet',
    'clickme': 'ClickMe',
    'clicktionary': 'Clicktionary',
    'psychophysics': 'Psychophysics',
}
_SCORES = {
    'top1': 'top-1',
    'spearman': 'rho',
    'dice': 'Dice',
    'iou': 'IoU',
    'l2': 'L2 (small is good)',
    'negative_log_mse': '-log MSE',
}
# What models are ranked by: the first that was measured.
_RANKED_BY = (('clickme', 'spearman'), ('clicktionary', 'spearman'),
              ('imagenet', 'top1'))


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


def scores_of(model: Mapping[str, Any]) -> Dict[tuple, Mapping[str, Any]]:
  """A model's scores by (experiment, score)."""
  return {(experiment, name): score
          for experiment, result in model['experiments'].items()
          for name, score in result['scores'].items()}


def columns(models: Sequence[Mapping[str, Any]]) -> List[Column]:
  """The columns of a table of models.

  Args:
    models: as `benchmark.Benchmark.run` returns them.

  Returns:
    One column per score that any model has.
  """
  found: Dict[tuple, bool] = {}
  for model in models:
    for key, score in scores_of(model).items():
      found[key] = found.get(key, False) or score['ceiling'] is not None
  order = list(_EXPERIMENTS)
  keys = sorted(found, key=lambda key: (order.index(key[0])
                                        if key[0] in order else len(order)))
  return [Column(*key, _title(*key, found[key]), found[key]) for key in keys]


def _title(experiment: str, score: str, normalized: bool) -> str:
  if normalized:
    return f'{_EXPERIMENTS.get(experiment, experiment)} alignment'
  plain = score.removeprefix(f'{experiment}_')
  words = _SCORES.get(plain, plain.replace('_', ' '))
  return f'{_EXPERIMENTS.get(experiment, experiment)} {words}'


def cell(model: Mapping[str, Any], column: Column) -> Cell:
  """What a model's row has in a column, over the ceiling where there is one."""
  score = scores_of(model).get((column.experiment, column.score))
  names = ('value', 'low', 'high')
  if column.normalized:
    names = ('normalized', 'normalized_low', 'normalized_high')
  values = [(score or {}).get(name) for name in names]
  return Cell(*(math.nan if v is None else float(v) for v in values))


def ranked(models: Sequence[Mapping[str, Any]],
           shown: Sequence[Column]) -> List[Mapping[str, Any]]:
  """Models, best first by the first of ClickMe, Clicktionary, ImageNet."""
  by = ranking_column(shown)
  if by is None:
    return list(models)

  def key(model):
    value = cell(model, by).value
    return (math.isnan(value), 0. if math.isnan(value) else -value)

  return sorted(models, key=key)


def ranking_column(shown: Sequence[Column]) -> Optional[Column]:
  """The column that models are ranked by, None if there is none."""
  by_key = {(c.experiment, c.score): c for c in shown}
  return next((by_key[key] for key in _RANKED_BY if key in by_key), None)


def _table(models) -> List[List[str]]:
  """Titles, and a row per model, best first."""
  shown = columns(models)
  return [['model', *(c.title for c in shown)]] + [
      [model['name'], *(cell(model, c).text() for c in shown)]
      for model in ranked(models, shown)
  ]


def as_text(models: Sequence[Mapping[str, Any]]) -> str:
  """The table in columns of spaces, for a terminal; of '' without models."""
  rows = _table(models)
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join(text.ljust(width) for text, width in zip(row, widths)).rstrip()
      for row in rows)


def as_markdown(models: Sequence[Mapping[str, Any]]) -> str:
  """The table in Markdown."""
  titles, *rows = [[text.replace('|', '\\|') for text in row]
                   for row in _table(models)]
  ruler = ['---', *['---:'] * (len(titles) - 1)]
  return '\n'.join(f'| {" | ".join(row)} |' for row in [titles, ruler, *rows])


def as_csv(models: Sequence[Mapping[str, Any]]) -> str:
  """The table for other programs: every number of every score, unrounded."""
  fields = ('value', 'low', 'high', 'n', 'n_undefined', 'ceiling', 'normalized',
            'normalized_low', 'normalized_high')
  shown = columns(models)
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['model', 'spec', 'preprocessing'] + [
      f'{c.experiment}_{c.score}' + ('' if f == 'value' else f'_{f}')
      for c in shown for f in fields])
  for model in ranked(models, shown):
    by_key = scores_of(model)
    found = [by_key.get((c.experiment, c.score), {}) for c in shown]
    writer.writerow([
        model['name'], model['settings']['spec'],
        model['adapter']['preprocessing']
    ] + ['' if score.get(f) is None else score[f]
         for score in found for f in fields])
  return text.getvalue()
