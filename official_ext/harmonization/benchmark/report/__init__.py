# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reports of the human-alignment benchmark."""
