# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Adapters: networks of any framework behind one interface."""
