# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests each gin and YAML file with the command in its header."""

# Bazel: tags = ["graphs"]

import argparse
import glob
import os
import re
import shlex

from absl.testing import parameterized
from official.core import train_utils
from official.modeling import hyperparams
from official.modeling import optimization
import tensorflow as tf

import gin
from official_ext.harmonization import experiment_parser
from official_ext.harmonization import resources
from official_ext.harmonization.dataloaders import joint_batches

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_GIN = sorted(glob.glob(os.path.join(_ROOT, 'gin', '*.gin')))
_YAML = sorted(glob.glob(os.path.join(_ROOT, 'experiments', '*.yaml')))


def _header(path):
  """Returns the comment at the start of a file."""
  with open(path) as f:
    text = f.read()
  return re.match('(#.*\n)+', text)[0].replace('\n#', '\n').replace('\\\n', '')


def _typed(path):
  """Returns the flags of the command in the header of a file."""
  command = re.search(r'^ +python train\.py (.*)', _header(path), re.M)[1]
  parser = argparse.ArgumentParser(exit_on_error=False)
  for flag in ('experiment', 'tpu', 'model_dir', 'params_override'):
    parser.add_argument(f'--{flag}', default='')
  for flag in ('config_file', 'gin_file', 'gin_params'):
    parser.add_argument(f'--{flag}', action='append', default=[])
  return parser.parse_args(shlex.split(command))


def _resolve(path, added=''):
  """Returns the flags and the configuration of the command in the header."""
  typed = _typed(path)
  gin.add_config_file_search_path(os.path.join(_ROOT, 'gin'))
  gin.parse_config_files_and_bindings(
    [resources.find(name, 'gin') for name in typed.gin_file], typed.gin_params
  )
  files = [resources.find(name, 'experiments') for name in typed.config_file]
  return typed, experiment_parser.parse_configuration(
    train_utils.ParseConfigOptions(
      typed.experiment,
      files,
      tpu=typed.tpu,
      params_override=f'{typed.params_override},{added}'.strip(','),
    )
  )


class ShippedFilesTest(tf.test.TestCase, parameterized.TestCase):
  def tearDown(self):
    super().tearDown()
    gin.clear_config()

  def test_folders_contain_only_configuration(self):
    for folder, suffix in (('gin', '.gin'), ('experiments', '.yaml')):
      for _, _, names in os.walk(os.path.join(_ROOT, folder)):
        self.assertEmpty([n for n in names if not n.endswith(suffix)], folder)
    self.assertNotEmpty(_GIN)
    self.assertNotEmpty(_YAML)

  @parameterized.parameters([os.path.basename(p) for p in _GIN])
  def test_gin(self, name):
    path = os.path.join(_ROOT, 'gin', name)
    typed, params = _resolve(path)
    self.assertEqual(typed.gin_file, [name])
    self.assertRegex(
      _header(path),
      r'^# (What to harmonize|Form of the loss|Schedule|Model): ',
    )
    self.assertRegex(
      _header(path), r'(?s)Required to be set:.*Commonly overridden:'
    )
    self.assertTrue(params.task.harmonization.enabled)
    self.assertNotEmpty(params.task.mapped_data.input_path)
    # The experiment has the values that the file binds.
    with open(path) as f:
      bindings = re.findall(r'^harmonize\.(\w+) = (.*)$', f.read(), re.M)
    for bound, value in bindings:
      found = params.task.harmonization.as_dict() | {
        'map_decoder': params.task.mapped_data.map_decoder
      }
      self.assertEqual(repr(found[bound]), value, bound)

  @parameterized.parameters([os.path.basename(p) for p in _YAML])
  def test_yaml(self, name):
    path = os.path.join(_ROOT, 'experiments', name)
    typed, params = _resolve(path)
    self.assertIn(f'experiments/{name}', typed.config_file)
    self.assertIn('\n Needs', _header(path))
    self.assertTrue(params.task.harmonization.enabled)
    # No later file or flag of the command overrides this file.
    alone = hyperparams.read_yaml_to_params_dict(path).as_dict()
    self.assertEqual(_part_of(params.as_dict(), alone), alone)
    self._check_schedule(params)

  @parameterized.parameters(
    ('gpu8.yaml', 8),
    ('multi_worker.yaml', 16),
    ('tpu.yaml', 4),
    ('tpu_pod.yaml', 16),
    ('gpu.yaml', 1),
    ('fine_tune.yaml', 1),
  )
  def test_few_images_with_maps_use_moving_averages(self, name, replicas):
    task = _resolve(os.path.join(_ROOT, 'experiments', name))[1].task
    mapped = joint_batches.rows_with_map(
      task.train_data.global_batch_size // replicas,
      task.harmonization.mapped_fraction,
    )
    if mapped < 64:
      self.assertEqual(task.harmonization.batch_norm, 'inference')

  def test_the_digits_have_the_magnitude_form(self):
    digits = _resolve(os.path.join(_ROOT, 'experiments', 'local_cpu.yaml'))[1]
    gin.clear_config()
    form = _resolve(os.path.join(_ROOT, 'gin', 'magnitude_form.gin'))[1]
    for name in (
      'saliency',
      'saliency_target',
      'standardization',
      'levels',
      'batch_norm',
      'weight',
      'interval',
    ):
      self.assertEqual(
        getattr(digits.task.harmonization, name),
        getattr(form.task.harmonization, name),
        name,
      )
    for params in (digits, form):
      self.assertEqual(
        2 * params.task.harmonization.warmup_steps, params.trainer.train_steps
      )

  @parameterized.parameters(
    'vgg16.yaml', 'resnet50v2.yaml', 'efficientnet_b0.yaml'
  )
  def test_weights_of_keras_with_the_options_in_the_header(self, name):
    path = os.path.join(_ROOT, 'experiments', name)
    added = ''.join(re.findall(r'^ +(task\.\S+)', _header(path), re.M))
    params = _resolve(path, added)[1]
    self.assertEqual(params.task.model.backbone.get().weights, 'imagenet')
    self.assertEqual(params.task.train_label_offset, -1)
    self.assertEqual(params.task.validation_label_offset, -1)

  def _check_schedule(self, params):
    """Checks that the learning rate is finite at each step, and ends low."""
    trainer = params.trainer
    rate = optimization.OptimizerFactory(
      trainer.optimizer_config
    ).build_learning_rate()
    steps = [trainer.train_steps * k // 20 for k in range(21)]
    rates = [float(rate(tf.constant(s, tf.int64))) for s in steps]
    self.assertAllInRange(rates, 0.0, 3.0)
    self.assertLess(rates[-1], 0.01 * max(rates) + 1e-9)
    self.assertEqual(trainer.train_steps % trainer.steps_per_loop, 0)

  def test_all_batch_sizes_use_the_schedule_of_the_paper(self):
    # The rate scales with the batch size; the epochs stay the same.
    paper = _resolve(os.path.join(_ROOT, 'experiments', 'tpu.yaml'))[1]
    for name in ('tpu_pod.yaml', 'gpu.yaml'):
      gin.clear_config()
      params = _resolve(os.path.join(_ROOT, 'experiments', name))[1]
      batch = params.task.train_data.global_batch_size
      rates = []
      for p, size in ((paper, 512), (params, batch)):
        rate = optimization.OptimizerFactory(
          p.trainer.optimizer_config
        ).build_learning_rate()
        epoch = 1281167 // size
        self.assertEqual(p.trainer.train_steps, 90 * epoch)
        rates.append(
          [
            float(rate(tf.constant(int(k * epoch), tf.int64))) / size
            for k in (0, 2.5, 5, 15, 29.5, 31, 49, 52, 79, 81, 90)
          ]
        )
      self.assertAllClose(*rates, rtol=5e-3, atol=1e-9)


def _part_of(found, wanted):
  """Returns the values in `found` of the keys in `wanted`."""
  if not isinstance(wanted, dict) or not isinstance(found, dict):
    return found
  return {k: _part_of(found[k], v) for k, v in wanted.items()}


if __name__ == '__main__':
  tf.test.main()
