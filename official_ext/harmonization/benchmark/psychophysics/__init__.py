# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Rapid categorization by people and networks: trials, curves and fits."""
