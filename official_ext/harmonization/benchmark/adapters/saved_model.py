# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""`saved_model:DIR`: an exported SavedModel whose input is float images."""

import os
import re
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import graphs
from official_ext.harmonization.benchmark.adapters import outputs
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import sizes
from official_ext.harmonization.benchmark.adapters import tensorflow_model

# Model Garden exports a network whose input is a batch of normalized float
# images under the input type tflite
# (`official/vision/serving/image_classification.py`).
_EXPORT = (
  'python -m official_ext.harmonization.export_saved_model --input_type=tflite'
)


def build(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  preprocessing: pre.Choice | None = None,
  input_size: tuple[int, int] | None = None,
  signature: str = 'serving_default',
  output: str = '',
) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: the SPEC, for error messages.
    target: folder of the SavedModel, or of a Model Garden export.
    name: for tables; the folder's name by default.
    preprocessing: a name or a `Preprocessing`. By default Model Garden's for
      its own exports; otherwise it is recognized from the operations before the
      first weights, or else 'torch' is assumed, with a warning.
    input_size: height and width, if the model accepts any.
    signature: name of the function to evaluate.
    output: name or index of the output; by default the only one, or 'logits'.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the folder has no SavedModel.
    ValueError: the model is not differentiable, or its output is not a matrix
      of logits.
  """
  folder, from_model_garden = _find(resources.working_path(target))
  model = _Function(spec, tf.saved_model.load(folder), signature, output)
  batch, *own, _ = model.shape
  size = sizes.choose(spec, own, input_size)
  assumed = False
  if not preprocessing and not from_model_garden:
    preprocessing = pre.before_weights(model.first_inputs, size)
    assumed = not preprocessing
  return tensorflow_model.TensorFlowAdapter(
    spec,
    name or os.path.basename(os.path.normpath(target)),
    size,
    pre.get(preprocessing or pre.DEFAULT),
    model,
    batch_size=batch,
    assumed=assumed,
  )


def _find(folder: str) -> tuple[str, bool]:
  """Returns the SavedModel's folder, and whether Model Garden exported it."""
  for path, root in (
    (folder, os.path.dirname(os.path.normpath(folder))),
    (os.path.join(folder, 'saved_model'), folder),
  ):
    if tf.saved_model.contains_saved_model(path):
      return path, tf.io.gfile.exists(os.path.join(root, 'params.yaml'))
  raise FileNotFoundError(
    f'{folder} has no saved_model.pb; expected the folder of a SavedModel. '
    'Check the path.'
  )


def _natural_order(key: str) -> list:
  """Sort key with output_2 before output_10, as Keras numbers outputs."""
  return [
    int(part) if part.isdecimal() else part
    for part in re.split('([0-9]+)', key)
  ]


class _Function:
  """A signature of a SavedModel as a function from images to logits.

  Attributes:
    shape: of its input: [batch, height, width, 3], with None for any size.
    variables: the variables that it reads.
  """

  def __init__(self, spec: str, loaded: Any, signature: str, output: str):
    """Checks the signature.

    Args:
      spec: the SPEC, for error messages.
      loaded: the SavedModel.
      signature: name of the function.
      output: name or index of the output, or '' for the only one or 'logits'.

    Raises:
      ValueError: the function cannot be scored.
    """
    self._loaded = loaded  # Keeps the variables alive; the function does not.
    choices.require(f'{spec}: signature', signature, loaded.signatures)
    self._function = loaded.signatures[signature]
    self._key, self._dtype, self.shape = self._input(spec)
    self._output = outputs.choose(
      spec,
      sorted(self._function.structured_outputs, key=_natural_order),
      output,
    )
    self.variables = self._function.variables

  def _input(self, spec: str):
    """Returns (name, dtype, shape) of the input; refuses unsuitable inputs."""
    inputs = self._function.structured_input_signature[1]
    if len(inputs) != 1:
      names = ', '.join(sorted(inputs))
      raise ValueError(
        f'{spec}: the signature has the inputs {names}; expected one batch of '
        'images.'
      )
    key, image = next(iter(inputs.items()))
    if not image.dtype.is_floating:
      raise ValueError(
        f'{spec}: the input {key!r} is {image.dtype.name}, which has no '
        'gradient; expected normalized float images. Export it again '
        f'({_EXPORT}), or evaluate the run: mg:DIR.'
      )
    if image.shape.rank != 4 or image.shape[3] != 3:
      raise ValueError(
        f'{spec}: the input {key!r} has shape {image.shape}; expected '
        '(batch, height, width, 3).'
      )
    return key, image.dtype, image.shape.as_list()

  def first_inputs(self, images: np.ndarray) -> np.ndarray | None:
    """As `graphs.first_inputs`; None if the graph cannot be analysed."""
    try:
      return graphs.first_inputs(self._function, images)
    except Exception as e:  # TensorFlow raises errors of many types here.
      logging.info('The preprocessing could not be read from the graph: %s', e)
      return None

  def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
    del training  # The exported function is in inference mode.
    images = tf.cast(images, self._dtype)
    return self._function(**{self._key: images})[self._output]
