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

import os

from absl import flags
from absl import logging
from official.vision.serving import export_saved_model
from official.vision.serving import export_saved_model_lib
import tensorflow as tf

from official_ext.harmonization import building
from official_ext.harmonization import choices
from official_ext.harmonization import cli
from official_ext.harmonization import experiment_parser
from official_ext.harmonization import resources
from official_ext.harmonization import run_folder
from official_ext.harmonization.benchmark import runs

FLAGS = flags.FLAGS

_INPUT_TYPES = ('image_tensor', 'image_bytes', 'tf_example', 'tflite')


def _input_size(params) -> list[int]:
  """Returns height and width of the exported network's input."""
  size = list(getattr(params.task.model, 'input_size', [])[:2])
  if not FLAGS['input_image_size'].present and size:
    return size
  text = FLAGS.input_image_size
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


def _function_keys() -> dict[str, str] | None:
  """Parses --function_keys: the names of the signatures by input type."""
  pairs = [p.split(':') for p in FLAGS.function_keys.split(',') if p]
  for pair in pairs:
    if len(pair) != 2 or pair[0] not in _INPUT_TYPES:
      raise ValueError(
        f'--function_keys={FLAGS.function_keys}: found {":".join(pair)!r}; '
        'expected INPUT_TYPE:NAME with an input type of '
        f'{", ".join(_INPUT_TYPES)}.'
      )
  return dict(pairs) or None


def main(_):
  """Exports the network."""
  choices.require('--input_type', FLAGS.input_type, _INPUT_TYPES)
  if FLAGS.batch_size is not None and FLAGS.batch_size < 1:
    raise ValueError(
      f'--batch_size is {FLAGS.batch_size}; expected 1 or more. Remove the '
      'flag to export for batches of any size.'
    )
  parser, params = experiment_parser.resolve(FLAGS)
  keys, size = _function_keys(), _input_size(params)
  # Without a checkpoint Model Garden would export random weights.
  folder, name = os.path.split(
    resources.working_path(FLAGS.checkpoint_path.removesuffix('.index'))
  )
  checkpoint = runs.find_checkpoint(folder, name)
  export_dir = resources.working_path(FLAGS.export_dir)
  run_folder.prepare(export_dir, '--export_dir')
  try:
    export_saved_model_lib.export_inference_graph(
      input_type=FLAGS.input_type,
      batch_size=FLAGS.batch_size,
      input_image_size=size,
      params=params,
      checkpoint_path=checkpoint,
      export_dir=export_dir,
      function_keys=keys,
      export_checkpoint_subdir=FLAGS.export_checkpoint_subdir,
      export_saved_model_subdir=FLAGS.export_saved_model_subdir,
      log_model_flops_and_params=FLAGS.log_model_flops_and_params,
      input_name=FLAGS.input_name,
      add_tpu_function_alias=FLAGS.add_tpu_function_alias,
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
  flags.mark_flags_as_required(['experiment', 'checkpoint_path', 'export_dir'])
  cli.run(
    main, __name__, flags_of=(export_saved_model.__name__,), resumes=False
  )


if __name__ == '__main__':
  run()
