# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Ten small networks for the study of model recovery, trained on the digits.

A ResNet-10 and its harmonized twin, and four convolutional networks that differ
in what they can see, with two seeds each. All are trained for 250 steps on the
same images, which takes a few minutes.
"""

import os
from typing import Any

import tf_keras

from studies import digits_leaderboard

# What differs from the network of `digits_leaderboard`.
_ARCHITECTURES: dict[str, dict[str, Any]] = {
  'cnn': {},
  'cnn-wide-kernels': {'kernel': 7},
  'cnn-deep': {'widths': (12, 24, 48, 64)},
  'cnn-average': {'kernel': 5, 'pooling': tf_keras.layers.AveragePooling2D},
}
_SEEDS = (0, 1)


def specs(runs_dir: str) -> list[str]:
  """Trains the networks that do not exist yet.

  Args:
    runs_dir: folder of the networks.

  Returns:
    A SPEC for each network.
  """
  found = []
  for name, weight in (('resnet10', 0.0), ('resnet10-harmonized', 1.0)):
    folder = digits_leaderboard.train(
      name, {'task.harmonization.weight': weight}, runs_dir
    )
    found.append(f'mg:{folder}?name={name}')
  run_dir = os.path.join(runs_dir, 'resnet10')
  options = digits_leaderboard.options(run_dir)
  for architecture, changes in _ARCHITECTURES.items():
    for seed in _SEEDS:
      name = f'{architecture}-{seed}'
      path = digits_leaderboard.train_keras(
        os.path.join(runs_dir, f'{name}.h5'), run_dir, seed=seed, **changes
      )
      found.append(f'keras:{path}?{options}&name={name}')
  return found
