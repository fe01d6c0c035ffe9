# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the command that measures how well people agree."""

# Bazel: tags = ["subprocess"]

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from unittest import mock

from absl import flags
from absl.testing import flagsaver
import numpy as np
from scipy import ndimage
import tensorflow as tf
import tqdm

from official_ext.harmonization import ceiling
from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import participant_agreement
from official_ext.harmonization.data.maps import click_files
from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import map_options
from official_ext.harmonization.data.maps import participant_maps
from official_ext.harmonization.ops import blur
from tests.data import building

_FRAME, _SIZE = 64, 32


class CeilingTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.get_temp_dir(), self.id())
    os.makedirs(self.folder)
    rng = np.random.default_rng(0)
    self.rows = []
    for i in range(9):
      centre = rng.uniform(12, _FRAME - 12, 2)
      for user in range(6 if i else 3):
        points = rng.normal(centre, 6.0, (8, 2)).round(1)
        self._click(f'{i}.png', f'user{user}', points.tolist())
    self._click('8.png', 'user0', [(1, 1)])
    self._click('8.png', 'other', 'none', text='[(1,')

  def _click(self, image, user, points, text=''):
    points = text or repr([tuple(p) for p in points])
    self.rows.append((image, points, user))

  def _options(self, name='out', **changes):
    path = os.path.join(self.folder, 'clicks.csv')
    with open(path, 'w', encoding='utf-8', newline='') as f:
      writer = csv.writer(f)
      writer.writerow(('image_path', 'clicks', 'user_id'))
      writer.writerows(self.rows)
    settings = ceilings.Settings(iterations=6, group=3)
    options = ceiling.Options(
      clicks=(path,),
      output_dir=os.path.join(self.folder, name),
      click_frame=_FRAME,
      size=_SIZE,
      settings=settings,
      workers=1,
    )
    return dataclasses.replace(options, **changes)

  def _read(self, options):
    folder = options.output_dir
    self.assertCountEqual(os.listdir(folder), ['images.csv', 'ceilings.json'])
    with open(os.path.join(folder, 'images.csv'), encoding='utf-8') as f:
      rows = {row['image']: row for row in csv.DictReader(f)}
    with open(os.path.join(folder, 'ceilings.json'), encoding='utf-8') as f:
      results = json.load(f)
    # The date and the digest that includes it differ between runs.
    del results['created'], results['digest']
    return rows, results

  def test_measures_agreement_of_clicks(self):
    options = self._options()
    found = ceiling.measure(options)
    rows, results = self._read(options)
    self.assertCountEqual(rows, [f'{i}.png' for i in range(9)])
    self.assertEqual(rows['0.png']['participants'], '3')
    self.assertIn('5 are needed', rows['0.png']['note'])
    self.assertEqual(rows['0.png']['split_half'], 'nan')
    scored = results['scores']['leave_one_out']
    self.assertEqual((scored['n'], scored['n_undefined']), (8, 1))
    self.assertEqual(scored['details']['too_few_participants'], ['0.png'])
    self.assertIn('32 x 32', scored['preprocessing'])
    outside = sum(
      not 0 <= min(point) <= max(point) < _FRAME
      for _, points, _ in self.rows[:-2]
      for point in eval(points)
    )
    self.assertEqual(
      results['left_out'],
      {
        'clicks: outside the image': outside,
        'rows: unreadable': 1,
        'rows: participant again on the same image': 1,
      },
    )
    self.assertLen(results['unreadable'], 1)
    values = {name: score.value for name, score in found.items()}
    self.assertGreater(values['split_half'], values['floor'] + 0.2)
    self.assertGreater(values['spearman_brown'], values['split_half'])
    self.assertLess(values['leave_one_out'], values['split_half'])
    summary = ceiling.summary(found)
    self.assertIn(f'{values["floor"]:.4f}', summary)
    self.assertIn('Too few participants saw 1 image,', summary)

  def test_leave_one_out_from_scratch(self):
    # Two people: a single score of blurred and resized maps.
    spots = {'a': (20, 30), 'b': (26, 41)}
    self.rows = [('x.png', repr([spot]), user) for user, spot in spots.items()]
    options = self._options(
      rules=map_options.ClickFilter(min_participants=2, blur='gaussian'),
      settings=ceilings.Settings(iterations=2, min_participants=2),
      size=_FRAME,
      width=0.0,
    )
    found = ceiling.measure(options)
    maps = np.zeros((2, 1, _FRAME, _FRAME))
    for one, (x, y) in zip(maps, spots.values()):
      one[0, y, x] = 1
      one[0] = ndimage.gaussian_filter(one[0], 21**0.5, mode='constant')
    expected = participant_agreement.spearman(*maps)[0]
    self.assertAllClose(found['leave_one_out'].value, expected, atol=1e-4)
    self.assertAllClose(found['split_half'].value, expected, atol=1e-4)
    self.assertTrue(np.isnan(found['floor'].value))
    lines = ceiling.summary(found).split('\n')
    self.assertIn('no interval from one image  1 image', lines[0])
    self.assertIn('not measured, because it needs another', lines[3])

  def test_maps_are_made_as_where_models_are_ranked(self):
    for flags_given, width in (({}, 10.0), ({'release_blur': True}, 0.0)):
      options = self._options(**flags_given)
      self.assertEqual(options.blur_width, width)
      table = click_files.Table(os.path.join(self.folder, f'{width}.sqlite'))
      table.fill(click_files.read(options.clicks[0]))
      shapes = {'1.png': (_FRAME, 50)}
      maps = participant_maps.ParticipantMaps(
        table,
        ['1.png'],
        options.rules,
        _SIZE,
        _FRAME,
        release_blur=options.release_blur,
        blur_width=width,
      )
      maps.shapes.update(shapes)
      found = maps.maps('1.png')
      people = clicks.participants(
        table.rows('1.png'), *shapes['1.png'], options.rules
      )
      raw = np.stack(
        [
          clicks.blur(clicks.count(points, *shapes['1.png']))
          for points in people.points.values()
        ]
      )[..., np.newaxis]
      if options.release_blur:
        expected = blur.blur_maps(raw, (_SIZE, _SIZE))[..., 0]
      else:
        resized = tf.image.resize(raw, (_SIZE, _SIZE), antialias=True)
        resized = resized[..., 0].numpy()
        sigma = 10 * _SIZE / 224
        expected = ndimage.gaussian_filter(
          resized, (0, sigma, sigma), mode='reflect'
        )
      self.assertAllClose(found, expected, atol=1e-6 * found.max(), rtol=1e-5)
      ceiling.measure(options)
      _, results = self._read(options)
      self.assertEqual(
        results['maps'],
        {
          'comparison_size': _SIZE,
          'width': width,
          'release_blur': options.release_blur,
        },
      )
      shutil.rmtree(options.output_dir)

  def test_resumes(self):
    whole = self._options('whole')
    ceiling.measure(whole)
    options = self._options()
    measure, calls = ceilings.measure, []

    def until_the_second(*args):
      calls.append(args[1])
      if len(calls) == 2:
        raise KeyboardInterrupt
      return measure(*args)

    with mock.patch.object(ceilings, 'measure', until_the_second):
      with self.assertRaises(KeyboardInterrupt):
        ceiling.measure(options)
      # An incomplete line does not count.
      path = os.path.join(options.output_dir, 'ceilings.partial.jsonl')
      with open(path, 'a', encoding='utf-8') as f:
        f.write('[1, [{"image"')
      ceiling.measure(options)
    # Only the group that was interrupted is measured again.
    self.assertEqual(calls[2:], calls[1:2])
    self.assertEqual(self._read(options), self._read(whole))

  def test_rows_of_other_settings_are_dropped(self):
    options = self._options()
    with mock.patch.object(ceilings, 'summarize', side_effect=MemoryError):
      with self.assertRaises(MemoryError):
        ceiling.measure(options)
    other = self._options(
      settings=dataclasses.replace(options.settings, resample=True)
    )
    ceiling.measure(other)
    expected = self._options('whole', settings=other.settings)
    ceiling.measure(expected)
    self.assertEqual(self._read(other), self._read(expected))

  def test_replaced_results_are_kept(self):
    options = self._options()
    for name in ('ceilings.json', 'images.csv'):
      ceiling.measure(options)
      self._read(options)  # Nothing is kept of the same measurement.
      path = os.path.join(options.output_dir, name)
      with open(path, encoding='utf-8') as f:
        text = f.read()
      for change in (text.replace('0.', '1.'), text[:40], ''):
        with open(path, 'w', encoding='utf-8') as f:
          f.write(change)
        with mock.patch.object(tqdm.tqdm, 'write') as write:
          ceiling.measure(options)
        self.assertIn(
          'ceilings.json was the result of another', write.call_args.args[0]
        )
        (kept,) = os.listdir(os.path.join(options.output_dir, 'earlier'))
        kept = os.path.join(options.output_dir, 'earlier', kept)
        with open(os.path.join(kept, name), encoding='utf-8') as f:
          self.assertEqual(f.read(), change)
        shutil.rmtree(os.path.dirname(kept))
        self._read(options)
    other = self._options(
      settings=dataclasses.replace(options.settings, resample=True)
    )
    with mock.patch.object(tqdm.tqdm, 'write') as write:
      ceiling.measure(other)
    self.assertRegex(
      write.call_args.args[0], 'settings.resample was False and is now True'
    )

  def test_a_finished_measurement_is_used_again(self):
    options = self._options()
    found, before = ceiling.measure(options), self._read(options)
    # The digest is of the clicks, not of the name of their file.
    renamed = os.path.join(self.folder, 'renamed.csv')
    shutil.copy(options.clicks[0], renamed)
    stale = os.path.join(options.output_dir, 'ceilings.partial.jsonl')
    with open(stale, 'w', encoding='utf-8') as f:
      f.write('from a process that was killed')
    for paths in (options.clicks, (renamed,)):
      with mock.patch.object(ceilings, 'measure') as measure:
        with mock.patch.object(tqdm.tqdm, 'write') as write:
          again = ceiling.measure(dataclasses.replace(options, clicks=paths))
      measure.assert_not_called()
      self.assertIn('ceilings.json: measured from', write.call_args.args[0])
      self.assertEqual(ceiling.summary(again), ceiling.summary(found))
      self.assertEqual(self._read(options), before)

  def test_results_of_versions_whose_digest_included_the_file_are_used(self):
    options = self._options()
    ceiling.measure(options)
    digest = hashlib.sha256()
    for image, row in click_files.read(options.clicks[0]):
      fields = dataclasses.asdict(row)
      if not row.problem:
        del fields['problem']
      digest.update(f'{image}\n{json.dumps(fields)}\n'.encode())
    path = os.path.join(options.output_dir, 'ceilings.json')
    results = files.read_json(path)
    del results['digest']
    results['identity']['data']['clicks'] = digest.hexdigest()
    files.write_json(path, {**results, 'digest': identity.sha256(results)})
    with mock.patch.object(ceilings, 'measure') as measure:
      ceiling.measure(options)
    measure.assert_not_called()

  def test_patterns_name_files_of_clicks(self):
    whole = self._options('whole')
    ceiling.measure(whole)
    path = whole.clicks[0]
    parts = self._path_of_parts(path)
    options = self._options('out', clicks=(f'{parts}/part-*.csv',))
    ceiling.measure(options)
    self.assertEqual(self._read(options)[0], self._read(whole)[0])
    with self.assertRaisesRegex(ValueError, r'--clicks=.*none-\* matches no'):
      ceiling.measure(self._options(clicks=(f'{parts}/none-*',)))

  def _path_of_parts(self, path):
    """Splits a file of clicks into two; returns their folder."""
    with open(path, encoding='utf-8') as f:
      head, *rows = f.readlines()
    folder = os.path.join(self.folder, 'parts')
    os.makedirs(folder)
    for i, part in enumerate((rows[:20], rows[20:])):
      with open(f'{folder}/part-{i}.csv', 'w', encoding='utf-8') as f:
        f.writelines([head, *part])
    return folder

  def test_other_image_sizes_are_another_measurement(self):
    images = os.path.join(self.folder, 'images')
    os.makedirs(images)

    def write(name, side):
      with open(os.path.join(images, name), 'wb') as f:
        f.write(building.png(np.zeros((side, side, 3), np.uint8)))

    for i in range(9):
      write(f'{i}.png', _FRAME)
    options = self._options(click_frame=0, image_dir=images)
    with mock.patch.object(ceilings, 'summarize', side_effect=MemoryError):
      with self.assertRaises(MemoryError):
        ceiling.measure(options)
    write('8.png', 2 * _FRAME)
    with mock.patch.object(tqdm.tqdm, 'write') as message:
      ceiling.measure(options)
    self.assertRegex(
      message.call_args_list[0].args[0], 'partial.jsonl: .*data.frames'
    )
    expected = self._options('whole', click_frame=0, image_dir=images)
    ceiling.measure(expected)
    self.assertEqual(self._read(options)[0], self._read(expected)[0])

  def test_a_folder_is_of_one_process(self):
    options = self._options()
    os.makedirs(options.output_dir)
    with claims.Claim(os.path.join(options.output_dir, 'ceilings.claim')):
      with self.assertRaisesRegex(ValueError, f'in use by .*{os.getpid()}'):
        ceiling.measure(options)

  def test_results_do_not_depend_on_the_number_of_processes(self):
    one = self._options('one', user_groups=4)
    two = dataclasses.replace(self._options('two', workers=2), user_groups=4)
    ceiling.measure(one)
    ceiling.measure(two)
    rows, results = self._read(one)
    self.assertEqual((rows, results), self._read(two))
    self.assertEqual(results['users']['participants'], 6)
    self.assertEqual(results['repeated_participants'], 6)
    self.assertLen(results['users']['without'], 4)
    with self.assertRaisesRegex(ValueError, '--user_groups=1 .*at least 2'):
      ceiling.measure(dataclasses.replace(one, user_groups=1))
    self.assertAllClose(
      results['users']['everyone']['leave_one_out'],
      results['scores']['leave_one_out']['value'],
    )

  def test_sizes_from_images(self):
    frames = self._options('frames')
    ceiling.measure(frames)
    images = os.path.join(self.folder, 'images')
    os.makedirs(images)
    for i in range(9):
      with open(os.path.join(images, f'{i}.png'), 'wb') as f:
        f.write(building.png(np.zeros((_FRAME, _FRAME, 3), np.uint8)))
    own = self._options('own', click_frame=0, image_dir=images)
    ceiling.measure(own)
    self.assertEqual(self._read(own)[0], self._read(frames)[0])
    os.remove(os.path.join(images, '4.png'))
    with self.assertRaisesRegex(ValueError, '--image_dir=.*size of 4.png'):
      ceiling.measure(own)

  def test_several_spellings_of_one_path(self):
    whole = self._options('whole')
    ceiling.measure(whole)
    ways = ['x/y/{}', 'x\\y\\{}', './x//y/{}', 'x/z/../y/{}', '{}']
    self.rows = [
      (ways[i % 5].format(image), clicked, user)
      for i, (image, clicked, user) in enumerate(self.rows)
    ]
    options = self._options(strip_prefix='x/y')
    ceiling.measure(options)
    self.assertEqual(self._read(options)[0], self._read(whole)[0])

  def test_a_random_subset_of_images(self):
    options = self._options(images=5)
    ceiling.measure(options)
    self.assertLen(self._read(options)[0], 5)

  def test_refusals(self):
    cases = (
      ({'click_frame': 0}, 'click_frame is 0 .*expected exactly one'),
      ({'image_dir': self.folder}, 'image_dir is .*expected exactly one'),
      ({'clicks': ['nowhere.csv']}, '--clicks=nowhere.csv does not exist'),
      ({'click_frame': 16}, 'outside the square of --click_frame=16'),
    )
    for changes, message in cases:
      with self.assertRaisesRegex(ValueError, message):
        ceiling.measure(self._options(**changes))
    self.rows = [
      ('a.png', '[(1, 1)]', 'u'),
      ('', '[(1, 1)]', 'u'),
      ('', '[(2, 2)]', 'v'),
      ('', '[(3, 3)]', 'w'),
      ('', '[(4, 4)]', 'x'),
      ('', '[(5, 5)]', 'y'),
      ('a.png', '[(', 'z'),
    ]
    with self.assertRaisesRegex(
      ValueError,
      "None of the 2 images .* 5 participants .* 'a.png' has the "
      'most, 1. .*unreadable .6.; clicks.csv, row',
    ):
      ceiling.measure(self._options('none'))
    self.assertEmpty(os.listdir(self._options('none').output_dir))
    self.rows = []
    with self.assertRaisesRegex(ValueError, 'no click'):
      ceiling.measure(self._options())

  def test_flags(self):
    self.enter_context(flagsaver.flagsaver())
    cli.define(ceiling.Options)
    flags.FLAGS(
      [
        'ceiling',
        '--clicks=/a.csv,/b.csv',
        '--output_dir=/out',
        '--click_frame=64',
        '--size=32',
        '--iterations=6',
        '--resample',
        '--images=3',
        '--seed=4',
        '--trust_pickle',
        '--workers=2',
        '--strip_prefix=imagenet/train',
        '--min_participants=7',
      ]
    )
    self.assertEqual(
      cli.parsed(ceiling.Options),
      ceiling.Options(
        clicks=('/a.csv', '/b.csv'),
        output_dir='/out',
        click_frame=64,
        size=32,
        images=3,
        trust_pickle=True,
        workers=2,
        strip_prefix='imagenet/train',
        rules=map_options.ClickFilter(min_participants=7),
        settings=ceilings.Settings(6, True, 7, seed=4),
      ),
    )


if __name__ == '__main__':
  tf.test.main()
