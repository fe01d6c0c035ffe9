# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""TFRecord shards: writing, reading, checking and downloading them."""
