# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of Model Garden's features: checkpoints, export, moving averages."""

# Bazel: tags = ["training"]

import functools
import json
import os
import tempfile
from unittest import mock

from absl.testing import parameterized
import numpy as np
from official.core import base_trainer
from official.core import train_lib
from official.core import train_utils
from official.modeling.privacy import configs as privacy
from official.vision.configs import image_classification as stock
from official.vision.tasks import image_classification as stock_task
import tensorflow as tf
import tf_keras

from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures
from tests import forked


@functools.cache
def _run():
  """The folder of a tiny harmonized run with a moving average of weights.

  Returns:
    The folder, the experiment and the logs of the evaluation after training.
  """
  folder = tempfile.mkdtemp(dir=os.environ.get('TEST_TMPDIR'))
  path = fixtures.write_numbered(folder, 'mapped.tfrecords', 6)
  config = fixtures.experiment(mapped=path, validation=path)
  config.trainer.override(
    {
      'train_steps': 2,
      'steps_per_loop': 2,
      'summary_interval': 2,
      'checkpoint_interval': 2,
      'validation_interval': 2,
      'best_checkpoint_export_subdir': 'best',
      'best_checkpoint_eval_metric': 'alignment',
      'optimizer_config': {
        'optimizer': {'type': 'sgd'},
        'learning_rate': {
          'type': 'constant',
          'constant': {'learning_rate': 0.1},
        },
        'warmup': {'type': None},
        'ema': {'average_decay': 0.9, 'dynamic_decay': False},
      },
    }
  )
  config.runtime.override({'distribution_strategy': 'one_device'})
  model_dir = os.path.join(folder, 'run')
  train_utils.serialize_config(config, model_dir)
  tf_keras.utils.set_random_seed(0)
  _, logs = train_lib.run_experiment(
    _strategy(),
    task_lib.HarmonizedImageClassificationTask(config.task),
    'train_and_eval',
    config,
    model_dir,
    run_post_eval=True,
  )
  return model_dir, config, {k: float(v) for k, v in logs.items()}


@functools.cache
def _strategy():
  # Model Garden swaps averages and weights only under a strategy.
  return tf.distribute.OneDeviceStrategy('CPU:0')


def _restored(folder):
  """Returns the run's trainer with the last checkpoint in a folder."""
  _, config, _ = _run()
  with _strategy().scope():
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    trainer = base_trainer.Trainer(
      config,
      task,
      model=task.build_model(),
      optimizer=train_utils.create_optimizer(task, config),
      train=False,
    )
  trainer.checkpoint.restore(
    tf.train.latest_checkpoint(folder)
  ).expect_partial()
  return trainer


def _command(module, *flags):
  found = forked.command(
    module, '--experiment=harmonized_resnet_imagenet', *flags
  )
  return found.code, found.errors


def _succeeds(module, *flags):
  code, errors = _command(module, *flags)
  if code:
    raise AssertionError(errors[-3000:])


def _fails(module, *flags):
  """Returns the message with which a command ends."""
  code, errors = _command(module, *flags)
  if code != 1 or 'Traceback' in errors:
    raise AssertionError(f'{code}: {errors[-3000:]}')
  return errors.strip().splitlines()[-1]


def _images(count):
  """Returns the first training images, as the network takes them."""
  _, config, _ = _run()
  task = task_lib.HarmonizedImageClassificationTask(config.task)
  for images, _ in task.build_inputs(config.task.validation_data):
    return images[:count].numpy()


class RunTest(tf.test.TestCase):
  def test_the_moving_average_is_evaluated_and_exported_as_best(self):
    model_dir, _, logs = _run()
    trainer = _restored(model_dir)
    raw = np.concatenate([v.ravel() for v in trainer.model.get_weights()])
    with _strategy().scope():
      scores = trainer.evaluate(tf.constant(-1))
      self.assertAllClose(scores['alignment'], logs['alignment'], rtol=1e-5)
      # Evaluation swaps the weights, so the raw weights are evaluated from here
      # on.
      trainer.optimizer.swap_weights()
      average = np.concatenate([v.ravel() for v in trainer.model.get_weights()])
      self.assertNotAllClose(average, raw)
      self.assertNotEqual(
        trainer.evaluate(tf.constant(-1))['alignment'], scores['alignment']
      )
    best = os.path.join(model_dir, 'best')
    with open(os.path.join(best, 'info.json')) as f:
      info = json.load(f)
    self.assertAllClose(info['alignment'], logs['alignment'], rtol=1e-5)
    self.assertEqual(info['best_ckpt_global_step'], 2)
    exported = _restored(best).model.get_weights()
    self.assertAllClose(np.concatenate([v.ravel() for v in exported]), average)

  def test_saved_model_and_tflite_hold_the_same_network(self):
    model_dir, _, _ = _run()
    folder = self.get_temp_dir()
    config = f'--config_file={model_dir}/params.yaml'
    _succeeds(
      'export_saved_model',
      config,
      f'--checkpoint_path={model_dir}/best',
      f'--export_dir={folder}',
      '--input_type=tflite',
      '--batch_size=1',
    )
    saved_model = os.path.join(folder, 'saved_model')
    tflite = os.path.join(folder, 'model.tflite')
    _succeeds(
      'export_tflite',
      config,
      f'--saved_model_dir={saved_model}',
      f'--tflite_path={tflite}',
    )

    image = tf.random.stateless_normal([1, 32, 32, 3], [1, 2])
    expected = _restored(f'{model_dir}/best').model(image, training=False)
    self.assertGreater(np.std(expected), 0.0)
    serve = tf.saved_model.load(saved_model).signatures['serving_default']
    self.assertAllClose(
      serve(inputs=image)['logits'], expected, rtol=1e-5, atol=1e-5
    )
    interpreter = tf.lite.Interpreter(model_path=tflite)
    runner = interpreter.get_signature_runner()
    self.assertAllClose(
      runner(inputs=image.numpy())['logits'], expected, rtol=1e-4, atol=1e-4
    )

    # All images of the run have maps, so quantization is calibrated with these.
    _succeeds(
      'export_tflite',
      config,
      f'--saved_model_dir={saved_model}',
      f'--tflite_path={tflite}',
      '--quant_type=int8',
      '--calibration_steps=4',
    )
    interpreter = tf.lite.Interpreter(model_path=tflite)
    self.assertIn(
      'int8',
      {np.dtype(t['dtype']).name for t in interpreter.get_tensor_details()},
    )
    mapped = _images(1)
    found = interpreter.get_signature_runner()(inputs=mapped)['logits']
    expected = _restored(f'{model_dir}/best').model(mapped, training=False)
    self.assertLess(
      np.abs(found - expected).max(), 0.1 * np.abs(expected).max()
    )

  def test_no_random_weights_are_exported(self):
    model_dir, _, _ = _run()
    empty = tempfile.mkdtemp(dir=self.get_temp_dir())
    flags = [f'--config_file={model_dir}/params.yaml', f'--export_dir={empty}']
    self.assertRegex(
      _fails('export_saved_model', *flags, f'--checkpoint_path={empty}'),
      f'export_saved_model: {empty}/? has no checkpoint',
    )
    self.assertRegex(
      _fails(
        'export_saved_model',
        *flags,
        f'--checkpoint_path={model_dir}',
        '--params_override=task.model.backbone.resnet.depth_multiplier=2.0',
      ),
      '--checkpoint_path=.*ckpt-2 cannot be exported as the network',
    )
    self.assertEqual(os.listdir(empty), [])


class StepTest(tf.test.TestCase, parameterized.TestCase):
  def _task(self, **fields):
    config = fixtures.experiment().task
    config.override(fields)
    return task_lib.HarmonizedImageClassificationTask(config)

  def _step(self, task, model, optimizer):
    """Takes an eager step; returns how much each trainable variable moved."""
    before = [v.numpy() for v in model.trainable_variables]
    images = tf.random.stateless_normal([4, 32, 32, 3], [1, 2])
    batch = {
      'labels': tf.range(4) % fixtures.CLASSES,
      'heatmaps': tf.random.stateless_uniform([4, 32, 32], [3, 4]) ** 3,
      'heatmap_weights': tf.ones([4]),
      'valid': tf.ones([4]),
    }
    task.train_step((images, batch), model, optimizer)
    return [v.numpy() - b for v, b in zip(model.trainable_variables, before)]

  @parameterized.parameters('all', 'backbone')
  def test_starts_from_a_stock_checkpoint(self, modules):
    config = fixtures.experiment().task
    fields = {
      k: v
      for k, v in vars(config).items()
      if k in stock.ImageClassificationTask.__dataclass_fields__
    }
    tf_keras.utils.set_random_seed(1)
    trained = stock_task.ImageClassificationTask(
      stock.ImageClassificationTask(**fields)
    ).build_model()
    for variable in trained.variables:
      variable.assign_add(tf.random.uniform(variable.shape))
    path = tf.train.Checkpoint(model=trained, **trained.checkpoint_items).write(
      os.path.join(self.get_temp_dir(), modules)
    )
    task = self._task(init_checkpoint=path, init_checkpoint_modules=modules)
    model = task.build_model()
    task.initialize(model)
    for found, expected in zip(
      model.backbone.get_weights(), trained.backbone.get_weights()
    ):
      self.assertAllEqual(found, expected)
    self.assertEqual(
      np.array_equal(model.layers[-1].kernel, trained.layers[-1].kernel),
      modules == 'all',
    )

  def test_harmonization_reaches_the_head_of_a_frozen_backbone(self):
    # Without classification loss, all changes come from the maps.
    task = self._task(
      freeze_backbone=True, losses={'loss_weight': 0.0, 'l2_weight_decay': 0.0}
    )
    model = task.build_model()
    backbone = model.backbone.get_weights()
    kernel, bias = self._step(task, model, tf_keras.optimizers.SGD(1.0))
    self.assertGreater(np.abs(kernel).max(), 0.0)
    self.assertAllEqual(bias, np.zeros_like(bias))
    for found, before in zip(model.backbone.get_weights(), backbone):
      self.assertAllEqual(found, before)

  def test_private_gradients_are_clipped_with_harmonization_in_them(self):
    config = fixtures.experiment(weight=1e3)
    config.task.differential_privacy_config = privacy.DifferentialPrivacyConfig(
      clipping_norm=0.01, noise_multiplier=0.0
    )
    config.trainer.optimizer_config.override(
      {
        'optimizer': {'type': 'sgd', 'sgd': {'momentum': 0.0}},
        'learning_rate': {
          'type': 'constant',
          'constant': {'learning_rate': 1.0},
        },
        'warmup': {'type': None},
      }
    )
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    model = task.build_model()
    moved = self._step(task, model, train_utils.create_optimizer(task, config))
    self.assertAllClose(
      np.sqrt(sum(np.sum(m**2) for m in moved)), 0.01, rtol=1e-3
    )

  def test_both_sources_come_through_a_tf_data_service(self):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    worker = service.WorkerServer(
      service.WorkerConfig(dispatcher_address=dispatcher.target.split('://')[1])
    )
    path = fixtures.write_numbered(self.get_temp_dir(), 'served', 8)
    config = fixtures.experiment(mapped=path, plain=path, mapped_fraction=0.5)
    data = config.task.train_data
    data.override(
      {
        'enable_tf_data_service': True,
        'tf_data_service_address': dispatcher.target,
      }
    )
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    # The service returns the same data as reading in the process.
    shapes = []
    for enabled in (True, False):
      data.enable_tf_data_service = enabled
      dataset = task.build_inputs(data, tf.distribute.InputContext(1, 0, 1))
      shapes.append(dataset.element_spec)
      iterator = iter(dataset)
      images, batch = next(iterator)
      del iterator  # Before the service that it uses.
      self.assertEqual(images.shape, (4, 32, 32, 3))
      self.assertAllInRange(batch['labels'], 0, fixtures.CLASSES - 1)
      self.assertGreater(np.std(batch['heatmaps']), 0.0)
      if enabled:
        self.assertEqual(worker._num_tasks(), 2)
    self.assertEqual(*shapes)

  @parameterized.parameters(
    'mapped_data', 'validation_data', 'mapped_validation_data'
  )
  def test_a_service_that_would_count_twice_is_refused(self, source):
    with self.assertRaisesRegex(
      ValueError, f'task.{source}.enable_tf_data_service'
    ):
      self._task(**{source: {'enable_tf_data_service': True}})

  def test_parameter_servers_are_refused(self):
    server = mock.Mock(spec=tf.distribute.experimental.ParameterServerStrategy)
    with mock.patch.object(tf.distribute, 'get_strategy', return_value=server):
      with self.assertRaisesRegex(ValueError, 'parameter_server.*mirrored'):
        self._task()
      self._task(harmonization={'enabled': False})


if __name__ == '__main__':
  tf.test.main()
