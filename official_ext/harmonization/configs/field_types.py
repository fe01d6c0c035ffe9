"""Checks that the fields of a configuration hold what they are declared to.

The host takes any value for any field: text where a number belongs fails steps
later, without the field's name, and a number in the place of a whole section
takes the section away.
"""

import dataclasses
import functools
import math
import typing
from typing import Any, Dict, Optional

from official.modeling import hyperparams

_MEANINGS = {
    bool: 'true or false',
    int: 'a whole number (100000, not 1e5)',
    float: 'a finite number',
    str: 'text',
}


@functools.cache
def _hints(cls) -> Dict[str, Any]:
  """Types of a configuration's fields, `Optional` taken off."""
  hints = {}
  for name, hint in typing.get_type_hints(cls).items():
    parts = [t for t in typing.get_args(hint) if t is not type(None)]
    is_union = typing.get_origin(hint) is typing.Union
    hints[name] = parts[0] if is_union and len(parts) == 1 else hint
  return hints


def _fits(value: Any, kind: type) -> bool:
  if kind is float:
    kind = (int, float)
  if isinstance(value, bool) and kind is not bool:
    return False
  return isinstance(value, kind) and not (
      isinstance(value, float) and not math.isfinite(value))


def _expected(value: Any, hint: Any) -> Optional[str]:
  """Says what a value should be; None if it is."""
  if isinstance(hint, type) and issubclass(hint, hyperparams.Config):
    return None if isinstance(value, hyperparams.Config) else (
        'it has fields of its own, set those')
  if hint in _MEANINGS and not _fits(value, hint):
    return f'it must be {_MEANINGS[hint]}'
  return None


def check(config: hyperparams.Config, name: str):
  """Checks a configuration and all below it.

  Args:
    config: of which fields are declared with their types. None passes
      everywhere, as the host has it.
    name: of the configuration, for messages.

  Raises:
    ValueError: a field holds something else. The message names it.
  """
  if not dataclasses.is_dataclass(config):
    return
  hints = _hints(type(config))
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if value is None:
      continue
    path = f'{name}.{field.name}'
    expected = _expected(value, hints[field.name])
    if expected:
      raise ValueError(f'{path} is {value!r}: {expected}.')
    if isinstance(value, hyperparams.Config):
      check(value, path)
  if isinstance(config, hyperparams.OneOfConfig) and config.type is not None:
    choices = sorted({f.name for f in dataclasses.fields(config)} - {'type'})
    if config.type not in choices:
      raise ValueError(
          f'{name}.type is {config.type!r}: choose one of {choices}.')
