# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures the cost of explainers, in gradients of the same batch.

  python -m performance.explainer_cost \
      --model='keras_app:MobileNet?weights=none'

One gradient and the explainers take turns. The report contains medians over the
rounds, and medians of ratios within a round, of CPU time: seconds of all cores,
which other programs on the machine hardly change.
"""

from collections.abc import Callable
import functools
import time

from absl import flags
import numpy as np
from official.core import exp_factory
import tf_keras

from official_ext.harmonization import cli
from official_ext.harmonization import registry_imports
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import preprocessing
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.benchmark.adapters import tensorflow_model
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from performance import medians

FLAGS = flags.FLAGS

del registry_imports  # Only imported to register the experiment.

_GRADIENT = 'gradient'
_DIGITS = 'digits'


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string(
    'output',
    'runs/benchmarks/explainer_cost.json',
    'JSON file for the results.',
  )
  flags.DEFINE_string(
    'model',
    _DIGITS,
    'The network, as a SPEC; digits is that of experiments/local_cpu.yaml with '
    'fresh weights.',
  )
  flags.DEFINE_list(
    'explainers', ['smoothgrad_squared'], 'Explainers to measure.'
  )
  flags.DEFINE_integer('batch_size', 8, 'Images per batch.', lower_bound=1)
  flags.DEFINE_integer('rounds', 9, 'Turns of each case.', lower_bound=1)


def digits_network() -> base.Adapter:
  """Returns the ResNet for digits of 40x40 pixels, with fresh weights."""
  config = exp_factory.get_exp_config('harmonized_resnet_imagenet').task
  config.override(
    {
      'model': {
        'num_classes': 10,
        'input_size': [40, 40, 3],
        'backbone': {'resnet': {'model_id': 10, 'depth_multiplier': 0.5}},
      },
      'mapped_data': {'label_offset': 0},
      'mapped_validation_data': {'label_offset': 0},
    }
  )
  tf_keras.utils.set_random_seed(0)
  return tensorflow_model.TensorFlowAdapter(
    _DIGITS,
    _DIGITS,
    (40, 40),
    preprocessing.get('torch'),
    task_lib.HarmonizedImageClassificationTask(config).build_model(),
  )


def cases(
  adapter: base.Adapter, names: list[str], batch_size: int
) -> dict[str, Callable[[], object]]:
  """Builds the cases to measure.

  Args:
    adapter: the network.
    names: of explainers.
    batch_size: images per batch.

  Returns:
    Functions without arguments, by name.
  """
  rng = np.random.default_rng(0)
  pixels = rng.uniform(0, 255, (batch_size, *adapter.input_size, 3))
  inputs = adapter.preprocess(pixels)
  labels = np.eye(adapter.scored_classes, dtype=np.float32)[
    rng.integers(adapter.scored_classes, size=batch_size)
  ]
  found = {_GRADIENT: functools.partial(adapter.gradients, inputs, labels)}
  for name in names:
    options = {}
    if explainers.needs_baselines(name):
      options['baselines'] = inputs[::-1]
    found[f'{name} '] = functools.partial(
      explainers.get(name, adapter, **options), inputs, labels
    )
  return found


def measure(
  functions: dict[str, Callable[[], object]], rounds: int, batch_size: int
) -> dict[str, list[float]]:
  """Returns milliseconds of CPU time per image of each round, by name."""
  for run in functions.values():
    run()  # Traces the functions.
  times: dict[str, list[float]] = {name: [] for name in functions}
  for _ in range(rounds):
    for name, run in functions.items():
      start = time.process_time()
      run()
      times[name].append(1000 * (time.process_time() - start) / batch_size)
  return times


def main(_):
  """Runs the benchmark and writes its results."""
  adapter = (
    digits_network() if FLAGS.model == _DIGITS else spec.build(FLAGS.model)
  )
  found = measure(
    cases(adapter, FLAGS.explainers, FLAGS.batch_size),
    FLAGS.rounds,
    FLAGS.batch_size,
  )
  ratios = [
    (f'{name}/ one gradient', name, _GRADIENT)
    for name in found
    if name != _GRADIENT
  ]
  medians.report(
    FLAGS.output,
    {
      'model': FLAGS.model,
      'size': list(adapter.input_size),
      'batch_size': FLAGS.batch_size,
      'rounds': FLAGS.rounds,
    },
    medians.summarize(found, 'ms per image', ratios),
    found,
  )


def run():
  """Runs the command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
