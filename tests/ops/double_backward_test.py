"""Tests of the guard: what it refuses, and what it must not."""

from absl.testing import parameterized
import tensorflow as tf, tf_keras

from official_ext.harmonization.tasks import (
    harmonized_image_classification as task_lib)
from tests import fixtures

_CLASSES = fixtures.CLASSES


def _trace(model, size=32):
  """Traces a harmonized step of a model; nothing is run."""
  task = task_lib.HarmonizedImageClassificationTask(
      fixtures.experiment(size=size, batch_size=2).task)
  optimizer = tf_keras.optimizers.SGD()
  optimizer.build(model.trainable_variables)
  image = tf.TensorSpec([2, size, size, 3])
  batch = {
      'labels': tf.TensorSpec([2], tf.int32),
      'heatmaps': tf.TensorSpec([2, size, size]),
      'heatmap_weights': tf.TensorSpec([2]),
      'valid': tf.TensorSpec([2]),
  }
  tf.function(lambda inputs: task.train_step(inputs, model, optimizer)
             ).get_concrete_function((image, batch))


def _network(layer):
  """A small network around one layer."""
  image = tf_keras.Input([32, 32, 3])
  x = tf_keras.layers.Conv2D(4, 3, strides=2, activation='tanh')(image)
  x = tf_keras.layers.Flatten()(layer(x))
  return tf_keras.Model(image, tf_keras.layers.Dense(_CLASSES)(x))


class GuardTest(tf.test.TestCase, parameterized.TestCase):

  @parameterized.named_parameters(
      ('bilinear_upsampling', lambda: tf_keras.layers.UpSampling2D(
          interpolation='bilinear', name='culprit'),
       'culprit.*ResizeBilinearGrad would be taken for zero.*tf.repeat'),
      ('bilinear_resize', lambda: tf_keras.layers.Resizing(
          20, 20, name='culprit'), 'culprit.*ResizeBilinearGrad'),
      ('nearest_upsampling', lambda: tf_keras.layers.UpSampling2D(
          interpolation='nearest', name='culprit'),
       'culprit.*ResizeNearestNeighborGrad does not exist'),
      ('bicubic', lambda: tf_keras.layers.Resizing(
          20, 20, interpolation='bicubic', name='culprit'),
       'culprit.*ResizeBicubicGrad does not exist'),
      ('response_norm', lambda: tf_keras.layers.Lambda(
          tf.nn.local_response_normalization, name='culprit'),
       'culprit.*LRNGrad does not exist.*batch normalization'),
      ('max_pool', tf_keras.layers.MaxPooling2D, None),
      ('average_pool', tf_keras.layers.AveragePooling2D, None),
      ('layer_norm', tf_keras.layers.LayerNormalization, None),
      ('swish', lambda: tf_keras.layers.Activation('swish'), None))
  def test_refuses_by_name(self, make, message):
    model = _network(make())
    if message is None:
      _trace(model)
    else:
      with self.assertRaisesRegex(ValueError, message):
        _trace(model)

  def test_resize_before_the_first_variable_is_refused_too(self):
    image = tf_keras.Input([32, 32, 3])
    x = tf_keras.layers.Resizing(16, 16, name='culprit')(image)
    x = tf_keras.layers.Conv2D(4, 3, activation='tanh')(x)
    model = tf_keras.Model(
        image, tf_keras.layers.Dense(_CLASSES)(tf_keras.layers.Flatten()(x)))
    with self.assertRaisesRegex(ValueError, 'culprit'):
      _trace(model)

  def test_variables_that_are_cut_off(self):
    model = _network(tf_keras.layers.Lambda(tf.stop_gradient))
    with self.assertRaisesRegex(
        ValueError, 'do not depend on the images|cut off from the loss'):
      _trace(model)
    extra = tf_keras.layers.Conv2D(2, 1, name='unused')
    image = tf_keras.Input([32, 32, 3])
    used = _network(tf_keras.layers.Activation('tanh'))(image)
    unused = tf.stop_gradient(extra(image))
    model = tf_keras.Model(image, used + 0. * tf.reduce_sum(unused))
    with self.assertRaisesRegex(ValueError,
                                '2 trainable variables.*unused'):
      _trace(model)

  def test_revnet(self):
    with self.assertRaisesRegex(ValueError,
                                'custom gradient: .*re'):
      _trace(self._backbone('revnet', model_id=56))

  def _backbone(self, kind, **fields):
    config = fixtures.experiment(size=32, batch_size=2)
    config.task.model.backbone.override({'type': kind, kind: fields})
    return task_lib.HarmonizedImageClassificationTask(config.task).build_model()

  @parameterized.named_parameters(
      ('resnet', 'resnet', dict(model_id=18)),
      ('resnet_rs', 'resnet', dict(
          model_id=18, stem_type='v1', resnetd_shortcut=True, se_ratio=.25,
          replace_stem_max_pool=True, stochastic_depth_drop_rate=.1)),
      ('mobilenet_v2', 'mobilenet', dict(model_id='MobileNetV2')),
      ('mobilenet_v3', 'mobilenet', dict(model_id='MobileNetV3Large')),
      ('efficientnet', 'efficientnet', dict(model_id='b0')),
      ('vit', 'vit', dict(model_name='vit-ti16')),
      # DeiT is this network with stochastic depth and pooled tokens.
      ('deit', 'vit', dict(
          model_name='vit-ti16', pooler='gap', init_stochastic_depth_rate=.1)))
  def test_lets_pass(self, kind, fields):
    _trace(self._backbone(kind, **fields))


if __name__ == '__main__':
  tf.test.main()
