# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Networks under several explainers, side by side, and whether these agree."""

from collections.abc import Sequence
import math

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import explainer_agreement
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import leaderboard
from official_ext.harmonization.evaluation import scores as scores_lib

_SHOWN = ('own', 'shuffled', 'specific')
_TWINS = 'random weights'


def section(report: run_results.Report) -> list[blocks.Block]:
  """Makes a table of networks by explainer, and one of rank correlations.

  Args:
    report: what was measured.

  Returns:
    The tables of each protocol with several explainers; none without one.
  """
  families: dict[str, list[str]] = {}
  for name in report.protocols:
    families.setdefault(protocol_names.family(name), []).append(name)
  found: list[blocks.Block] = []
  for family, names in families.items():
    if len(names) > 1:
      found.append(_networks(report, family, names))
      found += _agreement(
        [a for a in report.agreements if a.protocol == family]
      )
  return found


def _networks(
  report: run_results.Report, family: str, names: Sequence[str]
) -> blocks.Table:
  """Shows own, shuffled and specific of networks, twins and a control."""
  models = leaderboard.ranked(report.models, leaderboard.columns(report.models))
  shown = []
  for model in models:
    if model.is_network:
      shown.append((blocks.Cell(leaderboard.label(model)), [model]))
      twins = [m for m in report.models if m.twin_of == model.name]
      if twins:
        note = f'of {model.name}, mean of {len(twins)}'
        shown.append((blocks.Cell(_TWINS, note), twins))
  best = _best_control(models, names)
  if best:
    note = 'the control with the highest specific'
    shown.append((blocks.Cell(best.name, note), [best]))
  explainer = {
    name: explainer_agreement.explainer_of(name, report.models)
    for name in names
  }
  rows = [
    [title, 'none' if of[0].is_control else explainer[name], *_cells(of, name)]
    for title, of in shown
    for name in (names[:1] if of[0].is_control else names)
  ]
  return blocks.Table(
    ['model', 'explainer', *_SHOWN, 'seconds per image'],
    rows,
    f'{registry.get(family).label}: the same networks by explainer. In '
    'brackets, 95 % intervals of specific. A network must be above its random '
    'weights under the same explainer, and above the controls. The time is '
    'that of the map of an image.',
    is_numeric=True,
  )


def _best_control(
  models: Sequence[results.ModelResults], names: Sequence[str]
) -> results.ModelResults | None:
  found = [
    (score.value, model)
    for model in models
    if model.is_control and (score := _score(model, names[0], 'specific'))
    if not math.isnan(score.value)
  ]
  return max(found, key=lambda pair: pair[0])[1] if found else None


def _score(
  model: results.ModelResults, protocol: str, name: str
) -> scores_lib.Score | None:
  explained = _explained(model, protocol)
  return explained.scores.get(name) if explained else None


def _explained(
  model: results.ModelResults, protocol: str
) -> results.Explained | None:
  result = model.results.get(protocol)
  return next(iter((result and result.explainers or {}).values()), None)


def _cells(
  models: Sequence[results.ModelResults], protocol: str
) -> list[blocks.Cell]:
  """Returns the cells of a network, or of the mean of several."""
  cells = []
  for name in _SHOWN:
    found = [s for m in models if (s := _score(m, protocol, name))]
    values = [s.value for s in found if not math.isnan(s.value)]
    if not values:
      cells.append(blocks.Cell('-'))
      continue
    note = ''
    if name == 'specific' and len(models) == 1 and not math.isnan(found[0].low):
      note = f'[{found[0].low:.3f}, {found[0].high:.3f}]'
    cells.append(blocks.Cell(f'{sum(values) / len(values):.3f}', note))
  seconds = [
    e.seconds_per_image
    for m in models
    if (e := _explained(m, protocol)) and e.seconds_per_image is not None
  ]
  mean = f'{sum(seconds) / len(seconds):.2g}' if seconds else '-'
  return [*cells, blocks.Cell(mean)]


def _agreement(
  found: Sequence[run_results.Agreement],
) -> list[blocks.Block]:
  """Shows the rank correlations, and says whether the order changes."""
  if not found:
    return []
  rows = [
    [
      f'{a.first}, {a.second}',
      _correlation(a.spearman),
      _correlation(a.kendall),
      blocks.Cell('-' if math.isnan(a.same_order) else f'{a.same_order:.2f}'),
      blocks.Cell(len(a.networks)),
      blocks.Cell(a.images),
    ]
    for a in found
  ]
  table = blocks.Table(
    [
      'explainers',
      "Spearman's rho",
      "Kendall's tau",
      'same order',
      'networks',
      'images',
    ],
    rows,
    'Rank correlation over networks of specific alignment under two '
    'explainers, on the images that all networks have under both. In brackets, '
    '95 % intervals over images (percentile bootstrap over groups), which hold '
    'for these networks. Same order: the part of the resamples in which both '
    'explainers rank the networks alike.',
    is_numeric=True,
  )
  return [table, blocks.Sentences([_order(a) for a in found])]


def _order(a: run_results.Agreement) -> str:
  """Says whether the order of the networks depends on the explainer."""
  text = (
    f'The order of the networks changes: {", ".join(a.networks)} under '
    f'{a.first}, and {", ".join(a.order)} under {a.second}.'
    if a.order_changes
    else f'The order of the networks is the same under {a.first} and '
    f'{a.second}: {", ".join(a.networks)}.'
  )
  if len(a.networks) < explainer_agreement.FEW:
    text += (
      f' With {choices.plural(len(a.networks), "network")}, a rank correlation '
      'says little.'
    )
  return text


def _correlation(found: run_results.RankCorrelation) -> blocks.Cell:
  if math.isnan(found.value):
    return blocks.Cell('-')
  note = ''
  if not math.isnan(found.low):
    note = f'[{found.low:.2f}, {found.high:.2f}]'
  return blocks.Cell(f'{found.value:.2f}', note)
