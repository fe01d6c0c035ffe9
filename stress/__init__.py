# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Kills, damaged records and long runs."""
