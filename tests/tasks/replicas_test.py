# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the harmonized training step on several replicas."""

# Bazel: tags = ["training"]

from official.core import base_trainer
from official.core import train_utils
import tensorflow as tf
import tf_keras

from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures
from tests import devices


class ReplicasTest(tf.test.TestCase):
  def _losses(
    self, strategy, sync=False, weights=(1.0, 1.0, 1.0, 1.0), **options
  ):
    """Returns the logged losses of the first three steps."""
    config = fixtures.experiment(**options)
    config.task.model.norm_activation.use_sync_bn = sync
    images = tf.random.stateless_normal([4, 32, 32, 3], [1, 2])
    batch = {
      'labels': tf.range(4) % fixtures.CLASSES,
      'heatmaps': tf.random.stateless_uniform([4, 32, 32], [3, 4]) ** 3,
      'heatmap_weights': tf.constant(weights),
      'valid': tf.ones([4]),
    }
    dataset = tf.data.Dataset.from_tensors((images, batch)).repeat(3)
    dataset = dataset.unbatch().batch(4, drop_remainder=True)
    tf_keras.utils.set_random_seed(0)
    with strategy.scope():
      task = task_lib.HarmonizedImageClassificationTask(config.task)
      model = task.build_model()
      # At .01 the second step of a batch of four lands where max-pooling has
      # near ties, and rounding decides what a machine finds.
      optimizer = tf_keras.optimizers.SGD(1e-4)
      optimizer.build(model.trainable_variables)
      metrics = task.build_metrics(training=True)

    @tf.function
    def step(inputs):
      strategy.run(task.train_step, args=(inputs, model, optimizer, metrics))

    found = []
    for inputs in strategy.experimental_distribute_dataset(dataset):
      for metric in metrics:
        metric.reset_states()
      step(inputs)
      found.append(
        [
          float(m.result())
          for m in metrics
          if m.name in ('classification_loss', 'harmonization_loss')
        ]
      )
    return found

  def test_synchronized_replicas_equal_one_device(self):
    # The replicas have different numbers of maps.
    options = dict(
      sync=True, weights=(1.0, 0.0, 1.0, 1.0), normalization='mapped'
    )
    one = self._losses(tf.distribute.get_strategy(), **options)
    two = self._losses(devices.two_replicas(), **options)
    # With a batch of four, rounding errors grow in later steps.
    self.assertAllClose(one[:2], two[:2], rtol=1e-3)

  def test_the_hosts_trainer_trains(self):
    path = fixtures.write_numbered(self.get_temp_dir(), 'mapped', 8)
    config = fixtures.experiment(mapped=path)
    with devices.two_replicas().scope():
      task = task_lib.HarmonizedImageClassificationTask(config.task)
      trainer = base_trainer.Trainer(
        config,
        task,
        model=task.build_model(),
        optimizer=train_utils.create_optimizer(task, config),
        evaluate=False,
      )
      logs = trainer.train(tf.constant(2))
    self.assertEqual(trainer.global_step.numpy(), 2)
    self.assertGreater(float(logs['harmonization_loss']), 0.0)

  def test_interval_counts_maps_over_replicas(self):
    losses = self._losses(
      devices.two_replicas(), interval=2, normalization='mapped'
    )
    harmonization = [step[1] for step in losses]
    self.assertGreater(min(harmonization[0], harmonization[2]), 0.0)
    self.assertEqual(harmonization[1], 0.0)

  def test_interval_refuses_synchronized_replicas(self):
    with self.assertRaisesRegex(
      ValueError, 'interval is 2 and .*use_sync_bn is True on 2 replicas'
    ):
      self._losses(devices.two_replicas(), sync=True, interval=2)


if __name__ == '__main__':
  tf.test.main()
