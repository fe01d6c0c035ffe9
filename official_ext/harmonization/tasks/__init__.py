# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Model Garden tasks."""
