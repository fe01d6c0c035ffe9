# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of what stimuli show: region growth, scrambled ground, names."""

import pathlib
import tempfile
import unittest

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy import sparse
from scipy import stats
from scipy.sparse import csgraph

from official_ext.harmonization.data.stimuli import reveal
from official_ext.harmonization.data.stimuli import stimulus_files


def _blob(height=24, width=30, seed=0):
  """A smooth map whose far corner is 0."""
  rng = np.random.default_rng(seed)
  values = ndimage.gaussian_filter(rng.random((height, width)), 3)
  values -= np.quantile(values, 0.3)
  return np.maximum(values, 0.0)


def _shortest_path_order(heatmap, waits, connectivity):
  """The order by scipy's Dijkstra over an explicit graph: another way."""
  height, width = heatmap.shape
  rows, columns, values = [], [], []
  for y in range(height):
    for x in range(width):
      for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
          if (dy, dx) == (0, 0) or connectivity == 4 and dy and dx:
            continue
          if 0 <= y + dy < height and 0 <= x + dx < width:
            rows.append(y * width + x)
            columns.append((y + dy) * width + x + dx)
            values.append(waits[y + dy, x + dx])
  graph = sparse.csr_matrix((values, (rows, columns)))
  return np.argsort(csgraph.dijkstra(graph, indices=heatmap.argmax()))


class GrowthTest(unittest.TestCase):
  def test_order_is_that_of_scipys_shortest_paths(self):
    heatmap = _blob(12, 15)
    for connectivity in (4, 8):
      waits = np.random.default_rng(3).standard_exponential(
        heatmap.shape
      ) / np.maximum(heatmap / heatmap.max(), reveal.FLOOR)
      found = reveal.growth_order(
        heatmap, np.random.default_rng(3), connectivity
      )
      np.testing.assert_array_equal(
        found, _shortest_path_order(heatmap, waits, connectivity)
      )

  def test_every_pixel_once_and_the_maximum_first(self):
    heatmap = _blob()
    for seed in range(5):
      order = reveal.growth_order(heatmap, np.random.default_rng(seed))
      self.assertEqual(order[0], heatmap.argmax())
      np.testing.assert_array_equal(np.sort(order), np.arange(heatmap.size))

  def test_regions_are_contiguous(self):
    for connectivity, structure in ((4, None), (8, np.ones((3, 3)))):
      heatmap = _blob(seed=connectivity)
      order = reveal.growth_order(
        heatmap, np.random.default_rng(0), connectivity
      )
      for count in (1, 2, 10, 100, 300, 700):
        region = np.zeros(heatmap.size, bool)
        region[order[:count]] = True
        self.assertEqual(
          ndimage.label(region.reshape(heatmap.shape), structure)[1], 1
        )

  def test_a_neighbour_is_drawn_in_proportion_to_its_value(self):
    heatmap = np.array([[0.0, 3.0, 0.0], [1.0, 9.0, 4.0], [0.0, 2.0, 0.0]])
    first = [
      reveal.growth_order(heatmap, np.random.default_rng(seed))[1]
      for seed in range(4000)
    ]
    counts = [first.count(place) for place in (1, 3, 5, 7)]
    expected = 4000 * np.array([3, 1, 4, 2]) / 10
    self.assertGreater(stats.chisquare(counts, expected).pvalue, 1e-3)

  def test_waiting_does_not_make_a_pixel_likelier(self):
    # A row 1 8 [9] 4 2: whichever is second, the third is drawn anew.
    heatmap = np.array([[1.0, 8.0, 9.0, 4.0, 2.0]])
    thirds = {1: [], 3: []}
    for seed in range(6000):
      order = reveal.growth_order(heatmap, np.random.default_rng(seed))
      thirds[order[1]].append(order[2])
    for second, weights in ((1, {0: 1.0, 3: 4.0}), (3, {1: 8.0, 4: 2.0})):
      counts = [thirds[second].count(place) for place in weights]
      expected = (
        np.array([*weights.values()])
        * len(thirds[second])
        / sum(weights.values())
      )
      self.assertGreater(stats.chisquare(counts, expected).pvalue, 1e-3)

  def test_what_people_left_out_comes_last(self):
    heatmap = np.zeros((20, 20))
    heatmap[5:9, 5:12] = np.arange(1, 29).reshape(4, 7)
    order = reveal.growth_order(heatmap, np.random.default_rng(0))
    self.assertEqual({*order[:28]}, {*np.flatnonzero(heatmap)})

  def test_islands_are_reached(self):
    heatmap = np.zeros((10, 10))
    heatmap[1, 1], heatmap[8, 8] = 2.0, 1.0
    order = reveal.growth_order(heatmap, np.random.default_rng(0)).tolist()
    self.assertEqual(order[0], 11)
    # Once a pixel lies beside the island, the island is next.
    beside = min(order.index(place) for place in (78, 98, 87, 89))
    self.assertEqual(order[beside + 1], 88)

  def test_seeds(self):
    heatmap = _blob()
    first, again, other = (
      reveal.growth_order(heatmap, np.random.default_rng(seed)).tolist()
      for seed in (0, 0, 1)
    )
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)

  def test_refusals(self):
    rng = np.random.default_rng(0)
    for heatmap in (
      np.zeros((3, 3)),
      -np.eye(3),
      np.full((3, 3), np.nan),
      np.full((3, 3), np.inf),
      np.eye(3)[None],
    ):
      with self.assertRaisesRegex(ValueError, 'a map'):
        reveal.growth_order(heatmap, rng)
    with self.assertRaisesRegex(ValueError, '3 of 9 values are NaN'):
      reveal.growth_order(np.where(np.eye(3) > 0, np.nan, 1.0), rng)
    with self.assertRaisesRegex(ValueError, 'connectivity'):
      reveal.growth_order(np.eye(3), rng, 6)


class PictureTest(unittest.TestCase):
  def test_counts(self):
    self.assertEqual(
      [
        reveal.revealed_pixels(p, 1000)
        for p in (0.01, 1.0, 1.58489, 10.0, 100.0)
      ],
      [1, 10, 16, 100, 1000],
    )

  def test_right_pixels_are_shown(self):
    image = np.random.default_rng(0).integers(0, 256, (12, 14)).astype(float)
    order = np.random.default_rng(1).permutation(image.size)
    ground = np.full(image.shape, 300.0)
    shown = reveal.compose(image, ground, order, 40)
    self.assertEqual(shown.dtype, np.uint8)
    place = np.zeros(image.size, bool)
    place[order[:40]] = True
    place = place.reshape(image.shape)
    np.testing.assert_array_equal(shown[place], image[place])
    self.assertTrue((shown[~place] == 255).all())
    np.testing.assert_array_equal(
      reveal.compose(image, ground, order, image.size), image
    )

  def test_grey_is_pillows(self):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    np.testing.assert_allclose(
      reveal.grey(pixels),
      np.asarray(Image.fromarray(pixels).convert('L')),
      atol=1.0,
    )

  def test_ground_keeps_amplitudes_and_mean(self):
    for shape in ((16, 16), (15, 18), (7, 9)):
      image = np.random.default_rng(0).random(shape) * 255
      ground = reveal.scramble_phase(image, np.random.default_rng(1))
      self.assertTrue(np.isrealobj(ground))
      np.testing.assert_allclose(
        np.abs(np.fft.fft2(ground)), np.abs(np.fft.fft2(image)), atol=1e-8
      )
      self.assertAlmostEqual(ground.mean(), image.mean())
      self.assertAlmostEqual(ground.std(), image.std())
      # Nothing of the picture is left.
      self.assertLess(
        abs(np.corrcoef(ground.ravel(), image.ravel())[0, 1]), 0.3
      )


class NameTest(unittest.TestCase):
  def test_percents(self):
    self.assertEqual(
      [round(p, 2) for p in stimulus_files.PERCENTS],
      [1.0, 1.58, 2.51, 3.98, 6.31, 10.0, 15.85, 25.12, 39.81, 63.1, 100.0],
    )
    self.assertEqual(stimulus_files.percent(20), stimulus_files.PERCENTS[2])
    self.assertEqual(stimulus_files.percent(stimulus_files.FULL), 100.0)

  def test_names_there_and_back(self):
    for level in stimulus_files.LEVELS:
      for image_class in ('animal', 'great_white-shark'):
        for digit in (0, 12):
          name = stimulus_files.file_name(level, image_class, digit)
          self.assertEqual(
            stimulus_files.parse(name),
            (level, image_class, f'{image_class}{digit}'),
          )
    self.assertEqual(
      stimulus_files.file_name(200, 'panther', 3), 'full_panther3.png'
    )

  def test_what_is_no_name(self):
    for name in (
      '40_panther.png',
      'panther3.png',
      '40_3.png',
      '45_panther3.png',
      '110_panther3.png',
      '40_panther3.jpg',
      '-10_panther3.png',
    ):
      with self.assertRaises(ValueError, msg=name):
        stimulus_files.parse(name)

  def test_targets(self):
    for text, target in (
      ('Animal', 'animal'),
      ('non-animal', 'vehicle'),
      ('vehicles', ''),
      ('', ''),
    ):
      self.assertEqual(stimulus_files.parse_target(text), target)


class FolderTest(unittest.TestCase):
  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def write(self, *names):
    for name in names:
      path = self.folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()

  def find(self, classes=None):
    return stimulus_files.find(str(self.folder), classes)

  def test_targets_of_folders_names_and_tables(self):
    self.write(
      'a/animal/full_x1.png',
      'vehicle/10_y1.png',
      '0_animal1.png',
      '30_great_white_shark2.png',
      '30_school bus1.png',
      '50_dog1.png',
      'note.txt',
    )
    found = {(s.image, s.level): s.target for s in self.find({'Dog': 'animal'})}
    self.assertEqual(
      found,
      {
        ('x1', 200): 'animal',
        ('y1', 10): 'vehicle',
        ('animal1', 0): 'animal',
        ('great_white_shark2', 30): 'animal',
        ('school bus1', 30): 'vehicle',
        ('dog1', 50): 'animal',
      },
    )

  def test_refusals(self):
    with self.assertRaisesRegex(ValueError, 'holds no stimuli'):
      self.find()
    self.write('10_dog1.png')
    with self.assertRaisesRegex(ValueError, "10_dog1.png.*'dog'"):
      self.find()
    self.write('dog.png')
    with self.assertRaisesRegex(ValueError, 'dog.png is not a stimulus'):
      self.find({'dog': 'animal'})
    (self.folder / 'dog.png').unlink()
    self.write('other/10_dog1.png')
    with self.assertRaisesRegex(ValueError, 'same stimulus'):
      self.find({'dog': 'animal'})


if __name__ == '__main__':
  unittest.main()
