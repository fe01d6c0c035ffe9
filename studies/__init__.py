# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Studies of how training changes maps and decisions."""
