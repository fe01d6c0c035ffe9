# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The human score that alignment is divided by."""

from absl import logging
import tensorflow as tf

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.data.records import clickme_release
from official_ext.harmonization.dataloaders import images_with_maps


def of(config: exp_cfg.HarmonizedImageClassificationTask) -> float:
  """Returns the ceiling of a task's validation data with maps.

  Args:
    config: the task's configuration.

  Returns:
    `harmonization.ceiling` if it is set. Otherwise the release's ceiling for
    files of the ClickMe release, and 1 for all others.
  """
  if config.harmonization.ceiling is not None:
    return config.harmonization.ceiling
  data = config.mapped_validation_data
  if not data.input_path:
    return 1.0
  try:
    is_release = data.map_decoder == 'clickme' and (
      clickme_release.is_release(images_with_maps.files(data))
    )
  except (OSError, ValueError, tf.errors.OpError):
    is_release = False  # Problems are reported when the files are read.
  if is_release:
    return exp_cfg.CLICKME_CEILING
  logging.info(
    '%s: not recognized as the ClickMe release, so alignment is the raw '
    'correlation. To normalize it, set task.harmonization.ceiling to the '
    'correlation between people (%.5f in the release).',
    data.input_path,
    exp_cfg.CLICKME_CEILING,
  )
  return 1.0
