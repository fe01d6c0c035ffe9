# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the embedded dataset."""

# Bazel: tags = ["files"]

import colorsys
import json
import os
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.harmonization.data.records import digits
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.dataloaders import clickme_decoder

_HUES = [
  np.array(colorsys.hsv_to_rgb(c / 10, 1.0, 0.8)) * 255.0 for c in range(10)
]


def _read(folder, split):
  """Decoded records of a split."""
  files = sorted(
    tf.io.gfile.glob(os.path.join(folder, split, f'{split}-*.tfrecords'))
  )
  decode = clickme_decoder.Decoder().decode
  # Decoding in a graph is several times faster.
  return [*tf.data.TFRecordDataset(files).map(decode)]


def _decoy(image):
  """The class that the decoy names: the corner that is a pure colour."""
  corners = [image[r, c].astype(float) for r in (8, 248) for c in (8, 248)]
  distance = [
    [np.abs(corner - hue).max() for hue in _HUES] for corner in corners
  ]
  return int(np.argmin(np.min(distance, axis=0)))


class MakeDigitsTest(tf.test.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = os.path.join(tf.compat.v1.test.get_temp_dir(), 'digits')
    digits.make(
      cls.folder,
      train_images=60,
      val_images=20,
      ood_images=40,
      images_per_shard=25,
    )
    cls.records = {
      split: _read(cls.folder, split)
      for split in ('train', 'val', 'ood', 'swapped')
    }

  def test_format_is_the_releases(self):
    self.assertLen(self.records['train'], 60)
    self.assertLen(os.listdir(os.path.join(self.folder, 'train')), 3)
    for record in self.records['val']:
      self.assertEqual(record['problem'], b'')
      self.assertEqual(record['image'].shape, [256, 256, 3])
      self.assertEqual(record['heatmap'].shape, [256, 256, 1])
      self.assertBetween(int(record['label']), 0, 9)

  def test_map_is_the_ink(self):
    for record in self.records['val']:
      ink = record['heatmap'].numpy()[..., 0].astype(float)
      brightness = record['image'].numpy().min(-1).astype(float)
      self.assertGreater(brightness[ink > 250].mean(), 200.0)
      self.assertLess(brightness[ink < 5].mean(), 100.0)

  def test_decoy_names_the_class_as_often_as_asked(self):
    agree = {}
    for split in ('train', 'ood'):
      agree[split] = np.mean(
        [
          _decoy(r['image'].numpy()) == int(r['label'])
          for r in self.records[split]
        ]
      )
    # 60 draws at 0.7: four standard deviations.
    self.assertBetween(agree['train'], 0.7 - 0.24, 0.7 + 0.24)
    self.assertEqual(agree['ood'], 0.0)

  def test_swapped_is_val_with_another_decoy(self):
    pairs = list(zip(self.records['val'], self.records['swapped']))
    self.assertLen(pairs, 20)
    for val, swapped in pairs:
      self.assertEqual(val['label'], swapped['label'])
      self.assertAllEqual(val['heatmap'], swapped['heatmap'])
      self.assertNotEqual(
        _decoy(swapped['image'].numpy()), int(swapped['label'])
      )
      # A decoy of 42 pixels lies in three JPEG blocks of 16, whose colours run
      # a pixel further.
      change = np.abs(val['image'].numpy().astype(float) - swapped['image'])
      self.assertLessEqual((change.max(-1) > 20).mean(), (49 / 256) ** 2)

  def test_splits_share_no_digit(self):
    ranges = list(digits.IDENTITIES.values())
    taken = np.concatenate([np.arange(*r) for r in ranges])
    self.assertLen(set(taken), len(taken))

  def test_what_is_there_stays(self):
    path = os.path.join(self.folder, 'val', 'val-0.tfrecords')
    before = os.stat(path).st_mtime_ns
    same = dict(
      train_images=60, val_images=20, ood_images=40, images_per_shard=25
    )
    self.assertFalse(digits.make(self.folder, **same))
    with self.assertRaisesRegex(ValueError, '--overwrite'):
      digits.make(self.folder, **{**same, 'seed': 1})
    self.assertEqual(os.stat(path).st_mtime_ns, before)

  def test_the_seed_decides(self):
    folders = [os.path.join(self.get_temp_dir(), n) for n in 'abc']
    for folder, seed in zip(folders, (1, 1, 2)):
      digits.make(folder, 2, 2, 2, seed=seed)
    first, again, other = (_read(f, 'train')[0]['image'] for f in folders)
    self.assertAllEqual(first, again)
    self.assertNotAllEqual(first, other)

  def test_an_unfinished_dataset_is_not_taken_for_a_whole_one(self):
    folder = os.path.join(self.get_temp_dir(), 'killed')
    with mock.patch.object(
      record_writer, 'clickme_example', side_effect=OSError
    ):
      with self.assertRaises(OSError):
        digits.make(folder, 2, 2, 2)
    self.assertEmpty(tf.io.gfile.glob(os.path.join(folder, '[a-z]*', '*')))
    self.assertTrue(digits.make(folder, 2, 2, 2))
    with open(os.path.join(folder, 'manifest.json')) as f:
      self.assertEqual(json.load(f)['train_images'], 2)

  def test_killed_while_it_replaces_another_dataset(self):
    folder = os.path.join(self.get_temp_dir(), 'replaced')
    digits.make(folder, 2, 2, 2)
    open_shard = record_writer.open_shard
    with mock.patch.object(
      record_writer,
      'open_shard',
      lambda path: open_shard(path) if 'train' in path else _stop(),
    ):
      with self.assertRaises(KeyboardInterrupt):
        digits.make(folder, 2, 2, 2, seed=1, overwrite=True)
    # The shards of seed 1 are not those of seed 0, whose manifest was there.
    self.assertTrue(digits.make(folder, 2, 2, 2))
    other = os.path.join(self.get_temp_dir(), 'other')
    digits.make(other, 2, 2, 2)
    self.assertAllEqual(
      _read(folder, 'train')[0]['image'], _read(other, 'train')[0]['image']
    )
    with self.assertRaisesRegex(ValueError, 'seed was 0 and is now 1'):
      digits.make(folder, 2, 2, 2, seed=1)

  def test_shards_of_others_are_not_removed(self):
    folder = os.path.join(self.get_temp_dir(), 'release')
    path = os.path.join(folder, 'train', 'train-0.tfrecords')
    os.makedirs(os.path.dirname(path))
    with open(path, 'w') as f:
      f.write('of the release')
    with self.assertRaisesRegex(ValueError, 'train-0.tfrecords, which'):
      digits.make(folder, 2, 2, 2)
    with open(path) as f:
      self.assertEqual(f.read(), 'of the release')


def _stop():
  raise KeyboardInterrupt


class ShardTest(tf.test.TestCase):
  def test_is_whole_or_absent(self):
    path = os.path.join(self.get_temp_dir(), 'shard')
    with self.assertRaises(KeyError):
      with record_writer.open_shard(path) as writer:
        writer.write(b'x')
        raise KeyError
    self.assertEmpty(tf.io.gfile.glob(path + '*'))


if __name__ == '__main__':
  tf.test.main()
