# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Trains a harmonized network; see official_ext/harmonization/train.py."""

from official_ext.harmonization import train

if __name__ == '__main__':
  train.run()
