"""Keras models, of Keras 2 (tf_keras) and of Keras 3: opening them."""

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

# Layers whose weights are statistics of pixels.
_STATISTICS = ('Normalization',)
# Keras's layers that it does not find in HDF5, in tf_keras and in Keras 3.
_OWN_LAYERS = {
  'applications.convnext': ('LayerScale', 'StochasticDepth'),
  'applications.inception_resnet_v2': ('CustomScaleLayer',),
}
# No more of what Keras says of a file that it cannot open.
_MAX_MESSAGE = 300


def _saved_config(path: str) -> tuple[dict[str, Any], str]:
  """Reads a file's configuration and the version of Keras that wrote it."""
  # As Keras decides: what is read here must be what it opens.
  if path.endswith('.keras') and zipfile.is_zipfile(path):
    try:
      with zipfile.ZipFile(path) as archive:
        text = archive.read('config.json')
        version = json.loads(archive.read('metadata.json')).get(
          'keras_version', ''
        )
    except (AttributeError, KeyError, ValueError, zipfile.BadZipFile) as e:
      raise ValueError(
        f'{path} is an archive, but not of Keras: {e}.'
      ) from None
  else:
    try:
      with h5py.File(path, 'r') as file:
        text, version = (
          file.attrs.get(k, '') for k in ('model_config', 'keras_version')
        )
    except OSError as e:
      raise ValueError(
        f'{path} is neither a .keras archive nor HDF5: {e}.'
      ) from None
  if not text:
    raise ValueError(
      f'{path} holds weights alone, or is not a Keras file. For weights of '
      'a network of tf_keras.applications write keras_app:NAME?weights=FILE.'
    )
  try:
    config = json.loads(text)
  except ValueError as e:
    raise ValueError(f'{path}: its configuration is not JSON: {e}.') from None
  if not isinstance(config, dict):
    raise ValueError(
      f'{path}: its configuration is a {type(config).__name__}; '
      'expected that of a model.'
    )
  return config, version.decode() if isinstance(version, bytes) else version


def load(path: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
  """Loads a whole model, by the Keras that wrote it, running none of its code.

  Args:
    path: a .keras or .h5 file.
    custom_objects: names to classes and functions that the file refers to.

  Returns:
    The model, of tf_keras or of Keras 3.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no whole model, carries code, or refers to a class that
      is not known.
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
  except Exception as e:  # of many kinds
    first = re.split(r'(?<=[.!?])\s|\n', str(e), maxsplit=1)[0]
    if len(first) > _MAX_MESSAGE:
      first = f'{first[:_MAX_MESSAGE]}...'
    advice = 'Export it as a SavedModel.'
    if not path.endswith('.keras'):
      advice = (
        'Save it as .keras, which holds layers and operations '
        'that HDF5 does not, or export it as a SavedModel.'
      )
    raise ValueError(
      f'{path}, written by Keras {version or "of an unknown version"}, '
      f'cannot be opened: {type(e).__name__}: {first.rstrip(".")}. {advice}'
    ) from e


def _own_layers(keras: Any) -> dict[str, Any]:
  """Returns Keras's layers that it does not find in HDF5, by name."""
  found = {}
  for module, names in _OWN_LAYERS.items():
    module = importlib.import_module(f'{keras.__name__}.src.{module}')
    found.update({name: getattr(module, name) for name in names})
  return found


def _keras3(path: str):
  """Imports Keras 3 on TensorFlow."""
  import keras  # most never need it

  if keras.backend.backend() != 'tensorflow':
    raise ValueError(
      f'{path} was written by Keras 3, which runs on '
      f'{keras.backend.backend()} here: set KERAS_BACKEND=tensorflow.'
    )
  return keras


class _Reached(Exception):
  """The first layer of weights has been called."""


def first_inputs(model: Any, images: np.ndarray) -> np.ndarray | None:
  """Returns what the first layer of weights is given.

  Args:
    model: of either Keras, that takes one tensor.
    images: float32 (B, height, width, 3).

  Returns:
    Its input, float32, of any shape; None if there is no such layer.
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
  except Exception:  # Keras may make another
    pass  # A network that fails is refused when it is probed.
  finally:
    for layer in layers:
      del layer.call
  return reached[0] if reached else None


def _has_weights(layer: Any) -> bool:
  """Tells layers of weights from others, which may hold a random state."""
  return not getattr(layer, 'layers', None) and any(
    w.shape and tf.as_dtype(w.dtype).is_floating for w in layer.weights
  )


def input_size(
  spec: str, model: Any, chosen: tuple[int, int] | None
) -> tuple[int, int]:
  """Says at which size a model is evaluated.

  Args:
    spec: as the user wrote it, for errors.
    model: of either Keras.
    chosen: height and width, or None for the model's own.

  Returns:
    Height and width.

  Raises:
    ValueError: the model does not take one batch of images of three channels,
      or takes integers, or as `sizes.choose`.
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
        f'{spec}: it has the inputs {", ".join(names)}; expected one batch '
        'of images. Save a model of the one input that takes them.'
      )
    shape = tf.nest.flatten(model.inputs)[0].shape
  shape = shape and tuple(shape)
  if not shape or len(shape) != 4 or shape[3] not in (None, 3):
    raise ValueError(
      f'{spec}: its input has shape {shape}; expected one batch of images, '
      '(None, height, width, 3).'
    )
  dtype = tf.as_dtype(tf.nest.flatten(model.inputs)[0].dtype)
  if not dtype.is_floating:
    raise ValueError(
      f'{spec}: its input is {dtype.name}, through which no gradient passes; '
      'expected float images. Save the network with a float32 input.'
    )
  return sizes.choose(spec, shape[1:3], chosen)
