# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Alignment metrics, their scores and panels of maps."""
