# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Trains for thousands of steps and records quantities that must not grow.

  python -m official_ext.harmonization.data.make_digits_clickme
  python -m stress.long_run

The experiment is experiments/local_cpu.yaml with smaller images and batches,
with evaluation and checkpoints. After each loop of steps, a JSON line records
the resident memory, how often the training and evaluation steps were traced,
and the checkpoints and bytes on disk. At the end a summary is printed. A
stopped run is resumed; its later lines have a new process id.
"""

import json
import os
import time

from absl import flags
from official.core import exp_factory
from official.core import task_factory
from official.modeling import hyperparams
import tensorflow as tf
import tf_keras

from official_ext.harmonization import cli
from official_ext.harmonization import registry_imports
from official_ext.harmonization import resources
from official_ext.harmonization import runner

FLAGS = flags.FLAGS

_MEGABYTE = 2**20


def define_flags():
  """Defines the flags."""
  flags.DEFINE_integer('train_steps', 5000, 'Training steps.', lower_bound=1)
  flags.DEFINE_integer(
    'loop',
    100,
    'Steps per loop. A line is written after each loop.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'interval',
    500,
    'Steps between checkpoints and between evaluations.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'size', 24, 'Height and width of images in pixels.', lower_bound=16
  )
  flags.DEFINE_integer('batch_size', 8, 'Images per batch.', lower_bound=1)
  flags.DEFINE_integer(
    'max_to_keep', 2, 'Number of checkpoints to keep.', lower_bound=1
  )
  flags.DEFINE_string('data', 'data/digits', 'Folder of the digits.')
  flags.DEFINE_string('model_dir', 'runs/long_run', 'Folder of the run.')
  flags.DEFINE_string(
    'output',
    'runs/benchmarks/long_run.jsonl',
    'File for the results, one JSON line per loop.',
  )


def experiment(options):
  """Returns the configuration of the run.

  Args:
    options: object with an attribute for each flag of `define_flags`.

  Returns:
    Model Garden's `ExperimentConfig`.
  """
  config = exp_factory.get_exp_config('harmonized_resnet_imagenet')
  config = hyperparams.override_params_dict(
    config, resources.find('local_cpu.yaml', 'experiments'), is_strict=True
  )
  source = '{}/{}/{}-*.tfrecords'.format
  config.override(
    {
      'task': {
        # The network and loss of the published measurements.
        'model': {
          'input_size': [options.size, options.size, 3],
          'backbone': {'resnet': {'depth_multiplier': 1.0}},
        },
        'harmonization': {'batch_norm': 'mapped', 'warmup_steps': 0},
        'train_data': {'global_batch_size': options.batch_size},
        'validation_data': {'input_path': source(options.data, 'ood', 'ood')},
        'mapped_data': {'input_path': source(options.data, 'train', 'train')},
        'mapped_validation_data': {
          'input_path': source(options.data, 'val', 'val')
        },
      },
      'trainer': {
        'train_steps': options.train_steps,
        'steps_per_loop': options.loop,
        'summary_interval': options.loop,
        'checkpoint_interval': options.interval,
        'validation_interval': options.interval,
        'max_to_keep': options.max_to_keep,
        'best_checkpoint_export_subdir': 'best',
        'best_checkpoint_eval_metric': 'alignment',
        'optimizer_config': {
          'ema': {'average_decay': 0.99},
          'learning_rate': {'cosine': {'decay_steps': options.train_steps}},
        },
      },
    }
  )
  return config


def resident_megabytes() -> float:
  """Returns the resident memory of this process, in MiB."""
  with open('/proc/self/statm') as f:
    pages = int(f.read().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / _MEGABYTE


class Meter:
  """A train action that writes a line after each loop."""

  def __init__(self, model_dir: str, output: str):
    self._model_dir = model_dir
    self._output = output
    self._start = time.time()
    self._calls = {}
    self._trainer = None

  def watch(self, trainer):
    """Sets the trainer to measure, before training starts."""
    self._trainer = trainer
    for name in ('train_step', 'validation_step'):
      self._count(trainer.task, name)

  def _count(self, task, name: str):
    # TensorFlow calls the Python function only to trace it.
    step = getattr(task, name)
    self._calls[name] = 0

    def counted(*args, **kwargs):
      self._calls[name] += 1
      return step(*args, **kwargs)

    setattr(task, name, counted)

  def __call__(self, output):
    files = [
      os.path.join(folder, name)
      for folder, _, names in os.walk(self._model_dir)
      for name in names
    ]
    with open(self._output, 'a') as f:
      f.write(
        json.dumps(
          {
            'process': os.getpid(),
            'step': int(self._trainer.global_step.numpy()),
            'seconds': round(time.time() - self._start, 1),
            'resident_megabytes': round(resident_megabytes(), 1),
            **{f'traces_of_{k}': v for k, v in self._calls.items()},
            'checkpoints': sum(
              os.path.basename(n).startswith('ckpt-') and n.endswith('.index')
              for n in files
            ),
            'checkpoint_megabytes': round(
              sum(
                os.path.getsize(n)
                for n in files
                if 'ckpt-' in n and os.path.exists(n)
              )
              / _MEGABYTE,
              2,
            ),
            'megabytes': round(
              sum(os.path.getsize(n) for n in files if os.path.exists(n))
              / _MEGABYTE,
              2,
            ),
            'training_loss': float(output['training_loss']),
          }
        )
        + '\n'
      )


def run(options) -> list:
  """Trains and returns the lines.

  Args:
    options: see `experiment`.
  """
  tf_keras.utils.set_random_seed(0)
  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  config = experiment(options)
  with strategy.scope():
    task = task_factory.get_task(config.task, logging_dir=options.model_dir)
  os.makedirs(os.path.dirname(options.output) or '.', exist_ok=True)
  meter = Meter(options.model_dir, options.output)
  found = runner.Runner(
    strategy,
    task,
    'train_and_eval',
    config,
    options.model_dir,
    train_actions=[meter],
    enable_async_checkpointing=True,
  )
  meter.watch(found.trainer)
  found.run()
  with open(options.output) as f:
    return [json.loads(line) for line in f]


def _traces(line):
  return {k: v for k, v in line.items() if k.startswith('traces')}


def summary(lines: list) -> dict:
  """Compares the end of a run with its first fifth, after the warm-up."""
  warm, last = lines[len(lines) // 5], lines[-1]
  memory = [line['resident_megabytes'] for line in lines[len(lines) // 5 :]]
  return {
    'steps': last['step'],
    'megabytes_at_a_fifth': warm['resident_megabytes'],
    'megabytes_at_the_end': last['resident_megabytes'],
    'megabytes_at_most': max(memory),
    # The first call of a function may trace it twice, to create variables.
    'traces_at_a_fifth': _traces(warm),
    'traces_at_the_end': _traces(last),
    'checkpoints_at_most': max(line['checkpoints'] for line in lines),
    'checkpoint_megabytes_at_most': max(
      line['checkpoint_megabytes'] for line in lines
    ),
  }


def main(_):
  """Trains and prints a summary."""
  print(json.dumps(summary(run(FLAGS)), indent=2))


if __name__ == '__main__':
  define_flags()
  cli.run(main, __name__)
