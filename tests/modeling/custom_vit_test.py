# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the Vision Transformer with free sizes."""

# Bazel: tags = ["networks"]

from official.core import task_factory
from official.vision.modeling.backbones import vit_specs
import tensorflow as tf

from testing import fixtures


class CustomVitTest(tf.test.TestCase):
  def _model(self, size=32, **backbone):
    config = fixtures.experiment(size=size).task
    config.model.backbone.override(backbone)
    return task_factory.get_task(config).build_model()

  def test_is_the_hosts_of_the_same_size(self):
    spec = dict(vit_specs.VIT_SPECS['vit-ti16'])
    ours = self._model(type='custom_vit', custom_vit=dict(spec, pooler='token'))
    hosts = self._model(type='vit', vit=dict(model_name='vit-ti16'))
    self.assertEqual(
      [v.shape for v in ours.weights], [v.shape for v in hosts.weights]
    )
    ours.set_weights(hosts.get_weights())
    images = tf.random.stateless_normal([2, 32, 32, 3], [0, 1])
    self.assertAllEqual(ours(images), hosts(images))

  def test_any_other_size(self):
    model = self._model(
      type='custom_vit',
      custom_vit=dict(
        hidden_size=24,
        patch_size=4,
        transformer=dict(mlp_dim=48, num_heads=2, num_layers=2),
      ),
    )
    self.assertEqual(
      model(tf.zeros([3, 32, 32, 3])).shape, [3, fixtures.CLASSES]
    )
    self.assertLess(model.count_params(), 20_000)

  def test_sizes_that_do_not_fit_are_named(self):
    with self.assertRaisesRegex(ValueError, 'patch_size is 5.*input_size'):
      self._model(type='custom_vit', custom_vit=dict(patch_size=5))
    with self.assertRaisesRegex(ValueError, 'hidden_size is 97.*num_heads, 3'):
      self._model(type='custom_vit', custom_vit=dict(hidden_size=97))


if __name__ == '__main__':
  tf.test.main()
