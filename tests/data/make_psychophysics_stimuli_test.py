# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the tool that makes psychophysics stimuli."""

# Bazel: tags = ["subprocess"]

import contextlib
import csv
import io
import pathlib
import tempfile
import unittest

import numpy as np
from PIL import Image
from scipy import ndimage

from official_ext.harmonization.benchmark.psychophysics import (
  scoring as psychophysics,
)
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.stimuli import reveal
from official_ext.harmonization.data.stimuli import stimulus_builder
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.data.stimuli import stimulus_options
from official_ext.harmonization.data.stimuli import stimulus_targets
from tests import samples
from tests.benchmark import experiment

_SIZE = 32


def _pair(seed, height=_SIZE, width=_SIZE):
  """An image and a map, uint8, with one peak."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  heatmap = ndimage.gaussian_filter(rng.random((height, width)), 4)
  heatmap = np.uint8(255 * (heatmap - heatmap.min()) / np.ptp(heatmap))
  return image, heatmap


def _png(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


class Case(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.out = self.folder / 'out'

  def write(self, name, content):
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

  def pairs(self, *names, **shape):
    for seed, name in enumerate(names):
      image, heatmap = _pair(seed, **shape)
      self.write(f'images/{name}.png', _png(image))
      self.write(f'maps/{name}.png', _png(heatmap))

  def make(self, **options):
    if 'records' not in options:
      options = {
        'image_dir': str(self.folder / 'images'),
        'map_dir': str(self.folder / 'maps'),
        **options,
      }
    return stimulus_builder.make(
      stimulus_options.Options(
        output_dir=str(self.out), **{'size': _SIZE, **options}
      )
    )

  def rows(self, name=stimulus_builder.LIST):
    with open(self.out / name) as f:
      return list(csv.DictReader(f))

  def pixels(self, file):
    with Image.open(self.out / file) as picture:
      self.assertEqual(picture.mode, 'L')
      return np.asarray(picture).astype(int)

  def contents(self):
    return {
      p.relative_to(self.out).as_posix(): p.read_bytes()
      for p in self.out.rglob('*')
      if p.is_file()
    }


class FolderTest(Case):
  def test_what_is_shown(self):
    self.pairs('animal/a', 'vehicle/b')
    self.assertEqual(self.make(), {'animal': 1, 'vehicle': 1})
    rows = self.rows()
    self.assertEqual(len(rows), 24)
    files = sorted(p for p in self.contents() if p.endswith('.png'))
    self.assertEqual(files, sorted(r['file'] for r in rows))
    image, heatmap = (
      np.asarray(Image.open(self.folder / f'{d}/animal/a.png'))
      for d in ('images', 'maps')
    )
    grey = np.round(reveal.grey(image))
    before = np.zeros(grey.shape, bool)
    for row in rows[:12]:
      level = stimulus_files.parse_level(row['level'])
      shown = self.pixels(row['file']) == grey
      self.assertEqual(
        int(row['pixels']),
        max(1, round(stimulus_files.percent(level) / 100 * _SIZE**2)),
      )
      # On the ground a pixel is right by chance, about one in 200.
      self.assertGreaterEqual(shown.sum(), int(row['pixels']))
      self.assertLessEqual(shown.sum(), int(row['pixels']) + 20)
      self.assertTrue(shown.ravel()[heatmap.argmax()])
      self.assertTrue(shown[before].all() or level == 0)
      before |= shown
    np.testing.assert_array_equal(self.pixels('animal/full_animal0.png'), grey)

  def test_ground_is_the_same_at_all_levels_and_differs_between_images(self):
    self.pairs('animal/a', 'animal/c', 'vehicle/b')
    image, heatmap = _pair(0)
    for name in ('a', 'c'):  # Equal but for their names.
      self.write(f'images/animal/{name}.png', _png(image))
      self.write(f'maps/animal/{name}.png', _png(heatmap))
    self.make()
    first, second, other = (
      self.pixels(f'animal/{name}.png')
      for name in ('0_animal0', '10_animal0', '0_animal1')
    )
    self.assertGreater((first == second).mean(), 0.98)
    self.assertLess((first == other).mean(), 0.2)

  def test_the_evaluator_reads_it(self):
    self.pairs('cat/1', 'cat/2', 'dog/1', 'car/1', 'car/2', 'tree/1')
    totals = self.make(animal_classes=['cat', 'dog'], vehicle_classes=['car'])
    self.assertEqual(
      totals,
      {'animal': 3, 'vehicle': 2, 'class is neither animal nor vehicle': 1},
    )
    self.assertEqual(self.rows('left_out.csv')[0]['name'], 'tree/1')
    found = stimulus_files.find(str(self.out))
    self.assertEqual(
      {(s.image, s.target) for s in found},
      {
        ('cat0', 'animal'),
        ('cat1', 'animal'),
        ('dog0', 'animal'),
        ('car0', 'vehicle'),
        ('car1', 'vehicle'),
      },
    )
    self.assertEqual(len(found), 60)
    adapter = experiment.FakeAdapter(found, [True] * 60)
    adapter.logits = lambda x: np.eye(1000)[np.full(len(x), 5)]
    result = psychophysics.evaluate(adapter, str(self.out), resamples=10)
    np.testing.assert_allclose(result.curves['model'].accuracy, 0.6)

  def test_central_square_of_image_and_map(self):
    image = np.zeros((_SIZE, 3 * _SIZE, 3), np.uint8)
    heatmap = np.zeros((_SIZE // 2, 3 * _SIZE // 2), np.uint8)
    image[10:14, _SIZE + 20 : _SIZE + 24] = 255
    heatmap[5:7, (_SIZE + 20) // 2 : (_SIZE + 24) // 2] = 200
    bright, values = stimulus_builder.square(image, heatmap, _SIZE)
    self.assertEqual(bright.shape, (_SIZE, _SIZE))
    np.testing.assert_allclose(ndimage.center_of_mass(bright), (11.5, 21.5))
    np.testing.assert_allclose(
      ndimage.center_of_mass(values), (11.5, 21.5), atol=0.01
    )

  def test_images_are_shown_as_people_see_them(self):
    self.pairs('animal/a', 'animal/b', 'vehicle/c')
    deep = np.uint16(np.arange(_SIZE**2).reshape(_SIZE, _SIZE) * 64)
    self.write('images/animal/a.png', _png(deep))
    exif = Image.Exif()
    exif[0x112] = 3
    image = Image.open(self.folder / 'images/animal/b.png')
    image.save(self.folder / 'images/animal/b.png', exif=exif)
    # A map of half precision, and one that is tiny.
    heatmap = _pair(0)[1]
    for name, values in (('a', np.float16(heatmap)), ('c', heatmap * 1e-50)):
      (
        self.folder / f'maps/{"vehicle" if name == "c" else "animal"}'
        f'/{name}.png'
      ).unlink()
      np.save(
        self.folder / f'maps/{"vehicle" if name == "c" else "animal"}'
        f'/{name}.npy',
        values,
      )
    totals = self.make()
    self.assertEqual((totals['animal'], totals['vehicle']), (2, 1))
    names = {r['source']: r['image'] for r in self.rows()}
    shown = self.pixels(f'animal/full_{names["animal/a"]}.png')
    np.testing.assert_allclose(shown, np.round(deep / 257.0), atol=1)
    self.assertAlmostEqual(shown.mean(), 127.4, delta=0.5)
    np.testing.assert_array_equal(
      self.pixels(f'animal/full_{names["animal/b"]}.png'),
      np.round(reveal.grey(np.rot90(image, 2))),
    )

  def test_percent_of_the_map(self):
    self.pairs('animal/a', 'vehicle/b')
    heatmap = np.zeros((_SIZE, _SIZE), np.uint8)
    heatmap[4:14, 4:14] = np.arange(1, 101).reshape(10, 10)
    self.write('maps/animal/a.png', _png(heatmap))
    self.make(percent_of='map')
    pixels = {
      r['level']: int(r['pixels'])
      for r in self.rows()
      if r['target'] == 'animal'
    }
    self.assertEqual(
      (pixels['50'], pixels['100'], pixels['full']), (10, 100, _SIZE**2)
    )
    image = np.asarray(Image.open(self.folder / 'images/animal/a.png'))
    shown = self.pixels('animal/100_animal0.png') == np.round(
      reveal.grey(image)
    )
    self.assertTrue(shown[heatmap > 0].all())
    self.assertLess(shown[heatmap == 0].mean(), 0.05)

  def test_resumed_is_the_same(self):
    self.pairs('animal/a', 'animal/c', 'vehicle/b')
    self.make()
    whole = self.contents()
    kept = self.out / 'animal/full_animal0.png'
    written = kept.stat().st_mtime_ns
    # As if it had been killed in the second image.
    (self.out / stimulus_builder.LIST).unlink()
    for level in ('50', '100', 'full'):
      (self.out / f'animal/{level}_animal1.png').unlink()
    (self.out / 'vehicle/0_vehicle0.png.partial').write_bytes(b'x')
    self.make()
    self.assertEqual(
      {k: v for k, v in self.contents().items() if not k.endswith('.partial')},
      whole,
    )
    self.assertEqual(kept.stat().st_mtime_ns, written)

  def test_other_settings_are_refused(self):
    self.pairs('animal/a', 'vehicle/b')
    self.make()
    with self.assertRaisesRegex(ValueError, 'seed was 0 and is now 1'):
      self.make(seed=1)
    with self.assertRaisesRegex(ValueError, 'percent_of'):
      self.make(percent_of='map')
    self.pairs('animal/a', 'vehicle/b', 'vehicle/c')
    with self.assertRaisesRegex(ValueError, 'input'):
      self.make()

  def test_bad_images_are_left_out_and_named(self):
    self.pairs('animal/a', 'animal/b', 'animal/c', 'vehicle/d')
    self.write('maps/animal/a.png', _png(np.zeros((8, 8), np.uint8)))
    self.write('images/animal/b.png', b'no picture')
    totals = self.make()
    self.assertEqual(
      totals,
      {'animal': 1, 'vehicle': 1, 'map not usable': 1, 'image not usable': 1},
    )
    self.assertEqual(
      {r['name'] for r in self.rows('left_out.csv')}, {'animal/a', 'animal/b'}
    )
    self.assertTrue((self.out / 'animal/full_animal0.png').exists())

  def test_images_per_target(self):
    self.pairs(*(f'{t}/{i}' for t in stimulus_files.TARGETS for i in range(4)))
    self.assertEqual(
      self.make(images_per_target=2), {'animal': 2, 'vehicle': 2}
    )
    self.assertEqual(len(self.rows()), 48)

  def test_what_is_missing_is_said(self):
    for options, word in (
      ({}, 'image_dir'),
      ({'records': ['x*'], 'map_dir': 'y'}, '--records.*--map_dir'),
      ({'records': [str(self.folder / 'x*')]}, 'matches no file'),
    ):
      with self.assertRaisesRegex(ValueError, word):
        stimulus_builder.make(
          stimulus_options.Options(
            output_dir=str(self.out),
            **{
              'map_dir': '' if 'records' in options else 'maps',
              **options,
            },
          )
        )
    with self.assertRaisesRegex(ValueError, 'connectivity=6'):
      self.make(connectivity=6)
    with self.assertRaisesRegex(ValueError, 'output_dir'):
      stimulus_builder.make(stimulus_options.Options())


class RecordsTest(Case):
  def test_clickme_and_canonical_records_make_the_same(self):
    pairs = [_pair(seed) for seed in range(4)]
    labels = (5, 700, 397, 398)
    for kind, serialize in (
      ('clickme', record_writer.clickme_example),
      (
        'canonical',
        lambda i, h, label: record_writer.canonical_example(
          i, label, 'x.png', h, 'pictures'
        ),
      ),
    ):
      path = str(self.folder / 'records')
      with record_writer.open_shard(path) as writer:
        for (image, heatmap), label in zip(pairs, labels):
          writer.write(serialize(_png(image), _png(heatmap), label))
        writer.write(b'no record')
        if kind == 'canonical':
          writer.write(record_writer.canonical_example(_png(pairs[0][0]), 5))
      self.out = self.folder / kind
      totals = self.make(
        records=[path], map_decoder=kind, animal_classes=['0-397']
      )
      self.assertEqual(totals['animal'], 2)
      self.assertEqual(totals['vehicle'], 2)
      self.assertEqual(totals['bad record'], 1)
      self.assertEqual(
        totals.get('image without a map', 0), int(kind == 'canonical')
      )
      self.assertEqual(self.rows('left_out.csv')[0]['name'], 'records:4')
    self.out = self.folder / 'other'
    totals = self.make(
      records=[path], map_decoder='clickme', animal_classes=['0-397']
    )
    self.assertEqual(totals['bad record'], 6)
    self.assertIn(
      'did you mean --map_decoder=canonical',
      self.rows('left_out.csv')[0]['detail'],
    )
    found = [
      {p.name: p.read_bytes() for p in (self.folder / k).rglob('*.png')}
      for k in ('clickme', 'canonical')
    ]
    self.assertEqual(len(found[0]), 48)
    self.assertEqual(found[0], found[1])


class TargetsTest(unittest.TestCase):
  def test_numbers_ranges_and_names(self):
    targets = stimulus_targets.Targets(
      ['0-2', 'sea bird'], ['5'], ['a', 'b', 'c', 'sea bird', 'e', 'Car 5']
    )
    self.assertEqual(
      [targets.of(i) for i in range(7)],
      ['animal', 'animal', 'animal', 'animal', '', 'vehicle', ''],
    )
    self.assertEqual(
      [targets.image_class(i) for i in (3, 5)], ['seabird', 'car']
    )
    others = stimulus_targets.Targets(['1'], [])
    self.assertEqual(
      [others.of(i) for i in (0, 1, 9)], ['vehicle', 'animal', 'vehicle']
    )
    self.assertEqual(others.image_class(9), 'vehicle')

  def test_refusals(self):
    for animals, vehicles, word in (
      ([], [], 'animal_classes is missing'),
      (['lion'], [], "'lion'"),
      (['0-5'], ['5'], r'\[5\]'),
      (['1-x'], [], "'1-x'"),
      (
        ['4-0'],
        [],
        '--animal_classes holds 4-0, a range that ends before it '
        'begins; .*Give 0-4',
      ),
      (['0'], ['0-1'], 'Remove them from one'),
    ):
      with self.assertRaisesRegex(ValueError, word):
        stimulus_targets.Targets(animals, vehicles, ['cat', 'car'])


class WarningsTest(Case):
  def test_shortfall_and_unequal_numbers(self):
    self.pairs('animal/a', 'animal/b', 'vehicle/c')

    def said(number):
      self.out = self.folder / f'out{number}'
      with contextlib.redirect_stdout(io.StringIO()) as text:
        self.make(images_per_target=number)
      return text.getvalue()

    text = said(200)
    self.assertRegex(
      text,
      'WARNING: --images_per_target=200.*fewer.* 2 of '
      'animals and 1 of vehicles',
    )
    self.assertRegex(text, 'WARNING: .*differ.*--images_per_target=1 makes')
    self.assertRegex(said(0), 'differ')
    self.assertNotIn('WARNING', said(1))


class SamplesTest(Case):
  def test_a_tenth_of_the_pixels_shows_most_of_what_people_found(self):
    maps = {}
    for name, image, heatmap in samples.pairs():
      folder = name.split('_')[0]
      self.write(f'images/{folder}/{name}.png', image)
      self.write(f'maps/{folder}/{name}.png', heatmap)
      maps[f'{folder}/{name}'] = (image, heatmap)
    totals = self.make(
      size=64, animal_classes=['teddybear', 'apple', 'broccoli', 'orange']
    )
    self.assertEqual(totals['animal'] + totals['vehicle'], len(maps))
    shares = []
    for row in self.rows():
      if row['level'] == '50':
        image, heatmap = (
          np.asarray(Image.open(io.BytesIO(content)))
          for content in maps[row['source']]
        )
        values = stimulus_builder.square(image, heatmap, 64)[1]
        full = self.pixels(row['file'].replace('50_', 'full_'))
        shown = self.pixels(row['file']) == full
        shares.append(values[shown].sum() / values.sum())
    self.assertGreater(min(shares), 0.2)
    self.assertGreater(np.median(shares), 0.4)


if __name__ == '__main__':
  unittest.main()
