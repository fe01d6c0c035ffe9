"""`mg:DIR`: a run of this project's driver, or of the host's."""

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
    spec: as the user wrote it.
    target: the run's folder.
    name: for tables; the folder's by default.
    checkpoint: a checkpoint, or a folder of them, such as 'best_ckpt'; relative
      ones are in the run's folder. By default the run's last.
    ema: whether moving averages of the weights are evaluated. By default where
      the run has them, as the host evaluates.
    preprocessing: its name, or itself. By default the host's, 'torch'.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: there is no configuration, or no checkpoint.
    ValueError: the run is of another task, or has no averages.
  """
  folder = resources.working_path(target)
  run = runs.Run(folder, checkpoint=checkpoint, evaluate=False)
  if ema is not False:
    run.use_averages(required=bool(ema))
  elif run.averaged:
    raise ValueError(
      f'{spec}: ema=false, but a best checkpoint holds averaged '
      "weights as the network's own."
    )
  logging.info(
    '%s: step %d, %s weights.',
    spec,
    run.step,
    'averaged' if run.averaged else 'raw',
  )
  # The host normalizes every image for classification alike
  # (`official/vision/dataloaders/classification_input.py`).
  return tensorflow_model.TensorFlowAdapter(
    spec,
    name or os.path.basename(os.path.normpath(target)),
    run.config.task.model.input_size[:2],
    pre.get(preprocessing or 'torch'),
    run.model,
  )
