# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Panels of the report: images next to the maps of people and of models."""

from collections.abc import Mapping, Sequence
import io
import math
import os
import textwrap

import numpy as np

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.evaluation import panels

# Models next to each other in one picture.
_COLUMNS = 5
_TITLE_WIDTH = 18
# Characters of a class below a panel.
_CLASS_WIDTH = 16

# Name, maps and facts of a model.
_Shown = tuple[str, results.Examples, Sequence[results.ImageFacts]]


def draw(
  output_dir: str,
  models: Sequence[results.ModelResults],
  protocol: str,
  class_names: Mapping[int, str] | None = None,
) -> list[blocks.Picture]:
  """Draws the examples of a protocol, a few models per picture.

  Args:
    output_dir: that paths in results start from.
    models: in order.
    protocol: its name.
    class_names: names of the classes by number, where they are known.

  Returns:
    The pictures, none if no model has examples.
  """
  found = []
  for model in models:
    if protocol not in model.results:
      continue
    result = model.results[protocol]
    examples = result.examples and stored_results.read_examples(
      os.path.join(output_dir, result.examples)
    )
    if examples:
      # Examples are the first images of the table.
      facts = stored_results.read_facts(
        result.table and os.path.join(output_dir, result.table),
        len(examples.images),
      )
      found.append((model.name, examples, facts))
  groups = [found[i : i + _COLUMNS] for i in range(0, len(found), _COLUMNS)]
  has_facts = any(facts for *_, facts in found)
  return [
    blocks.Picture(
      _png(group, class_names or {}, figures.LIGHT),
      'Rows of images, each with the human map and the maps of '
      f'{", ".join(name for name, *_ in group)}.',
      "The first images: image, human map, models' maps. The scale of each map "
      'ends at its 99th percentile; a map with both signs is blue below 0.'
      + (_NOTES if has_facts else ''),
      f'panels_{protocol}_{number}.png',
      _png(group, class_names or {}, figures.DARK),
    )
    for number, group in enumerate(groups, 1)
  ]


_NOTES = (
  " Left: the image's class. Below a map: its rank correlation with the human "
  'map of the same image (own) and its mean rank correlation with those of '
  'other images (out), both maps blurred as for the ranked score; and the '
  'predicted class, correct (✓) or wrong (✗).'
)


def _png(
  group: Sequence[_Shown],
  class_names: Mapping[int, str],
  theme: figures.Theme,
) -> bytes:
  """Draws image, human map and the maps of some models."""
  _, first, _ = group[0]
  # The mean of several runs has no table.
  facts = next((f for *_, f in group if f), [])
  # Pairs instead of a mapping, because two names can be equal when wrapped.
  maps = [('human map', first.human)] + [
    (_wrapped(name), examples.model) for name, examples, _ in group
  ]
  captions = [_class(image.label, class_names) for image in facts]
  notes = [[]] + [
    [_note(image, class_names) for image in of_model] for *_, of_model in group
  ]
  buffer = io.BytesIO()
  panels.draw(
    buffer,
    first.images / np.float32(255),
    maps,
    captions,
    notes if any(map(any, notes)) else None,
    ground=theme.ground,
    ink=theme.ink,
  )
  return buffer.getvalue()


def _note(facts: results.ImageFacts, class_names: Mapping[int, str]) -> str:
  """Describes how a model did on an image, in two lines."""
  lines = []
  if facts.own is not None and facts.outward is not None:
    values = (facts.own, facts.outward)
    own, out = ('-' if math.isnan(v) else f'{v:.2f}' for v in values)
    lines.append(f'own {own}, out {out}')
  if facts.prediction is not None:
    mark = '✓' if facts.prediction == facts.label else '✗'
    lines.append(f'{_class(facts.prediction, class_names)} {mark}')
  return '\n'.join(lines)


def _class(number: int | None, class_names: Mapping[int, str]) -> str:
  """Returns the name of a class, shortened, or its number."""
  if number is None:
    return ''
  name = class_names.get(number)
  if not name:
    return f'class {number}'
  return name if len(name) <= _CLASS_WIDTH else f'{name[: _CLASS_WIDTH - 1]}…'


def _wrapped(name: str) -> str:
  """Wraps a name to fit above a panel, at spaces, - and _."""
  lines = textwrap.wrap(name.replace('_', '_ '), _TITLE_WIDTH)
  return '\n'.join(line.replace('_ ', '_') for line in lines)
