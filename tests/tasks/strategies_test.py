# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the training step under distribution strategies."""

# Bazel: size = "large"
# Bazel: tags = ["slow"]

from concurrent import futures
import functools
import itertools
import json
import os
import re
import socket

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import yaml

from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures
from tests import devices
from tests import forked

_RATE = 1e3  # Large, so that rounding of the variables is negligible.


def _network(norm):
  layers = tf_keras.layers
  norms = {
    'none': lambda: layers.Activation('linear'),
    'plain': layers.BatchNormalization,
    'synchronized': lambda: layers.BatchNormalization(synchronized=True),
  }
  # Replicas synchronize in the first, and run the second in sequence.
  first, second = {
    'mixed': (
      norms['synchronized'],
      lambda: layers.LayerNormalization(epsilon=1e-6),
    ),
  }.get(norm, (norms.get(norm),) * 2)
  return tf_keras.Sequential(
    [
      tf_keras.Input([16, 16, 3]),
      layers.Conv2D(4, 3, padding='same'),
      first(),
      layers.Activation('swish'),
      layers.MaxPool2D(),
      layers.Conv2D(6, 3),
      second(),
      layers.Activation('swish'),
      layers.GlobalAveragePooling2D(),
      layers.Dense(fixtures.CLASSES),
    ]
  )


def _batch(weights=(1.0, 1.0, 1.0, 1.0)):
  images = tf.random.stateless_normal([4, 16, 16, 3], [1, 2])
  return images, {
    'labels': tf.range(4) % fixtures.CLASSES,
    'heatmaps': tf.random.stateless_uniform([4, 16, 16], [3, 4]) ** 3,
    'heatmap_weights': tf.constant(weights),
    'valid': tf.ones([4]),
  }


def _rows(batch, rows):
  return tf.nest.map_structure(lambda x: x[rows], batch)


def _gradient(strategy, norm, batch, **options):
  """Returns the optimizer's gradients for a global batch, in one row."""
  tf_keras.utils.set_random_seed(0)
  with strategy.scope():
    task = task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(weight=1.0, **options).task
    )
    model = _network(norm)
    optimizer = tf_keras.optimizers.SGD(_RATE)
    optimizer.build(model.trainable_variables)
  before = [v.numpy() for v in model.trainable_variables]

  @tf.function
  def step(inputs):
    strategy.run(task.train_step, args=(inputs, model, optimizer))

  dataset = tf.data.Dataset.from_tensor_slices(batch).batch(
    len(batch[0]), drop_remainder=True
  )
  for inputs in strategy.experimental_distribute_dataset(dataset):
    step(inputs)
  return np.concatenate(
    [
      ((b - v.numpy()) / _RATE).ravel()
      for v, b in zip(model.trainable_variables, before)
    ]
  )


class GradientTest(tf.test.TestCase):
  def _assert_equal(self, found, expected):
    self.assertAllClose(
      found, expected, rtol=0.0, atol=1e-5 * np.abs(expected).max()
    )

  def test_replicas_without_batch_norm_equal_one_device(self):
    # The replicas have different numbers of maps.
    batch = _batch((1.0, 0.0, 1.0, 1.0))
    one = _gradient(
      tf.distribute.get_strategy(), 'none', batch, normalization='mapped'
    )
    two = _gradient(
      devices.two_replicas(), 'none', batch, normalization='mapped'
    )
    self._assert_equal(two, one)

  def test_replicas_with_synchronized_batch_norm_equal_one_device(self):
    one = _gradient(tf.distribute.get_strategy(), 'synchronized', _batch())
    two = _gradient(devices.two_replicas(), 'synchronized', _batch())
    self._assert_equal(two, one)

  def test_sums_on_one_device(self):
    # All replicas' gradients lead to each other then, and to their forward
    # passes, which come after those of the first replica's gradient.
    strategy = tf.distribute.MirroredStrategy(
      ['CPU:0', 'CPU:1'], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    one = _gradient(tf.distribute.get_strategy(), 'mixed', _batch())
    self._assert_equal(_gradient(strategy, 'mixed', _batch()), one)

  def test_replicas_with_plain_batch_norm_equal_the_mean_of_their_own(self):
    two = _gradient(devices.two_replicas(), 'plain', _batch())
    own = [
      _gradient(tf.distribute.get_strategy(), 'plain', _rows(_batch(), rows))
      for rows in (slice(0, 2), slice(2, 4))
    ]
    self._assert_equal(two, np.mean(own, axis=0))
    together = _gradient(tf.distribute.get_strategy(), 'plain', _batch())
    self.assertGreater(np.abs(two - together).max(), 1e-3 * np.abs(two).max())


class CompiledStepTest(tf.test.TestCase):
  def test_bfloat16_step_is_one_program_of_static_shapes(self):
    tf_keras.mixed_precision.set_global_policy('mixed_bfloat16')
    self.addCleanup(tf_keras.mixed_precision.set_global_policy, 'float32')
    task = task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(mapped_fraction=0.5).task
    )
    model = _network('plain')
    optimizer = tf_keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    metrics = task.build_metrics(training=True)
    images, batch = _batch()
    for key in ('heatmaps', 'heatmap_weights'):
      batch[key] = batch[key][:2]

    @tf.function(jit_compile=True)
    def step(images, batch):
      return task.train_step((images, batch), model, optimizer, metrics)

    host = re.compile('PyFunc|Print|Summary|Outfeed|Infeed|XlaHostCompute')
    graph = step.get_concrete_function(images, batch).graph
    definition = graph.as_graph_def()
    nodes = [
      definition.node,
      *(f.node_def for f in definition.library.function),
    ]
    ops = {node.op for node in itertools.chain.from_iterable(nodes)}
    self.assertEmpty([op for op in ops if host.search(op)])
    program = step.experimental_get_compiler_ir(images, batch)(stage='hlo')
    self.assertRegex(program, r'bf16\[[\d,]+\]\S* convolution\(')
    self.assertNotRegex(program, r'\[<=|custom-call|infeed|outfeed|send\(')
    self.assertTrue(np.isfinite(step(images, batch)[task.loss]))


@pytest.mark.slow
class MultiWorkerTest(tf.test.TestCase):
  def test_two_processes_train_and_score_every_image_once(self):
    folder = self.get_temp_dir()
    # One process has more images, and so more steps, than the other.
    for k in range(2):
      fixtures.write_numbered(folder, f'mapped-{k}.tfrecords', 5 + 2 * k)
    config = {
      'task': fixtures.experiment(
        mapped=f'{folder}/mapped-*.tfrecords',
        validation=f'{folder}/mapped-*.tfrecords',
      ).task.as_dict(),
      'trainer': {
        'train_steps': 2,
        'steps_per_loop': 2,
        'summary_interval': 2,
        'checkpoint_interval': 2,
        'validation_interval': 2,
      },
      'runtime': {
        'distribution_strategy': 'multi_worker_mirrored',
        'num_gpus': 0,
        'all_reduce_alg': 'ring',
      },
    }
    path = os.path.join(folder, 'tiny.yaml')
    with open(path, 'w') as f:
      yaml.safe_dump(json.loads(json.dumps(config)), f)
    hosts = [f'localhost:{_free_port()}' for _ in range(2)]
    with futures.ThreadPoolExecutor(2) as threads:
      workers = list(
        threads.map(
          lambda index: forked.command(
            'train',
            '--experiment=harmonized_resnet_imagenet',
            f'--config_file={path}',
            f'--model_dir={folder}/run',
            prepare=functools.partial(_join, hosts, index),
          ),
          range(2),
        )
      )
    for worker in workers:
      self.assertEqual(worker.code, 0, worker.errors[-3000:])
      self.assertIn('harmonization_loss', worker.errors)
    outputs = [worker.output + worker.errors for worker in workers]
    for output in outputs:
      self.assertRegex(output, r"'alignment_n': np.float32\(12\.0\)")
    scores = [set(re.findall(r"'alignment\w*': [^,}\s]+", o)) for o in outputs]
    self.assertEqual(*scores)
    for name in ('alignment_low', 'alignment_specific'):
      self.assertTrue(any(f"'{name}'" in score for score in scores[0]))


def _join(hosts, index):
  """Makes the process one of a cluster."""
  os.environ['TF_CONFIG'] = json.dumps(
    {
      'cluster': {'worker': hosts},
      'task': {'type': 'worker', 'index': index},
    }
  )
  # Otherwise TensorFlow confuses inputs of fused convolutions in the evaluation
  # of several processes on CPUs.
  os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'


def _free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


if __name__ == '__main__':
  tf.test.main()
