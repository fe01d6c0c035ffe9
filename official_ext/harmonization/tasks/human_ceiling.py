"""The human score that alignment is divided by."""

from absl import logging
import tensorflow as tf

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.data.records import clickme_release
from official_ext.harmonization.dataloaders import mapped_source


def of(config: exp_cfg.HarmonizedImageClassificationTask) -> float:
  """Returns the ceiling of a task's validation data.

  Args:
    config: of the task.

  Returns:
    `harmonization.ceiling` where it is set; else the release's for files of the
    ClickMe release, and 1 for all others.
  """
  if config.harmonization.ceiling is not None:
    return config.harmonization.ceiling
  source = config.mapped_validation_data
  if not source.input_path:
    return 1.0
  try:
    is_release = source.map_decoder == 'clickme' and (
      clickme_release.is_release(mapped_source.files(source))
    )
  except (OSError, ValueError, tf.errors.OpError):
    is_release = False  # What is wrong with the files is said when they open.
  if is_release:
    return exp_cfg.CLICKME_CEILING
  logging.info(
    '%s: not recognized as the ClickMe release, so that alignment is the raw '
    'correlation. Set task.harmonization.ceiling to the score of people '
    'among each other, %.5f for the release.',
    source.input_path,
    exp_cfg.CLICKME_CEILING,
  )
  return 1.0
