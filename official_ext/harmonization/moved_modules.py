# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Old import paths, which documents and notebooks use, and where they moved.

A module of an old name stays as a file of two lines that looks up here.
"""

from collections.abc import Callable
import importlib
from typing import Any

_PACKAGE = 'official_ext.harmonization.'

MOVED = {
  'evaluation.adapters.base': 'benchmark.adapters.base',
  'evaluation.adapters.spec': 'benchmark.adapters.spec',
  'evaluation.ceilings': 'benchmark.ceilings',
  'evaluation.explainers': 'benchmark.explainers',
  'evaluation.host_metrics': 'evaluation.numpy_metrics',
  'evaluation.psychophysics': 'benchmark.psychophysics.scoring',
}


def attributes(old: str) -> Callable[[str], Any]:
  """Returns the `__getattr__` of a module that moved.

  Args:
    old: its full name, a key of `MOVED` after the name of the package.

  Returns:
    A function that imports the new module when a name is first looked up.

  Example:
    __getattr__ = moved_modules.attributes(__name__)
  """
  new = _PACKAGE + MOVED[old.removeprefix(_PACKAGE)]

  def look_up(name: str) -> Any:
    return getattr(importlib.import_module(new), name)

  return look_up
