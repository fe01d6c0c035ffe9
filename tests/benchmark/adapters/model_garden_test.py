# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the adapter of runs."""

# Bazel: size = "large"
# Bazel: tags = ["networks"]

import functools
import os
import tempfile

import numpy as np
from official.core import exp_factory
from official.core import task_factory
from official.core import train_lib
from official.core import train_utils
from official.vision.dataloaders import classification_input
import tensorflow as tf

from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.benchmark.adapters import spec
from testing import fixtures
from tests.benchmark.adapters import networks

_SIZE = 32


def _stock_config(records):
  """Model Garden's experiment at a tiny size, with averaged weights."""
  config = exp_factory.get_exp_config('resnet_imagenet')
  data = dict(
    input_path=records,
    image_field_key='image',
    label_field_key='label',
    global_batch_size=4,
    aug_crop=False,
  )
  config.task.override(
    {
      'model': {
        'num_classes': fixtures.CLASSES,
        'input_size': [_SIZE, _SIZE, 3],
        'backbone': {'resnet': {'model_id': fixtures.RESNET}},
      },
      'losses': {'one_hot': False},
      'train_data': data,
      'validation_data': data,
    }
  )
  config.trainer.override(
    {
      'train_steps': 2,
      'steps_per_loop': 2,
      'checkpoint_interval': 2,
      'validation_interval': 2,
      'validation_steps': 1,
      'best_checkpoint_export_subdir': 'best_ckpt',
      'best_checkpoint_eval_metric': 'accuracy',
      'optimizer_config': {'ema': {'average_decay': 0.5}},
    }
  )
  return config


@functools.cache
def _stock_run():
  """Trains with Model Garden only; returns the folder and the network."""
  folder = tempfile.mkdtemp()
  config = _stock_config(fixtures.write_numbered(folder, 'r.tfrecords', 4))
  train_utils.serialize_config(config, folder)
  model, _ = train_lib.run_experiment(
    distribution_strategy=tf.distribute.OneDeviceStrategy('CPU:0'),
    task=task_factory.get_task(config.task, logging_dir=folder),
    mode='train_and_eval',
    params=config,
    model_dir=folder,
    run_post_eval=False,
  )
  return folder, model


@functools.cache
def _stock_adapter(options):
  return spec.build(f'mg:{_stock_run()[0]}{options}')


class ModelGardenTest(tf.test.TestCase):
  def _logits(self, options):
    adapter = _stock_adapter(options)
    return adapter.logits(
      adapter.preprocess(networks.pixels(size=(_SIZE, _SIZE)))
    )

  def test_a_stock_run_has_the_trained_logits(self):
    _, model = _stock_run()
    adapter = _stock_adapter('?ema=false&name=run')
    self.assertEqual(
      (adapter.name, adapter.input_size, adapter.scored_classes),
      ('run', (_SIZE, _SIZE), fixtures.CLASSES),
    )
    inputs = adapter.preprocess(networks.pixels(2, (_SIZE, _SIZE)))
    one_hot = networks.labels(2, fixtures.CLASSES)
    logits, gradients = adapter.logits_and_gradients(inputs, one_hot)
    wanted = networks.expected(model, inputs, one_hot)
    self.assertAllClose(logits, wanted[0], rtol=1e-4, atol=1e-5)
    self.assertAllClose(gradients, wanted[1], rtol=1e-4, atol=1e-6)

  def test_preprocesses_as_model_garden(self):
    adapter = _stock_adapter('')
    image = networks.pixels(1, (_SIZE, _SIZE)).astype(np.uint8)
    parser = classification_input.Parser(
      (_SIZE, _SIZE), fixtures.CLASSES, aug_crop=False
    )
    expected, _ = parser.parse_fn(is_training=False)(
      {
        'image/encoded': tf.io.encode_png(image[0]),
        'image/class/label': tf.constant(1),
      }
    )
    self.assertAllClose(adapter.preprocess(image)[0], expected, atol=1e-5)

  def test_weights_are_drawn_anew(self):
    trained = _stock_adapter('?ema=false&name=run')
    text = f'mg:{_stock_run()[0]}?ema=false&name=run'
    twins = [spec.randomized(text, seed) for seed in (1, 1, 2)]
    weights = [list(a.parameters()) for a in (trained, *twins)]
    for before, first, again, other in zip(*weights):
      self.assertAllEqual(first, again)
      if before.ndim > 1:
        self.assertNotAllEqual(before, first)
        self.assertNotAllEqual(first, other)
    self.assertEqual(twins[0].preprocessing, trained.preprocessing)

  def test_averages_are_evaluated_as_in_model_garden(self):
    raw = self._logits('?ema=false&name=run')
    averaged = self._logits('')
    self.assertGreater(np.abs(raw - averaged).max(), 1e-3)
    # Model Garden exported its best checkpoint with the averages as weights.
    best = self._logits('?checkpoint=best_ckpt&ema=true')
    self.assertAllClose(best, averaged, rtol=1e-4, atol=1e-5)

  def test_a_best_checkpoint_has_no_raw_weights(self):
    with self.assertRaisesRegex(ValueError, 'ema is false, .*averaged weights'):
      spec.build(f'mg:{_stock_run()[0]}?checkpoint=best_ckpt&ema=false')

  def test_evaluation_swaps_the_averages_once(self):
    run = runs.Run(_stock_run()[0])
    plain = run.evaluate()
    run.use_averages()
    weights = [v.numpy() for v in run.model.trainable_variables]
    self.assertAllClose(run.evaluate(), plain)
    for variable, value in zip(run.model.trainable_variables, weights):
      self.assertAllClose(variable, value, atol=1e-6)

  def test_runs_of_all_backbones_open(self):
    for name, backbone in (
      ('harmonized_resnet_imagenet', {'type': 'custom_vit'}),
      ('harmonized_resnet_imagenet', {'type': 'keras_application'}),
      ('harmonized_maxvit_imagenet', {}),
    ):
      config = exp_factory.get_exp_config(name)
      config.task.model.backbone.override(backbone)
      folder = tempfile.mkdtemp(dir=self.get_temp_dir())
      train_utils.serialize_config(config, folder)
      found = runs.load_config(folder).task
      self.assertEqual(found.as_dict(), config.task.as_dict())

  def test_a_harmonized_run_needs_its_weights_and_no_data(self):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    config = fixtures.experiment(size=_SIZE)
    train_utils.serialize_config(config, folder)
    model = task_factory.get_task(config.task).build_model()
    tf.train.Checkpoint(
      model=model, global_step=tf.Variable(7, dtype=tf.int64)
    ).save(os.path.join(folder, 'ckpt'))
    adapter = spec.build(f'mg:{folder}')
    inputs = adapter.preprocess(networks.pixels(2, (_SIZE, _SIZE)))
    self.assertAllClose(
      adapter.logits(inputs),
      model(inputs, training=False),
      rtol=1e-4,
      atol=1e-5,
    )
    with self.assertRaisesRegex(ValueError, 'no moving averages'):
      spec.build(f'mg:{folder}?ema=true')
    with self.assertRaisesRegex(FileNotFoundError, 'best_ckpt.*no checkpoint'):
      spec.build(f'mg:{folder}?checkpoint=best_ckpt')
    tf.train.Checkpoint(model=networks.network()).save(
      os.path.join(folder, 'ckpt')
    )
    with self.assertRaisesRegex(ValueError, 'not a checkpoint of the network'):
      spec.build(f'mg:{folder}')

  def test_a_folder_without_a_run(self):
    empty = tempfile.mkdtemp(dir=self.get_temp_dir())
    with self.assertRaisesRegex(FileNotFoundError, 'params.yaml does not'):
      spec.build(f'mg:{empty}')

  def test_refuses_a_run_of_another_task(self):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    train_utils.serialize_config(
      exp_factory.get_exp_config('retinanet'), folder
    )
    with self.assertRaisesRegex(ValueError, 'not the configuration of an im'):
      spec.build(f'mg:{folder}')


if __name__ == '__main__':
  tf.test.main()
