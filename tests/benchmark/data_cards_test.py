# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the data cards."""

import dataclasses
import os
import shutil
import tempfile

from absl.testing import absltest

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import data_cards
from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import release_layout
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores
from tests.benchmark import report_results as made


class OriginTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp()
    self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
    self.shard = os.path.join(self.folder, 'val-0.tfrecords')
    files.write(self.shard, b'records')

  def _describe(self, source, **facts):
    manifest.write(
      self.folder,
      source=source,
      shards=[manifest.describe(self.shard, 2)],
      **facts,
    )

  def _origin(self, **options):
    return data_cards.of_records([self.shard], manifest.sha256, **options)

  def test_the_release_is_recognized_by_its_contents(self):
    self._describe(f'{release_layout.BASE_URL}/val')
    found = self._origin()
    self.assertIn('recognized by sizes and SHA-256', found.origin)
    self.assertIn("ImageNet's terms", found.licence)
    files.write(self.shard, b'RECORDS')
    found = self._origin()
    self.assertIn('the files differ from it', found.origin)
    self.assertEqual(found.licence, data_cards.NOT_RECORDED)

  def test_the_digits(self):
    split = os.path.join(self.folder, 'val')
    os.mkdir(split)
    files.write_json(
      os.path.join(self.folder, manifest.FILE),
      {'train_images': 1, 'ood_images': 1, 'decoy_strength': 0.9, 'seed': 0},
    )
    path = os.path.join(split, 'val-0.tfrecords')
    found = data_cards.of_records([path], manifest.sha256)
    self.assertIn('digits of make train', found.origin)
    self.assertIn('BSD-3-Clause', found.licence)

  def test_other_records_and_the_names_of_their_classes(self):
    self.assertIn('no manifest.json', self._origin().origin)
    self._describe(
      'maps/*.png', class_names=['cat', 'dog'], settings={'label_offset': 1}
    )
    found = self._origin(label_offset=-1)
    self.assertIn('maps/*.png', found.origin)
    self.assertIn(data_cards.NOT_RECORDED, found.licence)
    self.assertEqual(found.class_names, {0: 'cat', 1: 'dog'})

  def test_stimuli_and_responses(self):
    stimuli = [
      stimulus_files.Stimulus(f'{i}_{level}.png', level, f'dog{i}', 'animal')
      for i in range(2)
      for level in (0, 100)
    ]
    trials = [
      human_trials.Trial(p, 0, 'dog0', 'animal', 'vehicle') for p in 'aab'
    ]
    found = data_cards.of_stimuli(self.folder, stimuli, trials)
    self.assertEqual([*found.counts.values()], [4, 2, 2, 3])
    self.assertIn('not recorded: no stimuli.csv', found.origin)
    files.write(os.path.join(self.folder, 'stimuli.csv'), b'')
    found = data_cards.of_stimuli(self.folder, stimuli, [])
    self.assertEqual([*found.counts.values()], [4, 2])
    self.assertIn('make_psychophysics_stimuli', found.origin)

  def test_numbers_come_from_the_results(self):
    scores.write_rows(
      os.path.join(self.folder, 'x.csv'),
      [
        {'label': 3 * (i % 2), 'influence': 0.1, 'map_extent': extent}
        for i, extent in enumerate((0.1, float('nan'), 0.3))
      ],
    )
    result = made.result(
      {'spearman': 0.2},
      table='x.csv',
      identity={'data': {'files': 2, 'sha256': 'ab'}},
    )
    models = [made.model('one', clickme=result)]
    found = data_cards.card(None, models, 'clickme', self.folder)
    self.assertEqual((found.images, found.maps, found.classes), (3, 2, 2))
    self.assertEqual(found.sha256, {'files (2)': 'ab'})
    self.assertEqual(found.origin, data_cards.NOT_RECORDED)
    # A twin may use a sample of the images.
    models = [
      dataclasses.replace(
        models[0], settings={'spec': 'x:y', 'random_twin_of': 'one'}
      )
    ]
    found = data_cards.card(None, models, 'clickme', self.folder)
    self.assertEqual((found.images, found.sha256), (None, {}))
    stimuli = {'stimuli': {'files': 5, 'sha256': 'cd'}, 'human_trials': None}
    models = [
      made.model(
        'one',
        clickme=dataclasses.replace(
          result, table='none.csv', identity={'data': stimuli}
        ),
      )
    ]
    found = data_cards.card(None, models, 'clickme', self.folder)
    self.assertEqual(found.sha256, {'stimuli (5)': 'cd'})


if __name__ == '__main__':
  absltest.main()
