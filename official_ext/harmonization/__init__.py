# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The neural harmonizer: training networks to look where people look."""
