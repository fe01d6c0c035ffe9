# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Moved to `benchmark.psychophysics.scoring`."""

# Bazel: deps = ["//official_ext/harmonization/benchmark/psychophysics:scoring"]

from official_ext.harmonization import moved_modules

__getattr__ = moved_modules.attributes(__name__)
