# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the way from clicks to maps, against scipy and closed forms."""

import os

import numpy as np
from scipy import ndimage
import tensorflow as tf

from official_ext.harmonization.data.maps import click_points
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import map_options

_ALL = map_options.ClickFilter(min_participants=1)


def _disc(width):
  """A flat disc that sums to one, as written down."""
  radius = width // 2
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
  disc = (y**2 + x**2 <= radius**2).astype(float)
  return disc / disc.sum()


def _rows(*points, **fields):
  """One row for each participant's points."""
  return [
    clicks.ParticipantClicks(f'user{i}', repr(p), **fields)
    for i, p in enumerate(points)
  ]


class BlurTest(tf.test.TestCase):
  def test_disc_twice_is_scipys(self):
    rng = np.random.default_rng(0)
    # Short sides of 256, 100 (a disc of 9) and 630 (51); dense at the border.
    for shape, width in (((256, 300), 21), ((130, 100), 9), ((630, 640), 51)):
      counts = (rng.random(shape) < 0.01).astype(np.int64)
      counts[0] = 3
      expected = counts.astype(float)
      for _ in range(2):
        expected = ndimage.convolve(expected, _disc(width), mode='constant')
      self.assertEqual(clicks.disc_width(*shape), width)
      self.assertAllClose(clicks.blur(counts), expected, atol=1e-12, rtol=1e-9)

  def test_stamps_are_sums_over_discs(self):
    rng = np.random.default_rng(1)
    for shape in ((256, 300), (60, 37), (630, 512), (9, 9), (3, 40)):
      height, width = shape
      points = rng.integers((width, height), size=(200, 2))
      # Corners, and both sides of where the edges begin to matter.
      points[:5] = [
        (0, 0),
        (width - 1, height - 1),
        (min(10, width - 1), min(9, height - 1)),
        (max(0, width - 11), max(0, height - 10)),
        (min(20, width - 1), min(19, height - 1)),
      ]
      for some in (points, points[:5], points[:0]):
        self.assertAllEqual(
          clicks.click_density(some, *shape),
          clicks.blur(clicks.count(some, *shape)),
        )

  def test_gaussian_is_its_formula(self):
    counts = np.zeros((61, 61), np.int64)
    counts[30, 30] = 1
    y, x = np.mgrid[-30:31, -30:31]
    # The variance is 21; scipy cuts at four standard deviations.
    expected = np.exp(-(y**2 + x**2) / 42.0) / (42.0 * np.pi)
    self.assertAllClose(clicks.blur(counts, 'gaussian'), expected, atol=2e-6)

  def test_no_mass_is_lost_inside_and_zeros_stay_zero(self):
    counts = np.zeros((256, 256), np.int64)
    counts[128, 100] = 7
    blurred = clicks.blur(counts)
    self.assertAllClose(blurred.sum(), 7.0)
    self.assertEqual(blurred[128, 100 + 21], 0.0)
    self.assertGreater(blurred[128, 100 + 20], 0.0)

  def test_widths_are_odd_and_bounded(self):
    widths = [clicks.disc_width(s, 4000) for s in range(1, 2000)]
    self.assertTrue(all(w % 2 for w in widths))
    self.assertEqual((min(widths), max(widths)), (1, 51))
    self.assertEqual(widths, sorted(widths))


class ParseTest(tf.test.TestCase):
  def test_reads_lists_of_points(self):
    for text in ('[(1, 2), (3.5, 4)]', '((1,2),[3.5,4])', ' [[1,2],[3.5,4]] '):
      self.assertAllEqual(clicks.parse(text), [[1, 2], [3.5, 4]])
    self.assertAllEqual(clicks.parse(([1, 3.5], [2, 4])), [[1, 2], [3.5, 4]])
    self.assertEqual(clicks.parse('[]').shape, (0, 2))
    nan = float('nan')
    self.assertAllEqual(clicks.parse(([1, nan], [2, nan])), [[1, 2]])

  def test_reads_what_programs_write(self):
    wanted = [[111, 98], [90, 76.5]]
    for text in (
      # PostgreSQL, the clicks of ClickMe 2.0.
      '{"(111,98)","(90,76.5)"}',
      '{{111,98},{90,76.5}}',
      '{"(111,98,5)","(90,76.5,5)"}',
      # NumPy: its numbers, its arrays, and those printed.
      '[(np.int64(111), np.float64(98.0)), (numpy.int32(90), 76.5)]',
      'array([[111. ,  98. ],\n       [ 90. ,  76.5]])',
      '[array([111, 98], dtype=int64), np.array([ 90. ,  76.5])]',
      '[[111.   98. ]\n [ 90.   76.5]]',
      # JSON: keys, nulls, times, and JSON as a text in JSON.
      '[{"x": 111, "y": 98}, {"Y": 76.5, "X": "90", "t": 1}]',
      '{"x": [111, 90], "y": [98, 76.5]}',
      '"[[111, 98], [90, 76.5]]"',
      '[[111, 98], null, [90, 76.5], [null, null], [NaN, NaN]]',
      '[[111, 98, 0.25], [90, 76.5, 1.5]]',
      '["(111,98)", "90, 76.5"]',
      '[[111, 98, "9:59:59"], [90, 76.5, "10:00:00"]]',
      # Bytes, and Python's own names of nothing.
      "b'[(111, 98), (90, 76.5)]'",
      '[(111, 98), None, (90, 76.5)]',
      '[(111, 98), (nan, nan), (90, 76.5)]',
    ):
      self.assertAllEqual(clicks.parse(text), wanted, text)
    for text in ('{}', '[]', '()', '[null]', '{NULL}', '{"x": [], "y": []}'):
      self.assertEqual(clicks.parse(text).shape, (0, 2), text)
    # A set would lose one of two equal clicks.
    self.assertLen(clicks.parse('{"(5,5)","(5,5)"}'), 2)
    self.assertAllEqual(clicks.parse('[[1, 2, 30]]'), [[1, 2]])
    # Milliseconds, far from all places.
    self.assertAllEqual(
      clicks.parse('[[111, 98, 1250], [90, 76, 2400]]'), [[111, 98], [90, 76]]
    )

  def test_counts_clicks_without_a_place(self):
    self.assertEqual(click_points.read('[[1,2],null,[null,null]]').nulls, 2)
    self.assertEqual(click_points.read('{NULL,"(1,2)"}').nulls, 1)
    made = clicks.click_map(
      [clicks.ParticipantClicks('u', '[[1,2],null]')], 40, 40, _ALL
    )
    self.assertEqual(
      (made.clicks, made.left_out), (1, {'clicks: without a place (null)': 1})
    )

  def test_says_what_is_unclear(self):
    for text, message in (
      ('[(1, 2, 9), (3, 4, 5)]', 'in the order of time'),
      ('[(1, 2), (3, 4, 5)]', 'some clicks have two values'),
      # The x and the y of three clicks, which no time can be told from.
      ('[[3, 30, 10], [4, 30, 20]]', 'x and y of three clicks'),
      ('[[1 2]\n ...\n [3 4]]', 'shortened'),
      ('[{"left": 1, "top": 2}]', r"keys \['left', 'top'\]"),
      ('[{"x": 1, "y": null}]', 'no finite'),
      ('{"x": [1, 2], "y": [3]}', '2 values of x'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        clicks.parse(text)

  def test_refuses_everything_else_and_runs_nothing(self):
    marker = os.path.join(self.get_temp_dir(), 'run')
    for text in (
      '',
      'None',
      '[1, 2, 3]',
      '[(1, 2, 3)]',
      '[(1, 2)',
      '{1: 2}',
      '[(1, "a")]',
      '[(1, 1e999)]',
      '(' * 5000,
      '[(1, [2])]',
      f'[(open({marker!r}, "w"), 1)]',
      f'[({10**400}, 1)]',
      f'np.int64(open({marker!r}, "w"))',
      '[[true, 1]]',
      '3',
      f'array(open({marker!r}, "w"))',
      '[Point(1, 2)]',
      '[' * 10**5,
    ):
      with self.assertRaises(ValueError, msg=text[:40]):
        clicks.parse(text)
    with self.assertRaises(ValueError):
      clicks.parse(([1, 2], [3]))
    with self.assertRaises(ValueError):
      clicks.parse(([float('nan')], [3]))
    self.assertFalse(tf.io.gfile.exists(marker))


class RulesTest(tf.test.TestCase):
  def test_the_part_of_catch_trials_is_from_0_to_1(self):
    for part in (95.0, -0.1, float('nan')):
      with self.assertRaisesRegex(ValueError, '--min_catch_trial'):
        map_options.ClickFilter(min_catch_trial=part)


class ClickMapTest(tf.test.TestCase):
  def test_is_the_blurred_mean_over_participants_at_y_x(self):
    made = clicks.click_map(
      _rows([(200, 30), (200.9, 30.2)], [(10, 128)]), 256, 256, _ALL
    )
    counts = np.zeros((256, 256))
    counts[30, 200], counts[128, 10] = 2, 1
    for _ in range(2):
      counts = ndimage.convolve(counts, _disc(21), mode='constant')
    self.assertAllClose(made.values, counts / 2, atol=1e-12)
    self.assertEqual((made.clicks, made.participants), (3, 2))
    self.assertEmpty(made.left_out)

  def test_clicks_outside_are_counted(self):
    rows = _rows([(-1, 5), (-0.5, 5), (48, 5), (5, 40), (0, 0), (47.9, 39.9)])
    made = clicks.click_map(rows, 40, 48, _ALL)
    self.assertEqual(made.left_out, {'clicks: outside the image': 4})
    self.assertEqual(made.clicks, 2)

  def test_every_rule_leaves_out_and_counts(self):
    point = [(1, 1)] * 3
    rows = _rows(point, point, [(2, 2)], [(90, 90)] * 5, point) + [
      clicks.ParticipantClicks('user0', repr([(5, 5)] * 9)),
      clicks.ParticipantClicks('low', repr(point), catch_trial=0.94),
      clicks.ParticipantClicks(
        'unknown', repr(point), catch_trial=float('nan')
      ),
      clicks.ParticipantClicks('high', repr(point * 4), catch_trial=0.95),
      clicks.ParticipantClicks('phone', repr(point), is_mobile=True),
      clicks.ParticipantClicks('broken', '[(1,', place='a.csv, row 9'),
    ]
    rules = map_options.ClickFilter(
      min_clicks=2, max_clicks=5, min_participants=4, drop_mobile=True
    )
    made = clicks.click_map(rows, 40, 40, rules)
    self.assertEqual(
      made.left_out,
      {
        'rows: too few clicks': 2,
        'clicks: outside the image': 5,
        'rows: participant again on the same image': 1,
        'rows: catch trials not passed': 2,
        'clicks: past --max_clicks': 7,
        'rows: made on a phone': 1,
        'rows: unreadable': 1,
      },
    )
    self.assertEqual(
      made.unreadable, [('a.csv, row 9', 'the clicks are not a list of (x, y)')]
    )
    self.assertEqual((made.participants, made.clicks), (4, 3 * 3 + 5))
    self.assertIsNotNone(made.values)
    fewer = clicks.click_map(rows[1:5] + rows[6:], 40, 40, rules)
    self.assertEqual(fewer.participants, 3)
    self.assertIsNone(fewer.values)


if __name__ == '__main__':
  tf.test.main()
