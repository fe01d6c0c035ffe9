# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""One module per protocol: its flags, columns, ranking and report text."""
