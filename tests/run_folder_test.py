# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that a run's folder records the settings of its network."""

# Bazel: tags = ["subprocess"]

import functools
import json
import os
import tempfile

from absl.testing import parameterized
from official.core import exp_factory
from official.modeling import hyperparams
import tensorflow as tf
import yaml

from official_ext.harmonization import experiment_parser
from official_ext.harmonization import run_folder
from official_ext.harmonization.configs import changed_settings
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from testing import fixtures


def _leaves(settings, name=''):
  for key, value in settings.items():
    path = f'{name}{key}'
    if isinstance(value, dict) and value:
      yield from _leaves(value, f'{path}.')
    else:
      yield path


@functools.cache
def _experiment():
  config = fixtures.experiment(mapped='/data/a*', validation='/data/b*')
  config.trainer.train_steps = 10
  return config


def _changed(**fields):
  """Returns a tiny experiment with changed fields, `__` for a dot."""
  config = _experiment().replace()
  for path, value in fields.items():
    experiment_parser.override(
      config, _nested(path.replace('__', '.'), value), 'test'
    )
  return config


def _nested(path, value):
  for name in reversed(path.split('.')):
    value = {name: value}
  return value


class RulesTest(tf.test.TestCase, parameterized.TestCase):
  def test_one_rule_decides_about_each_field_of_every_experiment(self):
    fields = set()
    for name in experiment_parser.experiment_names():
      config = exp_cfg.harmonize(exp_factory.get_exp_config(name))
      fields.update(_leaves(config.as_dict()))
    self.assertGreater(len(fields), 250)
    self.assertEqual(
      {
        f: changed_settings.rules(f)
        for f in fields
        if len(changed_settings.rules(f)) != 1
      },
      {},
    )

  @parameterized.parameters(
    ('task.harmonization.weight', [True]),
    ('task.harmonization.ceiling', [False]),
    ('task.harmonization.evaluation_explainer', [False]),
    ('task.train_data.input_path', [False]),
    ('task.train_data.global_batch_size', [True]),
    ('task.mapped_data.label_offset', [True]),
    ('task.validation_data.global_batch_size', [False]),
    ('task.mapped_validation_data.label_offset', [False]),
    ('task.model.backbone.resnet.model_id', [True]),
    ('task.model.output_softmax', [False]),
    ('trainer.optimizer_config.optimizer.sgd.momentum', [True]),
    ('trainer.checkpoint_interval', [False]),
    ('runtime.num_gpus', [False]),
    ('runtime.mixed_precision_dtype', [True]),
    # A rule applies to whole names.
    ('task.harmonization.weights', []),
    ('task.later_field', []),
  )
  def test_rules(self, field, found):
    self.assertEqual(changed_settings.rules(field), found)

  def test_a_field_that_the_old_file_lacks_has_its_default(self):
    old = _changed().as_dict()
    del old['task']['harmonization']['batch_norm']
    del old['task']['alignment_report']
    del old['runtime']['num_gpus']
    self.assertEqual(changed_settings.compare(old, _changed()), ({}, {}))
    found = changed_settings.compare(
      old,
      _changed(
        task__harmonization__batch_norm='inference',
        task__alignment_report__panels=1,
      ),
    )
    self.assertEqual(
      found.trained, {'task.harmonization.batch_norm': ('mapped', 'inference')}
    )
    self.assertEqual(found.others, {'task.alignment_report.panels': (6, 1)})

  def test_a_run_of_a_stock_experiment(self):
    stock = exp_factory.get_exp_config('resnet_imagenet')
    same = exp_cfg.harmonize(exp_factory.get_exp_config('resnet_imagenet'))
    self.assertEqual(changed_settings.compare(stock.as_dict(), same), ({}, {}))
    same.task.harmonization.enabled = True
    self.assertIn(
      'task.harmonization.enabled',
      changed_settings.compare(stock.as_dict(), same).trained,
    )

  def test_yaml_is_no_difference(self):
    config = exp_cfg.harmonize(
      experiment_parser.get_experiment('harmonized_maxvit_imagenet')
    )
    config.task.mapped_data.crop_area_range = [0.08, 1.0]
    path = os.path.join(self.get_temp_dir(), 'maxvit.yaml')
    hyperparams.save_params_dict_to_yaml(config, path)
    with open(path) as f:
      old = yaml.full_load(f)
    config.task.mapped_data.crop_area_range = (0.08, 1)
    self.assertEqual(changed_settings.compare(old, config), ({}, {}))

  def test_unknown_fields_and_sections_count(self):
    old = _changed().as_dict()
    old['task']['harmonization']['later'] = 1
    old['task']['train_data']['mixup_and_cutmix'] = {'mixup_alpha': 0.2}
    self.assertContainsSubset(
      ['task.harmonization.later', 'task.train_data.mixup_and_cutmix'],
      changed_settings.compare(old, _changed()).trained,
    )
    for broken in ({'task': 5}, {'task': {'train_data': [1]}}):
      try:
        found = changed_settings.compare(broken, _changed()).trained
      except ValueError:
        continue
      self.assertNotEmpty(found)


class SettingsTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())

  def _start(self, seed=None, step=10, **fields):
    """Writes the files of a run that trained `step` steps."""
    run_folder.write_start(_changed(**fields), self.folder, seed)
    if step:
      tf.train.CheckpointManager(
        tf.train.Checkpoint(global_step=tf.Variable(step, dtype=tf.int64)),
        self.folder,
        1,
        checkpoint_name='ckpt',
      ).save(step)

  def _check(self, seed=None, trains=True, allowed=False, **fields):
    """Compares settings; returns the log."""
    with self.assertLogs('absl', 'WARNING') as logs:
      run_folder.logging.warning('start')
      run_folder.check_settings(
        _changed(**fields), self.folder, seed, trains=trains, allowed=allowed
      )
    return ' '.join(logs.output[1:])

  def test_a_new_folder_and_the_same_command_again(self):
    self.assertEqual(self._check(), '')
    self._start()
    self.assertEqual(self._check(), '')

  @parameterized.parameters(
    ('task__harmonization__weight', 5.0),
    ('task__harmonization__levels', 3),
    ('task__model__dropout_rate', 0.5),
    ('task__train_data__global_batch_size', 8),
    ('task__mapped_data__seed', 1),
    ('task__mapped_data__crop_area_range', [0.5, 1.0]),
    ('task__mapped_data__mixup_and_cutmix', {'mixup_alpha': 0.1}),
    ('task__init_checkpoint', '/else/ckpt-1'),
    ('task__losses__label_smoothing', 0.2),
    ('trainer__optimizer_config__optimizer__sgd__momentum', 0.5),
    ('trainer__train_steps', 9),
  )
  def test_what_changes_the_network_stops(self, field, value):
    self._start()
    name = field.replace('__', '.')
    with self.assertRaisesRegex(
      ValueError,
      rf'params.yaml: {name}\S* was .* and is now .*step 10 was '
      'trained with.*--allow_changed_settings',
    ):
      self._check(**{field: value})
    self.assertIn(name, self._check(allowed=True, **{field: value}))
    # An evaluation logs the difference and continues.
    logged = self._check(trains=False, **{field: value})
    self.assertRegex(logged, f'{name}|^$')

  @parameterized.parameters(
    ('task__mapped_data__input_path', '/elsewhere/a*'),
    ('task__mapped_validation_data__input_path', '/elsewhere/b*'),
    ('task__validation_data__global_batch_size', 7),
    ('task__alignment_report__panels', 1),
    ('task__harmonization__ceiling', 0.5),
    ('runtime__num_gpus', 4),
    ('task__mapped_data__on_bad_record', 'skip'),
    ('trainer__recovery_max_trials', 3),
    ('trainer__train_steps', 20),
  )
  def test_what_does_not_is_named(self, field, value):
    self._start()
    name = field.replace('__', '.')
    self.assertRegex(
      self._check(**{field: value}),
      f'{name} was .* and is now .*does not affect training',
    )

  def test_a_seed_changes_the_network(self):
    self._start(seed=0)
    self.assertEqual(self._check(seed=0), '')
    with self.assertRaisesRegex(ValueError, '--seed was 0 and is now 1'):
      self._check(seed=1)
    os.remove(os.path.join(self.folder, 'flags.json'))
    self.assertEqual(self._check(seed=1), '')  # As in runs of older releases.

  def test_without_a_checkpoint_nothing_is_reported_of_the_old_settings(self):
    self._start(step=0)
    self.assertIn('weight', self._check(task__harmonization__weight=5.0))

  @parameterized.parameters(
    (None, 'params.yaml does not exist'),
    ('', 'params.yaml: .*empty'),
    ('task: [1', 'params.yaml: line 1'),
    ('task: {}\ntask: {}', "'task' is given twice"),
    ('- 1', r'params.yaml: .*\[1\]'),
    (
      'task: {model: {num_classes: !!python/object/apply:os.getcwd []}}',
      'apply:os.getcwd',
    ),
    ('task: 5', 'params.yaml: '),
  )
  def test_a_folder_whose_settings_are_not_known(self, text, message):
    self._start()
    path = os.path.join(self.folder, 'params.yaml')
    os.remove(path)
    if text is not None:
      with open(path, 'w') as f:
        f.write(text)
    with self.assertRaisesRegex(
      ValueError, f'{self.folder}.*{message}.*--allow_changed_settings'
    ):
      self._check()
    self._check(allowed=True)
    self._check(trains=False)

  def test_the_old_file_is_kept(self):
    path = os.path.join(self.folder, 'params.yaml')

    def content(name):
      with open(os.path.join(self.folder, name)) as f:
        return f.read()

    self._start()
    first = content('params.yaml')
    self._start()
    self.assertFalse(os.path.exists(path[:-5] + '.1.yaml'))
    self._start(task__harmonization__weight=5.0)
    second = content('params.yaml')
    self._start(task__harmonization__weight=6.0)
    self.assertEqual(
      [content(f'params.{n}.yaml') for n in (1, 2)], [first, second]
    )
    self.assertIn('weight: 6.0', content('params.yaml'))
    self.assertEqual(json.loads(content('flags.json')), {'seed': None})
    self.assertNotIn('.partial', ' '.join(os.listdir(self.folder)))

  def test_the_last_step_is_that_of_the_checkpoint(self):
    self._start(step=8)
    checkpoint = run_folder.find_checkpoint(self.folder)
    self.assertEqual(run_folder.step_of(checkpoint), 8)
    # Not listed, as after a copy of some of the files.
    os.remove(os.path.join(self.folder, 'checkpoint'))
    with self.assertLogs('absl', 'WARNING') as logs:
      self.assertIsNone(run_folder.find_checkpoint(self.folder))
    self.assertRegex(logs.output[0], r'ckpt-8.index is not used, .* checkpoint')


class CheckpointTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters('eval', 'continuous_eval')
  def test_random_weights_are_not_scored(self, mode):
    folder = os.path.join(self.get_temp_dir(), 'typo')
    run_folder.check_checkpoint(_changed(), folder, 'train_and_eval')
    with self.assertRaisesRegex(
      ValueError,
      f'--model_dir is {folder}, which has (no|neither a) checkpoint.*{mode}',
    ):
      run_folder.check_checkpoint(_changed(), folder, mode)

  def test_weights_that_are_named_are(self):
    folder = self.get_temp_dir()
    weights = tf.train.Checkpoint(v=tf.Variable(1.0)).write(f'{folder}/weights')
    run_folder.check_checkpoint(
      _changed(task__init_checkpoint=weights), f'{folder}/new', 'eval'
    )
    run_folder.check_checkpoint(
      _changed(
        task__model__backbone={
          'type': 'keras_application',
          'keras_application': {'weights': 'imagenet'},
        }
      ),
      f'{folder}/new',
      'eval',
    )
    with self.assertRaisesRegex(ValueError, "init_checkpoint is '/nowhere'"):
      run_folder.check_checkpoint(
        _changed(task__init_checkpoint='/nowhere'), f'{folder}/new', 'eval'
      )

  def test_continuous_eval_waits_for_a_run_that_has_started(self):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    run_folder.write_start(_changed(), folder, None)
    run_folder.check_checkpoint(_changed(), folder, 'continuous_eval')

  def test_a_folder_that_cannot_be_written_to(self):
    file = os.path.join(self.get_temp_dir(), 'file')
    with open(file, 'w') as f:
      f.write('')
    for path in (file, f'{file}/run', '/proc/run'):
      with self.assertRaisesRegex(
        ValueError, f'--model_dir is {path}, which is not writable'
      ):
        run_folder.prepare(path)
    run_folder.prepare(f'{self.get_temp_dir()}/a/b')
    self.assertEqual(os.listdir(f'{self.get_temp_dir()}/a/b'), [])


if __name__ == '__main__':
  tf.test.main()
