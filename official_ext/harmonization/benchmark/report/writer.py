# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Writes everything that people read: tables, plots, and the page."""

import os
import re

import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark import run_results
from official_ext.harmonization.benchmark.report import blocks
from official_ext.harmonization.benchmark.report import leaderboard
from official_ext.harmonization.benchmark.report import page
from official_ext.harmonization.benchmark.report import remarks
from official_ext.harmonization.benchmark.report import score_correlations
from official_ext.harmonization.evaluation import scores

PAGE = 'report.html'
RESULTS = 'results.json'
CORRELATIONS = 'score_correlations.csv'
_OURS = re.compile(
  r'leaderboard\.(txt|md|csv)|score_correlations\.csv|trade_off\.png'
  r'|faithfulness\.png|panels_[\w.]+_\d+\.png|\w+\.[\w.]+_ceilings\.png'
)


def _contents(
  report: run_results.Report, output_dir: str
) -> dict[str, str | bytes]:
  """Returns the contents of all files but results.json by name, page last."""
  models = report.models
  contents: dict[str, str | bytes] = {}
  if models:
    notes = ''.join(f'\n{line}\n' for line in remarks.origins(models))
    contents['leaderboard.txt'] = (
      f'{leaderboard.as_text(models, report.comparisons)}\n{notes}'
    )
    contents['leaderboard.md'] = (
      f'{leaderboard.as_markdown(models, report.comparisons)}\n{notes}'
    )
    contents['leaderboard.csv'] = leaderboard.as_csv(models, report.comparisons)
  correlations = score_correlations.correlations(models)
  if correlations:
    contents[CORRELATIONS] = score_correlations.as_csv(correlations)
  sections = page.sections(report, output_dir)
  for section in sections:
    for block in section.blocks:
      if isinstance(block, blocks.Picture):
        contents[block.file] = block.png
  contents[PAGE] = page.render(report, sections)
  return contents


def write(output_dir: str, report: run_results.Report) -> list[str]:
  """Writes results.json and all that is made of it, each file atomically.

  Args:
    output_dir: folder of the results.
    report: what was measured.

  Returns:
    The paths of the files.
  """
  written = [os.path.join(output_dir, RESULTS)]
  scores.write_json(written[0], report.to_json())
  contents = _contents(report, output_dir)
  pictures = {name for found in registry.protocols() for name in found.pictures}
  for name in tf.io.gfile.listdir(output_dir):
    # A picture of an earlier report would be mistaken for a part of this one.
    if (_OURS.fullmatch(name) or name in pictures) and name not in contents:
      tf.io.gfile.remove(os.path.join(output_dir, name))
  for name, content in contents.items():
    path = os.path.join(output_dir, name)
    files.write(path, content)
    written.append(path)
  return written
