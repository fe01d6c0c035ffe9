# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Moved to `benchmark.adapters`."""
