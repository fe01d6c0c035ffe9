# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Runs numbered mutations, together unless their effects are ambiguous."""

from collections.abc import Callable, Sequence
from typing import Any

from stress.mutations import records as mutations
from stress.mutations import trials as trials_lib

Result = list[Any]


class Runs:
  """The trials of all formats, which are built when they are needed."""

  def __init__(
    self,
    folder: str,
    say: Callable[[dict[str, Any]], None] = lambda message: None,
  ):
    """Initializes the runs.

    Args:
      folder: folder for files.
      say: function that receives the position before each pipeline, in case
        the process is lost.
    """
    self._folder, self._say = folder, say
    self._trials = {}

  def run(
    self, record_format: str, seed: int, numbers: Sequence[int]
  ) -> list[Result]:
    """Runs mutations of a format.

    Args:
      record_format: one of `mutations.FORMATS`.
      seed: seed of the mutations.
      numbers: numbers of the mutations.

    Returns:
      Lists of number, kind, pipeline, outcome and detail.
    """
    if record_format not in self._trials:
      self._trials[record_format] = trials_lib.Trials(
        self._folder,
        record_format,
        lambda pipeline: self._say({'at': pipeline}),
      )
    trials = self._trials[record_format]
    drawn = [mutations.draw(record_format, seed, n) for n in numbers]
    results = []
    for number, mutation in zip(numbers, drawn):
      if mutation.damaged is not None:
        results += _rows(
          number,
          mutation.kind,
          trials.run_file(mutation.data, mutation.damaged),
        )
    records = [(n, m) for n, m in zip(numbers, drawn) if m.damaged is None]
    return results + self._run_records(trials, records)

  def _run_records(self, trials, records) -> list[Result]:
    """Runs records in one file, or in smaller files if results are unclear."""
    if not records:
      return []
    try:
      outcomes = trials.run([mutation.data for _, mutation in records])
    except trials_lib.Unclear as e:
      if len(records) == 1:
        number, mutation = records[0]
        return [[number, mutation.kind, 'all', *e.args]]
      half = len(records) // 2
      return self._run_records(trials, records[:half]) + self._run_records(
        trials, records[half:]
      )
    return [
      row
      for (number, mutation), found in zip(records, outcomes)
      for row in _rows(number, mutation.kind, found)
    ]


def _rows(number, kind, found) -> list[Result]:
  return [
    [number, kind, pipeline, outcome, detail[:300]]
    for pipeline, (outcome, detail) in found.items()
  ]
