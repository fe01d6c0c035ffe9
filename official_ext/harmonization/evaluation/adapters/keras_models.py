"""Keras models, of Keras 2 (tf_keras) and of Keras 3, and their logits."""

import json
from typing import Any, Mapping, Optional, Tuple
import zipfile

import h5py
import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation.adapters import keras_safety
from official_ext.harmonization.evaluation.adapters import sizes

_RESCALING = ('Rescaling', 'Normalization')


def _saved_config(path: str) -> Tuple[dict[str, Any], str]:
  """Reads a file's configuration and the version of Keras that wrote it."""
  # As Keras decides: what is read here must be what it opens.
  if path.endswith('.keras') and zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      try:
        metadata = json.loads(archive.read('metadata.json'))
        return json.loads(archive.read('config.json')), metadata.get(
            'keras_version', '')
      except (KeyError, ValueError) as e:
        raise ValueError(f'{path} is an archive, but not of Keras: {e}.'
                        ) from None
  try:
    with h5py.File(path, 'r') as file:
      text, version = (
          file.attrs.get(k, '') for k in ('model_config', 'keras_version'))
  except OSError as e:
    raise ValueError(f'{path} is neither a .keras archive nor HDF5: {e}.'
                    ) from None
  if not text:
    raise ValueError(
        f'{path} holds weights alone, or is no Keras file. For weights of '
        'a network of tf_keras.applications write keras_app:NAME?weights=FILE.')
  text, version = (t.decode() if isinstance(t, bytes) else t
                   for t in (text, version))
  return json.loads(text), version


def load(path: str,
         custom_objects: Optional[Mapping[str, Any]] = None) -> Any:
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
        path, custom_objects=custom_objects, compile=False, safe_mode=True)
  except (AttributeError, TypeError, ValueError) as e:
    first = next(iter(str(e).splitlines()), '')
    raise ValueError(
        f'{path}, written by Keras {version or "of an unknown version"}, '
        f'cannot be opened: {first}') from e


def _keras3(path: str):
  """Imports Keras 3 on TensorFlow."""
  import keras  # pylint: disable=g-import-not-at-top  # most never need it
  if keras.backend.backend() != 'tensorflow':
    raise ValueError(
        f'{path} was written by Keras 3, which runs on '
        f'{keras.backend.backend()} here: set KERAS_BACKEND=tensorflow.')
  return keras


def rescales_itself(model: Any) -> bool:
  """Says whether a model brings its own preprocessing.

  Args:
    model: of either Keras.

  Returns:
    True if one of its first layers, those before any weight that is trained,
    rescales pixels.
  """
  for layer in getattr(model, 'layers', ()):
    if type(layer).__name__ in _RESCALING:
      return True
    if hasattr(layer, 'layers'):
      return rescales_itself(layer)
    if layer.trainable_weights:
      return False
  return False


def with_logits(model: Any) -> Any:
  """Takes the softmax or sigmoid off a classifier's end.

  Args:
    model: of either Keras; the activation of its last layer may be changed in
      place.

  Returns:
    The model, or one that ends before its last layer.
  """
  last = _last_layer(model)
  if type(last).__name__ == 'Softmax' or (
      type(last).__name__ == 'Activation' and _squashes(last)):
    # A container's last layer cannot be left out, its activation can.
    last.call = _identity
  elif _squashes(last):
    last.activation = _identity
  return model


def _identity(inputs, *unused_args, **unused_kwargs):
  return inputs


def _squashes(layer: Any) -> bool:
  activation = getattr(layer, 'activation', None)
  return getattr(activation, '__name__', '') in ('softmax', 'sigmoid')


def _last_layer(model: Any) -> Any:
  """Returns the layer that a model's output comes from."""
  while hasattr(model, 'layers') and model.layers:
    names = getattr(model, 'output_names', None)
    named = [x for x in model.layers if names and x.name == names[0]]
    model = named[0] if named else model.layers[-1]
  return model


def input_size(spec: str, model: Any,
               chosen: Optional[Tuple[int, int]]) -> Tuple[int, int]:
  """Says at which size a model is evaluated.

  Args:
    spec: as the user wrote it, for errors.
    model: of either Keras.
    chosen: height and width, or None for the model's own.

  Returns:
    Height and width.

  Raises:
    ValueError: the model takes no images of three channels, or as
      `sizes.choose`.
  """
  shape = getattr(model, 'input_shape', None)
  if not shape or len(shape) != 4 or shape[3] not in (None, 3):
    raise ValueError(
        f'{spec}: its input has shape {shape}, where one batch of images '
        '(None, height, width, 3) is needed.')
  return sizes.choose(spec, shape[1:3], chosen)
