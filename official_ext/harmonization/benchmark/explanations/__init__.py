# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Ways to compute saliency maps, see `benchmark.explainers`."""
