# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Words for messages: names that resemble unknown ones, and plurals."""

from collections.abc import Iterable
import difflib
from typing import TypeVar

_T = TypeVar('_T')


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the known name that a misspelled one resembles most, or ''."""
  return next(iter(difflib.get_close_matches(name, known, 1)), '')


def plural(count: int, noun: str) -> str:
  """Returns a number and its noun, such as '1 image' and '2 classes'."""
  if count == 1:
    return f'1 {noun}'
  return f'{count} {noun}{"es" if noun.endswith("s") else "s"}'


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
