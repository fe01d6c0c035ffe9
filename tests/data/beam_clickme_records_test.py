# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that Apache Beam builds what the builder builds."""

# Bazel: tags = ["subprocess"]

import dataclasses
import json
import os
import pathlib
import sys
import unittest
import zipfile

import numpy as np
from PIL import Image
import tensorflow as tf

from testing import optional

# The command imports Beam if it finds it.
sys.path.append(optional.path('apache_beam'))

from official_ext.harmonization import ceiling
from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.data.records import beam_builder
from official_ext.harmonization.data.records import build_options
from official_ext.harmonization.data.records import clickme_builder
from official_ext.harmonization.data.records import shard_builder
from tests.data import building

Options = build_options.Options


@unittest.skipIf(
  beam_builder.beam is None,
  'apache-beam is not installed. To install it, run: make setup',
)
class BeamTest(building.Case):
  def both(self, **options):
    """Builds with and without Beam; returns both folders' contents."""
    plain = Options(output_dir=str(self.folder / 'plain'), **options)
    clickme_builder.build(plain)
    beam = dataclasses.replace(plain, output_dir=str(self.folder / 'beam'))
    beam_builder.build(beam)
    return (
      building.contents(plain.output_dir),
      building.contents(beam.output_dir),
    )

  def numbered(self):
    path = self.folder / 'all.zip'
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, 'w') as z:
      for i in range(12):
        label = i if i != 5 else -1
        z.writestr(
          f'{i}.npz',
          building.npz(
            image=rng.integers(0, 256, (8, 8, 3), np.uint8),
            heatmap=rng.integers(0, 256, (8, 8), np.uint8),
            label=label,
          ),
        )
    return str(path)

  def test_npz(self):
    plain, beam = self.both(npz=self.numbered(), images_per_shard=4, seed=2)
    self.assertLen(plain, 3 + 2)
    self.assertEqual(plain, beam)

  def test_clicks(self):
    images = self.folder / 'images'
    images.mkdir()
    lines = ['image_path,clicks,user_id']
    for i in range(6):
      Image.new('RGB', (30, 20), (i, 0, 0)).save(images / f'{i}.png')
      # The same participant again: which row is the first decides the map.
      lines += [
        f'{("x/{}.png", "x//{}.png")[r > 2].format(i)},'
        f'"[({i + r}, 5)]",u{r % 2}'
        for r in range(4)
      ]
    files = []
    for part, chunk in enumerate((lines, lines[:1] + lines[1:9])):
      files.append(self.folder / f'{part}.csv')
      files[-1].write_text('\n'.join(chunk))
    (self.folder / 'labels.csv').write_text(
      'image,label\n' + ''.join(f'{i},{i}\n' for i in range(6))
    )
    plain, beam = self.both(
      clicks=[str(f) for f in files],
      image_dir=str(images),
      shards=9,
      labels=str(self.folder / 'labels.csv'),
      strip_prefix='x',
      click_filter=map_options.ClickFilter(min_participants=2),
    )
    # More shards than images: some are there, and empty.
    self.assertLen(plain, 9 + 2)
    self.assertEqual(plain, beam)

  def test_folders_that_are_not_classes(self):
    text = 'image_path,clicks,user_id\nx/y/a/1.png,[],u\nx/y/b/1.png,[],u\n'
    (self.folder / 'clicks.csv').write_text(text)
    with self.assertRaisesRegex(ValueError, '--strip_prefix=x/y,'):
      beam_builder.build(
        Options(
          output_dir=str(self.folder / 'out'),
          image_dir=str(self.folder),
          clicks=[str(self.folder / 'clicks.csv')],
          shards=1,
        )
      )

  def test_whole_shards_are_not_built_again(self):
    options = Options(
      output_dir=str(self.folder / 'out'),
      npz=self.numbered(),
      images_per_shard=4,
    )
    beam_builder.build(options)
    before = building.contents(options.output_dir)
    first, second, _ = (
      os.path.join(options.output_dir, s)
      for s in shard_builder.names('train', 3)
    )
    os.remove(first)
    untouched = os.stat(second).st_mtime_ns
    beam_builder.build(options)
    self.assertEqual(building.contents(options.output_dir), before)
    self.assertEqual(os.stat(second).st_mtime_ns, untouched)

  def test_ceilings(self):
    rng = np.random.default_rng(0)
    for part in range(2):
      lines = ['image_path,clicks,user_id']
      for image in range(9):
        lines += [
          f'x/{image}.png,'
          f'"{rng.integers(0, 32, (6, 2)).tolist()}",u{part}{user}'
          for user in range(3)
        ]
      # A second row of the same participant, which does not count.
      lines.append('x/3.png,"[(1, 1)]",u00')
      (self.folder / f'{part}.csv').write_text('\n'.join(lines))
    plain = ceiling.Options(
      clicks=(str(self.folder / '?.csv'),),
      output_dir=str(self.folder / 'plain'),
      click_frame=32,
      size=16,
      images=8,
      strip_prefix='x',
      user_groups=3,
      settings=ceilings.Settings(iterations=3, group=3),
      workers=1,
    )
    ceiling.measure(plain)
    beam = dataclasses.replace(
      plain,
      output_dir=str(self.folder / 'beam'),
      beam=('--runner=DirectRunner',),
    )
    ceiling.measure(beam)

    def contents(options):
      folder = pathlib.Path(options.output_dir)
      self.assertCountEqual(os.listdir(folder), ['images.csv', 'ceilings.json'])
      results = json.loads((folder / 'ceilings.json').read_text())
      # The date and the digest that includes it differ.
      del results['created'], results['digest']
      return (folder / 'images.csv').read_text(), results

    self.assertEqual(contents(beam), contents(plain))
    self.assertLen(contents(beam)[1]['users']['without'], 3)

  def test_clicks_need_the_number_of_shards(self):
    csv = self.folder / 'c.csv'
    csv.write_text('image_path,clicks,user_id\n')
    with self.assertRaisesRegex(ValueError, '--shards'):
      beam_builder.build(
        Options(
          output_dir=str(self.folder / 'out'),
          clicks=[str(csv)],
          image_dir=str(self.folder),
        )
      )


if __name__ == '__main__':
  tf.test.main()
