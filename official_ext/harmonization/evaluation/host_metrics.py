# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Moved to `evaluation.numpy_metrics`."""

# Bazel: deps = ["//official_ext/harmonization/evaluation:numpy_metrics"]

from official_ext.harmonization import moved_modules

__getattr__ = moved_modules.attributes(__name__)
