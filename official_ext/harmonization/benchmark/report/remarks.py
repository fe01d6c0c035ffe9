# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What a reader must know of results, said once for all models it holds for."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from official_ext.harmonization.benchmark import results

Models = Sequence[results.ModelResults]


class Remark(NamedTuple):
  """A sentence on results.

  Attributes:
    models: their names, with commas.
    protocol: of the results.
    text: the sentence.
  """

  models: str
  protocol: str
  text: str

  def __str__(self) -> str:
    return f'{self.models} ({self.protocol}): {self.text}'


def _joined(found: Iterable[tuple[str, str, str]]) -> list[Remark]:
  """Joins models with the same protocol and sentence, in order."""
  models: dict[tuple[str, str], list[str]] = {}
  for name, protocol, text in found:
    models.setdefault((protocol, text), []).append(name)
  return [Remark(', '.join(names), *key) for key, names in models.items()]


def warnings(models: Models) -> list[Remark]:
  """Returns the warnings of networks.

  Fresh weights are at chance, as they should be, and controls have no accuracy.
  A mean of runs repeats what its runs warn of.

  Args:
    models: of the report.
  """
  return _joined(
    (model.name, protocol, warning)
    for model in models
    if model.is_network and not model.runs
    for protocol in model.results
    for warning in model.warnings_of(protocol)
  )


def origins(models: Models) -> list[Remark]:
  """Returns where results come from that this command did not measure.

  Args:
    models: of the report.
  """
  return _joined(
    (model.name, protocol, f'{origin}.')
    for model in models
    if not model.runs
    for protocol, origin in model.origins().items()
  )
