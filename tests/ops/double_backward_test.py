# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the models that the guard refuses, and of those that it accepts."""

# Bazel: tags = ["networks"]

from unittest import mock

from absl.testing import parameterized
from official.vision.modeling.backbones import efficientnet
from official.vision.modeling.backbones import mobilenet
from official.vision.modeling.backbones import resnet
from official.vision.modeling.backbones import revnet
from official.vision.modeling.backbones import vit
import tensorflow as tf
import tf_keras

from official_ext.harmonization.ops import saliency
from official_ext.harmonization.tasks import (
  harmonized_image_classification as task_lib,
)
from testing import fixtures

_CLASSES = fixtures.CLASSES


def _step(model, size=32):
  """Returns the gradients of a harmonized step of a model."""
  task = task_lib.HarmonizedImageClassificationTask(
    fixtures.experiment(size=size, batch_size=2).task
  )
  optimizer = tf_keras.optimizers.SGD()
  optimizer.build(model.trainable_variables)
  return lambda inputs: task.train_step(inputs, model, optimizer)


def _specs(size=32):
  """Returns the inputs of a step."""
  batch = {
    'labels': tf.TensorSpec([2], tf.int32),
    'heatmaps': tf.TensorSpec([2, size, size]),
    'heatmap_weights': tf.TensorSpec([2]),
    'valid': tf.TensorSpec([2]),
  }
  return tf.TensorSpec([2, size, size, 3]), batch


def _trace(model):
  """Traces a harmonized step of a model without running it."""
  tf.function(_step(model)).get_concrete_function(_specs())


def _run(model):
  """Runs a harmonized step eagerly."""
  _step(model)(
    tf.nest.map_structure(
      lambda spec: tf.ones(spec.shape, spec.dtype), _specs()
    )
  )


def _network(layer):
  """Returns a small network around one layer."""
  image = tf_keras.Input([32, 32, 3])
  x = tf_keras.layers.Conv2D(4, 3, strides=2, activation='tanh')(image)
  x = tf_keras.layers.Flatten()(layer(x))
  return tf_keras.Model(image, tf_keras.layers.Dense(_CLASSES)(x))


def _resize(x):
  return tf.image.resize(x, [20, 20])


def _map_in_function(x):
  return tf.function(lambda x: tf.map_fn(_resize, x))(x)


def _lost(x):
  """A custom gradient that ignores that it depends on the result."""

  @tf.custom_gradient
  def tanh(x):
    y = tf.tanh(x)
    return y, lambda upstream: upstream * (1.0 - tf.stop_gradient(y) ** 2)

  return tanh(x)


def _lost_earlier(x):
  """The same, with the gradient stopped where gradients do not look."""

  @tf.custom_gradient
  def sigmoid(x):
    y = tf.stop_gradient(tf.sigmoid(x))
    return y, lambda upstream: upstream * y * (1.0 - y)

  return sigmoid(x)


def _lost_in_a_function(x):
  """The same, in a function that the function calls."""

  @tf.custom_gradient
  def sigmoid(x):
    y = tf.function(lambda x: tf.stop_gradient(tf.sigmoid(x)))(x)
    return y, lambda upstream: upstream * y * (1.0 - y)

  return sigmoid(x)


def _reversed_variance(x):
  """TensorFlow's variance, written so that it is not corrected."""
  mean = tf.stop_gradient(tf.reduce_mean(x, -1, keepdims=True))
  return (
    tf.tanh(x)
    + tf.reduce_mean(tf.math.squared_difference(mean, x), -1, keepdims=True)
    ** 2
  )


def _kept(x):
  """A custom gradient that can be differentiated."""

  @tf.custom_gradient
  def tanh(x):
    y = tf.tanh(x)
    return y, lambda upstream: upstream * (1.0 - tf.tanh(x) ** 2)

  return tanh(x)


def _restored(function):
  """Returns the same from a SavedModel."""
  module = tf.Module()
  module.call = tf.function(
    function, input_signature=[tf.TensorSpec([None, 15, 15, 4])]
  )
  folder = tf.compat.v1.test.get_temp_dir() + '/' + function.__name__
  tf.saved_model.save(module, folder)
  return tf.saved_model.load(folder).call


def _always(x):
  return tf.reduce_sum(x) > -1e9


_BILINEAR = 'culprit.*ResizeBilinearGrad would be treated as zero.*tf.repeat'
_INSIDE = {
  'function': (tf.function(_resize), _BILINEAR),
  'compiled': (tf.function(_resize, jit_compile=True), _BILINEAR),
  'branch': (
    lambda x: tf.cond(
      _always(x), lambda: _resize(x), lambda: tf.zeros([2, 20, 20, 4])
    ),
    _BILINEAR,
  ),
  'switch': (
    lambda x: tf.switch_case(
      tf.constant(1), [lambda: tf.zeros([2, 20, 20, 4]), lambda: _resize(x)]
    ),
    _BILINEAR,
  ),
  'map': (lambda x: tf.map_fn(_resize, x), _BILINEAR),
  'map_in_function': (_map_in_function, _BILINEAR),
  'loop': (
    lambda x: tf.while_loop(
      lambda i, _: i < 2,
      lambda i, z: (i + 1, tf.image.resize(z, [15, 15])),
      (0, x),
    )[1],
    _BILINEAR,
  ),
  'vectorized': (lambda x: tf.vectorized_map(_resize, x), _BILINEAR),
  'python': (
    lambda x: tf.ensure_shape(tf.py_function(tf.sin, [x], tf.float32), x.shape),
    'culprit.*Python code',
  ),
  'numpy': (
    lambda x: (
      x * tf.ensure_shape(tf.numpy_function(abs, [x], tf.float32), x.shape)
    ),
    'culprit.*PyFunc would be treated as zero',
  ),
  'stopped': (_lost, 'culprit.*stopped inside a gradient'),
  'stopped_in_function': (tf.function(_lost), 'culprit.*stopped inside'),
  'stopped_earlier': (_lost_earlier, 'culprit.*custom gradient uses a value'),
  'stopped_by_a_function': (
    _lost_in_a_function,
    'culprit.*custom gradient uses a value',
  ),
  'variance_of_ones_own': (_reversed_variance, 'culprit.*mean in its variance'),
  'stopped_earlier_in_map': (
    lambda x: tf.map_fn(_lost_earlier, x),
    'culprit.*custom gradient uses a value',
  ),
}
_INSIDE_AND_RIGHT = {
  'function': tf.function(tf.nn.silu),
  'branch': lambda x: tf.cond(_always(x), lambda: tf.tanh(x), lambda: x),
  'map': lambda x: tf.map_fn(tf.tanh, x),
  'custom': _kept,
  'meant_as_constant': lambda x: x * tf.stop_gradient(tf.sigmoid(x)),
  'jump': lambda x: tf.tanh(x) + tf.stop_gradient(tf.sign(x)),
  'logsumexp': lambda x: tf.reduce_logsumexp(x, -1, keepdims=True),
  'complex': lambda x: tf.abs(tf.signal.fft(tf.cast(x, tf.complex64))),
}


def _first_of_each_kind(blocks):
  """Returns the first of the blocks that differ in more than the width."""
  kinds = {}
  for block in blocks:
    function, kernel, strides, _, *rest = block
    kinds.setdefault((function, kernel, strides, *rest), block)
  return list(kinds.values())


class GuardTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.named_parameters(
    (
      'bilinear_upsampling',
      lambda: tf_keras.layers.UpSampling2D(
        interpolation='bilinear', name='culprit'
      ),
      'culprit.*ResizeBilinearGrad would be treated as zero.*tf.repeat',
    ),
    (
      'bilinear_resize',
      lambda: tf_keras.layers.Resizing(20, 20, name='culprit'),
      'culprit.*ResizeBilinearGrad',
    ),
    (
      'nearest_upsampling',
      lambda: tf_keras.layers.UpSampling2D(
        interpolation='nearest', name='culprit'
      ),
      'culprit.*ResizeNearestNeighborGrad does not exist',
    ),
    (
      'bicubic',
      lambda: tf_keras.layers.Resizing(
        20, 20, interpolation='bicubic', name='culprit'
      ),
      'culprit.*ResizeBicubicGrad does not exist',
    ),
    (
      'response_norm',
      lambda: tf_keras.layers.Lambda(
        tf.nn.local_response_normalization, name='culprit'
      ),
      'culprit.*LRNGrad does not exist.*batch normalization',
    ),
    ('max_pool', tf_keras.layers.MaxPooling2D, None),
    ('average_pool', tf_keras.layers.AveragePooling2D, None),
    ('layer_norm', tf_keras.layers.LayerNormalization, None),
    ('swish', lambda: tf_keras.layers.Activation('swish'), None),
  )
  def test_refuses_by_name(self, make, message):
    model = _network(make())
    if message is None:
      _trace(model)
    else:
      with self.assertRaisesRegex(ValueError, message):
        _trace(model)

  @parameterized.parameters(*_INSIDE)
  def test_looks_into_functions(self, name):
    function, message = _INSIDE[name]
    model = _network(tf_keras.layers.Lambda(function, name='culprit'))
    with self.assertRaisesRegex(ValueError, message):
      _trace(model)

  @parameterized.parameters('function', 'map', 'stopped', 'stopped_earlier')
  def test_eager_steps_are_traced_once(self, name):
    tf.config.run_functions_eagerly(True)
    self.addCleanup(tf.config.run_functions_eagerly, False)
    function, message = _INSIDE[name]
    model = _network(tf_keras.layers.Lambda(function, name='culprit'))
    before = [v.numpy() for v in model.variables]
    with self.assertRaisesRegex(ValueError, message):
      _run(model)
    for value, variable in zip(before, model.variables):
      self.assertAllEqual(value, variable)
    calls = []
    model = _network(
      tf_keras.layers.Lambda(
        lambda x: calls.append(tf.executing_eagerly()) or tf.tanh(x)
      )
    )
    del calls[:]
    for _ in range(3):
      _run(model)
    self.assertEqual(calls.count(False), 1)

  def test_looks_into_saved_models(self):
    for function in (_resize, _lost_earlier):
      model = _network(
        tf_keras.layers.Lambda(_restored(function), name='culprit')
      )
      with self.assertRaisesRegex(
        ValueError, "culprit cannot be harmonized|layer 'culprit' cannot"
      ):
        _trace(model)
    _trace(_network(tf_keras.layers.Lambda(_restored(tf.nn.silu))))

  @parameterized.parameters(*_INSIDE_AND_RIGHT)
  def test_lets_functions_pass(self, name):
    _trace(_network(tf_keras.layers.Lambda(_INSIDE_AND_RIGHT[name])))

  def test_what_was_differentiated_twice_before_is_refused(self):

    def variance(x):
      return x * tf.math.rsqrt(tf.nn.moments(x, [-1], keepdims=True)[1] + 1e-3)

    for function, message in (
      (variance, 'the variance'),
      (lambda x: tf.nn.max_pool2d(x, 2, 2, 'VALID'), 'max-pooling'),
    ):
      function = tf.function(function)
      x = tf.random.stateless_normal([2, 15, 15, 4], [1, 2])
      with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
          inner.watch(x)
          y = tf.reduce_sum(function(x) ** 2)
        value = tf.reduce_sum(inner.gradient(y, x) ** 2)
      outer.gradient(value, x)
      model = _network(tf_keras.layers.Lambda(function, name='culprit'))
      with self.assertRaisesRegex(ValueError, f'culprit.*{message}'):
        _trace(model)

  def test_maps_that_are_not_differentiated_are_not_checked(self):
    model = _network(tf_keras.layers.UpSampling2D(interpolation='bilinear'))
    images = tf.random.stateless_normal([2, 32, 32, 3], [1, 2])

    def run():
      return saliency.saliency_maps(
        model, images, tf.one_hot([0, 1], _CLASSES), training=False
      )[1]

    self.assertAllClose(run(), tf.function(run)())
    for step in (run, tf.function(run)):
      # A function builds its gradient when it is called.
      with self.assertRaisesRegex(ValueError, 'ResizeBilinearGrad'):
        with tf.GradientTape() as tape:
          loss = tf.reduce_sum(step() ** 2)
        tape.gradient(loss, model.trainable_variables)

  def test_resize_before_the_first_variable_is_refused_too(self):
    image = tf_keras.Input([32, 32, 3])
    x = tf_keras.layers.Resizing(16, 16, name='culprit')(image)
    x = tf_keras.layers.Conv2D(4, 3, activation='tanh')(x)
    model = tf_keras.Model(
      image, tf_keras.layers.Dense(_CLASSES)(tf_keras.layers.Flatten()(x))
    )
    with self.assertRaisesRegex(ValueError, 'culprit'):
      _trace(model)

  def test_variables_that_are_cut_off(self):
    model = _network(tf_keras.layers.Lambda(tf.stop_gradient))
    with self.assertRaisesRegex(
      ValueError, 'do not depend on the images|do not affect the loss'
    ):
      _trace(model)
    extra = tf_keras.layers.Conv2D(2, 1, name='unused')
    image = tf_keras.Input([32, 32, 3])
    used = _network(tf_keras.layers.Activation('tanh'))(image)
    unused = tf.stop_gradient(extra(image))
    model = tf_keras.Model(image, used + 0.0 * tf.reduce_sum(unused))
    with self.assertRaisesRegex(ValueError, '2 trainable variables.*unused'):
      _trace(model)

  def test_revnet(self):
    with self.assertRaisesRegex(ValueError, 'custom gradient: .*re'):
      _trace(self._backbone('revnet', model_id=56))

  def _backbone(self, kind, **fields):
    """Returns a network with one or two blocks of each kind."""
    mobilenets = {
      name: {**specs, 'block_specs': _first_of_each_kind(specs['block_specs'])}
      for name, specs in mobilenet.SUPPORTED_SPECS_MAP.items()
    }
    for patch in (
      mock.patch.dict(resnet.RESNET_SPECS, {18: [('residual', 64, 2)]}),
      mock.patch.dict(revnet.REVNET_SPECS, {56: [('bottleneck', 128, 2)]}),
      mock.patch.dict(mobilenet.SUPPORTED_SPECS_MAP, mobilenets),
      mock.patch.object(
        efficientnet, 'EN_B0_BLOCK_SPECS', efficientnet.EN_B0_BLOCK_SPECS[:3]
      ),
      mock.patch.object(
        vit,
        'VIT_SPECS',
        {
          name: {
            **specs,
            'transformer': {**specs['transformer'], 'num_layers': 2},
          }
          for name, specs in vit.VIT_SPECS.items()
        },
      ),
    ):
      self.enter_context(patch)
    config = fixtures.experiment(size=32, batch_size=2)
    config.task.model.backbone.override({'type': kind, kind: fields})
    return task_lib.HarmonizedImageClassificationTask(config.task).build_model()

  @parameterized.named_parameters(
    ('resnet', 'resnet', dict(model_id=18)),
    (
      'resnet_rs',
      'resnet',
      dict(
        model_id=18,
        stem_type='v1',
        resnetd_shortcut=True,
        se_ratio=0.25,
        replace_stem_max_pool=True,
        stochastic_depth_drop_rate=0.1,
      ),
    ),
    ('mobilenet_v2', 'mobilenet', dict(model_id='MobileNetV2')),
    ('mobilenet_v3', 'mobilenet', dict(model_id='MobileNetV3Large')),
    ('efficientnet', 'efficientnet', dict(model_id='b0')),
    ('vit', 'vit', dict(model_name='vit-ti16')),
    # DeiT is this network with stochastic depth and pooled tokens.
    (
      'deit',
      'vit',
      dict(model_name='vit-ti16', pooler='gap', init_stochastic_depth_rate=0.1),
    ),
  )
  def test_lets_pass(self, kind, fields):
    _trace(self._backbone(kind, **fields))


if __name__ == '__main__':
  tf.test.main()
