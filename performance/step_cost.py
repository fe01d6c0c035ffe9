# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures the time and memory that harmonization adds to a training step.

  python -m performance.step_cost --output=runs/benchmarks/step_cost.json

All cases of a model take turns in one process. The report contains the median
over rounds, and the ratio to the step without harmonization of the same mode
(graph or XLA). Ratios are computed within each round, because other load on the
machine slows both steps. There is a ratio of wall-clock time and one of
processor time over all cores; if other work shares the machine, use the second.
Memory is the growth of a process over its first steps, in one process per case.
"""

import collections
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import unittest

from absl import app
from absl import flags
from official.core import exp_factory
import tensorflow as tf
import tf_keras
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization import registry_imports
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import released

_MODELS = {
  'resnet50': {'type': 'resnet', 'resnet': {'model_id': 50}},
  'resnet10': {'type': 'resnet', 'resnet': {'model_id': 10}},
  'mobilenet_v2': {
    'type': 'mobilenet',
    'mobilenet': {'model_id': 'MobileNetV2'},
  },
  'vit_ti16': {'type': 'vit', 'vit': {'model_name': 'vit-ti16'}},
  'vit_s16': {'type': 'vit', 'vit': {'model_name': 'vit-s16'}},
}

# Name -> settings of `task.harmonization`. The first is Model Garden's step.
# Brackets contain the value of batch_norm if it is not 'mapped'.
_CASES = {
  'plain': {'enabled': False},
  'all mapped': {},
  'half mapped': {'mapped_fraction': 0.5, 'batch_norm': 'mapped'},
  'fifth mapped': {'mapped_fraction': 0.2, 'batch_norm': 'mapped'},
  'fifth mapped (batch)': {'mapped_fraction': 0.2, 'batch_norm': 'batch'},
  'fifth mapped (inference)': {
    'mapped_fraction': 0.2,
    'batch_norm': 'inference',
  },
  'interval 4': {'interval': 4},
}
_RELEASED = ('released eager', 'released tf.function')
# XLA on a CPU computes the gradients of convolutions inside a branch with plain
# loops, about fifty times slower. (Not outside of branches, and not on other
# devices.)
_IN_A_BRANCH = ('interval 4',)
_WITHOUT_CONVOLUTIONS = ('vit_ti16', 'vit_s16')

_MODELS_FLAG = flags.DEFINE_list(
  'models',
  'resnet50,mobilenet_v2,vit_s16',
  f'Models to measure, from {", ".join(_MODELS)}.',
)
_MODES = flags.DEFINE_list(
  'modes', 'graph,xla', 'Modes to measure, from graph and xla.'
)
_CASES_FLAG = flags.DEFINE_list(
  'cases',
  [*_CASES, *_RELEASED],
  'Cases to time. Ratios need the step without harmonization.',
)
_BATCH = flags.DEFINE_integer(
  'batch_size', 10, 'Images per step.', lower_bound=1
)
_SIZE = flags.DEFINE_integer('image_size', 224, 'Pixels.', lower_bound=32)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 5, 'Timings of each case.', lower_bound=1
)
_MEMORY = flags.DEFINE_list(
  'memory_cases',
  ['plain', 'all mapped', 'fifth mapped', 'released tf.function'],
  'Cases whose memory is also measured.',
)
_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'JSON file for the results. A model and mode that it contains with the '
  'same settings are skipped.',
)
_ONE_CASE = flags.DEFINE_string(
  'memory_of', None, 'Only print the memory of one "model/mode/case".'
)

_CLASSES = 1000


def _batch(mapped):
  """Returns a synthetic batch, as described in `dataloaders.joint_batches`."""
  size, pixels = _BATCH.value, _SIZE.value
  return tf.random.stateless_normal([size, pixels, pixels, 3], [1, 2]), {
    'labels': tf.range(size) % _CLASSES,
    'heatmaps': tf.random.stateless_uniform([mapped, pixels, pixels], [3, 4])
    ** 3,
    'heatmap_weights': tf.ones([mapped]),
    'valid': tf.ones([size]),
  }


def _task(backbone, **settings):
  """Returns a harmonized task and a batch with 1000 one-hot classes."""
  config = exp_factory.get_exp_config('harmonized_resnet_imagenet').task
  config.override(
    {
      'model': {
        'num_classes': _CLASSES,
        'input_size': [_SIZE.value, _SIZE.value, 3],
        'backbone': backbone,
      },
      'losses': {'one_hot': True, 'soft_labels': False},
      'train_data': {'mixup_and_cutmix': None},
      'mapped_data': {'mixup_and_cutmix': None, 'label_offset': 0},
      'mapped_validation_data': {'label_offset': 0},
      'harmonization': {
        'enabled': True,
        'weight': 1.0,
        'mapped_fraction': 1.0,
        **settings,
      },
    }
  )
  return task_lib.HarmonizedImageClassificationTask(config)


def _our_step(model_name, mode, settings):
  """Returns a function that takes one training step of the task."""
  task = _task(_MODELS[model_name], **settings)
  options = task.task_config.harmonization
  mapped = max(1, round(options.mapped_fraction * _BATCH.value))
  images, batch = _batch(mapped)
  inputs = (images, batch) if options.enabled else (images, batch['labels'])
  tf_keras.utils.set_random_seed(0)
  model, optimizer = task.build_model(), tf_keras.optimizers.SGD(1e-3, 0.9)
  optimizer.build(model.trainable_variables)
  step = tf.function(
    lambda inputs: task.train_step(inputs, model, optimizer)['loss'],
    jit_compile=mode == 'xla',
  )
  return lambda: step(inputs).numpy()


def _released_step(model_name, case):
  """Returns a step with the released loss, as in its documentation."""
  loss = released.load('training.loss')
  tf_keras.utils.set_random_seed(0)
  model = _task(_MODELS[model_name]).build_model()
  optimizer = tf_keras.optimizers.SGD(1e-3, 0.9)
  optimizer.build(model.trainable_variables)
  images, batch = _batch(_BATCH.value)
  labels = tf.one_hot(batch['labels'], _CLASSES)

  def step():
    gradients = loss.harmonizer_loss(
      model, images, batch['heatmap_weights'], labels, batch['heatmaps']
    )
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

  # Uses TensorFlow's second-order gradients, as users of the package do.
  return tf.function(step) if case.endswith('tf.function') else step


def _cases(model_name, mode):
  """Returns the cases of a model and mode. The released loss lacks XLA."""
  known = [*_CASES, *(_RELEASED if mode == 'graph' else ())]
  if mode == 'xla' and model_name not in _WITHOUT_CONVOLUTIONS:
    known = [c for c in known if c not in _IN_A_BRANCH]
  return [c for c in known if c in _CASES_FLAG.value]


def _memory_cases(model_name, mode):
  return [c for c in _cases(model_name, mode) if c in _MEMORY.value]


def _build(model_name, mode, case):
  """Returns a function that takes a step, and the steps per timing."""
  if case in _RELEASED:
    return _released_step(model_name, case), 1
  settings = _CASES[case]
  return (_our_step(model_name, mode, settings), settings.get('interval', 1))


def _spread(values):
  return {
    'median': statistics.median(values),
    'lowest': min(values),
    'highest': max(values),
  }


def _measure_time(model_name, mode, progress):
  """Returns {case: {seconds, ratio, cpu_seconds, cpu_ratio}} of a mode."""
  steps = {}
  for case in _cases(model_name, mode):
    progress.set_postfix_str(f'{model_name} {mode}: building {case}')
    try:
      steps[case] = _build(model_name, mode, case)
    except unittest.SkipTest as e:
      print(f'{case}: skipped. {e}', file=sys.stderr)
      continue
    # The first step builds and compiles; the second may still allocate.
    for _ in range(2):
      steps[case][0]()
    progress.update()
  clocks = {'': time.perf_counter, 'cpu_': time.process_time}
  times = {kind: collections.defaultdict(list) for kind in clocks}
  for _ in range(_ROUNDS.value):
    for case, (step, count) in steps.items():
      progress.set_postfix_str(f'{model_name} {mode}: timing {case}')
      start = {kind: clock() for kind, clock in clocks.items()}
      for _ in range(count):
        step()
      for kind, clock in clocks.items():
        times[kind][case].append((clock() - start[kind]) / count)
    progress.update()
  results = collections.defaultdict(dict)
  for kind, seconds in times.items():
    for case, values in seconds.items():
      results[case][f'{kind}seconds'] = _spread(values)
      if 'plain' in seconds:
        results[case][f'{kind}ratio'] = _spread(
          [v / p for v, p in zip(values, seconds['plain'])]
        )
  return results


def _resident(field):
  """Returns a value of the memory of this process from the kernel, in MiB."""
  with open('/proc/self/status') as f:
    return int(re.search(rf'{field}:\s+(\d+) kB', f.read())[1]) / 1024


def _print_memory(name):
  """Prints the growth of the process during its first steps, in MiB.

  TensorFlow's allocator keeps blocks that it once requested. The value is
  therefore the peak over all steps, rounded up to blocks, and includes memory
  that tracing and compiling left.
  """
  step, count = _build(*name.split('/', 2))
  before = _resident('VmRSS')
  for _ in range(2 * count):
    step()
  print(json.dumps({'before': before, 'steps': _resident('VmHWM') - before}))


def _measure_memory(model_name, mode, case):
  """Runs a case in a new process and returns its memory in MiB."""
  command = [
    sys.executable,
    '-m',
    'performance.step_cost',
    f'--memory_of={model_name}/{mode}/{case}',
    f'--batch_size={_BATCH.value}',
    f'--image_size={_SIZE.value}',
  ]
  result = subprocess.run(
    command, stdout=subprocess.PIPE, text=True, check=True
  )
  return json.loads(result.stdout.splitlines()[-1])


def _table(results):
  """Formats the results as Markdown."""
  lines = [
    '| model | kind | case | s / step | ratio to plain (lowest - highest) | '
    'ratio of processor time | memory of steps, MiB (ratio) |',
    '|---|---|---|---|---|---|---|',
  ]
  for key, entry in results.items():
    model_name, mode = key.split('/')
    plain = entry['cases'].get('plain', {}).get('memory')
    for case, figures in entry['cases'].items():
      ratios = [figures.get(kind) for kind in ('ratio', 'cpu_ratio')]
      memory = figures.get('memory')
      lines.append(
        ' | '.join(
          [
            f'| {model_name}',
            mode,
            case,
            f'{figures["seconds"]["median"]:.2f}',
            *(
              '{median:.2f} ({lowest:.2f} - {highest:.2f})'.format(**ratio)
              if ratio
              else '-'
              for ratio in ratios
            ),
            (
              f'{memory["steps"]:.0f}'
              + (f' ({memory["steps"] / plain["steps"]:.2f})' if plain else '')
            )
            if memory
            else '-',
          ]
        )
        + ' |'
      )
  return '\n'.join(lines)


def _load():
  if not _OUTPUT.value or not os.path.exists(_OUTPUT.value):
    return {}
  return files.read_json(_OUTPUT.value, 'the results of an earlier run')


def _save(results):
  if _OUTPUT.value:
    os.makedirs(os.path.dirname(_OUTPUT.value) or '.', exist_ok=True)
    files.write_json(_OUTPUT.value, results, indent=1)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  for flag, known in (
    (_MODELS_FLAG, list(_MODELS)),
    (_MODES, ['graph', 'xla']),
    (_CASES_FLAG, [*_CASES, *_RELEASED]),
  ):
    for name in flag.value:
      if name not in known:
        raise app.UsageError(
          f'--{flag.name} has {name!r}: expected one of {known}.'
        )
  if _ONE_CASE.value:
    return _print_memory(_ONE_CASE.value)

  settings = {
    'batch_size': _BATCH.value,
    'image_size': _SIZE.value,
    'rounds': _ROUNDS.value,
    'tensorflow': tf.__version__,
    'processor': platform.processor() or platform.machine(),
    'cores': os.cpu_count(),
  }
  results = _load()
  pairs = [(m, mode) for m in _MODELS_FLAG.value for mode in _MODES.value]
  total = sum(
    len(_cases(*pair)) + _ROUNDS.value + len(_memory_cases(*pair))
    for pair in pairs
  )
  with tqdm.tqdm(total=total, unit='part') as progress:
    for model_name, mode in pairs:
      key = f'{model_name}/{mode}'
      before = results.get(key, {}).get('settings', {})
      if not files.differences(before, settings):
        continue
      # The memory of one model must not slow down the next.
      tf_keras.backend.clear_session()
      cases = _measure_time(model_name, mode, progress)
      for case in _memory_cases(model_name, mode):
        progress.set_postfix_str(f'{key}: memory of {case}')
        if case in cases:
          cases[case]['memory'] = _measure_memory(model_name, mode, case)
        progress.update()
      results[key] = {'settings': settings, 'cases': cases}
      _save(results)
  print(_table(results))


if __name__ == '__main__':
  app.run(main)
