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

# The host's name of the export whose input is a batch of normalized float
# images (`official/vision/serving/image_classification.py`).
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
    spec: as the user wrote it.
    target: the SavedModel's folder, or that of an export of the host's.
    name: for tables; the folder's by default.
    preprocessing: its name, or itself. By default the host's for its own
      exports, else what the operations before the first weights show, else
      'torch', with a warning.
    input_size: height and width, where the model takes any.
    signature: which of its functions is evaluated.
    output: which of the function's outputs; by default the only one, or
      'logits'.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: there is no SavedModel.
    ValueError: no gradient passes through it, or its output is no matrix of
      logits.
  """
  folder, of_host = _find(resources.working_path(target))
  model = _Function(spec, tf.saved_model.load(folder), signature, output)
  batch, *own, _ = model.shape
  size = sizes.choose(spec, own, input_size)
  assumed = False
  if not preprocessing and not of_host:
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
  """Returns the folder of the SavedModel, and whether the host exported it."""
  for path, root in (
    (folder, os.path.dirname(os.path.normpath(folder))),
    (os.path.join(folder, 'saved_model'), folder),
  ):
    if tf.saved_model.contains_saved_model(path):
      return path, tf.io.gfile.exists(os.path.join(root, 'params.yaml'))
  raise FileNotFoundError(f'{folder} holds no saved_model.pb.')


def _in_order(key: str) -> list:
  """Sorts output_10 behind output_2, so that indices are those of Keras."""
  return [
    int(part) if part.isdecimal() else part
    for part in re.split('([0-9]+)', key)
  ]


class _Function:
  """A signature of a SavedModel, as a function of images to logits.

  Attributes:
    shape: of its input: batch, height, width, 3; None where it takes any.
    variables: that it reads.
  """

  def __init__(self, spec: str, loaded: Any, signature: str, output: str):
    """Looks at the signature.

    Args:
      spec: as the user wrote it, for errors.
      loaded: the SavedModel, whose variables live as long as this does.
      signature: name of the function.
      output: name of its output, or '' for the only one, or 'logits'.

    Raises:
      ValueError: it cannot be scored.
    """
    self._loaded = loaded
    choices.require(f'{spec}: signature', signature, loaded.signatures)
    self._function = loaded.signatures[signature]
    self._key, self._dtype, self.shape = self._input(spec)
    self._output = outputs.choose(
      spec, sorted(self._function.structured_outputs, key=_in_order), output
    )
    self.variables = self._function.variables

  def _input(self, spec: str):
    """Returns name, type and shape of the input, if a gradient passes it."""
    inputs = self._function.structured_input_signature[1]
    if len(inputs) != 1:
      names = ', '.join(sorted(inputs))
      raise ValueError(
        f'{spec}: it has the inputs {names}, where one batch of '
        'images is needed.'
      )
    key, image = next(iter(inputs.items()))
    if not image.dtype.is_floating:
      raise ValueError(
        f'{spec}: its input {key!r} is {image.dtype.name}, through which no '
        'gradient passes. Export it again with normalized float images as '
        f'its input ({_EXPORT}), or evaluate the run itself: mg:DIR.'
      )
    if image.shape.rank != 4 or image.shape[3] != 3:
      raise ValueError(
        f'{spec}: its input {key!r} has shape {image.shape}, '
        'where (batch, height, width, 3) is needed.'
      )
    return key, image.dtype, image.shape.as_list()

  def first_inputs(self, images: np.ndarray) -> np.ndarray | None:
    """As `graphs.first_inputs`; None where the graph cannot be taken apart."""
    try:
      return graphs.first_inputs(self._function, images)
    except Exception as e:  # of many kinds
      logging.info('The graph does not show its preprocessing: %s', e)
      return None

  def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
    del training  # What was exported is inference.
    images = tf.cast(images, self._dtype)
    return self._function(**{self._key: images})[self._output]
