r"""Compares a baseline with its harmonized twin.

  python -m official_ext.harmonization.compare \
      --baseline=runs/digits/baseline --harmonized=runs/digits/harmonized

Evaluates both on their validation data, prints a table, and writes results.json
and panels.png (image | human map | baseline saliency | harmonized saliency).
"""

from collections.abc import Mapping
import os

from absl import flags
import tensorflow as tf

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.evaluation import panels
from official_ext.harmonization.ops import saliency as saliency_ops
from official_ext.harmonization.tasks import human_ceiling

FLAGS = flags.FLAGS

_PANEL_ROWS = 6


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string('baseline', None, 'Folder of the run with weight 0.')
  flags.DEFINE_string('harmonized', None, 'Folder of the harmonized run.')
  flags.DEFINE_string(
    'output_dir',
    None,
    'Where results.json and panels.png are written. The '
    'folder of the harmonized run by default.',
  )
  flags.mark_flags_as_required(['baseline', 'harmonized'])


def _rows(config):
  """The table's rows: metric, what it is, digits."""
  validation = config.task.validation_data.input_path
  mapped = config.task.mapped_validation_data.input_path
  ceiling = human_ceiling.of(config.task)
  normalized = 'raw' if ceiling == 1 else f'over the ceiling {ceiling:.4f}'
  return (
    ('step', 'training steps'),
    ('clickme_accuracy', f'accuracy on {mapped}'),
    ('accuracy', f'accuracy on {validation}'),
    ('alignment', f'alignment, mean Spearman rho, {normalized}'),
    ('alignment_dice', 'Dice at the 90th percentile'),
    ('alignment_n', 'images scored for alignment'),
    ('alignment_n_undefined', 'images whose score is undefined'),
  )


def format_table(scores: Mapping[str, dict[str, float]], rows) -> str:
  """Formats scores as text.

  Args:
    scores: run names to metric names to values.
    rows: (metric, description) pairs; those that no run has are left out.

  Returns:
    The table, one line per metric.
  """
  rows = [r for r in rows if any(r[0] in s for s in scores.values())]
  width = max(len(description) for _, description in rows)
  lines = [' ' * width + ''.join(f'{name:>13}' for name in scores)]
  for metric, description in rows:
    values = [s.get(metric, float('nan')) for s in scores.values()]
    counts = metric == 'step' or metric.startswith('alignment_n')
    form = '13.0f' if counts else '13.3f'
    lines.append(
      f'{description:<{width}}' + ''.join(f'{v:{form}}' for v in values)
    )
  return '\n'.join(lines)


def main(_):
  """Evaluates the two runs and reports."""
  output_dir = resources.working_path(FLAGS.output_dir or FLAGS.harmonized)
  folders = {'baseline': FLAGS.baseline, 'harmonized': FLAGS.harmonized}
  scores, maps = {}, {}
  for name, folder in folders.items():
    print(f'Evaluating {name} ({folder}) ...', flush=True)
    run = runs.Run(resources.working_path(folder))
    run.use_averages()  # What is drawn is what is scored.
    scores[name] = {'step': run.step, **run.evaluate()}
    images, targets, human = run.examples_with_maps(_PANEL_ROWS)
    _, saliency = saliency_ops.saliency_maps(
      run.model, images, targets, reduction='abs_max', training=False
    )
    maps.setdefault('human map', human.numpy())
    maps[f'{name} saliency'] = saliency.numpy()

  tf.io.gfile.makedirs(output_dir)
  picture = os.path.join(output_dir, 'panels.png')
  panels.draw(picture, panels.to_display(images.numpy()), maps)
  results = os.path.join(output_dir, 'results.json')
  files.write_json(
    results,
    {
      'folders': folders,
      'maps_compared_at': list(images.shape[1:3]),
      'saliency': "gradient of the label's logit, abs_max over channels",
      'scores': scores,
    },
  )
  print('\n' + format_table(scores, _rows(run.config)))
  if len({s['step'] for s in scores.values()}) > 1:
    print(
      'The two were not trained for the same number of steps: this is no '
      'comparison of twins.'
    )
  print(f'\nWritten: {results}, {picture}')


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__, resumes=False)


if __name__ == '__main__':
  run()
