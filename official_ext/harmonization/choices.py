# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""One sentence for a name that is not among those that exist."""

from collections.abc import Iterable
import difflib
from typing import TypeVar

_T = TypeVar('_T')


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
    similar = difflib.get_close_matches(str(value), map(str, choices), 1)
    hint = f' Did you mean {similar[0]}?' if similar else ''
    raise ValueError(f'{where} is {value!r}; expected one of {names}.{hint}')
  return value
