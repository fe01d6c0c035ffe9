# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Extensions of TensorFlow Model Garden that live outside its tree."""
