"""Trains a harmonized network; see official_ext/harmonization/train.py."""

import os

# TensorFlow's C++ start-up notes, unless somebody asked for them.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from official_ext.harmonization import train  # noqa: E402

if __name__ == '__main__':
  train.run()
