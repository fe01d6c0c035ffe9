# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the evaluation of accuracy and alignment."""

# Bazel: tags = ["training"]

import csv
import json
import os
from unittest import mock

import numpy as np
from official.core import base_trainer
from official.core import train_lib
from official.core import train_utils
from official.vision.utils import summary_manager
from scipy import stats
import tensorflow as tf
import tf_keras

from official_ext.harmonization.evaluation import scores as scores_lib
from official_ext.harmonization.ops import saliency
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures
from tests import devices
from tests import map_pairs


def _model(task, seed=0):
  tf_keras.utils.set_random_seed(seed)
  return task.build_model()


def _dense():
  """Returns a network that is traced faster than the task's."""
  layers = tf_keras.layers
  return tf_keras.Sequential(
    [
      layers.Flatten(),
      layers.Dense(8, 'tanh'),
      layers.Dense(fixtures.CLASSES),
    ]
  )


def _read_rows(folder):
  with open(os.path.join(folder, 'alignment_per_image.csv')) as f:
    return list(csv.DictReader(f))


class EvaluationTest(tf.test.TestCase):
  def _evaluate(self, strategy=None, folder=None, **kwargs):
    """Returns Model Garden's evaluation logs for an untrained network."""
    thresholds = kwargs.pop('thresholds', None)
    config = fixtures.experiment(**kwargs)
    config.task.override(
      {
        'model': {'output_softmax': bool(thresholds)},
        'evaluation': {'precision_and_recall_thresholds': thresholds},
      }
    )
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
      task = task_lib.HarmonizedImageClassificationTask(
        config.task, logging_dir=folder
      )
      model = _model(task)
      trainer = base_trainer.Trainer(
        config,
        task,
        model=model,
        optimizer=train_utils.create_optimizer(task, config),
        train=False,
      )
      logs = trainer.evaluate(tf.constant(-1))
    return task, model, {k: float(np.asarray(v)) for k, v in logs.items()}

  def _files(self):
    folder = self.get_temp_dir()
    return dict(
      validation=fixtures.write_numbered(folder, 'mapped.tfrecords', 7),
      plain_validation=fixtures.write(
        folder,
        'plain.tfrecords',
        [fixtures.record(50 + i, i % 4) for i in range(5)],
      ),
    )

  def test_scores_are_those_of_every_image(self):
    task, model, logs = self._evaluate(**self._files(), batch_size=4)
    rho, hits, plain_hits, losses = [], [], [], []
    pairs = []
    params = task.task_config.validation_data
    for images, batch in task.build_inputs(params):
      labels = tf.one_hot(batch['labels'], fixtures.CLASSES)
      with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=False)
        score = tf.reduce_sum(logits * labels)
      saliency = np.abs(tape.gradient(score, images)).max(-1)
      for i in np.flatnonzero(batch['valid']):
        hit = np.argmax(logits[i]) == batch['labels'][i]
        if batch['heatmap_weights'][i]:
          pairs.append((saliency[i], batch['heatmaps'][i].numpy()))
          rho.append(
            stats.spearmanr(
              saliency[i].ravel(), batch['heatmaps'][i].numpy().ravel()
            )[0]
          )
          hits.append(hit)
        else:
          plain_hits.append(hit)
          losses.append(-tf.nn.log_softmax(logits[i])[batch['labels'][i]])
    self.assertEqual((len(rho), len(plain_hits)), (7, 5))
    decay = tf.add_n(model.losses)
    own, shuffled = map_pairs.own_and_shuffled(*zip(*pairs))
    self.assertGreater(abs(shuffled), 0.01)
    self.assertAllClose(
      [logs['alignment_shuffled'], logs['alignment_specific']],
      [shuffled, own - shuffled],
      rtol=0.0,
      atol=1e-5,
    )
    expected = {
      'alignment': np.mean(rho),
      'alignment_spearman': np.mean(rho),
      'alignment_n': 7.0,
      'alignment_n_undefined': 0.0,
      'clickme_accuracy': np.mean(hits),
      'accuracy': np.mean(plain_hits),
      'accuracy_n': 5.0,
      'validation_loss': np.mean(losses) + decay,
    }
    self.assertAllClose({k: logs[k] for k in expected}, expected, rtol=1e-4)

  def test_thresholds_are_for_probabilities_and_maps_of_logits(self):
    files = self._files()
    task, model, logs = self._evaluate(**files, thresholds=[0.26])
    top, hits = [], []
    for images, batch in task.build_inputs(task.task_config.validation_data):
      plain = (batch['valid'] > 0) & (batch['heatmap_weights'] == 0)
      scores = tf.nn.softmax(model(images, training=False)).numpy()[plain]
      top += list(scores.max(-1))
      hits += list(scores.argmax(-1) == batch['labels'][plain])
    sure, hits = np.array(top) > 0.26, np.array(hits)
    self.assertEqual(len(hits), 5)
    self.assertGreater(np.sum(sure & hits), 0)
    expected = {
      'precision_at_threshold_0.26': np.sum(sure & hits) / sum(sure),
      'recall_at_threshold_0.26': np.sum(sure & hits) / 5,
    }
    self.assertAllClose({k: logs[k] for k in expected}, expected)
    # Losses and saliency still use the logits.
    without = self._evaluate(**files)[2]
    self.assertAllClose({k: logs[k] for k in without}, without)

  def test_nothing_depends_on_batches_or_replicas(self):
    files = self._files()
    found = []
    # 7 and 5 images: the second replica runs out of both datasets first.
    for strategy, size in ((None, 16), (None, 3), (devices.two_replicas(), 4)):
      folder = os.path.join(self.get_temp_dir(), f'of_{size}')
      logs = self._evaluate(
        strategy, folder, **files, batch_size=size, ceiling=0.5
      )[2]
      rows = _read_rows(folder)
      with open(os.path.join(folder, 'alignment_panels.png'), 'rb') as f:
        picture = tf.io.decode_png(f.read()).numpy().astype(float)
      found.append((logs, rows, picture))
    for logs, rows, picture in found:
      self.assertAllClose(logs, found[0][0], rtol=1e-4)
      self.assertAllClose(picture, found[0][2], atol=3.0)
      # Each image occurs once, with its file.
      self.assertEqual([r['file'] for r in rows], [files['validation']] * 7)
      self.assertEqual([r['record'] for r in rows], [str(i) for i in range(7)])
      self.assertEqual(
        [r['label'] for r in rows],
        [str(i % fixtures.CLASSES) for i in range(7)],
      )
      hits = np.mean([r['label'] == r['predicted'] for r in rows])
      self.assertAllClose(logs['clickme_accuracy'], hits)
      for name in ('spearman', 'dice', 'iou', 'auc', 'pointing'):
        values = [float(r[name]) for r in rows]
        self.assertAllClose(
          values, [float(r[name]) for r in found[0][1]], rtol=1e-4
        )
        self.assertAllClose(
          logs[f'alignment_{name}'], np.mean(values), rtol=1e-4
        )
        self.assertAllClose(
          [logs[f'alignment_{name}_low'], logs[f'alignment_{name}_high']],
          scores_lib.bootstrap_interval(values),
          rtol=1e-4,
        )
      self.assertAllClose(
        [logs['alignment_low'], logs['alignment_high']],
        [
          2.0 * logs['alignment_spearman_low'],
          2.0 * logs['alignment_spearman_high'],
        ],
      )
      self.assertEqual(logs['alignment_dice_n'], 7.0)

  def test_smoothgrad_squared_by_option(self):
    config = fixtures.experiment(
      validation='unread',
      evaluation_explainer='smoothgrad_squared',
      explainer_samples=2,
    )
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    images = tf.random.stateless_normal([4, 8, 8, 3], [1, 2])
    batch = {
      'labels': tf.range(4) % fixtures.CLASSES,
      'heatmaps': tf.random.stateless_uniform([4, 8, 8], [3, 4]),
      'heatmap_weights': tf.ones([4]),
      'valid': tf.constant([1.0, 1.0, 1.0, 0.0]),
      'bad_records': tf.zeros([4]),
      'records': tf.constant([[0, 0], [0, 1], [1, 0], [0, 0]]),
    }
    dataset = tf.data.Dataset.from_tensors((images, batch)).unbatch().batch(4)
    found = []
    for strategy in (tf.distribute.get_strategy(), devices.two_replicas()):
      with strategy.scope():
        tf_keras.utils.set_random_seed(0)
        model = _dense()
        model.build([None, 8, 8, 3])
      step = tf.function(
        lambda inputs, model=model: task.validation_step(inputs, model)['rows'],
        autograph=False,  # It would take longer than the test.
      )
      inputs = next(iter(strategy.experimental_distribute_dataset(dataset)))
      rows = strategy.run(step, (inputs,))
      found.append(
        {
          k: np.concatenate(strategy.experimental_local_results(v))
          for k, v in rows.items()
        }
      )
    self.assertAllClose(*found)
    _, maps = saliency.smoothgrad_squared(
      model,
      images,
      tf.one_hot(batch['labels'], fixtures.CLASSES),
      batch['records'],
      samples=2,
    )
    self.assertAllClose(
      found[0]['spearman'],
      [
        stats.spearmanr(*(np.ravel(m) for m in pair))[0]
        for pair in zip(maps, batch['heatmaps'])
      ],
    )
    self.assertAllEqual(found[0]['with_map'], batch['valid'])
    # The network does not see the noise when it classifies.
    self.assertAllEqual(
      found[0]['predicted'], np.argmax(model(images, training=False), -1)
    )

  def test_scores_without_data_are_not_there(self):
    files = self._files()
    mapped = self._evaluate(validation=files['validation'])[2]
    self.assertNotIn('accuracy', mapped)
    self.assertIn('alignment', mapped)
    plain = self._evaluate(plain_validation=files['plain_validation'])[2]
    self.assertIn('accuracy', plain)
    self.assertNotIn('alignment', plain)

  def test_undefined_scores_are_counted_apart(self):
    flat = tf.io.encode_png(np.zeros((40, 48, 1), np.uint8)).numpy()
    path = fixtures.write(
      self.get_temp_dir(),
      'flat.tfrecords',
      [fixtures.record(i, heatmap=flat if i == 1 else None) for i in range(3)],
    )
    logs = self._evaluate(validation=path, ceiling=0.5)[2]
    self.assertEqual(
      (logs['alignment_n'], logs['alignment_n_undefined']), (2.0, 1.0)
    )
    self.assertAllClose(logs['alignment'], 2.0 * logs['alignment_spearman'])
    self.assertTrue(np.isfinite(logs['alignment']))

  def test_the_whole_step_compiles(self):
    config = fixtures.experiment(
      validation=fixtures.write_numbered(self.get_temp_dir(), 'mapped', 3)
    )
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    inputs = next(iter(task.build_inputs(config.task.validation_data)))
    model = _dense()
    found = []
    for compiled in (False, True):
      metrics = task.build_metrics(training=False)
      step = tf.function(
        lambda inputs, metrics=metrics: task.validation_step(
          inputs, model, metrics
        ),
        jit_compile=compiled,
      )
      rows = step(inputs)['rows']
      found.append((rows, [m.result() for m in metrics]))
    self.assertAllClose(*found, rtol=1e-4, atol=1e-4)
    self.assertAllEqual(found[1][0]['with_map'], [1.0, 1.0, 1.0, 0.0])

  def test_the_gradient_pass_runs_on_mapped_batches_alone(self):
    config = fixtures.experiment(**self._files())
    task = task_lib.HarmonizedImageClassificationTask(config.task)
    metrics = task.build_metrics(training=False)
    step = tf.function(task.validation_step).get_concrete_function(
      next(iter(task.build_inputs(config.task.validation_data))),
      _model(task),
      metrics,
    )
    outside = {op.type for op in step.graph.get_operations()}
    self.assertIn('If', outside)
    self.assertNotIn('Conv2DBackpropInput', outside)


class ModesTest(tf.test.TestCase):
  def _run(self, mode, config, model_dir):
    # Counting all operations would take longer than the run.
    with mock.patch.object(train_utils, 'try_count_flops', return_value=None):
      train_lib.run_experiment(
        distribution_strategy=tf.distribute.get_strategy(),
        task=task_lib.HarmonizedImageClassificationTask(
          config.task, logging_dir=model_dir
        ),
        mode=mode,
        params=config,
        model_dir=model_dir,
        eval_summary_manager=summary_manager.maybe_build_eval_summary_manager(
          config, model_dir
        ),
      )

  def test_every_mode_of_the_host_reports(self):
    model_dir = self.get_temp_dir()
    path = fixtures.write_numbered(model_dir, 'mapped.tfrecords', 5)
    config = fixtures.experiment(mapped=path, validation=path, weight=0.0)
    config.task.allow_image_summary = True
    config.trainer.override(
      {
        'train_steps': 1,
        'steps_per_loop': 1,
        'summary_interval': 1,
        'checkpoint_interval': 1,
        'validation_interval': 1,
        'continuous_eval_timeout': 1,
        'best_checkpoint_export_subdir': 'best',
        'best_checkpoint_eval_metric': 'alignment_dice_low',
      }
    )
    summaries = os.path.join(model_dir, 'validation')
    for mode in ('train_and_eval', 'eval', 'continuous_eval'):
      self._run(mode, config, model_dir)
      rows = _read_rows(model_dir)
      self.assertEqual(
        [(r['step'], r['record']) for r in rows],
        [('1', str(i)) for i in range(5)],
      )
      with open(os.path.join(model_dir, 'best', 'info.json')) as f:
        best = json.load(f)
      dice = scores_lib.bootstrap_interval([float(r['dice']) for r in rows])
      self.assertAllClose(best['alignment_dice_low'], dice[0], rtol=1e-4)
      logged = {}
      for file in tf.io.gfile.glob(os.path.join(summaries, 'events*')):
        for event in tf.compat.v1.train.summary_iterator(file):
          logged.update({v.tag: v.tensor for v in event.summary.value})
      self.assertIn('alignment_high', logged)
      # Also a log that can select the best checkpoint.
      self.assertAllClose(
        float(tf.make_ndarray(logged['alignment_specific'])),
        best['alignment_specific'],
      )
      shown = tf.io.decode_png(
        tf.make_ndarray(logged['image/alignment_panels'])[2]
      )
      picture = os.path.join(model_dir, 'alignment_panels.png')
      with open(picture, 'rb') as f:
        self.assertAllEqual(shown, tf.io.decode_png(f.read()))
      tf.io.gfile.rmtree(summaries)
      tf.io.gfile.remove(picture)
      tf.io.gfile.remove(os.path.join(model_dir, 'alignment_per_image.csv'))


if __name__ == '__main__':
  tf.test.main()
