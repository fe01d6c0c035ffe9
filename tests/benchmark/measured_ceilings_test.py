# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of reading ceilings and of matching them to images."""

import os

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.benchmark import measured_ceilings
from official_ext.harmonization.evaluation import scores


class ReadTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.get_temp_dir(), self.id())
    self.rows = [
      {
        'image': name,
        'participants': 5,
        **{m: i + j / 10 for j, m in enumerate(ceilings.MEASURES)},
        'note': '',
      }
      for i, name in enumerate(
        ('cat/a.JPEG', 'dog/a.JPEG', 'dog/b.png', 'flat.jpg')
      )
    ]
    self.rows[3]['split_half'] = np.nan
    self.content = {
      'maps': {'comparison_size': 224, 'width': 10.0, 'release_blur': False},
      'scores': {
        name: score.to_json()
        for name, score in ceilings.summarize(
          self.rows, ceilings.Settings(), preprocessing='none'
        ).items()
      },
    }

  def _read(self, **changes):
    self.path = os.path.join(self.folder, 'ceilings.json')
    scores.write_json(self.path, {**self.content, **changes})
    scores.write_rows(os.path.join(self.folder, 'images.csv'), self.rows)
    return measured_ceilings.read(self.path)

  def test_reads_what_was_written(self):
    found = self._read()
    self.assertEqual(
      (found.comparison_size, found.width, found.release_blur),
      (224, 10.0, False),
    )
    self.assertCountEqual(found.scores, (*ceilings.MEASURES, ceilings.UPPER))
    self.assertAllClose(
      found.scores[ceilings.UPPER].value,
      np.sqrt(np.mean([row['spearman_brown'] for row in self.rows])),
    )
    self.assertAllClose(found.images['dog/b']['floor'], 2.2)
    elsewhere = os.path.join(self.folder, 'other.csv')
    scores.write_rows(elsewhere, self.rows[:1])
    found = measured_ceilings.read(self.path, elsewhere)
    self.assertEqual(list(found.images), ['cat/a'])

  def test_cautions_where_participants_saw_several_images(self):
    self.assertRegex(self._read().caution, 'may have seen several images')
    self.assertRegex(
      self._read(repeated_participants=7).caution,
      '7 participants saw several images; .*--user_groups=50',
    )
    self.assertEmpty(self._read(repeated_participants=0).caution)
    means = {name: 0.5 for name in ceilings.MEASURES}
    users = {'everyone': means, 'without': {'0': means, '1': means}}
    self.assertEmpty(self._read(repeated_participants=7, users=users).caution)

  def test_images_are_matched_by_name(self):
    found = self._read()
    # Other extensions, without folders, and with further folders.
    people = found.of(
      ['cat/a.png', 'dog/a', 'b.JPEG', 'train/dog/b.png', 'x.png', 'flat.jpg']
    )
    self.assertAllClose(people['floor'], [0.2, 1.2, 2.2, 2.2, np.nan, 3.2])
    self.assertAllClose(people['split_half'], [0, 1, 2, 2, np.nan, np.nan])
    self.assertTrue(np.isnan(found.of(['fox/b.png', 'flat'])['floor'][0]))
    with self.assertRaisesRegex(ValueError, "'a.png'.*'cat/a'.*'dog/a'"):
      found.of(['a.png'])
    with self.assertRaisesRegex(ValueError, "2 images, such as 'x.png'"):
      found.of(['x.png', 'y.png'])
    with self.assertRaisesRegex(ValueError, 'records have no names'):
      found.of(['', ''])

  def test_other_maps_are_refused(self):
    found = self._read()
    found.require(comparison_size=224, width=10, release_blur=False)
    for changes, message in (
      ({'comparison_size': 64}, 'comparison_size=224; .*--size=64 --width=10'),
      ({'comparison_size': 0}, 'input size; .*--comparison_size=224.$'),
      ({'width': 5}, 'width=10.0; expected width=5'),
      ({'release_blur': True}, 'release_blur=False; .*--release_blur'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        found.require(
          **{
            'comparison_size': 224,
            'width': 10,
            'release_blur': False,
            **changes,
          }
        )

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, 'none.json does not exist'):
      measured_ceilings.read('none.json')
    with self.assertRaisesRegex(ValueError, 'is a folder; .*ceilings.json.$'):
      measured_ceilings.read(self.get_temp_dir())
    with self.assertRaisesRegex(ValueError, "'width' is missing"):
      self._read(maps={'comparison_size': 224})
    with self.assertRaisesRegex(ValueError, "ceilings.json: 'split_half'"):
      self._read(scores={})
    self.rows.append({**self.rows[0], 'image': 'cat/a.png'})
    with self.assertRaisesRegex(ValueError, "line 6 is a second row of 'cat/a"):
      self._read()
    self.rows = [{'image': 'x', 'split_half': 0.5}]
    with self.assertRaisesRegex(ValueError, 'images.csv: the column spearman'):
      self._read()


if __name__ == '__main__':
  tf.test.main()
