# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Packages that some tests need and that are not in the environment.

`make setup` and `make torch` install them into separate folders, because
their requirements contradict requirements.lock or because they are large.
"""

import importlib
import importlib.util
import os
import sys
import types
import unittest

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_CACHE = os.environ.get('HARMONIZATION_OPTIONAL') or os.path.join(
  _ROOT, '.cache'
)
# The folder of each package, and the command that installs it.
_FOLDERS = {
  'apache_beam': ('beam', 'make setup'),
  'harmonization': ('released', 'make setup'),
  'keras': ('oldest-keras', 'make setup'),  # Older than the installed one.
  'keras_cv_attention_models': ('builders', 'make setup'),
  'torch': ('torch', 'make torch'),
  'vit_keras': ('builders', 'make setup'),
  'xplique': ('xplique', 'make setup'),
}


def _missing(package: str) -> unittest.SkipTest:
  return unittest.SkipTest(
    f'{package} is not installed in {path(package)}. '
    f'To install it, run: {_FOLDERS[package][1]}'
  )


def path(package: str) -> str:
  """Returns the folder that a package is installed in, if it is installed."""
  return os.path.join(_CACHE, _FOLDERS[package][0])


def folder(package: str) -> str:
  """Returns the folder that contains a package.

  Raises:
    unittest.SkipTest: the package is not installed there.
  """
  if not os.path.isdir(os.path.join(path(package), package)):
    raise _missing(package)
  return path(package)


def require(package: str):
  """Makes a package importable.

  Raises:
    unittest.SkipTest: the package is not installed.
  """
  # Last, so that packages of the environment have precedence.
  if path(package) not in sys.path:
    sys.path.append(path(package))
  importlib.invalidate_caches()
  if importlib.util.find_spec(package) is None:
    raise _missing(package)


def load(package: str) -> types.ModuleType:
  """Imports a package.

  Raises:
    unittest.SkipTest: the package is not installed.
  """
  require(package)
  return importlib.import_module(package)
