# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Writes tables and figures of the results of studies.

  python -m studies.study_report --results_dir=studies/results \
      --output_dir=docs/results/study

Reads regime.jsonl, twins.jsonl and ablations.jsonl. Writes a Markdown table of
each, trade_off.png (an arrow from each baseline to the harmonized network of
the same seed), revealed.png (accuracy when only the top of the human map is
shown), ablations.png (all settings) and curves.png (scores along each option).
Intervals are 95 % confidence intervals of the mean over seeds by Student's t;
intervals of differences are over pairs of runs with the same seed. With one or
two seeds, tables show the values and figures have no intervals.
"""

from collections.abc import Sequence
import json
import os
import sys
from typing import Any

from absl import flags
from matplotlib import figure
import numpy as np
from scipy import stats

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import identity

FLAGS = flags.FLAGS

STUDIES = ('regime', 'twins', 'ablations')
_CONFIDENCE = 0.95
# Fewer values have no interval.
_FEWEST = 3
_BASELINE = 'baseline'
_RECOMMENDED = 'recommended'
COLUMNS = {
  'clickme_accuracy': 'accuracy',
  'accuracy': 'out of distribution',
  'swapped_accuracy': 'cue swapped',
  'revealed_10': 'top 10 % revealed',
  'alignment_spearman': 'rho',
  'alignment_dice': 'Dice',
}
# Option -> curve -> position -> setting of the ablations.
CURVES = {
  'weight': {
    '': {
      '0': 'baseline',
      '.1': 'weight 0.1',
      '.3': 'recommended',
      '.6': 'weight 0.6',
      '1': 'weight 1',
      '2': 'weight 2',
      '5': 'weight 5',
      '20': 'weight 20',
    },
  },
  'part of the batch with maps': {
    'by batch': {
      '1': 'recommended',
      '.5': 'half mapped, by batch',
      '.2': 'fifth mapped, by batch',
      '.05': 'twentieth mapped, by batch',
    },
    'by map': {
      '1': 'recommended',
      '.5': 'half mapped, by map',
      '.2': 'fifth mapped, by map',
      '.05': 'twentieth mapped, by map',
    },
    'baseline': {
      '1': 'baseline',
      '.5': 'half mapped, baseline',
      '.2': 'fifth mapped, baseline',
      '.05': 'twentieth mapped, baseline',
    },
  },
  'interval': {
    '': {
      '1': 'recommended',
      '2': 'interval 2',
      '4': 'interval 4',
      '8': 'interval 8',
    },
  },
  'levels': {
    '': {'1': '1 level', '3': '3 levels', '5': 'recommended'},
  },
}


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string(
    'results_dir', 'studies/results', 'Folder of the results of studies.'
  )
  flags.DEFINE_string(
    'output_dir', 'docs/results/study', 'Folder for tables and figures.'
  )


def lines(path: str) -> list[dict[str, Any]]:
  """Reads and checks the lines of a study.

  Args:
    path: file that `studies.study` wrote.

  Returns:
    One line per setting and seed, all made with the same code, configuration
    and digits.

  Raises:
    ValueError: a line is truncated, invalid, edited or duplicated, or lines
      were made with different code, configurations or digits.
  """
  with open(path, encoding='utf-8', errors='replace') as f:
    texts = f.read().splitlines()
  found = {}
  for number, text in enumerate(texts, 1):
    where = f'{path}, line {number}'
    try:
      line = json.loads(text)
    except ValueError:
      raise ValueError(
        f'{where}: truncated or not JSON; expected a run. To train '
        'the run again, remove the line.'
      ) from None
    key = _key(line)
    if key is None:
      raise ValueError(
        f'{where}: not a run of a study; expected setting, '
        'seed, overrides, and scores or an error. Remove the '
        'line.'
      )
    if 'digest' in line and line['digest'] != digest(line):
      raise ValueError(
        f'{where}: {key[0]!r}, seed {key[1]}, was edited after '
        'it was written. To train the run again, remove the line.'
      )
    if key in found:
      raise ValueError(
        f'{where}: {key[0]!r}, seed {key[1]}, occurs twice. '
        'Remove one of the lines.'
      )
    found[key] = line
  made = [line.get('made_with') or {} for line in found.values()]
  for other in made[1:]:
    # Older lines have fewer fields.
    both = made[0].keys() & other.keys()
    files.require_equal(
      path,
      {k: made[0][k] for k in both},
      {k: other[k] for k in both},
      'Move them to separate files.',
      expected='lines that were all made with the same settings',
    )
  return list(found.values())


def _key(line: Any):
  """Returns the setting and seed of a line, or None if it is not a run."""
  if not isinstance(line, dict) or not {'setting', 'seed'} <= line.keys():
    return None
  scores = line.get('scores')
  if not (isinstance(scores, dict) or 'error' in line):
    return None
  return line['setting'], line['seed']


def digest(line: dict[str, Any]) -> str:
  """Returns the digest of all other fields of a line."""
  return identity.sha256({k: v for k, v in line.items() if k != 'digest'})


def read(path: str) -> dict[str, dict[int, dict[str, float]]]:
  """Reads a study's scores.

  Failed runs are skipped and reported on standard error, as is the number of
  lines without a digest, which may have been edited.

  Args:
    path: file that `studies.study` wrote.

  Returns:
    A mapping from setting to seed to scores, in the order of the lines.

  Raises:
    ValueError: see `lines`.
  """
  found, unverified = {}, 0
  for line in lines(path):
    setting, seed = line['setting'], line['seed']
    unverified += 'digest' not in line
    if 'error' in line:
      print(
        f'{path}: {setting}, seed {seed}, failed: {line["error"]}',
        file=sys.stderr,
      )
    else:
      found.setdefault(setting, {})[seed] = line['scores']
  if unverified:
    print(
      f'{path}: {unverified} lines are unverified: they were written '
      'before lines had a digest.',
      file=sys.stderr,
    )
  return found


def interval(values: Sequence[float]) -> tuple[float, float]:
  """Returns the mean and the half width of its confidence interval.

  Args:
    values: one value per seed. The half width is NaN for one or two values.
  """
  values = np.asarray(values, float)
  if len(values) < _FEWEST:
    return float(values.mean()), float('nan')
  error = stats.sem(values)
  quantile = stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)
  return float(values.mean()), float(error * quantile)


def differences(base, twin, metric) -> np.ndarray:
  """Returns harmonized minus baseline of a metric for each common seed."""
  seeds = sorted(set(base) & set(twin))
  return np.array([twin[s][metric] - base[s][metric] for s in seeds])


def _cell(values, sign='') -> str:
  """Formats the mean and its interval, or one or two values."""
  if len(values) < _FEWEST:
    return ' / '.join(f'{v:{sign}.3f}' for v in values)
  mean, half = interval(values)
  return f'{mean:{sign}.3f} ± {half:.3f}'


def table(runs) -> str:
  """Formats scores, as returned by `read`, as a Markdown table."""
  lines = [
    '| setting | seeds | ' + ' | '.join(COLUMNS.values()) + ' |',
    '|---|---|' + '---|' * len(COLUMNS),
  ]
  for name, seeds in runs.items():
    cells = [_cell([seeds[s][m] for s in sorted(seeds)]) for m in COLUMNS]
    lines.append(f'| {name} | {len(seeds)} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def baselines(runs) -> dict[str, str]:
  """Finds the baseline of each other setting.

  Args:
    runs: as returned by `read`.

  Returns:
    A mapping from setting to baseline: from 'a, b' to 'a, baseline' if that
    exists, otherwise to 'baseline'. Settings that share no seed with their
    baseline are skipped.
  """
  found = {}
  for name in runs:
    if not name.endswith(_BASELINE):
      own = f'{name.split(",")[0]}, {_BASELINE}'
      base = own if own in runs else _BASELINE
      if set(runs[name]) & set(runs.get(base, ())):
        found[name] = base
  return found


def table_of_differences(runs) -> str:
  """Formats the differences of settings from their baselines as Markdown.

  Args:
    runs: as returned by `read`.

  Returns:
    The table. Its last column counts the seeds for which rho increases, and
    those for which accuracy out of distribution increases.
  """
  lines = [
    '| setting | seeds | '
    + ' | '.join(COLUMNS.values())
    + ' | seeds up: rho, out of distribution |',
    '|---|---|' + '---|' * (len(COLUMNS) + 1),
  ]
  for name, base in baselines(runs).items():
    changes = {m: differences(runs[base], runs[name], m) for m in COLUMNS}
    cells = [_cell(c, '+') for c in changes.values()]
    rise = ', '.join(
      str(int(np.sum(changes[m] > 0)))
      for m in ('alignment_spearman', 'accuracy')
    )
    lines.append(
      f'| {name} | {len(changes["accuracy"])} | '
      + ' | '.join(cells)
      + f' | {rise} |'
    )
  return '\n'.join(lines) + '\n'


def _canvas(columns: int, width: float = 4.0, height: float = 3.6):
  picture = figure.Figure(
    figsize=(width * columns, height), dpi=120, layout='constrained'
  )
  return picture, picture.subplots(1, columns, squeeze=False)[0]


def _title(twin: str) -> str:
  """Splits the name of a setting into the network and the rest."""
  return twin.replace(', harmonized', '')


def draw_trade_off(path: str, runs):
  """Draws a panel per network and an arrow per seed."""
  pairs = baselines(runs)
  picture, axes = _canvas(len(pairs))
  for axis, (twin, base) in zip(axes, pairs.items()):
    for metric, colour in (
      ('clickme_accuracy', 'tab:gray'),
      ('accuracy', 'tab:blue'),
    ):
      for seed in sorted(set(runs[base]) & set(runs[twin])):
        start, end = (
          (s[metric], s['alignment_spearman'])
          for s in (runs[base][seed], runs[twin][seed])
        )
        axis.annotate(
          '',
          end,
          start,
          arrowprops=dict(arrowstyle='->', color=colour, alpha=0.7),
        )
        axis.plot(*start, 'o', color=colour, markersize=4)
        # Arrows do not widen the axes; these points do.
        axis.plot(*end, '.', color=colour, markersize=1)
      axis.plot([], [], 'o-', color=colour, markersize=4, label=COLUMNS[metric])
    axis.margins(0.08)
    axis.set(
      title=_title(twin), xlabel='accuracy', ylabel='alignment, Spearman rho'
    )
    axis.legend(fontsize=8, loc='lower center')
  picture.savefig(path)


def draw_revealed(path: str, runs):
  """Draws accuracy against the revealed part of the image, with intervals."""
  pairs = baselines(runs)
  some = next(iter(next(iter(runs.values())).values()))
  levels = sorted(
    int(m.split('_')[1]) for m in some if m.startswith('revealed_')
  )
  picture, axes = _canvas(len(pairs))
  for axis, names in zip(axes, pairs.items()):
    for name in reversed(names):
      points = [
        interval([s[f'revealed_{k}'] for s in runs[name].values()])
        for k in levels
      ]
      axis.errorbar(
        levels,
        *np.transpose(points),
        capsize=3,
        marker='o',
        label=name.split(', ')[1],
      )
    axis.set(
      title=_title(names[0]),
      xscale='log',
      xticks=levels,
      xticklabels=levels,
      xlabel='top of the human map shown, % of the image',
      ylabel='accuracy',
      ylim=(0, 1),
    )
    axis.minorticks_off()
    axis.axhline(0.1, color='gray', linestyle=':', linewidth=1, label='chance')
    axis.legend(fontsize=8, loc='upper left')
  picture.savefig(path)


def draw_ablations(path: str, runs):
  """Draws a row per setting and a point per seed; lines mark two settings."""
  names = list(runs)[::-1]
  metrics = ('alignment_spearman', 'accuracy', 'clickme_accuracy')
  picture, axes = _canvas(len(metrics), 3.4, 1.0 + 0.22 * len(names))
  for axis, metric in zip(axes, metrics):
    for row, name in enumerate(names):
      values = [s[metric] for s in runs[name].values()]
      axis.plot(
        values,
        [row] * len(values),
        'o',
        color='tab:blue',
        markersize=4,
        alpha=0.7,
      )
      axis.plot(np.mean(values), row, '|', color='black', markersize=10)
    for name, style in ((_RECOMMENDED, '--'), (_BASELINE, ':')):
      if name in runs:
        axis.axvline(
          np.mean([s[metric] for s in runs[name].values()]),
          color='gray',
          linestyle=style,
          linewidth=1,
        )
    axis.set(yticks=range(len(names)), xlabel=COLUMNS[metric])
    axis.set_yticklabels(names if axis is axes[0] else [], fontsize=8)
    axis.grid(axis='y', alpha=0.3)
  picture.savefig(path)


def draw_curves(path: str, runs):
  """Draws three scores along each ordered option, for settings in `runs`."""
  picture, axes = _canvas(len(CURVES), 3.4, 3.8)
  colours = {
    'alignment_spearman': 'tab:orange',
    'accuracy': 'tab:blue',
    'clickme_accuracy': 'tab:gray',
  }
  for axis, (knob, curves) in zip(axes, CURVES.items()):
    axis.sharey(axes[0])
    for style, (label, names) in zip(('-', '--', ':'), curves.items()):
      for metric, colour in colours.items():
        points = [
          (i, *interval([s[metric] for s in runs[name].values()]))
          for i, name in enumerate(names.values())
          if name in runs
        ]
        axis.errorbar(
          *np.reshape(points, (-1, 3)).T,
          capsize=2,
          marker='.',
          color=colour,
          linestyle=style,
        )
      if label:
        axis.plot([], [], color='black', linestyle=style, label=label)
        axis.legend(fontsize=8)
    axis.set(xticks=range(len(names)), xlabel=knob)
    axis.set_xticklabels(names, fontsize=8)
    axis.grid(alpha=0.3)
  picture.legend(
    handles=[
      axes[0].plot([], [], '.-', color=colour, label=COLUMNS[metric])[0]
      for metric, colour in colours.items()
    ],
    loc='outside lower center',
    ncols=len(colours),
  )
  picture.savefig(path)


def main(_):
  """Writes all tables and figures."""
  os.makedirs(FLAGS.output_dir, exist_ok=True)

  def path(name):
    return os.path.join(FLAGS.output_dir, name)

  paths = {
    name: os.path.join(FLAGS.results_dir, f'{name}.jsonl') for name in STUDIES
  }
  missing = [f for f in paths.values() if not os.path.exists(f)]
  if missing:
    raise SystemExit(
      f'study_report: {", ".join(missing)} does not exist. To train the runs, '
      'use studies.study.'
    )
  found = {name: read(f) for name, f in paths.items()}
  without = [
    paths[name] for name, scores in found.items() if not baselines(scores)
  ]
  if without:
    raise SystemExit(
      f'study_report: {", ".join(without)} contains no setting '
      'with its baseline yet. Train more runs.'
    )
  for name, scores in found.items():
    text = f'{table(scores)}\n{table_of_differences(scores)}'
    with open(path(f'{name}.md'), 'w') as f:
      f.write(text)
    print(text)
  twins, ablations = found['twins'], found['ablations']
  draw_trade_off(path('trade_off.png'), twins)
  draw_revealed(path('revealed.png'), twins)
  draw_ablations(path('ablations.png'), ablations)
  draw_curves(path('curves.png'), ablations)


def run():
  """Runs the command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
