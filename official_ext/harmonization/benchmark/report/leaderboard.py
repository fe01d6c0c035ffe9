# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The leaderboard: a row per model, a column per score.

Protocols say which scores they have and what these are called. For people, the
leaderboard is split into a first table of a few columns and one table per
protocol; `as_csv` has everything in one table for programs.
"""

from collections.abc import Iterator, Mapping, Sequence
import csv
import io
import math
from typing import NamedTuple

import tabulate

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.evaluation import scores

Models = Sequence[results.ModelResults]
Comparisons = Sequence[run_results.Comparison]

NOT_BEATEN, BELOW = '†', '‡'


class Column(NamedTuple):
  """A score of a protocol.

  Attributes:
    protocol: its name.
    score: its name.
    title: for readers.
    normalized: whether it is shown divided by a ceiling.
  """

  protocol: str
  score: str
  title: str
  normalized: bool


class Cell(NamedTuple):
  """A score as it is shown; NaN where value or interval do not exist."""

  value: float
  low: float
  high: float

  def interval(self) -> str:
    """Returns the interval in brackets, or ''."""
    if any(map(math.isnan, self)):
      return ''
    return f'[{self.low:.3f}, {self.high:.3f}]'

  def text(self) -> str:
    """Returns the value and its interval; a dash if it does not exist."""
    if math.isnan(self.value):
      return '-'
    return f'{self.value:.3f} {self.interval()}'.rstrip()


def scores_of(
  model: results.ModelResults,
) -> dict[tuple[str, str], scores.Score]:
  """Returns a model's scores by protocol and score."""
  return {
    (protocol, name): score
    for protocol, result in model.results.items()
    for name, score in registry.get(protocol).scores_of(result).items()
  }


def columns(models: Models) -> list[Column]:
  """Returns a column for each score that any model has."""
  normalized: dict[tuple[str, str], bool] = {}
  for model in models:
    for key, score in scores_of(model).items():
      normalized[key] = normalized.get(key, False) or score.ceiling is not None
  order = registry.names()

  def position(key):
    # The first explainer is before the others.
    family = protocol_names.family(key[0])
    return order.index(family), protocol_names.is_variant(key[0])

  return [
    Column(*key, _title(*key, normalized[key]), normalized[key])
    for key in sorted(normalized, key=position)
  ]


def _title(protocol: str, score: str, normalized: bool) -> str:
  found = registry.get(protocol)
  if normalized:
    return f'{found.label} alignment'
  name = score.removeprefix(f'{protocol}_')
  return f'{found.label} {found.score_words.get(name, name.replace("_", " "))}'


def cell(model: results.ModelResults, column: Column) -> Cell:
  """Returns a model's score as a column shows it."""
  return _cell(scores_of(model).get((column.protocol, column.score)), column)


def _cell(score: scores.Score | None, column: Column) -> Cell:
  if score is None:
    return Cell(math.nan, math.nan, math.nan)
  values = (score.value, score.low, score.high)
  if column.normalized:
    values = (score.normalized, score.normalized_low, score.normalized_high)
  return Cell(*(math.nan if value is None else value for value in values))


def _people(models: Models, protocol: str) -> Mapping[str, scores.Score]:
  found = [m.results[protocol] for m in models if protocol in m.results]
  return registry.get(protocol).people(found)


def _row_of_people(
  models: Models, shown: Sequence[Column]
) -> tuple[str, list[Cell]] | None:
  """Returns label and scores of people; None if no column has any."""
  people = {
    name: _people(models, name)
    for name in dict.fromkeys(c.protocol for c in shown)
  }
  label = next(
    (registry.get(name).people_label for name in people if people[name]), None
  )
  if label is None:
    return None
  return label, [_cell(people[c.protocol].get(c.score), c) for c in shown]


def marks(comparisons: Comparisons) -> dict[str, str]:
  """Marks networks that do not beat every control.

  Args:
    comparisons: of networks with controls. Networks are ranked by the first
      explainer, so that those of variants count only without it.

  Returns:
    NOT_BEATEN or BELOW by the name of the network.
  """
  found: dict[str, str] = {}
  first = [c for c in comparisons if not protocol_names.is_variant(c.protocol)]
  for c in first or comparisons:
    if c.is_below:
      found[c.model] = BELOW
    elif not c.beats:
      found.setdefault(c.model, NOT_BEATEN)
  return found


def legend(names: Mapping[str, str]) -> str:
  """Explains the marks that occur; '' for none."""
  words = {
    NOT_BEATEN: 'does not beat every control (paired over images, p < .05)',
    BELOW: 'is below a control (p < .05 after Holm)',
  }
  found = [f'{m} {text}' for m, text in words.items() if m in names.values()]
  return f'{"; ".join(found)}.' if found else ''


def _rows(
  models: Models,
  shown: Sequence[Column],
  comparisons: Comparisons,
  keeps_networks: bool = False,
) -> list[tuple[str, list[Cell]]]:
  """Returns name and cells: networks, best first, controls and people."""
  marked = marks(comparisons)
  order = ranked(models, columns(models))
  networks = [
    (
      f'{label(model)} {marked.get(model.name, "")}'.rstrip(),
      [cell(model, c) for c in shown],
    )
    for model in order
    if model.is_network
  ]
  rows = []
  for name in dict.fromkeys(m.twin_of for m in order if m.twin_of):
    twins = [m for m in order if m.twin_of == name]
    title = f'random-{name} (mean of {len(twins)})'
    rows.append((title, [_mean([cell(m, c) for m in twins]) for c in shown]))
  rows += [
    (model.name, [cell(model, c) for c in shown])
    for model in order
    if model.is_control
  ]
  people = _row_of_people(models, shown)

  def measured(found):
    return [r for r in found if any(not math.isnan(c.value) for c in r[1])]

  if not keeps_networks:
    networks = measured(networks)
  return [*networks, *measured(rows), *([people] if people else [])]


def label(model: results.ModelResults) -> str:
  """Returns a model's name, with the number of runs that it is the mean of."""
  if not model.runs:
    return model.name
  return f'{model.name} (mean of {choices.plural(len(model.runs), "run")})'


def _mean(cells: Sequence[Cell]) -> Cell:
  """Returns the mean value, without an interval."""
  values = [c.value for c in cells]
  return Cell(sum(values) / len(values), math.nan, math.nan)


def intervals(models: Models, shown: Sequence[Column]) -> str:
  """Says what the brackets in a table hold.

  Args:
    models: in the table.
    shown: the columns of the table.

  Returns:
    A sentence, grouped by confidence and by method; '' if nothing is in
    brackets.
  """
  titles: dict[str, list[str]] = {}
  for column in shown:
    rows = _rows_by_method(models, column)
    # That of most rows needs no names of rows.
    most = max(rows, key=lambda method: len(rows[method]), default='')
    for method, names in rows.items():
      title = column.title
      if method != most:
        title += f' of {_few(names)}'
      titles.setdefault(method, []).append(title)
  if not titles:
    return ''
  if len(titles) == 1:
    return f'In brackets, {next(iter(titles))}.'
  parts = [f'{", ".join(found)}: {text}' for text, found in titles.items()]
  return f'In brackets: {"; ".join(parts)}.'


def _rows_by_method(models: Models, column: Column) -> dict[str, list[str]]:
  """Returns the names of the rows with an interval by its method, in words."""
  rows: dict[str, list[str]] = {}
  found = [
    (model.name, scores_of(model).get((column.protocol, column.score)))
    for model in models
    # The group of a run has a row, and random twins have no interval.
    if not model.group and not model.twin_of
  ]
  people = _people(models, column.protocol).get(column.score)
  for name, score in [*found, ('people', people)]:
    if score and not math.isnan(score.low) and not math.isnan(score.high):
      method = (
        f'{100 * score.confidence:g} % intervals, {score.interval_method}'
      )
      rows.setdefault(method, []).append(name)
  return rows


def _few(names: Sequence[str]) -> str:
  """Lists names, the first three of many."""
  more = f' and {len(names) - 3} more' if names[4:] else ''
  return ', '.join(names[:3] if more else names) + more


def ranked(
  models: Models, shown: Sequence[Column]
) -> list[results.ModelResults]:
  """Returns the models, best first by `ranking_column`."""
  by = ranking_column(shown)
  if by is None:
    return list(models)

  def key(model):
    value = cell(model, by).value
    return (math.isnan(value), 0.0 if math.isnan(value) else -value)

  return sorted(models, key=key)


def ranking_column(shown: Sequence[Column]) -> Column | None:
  """Returns the first column of alignment, else of accuracy, else None."""
  return alignment_column(shown) or accuracy_column(shown)


def alignment_column(shown: Sequence[Column]) -> Column | None:
  """Returns the first protocol's score of alignment, or None."""
  by_key = {(c.protocol, c.score): c for c in shown}
  for protocol in dict.fromkeys(c.protocol for c in shown):
    for score in registry.get(protocol).alignment_scores:
      if (protocol, score) in by_key:
        return by_key[protocol, score]
  return None


def accuracy_column(shown: Sequence[Column]) -> Column | None:
  """Returns the first protocol's score of accuracy, or None."""
  return next(
    (c for c in shown if c.score == registry.get(c.protocol).accuracy_score),
    None,
  )


def headlines(shown: Sequence[Column]) -> list[Column]:
  """Selects the columns of the first table."""
  return [c for c in shown if c.score in registry.get(c.protocol).headlines]


def of_protocol(shown: Sequence[Column], protocol: str) -> list[Column]:
  """Selects the columns of a protocol's main table."""
  apart = registry.get(protocol).further_scores
  return [c for c in shown if c.protocol == protocol and c.score not in apart]


def table(
  models: Models,
  shown: Sequence[Column],
  caption: str = '',
  comparisons: Comparisons = (),
  keeps_networks: bool = False,
) -> blocks.Table:
  """Makes a table for the page.

  Args:
    models: in any order.
    shown: the columns.
    caption: follows what is said of the intervals.
    comparisons: of networks with controls, for the marks.
    keeps_networks: whether networks without any of the scores have a row.

  Returns:
    A row per model, best first, and one for people if they have scores.
  """
  rows = [
    [
      name,
      *(blocks.Cell(c.text().partition(' ')[0], c.interval()) for c in cells),
    ]
    for name, cells in _rows(models, shown, comparisons, keeps_networks)
  ]
  words = (intervals(models, shown), caption, legend(marks(comparisons)))
  return blocks.Table(
    ['model', *(c.title for c in shown)],
    rows,
    ' '.join(filter(None, words)),
    is_numeric=True,
  )


def _tables(
  models: Models, comparisons: Comparisons
) -> Iterator[list[list[str]]]:
  """Yields tables of text: headlines if there are several protocols, then each.

  The table of the headlines has no intervals.
  """
  shown = columns(models)
  protocols = dict.fromkeys(c.protocol for c in shown)
  if len(protocols) > 1:
    yield [
      [text.partition(' [')[0] for text in row]
      for row in _texts(models, headlines(shown), comparisons)
    ]
  for name in protocols:
    of_variant = [c for c in comparisons if c.protocol == name]
    yield _texts(
      models,
      of_protocol(shown, name),
      of_variant if protocol_names.is_variant(name) else comparisons,
    )


def _texts(
  models: Models, shown: Sequence[Column], comparisons: Comparisons
) -> list[list[str]]:
  rows = [
    [name, *(c.text() for c in cells)]
    for name, cells in _rows(models, shown, comparisons)
  ]
  return [['model', *(c.title for c in shown)], *rows]


def as_text(models: Models, comparisons: Comparisons = ()) -> str:
  """Returns the tables in columns of spaces, for a terminal."""
  tables = [
    tabulate.tabulate(rows, tablefmt='plain', disable_numparse=True)
    for rows in _tables(models, comparisons)
  ]
  return '\n\n'.join(filter(None, [*tables, legend(marks(comparisons))]))


def as_markdown(models: Models, comparisons: Comparisons = ()) -> str:
  """Returns the tables in Markdown."""
  tables = [
    tabulate.tabulate(
      [[text.replace('|', '\\|') for text in row] for row in rows],
      'firstrow',
      'pipe',
      disable_numparse=True,
      colalign=['left', *['right'] * (len(rows[0]) - 1)],
    )
    for rows in _tables(models, comparisons)
  ]
  return '\n\n'.join(filter(None, [*tables, legend(marks(comparisons))]))


def as_csv(models: Models, comparisons: Comparisons = ()) -> str:
  """Returns one table of every number of every score, unrounded.

  The column beats_controls is empty where no control was measured.
  The scores of people are in columns that end in `_people`, equal in all rows.
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
  people = [
    (c, score.value)
    for c in shown
    for name, score in _people(models, c.protocol).items()
    if name == c.score
  ]
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(
    ['model', 'spec', 'preprocessing', 'beats_controls']
    + [
      f'{c.protocol}_{c.score}' + ('' if f == 'value' else f'_{f}')
      for c in shown
      for f in fields
    ]
    + [f'{c.protocol}_{c.score}_people' for c, _ in people]
  )
  marked, compared = marks(comparisons), {c.model for c in comparisons}
  for model in ranked(models, shown):
    beats = str(model.name not in marked) if model.name in compared else ''
    by_key = scores_of(model)
    values = [
      getattr(by_key.get((c.protocol, c.score)), f, None)
      for c in shown
      for f in fields
    ]
    values += [value for _, value in people]
    writer.writerow(
      [model.name, model.spec, model.adapter.preprocessing, beats]
      + ['' if v is None or math.isnan(v) else v for v in values]
    )
  return text.getvalue()
