# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks the types of the fields of a configuration.

Model Garden accepts any value for any field. Text instead of a number fails
many steps later, without the field's name, and a number instead of a section
deletes the section.
"""

import collections.abc
import dataclasses
import functools
import math
import types
import typing
from typing import Any

from official.modeling import hyperparams

from official_ext.harmonization import choices

# How messages name one value and several values of a type.
_MEANINGS = {
  bool: ('true or false', 'true or false'),
  int: ('a whole number (100000, not 1e5)', 'whole numbers'),
  float: ('a finite number', 'finite numbers'),
  str: ('text (quote on, off, yes, no and numbers)', 'strings'),
}
_LISTS = (list, tuple, collections.abc.Sequence)


@functools.cache
def _hints(cls) -> dict[str, Any]:
  """Returns the declared types of a configuration's fields."""
  return typing.get_type_hints(cls)


def _choices(hint: Any) -> tuple[Any, ...]:
  """Returns the types that a field accepts besides None."""
  if typing.get_origin(hint) not in (typing.Union, types.UnionType):
    return (hint,)
  return tuple(t for t in typing.get_args(hint) if t is not type(None))


def _fits(value: Any, kind: Any) -> bool:
  """Whether a value has a type."""
  if typing.get_origin(kind) in _LISTS:
    inner = [t for t in typing.get_args(kind) if t is not Ellipsis]
    if not isinstance(value, (list, tuple)):
      # Model Garden's own experiments give one string instead of a list.
      return isinstance(value, str) and inner == [str]
    if typing.get_origin(kind) is tuple and len(inner) > 1:
      return len(value) == len(inner) and all(map(_fits, value, inner))
    return not inner or all(
      any(_fits(v, t) for t in _choices(inner[0])) for v in value
    )
  if isinstance(kind, type) and issubclass(kind, hyperparams.Config):
    return isinstance(value, hyperparams.Config)
  if kind not in _MEANINGS:
    return True
  if isinstance(value, bool) and kind is not bool:
    return False
  return isinstance(value, (int, float) if kind is float else kind) and not (
    isinstance(value, float) and not math.isfinite(value)
  )


def _shown(value: Any) -> str:
  """Formats a value as the user would write it."""
  return repr(
    value.as_dict() if isinstance(value, hyperparams.Config) else value
  )


def _meaning(kind: Any) -> str:
  """Describes the values of a type."""
  if isinstance(kind, type) and issubclass(kind, hyperparams.Config):
    return 'a section, whose fields have to be set'
  if typing.get_origin(kind) in _LISTS:
    inner = typing.get_args(kind)
    many = len(inner) if typing.get_origin(kind) is tuple else 0
    what = _MEANINGS.get(inner[0], ('', 'sections'))[1]
    return f'a list of {many} {what}' if many > 1 else f'a list of {what}'
  return _MEANINGS[kind][0]


def check(config: hyperparams.Config, name: str):
  """Checks a configuration and all its sections.

  Args:
    config: a dataclass. None is accepted where it is declared, where it is the
      default, and for text.
    name: dotted name of the configuration, for messages; '' for a whole
      experiment.

  Raises:
    ValueError: a field has a value of another type. The message names it.
  """
  if not dataclasses.is_dataclass(config):
    return
  hints = _hints(type(config))
  for field in dataclasses.fields(config):
    value, hint = getattr(config, field.name), hints[field.name]
    path = f'{name}.{field.name}' if name else field.name
    kinds = _choices(hint)
    if value is None and (
      field.default is None or kinds != (hint,) or hint is str
    ):
      continue  # YAML reads empty text as null.
    if not any(_fits(value, kind) for kind in kinds):
      expected = ', or '.join(_meaning(kind) for kind in kinds)
      raise ValueError(f'{path} is {_shown(value)}; expected {expected}.')
    if isinstance(value, hyperparams.Config):
      check(value, path)
  if isinstance(config, hyperparams.OneOfConfig) and config.type is not None:
    names = {f.name for f in dataclasses.fields(config)} - {'type'}
    choices.require(f'{name}.type', config.type, names)
