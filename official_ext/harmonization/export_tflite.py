# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Converts an exported run to TFLite, with Model Garden's converter.

  python -m official_ext.harmonization.export_saved_model \
      --experiment=harmonized_resnet_imagenet \
      --config_file=runs/digits/harmonized/params.yaml \
      --checkpoint_path=runs/digits/harmonized --export_dir=exported \
      --input_type=tflite --batch_size=1
  python -m official_ext.harmonization.export_tflite \
      --experiment=harmonized_resnet_imagenet \
      --config_file=runs/digits/harmonized/params.yaml \
      --saved_model_dir=exported/saved_model --tflite_path=exported/model.tflite

Integer quantization (--quant_type=int8...) is calibrated on task.train_data, as
the stock task reads it, or on task.mapped_data if all images of the run have
maps.
"""

import dataclasses
import os

from absl import logging
from etils import epy

from official_ext.harmonization import cli
from official_ext.harmonization import experiment_flags

with epy.lazy_imports():
  from official.core import config_definitions
  from official.vision.serving import export_tflite_lib
  import tensorflow as tf

  from official_ext.harmonization import building
  from official_ext.harmonization import experiment_parser
  from official_ext.harmonization import files
  from official_ext.harmonization import input_checks
  from official_ext.harmonization import run_folder
  from official_ext.harmonization.configs import checks
  from official_ext.harmonization.tasks import harmonized_image_classification

_INTEGER = (
  'int8',
  'int8_fallback',
  'int8_full',
  'int8_full_fp32_io',
  'int8_full_int8_io',
)
_QUANT_TYPES = (*_INTEGER, 'default', 'fp16', 'qat', 'qat_fp32_io', 'uint8')


@dataclasses.dataclass(frozen=True)
class Options(experiment_flags.ExperimentFlags):
  """What is converted, and how: the flags of Model Garden's converter."""

  saved_model_dir: str = cli.flag(
    '',
    'Output of export_saved_model, EXPORT_DIR/saved_model.',
    path=True,
    required=True,
  )
  tflite_path: str = cli.flag(
    '', 'File that is written.', path=True, required=True
  )
  quant_type: str | None = cli.flag(
    None, 'Quantization; none by default.', choices=sorted(_QUANT_TYPES)
  )
  calibration_steps: int = cli.flag(
    500, 'Images on which integer quantization is calibrated.', at_least=1
  )
  denylisted_ops: str = cli.flag(
    '', 'Operations, in capitals with commas, that are not quantized.'
  )


def calibration_task(
  params: 'config_definitions.ExperimentConfig', options: Options
) -> 'harmonized_image_classification.HarmonizedImageClassificationTask | None':
  """Chooses the images for calibrating integer quantization.

  Args:
    params: the experiment.
    options: the flags.

  Returns:
    None for `task.train_data`, which Model Garden reads with the stock task;
    otherwise a task whose training data are `task.mapped_data`.

  Raises:
    ValueError: neither of the two contains images.
  """
  harmonization = getattr(params.task, 'harmonization', None)
  all_with_map = (
    harmonization
    and harmonization.enabled
    and harmonization.mapped_fraction == 1
  )
  if checks.has_source(params.task.train_data) and not all_with_map:
    input_checks.check_source(params.task.train_data, 'train_data')
    return None
  mapped = getattr(params.task, 'mapped_data', None)
  if not mapped or not checks.has_source(mapped):
    raise ValueError(
      'task.train_data.input_path and task.mapped_data.input_path are empty; '
      f'expected records, on which --quant_type={options.quant_type} is '
      'calibrated. Name them in --config_file or --params_override.'
    )
  input_checks.check_source(mapped, 'mapped_data')
  if options.denylisted_ops:
    raise ValueError(
      f'--denylisted_ops is {options.denylisted_ops}; expected no such flag if '
      'all images of the run have maps, because it is calibrated only on '
      'task.train_data. Remove the flag, or name images without maps and set '
      'task.harmonization.mapped_fraction below 1.'
    )
  task = params.task.replace(
    harmonization={'enabled': True, 'mapped_fraction': 1.0},
    train_data={'global_batch_size': 1, 'mixup_and_cutmix': None},
    mapped_data={'global_batch_size': 0, 'mixup_and_cutmix': None},
  )
  return harmonized_image_classification.HarmonizedImageClassificationTask(task)


def main(options: Options):
  """Converts the network."""
  quant_type = options.quant_type
  saved_model = options.saved_model_dir
  if not tf.io.gfile.exists(os.path.join(saved_model, 'saved_model.pb')):
    raise ValueError(
      f'--saved_model_dir={saved_model} has no saved_model.pb; expected the '
      'output of export_saved_model, EXPORT_DIR/saved_model. Check the path.'
    )
  path = options.tflite_path
  if tf.io.gfile.isdir(path):
    raise ValueError(
      f'--tflite_path={path} is a folder; expected the path of a file, such as '
      'model.tflite in it.'
    )
  run_folder.prepare(os.path.dirname(path) or '.', '--tflite_path')
  _, params = experiment_parser.resolve(options)
  task = calibration_task(params, options) if quant_type in _INTEGER else None
  logging.info('Converting %s.', saved_model)
  try:
    model = export_tflite_lib.convert_tflite_model(
      saved_model_dir=saved_model,
      quant_type=quant_type,
      params=params,
      task=task,
      calibration_steps=options.calibration_steps,
      denylisted_ops=[op for op in options.denylisted_ops.split(',') if op],
    )
  except Exception as e:  # The converter raises errors of many types.
    raise ValueError(
      f'--saved_model_dir={saved_model} cannot be converted with '
      f'--quant_type={quant_type} ({building.reason(e):.300}). Export it '
      "with --input_type=tflite --batch_size=1 and the run's own image size, "
      'or choose another --quant_type.'
    ) from e
  files.write(path, model)
  logging.info('%s was written.', path)


def run():
  """Runs the command."""
  cli.run(main, Options, resumes=False)


if __name__ == '__main__':
  run()
