# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The report as one HTML page, which needs no other file and no network."""

# Bazel: data = [":template"]

import base64
from collections.abc import Iterator, Sequence
import dataclasses
import os
from typing import Any, NamedTuple

import jinja2

from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark.report import answer
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import differences
from official_ext.harmonization.benchmark.report import examples
from official_ext.harmonization.benchmark.report import explainers
from official_ext.harmonization.benchmark.report import explanations
from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.benchmark.report import further_scores
from official_ext.harmonization.benchmark.report import leaderboard
from official_ext.harmonization.benchmark.report import matched_conditions
from official_ext.harmonization.benchmark.report import remarks
from official_ext.harmonization.benchmark.report import score_correlations
from official_ext.harmonization.benchmark.report import subgroups
from official_ext.harmonization.benchmark.report import trade_off
from official_ext.harmonization.benchmark.report import training_copies

_TEMPLATE = 'report.html.j2'


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the page.

  Attributes:
    id: its anchor.
    title: its heading.
    blocks: what it consists of.
  """

  id: str
  title: str
  blocks: Sequence[blocks.Block]


class AlarmItem(NamedTuple):
  """Something that a reader must know before reading any number."""

  text: str
  model: str = ''
  stage: str = ''


@dataclasses.dataclass(frozen=True)
class Alarm:
  """A box at the top of the page.

  Attributes:
    title: of the box.
    items: what it says.
    is_urgent: whether it is open, because the scores may not be what they seem.
  """

  title: str
  items: Sequence[AlarmItem]
  is_urgent: bool


def sections(report: run_results.Report, output_dir: str) -> list[Section]:
  """Makes the sections of the page and draws their pictures.

  Args:
    report: what was measured.
    output_dir: that paths in results start from.

  Returns:
    The sections that are not empty, in order.
  """
  models = report.models
  shown = [
    Section(
      'answer', 'Does any network see as people do?', answer.section(report)
    ),
    Section('leaderboard', 'Leaderboard', _leaderboard(report)),
    Section('trade-off', 'Accuracy against alignment', _trade_off(report)),
    Section('explainers', 'Networks by explainer', explainers.section(report)),
    Section('power', 'What differences could be detected', _power(report)),
    *(
      Section(name, measured.title, _protocol(name, report, output_dir))
      for name, measured in report.protocols.items()
    ),
    Section(
      'explanations',
      'Faithfulness against specific alignment',
      explanations.section(models),
    ),
    Section(
      'correlations',
      'Correlation of scores across networks',
      score_correlations.section(models),
    ),
    Section('models', 'Models and their preprocessing', _models(models)),
    Section('made', 'How this was made', _made(report)),
  ]
  return [section for section in shown if section.blocks]


def render(report: run_results.Report, content: Sequence[Section]) -> str:
  """Renders the page.

  Args:
    report: what was measured.
    content: as from `sections`.

  Returns:
    HTML. Everything that is not markup of the template is escaped.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters['data_url'] = _data_url
  return environment.get_template(_TEMPLATE).render(
    summary=_summary(report),
    answers=answer.sentences(report),
    alarms=list(_alarms(report)),
    sections=content,
  )


def _data_url(png: bytes) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png).decode()


def _summary(report: run_results.Report) -> str:
  """Says in a few sentences what the page is about."""
  scored, failed = (
    sum(model.is_network for model in report.models),
    len(report.failures),
  )
  titles = [measured.title for measured in report.protocols.values()]
  missing = [
    f'{name} ({reason})' for name, reason in report.not_measured.items()
  ]
  return (
    f'{scored} model{"s"[: scored != 1]} scored'
    + (f', {failed} failure{"s"[: failed != 1]}' if failed else '')
    + f'. Measured: {"; ".join(titles)}.'
    + (f' Not measured: {"; ".join(missing)}.' if missing else '')
    + f' {report.created.replace("T", " ")}.'
  )


def _alarms(report: run_results.Report) -> Iterator[Alarm]:
  trial = f'Only the first {report.limit} records were scored.'
  for title, is_urgent, items in (
    ('A trial', True, [AlarmItem(trial)] if report.limit else []),
    (
      'Failures',
      True,
      [AlarmItem(f.error, f.name, f.stage) for f in report.failures],
    ),
    (
      'Warnings',
      True,
      [
        AlarmItem(r.text, r.models, r.protocol)
        for r in remarks.warnings(report.models)
      ],
    ),
    (
      'Used again from earlier runs',
      False,
      [
        AlarmItem(r.text, r.models, r.protocol)
        for r in remarks.origins(report.models)
      ],
    ),
    (
      'Seen in training',
      True,
      [
        AlarmItem(f'{text}.', '', protocol)
        for protocol, measured in report.protocols.items()
        for text in training_copies.warnings(measured.settings)
      ],
    ),
    ('Notes', False, [AlarmItem(note) for note in report.notes]),
  ):
    if items:
      yield Alarm(title, items, is_urgent)


def _leaderboard(report: run_results.Report) -> list[blocks.Block]:
  models = report.models
  if not models:
    return [blocks.Paragraph('No model was scored.')]
  shown = leaderboard.columns(models)
  by = leaderboard.ranking_column(shown)
  headlines = leaderboard.headlines(shown)
  caption = f'Ranked by {by.title}.' if by else ''
  if not headlines:
    return []
  return [leaderboard.table(models, headlines, caption, report.comparisons)]


def _trade_off(report: run_results.Report) -> list[blocks.Block]:
  models, twins = report.models, report.twins
  parts: list[blocks.Block] = []
  if trade_off.points(models, twins):
    parts.append(
      figures.themed_picture(
        lambda theme: trade_off.draw(models, twins, theme, report.pairs),
        'Scatter plot of accuracy and alignment, one dot per model. The table '
        'of the leaderboard has the same numbers.',
        'One dot per model; bars are the intervals of the leaderboard. Shaded: '
        'the convex hull of the ordinary models. Arrows: from each baseline to '
        'its harmonized twin, for the pairs given by --twin, solid if their '
        'alignment differs (p < .05 after Holm). Dotted: controls.',
        'trade_off.png',
        lambda theme: trade_off.draw(
          models, twins, theme, report.pairs, width=figures.NARROW_WIDTH
        ),
      )
    )
  table = differences.table(models, twins, report.pairs)
  return parts + ([table] if table else [])


def _power(report: run_results.Report) -> list[blocks.Block]:
  table = differences.power_table(report)
  return [table] if table else []


def _protocol(
  name: str, report: run_results.Report, output_dir: str
) -> list[blocks.Block]:
  """Returns what was measured, on which data, and pictures."""
  protocol, is_first = registry.get(name), not protocol_names.is_variant(name)
  models = [m for m in report.models if name in m.results]
  settings, card = report.protocols[name].settings, report.protocols[name].card
  class_names = card.class_names if card else {}
  shown = leaderboard.columns(models)
  columns = leaderboard.of_protocol(shown, name)
  compared = [c for c in report.comparisons if c.protocol == name]
  facts = [*protocol.facts(settings), ('images scored', _counts(name, models))]
  ranked = leaderboard.ranked(report.models, leaderboard.columns(report.models))
  return [
    blocks.Paragraph(protocol.describe(settings)),
    blocks.Facts(facts),
    *([blocks.Facts(_card(card), 'Data card')] if card and is_first else []),
    *([] if is_first else answer.tables(report, name)),
    *([leaderboard.table(models, columns, '', compared)] if columns else []),
    *protocol.sections(
      {m.name: m.results[name] for m in models if _is_in_sections(m, name)},
      report.twins,
    ),
    *matched_conditions.widths(ranked, name),
    *matched_conditions.input_sizes(
      ranked, name, is_requested=bool(settings.get('input_sizes'))
    ),
    *further_scores.tables(models, name, compared),
    *training_copies.blocks_of(settings),
    *subgroups.tables(report, name, class_names),
    *examples.draw(
      output_dir, [m for m in ranked if m.is_network], name, class_names
    ),
  ]


def _is_in_sections(model: results.ModelResults, protocol: str) -> bool:
  """Whether pictures and tables of a protocol show a model."""
  if model.size_of:
    return False
  # Several runs are shown by their mean, except for curves, which have none.
  has_mean = bool(model.results[protocol].explainers)
  return has_mean if model.runs else not (model.group and has_mean)


def _card(card: run_results.DataCard) -> list[tuple[str, Any]]:
  """Returns what is known of the data."""
  counts = [
    ('images', card.images),
    ('human maps', card.maps),
    ('classes', card.classes),
    *card.counts.items(),
  ]
  digests = [(f'SHA-256 of {k}', v) for k, v in card.sha256.items()]
  return [
    ('origin', card.origin),
    ('licence', card.licence),
    *((name, n) for name, n in counts if n is not None),
    *(digests or [('SHA-256', 'not recorded')]),
  ]


def _counts(name: str, models) -> str:
  """Says how many images have a score: of each model, if they differ."""
  counts: dict[tuple, list[str]] = {}
  for model in models:
    first = next(iter(model.results[name].scores.values()), None)
    if first:
      key = (first.n, first.n_undefined)
      counts.setdefault(key, []).append(model.name)
  parts = []
  for (n, undefined), names in counts.items():
    words = f'{n}' + (f' ({undefined} undefined)' if undefined else '')
    parts.append(words if len(counts) == 1 else f'{words}: {", ".join(names)}')
  return '; '.join(parts) or 'none'


def _models(models) -> list[blocks.Block]:
  models = [model for model in models if model.is_network]
  rows = [
    [
      model.name,
      blocks.Cell(model.spec, is_code=True),
      '{} x {}'.format(*model.adapter.input_size),
      model.adapter.num_classes,
      model.adapter.preprocessing,
    ]
    for model in models
  ]
  titles = ['model', 'SPEC', 'input', 'outputs', 'preprocessing']
  caption = 'How each network is used.'
  return [blocks.Table(titles, rows, caption)] if rows else []


def _made(report: run_results.Report) -> list[blocks.Block]:
  tables = [
    result.table
    for model in report.models
    for result in model.results.values()
    if result.table
  ]
  return [
    blocks.Command(report.command),
    blocks.Paragraph(
      ', '.join(f'{name} {v}' for name, v in report.versions.items())
    ),
    blocks.Paragraph(
      'Next to this page: results.json, leaderboard.csv, leaderboard.md, '
      'leaderboard.txt, and a table of every image or trial per model:'
    ),
    *([blocks.Sentences(tables, is_code=True)] if tables else []),
  ]
