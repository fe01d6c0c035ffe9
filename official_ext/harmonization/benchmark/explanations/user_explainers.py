# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Explainers of the user, by the import path of a function that makes them."""

from collections.abc import Callable
import inspect
from typing import Any

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark.adapters import packages


def is_path(name: str) -> bool:
  """Whether a name is an import path, and not that of a built-in explainer."""
  return '.' in name


def lookup(name: str) -> Callable[..., Any]:
  """Imports the function that makes an explainer.

  Args:
    name: its import path, such as my_package.my_module.function. Importing runs
      the code of the module, so name only code you trust.

  Returns:
    A function from a network, and perhaps options, to an explainer.

  Raises:
    ImportError: the function or a module that it needs cannot be imported.
    ValueError: the name is not that of a function.
  """
  found = packages.lookup(f'The explainer {name}', name)
  if not callable(found):
    raise ValueError(
      f'The explainer {name} is a {type(found).__name__}; expected a function '
      'from a network to an explainer.'
    )
  return found


def source_digest(name: str) -> str:
  """Returns the SHA-256 digest of the file that contains the function.

  Modules that this file imports are not covered. A function without a file,
  such as one in C, has the digest ''.

  Args:
    name: as for `lookup`.

  Raises:
    ImportError, ValueError: as `lookup`.
  """
  try:
    path = inspect.getsourcefile(inspect.unwrap(lookup(name)))
  except TypeError:
    path = None
  if not path:
    return ''
  with open(path, 'rb') as f:
    return identity.sha256(f.read())
