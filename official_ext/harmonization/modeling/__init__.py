# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Backbones that Model Garden does not have."""
