# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Damaged records, and how pipelines react to them."""
