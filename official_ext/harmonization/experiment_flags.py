# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Flags that name an experiment, shared by the exporters.

They have Model Garden's names, so that `experiment_parser.resolve` reads them
as it reads the flags of the driver.
"""

import dataclasses

from official_ext.harmonization import cli


@dataclasses.dataclass(frozen=True)
class ExperimentFlags:
  """The experiment of a run and its settings."""

  experiment: str = cli.flag(
    '',
    'Experiment of the run, such as harmonized_resnet_imagenet.',
    required=True,
  )
  config_file: tuple[str, ...] = cli.flag(
    (),
    "YAML file of settings, such as the run's params.yaml. Repeat the flag for "
    'more; later files override earlier ones.',
    repeated=True,
  )
  params_override: str = cli.flag(
    '', 'Settings that override those of --config_file, or their YAML file.'
  )
