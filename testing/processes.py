# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Processes that tests start."""

import os
import sys


def environment() -> dict[str, str]:
  """Returns an environment in which Python finds the modules found here."""
  return {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
