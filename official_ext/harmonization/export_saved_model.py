# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Exports a run of this project as a SavedModel, with Model Garden's exporter.

  python -m official_ext.harmonization.export_saved_model \
      --experiment=harmonized_resnet_imagenet \
      --config_file=runs/digits/harmonized/params.yaml \
      --checkpoint_path=runs/digits/harmonized --export_dir=exported

--checkpoint_path is a checkpoint or a folder of checkpoints. The network takes
images of the run's size unless --input_image_size gives another.
"""

import dataclasses
import os

from absl import logging
from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization import experiment_flags

with epy.lazy_imports():
  from official.vision.serving import export_saved_model_lib
  import tensorflow as tf

  from official_ext.harmonization import building
  from official_ext.harmonization import experiment_parser
  from official_ext.harmonization import run_folder
  from official_ext.harmonization.benchmark import runs

_INPUT_TYPES = ('image_tensor', 'image_bytes', 'tf_example', 'tflite')


@dataclasses.dataclass(frozen=True)
class Options(experiment_flags.ExperimentFlags):
  """What is exported, and how: the flags of Model Garden's exporter."""

  checkpoint_path: str = cli.flag(
    '', 'A checkpoint, or a folder of checkpoints.', path=True, required=True
  )
  export_dir: str = cli.flag(
    '', 'Folder that is written.', path=True, required=True
  )
  batch_size: int | None = cli.flag(
    None, 'Images in a batch; any number by default.', at_least=1
  )
  input_type: str = cli.flag(
    'image_tensor', "Type of the network's input.", choices=_INPUT_TYPES
  )
  input_image_size: str | None = cli.flag(
    None,
    "HEIGHT,WIDTH of the input in pixels; by default the run's, or 224,224.",
  )
  export_checkpoint_subdir: str = cli.flag(
    'checkpoint', 'Folder of the checkpoint in --export_dir.'
  )
  export_saved_model_subdir: str = cli.flag(
    'saved_model', 'Folder of the SavedModel in --export_dir.'
  )
  log_model_flops_and_params: bool = cli.flag(
    False, 'Log the numbers of operations and of parameters.'
  )
  input_name: str | None = cli.flag(
    None, "Name of the signature's input; inputs by default."
  )
  function_keys: str = cli.flag(
    '', 'Names of several signatures: INPUT_TYPE:NAME,INPUT_TYPE:NAME.'
  )
  add_tpu_function_alias: bool = cli.flag(
    False, 'Add the alias that a conversion for TPUs needs.'
  )


def _input_size(options: Options, params) -> list[int]:
  """Returns height and width of the exported network's input."""
  size = list(getattr(params.task.model, 'input_size', [])[:2])
  if options.input_image_size is None and size:
    return size
  text = options.input_image_size or '224,224'
  parts = text.split(',')
  if len(parts) != 2 or not all(p.strip().isdigit() and int(p) for p in parts):
    raise ValueError(
      f'--input_image_size is {text!r}; expected HEIGHT,WIDTH in pixels, such '
      'as 224,224.'
    )
  given = [int(p) for p in parts]
  if size and given != size:
    logging.warning(
      '--input_image_size is %s, but the network was trained on %s '
      '(task.model.input_size): its accuracy may differ.',
      given,
      size,
    )
  return given


def _function_keys(options: Options) -> dict[str, str] | None:
  """Parses --function_keys: the names of the signatures by input type."""
  pairs = [p.split(':') for p in options.function_keys.split(',') if p]
  for pair in pairs:
    if len(pair) != 2 or pair[0] not in _INPUT_TYPES:
      raise ValueError(
        f'--function_keys={options.function_keys}: found {":".join(pair)!r}; '
        'expected INPUT_TYPE:NAME with an input type of '
        f'{", ".join(_INPUT_TYPES)}.'
      )
  return dict(pairs) or None


def main(options: Options):
  """Exports the network."""
  parser, params = experiment_parser.resolve(options)
  keys, size = _function_keys(options), _input_size(options, params)
  # Without a checkpoint Model Garden would export random weights.
  folder, name = os.path.split(options.checkpoint_path.removesuffix('.index'))
  checkpoint = runs.find_checkpoint(folder, name)
  export_dir = options.export_dir
  run_folder.prepare(export_dir, '--export_dir')
  try:
    export_saved_model_lib.export_inference_graph(
      input_type=options.input_type,
      batch_size=options.batch_size,
      input_image_size=size,
      params=params,
      checkpoint_path=checkpoint,
      export_dir=export_dir,
      function_keys=keys,
      export_checkpoint_subdir=options.export_checkpoint_subdir,
      export_saved_model_subdir=options.export_saved_model_subdir,
      log_model_flops_and_params=options.log_model_flops_and_params,
      input_name=options.input_name,
      add_tpu_function_alias=options.add_tpu_function_alias,
    )
  except Exception as e:  # Model Garden raises errors of many types here.
    # TensorFlow would otherwise log each variable that was not restored.
    tf.get_logger().setLevel('ERROR')
    assert parser.code is not None  # `resolve` sets it.
    building.check(params, parser.code, building.NETWORK)
    if not isinstance(e, (AssertionError, ValueError)):
      raise
    raise ValueError(
      f'--checkpoint_path={checkpoint} cannot be exported as the network '
      f'that --config_file describes ({building.reason(e):.300}). Give the '
      "params.yaml of the checkpoint's run."
    ) from e


def run():
  """Runs the command."""
  cli.run(main, Options, resumes=False)


if __name__ == '__main__':
  run()
