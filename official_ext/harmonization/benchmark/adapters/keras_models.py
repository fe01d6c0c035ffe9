# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Opens models of Keras 2 (tf_keras) and Keras 3."""

from collections.abc import Mapping
import importlib
import json
import re
from typing import Any
import zipfile

import h5py
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import keras_safety
from official_ext.harmonization.benchmark.adapters import sizes

# Layers whose weights are statistics of the pixels, not learned.
_STATISTICS = ('Normalization',)
# Layers of tf_keras and Keras 3 that are not registered, so that loading HDF5
# files needs them as custom objects.
_OWN_LAYERS = {
  'applications.convnext': ('LayerScale', 'StochasticDepth'),
  'applications.inception_resnet_v2': ('CustomScaleLayer',),
}
# Characters of Keras's error messages that are quoted.
_MAX_MESSAGE = 300


def _saved_config(path: str) -> tuple[dict[str, Any], str]:
  """Reads a model's configuration and the version of Keras that wrote it."""
  # The same condition as in Keras, so that the configuration that is checked is
  # the one that Keras will load.
  if path.endswith('.keras') and zipfile.is_zipfile(path):
    try:
      with zipfile.ZipFile(path) as archive:
        text = archive.read('config.json')
        version = json.loads(archive.read('metadata.json')).get(
          'keras_version', ''
        )
    except (AttributeError, KeyError, ValueError, zipfile.BadZipFile) as e:
      raise ValueError(
        f'{path} is a zip archive without the files of Keras ({e}); expected '
        'a .keras file. Save the model again.'
      ) from None
  else:
    try:
      with h5py.File(path, 'r') as file:
        text, version = (
          file.attrs.get(k, '') for k in ('model_config', 'keras_version')
        )
    except OSError as e:
      raise ValueError(
        f'{path} is neither a .keras archive nor HDF5 ({e}); expected one of '
        'the two. Save the model again.'
      ) from None
  if not text:
    raise ValueError(
      f'{path} has no model configuration; expected a complete model. If it '
      'contains the weights of a network of tf_keras.applications, write '
      'keras_app:NAME?weights=FILE.'
    )
  try:
    config = json.loads(text)
  except ValueError as e:
    raise ValueError(
      f'{path}: the model configuration is not JSON ({e}). Save the model '
      'again.'
    ) from None
  if not isinstance(config, dict):
    raise ValueError(
      f'{path}: the model configuration is a {type(config).__name__}; '
      'expected a dictionary. Save the model again.'
    )
  return config, version.decode() if isinstance(version, bytes) else version


def load(path: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
  """Loads a complete model without running code from the file.

  The version of Keras that wrote the file loads it.

  Args:
    path: a .keras or .h5 file.
    custom_objects: classes and functions by the names used in the file.

  Returns:
    A model of tf_keras or of Keras 3.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is not a complete model, contains code, or refers to
      an unknown class.
  """
  if not tf.io.gfile.exists(path):
    raise FileNotFoundError(f'{path} does not exist.')
  config, version = _saved_config(path)
  keras_safety.refuse_code(config, path, custom_objects or ())
  keras = _keras3(path) if version.startswith('3.') else tf_keras
  try:
    return keras.models.load_model(
      path,
      custom_objects={**_own_layers(keras), **(custom_objects or {})},
      compile=False,
      safe_mode=True,
    )
  except Exception as e:  # Keras raises errors of many types here.
    first = re.split(r'(?<=[.!?])\s|\n', str(e), maxsplit=1)[0]
    if len(first) > _MAX_MESSAGE:
      first = f'{first[:_MAX_MESSAGE]}...'
    advice = 'Export it as a SavedModel.'
    if not path.endswith('.keras'):
      advice = (
        'Save it as .keras, which supports more layers and operations than '
        'HDF5, or export it as a SavedModel.'
      )
    raise ValueError(
      f'{path}, written by Keras {version or "of an unknown version"}, '
      f'cannot be opened: {type(e).__name__}: {first.rstrip(".")}. {advice}'
    ) from e


def _own_layers(keras: Any) -> dict[str, Any]:
  """Returns the layers of `_OWN_LAYERS` by name."""
  found = {}
  for module, names in _OWN_LAYERS.items():
    module = importlib.import_module(f'{keras.__name__}.src.{module}')
    found.update({name: getattr(module, name) for name in names})
  return found


def _keras3(path: str):
  """Imports Keras 3 on TensorFlow."""
  import keras  # Imported here because most models do not need Keras 3.

  if keras.backend.backend() != 'tensorflow':
    raise ValueError(
      f'{path} was written by Keras 3, whose backend is '
      f'{keras.backend.backend()} here; expected tensorflow. Set '
      'KERAS_BACKEND=tensorflow.'
    )
  return keras


class _Reached(Exception):
  """Ends a forward pass at the first layer with weights."""


def first_inputs(model: Any, images: np.ndarray) -> np.ndarray | None:
  """Returns the input of the first layer with weights.

  Args:
    model: of tf_keras or Keras 3, with one input.
    images: float32 (B, height, width, 3).

  Returns:
    The input for these images, float32; None if no layer has weights.
  """
  reached = []

  def record(inputs, *unused_args, **unused_kwargs):
    reached.append(tf.cast(tf.nest.flatten(inputs)[0], tf.float32).numpy())
    raise _Reached

  layers = [
    layer
    for layer in model._flatten_layers(include_self=False)
    if type(layer).__name__ not in _STATISTICS and _has_weights(layer)
  ]
  for layer in layers:
    layer.call = record
  try:
    model(images, training=False)
  except Exception:
    # _Reached, which Keras may wrap. A network that fails for another reason is
    # refused later, when it is probed.
    pass
  finally:
    for layer in layers:
      del layer.call
  return reached[0] if reached else None


def _has_weights(layer: Any) -> bool:
  """Whether a layer has weights, other than the state of a random generator."""
  return not getattr(layer, 'layers', None) and any(
    w.shape and tf.as_dtype(w.dtype).is_floating for w in layer.weights
  )


def input_size(
  spec: str, model: Any, chosen: tuple[int, int] | None
) -> tuple[int, int]:
  """Returns the size at which a model is evaluated.

  Args:
    spec: the SPEC, for error messages.
    model: of tf_keras or Keras 3.
    chosen: height and width, or None for the model's own.

  Returns:
    Height and width.

  Raises:
    ValueError: the model's input is not one batch of float images of three
      channels, or as in `sizes.choose`.
  """
  shape = getattr(model, 'input_shape', None)
  if isinstance(shape, (dict, list)):
    names = (
      shape
      if isinstance(shape, dict)
      else [tensor.name for tensor in model.inputs]
    )
    if len(names) != 1:
      raise ValueError(
        f'{spec}: the model has the inputs {", ".join(names)}; expected one '
        'batch of images. Save a model with only that input.'
      )
    shape = tf.nest.flatten(model.inputs)[0].shape
  shape = shape and tuple(shape)
  if not shape or len(shape) != 4 or shape[3] not in (None, 3):
    raise ValueError(
      f'{spec}: the input has shape {shape}; expected one batch of images, '
      '(None, height, width, 3).'
    )
  dtype = tf.as_dtype(tf.nest.flatten(model.inputs)[0].dtype)
  if not dtype.is_floating:
    raise ValueError(
      f'{spec}: the input is {dtype.name}, which has no gradient; expected '
      'float images. Save the network with a float32 input.'
    )
  return sizes.choose(spec, shape[1:3], chosen)
