# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Scores any networks against people: where they look and how they decide.

  python -m official_ext.harmonization.evaluate \
      --model=mg:runs/digits/baseline --model=mg:runs/digits/harmonized \
      --clickme='data/digits/val/*.tfrecords' --ceiling=1 \
      --twin=baseline:harmonized --output_dir=runs/alignment

Give --model once for each model, as KIND:TARGET, and the data of at least one
protocol: --imagenet, --clickme, --clicktionary, --psychophysics. Each protocol
measures each model. The command writes to --output_dir: report.html, which
needs no other file, leaderboard.txt, .md and .csv, results.json, the plots, and
for each model a table of every image or trial.

Run it again to resume: a result is scored again only if something that it
depends on has changed, and is otherwise labelled with its date. Several
processes may share --output_dir. A model that fails is reported and does not
affect the others; the exit code is then 1. docs/benchmark.md describes the
protocols.
"""

from collections.abc import Sequence
import dataclasses
import datetime
import platform
import shlex
import sys

from etils import epy

from official_ext.harmonization import choices
from official_ext.harmonization import cli
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark.adapters import spec

with epy.lazy_imports():
  from official_ext.harmonization.benchmark import data_cards
  from official_ext.harmonization.benchmark import explainer_cost
  from official_ext.harmonization.benchmark import identity
  from official_ext.harmonization.benchmark import network_pairs
  from official_ext.harmonization.benchmark import run as benchmark_run
  from official_ext.harmonization.benchmark import run_results
  from official_ext.harmonization.benchmark.report import answer
  from official_ext.harmonization.benchmark.report import leaderboard
  from official_ext.harmonization.benchmark.report import remarks
  from official_ext.harmonization.benchmark.report import writer

_MODULE = 'official_ext.harmonization.evaluate'


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of the command, besides those of the protocols."""

  model: tuple[str, ...] = cli.flag(
    (), 'A model; repeat the flag for more. ' + spec.usage(), repeated=True
  )
  twin: tuple[str, ...] = cli.flag(
    (),
    'BASELINE:HARMONIZED, the names of two models: adds an arrow to the plot '
    'and a row to the table of differences. Repeat the flag for more.',
    repeated=True,
  )
  compare: tuple[str, ...] = cli.flag(
    (),
    'FIRST:SECOND, the names of two models: tests their difference, as for '
    '--twin, without an arrow. Repeat the flag for more.',
    repeated=True,
  )
  rescore: bool = cli.flag(
    False,
    'Score again even if nothing has changed. Earlier results are kept in '
    'models/earlier.',
  )
  run: protocol_lib.RunOptions = dataclasses.field(
    default_factory=protocol_lib.RunOptions
  )


def define_flags():
  """Defines the flags of all protocols."""
  for options in registry.option_classes():
    cli.define(options)


def _protocols(run: protocol_lib.RunOptions) -> list[protocol_lib.Protocol]:
  """Makes the protocols that the flags ask for, in the order of the report.

  Raises:
    ValueError: no protocol is asked for, or flags contradict each other.
  """
  options = {found: cli.parsed(found.Options) for found in registry.protocols()}
  measured = [p for p in options if getattr(options[p], p.name)]
  if not measured:
    flags = ', '.join(f'--{name}' for name in registry.names())
    raise protocol_lib.SettingsError(
      f'No protocol was chosen. Add at least one of {flags}.'
    )
  names = {p.name for p in measured}
  cli.refuse_without_effect(
    [
      *(q for p in options for q in p.flags_without_effect(options[p], names)),
      *_without_effect(run, measured),
    ]
  )
  return [q for p in measured for q in p.all_from_options(options[p], run)]


def _without_effect(run: protocol_lib.RunOptions, measured):
  """Yields flags that all protocols share and that nothing uses."""
  if not any(p.reads_records for p in measured):
    yield 'without records', ('training_records', 'exclude')
  elif not run.training_records:
    yield 'without --training_records', ('exclude',)


def _pairs(
  flag: str, pairs: Sequence[str], models: Sequence[model_specs.Model]
) -> list[tuple[str, str]]:
  """Parses the pairs of --twin or --compare."""
  names = model_specs.rows(models)
  parsed = []
  for text in pairs:
    first, _, second = text.partition(':')
    if not {first, second} <= {*names} or first == second:
      form = 'BASELINE:HARMONIZED' if flag == 'twin' else 'FIRST:SECOND'
      raise protocol_lib.SettingsError(
        f'--{flag}={text}; expected the names of two models or groups, '
        f'{form}, out of {", ".join(names)}.'
      )
    parsed.append((first, second))
  return parsed


def _refuse_reversed(pairs: Sequence[tuple[str, str]]):
  """Raises SettingsError if a pair is given in both orders.

  It would count twice when p-values are adjusted for the number of pairs.
  """
  for first, second in pairs:
    if (second, first) in pairs:
      raise protocol_lib.SettingsError(
        f'--twin, --compare: {first}:{second} and {second}:{first} are the '
        'same pair; expected each pair once. Remove one of them.'
      )


def _report(
  options: Options, protocols, twins, pairs, found: 'run_results.RunResults'
) -> 'run_results.Report':
  now = datetime.datetime.now().astimezone()
  measured = {p.name: p for p in protocols}
  digests = identity.Digests(identity.digests_path(options.run.output_dir))
  return run_results.Report(
    created=now.isoformat(timespec='seconds'),
    # The module, not the path of the file: results are read on other machines.
    command=f'python -m {_MODULE} {shlex.join(sys.argv[1:])}',
    versions={
      'python': platform.python_version(),
      **identity.versions(*options.model),
    },
    limit=options.run.limit,
    protocols={
      name: run_results.MeasuredProtocol(
        p.title,
        p.settings(),
        data_cards.card(
          p.origin(digests), found.models, name, options.run.output_dir
        ),
      )
      for name, p in measured.items()
    },
    not_measured={
      name: f'no --{name}' for name in registry.names() if name not in measured
    },
    twins=twins,
    models=found.models,
    failures=found.failures,
    notes=found.notes,
    comparisons=found.comparisons,
    pairs=network_pairs.compare(
      options.run.output_dir, found.models, protocols, [*twins, *pairs]
    ),
    subgroups=found.subgroups,
    agreements=found.agreements,
  )


def _check_measured(
  models: Sequence[model_specs.Model], found: 'run_results.RunResults'
):
  """Raises ValueError if all models failed, so that no report is written."""
  failed = {failure.name: failure.traceback for failure in found.failures}
  measured = {model.name for model in found.models}
  if failed and not measured & {model.name for model in models}:
    raise ValueError(
      f'No model could be measured; {", ".join(failed)} failed. No report was '
      f'written. The errors are above, and in {", ".join(failed.values())}.'
    )


def _evaluate(options: Options) -> 'run_results.Report':
  """Measures the models and writes the report."""
  output_dir = options.run.output_dir
  models = model_specs.parse_all(options.model)
  twins = _pairs('twin', options.twin, models)
  pairs = _pairs('compare', options.compare, models)
  _refuse_reversed([*twins, *pairs])
  # Otherwise a misspelled name would be found when that model's turn comes.
  for model in models:
    spec.check(model.spec)
  protocols = _protocols(options.run)

  companions = {m.name: m for p in protocols for m in p.companions(models)}
  # Networks are first: their time tells that of the others, and a network that
  # cannot be opened has no random twins.
  rows = [
    *models,
    *(m for m in companions.values() if m.size_of),
    *(m for m in companions.values() if m.control),
    *(m for m in companions.values() if m.twin_of),
  ]
  if len(rows) > len(models):
    print(
      f'Besides {choices.plural(len(models), "model")}, '
      f'{choices.plural(len(rows) - len(models), "row")} of controls, '
      'random twins and input sizes are to be measured (--nocontrols, '
      '--random_twins=0 and --input_sizes= skip them).'
    )

  for sentence in explainer_cost.in_advance(
    protocols,
    sum(not (row.control or row.twin_of) for row in rows),
    sum(bool(row.twin_of) for row in rows),
  ):
    print(sentence)

  def write(found):
    _check_measured(models, found)
    report = _report(options, protocols, twins, pairs, found)
    return report, writer.write(output_dir, report)

  report, written = benchmark_run.Benchmark(
    protocols, output_dir, spec.build, options.rescore
  ).run(rows, write)
  if report.models:
    print('\n' + leaderboard.as_text(report.models, report.comparisons))
    for sentence in answer.sentences(report):
      print(sentence)
  _print_notes(report)
  print('\nWritten: ' + ', '.join(written))
  return report


def _print_notes(report: 'run_results.Report'):
  """Prints what a reader of the table must know."""
  for sentence in remarks.origins(report.models):
    print(sentence)
  for remark in remarks.warnings(report.models):
    print(f'WARNING {remark}')
  if report.failures:  # Each error was printed when it occurred.
    failed = dict.fromkeys(failure.name for failure in report.failures)
    print(f'FAILED: {", ".join(failed)}; see above, or the report.')
  for name, reason in report.not_measured.items():
    print(f'Not measured: {name} ({reason}).')
  if report.limit:
    print(f'A trial: limited to {choices.plural(report.limit, "record")}.')


def main(options: Options, arguments: Sequence[str] = ()):
  """Runs the command."""
  if arguments:
    raise protocol_lib.SettingsError(
      f'{arguments[0]!r} is not a flag; expected --model=KIND:TARGET for each '
      'model.'
    )
  if _evaluate(options).failures:
    raise SystemExit(1)


def run():
  """Runs the console command."""
  define_flags()
  cli.run(main, Options, takes_arguments=True)


if __name__ == '__main__':
  run()
