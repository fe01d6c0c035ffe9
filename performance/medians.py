# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Summaries of measurements in which cases take turns."""

from collections.abc import Mapping, Sequence
import os
import statistics
from typing import Any

from official_ext.harmonization import files
from official_ext.harmonization import resources


def summarize(
  figures: Mapping[str, Sequence[float]],
  unit: str,
  ratios: Sequence[tuple[str, str, str]],
) -> dict[str, float]:
  """Returns medians over rounds of values and of ratios within a round.

  Args:
    figures: a mapping from case to one value per round.
    unit: unit of the values.
    ratios: triples of description, numerator case and denominator case.

  Returns:
    A mapping from description to value.
  """
  summary = {
    f'{name}, {unit}': statistics.median(values)
    for name, values in figures.items()
  }
  for what, over, under in ratios:
    summary[what] = statistics.median(
      a / b for a, b in zip(figures[over], figures[under])
    )
  return summary


def report(
  output: str,
  settings: Mapping[str, Any],
  summary: Mapping[str, float],
  figures: Mapping[str, list[float]],
):
  """Prints a summary and atomically writes it with all values.

  Args:
    output: path of the JSON file.
    settings: settings of the benchmark.
    summary: as returned by `summarize`.
    figures: the values that were summarized.
  """
  output = resources.working_path(output)
  width = max(len(what) for what in summary)
  for what, value in summary.items():
    print(f'{what:<{width}}{value:>9.2f}')
  os.makedirs(os.path.dirname(output) or '.', exist_ok=True)
  files.write_json(
    output,
    {
      'settings': settings,
      'cores': os.cpu_count(),
      # The load of the whole machine, including the benchmark.
      'load_average': os.getloadavg(),
      'medians': summary,
      'rounds': figures,
    },
  )
  print(f'Written: {output}')
