# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""`keras_app:NAME`: a network of tf_keras.applications."""

from collections.abc import Callable
import inspect
from typing import Any

import tensorflow as tf
import tf_keras

from official_ext.harmonization import choices
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import keras_models
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import tensorflow_model

# Values of the option `weights` that do not name a file.
_RELEASED, _RANDOM = 'imagenet', 'none'


def names() -> list[str]:
  """Returns the names of all networks of tf_keras.applications."""
  return sorted(
    name
    for name, value in vars(tf_keras.applications).items()
    if inspect.isfunction(value)
  )


def lookup(spec: str, target: str) -> Callable[..., Any]:
  """Returns the function that builds a network.

  Args:
    spec: the SPEC, for error messages.
    target: name of the network.

  Raises:
    ValueError: the network is unknown.
  """
  choices.require(f'{spec}: the tf_keras.applications network', target, names())
  return getattr(tf_keras.applications, target)


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
    spec: the SPEC, for error messages.
    target: name of the network.
    name: for tables; the network's name by default.
    weights: 'imagenet' (downloaded by Keras), 'none' for random weights, or a
      file of weights.
    classes: number of classes, if the weights are not 'imagenet'.
    preprocessing: a name or a `Preprocessing`. By default the network's own
      `preprocess_input`.
    input_size: height and width; the network's own by default.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the file of weights does not exist.
    ValueError: the network is unknown, or the weights do not fit it.
  """
  application = lookup(spec, target)
  if weights not in (_RELEASED, _RANDOM):
    weights = resources.working_path(weights)
    if not tf.io.gfile.exists(weights):
      raise FileNotFoundError(f'{spec}: {weights} does not exist.')
  try:
    # The softmax has no weights, so released weights load without it.
    model = application(
      weights=None if weights == _RANDOM else weights,
      classes=classes,
      input_shape=(*input_size, 3) if input_size else None,
      classifier_activation=None,
    )
  except Exception as e:
    # Keras raises a bare Exception if a download fails.
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
