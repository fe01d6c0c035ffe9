# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Specific alignment of parts of the images, from a table of images.

Images are grouped by the network's answer, by animacy, by the extent of the
human map, and by class. The value of a subgroup is the mean influence of its
images (`specificity`), whose other images are those of the whole dataset. The
mean of all images is therefore the score itself, and the mean of subgroups,
weighted by their sizes, is the score too. With the means of other images taken
within a subgroup, subgroups would differ in how similar their images are.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark.psychophysics import decisions

ALL, ANSWER, ANIMACY, EXTENT, CLASS = KINDS = (
  'all',
  'answer',
  'animacy',
  'extent',
  'class',
)
# Classes with rows of their own.
CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Subgroup:
  """Specific alignment of some of the images.

  Attributes:
    protocol: its name.
    model: name of the network or control.
    kind: by what images are grouped, one of `KINDS`.
    name: of the subgroup; of a class, its number.
    value: the mean influence, or the difference of two; NaN without images.
    low: lower end of its 95 % interval.
    high: its upper end.
    p: of the test that a difference is 0; NaN for a subgroup.
    n: number of images with a value.
    n_undefined: number of images without.
    detail: further words on what the subgroup contains.
  """

  protocol: str
  model: str
  kind: str
  name: str
  value: float
  low: float
  high: float
  p: float
  n: int
  n_undefined: int
  detail: str = ''


def measure(
  rows: Sequence[Mapping[str, Any]],
  num_classes: int,
  protocol: str = '',
  model: str = '',
) -> list[Subgroup]:
  """Measures all subgroups.

  Args:
    rows: of the table of images, with the columns influence, group and label,
      and correct and map_extent where they are known. Values may be text.
    num_classes: of the network. Which classes are animals is known only for
      ImageNet's 1000 (or 1001, with a background).
    protocol: to which the table belongs.
    model: to which the table belongs.

  Returns:
    The subgroups in the order of `KINDS`: all images; correct and wrong
    answers; animals and other classes; small, medium and large human maps
    (thirds of the images); the 20 classes with the most images, and all
    others. After the first three kinds of pairs follows their difference. A
    kind that the table does not tell is missing.

  Example:
    rows = scores.read_rows('models/ResNet50.clickme.csv')
    for found in subgroups.measure(rows, 1000):
      print(found.kind, found.name, found.value, found.low, found.high)
  """
  table = _Table(rows, protocol, model)
  found = [table.mean(ALL, 'all images', np.ones(len(rows), bool))]
  correct = table.numbers('correct')
  if not np.isnan(correct).all():
    found += table.pair(
      ANSWER, {'correct': correct == 1, 'wrong': correct == 0}
    )
  labels = table.numbers('label')
  # A network of 1001 outputs is scored without the background.
  if num_classes in (
    decisions.IMAGENET_CLASSES,
    decisions.IMAGENET_CLASSES + 1,
  ):
    is_animal = np.isin(labels, decisions.IMAGENET_ANIMALS)
    found += table.pair(
      ANIMACY, {'animals': is_animal, 'other classes': ~is_animal}
    )
  extents = table.numbers('map_extent')
  if not np.isnan(extents).all():
    found += _by_extent(table, extents)
  return found + _by_class(table, labels)


def mean_rows(
  tables: Sequence[Sequence[Mapping[str, Any]]],
) -> Sequence[Mapping[str, Any]]:
  """Averages the influences of several runs of one network.

  Args:
    tables: of images, one per run.

  Returns:
    The rows of the first table with the mean influence of the runs, for images
    that all of them have. Whether answers are correct differs between runs and
    is dropped. A single table is returned as it is.
  """
  first, *others = tables
  if not others:
    return first
  by_image = [
    {(row['file'], row['record']): float(row['influence']) for row in rows}
    for rows in tables
  ]
  found = []
  for row in first:
    key = (row['file'], row['record'])
    if all(key in values for values in by_image):
      mean = np.mean([values[key] for values in by_image])
      found.append({**row, 'influence': mean, 'correct': ''})
  return found


class _Table:
  """The columns of a table of images."""

  def __init__(self, rows: Sequence[Mapping[str, Any]], protocol, model):
    self._rows = rows
    self._names = {'protocol': protocol, 'model': model}
    self._influence = self.numbers('influence')
    self._groups = np.array([str(row['group']) for row in rows])

  def numbers(self, column: str) -> np.ndarray:
    """Returns a column as float64; NaN where it is missing or empty."""
    values = (row.get(column) for row in self._rows)
    return np.array(
      [math.nan if v in (None, '') else float(v) for v in values], np.float64
    )

  def mean(
    self, kind: str, name: str, is_in: np.ndarray, detail: str = ''
  ) -> Subgroup:
    """Measures the images that a mask selects."""
    estimate = statistics.mean(self._influence[is_in], self._groups[is_in])
    return self._subgroup(kind, name, estimate, int(is_in.sum()), False, detail)

  def pair(
    self,
    kind: str,
    masks: Mapping[str, np.ndarray],
    details: Mapping[str, str] | None = None,
  ) -> list[Subgroup]:
    """Measures subgroups, and the first minus the last one."""
    details = details or {}
    found = [
      self.mean(kind, name, is_in, details.get(name, ''))
      for name, is_in in masks.items()
    ]
    (first, a), *_, (last, b) = masks.items()
    estimate = statistics.difference_of_means(
      self._influence[a],
      self._influence[b],
      self._groups[a],
      self._groups[b],
    )
    count = int(a.sum() + b.sum())
    name = f'{first} minus {last}'
    return [*found, self._subgroup(kind, name, estimate, count, True, '')]

  def _subgroup(self, kind, name, estimate, count, is_difference, detail):
    return Subgroup(
      **self._names,
      kind=kind,
      name=name,
      value=estimate.value,
      low=estimate.low,
      high=estimate.high,
      p=estimate.p if is_difference else math.nan,
      n=estimate.n,
      n_undefined=count - estimate.n,
      detail=detail,
    )


def _by_extent(table: _Table, extents: np.ndarray) -> list[Subgroup]:
  """Measures thirds of the images by the extent of their human maps."""
  low, high = np.nanquantile(extents, (1 / 3, 2 / 3))
  low_percent, high_percent = f'{100 * low:.0f}', f'{100 * high:.0f}'
  return table.pair(
    EXTENT,
    {
      'large human maps': extents > high,
      'medium human maps': (extents > low) & (extents <= high),
      'small human maps': extents <= low,
    },
    {
      'large human maps': f'more than {high_percent} % of the image',
      'medium human maps': f'{low_percent} to {high_percent} % of the image',
      'small human maps': f'at most {low_percent} % of the image',
    },
  )


def _by_class(table: _Table, labels: np.ndarray) -> list[Subgroup]:
  """Measures the largest classes, and the others together."""
  classes, counts = np.unique(labels[~np.isnan(labels)], return_counts=True)
  order = np.lexsort((classes, -counts))
  shown, others = classes[order[:CLASSES]], classes[order[CLASSES:]]
  found = [table.mean(CLASS, str(int(c)), labels == c) for c in shown]
  if len(others):
    found.append(
      table.mean(
        CLASS,
        'all other classes',
        np.isin(labels, others),
        f'{len(others)} with fewer images',
      )
    )
  return found
