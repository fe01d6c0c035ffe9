# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Fixtures shared by tests, performance/, studies/ and stress/."""
