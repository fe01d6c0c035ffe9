# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Names that are not among those that exist."""

from collections.abc import Iterable
import difflib
from typing import TypeVar

_T = TypeVar('_T')


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the known name that a misspelled one resembles most, or ''."""
  return next(iter(difflib.get_close_matches(name, known, 1)), '')


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """Returns ' Did you mean cat?' for the nearest known name, or ''."""
  similar = nearest(name, known)
  return f' Did you mean {similar}?' if similar else ''


def require(
  where: str, value: _T, choices: Iterable[_T], descriptions: str = ''
) -> _T:
  """Checks that a value is one of several.

    choices.require('--quant_type', 'int9', ('int8', 'fp16'))
    # ValueError: --quant_type is 'int9'; expected one of fp16, int8.

  Args:
    where: the flag, field or argument that holds the value.
    value: what was found there.
    choices: the values that are allowed, such as the keys of a table.
    descriptions: listed in the message instead of the choices.

  Returns:
    The value.

  Raises:
    ValueError: the value is not among the choices, which the message lists.
  """
  choices = list(choices)
  if value not in choices:
    names = descriptions or ', '.join(sorted(map(str, choices)))
    hint = did_you_mean(str(value), map(str, choices))
    raise ValueError(f'{where} is {value!r}; expected one of {names}.{hint}')
  return value
