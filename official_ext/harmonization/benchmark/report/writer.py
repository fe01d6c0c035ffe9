"""Writes everything that people read: tables, plots, and the page."""

from collections.abc import Mapping
import os
import re
from typing import Any

import tensorflow as tf

from official_ext.harmonization import files as files_lib
from official_ext.harmonization.benchmark.report import curves
from official_ext.harmonization.benchmark.report import examples
from official_ext.harmonization.benchmark.report import figures
from official_ext.harmonization.benchmark.report import leaderboard
from official_ext.harmonization.benchmark.report import page
from official_ext.harmonization.benchmark.report import trade_off
from official_ext.harmonization.evaluation import scores

PAGE = 'report.html'
RESULTS = 'results.json'
_OURS = re.compile(
  r'leaderboard\.(txt|md|csv)|'
  r'(trade_off|curves|panels_[a-z]+_\d+)\.png'
)


def _pictures(output_dir: str, results: Mapping[str, Any]) -> dict[str, Any]:
  """All pictures that there is something to draw for."""
  models, twins = results['models'], results['twins']
  pictures: dict[str, Any] = {'panels': {}}
  if trade_off.points(models, twins):
    pictures['trade_off'] = figures.both(
      lambda theme: trade_off.draw(models, twins, theme)
    )
  if curves.of_models(models):
    pictures['curves'] = figures.both(
      lambda theme: curves.draw(models, twins, theme)
    )
  ranked = leaderboard.ranked(models, leaderboard.columns(models))
  for name in results['experiments']:
    panels = examples.draw(output_dir, ranked, name)
    if panels:
      pictures['panels'][name] = panels
  return pictures


def _files(results, pictures) -> dict[str, str | bytes]:
  """Contents of all files but results.json, by name; the page last."""
  models = results['models']
  files: dict[str, str | bytes] = {}
  if models:
    notes = ''.join(f'\n{line}\n' for line in leaderboard.origins(models))
    files['leaderboard.txt'] = leaderboard.as_text(models) + '\n' + notes
    files['leaderboard.md'] = leaderboard.as_markdown(models) + '\n' + notes
    files['leaderboard.csv'] = leaderboard.as_csv(models)
  for name in ('trade_off', 'curves'):
    if name in pictures:
      files[f'{name}.png'] = pictures[name]['light']
  for name, panels in pictures['panels'].items():
    for number, panel in enumerate(panels, 1):
      files[f'panels_{name}_{number}.png'] = panel['png']
  files[PAGE] = page.build(results, pictures)
  return files


def write(output_dir: str, results: Mapping[str, Any]) -> list[str]:
  """Writes results.json and all that is made of it, each file whole.

  Args:
    output_dir: that holds the benchmark's folder of models.
    results: see `docs/benchmark.md`.

  Returns:
    The paths of what was written.
  """
  written = [os.path.join(output_dir, RESULTS)]
  scores.write_json(written[0], results)
  contents = _files(results, _pictures(output_dir, results))
  for name in tf.io.gfile.listdir(output_dir):
    # A picture of an earlier report would be taken for one of this.
    if _OURS.fullmatch(name) and name not in contents:
      tf.io.gfile.remove(os.path.join(output_dir, name))
  for name, content in contents.items():
    path = os.path.join(output_dir, name)
    files_lib.write(path, content)
    written.append(path)
  return written
