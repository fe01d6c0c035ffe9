# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Choice of the output that is scored, for networks with several."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from official_ext.harmonization.benchmark.adapters import base

# The output that is scored if a network has several and the user chose none.
DEFAULT = 'logits'


def named(structure: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
  """Returns the tensors inside a network's output, by name.

  Args:
    structure: a tensor, or nested mappings, sequences, dataclasses, named
      tuples and objects whose attributes are tensors.
    is_tensor: whether a value is a tensor; other leaves are skipped.

  Returns:
    Tensors by key, field name or index; nested names are joined by dots.
  """
  if is_tensor(structure):
    return {'': structure}
  if isinstance(structure, Mapping):
    items = structure.items()
  elif hasattr(structure, '_fields'):
    items = zip(structure._fields, structure)
  elif dataclasses.is_dataclass(structure):
    items = [
      (f.name, getattr(structure, f.name))
      for f in dataclasses.fields(structure)
    ]
  elif isinstance(structure, Sequence) and not isinstance(structure, str):
    items = enumerate(structure)
  else:
    items = getattr(structure, '__dict__', {}).items()
  return {
    f'{key}.{name}'.rstrip('.'): tensor
    for key, value in items
    for name, tensor in named(value, is_tensor).items()
  }


def choose(spec: str, names: Iterable[str], chosen: str | None) -> str:
  """Returns the name of the output that is scored.

  Args:
    spec: for error messages.
    names: of all outputs.
    chosen: name or index that the user chose; None or '' for the only output,
      or else 'logits'.

  Raises:
    ValueError: the network does not have that output.
  """
  names = list(names)
  if not chosen and len(names) == 1:
    return names[0]
  chosen = chosen or DEFAULT
  if chosen not in names and chosen.isdecimal() and int(chosen) < len(names):
    return names[int(chosen)]
  if chosen not in names:
    raise base.Unscorable(
      f'{spec}: the network has no output {chosen!r}; expected one of '
      f'{", ".join(names)}. Choose it with ?output=NAME.'
    )
  return chosen
