r"""Trains a grid of settings over seeds and writes one JSON line per run.

  python -m benchmarks.study --study=benchmarks/studies/twins.yaml

A study is a YAML file: the experiment, its configuration file, `common`
overrides, `seeds`, and `settings`, each a name and its overrides. With
`starts_from`, the name of a setting above, a run starts from the weights of
that one's with the same seed. A run whose line stands in the results is not
repeated, so that a study can be stopped and started again. Needs the digits of
`python -m official_ext.harmonization.data.make_digits_clickme`.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from absl import app
from absl import flags
import tf_keras
import tqdm
import yaml

from official_ext.harmonization.evaluation import runs
from benchmarks import decisions

_STUDY = flags.DEFINE_string('study', None, 'YAML file of the study.',
                             required=True)
_OUTPUT = flags.DEFINE_string(
    'output', None,
    'File for the results, one JSON line per run. '
    'benchmarks/results/<name of the study>.jsonl by default.')
_RUNS = flags.DEFINE_string('runs_dir', 'runs/studies',
                            'Where runs are kept while they are needed.')

_START = 'starts_from'
_METRICS = ('clickme_accuracy', 'accuracy', 'alignment_spearman',
            'alignment_dice', 'alignment_n')
_DIGITS = 'data/digits/{0}/{0}-*.tfrecords'


def _overrides(values):
  """A flat dict as the driver's --params_override."""
  return ','.join(f'{k}={json.dumps(v)}' for k, v in values.items())


def _train(study, overrides, seed, model_dir):
  """Runs the driver and returns the final scores."""
  command = [
      sys.executable, 'train.py', '--mode=train',
      f'--experiment={study["experiment"]}',
      f'--config_file={study["config_file"]}', f'--seed={seed}',
      f'--model_dir={model_dir}', f'--params_override={_overrides(overrides)}'
  ]
  with open(f'{model_dir}.log', 'w') as log:
    result = subprocess.run(command, stdout=log, stderr=log, check=False)
  if result.returncode:
    raise RuntimeError(f'{" ".join(command)} failed with exit code '
                       f'{result.returncode}: see {model_dir}.log.')
  tf_keras.backend.clear_session()
  run = runs.Run(model_dir)
  scores = run.evaluate()
  return {
      **{name: scores[name] for name in _METRICS},
      **decisions.measure(run, _DIGITS.format('val'),
                          _DIGITS.format('swapped')),
  }


def _folder(name, setting, seed):
  """Where a run of a study is kept while it is needed."""
  return os.path.join(_RUNS.value, name, f'{setting}-{seed}'.replace(' ', '_'))


def _with_start(overrides, name, seed):
  """Overrides with the checkpoint to start from in the place of its name."""
  overrides = dict(overrides)
  setting = overrides.pop(_START, None)
  if setting is not None:
    folder = _folder(name, setting, seed)
    if not os.path.exists(os.path.join(folder, 'checkpoint')):
      raise ValueError(
          f'{folder}, which a run starts from, is gone: remove the line of '
          f'{setting!r}, seed {seed}, from the results, and it is trained '
          'again.')
    overrides['task.init_checkpoint'] = folder
  return overrides


def _read(path):
  """The lines that are there, by setting and seed."""
  if not os.path.exists(path):
    return {}
  with open(path) as f:
    lines = [json.loads(line) for line in f]
  return {(line['setting'], line['seed']): line for line in lines}


def _table(study, lines):
  """Mean and standard deviation over seeds of each setting, as Markdown."""
  text = ['| setting | seeds | ' + ' | '.join(_METRICS) + ' | minutes |',
          '|---|---|' + '---|' * (len(_METRICS) + 1)]
  for setting in study['settings']:
    found = [line for (name, _), line in lines.items() if name == setting]
    if not found:
      continue
    cells = []
    for metric in _METRICS:
      values = [line['scores'][metric] for line in found]
      spread = statistics.stdev(values) if len(values) > 1 else float('nan')
      cells.append(f'{statistics.mean(values):.3f} ± {spread:.3f}')
    minutes = statistics.mean(line['seconds'] for line in found) / 60.
    text.append(f'| {setting} | {len(found)} | ' + ' | '.join(cells) +
                f' | {minutes:.1f} |')
  return '\n'.join(text)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  with open(_STUDY.value) as f:
    study = yaml.safe_load(f)
  name = os.path.splitext(os.path.basename(_STUDY.value))[0]
  output = _OUTPUT.value or f'benchmarks/results/{name}.jsonl'
  os.makedirs(os.path.dirname(output) or '.', exist_ok=True)
  os.makedirs(os.path.join(_RUNS.value, name), exist_ok=True)
  lines = _read(output)
  starts = {s.get(_START) for s in study['settings'].values()}
  # Seed by seed, so that a study that is stopped early compares like with like.
  grid = [(setting, seed) for seed in study['seeds']
          for setting in study['settings']]
  for setting, seed in tqdm.tqdm(grid, unit='run'):
    overrides = {**study.get('common', {}), **study['settings'][setting]}
    done = lines.get((setting, seed))
    if done:
      if done['overrides'] != overrides:
        raise ValueError(
            f'{output} holds {setting!r}, seed {seed}, with the overrides '
            f'{done["overrides"]}, the study has {overrides}: give another '
            '--output.')
      continue
    model_dir = _folder(name, setting, seed)
    shutil.rmtree(model_dir, ignore_errors=True)
    start = time.time()
    scores = _train(study, _with_start(overrides, name, seed), seed, model_dir)
    line = {'setting': setting, 'seed': seed, 'overrides': overrides,
            'scores': scores, 'seconds': round(time.time() - start, 1)}
    lines[setting, seed] = line
    with open(output, 'a') as f:
      f.write(json.dumps(line) + '\n')
    if setting not in starts:
      shutil.rmtree(model_dir)
  print(_table(study, lines))


if __name__ == '__main__':
  app.run(main)
