# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Does the order of the networks depend on the blur, or on the input size?"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.evaluation import scores

Models = Sequence[results.ModelResults]
_OWN = 'own'


def widths(models: Models, protocol: str) -> list[blocks.Block]:
  """Shows specific alignment by smoothness, and whether the order changes.

  Args:
    models: of which those with results of the protocol are shown.
    protocol: its name.

  Returns:
    A table; none if no result has explainers.
  """
  rows, networks = [], {}
  columns: dict[float, None] = {}
  for model in models:
    result = model.results.get(protocol)
    if not result or not result.explainers or model.group or model.size_of:
      continue
    explained = next(iter(result.explainers.values()))
    values = {s.width: s.specific.value for s in explained.by_width}
    rows.append([model.name, *map(_text, values.values())])
    if model.is_network:
      networks[model.name] = values
      columns.update(dict.fromkeys(values))
  if not networks:
    return []
  return [
    blocks.Table(
      ['specific, by blur', *(f'{w} px' for w in columns)],
      rows,
      'Specific alignment by the standard deviation of the Gaussian that blurs '
      'the maps of models and of people, in pixels at 224. '
      + _order(networks, 'at all widths', 'the width'),
      is_numeric=True,
    )
  ]


def input_sizes(
  models: Models, protocol: str, is_requested: bool = False
) -> list[blocks.Block]:
  """Shows specific alignment by input size, and whether the order changes.

  Args:
    models: of which those with results of the protocol are shown.
    protocol: its name.
    is_requested: whether the command asked for other input sizes.

  Returns:
    A table; if no network was measured at another input size, a sentence that
    says so, or nothing if none was asked for.
  """
  measured = [
    m
    for m in models
    if protocol in m.results and m.results[protocol].explainers
  ]
  networks = [m for m in measured if m.is_network]
  names = {m.name for m in networks}
  resized = [m for m in measured if m.size_of in names]
  if not resized:
    if not is_requested or not networks:
      return []
    return [
      blocks.Paragraph(
        'No network was measured at another input size: that of '
        f'{", ".join(m.name for m in networks)} is fixed, or equal to those of '
        '--input_sizes.'
      )
    ]
  columns = [
    _OWN,
    *sorted({_size(m) for m in resized}, key=lambda s: (math.prod(s), s)),
  ]
  found: dict[str, dict[Any, scores.Score]] = {
    m.name: dict.fromkeys((_OWN, _size(m)), _specific(m, protocol))
    for m in networks
  }
  for model in resized:
    found[str(model.size_of)].setdefault(
      _size(model), _specific(model, protocol)
    )
  rows = [
    [
      blocks.Cell(m.name, f'own: {_pixels(_size(m))}'),
      *(_cell(found[m.name].get(column)) for column in columns),
    ]
    for m in networks
  ]
  complete = {
    name: {column: of_network[column].value for column in columns}
    for name, of_network in found.items()
    if {*columns} <= of_network.keys()
  }
  words = _order(complete, 'at all input sizes', 'the input size')
  if words:
    words += ' This is the order of the values, without a test.'
  if words and len(complete) < len(networks):
    words += f' It compares {", ".join(complete)}, which have all sizes.'
  # A network that accepts only some of the sizes has dashes.
  fixed = [
    name
    for name in found
    if name not in {*complete, *(m.size_of for m in resized)}
  ]
  if fixed:
    words += (
      f' Measured at the own size only, which is fixed: {", ".join(fixed)}.'
    )
  return [
    blocks.Table(
      ['specific, by input size', 'own size', *map(_pixels, columns[1:])],
      rows,
      'Specific alignment with 95 % intervals, at the input size of each '
      'network and at others. A network may be worse at a size that it was not '
      f'made for. {words}'.rstrip(),
      is_numeric=True,
    )
  ]


def _specific(model: results.ModelResults, protocol: str) -> scores.Score:
  explained = next(iter((model.results[protocol].explainers or {}).values()))
  return next(s for name, s in explained.scores.items() if name == 'specific')


def _size(model: results.ModelResults) -> tuple[int, ...]:
  return tuple(model.adapter.input_size)


def _pixels(size: Sequence[int]) -> str:
  return '{} x {}'.format(*size)


def _cell(score: scores.Score | None) -> blocks.Cell:
  if score is None or math.isnan(score.value):
    return blocks.Cell('-')
  if math.isnan(score.low):
    return blocks.Cell(_text(score.value))
  return blocks.Cell(_text(score.value), f'[{score.low:.3f}, {score.high:.3f}]')


def _text(value: float) -> str:
  return '-' if math.isnan(value) else f'{value:.3f}'


def _order(
  networks: Mapping[str, Mapping[Any, float]], same: str, condition: str
) -> str:
  """Says whether networks have the same order in all columns.

  Args:
    networks: values by column, by name.
    same: ends the sentence if they have.
    condition: ends it if they have not.

  Returns:
    A sentence; '' if a column has fewer than two values.
  """
  by_column: dict[Any, list[tuple[float, str]]] = {}
  for name, values in networks.items():
    for column, value in values.items():
      order = by_column.setdefault(column, [])
      if not math.isnan(value):
        order.append((value, name))
  if min(map(len, by_column.values()), default=0) < 2:
    return ''
  orders = {
    tuple(name for _, name in sorted(values, reverse=True))
    for values in by_column.values()
  }
  if len(orders) == 1:
    return f'The order of the networks is the same {same}.'
  return f'The order of the networks depends on {condition}.'
