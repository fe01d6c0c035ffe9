# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Moved to `benchmark.ceilings`."""

# Bazel: deps = ["//official_ext/harmonization/benchmark:ceilings"]

from official_ext.harmonization import moved_modules

__getattr__ = moved_modules.attributes(__name__)
