"""The authors' released package, for parity tests alone.

`harmonization` 0.0.9 asks for packages that are at their end of life, so its
modules are loaded one by one, without any __init__, from a folder that
nothing else imports from.
"""

import importlib
import os
import sys
import types
import unittest
from unittest import mock

import tensorflow as tf
import tf_keras

_FOLDER = os.environ.get(
  'HARMONIZATION_RELEASED',
  os.path.join(
    os.path.dirname(os.path.dirname(os.path.realpath(__file__))),
    '.cache',
    'released',
  ),
)


def load(name: str) -> types.ModuleType:
  """Imports `harmonization.<name>`, or skips the test where it is not there."""
  package = os.path.join(_FOLDER, 'harmonization')
  if not os.path.isdir(package):
    raise unittest.SkipTest(
      f'The released package is not in {_FOLDER}: make setup fetches it '
      '(requirements-released.txt).'
    )
  # Its code was written for Keras 2, which lives on as tf_keras.
  with mock.patch.dict(sys.modules), mock.patch.object(tf, 'keras', tf_keras):
    for parent in ('harmonization', f'harmonization.{name.split(".")[0]}'):
      sys.modules[parent] = types.ModuleType(parent)
      sys.modules[parent].__path__ = [
        os.path.join(_FOLDER, parent.replace('.', os.sep))
      ]
    return importlib.import_module(f'harmonization.{name}')
