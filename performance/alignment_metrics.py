# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Measures the cost of alignment scores.

  python -m performance.alignment_metrics \
      --output=runs/benchmarks/alignment_metrics.json

The released loop, the NumPy metrics and the in-graph metrics (graph and XLA)
score the same maps in one run and take turns. So do the saliency pass of a
ResNet, the same pass followed by scoring, and that followed by an update of the
alignment with other images' human maps, as in an evaluation. The report
contains medians over the rounds, and medians of ratios within a round.

Model maps are absolute gradients of a network with random weights, without
ties. Human maps are blurred clicks in 8 bits; about half of their pixels are
zero.
"""

from collections.abc import Callable
import time

from absl import flags
import numpy as np
from official.core import exp_factory
from scipy import ndimage
import tensorflow as tf
import tf_keras
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import registry_imports
from official_ext.harmonization.evaluation import metrics
from official_ext.harmonization.evaluation import numpy_metrics
from official_ext.harmonization.evaluation import shuffled as shuffled_lib
from official_ext.harmonization.ops import saliency as saliency_ops
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from performance import medians
from testing import released

FLAGS = flags.FLAGS

_CLASSES = 1000
_RATIOS = (
  ('released / host path (aim: 5 or more)', 'released', 'host'),
  ('released / in graph (aim: 1 or more)', 'released', 'graph'),
  ('released / XLA', 'released', 'xla'),
  ('saliency pass, scored / alone (aim: 1.10 or less)', 'pass, scored', 'pass'),
  (
    'scored pass, with shuffled / without (aim: 1.02 or less)',
    'pass, shuffled',
    'pass, scored',
  ),
)


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string(
    'output',
    'runs/benchmarks/alignment_metrics.json',
    'JSON file for the results.',
  )
  flags.DEFINE_integer('batch_size', 8, 'Maps per batch.', lower_bound=1)
  flags.DEFINE_integer(
    'size', 224, 'Height and width of images in pixels.', lower_bound=32
  )
  flags.DEFINE_integer('model_id', 50, 'Number of layers of the ResNet.')
  flags.DEFINE_float('depth_multiplier', 1.0, 'Scales the channels of it.')
  flags.DEFINE_integer('rounds', 9, 'Turns of each case.', lower_bound=1)


def human_maps(count: int, seed: int = 0, size: int = 224) -> np.ndarray:
  """Makes maps of blurred clicks, with 8-bit values.

  Args:
    count: number of maps.
    seed: seed of the clicks.
    size: height and width in pixels.

  Returns:
    float32 (count, size, size), integers in 0..255.
  """
  rng = np.random.default_rng(seed)
  scale = size / 224
  maps = np.zeros((count, size, size))
  for one in maps:
    centre = rng.uniform(60 * scale, size - 60 * scale, 2)
    clicks = rng.normal(centre, 25 * scale, (60, 2))
    np.add.at(one, tuple(np.clip(clicks, 0, size - 1).astype(int).T), 1.0)
  maps = ndimage.gaussian_filter(
    maps, (0, 10 * scale, 10 * scale), truncate=2.0
  )
  maps /= maps.max((1, 2), keepdims=True)
  return np.round(255 * maps).astype(np.float32)


def _network(size: int, backbone: dict[str, float]) -> tf_keras.Model:
  config = exp_factory.get_exp_config('harmonized_resnet_imagenet').task
  config.override(
    {
      'model': {
        'num_classes': _CLASSES,
        'input_size': [size, size, 3],
        'backbone': {'resnet': backbone},
      },
      'mapped_data': {'label_offset': 0},
      'mapped_validation_data': {'label_offset': 0},
    }
  )
  tf_keras.utils.set_random_seed(0)
  return task_lib.HarmonizedImageClassificationTask(config).build_model()


def build_cases(
  batch_size: int, size: int, backbone: dict[str, float]
) -> dict[str, Callable[[], object]]:
  """Builds the cases to measure.

  Args:
    batch_size: maps per batch.
    size: height and width of images in pixels.
    backbone: `model_id` and `depth_multiplier` of the ResNet.

  Returns:
    A mapping from names to functions without arguments. They score a batch, or
    run the saliency pass on a batch, and wait for the result.
  """
  theirs = released.load('evaluation.metrics')
  model = _network(size, backbone)
  human = human_maps(batch_size, size=size)
  # TensorFlow would sort a constant once, when it optimizes the graph.
  variable = tf.Variable(human)
  images = tf.random.stateless_normal([batch_size, size, size, 3], [1, 2])
  labels = tf.one_hot(tf.range(batch_size), _CLASSES)

  def saliency():
    return saliency_ops.saliency_maps(
      model, images, labels, reduction='abs_max', training=False
    )[1]

  alone = tf.function(saliency)
  scored = tf.function(
    lambda: metrics.alignment_scores(saliency(), variable.value())
  )
  shuffled = shuffled_lib.ShuffledAlignment(size**2)

  def score_and_update(maps, human):
    scores, ranks = metrics.scores_and_ranks(maps, human)
    shuffled.update_state(ranks, scores.spearman)
    return scores

  updated = tf.function(score_and_update)
  scored_and_updated = tf.function(
    lambda: score_and_update(saliency(), variable.value())
  )
  maps = alone().numpy()
  in_graph = {
    compiled: tf.function(metrics.alignment_scores, jit_compile=compiled)
    for compiled in (False, True)
  }

  def released_loop():
    return (
      theirs.spearman_correlation(maps, human),
      theirs.dice(maps, human),
      theirs.intersection_over_union(maps, human),
    )

  return {
    'released': released_loop,
    'host': lambda: numpy_metrics.alignment_scores(maps, human),
    'graph': lambda: in_graph[False](maps, human).spearman.numpy(),
    'graph, shuffled': lambda: updated(maps, human).spearman.numpy(),
    'xla': lambda: in_graph[True](maps, human).spearman.numpy(),
    'pass': lambda: alone().numpy(),
    'pass, scored': lambda: scored().spearman.numpy(),
    'pass, shuffled': lambda: scored_and_updated().spearman.numpy(),
  }


def measure(
  cases: dict[str, Callable[[], object]], batch_size: int, rounds: int
) -> dict[str, list[float]]:
  """Times the cases in turns.

  Args:
    cases: as returned by `build_cases`.
    batch_size: maps per batch.
    rounds: turns of each case.

  Returns:
    A mapping from names to milliseconds per map, one value per round.
  """
  for run in cases.values():
    run()  # Traces and compiles the functions.
  times = {name: [] for name in cases}
  bar = tqdm.tqdm(total=rounds * len(cases), unit=' turns', disable=None)
  for _ in range(rounds):
    for name, run in cases.items():
      start = time.perf_counter()
      run()
      times[name].append(1e3 * (time.perf_counter() - start) / batch_size)
      bar.update()
  bar.close()
  return times


def main(_):
  """Measures, prints and writes the results."""
  backbone = {
    name: FLAGS[name].value for name in ('model_id', 'depth_multiplier')
  }
  cases = build_cases(FLAGS.batch_size, FLAGS.size, backbone)
  times = measure(cases, FLAGS.batch_size, FLAGS.rounds)
  settings = {
    **backbone,
    **{name: FLAGS[name].value for name in ('batch_size', 'size', 'rounds')},
  }
  summary = medians.summarize(times, 'ms per map', _RATIOS)
  medians.report(FLAGS.output, settings, summary, times)


def run():
  """Runs the command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
