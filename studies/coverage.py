# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What simulations of coverage share: statistics of ranked maps, and a loop.

Experiments are saved as they finish, and a run continues where another stopped.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any, TypeVar

import numpy as np

from official_ext.harmonization import files

_Setting = TypeVar('_Setting')


def unit_ranks(maps: np.ndarray) -> np.ndarray:
  """Ranks maps (..., N) without ties; centred, with norm 1."""
  ranks = maps.argsort(-1).argsort(-1) - (maps.shape[-1] - 1) / 2
  return ranks / np.linalg.norm(ranks[0].reshape(-1, maps.shape[-1])[0])


def with_others(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Means over other images of a_i . b_j, for a, b (n, N)."""
  return (a @ b.sum(0) - (a * b).sum(1)) / (len(a) - 1)


def floor(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Means over other images of a_i . b_j and b_i . a_j, for a, b (n, N)."""
  return (with_others(a, b) + with_others(b, a)) / 2


def influence(model: np.ndarray, human: np.ndarray) -> np.ndarray:
  """Returns e_i of `specificity` for unit ranks (n, N), without groups."""
  outward, inward = with_others(model, human), with_others(human, model)
  return (model * human).sum(1) - outward - inward + outward.mean()


def run(
  settings: Mapping[str, _Setting],
  experiments: int,
  output: str,
  *,
  describe: Callable[[_Setting], dict[str, Any]],
  begin: Callable[[_Setting], dict[str, Any]],
  add: Callable[[_Setting, dict[str, Any], int], None],
  per_save: int = 100,
) -> dict[str, dict[str, Any]]:
  """Runs the experiments that the file does not have yet.

  Args:
    settings: by name.
    experiments: number for each setting.
    output: JSON file, read and written.
    describe: returns a setting in JSON's types. Results of a setting that is
      described otherwise are made again.
    begin: returns what the result of a setting has before any experiment, such
      as the true values.
    add: takes a setting, its result and the number of an experiment, which is
      its seed, and adds the experiment to the result.
    per_save: experiments between writes.

  Returns:
    By setting: its description as `setting`, the number `done`, and what
    `begin` and `add` made.
  """
  results = files.read_json(output) if os.path.exists(output) else {}
  for name, setting in settings.items():
    described = describe(setting)
    result = results.get(name)
    if not result or result['setting'] != described:
      result = {'setting': described, 'done': 0, **begin(setting)}
    while result['done'] < experiments:
      start = result['done']
      for seed in range(start, min(start + per_save, experiments)):
        add(setting, result, seed)
        result['done'] = seed + 1
      results[name] = result
      os.makedirs(os.path.dirname(output) or '.', exist_ok=True)
      files.write_json(output, results, indent=1)
  return results


def count(result: dict[str, Any], key: str, covers: bool | None):
  """Counts an interval in `counts` of a result; None if it is undefined."""
  found = result['counts'].setdefault(key, {'defined': 0, 'covered': 0})
  found['defined'] += covers is not None
  found['covered'] += bool(covers)


def covered(result: Mapping[str, Any], key: str) -> str:
  """Formats the part of the intervals that `count` counted as covering."""
  found = result['counts'][key]
  return f'{found["covered"] / max(1, found["defined"]):.3f}'


def table(names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
  """Formats cells by row in Markdown."""
  lines = ['| | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|']
  lines += [
    f'| {row} | ' + ' | '.join(cells) + ' |' for row, cells in rows.items()
  ]
  return '\n'.join(lines)
