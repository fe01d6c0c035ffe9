# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Images and human maps, as people have them: pictures, arrays, clicks."""
