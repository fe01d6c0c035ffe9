"""Packages that only some networks need."""

import importlib
from typing import Any


def require(spec: str, package: str) -> Any:
  """Imports an optional package.

  Args:
    spec: as the user wrote it, for errors.
    package: the package, or a module in it.

  Returns:
    The package or module.

  Raises:
    ImportError: it is not installed, or broken.
  """
  try:
    return importlib.import_module(package)
  except (ImportError, RuntimeError) as e:  # torchvision beside another torch
    name = package.partition('.')[0]
    raise ImportError(
      f'{spec} needs the package {name}, which cannot be '
      f'imported ({e}): pip install {name}.'
    ) from e
