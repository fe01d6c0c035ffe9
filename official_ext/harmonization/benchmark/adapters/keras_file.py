# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""`keras:FILE`: a complete model in a .keras or .h5 file."""

import os
from typing import Any

from official_ext.harmonization import resources
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import keras_heads
from official_ext.harmonization.benchmark.adapters import keras_models
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import tensorflow_model


def build(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  preprocessing: pre.Choice | None = None,
  input_size: tuple[int, int] | None = None,
  output: str = '',
) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: the SPEC, for error messages.
    target: path of the file.
    name: for tables; the file's name by default.
    preprocessing: a name or a `Preprocessing`. By default it is recognized from
      the layers before the first weights, or else 'torch' is assumed, with a
      warning.
    input_size: height and width, if the model accepts any.
    output: name or index of the output; by default the only one, or 'logits'.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is not a classifier of images, or it cannot be scored.
  """
  model = keras_models.load(resources.working_path(target))
  stem = os.path.splitext(os.path.basename(target))[0]
  return wrap(spec, model, name or stem, preprocessing, input_size, output)


def wrap(
  spec: str,
  model: Any,
  name: str,
  chosen: pre.Choice | None,
  input_size: tuple[int, int] | None,
  output: str = '',
) -> base.Adapter:
  """Makes an adapter of a Keras model.

  Args:
    spec: the SPEC, for error messages.
    model: of tf_keras or Keras 3.
    name: for tables.
    chosen: the preprocessing, or None to recognize it.
    input_size: height and width, or None for the model's own.
    output: as for `build`.

  Returns:
    The adapter.

  Raises:
    ValueError: the model is not a classifier of images, or cannot be scored.
  """
  size = keras_models.input_size(spec, model, input_size)
  model = keras_heads.with_logits(spec, model, size, output)
  assumed = False
  if not chosen:
    chosen = pre.before_weights(
      lambda images: keras_models.first_inputs(model, images), size
    )
    assumed = not chosen
  return tensorflow_model.TensorFlowAdapter(
    spec, name, size, pre.get(chosen or pre.DEFAULT), model, assumed=assumed
  )
