# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Speed and memory, compared with Model Garden and the released package."""
