"""The explainers of xplique, for tests alone.

Its bounds do not allow the versions that requirements.lock pins, though it runs
with them, so it is imported from a folder of its own.
"""

import importlib
import os
import sys
import types
import unittest

_FOLDER = os.environ.get(
  'HARMONIZATION_XPLIQUE',
  os.path.join(
    os.path.dirname(os.path.dirname(os.path.realpath(__file__))),
    '.cache',
    'xplique',
  ),
)


def attributions() -> types.ModuleType:
  """Imports `xplique.attributions`, or skips the test where it is not there."""
  if not os.path.isdir(os.path.join(_FOLDER, 'xplique')):
    raise unittest.SkipTest(
      f'xplique is not in {_FOLDER}: make setup fetches it '
      '(requirements-xplique.txt).'
    )
  # Last: what the environment has too is the environment's.
  if _FOLDER not in sys.path:
    sys.path.append(_FOLDER)
  return importlib.import_module('xplique.attributions')
