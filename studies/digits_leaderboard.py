# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Trains small networks on the embedded digits and scores all of them.

  python -m studies.digits_leaderboard

It shows that the benchmark accepts any model: three families of Model Garden,
each as a baseline and a harmonized network, a SavedModel, an .h5 file and, if
PyTorch is installed (`make torch`), a PyTorch module. Networks are kept in
--runs_dir and scores in --output_dir; run the command again to resume.
"""

from collections.abc import Mapping, Sequence
import os
import subprocess
import sys
from typing import Any
import unittest

from absl import flags
import numpy as np
from official.core import task_factory
import tensorflow as tf
import tf_keras

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.data.records import digits
from studies import torch_digits
from testing import optional

FLAGS = flags.FLAGS

_EXPERIMENT = 'harmonized_resnet_imagenet'
_COSINE = 'trainer.optimizer_config.learning_rate.cosine.'
# These two need more steps than a ResNet, and their steps are faster.
_LONGER = {
  'trainer.train_steps': 1000,
  'trainer.checkpoint_interval': 1000,
  'trainer.validation_interval': 1000,
  f'{_COSINE}decay_steps': 1000,
}
_FAMILIES = {
  'resnet10': {},
  'mobilenet_v2': {
    'task.model.backbone.type': 'mobilenet',
    'task.model.backbone.mobilenet.model_id': 'MobileNetV2',
    'task.model.backbone.mobilenet.filter_size_scale': 0.5,
    **_LONGER,
  },
  'vit': {
    'task.model.backbone.type': 'custom_vit',
    'trainer.optimizer_config.optimizer.type': 'adamw_experimental',
    f'{_COSINE}initial_learning_rate': 1e-3,
    **_LONGER,
  },
}
_TWIN = '-harmonized'
_STEPS = 250


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string('data_dir', 'data/digits', 'Folder of the digits.')
  flags.DEFINE_string(
    'runs_dir', 'runs/leaderboard', 'Folder of the trained networks.'
  )
  flags.DEFINE_string(
    'output_dir',
    'docs/results/digits_leaderboard',
    "Folder of the benchmark's report.",
  )


def _call(*command):
  """Runs a command with the import path of this process."""
  print(' '.join(command), flush=True)
  subprocess.run(
    [sys.executable, *command],
    check=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
  )


def train(name: str, overrides: Mapping[str, Any], runs_dir: str) -> str:
  """Trains a network with train.py unless it exists.

  Args:
    name: of the network.
    overrides: of the configuration of easy_digits.yaml.
    runs_dir: folder of the networks.

  Returns:
    The folder of the network.
  """
  model_dir = os.path.join(runs_dir, name)
  if tf.train.latest_checkpoint(model_dir) is None:
    settings = ','.join(f'{k}={v}' for k, v in overrides.items())
    _call(
      'train.py',
      f'--experiment={_EXPERIMENT}',
      '--seed=0',
      '--config_file=studies/plans/easy_digits.yaml',
      f'--model_dir={model_dir}',
      f'--params_override={settings}',
    )
  return model_dir


def _export(run_dir):
  """Exports a run as a SavedModel with Model Garden's exporter."""
  folder = os.path.join(FLAGS.runs_dir, 'exported')
  if not os.path.exists(folder):
    size = ','.join(
      map(str, runs.load_config(run_dir).task.model.input_size[:2])
    )
    _call(
      '-m',
      'official_ext.harmonization.export_saved_model',
      f'--experiment={_EXPERIMENT}',
      f'--checkpoint_path={run_dir}',
      f'--config_file={os.path.join(run_dir, "params.yaml")}',
      f'--input_image_size={size}',
      '--input_type=tflite',
      f'--export_dir={folder}',
    )
  return folder


def batches(run_dir: str) -> tf.data.Dataset:
  """Returns training batches of a run: normalized images and classes."""
  config = runs.load_config(run_dir)
  task = task_factory.get_task(config.task)
  dataset = task.build_inputs(config.task.train_data)
  return dataset.map(lambda images, batch: (images, batch['labels'])).take(
    _STEPS
  )


def options(run_dir: str) -> str:
  """Returns the options of a SPEC for networks that see a run's images."""
  size = runs.load_config(run_dir).task.model.input_size[0]
  return f'preprocessing=torch&input_size={size}'


def train_keras(
  path: str,
  run_dir: str,
  *,
  kernel: int = 3,
  widths: Sequence[int] = torch_digits.WIDTHS,
  pooling: Any = tf_keras.layers.MaxPooling2D,
  seed: int = 0,
) -> str:
  """Trains a convolutional Keras network unless it exists.

  Args:
    path: of the .h5 file.
    run_dir: of the run whose images it is trained on.
    kernel: height and width of the kernels.
    widths: numbers of channels, one per block.
    pooling: class of the layer that ends a block.
    seed: of weights and images.

  Returns:
    The path.
  """
  if not os.path.exists(path):
    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(seed)
    model = tf_keras.Sequential(
      [layers.InputLayer(runs.load_config(run_dir).task.model.input_size)]
    )
    for width in widths:
      model.add(layers.Conv2D(width, kernel, activation='relu', padding='same'))
      model.add(pooling())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(digits.NUM_CLASSES))
    model.compile(
      tf_keras.optimizers.Adam(2e-3),
      tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(batches(run_dir))
    with files.replacing(path) as partial:
      # The format, because the temporary name does not end in .h5.
      model.save(partial, include_optimizer=False, save_format='h5')
  return path


def _train_torch(run_dir):
  """Trains the same network in PyTorch; None if PyTorch is not installed."""
  path = os.path.join(FLAGS.runs_dir, 'torch_cnn.pt')
  try:
    optional.require('torch')
  except unittest.SkipTest as e:
    print(f'Skipping the PyTorch module. {e}')
    return None
  if not os.path.exists(path):
    torch_digits.train(
      (
        (np.moveaxis(images.numpy(), -1, 1), labels.numpy())
        for images, labels in batches(run_dir)
      ),
      path,
    )
  return path


def main(_):
  """Trains the missing networks and runs the benchmark."""
  # The digits of studies/plans/easy_digits.yaml.
  digits.make(FLAGS.data_dir, train_images=4000, decoy_strength=0.7)
  specs, twins, folders = [], [], {}
  for family, overrides in _FAMILIES.items():
    for name, weight in ((family, 0.0), (family + _TWIN, 1.0)):
      folders[name] = train(
        name, {**overrides, 'task.harmonization.weight': weight}, FLAGS.runs_dir
      )
      specs.append(f'mg:{folders[name]}?name={name}')
    twins.append(f'{family}:{family}{_TWIN}')
  some_run = folders['resnet10']
  exported = _export(folders['resnet10' + _TWIN])
  specs.append(f'saved_model:{exported}?name=resnet10-exported')
  form = options(some_run)
  keras = train_keras(os.path.join(FLAGS.runs_dir, 'keras_cnn.h5'), some_run)
  specs.append(f'keras:{keras}?{form}&name=keras_cnn')
  weights = _train_torch(some_run)
  if weights:
    specs.append(
      f'torch:studies.torch_digits.network?{form}'
      f'&weights={weights}&name=torch_cnn'
    )
  _call(
    '-m',
    'official_ext.harmonization.evaluate',
    *(f'--model={spec}' for spec in specs),
    *(f'--twin={pair}' for pair in twins),
    f'--clickme={FLAGS.data_dir}/val/*.tfrecords',
    '--ceiling=1',
    f'--output_dir={FLAGS.output_dir}',
  )


def run():
  """Runs the command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
