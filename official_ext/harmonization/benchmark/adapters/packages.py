# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Imports of optional packages, and of objects by their import path."""

import importlib
import os
import sys
from typing import Any

from official_ext.harmonization import choices


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


def lookup(where: str, target: str) -> Any:
  """Imports an object by its import path.

    packages.lookup('--explainer', 'my_package.my_module.function')

  Args:
    where: what names the object, for error messages.
    target: its import path, with at least one dot. Modules are also searched in
      the current folder.

  Returns:
    The object.

  Raises:
    ImportError: the package or the object cannot be imported.
  """
  if '' not in sys.path and os.getcwd() not in sys.path:
    # Unlike `python -m`, an installed command does not search this folder.
    sys.path.append(os.getcwd())
  parts = target.split('.')
  for end in range(len(parts) - 1, 0, -1):
    name = '.'.join(parts[:end])
    try:
      found = importlib.import_module(name)
      break
    except ModuleNotFoundError as e:
      # If this module or a parent is missing, the last part of the name may be
      # an attribute. A missing import inside the module is an error.
      if e.name and f'{name}.'.startswith(f'{e.name}.'):
        if end == 1:
          raise ImportError(
            f'{where}: {e}; expected a package on the path. Set PYTHONPATH to '
            f'the folder that contains {e.name}.'
          ) from e
        continue
      raise ImportError(
        f'{where}: importing {name} fails: {e}. Install what is missing.'
      ) from e
    except Exception as e:  # The user's code may raise anything.
      raise ImportError(f'{where}: importing {name} fails: {brief(e)}.') from e
  for part in parts[end:]:
    if not hasattr(found, part):
      known = sorted(
        n
        for n, v in vars(found).items()
        if callable(v) and not n.startswith('_')
      )
      raise ImportError(
        f'{where}: {getattr(found, "__name__", found)} has no attribute '
        f'{part!r}; expected one of {", ".join(known) or "its functions"}.'
        + choices.did_you_mean(part, known)
      )
    found = getattr(found, part)
  return found


def brief(error: Exception) -> str:
  """Returns an exception's type and the first line of its message."""
  return f'{type(error).__name__}: {next(iter(str(error).splitlines()), "")}'
