# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Ten small networks for the study of model recovery, trained on the digits.

A ResNet-10 and its harmonized twin, and four convolutional networks that differ
in what they can see, with two seeds each. All are trained for 250 steps on the
same images, which takes a few minutes.
"""

import os

import tf_keras

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.data.records import digits
from studies import digits_leaderboard

# Size of the kernels, number of channels of each block, and the pooling.
_ARCHITECTURES = {
  'cnn': (3, (16, 32, 64), 'max'),
  'cnn-wide-kernels': (7, (16, 32, 64), 'max'),
  'cnn-deep': (3, (12, 24, 48, 64), 'max'),
  'cnn-average': (5, (16, 32, 64), 'average'),
}
_SEEDS = (0, 1)


def _network(architecture: str, input_size) -> tf_keras.Model:
  """Builds a network from images to logits."""
  kernel, widths, pooling = _ARCHITECTURES[architecture]
  layers = tf_keras.layers
  pool = {'max': layers.MaxPooling2D, 'average': layers.AveragePooling2D}
  model = tf_keras.Sequential([layers.InputLayer(input_size)])
  for width in widths:
    model.add(layers.Conv2D(width, kernel, activation='relu', padding='same'))
    model.add(pool[pooling]())
  model.add(layers.GlobalAveragePooling2D())
  model.add(layers.Dense(digits.NUM_CLASSES))
  return model


def _trained(architecture: str, seed: int, run_dir: str, path: str):
  """Trains a network on the images of a run, and saves it."""
  tf_keras.utils.set_random_seed(seed)
  model = _network(
    architecture, runs.load_config(run_dir).task.model.input_size
  )
  model.compile(
    tf_keras.optimizers.Adam(2e-3),
    tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
  )
  model.fit(digits_leaderboard.batches(run_dir))
  with files.replacing(path) as partial:
    # The format, because the temporary name does not end in .h5.
    model.save(partial, include_optimizer=False, save_format='h5')


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
  for architecture in _ARCHITECTURES:
    for seed in _SEEDS:
      name = f'{architecture}-{seed}'
      path = os.path.join(runs_dir, f'{name}.h5')
      if not os.path.exists(path):
        _trained(architecture, seed, run_dir, path)
      found.append(f'keras:{path}?{options}&name={name}')
  return found
