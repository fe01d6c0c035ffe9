# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Panels of the report: images next to the maps of people and of models."""

from collections.abc import Sequence
import io
import os
import textwrap

import numpy as np

from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.evaluation import panels

# Models next to each other in one picture.
_COLUMNS = 5
_TITLE_WIDTH = 18


def draw(
  output_dir: str, models: Sequence[results.ModelResults], protocol: str
) -> list[blocks.Picture]:
  """Draws the examples of a protocol, a few models per picture.

  Args:
    output_dir: that paths in results start from.
    models: in order.
    protocol: its name.

  Returns:
    The pictures, none if no model has examples.
  """
  found = []
  for model in models:
    path = model.results[protocol].examples if protocol in model.results else ''
    examples = path and stored_results.read_examples(
      os.path.join(output_dir, path)
    )
    if examples:
      found.append((model.name, examples))
  groups = [found[i : i + _COLUMNS] for i in range(0, len(found), _COLUMNS)]
  return [
    blocks.Picture(
      _png(group),
      'Rows of images, each with the human map and the maps of '
      f'{", ".join(name for name, _ in group)}.',
      "The first images: image, human map, models' maps. The scale of each map "
      'ends at its 99th percentile; a map with both signs is blue below 0.',
      f'panels_{protocol}_{number}.png',
    )
    for number, group in enumerate(groups, 1)
  ]


def _png(group: Sequence[tuple[str, results.Examples]]) -> bytes:
  """Draws image, human map and the maps of some models."""
  first = group[0][1]
  # Pairs instead of a mapping, because two names can be equal when wrapped.
  maps = [('human map', first.human)] + [
    (_wrapped(name), examples.model) for name, examples in group
  ]
  buffer = io.BytesIO()
  panels.draw(buffer, first.images / np.float32(255), maps)
  return buffer.getvalue()


def _wrapped(name: str) -> str:
  """Wraps a name to fit above a panel, at spaces, - and _."""
  lines = textwrap.wrap(name.replace('_', '_ '), _TITLE_WIDTH)
  return '\n'.join(line.replace('_ ', '_') for line in lines)
