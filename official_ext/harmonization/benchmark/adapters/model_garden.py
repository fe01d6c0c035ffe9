# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""`mg:DIR`: a run of this project's driver or of Model Garden's."""

import os

from absl import logging

from official_ext.harmonization import resources
from official_ext.harmonization.benchmark import runs
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import tensorflow_model


def build(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  checkpoint: str = '',
  ema: bool | None = None,
  preprocessing: pre.Choice | None = None,
) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: the SPEC, for error messages.
    target: folder of the run.
    name: for tables; the folder's name by default.
    checkpoint: a checkpoint or a folder of checkpoints, such as 'best_ckpt';
      a relative path is below the run's folder. By default the run's last.
    ema: whether to evaluate moving averages of the weights. By default they are
      evaluated if the run has them, as in Model Garden.
    preprocessing: a name or a `Preprocessing`; Model Garden's by default,
      which is 'torch'.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the folder has no configuration or no checkpoint.
    ValueError: the run trained another task, or `ema` does not fit the run.
  """
  folder = resources.working_path(target)
  run = runs.Run(folder, checkpoint=checkpoint, evaluate=False)
  if ema is not False:
    run.use_averages(required=bool(ema))
  elif run.averaged:
    raise ValueError(
      f'{spec}: ema is false, but a best checkpoint contains only averaged '
      'weights. Choose another checkpoint, or remove ema=false.'
    )
  logging.info(
    '%s: step %d, %s weights.',
    spec,
    run.step,
    'averaged' if run.averaged else 'raw',
  )
  # Model Garden normalizes all images for classification in one way
  # (`official/vision/dataloaders/classification_input.py`).
  return tensorflow_model.TensorFlowAdapter(
    spec,
    name or os.path.basename(os.path.normpath(target)),
    run.config.task.model.input_size[:2],
    pre.get(preprocessing or 'torch'),
    run.model,
  )
