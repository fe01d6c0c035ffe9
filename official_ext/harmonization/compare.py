# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Compares a baseline run with a harmonized run of the same experiment.

  python -m official_ext.harmonization.compare \
      --baseline=runs/digits/baseline --harmonized=runs/digits/harmonized

Evaluates both on their validation data, prints a table with the differences,
their 95 % intervals and tests, paired over images, and writes results.json and
panels.png (image | human map | baseline saliency | harmonized saliency).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import os

from etils import epy

from official_ext.harmonization import cli

with epy.lazy_imports():
  import tensorflow as tf

  from official_ext.harmonization import files
  from official_ext.harmonization import resources
  from official_ext.harmonization.benchmark import run_images
  from official_ext.harmonization.benchmark import runs
  from official_ext.harmonization.benchmark import statistics
  from official_ext.harmonization.evaluation import panels
  from official_ext.harmonization.evaluation import scores as scores_lib
  from official_ext.harmonization.tasks import alignment_evaluation
  from official_ext.harmonization.tasks import human_ceiling

_PANEL_ROWS = 6


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command."""

  baseline: str = cli.flag(
    '', 'Folder of the run with weight 0.', required=True
  )
  harmonized: str = cli.flag('', 'Folder of the harmonized run.', required=True)
  output_dir: str = cli.flag(
    '',
    'Folder for results.json and panels.png. By default the folder of the '
    'harmonized run.',
  )


def _rows(config) -> Sequence[tuple[str, str]]:
  """Returns the metric and the description of each row of the table."""
  validation = config.task.validation_data.input_path
  with_maps = config.task.mapped_validation_data.input_path
  ceiling = human_ceiling.of(config.task)
  normalized = 'raw' if ceiling == 1 else f'over the ceiling {ceiling:.4f}'
  return (
    ('step', 'training steps'),
    ('clickme_accuracy', f'accuracy on {with_maps}'),
    ('accuracy', f'accuracy on {validation}'),
    ('alignment', f'alignment, mean Spearman rho, {normalized}'),
    ('alignment_shuffled', "rho with other images' human maps, raw"),
    ('alignment_specific', 'specific alignment: the difference, raw'),
    ('alignment_dice', 'Dice at the 90th percentile'),
    ('alignment_n', 'images scored for alignment'),
    ('alignment_n_undefined', 'images whose score is undefined'),
  )


def format_table(
  scores: Mapping[str, dict[str, float]],
  rows,
  differences: 'Mapping[str, statistics.Estimate] | None' = None,
) -> str:
  """Formats scores as text.

  Args:
    scores: values by metric, by run.
    rows: (metric, description) pairs; a metric that no run has is skipped.
    differences: of the second from the first run, by metric, or None.

  Returns:
    The table, one line per metric.
  """
  rows = [r for r in rows if any(r[0] in s for s in scores.values())]
  width = max(len(description) for _, description in rows)
  lines = [' ' * width + ''.join(f'{name:>13}' for name in scores)]
  if differences:
    lines[0] += f'{"difference":>13}{"95 % interval":>19}{"p":>10}'
  for metric, description in rows:
    values = [s.get(metric, float('nan')) for s in scores.values()]
    is_count = metric == 'step' or metric.startswith('alignment_n')
    form = '13.0f' if is_count else '13.3f'
    lines.append(
      f'{description:<{width}}' + ''.join(f'{v:{form}}' for v in values)
    )
    if differences and metric in differences:
      lines[-1] += _difference(differences[metric])
  return '\n'.join(lines)


def _difference(found: 'statistics.Estimate') -> str:
  """Formats a difference, its interval and its p-value."""
  text = f'{found.value:+13.3f}'
  if math.isnan(found.p):
    return f'{text}{"-":>19}{"-":>10}'
  interval = f'[{found.low:.3f}, {found.high:.3f}]'
  return f'{text}{interval:>19}{statistics.p_text(found.p):>10}'


def _map_words(folders: Mapping[str, str]) -> str:
  """Describes the maps that the evaluations of all runs score.

  Raises:
    ValueError: the runs score different maps.
  """
  words = {
    name: alignment_evaluation.explainer_words(
      runs.load_config(resources.working_path(folder)).task.harmonization
    )
    for name, folder in folders.items()
  }
  if len(set(words.values())) > 1:
    found = '; '.join(f'{name}: {w}' for name, w in words.items())
    raise ValueError(
      'task.harmonization.evaluation_explainer and explainer_samples: the runs '
      f'score different maps ({found}); expected the same, since scores of '
      'different maps cannot be compared. Use evaluate, whose --explainers '
      'hold for all networks.'
    )
  return next(iter(words.values()))


def main(options: Options):
  """Evaluates the two runs and writes the comparison."""
  output_dir = resources.working_path(options.output_dir or options.harmonized)
  folders = {'baseline': options.baseline, 'harmonized': options.harmonized}
  scored_maps = _map_words(folders)
  scores, maps, images_of = {}, {}, []
  for name, folder in folders.items():
    print(f'Evaluating {name} ({folder}) ...', flush=True)
    run = runs.Run(resources.working_path(folder))
    # `evaluate` scores moving averages if there are any; draw the same weights.
    run.use_averages()
    scores[name] = {'step': run.step, **run.evaluate()}
    images_of.append(run_images.measure(run))
    images, targets, human, records = run.examples_with_maps(_PANEL_ROWS)
    _, saliency = alignment_evaluation.logits_and_maps(
      run.model, images, targets, records, run.config.task.harmonization
    )
    maps.setdefault('human map', human.numpy())
    maps[f'{name} saliency'] = saliency.numpy()

  tf.io.gfile.makedirs(output_dir)
  picture = os.path.join(output_dir, 'panels.png')
  panels.draw(picture, panels.to_display(images.numpy()), maps)
  differences = run_images.differences(*images_of)
  results = os.path.join(output_dir, 'results.json')
  files.write_json(
    results,
    {
      'folders': folders,
      'maps_compared_at': list(images.shape[1:3]),
      'saliency': scored_maps,
      'scores': scores,
      'differences': scores_lib.json_safe(
        {name: dataclasses.asdict(d) for name, d in differences.items()}
      ),
    },
  )
  print('\n' + format_table(scores, _rows(run.config), differences))
  print(f'Alignment is that of these maps: {scored_maps}.')
  print(
    "Differences are paired over images (Student's t) and hold for these two "
    'runs; other seeds may differ. "-" means that all images have the same '
    'difference.'
  )
  if len({s['step'] for s in scores.values()}) > 1:
    print(
      'The two runs were trained for different numbers of steps, so their '
      'difference is not only due to harmonization.'
    )
  print(f'\nWritten: {results}, {picture}')


def run():
  """Runs the command."""
  cli.run(main, Options, resumes=False)


if __name__ == '__main__':
  run()
