# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Networks of `tf_keras.applications` as backbones of Model Garden.

The backbone takes images as Model Garden feeds them, (rgb - MEAN_RGB) /
STDDEV_RGB, converts them to the network's own range, and returns the input of
its classification layer: pooled features or, for VGG, those of the fully
connected layers. Model Garden's head follows, so that the model computes the
same as the network of `tf_keras.applications`.

Momentum and epsilon of batch normalization, and the activations, are those of
the network: of `task.model.norm_activation` only `use_sync_bn` is used. The
weight decay is that of `task.losses`.
"""

import inspect
from typing import Any

from absl import logging
import h5py
from official.modeling import hyperparams
from official.vision.configs import image_classification as stock
from official.vision.modeling.backbones import factory
from official.vision.ops import preprocess_ops
import tensorflow as tf
import tf_keras

from official_ext.harmonization import choices

_CLASSES = 1000
_FIELD = 'task.model.backbone.keras_application'


def names() -> list[str]:
  """Returns the names of all networks of `tf_keras.applications`."""
  return sorted(n for n in dir(tf_keras.applications) if n[0].isupper())


def _constructor(name: str):
  """Returns the function of `tf_keras.applications` that builds a network."""
  choices.require(f'{_FIELD}.name', name, names())
  return getattr(tf_keras.applications, name)


class FromModelGardenImages(tf_keras.layers.Layer):
  """Converts Model Garden's images to the range that a network expects.

  Computes in float32 whatever the network's precision, since 16 bits do not
  represent colours of 0..255 exactly enough.
  """

  def __init__(self, application: str, **kwargs):
    """Builds the layer.

    Args:
      application: the network's name.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(dtype=tf.float32, **kwargs)
    # The module that defines a network also defines its conversion.
    module = inspect.getmodule(_constructor(application))
    self._preprocess = module.preprocess_input

  def call(self, images: tf.Tensor) -> tf.Tensor:
    """Converts images.

    Args:
      images: float32 (B, H, W, 3), (rgb - MEAN_RGB) / STDDEV_RGB.

    Returns:
      The network's images, float32 (B, H, W, 3).
    """
    rgb = images * tf.constant(
      preprocess_ops.STDDEV_RGB, tf.float32
    ) + tf.constant(preprocess_ops.MEAN_RGB, tf.float32)
    return self._preprocess(rgb)


class _Normalization(tf_keras.layers.Normalization):
  """Normalization that always uses its variables.

  Keras copies them into constants, which do not change when a checkpoint is
  restored.
  """

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Normalizes with the current values of the variables."""
    self.finalize_state()
    return super().call(inputs)


def _classifier(network: tf_keras.Model) -> tf_keras.layers.Layer:
  """Returns the layer of the logits, which is dense or a 1x1 convolution."""
  return next(layer for layer in reversed(network.layers) if layer.weights)


def _clone(
  network: tf_keras.Model,
  use_sync_bn: bool,
  regularizer: tf_keras.regularizers.Regularizer | None,
):
  """Rebuilds a network with settings of Model Garden's configuration."""

  def clone_layer(layer):
    config, kind = layer.get_config(), type(layer)
    if isinstance(layer, tf_keras.layers.BatchNormalization) and use_sync_bn:
      config['synchronized'] = True
    if isinstance(layer, tf_keras.layers.Rescaling):
      config['dtype'] = 'float32'
    if isinstance(layer, tf_keras.layers.Normalization):
      config['dtype'], kind = 'float32', _Normalization
    for field in ('kernel_regularizer', 'pointwise_regularizer'):
      if field in config:
        config[field] = regularizer
    return kind.from_config(config)

  return tf_keras.models.clone_model(network, clone_function=clone_layer)


@factory.register_backbone_builder('keras_application')
def build_keras_application(
  input_specs: tf_keras.layers.InputSpec,
  backbone_config: hyperparams.OneOfConfig,
  norm_activation_config: hyperparams.Config,
  l2_regularizer: tf_keras.regularizers.Regularizer | None = None,
) -> tf_keras.Model:
  """Builds a backbone with random weights.

  Args:
    input_specs: specification of the images, (None, H, W, 3).
    backbone_config: a `configs.backbones.Backbone` of this type.
    norm_activation_config: only `use_sync_bn` is used.
    l2_regularizer: regularizer of the kernels of dense layers and convolutions,
      except depthwise ones.

  Returns:
    A model from images (B, H, W, 3) to {'penultimate': features (B, C) or
    (B, 1, 1, C)}.

  Raises:
    ValueError: the name is unknown, or the network does not accept images of
      this size.
  """
  options: Any = backbone_config.get()
  name = options.name
  specification: Any = input_specs
  shape = specification.shape[1:]
  network = _clone(
    _constructor(name)(
      weights=None,
      input_shape=shape,
      classes=_CLASSES,
      classifier_activation=None,
    ),
    norm_activation_config.use_sync_bn,
    l2_regularizer,
  )
  features = tf_keras.Model(
    network.input, _classifier(network).input, name=name
  )
  images = tf_keras.Input(shape)
  outputs = {'penultimate': features(FromModelGardenImages(name)(images))}
  return tf_keras.Model(images, outputs, name='keras_application')


def _has_second_scale(path: str) -> bool:
  """Whether an EfficientNet's file has Keras's second scaling layer."""
  with h5py.File(path, 'r') as f:
    group: Any = f['model_weights'] if 'model_weights' in f else f
    layers = [
      n.decode() if isinstance(n, bytes) else n
      for n in group.attrs['layer_names']
    ]
  first = [n.startswith('normalization') for n in layers].index(True)
  return layers[first + 1] != 'stem_conv_pad'


def _read(name: str, weights: str, shape) -> tf_keras.Model:
  """Builds the network of `tf_keras.applications` with its weights."""
  build = _constructor(name)
  if weights == 'imagenet':
    return build(weights=weights, classifier_activation=None)
  network = build(
    weights=None,
    input_shape=shape,
    classes=_CLASSES,
    classifier_activation=None,
  )
  try:
    network.load_weights(weights)
  except (OSError, ValueError) as e:
    raise ValueError(
      f'{_FIELD}.weights is {weights!r}, which cannot be loaded into {name} '
      f'with {_CLASSES} classes ({e}); expected an .h5 file of this '
      "network's weights, 'imagenet', or '' for random weights."
    ) from e
  return network


def _copy(whole: tf_keras.Model, features: tf_keras.Model):
  """Copies the weights of a network to one without the classifier."""
  values = whole.get_weights()[: -len(_classifier(whole).weights)]
  for variable, value in zip(features.weights, values, strict=True):
    if variable.shape != value.shape:
      raise ValueError(
        f'{_FIELD}.weights: {variable.name} has shape {value.shape}; expected '
        f'{tuple(variable.shape)}. The fully connected layers of some networks '
        'fit only one task.model.input_size.'
      )
  features.set_weights(values)


def initialize(
  model: tf_keras.Model, task: stock.ImageClassificationTask
) -> None:
  """Loads the weights that the configuration of a model's backbone names.

  If the task has 1000 classes, in the order of the weights, the classification
  layer is initialized from them too.

  Args:
    model: Model Garden's classification model.
    task: its configuration. Without a backbone of this type, or without
      weights, nothing happens.

  Raises:
    ValueError: the weights do not fit, or the task also names a checkpoint.
  """
  backbone = task.model.backbone
  if backbone.type != 'keras_application' or not backbone.get().weights:
    return
  name, weights = backbone.get().name, backbone.get().weights
  if task.init_checkpoint:
    raise ValueError(
      f'{_FIELD}.weights is {weights!r} and task.init_checkpoint is '
      f'{task.init_checkpoint!r}; expected only one of them, since training '
      'starts from it.'
    )
  whole = _read(name, weights, task.model.input_size)
  features = model.backbone.get_layer(name)
  _copy(whole, features)
  # With weights='imagenet', Keras's EfficientNet has an additional division by
  # sqrt(std), which the variance includes here.
  if name.startswith('EfficientNetB') and (
    weights == 'imagenet' or _has_second_scale(weights)
  ):
    normalization = next(
      layer for layer in features.layers if isinstance(layer, _Normalization)
    )
    normalization.adapt_variance.assign(
      normalization.adapt_variance * tf.constant(preprocess_ops.STDDEV_NORM)
    )
  head = model.layers[-1]
  if task.model.num_classes == _CLASSES:
    classifier = _classifier(whole)
    head.set_weights(
      [
        value.reshape(variable.shape)
        for value, variable in zip(classifier.get_weights(), head.weights)
      ]
    )
  else:
    logging.info(
      'The classification layer has %d classes, and the weights %d: it starts '
      'from random weights.',
      task.model.num_classes,
      _CLASSES,
    )
