# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Scores any network against people: protocols, adapters and reports."""
