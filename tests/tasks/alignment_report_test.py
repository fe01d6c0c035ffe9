# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the report on each image of an evaluation."""

import csv
import os
import tempfile
from unittest import mock

from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.configs import task_checks
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import release_layout
from official_ext.harmonization.evaluation import panels
from official_ext.harmonization.evaluation import scores as scores_lib
from official_ext.harmonization.tasks import alignment_report
from testing import fixtures
from tests import devices

_NAN = float('nan')


def _rows(spearman, mapped, places, file=0):
  """Returns rows of one replica, as from `step_logs`."""
  values = np.array(spearman, np.float32)
  return {
    'with_map': np.array(mapped, np.float32),
    'records': np.array([[file, p] for p in places], np.int32),
    'label': np.array(places, np.int32),
    'predicted': np.zeros(len(places), np.int32),
    'spearman': values,
    'dice': values / 2,
    'iou': values / 4,
    'auc': np.where(values > 0.5, np.nan, values),
    'pointing': values,
  }


def _replicas(*tables):
  """Returns tables of several replicas, as Model Garden passes them."""
  return {k: tuple(tf.constant(t[k]) for t in tables) for k in tables[0]}


def _pictures(numbers, mapped):
  """Returns pictures of one replica, each with one constant value."""
  maps = np.ones((len(numbers), 4, 4), np.float32) * np.reshape(
    numbers, [-1, 1, 1]
  )
  return {
    'with_map': np.array(mapped, np.float32),
    'image': np.stack([maps] * 3, -1),
    'human map': maps,
    'model map': -maps,
    'rho': np.array(numbers, np.float32),
  }


class ReportTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()
    self.files = [os.path.join(self.folder, f'{n}.tfrecords') for n in 'ab']
    self.config = fixtures.experiment(
      validation=','.join(self.files[::-1]), ceiling=0.5
    ).task
    self.config.alignment_report.panels = 0

  def _report(self, *steps, folder=None):
    report = alignment_report.Report(self.config, folder)
    state = None
    for step in steps:
      state = report.aggregate(state, step)
    return report.reduce(state, tf.constant(7))

  def _steps(self):
    return [
      {
        'rows': _replicas(
          _rows([0.1, 0.2], [1, 1], [0, 3], file=1),
          _rows([9.0, 9.0], [0, 0], [0, 0]),
        )
      },
      {
        'rows': _replicas(
          _rows([_NAN, 9.0], [1, 0], [2, 0], file=1),
          _rows([0.9, 0.4], [1, 1], [1, 0]),
        )
      },
    ]

  def test_the_ceiling_is_the_release_s_only_for_the_release(self):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    shard = fixtures.write_numbered(folder, 'val-0.tfrecords', 2)
    config = fixtures.experiment(validation=shard, ceiling=None).task

    def ceiling():
      return alignment_report.Report(config, None).ceiling

    with self.assertLogs('absl', level='INFO') as logs:
      self.assertEqual(ceiling(), 1.0)
    self.assertIn('not recognized as the ClickMe release', logs.output[-1])
    manifest.write(
      folder,
      source=f'{release_layout.BASE_URL}/val',
      shards=[manifest.describe(shard, 2)],
    )
    self.assertEqual(ceiling(), exp_cfg.CLICKME_CEILING)
    config.harmonization.ceiling = 0.5
    self.assertEqual(ceiling(), 0.5)
    config.harmonization.ceiling = None
    config.mapped_validation_data.map_decoder = 'canonical'
    self.assertEqual(ceiling(), 1.0)
    self.assertIsNone(exp_cfg.Harmonization().ceiling)

  def test_rows_are_those_that_count_by_file_and_record(self):
    path = os.path.join(self.folder, 'alignment_per_image.csv')
    self._report(*self._steps(), folder=self.folder)
    with open(path) as f:
      found = list(csv.DictReader(f))
    a, b = self.files
    self.assertEqual(
      [(r['file'], r['record']) for r in found],
      [(a, '0'), (a, '1'), (b, '0'), (b, '2'), (b, '3')],
    )
    self.assertEqual(
      [r['spearman'] for r in found], ['0.4', '0.9', '0.1', 'nan', '0.2']
    )
    self.assertEqual({r['step'] for r in found}, {'7'})
    self.assertEqual({r['explainer'] for r in found}, {'gradient'})
    self.assertNotIn('alignment_panels.png', os.listdir(self.folder))

  def test_intervals_and_counts(self):
    self.config.alignment_report.override({'confidence': 0.5, 'resamples': 50})
    logs = self._report(*self._steps())
    low, high = scores_lib.bootstrap_interval(
      np.array([0.4, 0.9, 0.1, 0.2], np.float32), confidence=0.5, resamples=50
    )
    self.assertAllClose(
      [
        logs['alignment_spearman_low'],
        logs['alignment_spearman_high'],
        logs['alignment_low'],
        logs['alignment_high'],
        logs['alignment_iou_high'],
      ],
      [low, high, low / 0.5, high / 0.5, high / 4],
    )
    self.assertLess(low, high)
    self.assertEqual(
      (logs['alignment_dice_n'], logs['alignment_auc_n']), (4.0, 3.0)
    )
    self.assertEqual(
      alignment_report.Report(self.config, None).log_names(), set(logs)
    )

  def test_what_is_switched_off_is_not_there(self):
    self.config.alignment_report.override({'resamples': 0, 'per_image': ''})
    logs = self._report(*self._steps(), folder=self.folder)
    self.assertEqual({k for k in logs if not k.endswith('_n')}, set())
    self.assertEqual(
      alignment_report.Report(self.config, None).log_names(), set(logs)
    )
    self.assertEqual(os.listdir(self.folder), [])

  def test_one_image_has_no_interval(self):
    logs = self._report({'rows': _replicas(_rows([0.3, 9.0], [1, 0], [0, 0]))})
    self.assertTrue(np.isnan(logs['alignment_low']))
    self.assertEqual(logs['alignment_dice_n'], 1.0)

  def test_no_image_counts(self):
    logs = self._report(
      {'rows': _replicas(_rows([9.0], [0], [0]))}, folder=self.folder
    )
    self.assertTrue(np.isnan(logs['alignment_low']))
    self.assertEqual(logs['alignment_dice_n'], 0.0)

  def test_rows_of_all_workers_are_taken_once(self):
    table = _rows([0.1, 0.2], [1, 1], [0, 1])
    logs = self._report({'all_rows': _replicas(table, table)})
    self.assertEqual(logs['alignment_dice_n'], 2.0)

  def test_every_worker_is_given_all_rows(self):
    tables = [
      _rows([0.1, _NAN], [1, 1], [5, 2**24 + 1]),
      _rows([0.3, 0.4], [1, 0], [7, 8]),
    ]
    strategy = devices.two_replicas()
    rows = {
      k: strategy.experimental_distribute_values_from_function(
        lambda context, k=k: tf.constant(
          tables[context.replica_id_in_sync_group][k]
        )
      )
      for k in tables[0]
    }
    # Three rows per worker; missing rows are zeros.
    found = strategy.run(
      tf.function(lambda rows: alignment_report.gather_rows(rows, 3)),
      (rows,),
    )
    for name, values in found.items():
      expected = np.concatenate(
        [
          np.pad(t[name], [(0, 1)] + [(0, 0)] * (t[name].ndim - 1))
          for t in tables
        ]
      )
      for of_replica in strategy.experimental_local_results(values):
        self.assertEqual(of_replica.dtype, tf.as_dtype(expected.dtype))
        self.assertAllEqual(of_replica, expected)

  @parameterized.parameters(False, True)
  def test_panels_are_the_first_mapped_images(self, shown):
    self.config.alignment_report.panels = 3
    self.config.allow_image_summary = shown
    rows = {'rows': _replicas(_rows([9.0], [0], [0]))}
    steps = [
      {
        **rows,
        'pictures': _replicas(
          _pictures([8.0, 8.0], [0, 0]), _pictures([8.0, 8.0], [0, 0])
        ),
      },
      {
        **rows,
        'pictures': _replicas(
          _pictures([0.0, 0.1], [1, 1]), _pictures([0.2, 0.3], [1, 1])
        ),
      },
      {
        **rows,
        'pictures': _replicas(
          _pictures([0.4, 0.5], [1, 1]), _pictures([8.0, 8.0], [0, 0])
        ),
      },
    ]
    with mock.patch.object(panels, 'render', wraps=panels.render) as render:
      logs = self._report(*steps, folder=self.folder)
    images, maps, captions = render.call_args.args
    expected = np.reshape([0.0, 0.1, 0.2], [-1, 1, 1]) * np.ones([3, 4, 4])
    self.assertAllClose(maps, {'human map': expected, 'model map': -expected})
    self.assertAllClose(images, panels.to_display(np.stack([expected] * 3, -1)))
    self.assertEqual(captions, ['rho 0.00', 'rho 0.10', 'rho 0.20'])
    with open(os.path.join(self.folder, 'alignment_panels.png'), 'rb') as f:
      picture = tf.io.decode_png(f.read())
    self.assertEqual('image/alignment_panels' in logs, shown)
    if shown:
      self.assertAllEqual(logs['image/alignment_panels'][0], picture)

  @parameterized.parameters(
    ('confidence', 1.0, 'between 0 and 1'),
    ('resamples', -1, '0 or more'),
    ('panels', -2, '0 or more'),
    ('per_image', 'rows.txt', '.csv'),
    ('per_image', 'a/rows.csv', "run's folder"),
  )
  def test_wrong_configuration_is_named(self, field, value, sentence):
    self.config.alignment_report.override({field: value})
    with self.assertRaisesRegex(
      ValueError, f'task.alignment_report.{field} is .*{sentence}'
    ):
      task_checks.check(self.config)


if __name__ == '__main__':
  tf.test.main()
