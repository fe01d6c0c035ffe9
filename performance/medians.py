"""What benchmarks that let cases take turns make of their figures."""

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
  """Medians over rounds, of figures and of their ratios within a round.

  Args:
    figures: cases to one number a round.
    unit: of the numbers.
    ratios: (description, case, case that it is divided by).

  Returns:
    Descriptions to numbers.
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
  """Prints a summary and writes it with all figures, whole or not at all.

  Args:
    output: path of the JSON file.
    settings: of the benchmark.
    summary: of `summarize`.
    figures: what it was made of.
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
      # Of everything on the machine, including the benchmark itself.
      'load_average': os.getloadavg(),
      'medians': summary,
      'rounds': figures,
    },
  )
  print(f'Written: {output}')
