"""`keras:FILE`: a whole model in a .keras or .h5 file."""

import os
from typing import Any, Optional, Tuple

from official_ext.harmonization import resources
from official_ext.harmonization.evaluation.adapters import base
from official_ext.harmonization.evaluation.adapters import keras_models
from official_ext.harmonization.evaluation.adapters import preprocessing as pre
from official_ext.harmonization.evaluation.adapters import tensorflow_model

def build(spec: str,
          target: str,
          *,
          name: Optional[str] = None,
          preprocessing: Optional[str] = None,
          input_size: Optional[Tuple[int, int]] = None) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: as the user wrote it.
    target: path of the file.
    name: for tables; the file's by default.
    preprocessing: its name. By default 'none' for a model that begins with a
      rescaling layer, else 'torch', with a warning.
    input_size: height and width, where the model takes any.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no classifier that can be scored.
  """
  model = keras_models.load(resources.working_path(target))
  stem = os.path.splitext(os.path.basename(target))[0]
  return wrap(spec, model, name or stem, preprocessing, input_size)


def wrap(spec: str, model: Any, name: str, chosen: Optional[str],
         input_size: Optional[Tuple[int, int]]) -> base.Adapter:
  """Makes an adapter of a Keras model.

  Args:
    spec: as the user wrote it.
    model: of either Keras.
    name: for tables.
    chosen: the preprocessing's name, or None to recognize it.
    input_size: height and width, or None for the model's own.

  Returns:
    The adapter.

  Raises:
    ValueError: it is no classifier of images that can be scored.
  """
  assumed = not chosen and not keras_models.rescales_itself(model)
  chosen = chosen or (pre.DEFAULT if assumed else 'none')
  return tensorflow_model.TensorFlowAdapter(
      spec, name, keras_models.input_size(spec, model, input_size),
      pre.get(chosen), keras_models.with_logits(model), assumed=assumed)
