"""Packages that some tests need and the environment does not hold."""

import importlib
import os
import sys
import types
import unittest

_CACHE = os.path.join(
  os.path.dirname(os.path.dirname(os.path.realpath(__file__))), '.cache'
)
# Names to the folders in .cache that hold them, and what puts them there.
_FOLDERS = {
  'torch': ('torch', 'make torch'),
  'keras_cv_attention_models': ('builders', 'make setup'),
  'vit_keras': ('builders', 'make setup'),
  'keras': ('oldest-keras', 'make setup'),  # Beside the installed one.
}


def folder(package: str) -> str:
  """Returns the folder that holds a package, or skips the test without it."""
  name, command = _FOLDERS[package]
  path = os.path.join(_CACHE, name)
  if not os.path.isdir(os.path.join(path, package)):
    raise unittest.SkipTest(
      f'{package} is not in {path}: {command} fetches it.'
    )
  return path


def require(package: str):
  """Makes a package importable, or skips the test where it is not there."""
  name, command = _FOLDERS[package]
  path = os.path.join(_CACHE, name)
  # Last, so that what the environment holds stays what is imported.
  if path not in sys.path:
    sys.path.append(path)
  importlib.invalidate_caches()
  if importlib.util.find_spec(package) is None:
    raise unittest.SkipTest(
      f'{package} is neither installed nor in {path}: {command} fetches it.'
    )


def load(package: str) -> types.ModuleType:
  """Imports a package, or skips the test where it is not there."""
  require(package)
  return importlib.import_module(package)
