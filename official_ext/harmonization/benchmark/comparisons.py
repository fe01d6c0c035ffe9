# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Compares each network with each control and with its random twins.

A network that sees as people do must be more specifically aligned than every
map that anybody can make without it. Comparisons are paired by image, through
the images' influence on the score (`specificity`).
"""

from collections.abc import Sequence
import dataclasses
import os

import numpy as np

from official_ext.harmonization.benchmark import image_tables
from official_ext.harmonization.benchmark import protocol as protocol_lib
from official_ext.harmonization.benchmark import repeated_runs
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark import statistics

# Columns of the images' values, as `Protocol.image_values`.
_INFLUENCE = {'specific': ('influence',)}


def compare(
  output_dir: str,
  models: Sequence[results.ModelResults],
  protocols: Sequence[protocol_lib.Protocol],
) -> list[run_results.Comparison]:
  """Compares networks with controls.

  Args:
    output_dir: that the paths of tables start from.
    models: networks, controls and random twins.
    protocols: of which those with controls are compared.

  Returns:
    A comparison for each protocol, network and control. Random twins of one
    network count as one control, whose influence is their mean. Several runs
    of one network are compared as one, with the uncertainty of their seeds.
  """
  found = []
  for protocol in protocols:
    if not protocol.has_controls:
      continue
    tables = {
      model.name: image_tables.read(
        os.path.join(output_dir, model.results[protocol.name].table)
      )
      for model in models
      if protocol.name in model.results
      and model.results[protocol.name].explainers
      and not model.runs
      and not model.size_of
    }
    measured = [m for m in models if m.name in tables]
    shared = {m.name: [tables[m.name]] for m in measured if m.is_control}
    compared = []
    for model in models:
      runs = [tables[n] for n in model.runs or (model.name,) if n in tables]
      if not model.is_network or not runs:
        continue
      twins = [tables[m.name] for m in measured if m.twin_of == model.name]
      rivals = {**shared, **({f'random-{model.name}': twins} if twins else {})}
      compared += [
        _compare(protocol.name, model.name, runs, name, rival)
        for name, rival in rivals.items()
      ]
    adjusted = statistics.holm([c.p for c in compared])
    found += [
      dataclasses.replace(c, p_holm=p) for c, p in zip(compared, adjusted)
    ]
  return found


def _compare(
  protocol: str,
  model: str,
  runs: Sequence[image_tables.Table],
  control: str,
  rival: Sequence[image_tables.Table],
) -> run_results.Comparison:
  """Tests the mean difference over the images that all tables have."""
  found = image_tables.values([*runs, *rival], _INFLUENCE)
  ours, theirs = np.split(found.by_score['specific'], [len(runs)])
  estimate = repeated_runs.mean(ours - theirs.mean(axis=0), found.groups)
  return run_results.Comparison.of(
    estimate, protocol=protocol, model=model, control=control
  )
