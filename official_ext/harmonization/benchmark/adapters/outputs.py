"""Which of a network's outputs is scored."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from official_ext.harmonization.benchmark.adapters import base

# The output that is scored where a network has several and none was chosen.
DEFAULT = 'logits'


def named(structure: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
  """Returns the tensors inside an output, by name.

  Args:
    structure: a tensor, or mappings, sequences, dataclasses and named tuples
      of tensors, or an object whose attributes they are.
    is_tensor: tells tensors from anything else, which is skipped.

  Returns:
    Keys, names of fields, or indices, joined by dots, to tensors.
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


def choose(spec: str, names: Sequence[str], chosen: str | None) -> str:
  """Says which output is scored.

  Args:
    spec: as the user wrote it, for errors.
    names: of the outputs that there are.
    chosen: a name or an index, by the user, or nothing: the only one, or
      'logits'.

  Returns:
    A name.

  Raises:
    ValueError: it is not there.
  """
  names = list(names)
  if not chosen and len(names) == 1:
    return names[0]
  chosen = chosen or DEFAULT
  if chosen not in names and chosen.isdecimal() and int(chosen) < len(names):
    return names[int(chosen)]
  if chosen not in names:
    raise base.Unscorable(
      f'{spec}: it has no output {chosen!r}: write ?output= and one of '
      f'{", ".join(names)}.'
    )
  return chosen
