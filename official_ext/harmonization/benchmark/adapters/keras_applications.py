"""`keras_app:NAME`: a network of tf_keras.applications."""

import inspect

import tensorflow as tf
import tf_keras

from official_ext.harmonization import choices
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import keras_models
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import tensorflow_model

# Values of `weights` that are no file.
_RELEASED, _RANDOM = 'imagenet', 'none'


def names() -> list[str]:
  """Returns the names of the networks that there are."""
  return sorted(
    name
    for name, value in vars(tf_keras.applications).items()
    if inspect.isfunction(value)
  )


def build(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  weights: str = _RELEASED,
  classes: int = base.IMAGENET_CLASSES,
  preprocessing: pre.Choice | None = None,
  input_size: tuple[int, int] | None = None,
) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: as the user wrote it.
    target: the network's name.
    name: for tables; the network's by default.
    weights: 'imagenet' (which Keras downloads), 'none' for random ones, or a
      file of weights.
    classes: of the network, where the weights are not 'imagenet'.
    preprocessing: its name, or itself. By default the network's own
      `preprocess_input`.
    input_size: height and width; the network's own by default.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the file of weights is not there.
    ValueError: there is no such network, or the weights are not for it.
  """
  choices.require(f'{spec}: the tf_keras.applications network', target, names())
  application = getattr(tf_keras.applications, target)
  if weights not in (_RELEASED, _RANDOM):
    weights = resources.working_path(weights)
    if not tf.io.gfile.exists(weights):
      raise FileNotFoundError(f'{spec}: {weights} does not exist.')
  try:
    # Released weights are for the layers before the activation, and load
    # without it.
    model = application(
      weights=None if weights == _RANDOM else weights,
      classes=classes,
      input_shape=(*input_size, 3) if input_size else None,
      classifier_activation=None,
    )
  except Exception as e:
    # A download that fails is no more than an Exception to Keras.
    raise ValueError(f'{spec}: {e}') from e
  prepare = (
    pre.get(preprocessing)
    if preprocessing
    else pre.recognize(
      pre.of_function(target, inspect.getmodule(application).preprocess_input)
    )
  )
  return tensorflow_model.TensorFlowAdapter(
    spec,
    name or target,
    keras_models.input_size(spec, model, input_size),
    prepare,
    model,
  )
