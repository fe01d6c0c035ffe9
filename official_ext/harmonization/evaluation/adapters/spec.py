# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Moved to `benchmark.adapters.spec`."""

# Bazel: deps = ["//official_ext/harmonization/benchmark/adapters:spec"]

from official_ext.harmonization import moved_modules

__getattr__ = moved_modules.attributes(__name__)
