# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The images' values of scores, read from the tables of stored results.

tables = [image_tables.read('models/one.clickme.csv')]
found = image_tables.values(tables, {'top1': ('correct',)})
found.by_score['top1']  # (1, n)
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from official_ext.harmonization.evaluation import scores

# Columns of an image by name. The key is the file and position of its record.
Row = Mapping[str, str]
Table = Mapping[tuple[str, str], Row]


@dataclasses.dataclass(frozen=True)
class Values:
  """Values of the images that several tables share.

  Attributes:
    by_score: (tables, n) by name of the score; NaN where undefined.
    groups: (n,), the group of each image.
  """

  by_score: Mapping[str, np.ndarray]
  groups: np.ndarray


def read(path: str) -> Table:
  """Reads a table of images.

  Args:
    path: of the CSV file, with the columns file and record.

  Returns:
    The rows by file and position of the record.
  """
  return {(row['file'], row['record']): row for row in scores.read_rows(path)}


def values(
  tables: Sequence[Table], columns: Mapping[str, Sequence[str]]
) -> Values:
  """Collects the values of the images that all tables have.

  Args:
    tables: at least one. The first has the groups; images without one are
      groups of their own.
    columns: as `Protocol.image_values`. Scores of which a table does not have
      the columns are skipped.

  Returns:
    The values.
  """
  first, *others = tables
  keys = [key for key in first if all(key in table for table in others)]
  groups = [
    first[key].get('group') or f'image {i}' for i, key in enumerate(keys)
  ]
  found = {}
  for score, names in columns.items():
    if not all(_has(table, names) for table in tables):
      continue
    found[score] = np.array(
      [[_value(table[key], names) for key in keys] for table in tables]
    )
  return Values(found, np.array(groups))


def _has(table: Table, names: Sequence[str]) -> bool:
  row = next(iter(table.values()), {})
  return all(name in row for name in names)


def _value(row: Row, names: Sequence[str]) -> float:
  first, *others = (float(row[name] or math.nan) for name in names)
  return first - sum(others)
