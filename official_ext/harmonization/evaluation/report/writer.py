"""Writes everything that people read: tables, plots, and the page."""

import os
from typing import Any, Dict, List, Mapping, Union

import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation import benchmark
from official_ext.harmonization.evaluation.report import curves
from official_ext.harmonization.evaluation.report import examples
from official_ext.harmonization.evaluation.report import figures
from official_ext.harmonization.evaluation.report import leaderboard
from official_ext.harmonization.evaluation.report import page
from official_ext.harmonization.evaluation.report import trade_off

PAGE = 'report.html'
RESULTS = 'results.json'


def _pictures(output_dir: str, results: Mapping[str, Any]) -> Dict[str, Any]:
  """All pictures that there is something to draw for."""
  models, twins = results['models'], results['twins']
  pictures: Dict[str, Any] = {'panels': {}}
  if trade_off.points(models, twins):
    pictures['trade_off'] = figures.both(
        lambda theme: trade_off.draw(models, twins, theme))
  if curves.of_models(models):
    pictures['curves'] = figures.both(
        lambda theme: curves.draw(models, twins, theme))
  ranked = leaderboard.ranked(models, leaderboard.columns(models))
  for name in results['experiments']:
    panels = examples.draw(output_dir, ranked, name)
    if panels:
      pictures['panels'][name] = panels
  return pictures


def _files(results, pictures) -> Dict[str, Union[str, bytes]]:
  """Contents of all files but results.json, by name; the page last."""
  models = results['models']
  files: Dict[str, Union[str, bytes]] = {}
  if models:
    files['leaderboard.txt'] = leaderboard.as_text(models) + '\n'
    files['leaderboard.md'] = leaderboard.as_markdown(models) + '\n'
    files['leaderboard.csv'] = leaderboard.as_csv(models)
  for name in ('trade_off', 'curves'):
    if name in pictures:
      files[f'{name}.png'] = pictures[name]['light']
  for name, panels in pictures['panels'].items():
    for number, panel in enumerate(panels, 1):
      files[f'panels_{name}_{number}.png'] = panel['png']
  files[PAGE] = page.build(results, pictures)
  return files


def write(output_dir: str, results: Mapping[str, Any]) -> List[str]:
  """Writes results.json and all that is made of it, each file whole.

  Args:
    output_dir: that holds the benchmark's folder of models.
    results: see `docs/benchmark.md`.

  Returns:
    The paths of what was written.
  """
  written = [os.path.join(output_dir, RESULTS)]
  benchmark.write_json(written[0], results)
  for name, content in _files(results, _pictures(output_dir, results)).items():
    path = os.path.join(output_dir, name)
    mode = 'wb' if isinstance(content, bytes) else 'w'
    with tf.io.gfile.GFile(f'{path}.partial', mode) as f:
      f.write(content)
    tf.io.gfile.rename(f'{path}.partial', path, overwrite=True)
    written.append(path)
  return written
