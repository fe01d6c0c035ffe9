# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Differentiable pieces without configuration."""
