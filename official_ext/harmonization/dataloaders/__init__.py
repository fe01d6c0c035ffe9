# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""From records to batches of images, labels and human maps."""
