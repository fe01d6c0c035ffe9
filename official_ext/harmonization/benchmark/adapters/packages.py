# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Imports of optional packages."""

import importlib
from typing import Any


def require(spec: str, package: str) -> Any:
  """Imports an optional package.

  Args:
    spec: the SPEC that needs it, for error messages.
    package: name of the package or of a module in it.

  Returns:
    The imported module.

  Raises:
    ImportError: the package is missing or broken; the message says how to
      install it.
  """
  try:
    return importlib.import_module(package)
  # torchvision raises RuntimeError if it does not match the version of torch.
  except (ImportError, RuntimeError) as e:
    name = package.partition('.')[0]
    raise ImportError(
      f'{spec} needs the package {name}, which cannot be imported ({e}); '
      f'expected it to be installed. Run pip install {name}.'
    ) from e
