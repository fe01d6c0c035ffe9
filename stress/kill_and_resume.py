# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Kills runs at random moments and compares them with an uninterrupted run.

  python -m stress.kill_and_resume

A tiny experiment (ResNet-10, 32 pixels, momentum, moving average of weights,
harmonization every second step with an increasing weight) is trained with
train.py on one thread. Its data are one batch, so that the order in which a
process reads them does not matter. First it runs twice without interruption,
and the two runs must agree. Then runs are killed, five times each, and resumed
until they end. After each kill, the latest checkpoint is compared with that of
the uninterrupted run at the same step; at the end, all logs and the final
checkpoint are compared: weights, slots, averages and counters, bit for bit.

The results have one JSON line per kill. Runs with lines in them are skipped.
"""

# Bazel: data = ["//:train"]

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from absl import flags
import numpy as np
import tensorflow as tf
import tqdm
import yaml

from official_ext.harmonization import cli
from official_ext.harmonization import runner
from testing import fixtures

FLAGS = flags.FLAGS

MOMENTS = ('start', 'step', 'checkpoint', 'evaluation', 'evaluation_files')
_SIGNALS = ('SIGKILL', 'SIGTERM')
_SUBFOLDERS = ('', 'best', 'ema_checkpoints')
# Model Garden counts the saves of a process, which are not part of the run.
_COUNTER = 'save_counter'
_SCORES = re.compile(r"'(\w+)': (?:np\.float\d+\()?([^,)}\s]+)")
# One thread, so that sums have one order.
ENVIRONMENT = {
  'PYTHONUNBUFFERED': '1',
  'CUDA_VISIBLE_DEVICES': '',
  'TF_NUM_INTRAOP_THREADS': '1',
  'TF_NUM_INTEROP_THREADS': '1',
  'OMP_NUM_THREADS': '1',
}
_LINES = re.compile(
  r'^ ?(train|eval) \| step:\s+(\d+) \|[^\n{]*output:\s*(\{[^}]*\})', re.M
)


def define_flags():
  """Defines the flags."""
  flags.DEFINE_integer('runs', 4, 'Number of runs to kill.', lower_bound=1)
  flags.DEFINE_integer(
    'kills', len(MOMENTS), 'Number of kills per run.', lower_bound=1
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the moments.')
  flags.DEFINE_integer(
    'train_steps', 24, 'Training steps of a run.', lower_bound=1
  )
  flags.DEFINE_string(
    'work_dir',
    'runs/kill_and_resume',
    'Folder of the runs while they are needed.',
  )
  flags.DEFINE_string(
    'output',
    'runs/benchmarks/kill_and_resume.jsonl',
    'File for the results, one JSON line per kill.',
  )


def write_experiment(folder: str, train_steps: int) -> str:
  """Writes the records and the configuration file, and returns its path."""
  records = fixtures.write_numbered(folder, 'one_batch.tfrecords', 4)
  config = {
    'task': {
      'model': {
        'num_classes': fixtures.CLASSES,
        'input_size': [32, 32, 3],
        'backbone': {'resnet': {'model_id': 10}},
      },
      'losses': {'one_hot': True, 'soft_labels': False},
      'harmonization': {
        'mapped_fraction': 1.0,
        'weight': 2.0,
        'ceiling': 1.0,
        'interval': 2,
        'warmup_steps': 10,
      },
      'train_data': {'global_batch_size': 4, 'mixup_and_cutmix': None},
      'validation_data': {'global_batch_size': 4, 'input_path': ''},
      'mapped_data': {
        'input_path': records,
        'label_offset': 0,
        'aug_crop': False,
        'aug_rand_hflip': False,
        'mixup_and_cutmix': None,
        'shuffle_buffer_size': 1,
        'deterministic': True,
      },
      'mapped_validation_data': {'input_path': records, 'label_offset': 0},
    },
    'trainer': {
      'train_steps': train_steps,
      'steps_per_loop': 1,
      'summary_interval': 1,
      'checkpoint_interval': 2,
      'validation_interval': 6,
      'max_to_keep': 2,
      'best_checkpoint_export_subdir': 'best',
      'best_checkpoint_eval_metric': 'alignment',
      'optimizer_config': {
        'optimizer': {'type': 'sgd', 'sgd': {'momentum': 0.9}},
        'ema': {'average_decay': 0.9},
        'learning_rate': {
          'type': 'cosine',
          'cosine': {'initial_learning_rate': 0.05, 'decay_steps': 40},
        },
        'warmup': {
          'type': 'linear',
          'linear': {'warmup_steps': 5, 'warmup_learning_rate': 0.0},
        },
      },
    },
    'runtime': {'distribution_strategy': 'one_device', 'num_gpus': 0},
  }
  path = os.path.join(folder, 'experiment.yaml')
  with open(path, 'w') as f:
    yaml.safe_dump(config, f)
  return path


def program(*command: str):
  """Returns a function that starts a command, for `Run`."""

  def start(model_dir, log):
    return subprocess.Popen(
      [*command, f'--model_dir={model_dir}'],
      stdout=log,
      stderr=subprocess.STDOUT,
      env=os.environ | ENVIRONMENT,
    )

  return start


class Run:
  """A run, in as many processes as it needs."""

  def __init__(self, start, model_dir: str):
    """Initializes a run without starting it.

    Args:
      start: function of `model_dir` and of an open file for the output. It
        returns a process like `subprocess.Popen`.
      model_dir: folder of the run. Logs are written beside it.
    """
    self.model_dir = model_dir
    self._start_process = start
    self.logs = []

  def _start(self):
    path = f'{self.model_dir}-{len(self.logs)}.log'
    self.logs.append(path)
    with open(path, 'w') as log:
      return self._start_process(self.model_dir, log)

  def log(self) -> str:
    """Returns the output of the latest process."""
    with open(self.logs[-1]) as f:
      return f.read()

  def finish(self):
    """Runs the command until it ends."""
    if self._start().wait():
      raise RuntimeError(f'The run failed. See {self.logs[-1]}.')

  def kill(self, moment: str, signal_name: str, rng) -> bool:
    """Starts a process and kills it.

    Args:
      moment: one of `MOMENTS`.
      signal_name: 'SIGKILL' or 'SIGTERM'.
      rng: generator that chooses among moments of that kind.

    Returns:
      Whether the moment occurred. Otherwise the run has ended.
    """
    reached = self._condition(moment, rng)
    process = self._start()
    while not reached():
      if process.poll() is not None:
        if process.returncode:
          raise RuntimeError(f'The run failed. See {self.logs[-1]}.')
        return False
      time.sleep(0.001 if 'files' in moment or moment == 'checkpoint' else 0.02)
    process.send_signal(getattr(signal, signal_name))
    process.wait()
    return True

  def _condition(self, moment: str, rng):
    """Returns a function that returns whether a moment has occurred."""
    start = time.time()
    delay = rng.uniform(0.0, 12.0 if moment == 'start' else 0.3)
    sightings_needed, steps_needed = rng.integers((1, 2), (4, 6))
    sightings = [False]

    def late(seen):
      if not seen:
        return False
      time.sleep(delay)
      return True

    def unfinished(folders):
      found = any(files_left(os.path.join(self.model_dir, f)) for f in folders)
      if found != sightings[-1]:
        sightings.append(found)
      return sum(sightings) >= sightings_needed

    return {
      'start': lambda: time.time() > start + delay,
      'step': lambda: late(self.log().count('\ntrain | step:') > steps_needed),
      'checkpoint': lambda: unfinished(_SUBFOLDERS[:1]),
      'evaluation': lambda: late('running complete' in self.log()),
      'evaluation_files': lambda: unfinished(_SUBFOLDERS[1:]),
    }[moment]


def files_left(folder: str) -> list:
  """Returns the unfinished files of a folder."""
  if not os.path.isdir(folder):
    return []
  return sorted(n for n in os.listdir(folder) if 'temp' in n or '.tmp' in n)


def state(prefix: str) -> dict:
  """Reads a checkpoint, except for Model Garden's count of saves."""
  reader = tf.train.load_checkpoint(prefix)
  return {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if _COUNTER not in name and 'OBJECT_GRAPH' not in name
  }


def differences(found: dict, expected: dict) -> list:
  """Returns names whose values differ in any bit or exist on one side only."""
  names = sorted(set(found) | set(expected))
  return [
    n
    for n in names
    if n not in found
    or n not in expected
    or not np.array_equal(found[n], expected[n])
  ]


def logged(paths) -> dict:
  """Returns the values that processes logged, as text, by kind and step."""
  found = {}
  for path in paths:
    with open(path) as f:
      for kind, step, output in _LINES.findall(f.read()):
        # The best score, if read from a file, is logged with more digits.
        values = {k: str(np.float32(v)) for k, v in _SCORES.findall(output)}
        values.pop('steps_per_second', None)
        found.setdefault((kind, int(step)), []).append(values)
  return found


def kill_one(
  run: Run, moment: str, signal_name: str, unbroken: Run, rng
) -> dict:
  """Kills a run once and compares the checkpoint that it left."""
  happened = run.kill(moment, signal_name, rng)
  step = runner.step_to_resume(run.model_dir)
  point = {
    'moment': moment if happened else 'none, it ended',
    'signal': signal_name if happened else None,
    'last_step_logged': max(
      [s for k, s in logged(run.logs) if k == 'train'], default=0
    ),
    'checkpoint': step,
    'unfinished_files': sum(
      (files_left(os.path.join(run.model_dir, f)) for f in _SUBFOLDERS), []
    ),
    'differs': [],
  }
  if step:
    point['differs'] = differences(
      *(
        state(os.path.join(r.model_dir, f'ckpt-{step}'))
        for r in (run, unbroken)
      )
    )
  return point


def compare(run: Run, unbroken: Run) -> dict:
  """Compares a run that has ended with the uninterrupted run."""
  found, expected = logged(run.logs), logged(unbroken.logs)
  wrong = [
    f'{kind} {step}'
    for (kind, step), values in sorted(found.items())
    if any(v != expected[kind, step][0] for v in values)
  ]
  ends, bests = (
    [
      tf.train.latest_checkpoint(os.path.join(r.model_dir, folder))
      for r in (run, unbroken)
    ]
    for folder in ('', 'best')
  )
  texts = [open(path).read() for path in run.logs]
  return {
    'final_step': runner.step_to_resume(run.model_dir),
    'final_differs': differences(*map(state, ends)),
    'final_tensors': len(state(ends[1])),
    'best_differs': differences(*(state(b) if b else {} for b in bests)),
    'logs_that_differ': wrong,
    'logs_missing': [f'{k} {s}' for k, s in sorted(set(expected) - set(found))],
    # Each process that resumes must log that the data start over.
    'resumed': sum('restored from checkpoint' in t for t in texts),
    'said_that_data_start_over': sum('start over' in t for t in texts),
    'checkpoints_kept': len(
      tf.io.gfile.glob(os.path.join(run.model_dir, 'ckpt-*.index'))
    ),
  }


def unbroken_run(start, folder: str) -> Run:
  """Trains the uninterrupted run, which must keep all its checkpoints."""
  runs = [Run(start, os.path.join(folder, f'unbroken-{k}')) for k in range(2)]
  for run in runs:
    run.finish()
  result = compare(*runs)
  if result['final_differs'] or result['logs_that_differ']:
    raise RuntimeError(f'Two uninterrupted runs differ: {result}.')
  return runs[0]


def killed_run(
  run: Run, kills: int, unbroken: Run, rng, moments=MOMENTS
) -> list:
  """Kills a run `kills` times, finishes it, and returns a line per kill."""
  order = [
    m
    for _ in range(-(-kills // len(moments)))
    for m in rng.permutation(moments)
  ][:kills]
  points = [
    kill_one(run, str(moment), str(rng.choice(_SIGNALS)), unbroken, rng)
    for moment in order
  ]
  run.finish()
  result = compare(run, unbroken)
  name = os.path.basename(run.model_dir)
  return [{'run': name, 'kill': k, **p, **result} for k, p in enumerate(points)]


def main(_):
  """Kills and compares runs, and writes the lines."""
  os.makedirs(os.path.dirname(FLAGS.output) or '.', exist_ok=True)
  done = set()
  if os.path.exists(FLAGS.output):
    with open(FLAGS.output) as f:
      done = {json.loads(line)['run'] for line in f}
  names = [f'seed{FLAGS.seed}-run{k}' for k in range(FLAGS.runs)]
  todo = [(k, n) for k, n in enumerate(names) if n not in done]
  if not todo:
    print(f'{FLAGS.output} already contains all runs. Give another --output.')
    return
  shutil.rmtree(FLAGS.work_dir, ignore_errors=True)
  os.makedirs(FLAGS.work_dir)
  folder = os.path.abspath(FLAGS.work_dir)
  command = [
    sys.executable,
    'train.py',
    '--experiment=harmonized_resnet_imagenet',
    f'--config_file={write_experiment(folder, FLAGS.train_steps)}',
    '--seed=1',
  ]
  unbroken = unbroken_run(
    program(*command, '--params_override=trainer.max_to_keep=1000'), folder
  )
  for k, name in tqdm.tqdm(todo, unit='run'):
    rng = np.random.default_rng([FLAGS.seed, k])
    run = Run(program(*command), os.path.join(folder, name))
    lines = killed_run(run, FLAGS.kills, unbroken, rng)
    shutil.rmtree(run.model_dir)
    with open(FLAGS.output, 'a') as f:
      f.writelines(json.dumps(line) + '\n' for line in lines)
  print(f'{FLAGS.output}: done.')


if __name__ == '__main__':
  define_flags()
  cli.run(main, __name__)
