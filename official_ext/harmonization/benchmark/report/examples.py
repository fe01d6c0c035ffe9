"""Panels of the report: images beside the maps of people and of models."""

from collections.abc import Mapping, Sequence
import io
import os
import textwrap
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import run as benchmark_run
from official_ext.harmonization.evaluation import panels

# Models beside each other in one picture.
_COLUMNS = 5
_TITLE_WIDTH = 18


def draw(
  output_dir: str, models: Sequence[Mapping[str, Any]], experiment: str
) -> list[dict[str, Any]]:
  """Draws the examples of an experiment, a few models to a picture.

  Args:
    output_dir: that the models' records name their files in.
    models: as `benchmark.Benchmark.run` returns them, in order.
    experiment: its name.

  Returns:
    A dict per picture: `png`, its bytes, and `names`, the models in it.
  """
  found = []
  for model in models:
    result = model['experiments'].get(experiment, {})
    if result.get('examples'):
      examples = benchmark_run.read_examples(
        os.path.join(output_dir, result['examples'])
      )
      if examples is not None:
        found.append((model['name'], examples))
  return [
    _picture(found[i : i + _COLUMNS]) for i in range(0, len(found), _COLUMNS)
  ]


def _picture(shown) -> dict[str, Any]:
  """One picture: image, human map, and the maps of some models."""
  first = shown[0][1]
  # Not by name: two names can be one when wrapped.
  maps = [('human map', first.human)] + [
    (_wrapped(name), examples.model) for name, examples in shown
  ]
  buffer = io.BytesIO()
  panels.draw(buffer, first.images / np.float32(255), maps)
  return {'png': buffer.getvalue(), 'names': [name for name, _ in shown]}


def _wrapped(name: str) -> str:
  """A name in lines that fit above a picture, cut at spaces, - and _."""
  lines = textwrap.wrap(name.replace('_', '_ '), _TITLE_WIDTH)
  return '\n'.join(line.replace('_ ', '_') for line in lines)
