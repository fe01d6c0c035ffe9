# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Importing this module registers all experiments, tasks and backbones."""

from official.projects.maxvit import registry_imports as _maxvit
from official.vision import registry_imports

from official_ext.harmonization.configs import experiments as _experiments
from official_ext.harmonization.modeling import custom_vit as _custom_vit
from official_ext.harmonization.tasks import (
  harmonized_image_classification as _task,
)
