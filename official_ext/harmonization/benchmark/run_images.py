# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Scores of each validation image of a run, and tests between two runs.

The logs of an evaluation have means only. Two runs see the same images, so that
their difference is tested over the images' differences.

  values = [run_images.measure(runs.Run(folder)) for folder in folders]
  run_images.differences(*values)['alignment_specific'].p
"""

import dataclasses
import os
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.benchmark import specificity
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.tasks import alignment_evaluation
from official_ext.harmonization.tasks import human_ceiling


@dataclasses.dataclass(frozen=True)
class ImageValues:
  """Values of the validation images of a run.

  Attributes:
    with_map: int (n, k), which record each image with a map is, and its label.
    without_map: int (m, 1), the labels of the images without a map, in the
      order in which they are read.
    by_metric: float64 (n,) or (m,), by the name that the evaluation logs the
      mean by; NaN where undefined. The values of `alignment_specific` and
      `alignment_shuffled` are influences, see `specificity`.
  """

  with_map: np.ndarray
  without_map: np.ndarray
  by_metric: dict[str, np.ndarray]


def measure(run: runs.Run) -> ImageValues:
  """Computes the scores of all validation images, as the evaluation does.

  Args:
    run: with the weights that are to be scored.

  Returns:
    The values. Images with a map are sorted by record.
  """
  config: Any = run.config.task
  classes = config.model.num_classes

  @tf.function(reduce_retracing=True)
  def step(images, batch):
    one_hot = tf.one_hot(batch['labels'], classes)
    return alignment_evaluation.measure(
      run.model, images, one_hot, batch, config.harmonization
    )

  found: dict[str, list[np.ndarray]] = {}
  with tempfile.TemporaryDirectory() as folder:
    # The ranks of all maps may not fit in memory.
    paths = [os.path.join(folder, name) for name in ('model', 'human')]
    with open(paths[0], 'wb') as model, open(paths[1], 'wb') as human:
      for images, batch in run.task.build_inputs(config.validation_data):
        measured = step(images, batch)
        valid = batch['valid'].numpy() > 0
        has_map = measured.with_map.numpy() > 0
        labels = batch['labels'].numpy()
        correct = np.argmax(measured.logits.numpy(), axis=-1) == labels
        keys = np.column_stack([batch['records'].numpy(), labels])
        for name, values in (
          ('with_map', keys[has_map]),
          ('without_map', labels[valid & ~has_map, np.newaxis]),
          ('clickme_accuracy', correct[has_map]),
          ('accuracy', correct[valid & ~has_map]),
          ('alignment', measured.scores.spearman.numpy()[has_map]),
          ('alignment_dice', measured.scores.dice.numpy()[has_map]),
        ):
          found.setdefault(name, []).append(values)
        for file, ranks in (
          (model, measured.ranks.model),
          (human, measured.ranks.human),
        ):
          file.write(ranks.numpy()[has_map].astype(np.float32).tobytes())
    by_name = {name: np.concatenate(parts) for name, parts in found.items()}
    keys, without_map = by_name.pop('with_map'), by_name.pop('without_map')
    by_name = {name: v.astype(np.float64) for name, v in by_name.items()}
    if len(keys):
      by_name |= _of_all_images(paths, by_name['alignment'])
  by_name['alignment'] /= human_ceiling.of(config)
  order = np.lexsort(keys.T[::-1])
  return ImageValues(
    keys[order],
    without_map,
    {
      name: v if name == 'accuracy' else v[order] for name, v in by_name.items()
    },
  )


def _of_all_images(paths, spearman) -> dict[str, np.ndarray]:
  """Returns the images' influences on specific and shuffled alignment."""
  shape = (len(spearman), -1)
  model, human = (
    np.memmap(path, np.float32, 'c').reshape(shape) for path in paths
  )
  # Ranks of undefined maps are 0 in the evaluation.
  model[np.isnan(spearman)] = np.nan
  found = specificity.measure(model, human)
  return {
    'alignment_specific': found.influence,
    'alignment_shuffled': found.own - found.influence,
  }


def differences(
  first: ImageValues, second: ImageValues
) -> dict[str, statistics.Estimate]:
  """Tests the differences of two runs, paired over images.

  Args:
    first: of one run.
    second: of a run with the same validation data.

  Returns:
    The mean of second minus first by metric, for the metrics that both have;
    without metrics of images that differ between the runs. Interval and p-value
    are NaN if all images have the same difference, which shows nothing.
  """
  found = {}
  for name in first.by_metric:
    keys = 'without_map' if name == 'accuracy' else 'with_map'
    if name not in second.by_metric or not np.array_equal(
      getattr(first, keys), getattr(second, keys)
    ):
      continue
    estimate = statistics.difference(
      second.by_metric[name], first.by_metric[name]
    )
    if not estimate.n:
      continue
    if not estimate.standard_error:
      unknown = float('nan')
      estimate = dataclasses.replace(
        estimate, low=unknown, high=unknown, p=unknown
      )
    found[name] = estimate
  return found
