"""Networks of `tf_keras.applications` as a backbone of the host.

The backbone takes images as the host feeds them, (rgb - MEAN_RGB) / STDDEV_RGB,
converts them to what the network was made for, and returns what its
classification layer takes: pooled features, or those of VGG's fully connected
layers. The host's head follows, so that the whole computes what the network of
`tf_keras.applications` does.

Batch normalization keeps momentum and epsilon of the network, and
activations are its own: of `task.model.norm_activation` only `use_sync_bn` is
used. So is the weight decay of `task.losses`.
"""

import inspect

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
  """The function of `tf_keras.applications` that builds a network."""
  choices.require(f'{_FIELD}.name', name, names())
  return getattr(tf_keras.applications, name)


class FromHostImages(tf_keras.layers.Layer):
  """Converts the host's images to those that a network was made for.

  In float32 whatever the precision of the network: colours of 0..255 do not fit
  into 16 bits.
  """

  def __init__(self, application: str, **kwargs):
    """Builds the layer.

    Args:
      application: the network's name.
      **kwargs: of the Keras layer.
    """
    super().__init__(dtype=tf.float32, **kwargs)
    # A network's own conversion stands beside it, in the same module.
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
  """Normalization that follows its variables.

  Keras copies them into constants, which a restored checkpoint leaves as they
  were.
  """

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Normalizes by the variables' present values."""
    self.finalize_state()
    return super().call(inputs)


def _classifier(network: tf_keras.Model) -> tf_keras.layers.Layer:
  """The layer that computes the logits: a dense or a 1x1 convolution."""
  return next(layer for layer in reversed(network.layers) if layer.weights)


def _clone(
  network: tf_keras.Model,
  use_sync_bn: bool,
  regularizer: tf_keras.regularizers.Regularizer | None,
):
  """Builds a network again, with what the host's configuration asks for."""

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
  backbone_config: hyperparams.Config,
  norm_activation_config: hyperparams.Config,
  l2_regularizer: tf_keras.regularizers.Regularizer | None = None,
) -> tf_keras.Model:
  """Builds a backbone with random weights.

  Args:
    input_specs: of the images, (None, H, W, 3).
    backbone_config: a `configs.backbones.Backbone` of this type.
    norm_activation_config: its `use_sync_bn` is used.
    l2_regularizer: of the kernels of convolutions, other than depthwise ones,
      and dense layers.

  Returns:
    A model from images (B, H, W, 3) to {'penultimate': features (B, C) or
    (B, 1, 1, C)}.

  Raises:
    ValueError: there is no network of this name, or it does not take images of
      this size.
  """
  name = backbone_config.get().name
  shape = input_specs.shape[1:]
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
  outputs = {'penultimate': features(FromHostImages(name)(images))}
  return tf_keras.Model(images, outputs, name='keras_application')


def _has_second_scale(path: str) -> bool:
  """Whether a file's EfficientNet is of the form for Keras's own weights."""
  with h5py.File(path, 'r') as f:
    group = f['model_weights'] if 'model_weights' in f else f
    layers = [
      n.decode() if isinstance(n, bytes) else n
      for n in group.attrs['layer_names']
    ]
  first = [n.startswith('normalization') for n in layers].index(True)
  return layers[first + 1] != 'stem_conv_pad'


def _read(name: str, weights: str, shape) -> tf_keras.Model:
  """The network of `tf_keras.applications` with its weights."""
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
      f'with {_CLASSES} classes ({e}): set it to an .h5 file of this '
      "network's weights, to 'imagenet', or to '' for random weights."
    ) from e
  return network


def _copy(source: tf_keras.Model, target: tf_keras.Model):
  """Copies weights of a whole network into the one without its classifier."""
  values = source.get_weights()[: -len(_classifier(source).weights)]
  for variable, value in zip(target.weights, values, strict=True):
    if variable.shape != value.shape:
      raise ValueError(
        f'{_FIELD}.weights hold {variable.name} of shape {value.shape}, but '
        f'the network has {tuple(variable.shape)}: the fully connected '
        'layers of some networks fit one task.model.input_size alone.'
      )
  target.set_weights(values)


def initialize(
  model: tf_keras.Model, task: stock.ImageClassificationTask
) -> None:
  """Gives a new model the weights that its backbone's configuration names.

  The classification layer starts from them too where the task has their 1000
  classes, in their order.

  Args:
    model: the host's classification model.
    task: its configuration. Nothing happens unless its backbone is of this
      type and names weights.

  Raises:
    ValueError: the weights do not fit, or the task names a checkpoint as well.
  """
  backbone = task.model.backbone
  if backbone.type != 'keras_application' or not backbone.get().weights:
    return
  name, weights = backbone.get().name, backbone.get().weights
  if task.init_checkpoint:
    raise ValueError(
      f'{_FIELD}.weights is {weights!r} and task.init_checkpoint is '
      f'{task.init_checkpoint!r}: training starts from one of them, unset '
      'the other.'
    )
  source = _read(name, weights, task.model.input_size)
  features = model.backbone.get_layer(name)
  _copy(source, features)
  # Keras's EfficientNet divides by sqrt(std) once more, and only where it is
  # built with weights='imagenet'; the variance takes that in.
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
    classifier = _classifier(source)
    head.set_weights(
      [
        value.reshape(variable.shape)
        for value, variable in zip(classifier.get_weights(), head.weights)
      ]
    )
  else:
    logging.info(
      'The classification layer has %d classes, not %d: it starts anew.',
      task.model.num_classes,
      _CLASSES,
    )
