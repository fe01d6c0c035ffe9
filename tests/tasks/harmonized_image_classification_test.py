# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the harmonized task."""

# Bazel: tags = ["training"]

import dataclasses

from absl.testing import parameterized
import numpy as np
from official.modeling import optimization
from official.vision.configs import image_classification as stock_cfg
from official.vision.tasks import image_classification as stock_task
import tensorflow as tf
import tf_keras

from official_ext.harmonization.tasks import guards
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures
from testing import released
from tests import devices
from tests import tiny_run


class _Recorder:
  """An optimizer that stores gradients and changes no variable."""

  def __init__(self, step=0):
    self.iterations = tf.constant(step, tf.int64)
    self.gradients = None

  def apply_gradients(self, gradients_and_variables):
    self.gradients = [g for g, _ in gradients_and_variables]


def _task(**kwargs):
  return task_lib.HarmonizedImageClassificationTask(
    fixtures.experiment(**kwargs).task
  )


def _stock_task(task):
  """Returns the stock task with the same fields."""
  config = stock_cfg.ImageClassificationTask(
    **{
      f.name: getattr(task.task_config, f.name)
      for f in dataclasses.fields(stock_cfg.ImageClassificationTask)
    }
  )
  return stock_task.ImageClassificationTask(config)


def _model(task, seed=0):
  tf_keras.utils.set_random_seed(seed)
  return task.build_model()


def _batch(size=4, mapped=4, pixels=32):
  images = tf.random.stateless_normal([size, pixels, pixels, 3], [1, 2])
  human = tf.random.stateless_uniform([mapped, pixels, pixels], [3, 4]) ** 3
  return images, {
    'labels': tf.range(size) % fixtures.CLASSES,
    'heatmaps': human,
    'heatmap_weights': tf.ones([mapped]),
    'valid': tf.ones([size]),
  }


class StockTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.product(
    labels=('one_hot', 'sparse', 'soft'), off=('weight', 'enabled')
  )
  def test_off_is_the_stock_task_bit_for_bit(self, labels, off):
    task = _task(**({'weight': 0.0} if off == 'weight' else {'enabled': False}))
    task.task_config.losses.override(
      {
        'one_hot': labels == 'one_hot',
        'soft_labels': labels == 'soft',
        'label_smoothing': 0.0 if labels == 'sparse' else 0.1,
        'l2_weight_decay': 1e-4,
      }
    )
    stock = _stock_task(task)
    images, batch = _batch()
    given = batch['labels']
    if labels == 'soft':  # Model Garden's own mixing returns smoothed labels.
      given = tf.one_hot(given, 4) * (1.0 - 0.1) + 0.1 / 4
    inputs = (images, batch if off == 'weight' else given)

    results = []
    for t, step_inputs in ((task, inputs), (stock, (images, given))):
      model, optimizer = _model(t), tf_keras.optimizers.SGD(0.1, 0.9)
      optimizer.build(model.trainable_variables)
      metrics = t.build_metrics(training=True)
      step = tf.function(t.train_step)
      losses = [
        step(step_inputs, model, optimizer, metrics)['loss'] for _ in range(3)
      ]
      results.append(losses + model.variables + [m.result() for m in metrics])
    self.assertLen(results[0], len(results[1]))
    for ours, theirs in zip(*results):
      self.assertAllEqual(ours, theirs)

  def test_gradients_of_weight_zero_are_the_stock_ones(self):
    task = _task(weight=0.0)
    stock = _stock_task(task)
    images, batch = _batch()
    found = []
    for t, inputs in (
      (task, (images, batch)),
      (stock, (images, batch['labels'])),
    ):
      model, recorder = _model(t), _Recorder()
      t.train_step(inputs, model, recorder)
      found.append(recorder.gradients)
    self.assertNotEmpty(found[0])
    for ours, theirs in zip(*found):
      self.assertAllEqual(ours, theirs)

  def test_disabled_reads_and_evaluates_as_the_stock_task(self):
    path = fixtures.write_numbered(self.get_temp_dir(), 'plain', 6)
    task = _task(enabled=False, plain=path, plain_validation=path)
    stock = _stock_task(task)
    params = task.task_config.validation_data
    ((images, labels),) = task.build_inputs(params)
    ((stock_images, stock_labels),) = stock.build_inputs(params)
    self.assertAllEqual(images, stock_images)
    self.assertAllEqual(labels, stock_labels)
    results = []
    for t in (task, stock):
      metrics = t.build_metrics(training=False)
      logs = t.validation_step((images, labels), _model(t), metrics)
      results.append((logs['loss'], {m.name: m.result() for m in metrics}))
    self.assertAllEqual(results[0][0], results[1][0])
    self.assertAllEqual(results[0][1], results[1][1])


class TrainStepTest(tf.test.TestCase, parameterized.TestCase):
  def test_gradients_equal_released(self):
    theirs = released.load('training.loss')
    task = _task(weight=1.0)
    task.task_config.losses.override(
      {'label_smoothing': 0.1, 'l2_weight_decay': 0.0}
    )
    images, batch = _batch()
    batch['heatmap_weights'] = tf.constant([1.0, 0.0, 1.0, 1.0])
    model, recorder = _model(task), _Recorder()
    task.train_step((images, batch), model, recorder)
    model = _model(task)
    expected = theirs.harmonizer_loss(
      model,
      images,
      batch['heatmap_weights'],
      tf.one_hot(batch['labels'], fixtures.CLASSES),
      batch['heatmaps'],
      lambda_weights=0.0,
    )
    without = _Recorder()
    task.task_config.harmonization.weight = 0.0
    task.train_step((images, batch), _model(task), without)
    self.assertLen(expected, len(recorder.gradients))
    difference, norm, effect = 0.0, 0.0, 0.0
    for ours, released_gradient, stock in zip(
      recorder.gradients, expected, without.gradients
    ):
      difference += float(tf.reduce_sum((ours - released_gradient) ** 2))
      norm += float(tf.reduce_sum(released_gradient**2))
      effect += float(tf.reduce_sum((stock - released_gradient) ** 2))
    self.assertLess((difference / norm) ** 0.5, 1e-4)
    # Without the harmonization loss the gradient is different.
    self.assertGreater((effect / norm) ** 0.5, 1e-2)

  @parameterized.parameters('one_hot', 'sparse', 'soft')
  def test_losses_are_logged_and_add_up(self, labels):
    task = _task(weight=3.0, mapped_fraction=0.5)
    task.task_config.losses.override(
      {'one_hot': labels == 'one_hot', 'soft_labels': labels == 'soft'}
    )
    inputs = _batch(mapped=2)
    if labels == 'soft':
      inputs[1]['labels'] = tf.one_hot(inputs[1]['labels'], 4)
    metrics = task.build_metrics(training=True)
    logs = task.train_step(inputs, _model(task), _Recorder(), metrics)
    found = {m.name: float(m.result()) for m in metrics}
    self.assertContainsSubset(
      {'classification_loss', 'harmonization_loss', 'accuracy'}, set(found)
    )
    self.assertGreater(found['harmonization_loss'], 0.0)
    self.assertAllClose(
      logs['loss'],
      found['classification_loss'] + 3.0 * found['harmonization_loss'],
    )

  @parameterized.parameters(0.0, 3.0)
  def test_thresholds_are_for_probabilities(self, weight):
    task = _task(weight=weight)
    task.task_config.override({'model': {'output_softmax': True}})
    model, (images, batch) = _model(task), _batch()
    scores = tf.nn.softmax(model(images, training=True)).numpy()
    top = scores.max(-1)
    # Two of four are above the threshold, and the more confident one is wrong.
    threshold = float(np.sort(top)[1:3].mean())
    labels = scores.argmax(-1)
    labels[top.argmax()] = (labels[top.argmax()] + 1) % fixtures.CLASSES
    batch['labels'] = tf.constant(labels, tf.int32)
    task.task_config.evaluation.override(
      {'precision_and_recall_thresholds': [threshold]}
    )
    metrics = task.build_metrics(training=True)
    task.train_step((images, batch), model, _Recorder(), metrics)
    found = {m.name: float(m.result()) for m in metrics}
    self.assertAllClose(
      [
        found[f'{name}_at_threshold_{threshold}']
        for name in ('precision', 'recall')
      ],
      [1 / 2, 1 / 4],
    )

  def test_batch_normalization_counts_images_without_maps(self):
    found = []
    for normalization in ('batch', 'mapped'):
      task = _task(normalization=normalization, mapped_fraction=0.5)
      metrics = task.build_metrics(training=True)
      task.train_step(_batch(mapped=2), _model(task), _Recorder(), metrics)
      found += [m.result() for m in metrics if m.name == 'harmonization_loss']
    self.assertAllClose(2.0 * found[0], found[1])

  def test_warm_up(self):
    task = _task(weight=2.0, warmup_steps=10)
    metrics = task.build_metrics(training=True)
    totals = []
    for step in (0, 5, 10, 50):
      logs = task.train_step(_batch(), _model(task), _Recorder(step), metrics)
      totals.append(float(logs['loss']))
    losses = {m.name: float(m.result()) for m in metrics}
    expected = [
      losses['classification_loss'] + w * losses['harmonization_loss']
      for w in (0.0, 1.0, 2.0, 2.0)
    ]
    self.assertAllClose(totals, expected, rtol=1e-5)

  def test_xla_equals_graph(self):
    found = []
    for compiled in (False, True):
      task = _task(weight=1.0)
      model, recorder = _model(task), _Recorder()

      @tf.function(jit_compile=compiled)
      def gradients(inputs, task=task, model=model, recorder=recorder):
        task.train_step(inputs, model, recorder)
        return recorder.gradients

      found.append(gradients(_batch()))
    difference, norm = (
      float(tf.linalg.global_norm(t))
      for t in ([a - b for a, b in zip(*found)], found[0])
    )
    self.assertLess(difference / norm, 1e-3)

  def test_bfloat16_compiles_and_learns(self):
    tf_keras.mixed_precision.set_global_policy('mixed_bfloat16')
    self.addCleanup(tf_keras.mixed_precision.set_global_policy, 'float32')
    task = _task(weight=1.0)
    model = _model(task)
    optimizer = tf_keras.optimizers.SGD(0.05)
    optimizer.build(model.trainable_variables)
    step = tf.function(
      lambda inputs: task.train_step(inputs, model, optimizer)['loss'],
      jit_compile=True,
    )
    losses = [float(step(_batch())) for _ in range(8)]
    self.assertTrue(np.all(np.isfinite(losses)))
    self.assertLess(losses[-1], losses[0])

  def test_interval_takes_every_kth_step_k_times_as_strongly(self):
    iterations = tf.Variable(0, dtype=tf.int64)

    def gradients_of(task):
      model, recorder = _model(task), _Recorder()
      recorder.iterations = iterations

      @tf.function
      def run(inputs):
        task.train_step(inputs, model, recorder)
        return recorder.gradients

      return lambda: run(_batch())

    lazy = gradients_of(_task(weight=2.0, interval=3))
    plain, off = (gradients_of(_task(weight=w))() for w in (6.0, 0.0))
    for step, twin in ((0, plain), (1, off), (2, off), (3, plain)):
      iterations.assign(step)
      for ours, theirs in zip(lazy(), twin, strict=True):
        self.assertAllClose(ours, theirs, rtol=1e-4, atol=1e-6)

  @parameterized.parameters(False, True)
  def test_interval_is_one_compiled_step(self, compiled):
    task = _task(weight=1.0, interval=2)
    model, optimizer = tiny_run.network(), tf_keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    metrics = task.build_metrics(training=True)
    step = tf.function(
      lambda inputs: task.train_step(inputs, model, optimizer, metrics),
      jit_compile=compiled,
    )
    values = []
    for _ in range(4):
      for metric in metrics:
        metric.reset_states()
      step(_batch(pixels=16))
      values.append(
        [float(m.result()) for m in metrics if m.name == 'harmonization_loss'][
          0
        ]
      )
    self.assertEqual(step.experimental_get_tracing_count(), 1)
    self.assertGreater(min(values[0], values[2]), 0.0)
    self.assertEqual((values[1], values[3]), (0.0, 0.0))

  def test_float16_scales_both_gradients(self):
    tf_keras.mixed_precision.set_global_policy('mixed_float16')
    self.addCleanup(tf_keras.mixed_precision.set_global_policy, 'float32')
    task = _task(weight=1.0)
    model = _model(task)
    # Input gradients that float16 cannot represent without a loss scale.
    weights = model.layers[-1].kernel
    weights.assign(weights * 1e-6)
    images, batch = _batch()
    found = {}
    for name, scale in (('scaled', 2.0**14), ('not', 1.0)):
      _, maps = task_lib.saliency_ops.saliency_maps(
        model,
        images,
        tf.one_hot(batch['labels'], 4),
        training=True,
        loss_scale=tf.constant(scale),
      )
      found[name] = float(tf.reduce_mean(tf.cast(maps != 0.0, tf.float32)))
    self.assertGreater(found['scaled'], 0.9)
    self.assertLess(found['not'], 0.5)

    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
      tf_keras.optimizers.SGD(0.05)
    )
    model = _model(task)
    optimizer.build(model.trainable_variables)
    step = tf.function(
      lambda inputs: task.train_step(inputs, model, optimizer)['loss']
    )
    losses = [float(step(_batch())) for _ in range(8)]
    self.assertTrue(np.all(np.isfinite(losses)))
    self.assertLess(losses[-1], losses[0])

  def test_float16_with_a_moving_average_is_refused(self):
    task = _task()
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(
      optimization.ExponentialMovingAverage(tf_keras.optimizers.legacy.SGD(0.1))
    )
    with self.assertRaisesRegex(ValueError, 'optimizer_config.ema.*bfloat16'):
      task.train_step(_batch(), _model(task), optimizer)

  def test_wrong_configuration_stops_at_once(self):
    with self.assertRaisesRegex(ValueError, 'task.harmonization.levels is 0'):
      _task(levels=0)


class FewMapsTest(tf.test.TestCase, parameterized.TestCase):
  def _check(self, mapped, layers, **options):
    guards.check_statistics(
      _task(**options).task_config,
      tf_keras.Sequential([tf_keras.Input([4, 4, 3]), *layers]),
      mapped,
    )

  # The warning is logged once per number in a process. No other test of this
  # file has these numbers.
  @parameterized.parameters(9, 13, 31)
  def test_a_warning_below_32(self, mapped):
    with self.assertLogs(level='WARNING') as logs:
      for _ in range(2):
        self._check(mapped, [tf_keras.layers.BatchNormalization()])
    self.assertLen(logs.output, 1)
    self.assertRegex(
      logs.output[0],
      "batch_norm is 'mapped'.* "
      f"{mapped} images .*expected 32 or more.*to 'inference'",
    )

  @parameterized.parameters('batch', 'inference', 'mapped')
  def test_none_where_it_does_not_matter(self, batch_norm):
    mapped = 32 if batch_norm == 'mapped' else 2
    with self.assertNoLogs(level='WARNING'):
      self._check(
        mapped, [tf_keras.layers.BatchNormalization()], batch_norm=batch_norm
      )
      self._check(2, [tf_keras.layers.LayerNormalization()])

  def test_synchronized_replicas_count_together(self):
    layer = tf_keras.layers.BatchNormalization(synchronized=True)
    with devices.two_replicas().scope():
      with self.assertNoLogs(level='WARNING'):
        self._check(16, [layer])
      with self.assertLogs(level='WARNING'):
        self._check(16, [layer, tf_keras.layers.BatchNormalization()])

  def test_a_step_says_so(self):
    task = _task(weight=1.0, mapped_fraction=0.5)
    model = _model(task)
    optimizer = tf_keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    step = tf.function(lambda i: task.train_step(i, model, optimizer))
    with self.assertLogs(level='WARNING') as logs:
      step.get_concrete_function(_batch(size=6, mapped=3))
    self.assertIn('those of 3 images', ''.join(logs.output))


if __name__ == '__main__':
  tf.test.main()
