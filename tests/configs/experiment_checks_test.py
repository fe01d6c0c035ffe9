# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that invalid configurations stop before anything is built."""

import os
import re
import tempfile

from absl.testing import parameterized
from official.core import train_utils
import tensorflow as tf
import yaml

import gin
from official_ext.harmonization import experiment_parser
from official_ext.harmonization import gin_settings
from official_ext.harmonization.benchmark import runs

_NAME = 'harmonized_resnet_imagenet'


def _parse(experiment=_NAME, config_file=(), **flags):
  return experiment_parser.parse_configuration(
    train_utils.ParseConfigOptions(
      experiment, list(config_file), tpu=None, **flags
    )
  )


class _Case(tf.test.TestCase, parameterized.TestCase):
  def tearDown(self):
    super().tearDown()
    gin.clear_config()

  def _write(self, text):
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    path = os.path.join(self.folder, 'params.yaml')
    with open(path, 'w') as f:
      f.write(text)
    return path


class ExperimentChecksTest(_Case):
  @parameterized.parameters(
    # Unknown keys, at every depth.
    ('tsak.harmonization.weight=1', 'tsak'),
    ('task.harmonisation.weight=1', 'harmonisation'),
    ('task.harmonization.wieght=1', 'wieght'),
    ('task.mapped_data.mixup_and_cutmix.mixup_alfa=1', 'mixup_alfa'),
    ('trainer.optimizer_config.optimizer.sgd.momentun=1', 'momentun'),
    # Values of another type, or a value instead of a section.
    ('task.harmonization.weight=ten', "weight is 'ten'; .* finite number"),
    ('task.harmonization.weight=.nan', 'weight is nan; .* finite number'),
    ('task.harmonization.weight=.inf', 'weight is inf; .* finite number'),
    ('task.harmonization.levels=2.5', r'levels is 2.5; .* whole number'),
    ('task.harmonization.enabled=maybe', "enabled is 'maybe'; .* true or"),
    ('task.harmonization.ceiling=true', 'ceiling is True; .* finite number'),
    ('task.harmonization=5', 'task.harmonization is 5; .*section'),
    ('task=5', '^--params_override: task is 5; .*section'),
    ('trainer.train_steps=1e5', 'train_steps is 100000.0; .*not 1e5'),
    ('task.train_data.global_batch_size=many', "batch_size is 'many'"),
    # Values outside of a list of choices.
    (
      'trainer.optimizer_config.optimizer.type=sdg',
      "optimizer.type is 'sdg'; expected one of .*sgd",
    ),
    (
      'task.model.backbone.type=resnett',
      "task.model.backbone.type is 'resnett'; expected one of .*resnet",
    ),
    (
      'runtime.mixed_precision_dtype=mixed_float16',
      "mixed_precision_dtype is 'mixed_float16'; expected one of .*'float16'",
    ),
    (
      'trainer.best_checkpoint_metric_comp=max',
      "best_checkpoint_metric_comp is 'max'; expected one of .*'higher'",
    ),
    # Values that exclude each other.
    (
      'runtime.mixed_precision_dtype=float16,'
      'trainer.optimizer_config.ema.average_decay=0.9',
      'trainer.optimizer_config.ema .*float16.*bfloat16',
    ),
    (
      'task.harmonization.warmup_steps=101,trainer.train_steps=100',
      'task.harmonization.warmup_steps is 101; .*train_steps .100.',
    ),
    ('trainer.validation_steps=7', 'validation_steps is 7; expected -1'),
    (
      'trainer.best_checkpoint_export_subdir=best',
      "best_checkpoint_eval_metric is ''; .* both",
    ),
    (
      'trainer.best_checkpoint_eval_metric=alignment',
      "best_checkpoint_export_subdir is ''; .* both",
    ),
    (
      'trainer.best_checkpoint_export_subdir=best,'
      'trainer.best_checkpoint_eval_metric=alignmnt,'
      'task.mapped_validation_data.input_path=a',
      "eval_metric is 'alignmnt'; .*'alignment_spearman_low'",
    ),
    # Notation: nothing is interpreted as something else.
    ('trainer.train_steps=1,trainer.train_steps=2', 'train_steps.*twice'),
    ('task.harmonization.weight', "'task.harm.*FIELD="),
    ('trainer.train_steps=1,,', "parsed from ','"),
    ('task.model.input_size=[32,32', r'--params_override=task.model.input'),
    (
      '{task: {harmonization: {weight: 2020-01-01}}}',
      r'task.harmonization.weight is a date \(2020-01-01\)',
    ),
    ('{task: {harmonization: {1: 2}}}', 'harmonization has the field 1'),
    ('{task: {train_data: {input_path: !!set {a}}}}', 'input_path is a set'),
    # Lists and missing values.
    (
      'task.mapped_data.crop_area_range=3',
      'crop_area_range is 3; .* list of 2 finite numbers',
    ),
    ('task.mapped_data.crop_area_range=[.1]', r'is \[0.1\]; .* list of 2'),
    ('task.mapped_data.crop_area_range=null', 'crop_area_range is None'),
    ('task.model.input_size=32', 'input_size is 32; .* whole numbers'),
    ('task.mapped_data.input_path=5', 'input_path is 5; .* strings, or text'),
    ('trainer.steps_per_loop=null', 'steps_per_loop is None; .* whole'),
    ('task.losses=null', 'task.losses is None; .*section'),
    # Numbers out of range.
    ('trainer.steps_per_loop=0', 'steps_per_loop is 0; .* 1 or more'),
    ('trainer.max_to_keep=0', 'max_to_keep is 0; .* 1 or more'),
    ('trainer.train_steps=-1', 'train_steps is -1'),
    (
      'trainer.summary_interval=3,trainer.steps_per_loop=2',
      r'summary_interval is 3; .* multiple of trainer.steps_per_loop \(2\)',
    ),
    (
      'task.mapped_data.shuffle_buffer_size=0,task.mapped_data.input_path=a',
      'task.mapped_data.shuffle_buffer_size is 0',
    ),
    ('task.model.norm_activation.norm_momentum=2', 'norm_momentum is 2'),
    ('trainer.optimizer_config.ema.average_decay=2', 'average_decay is 2'),
    ('task.evaluation.top_k=0', 'top_k is 0'),
    (
      '{trainer: {optimizer_config: {learning_rate: {type: cosine, cosine: '
      '{initial_learning_rate: .1, decay_steps: 0}}}}}',
      'trainer.optimizer_config.learning_rate.cosine.decay_steps is 0',
    ),
    (
      'trainer.optimizer_config.learning_rate.type=cosine',
      'cosine.initial_learning_rate is None; .* needs it',
    ),
    # Names of devices and strategies.
    (
      'runtime.distribution_strategy=mirrord',
      "distribution_strategy is 'mirrord'; expected one of .*'mirrored'",
    ),
    ('runtime.distribution_strategy=off', 'is False; .*quote'),
    ('runtime.num_gpus=-1', 'num_gpus is -1'),
    (
      'runtime.num_gpus=2,runtime.distribution_strategy=one_device',
      'num_gpus is 2; .*one_device',
    ),
    ('runtime.all_reduce_alg=ring', "all_reduce_alg is 'ring'; .*'nccl'"),
    ('runtime.loss_scale=big', "loss_scale is 'big'; expected 'dynamic'"),
    # Thresholds apply to probabilities.
    (
      'task.evaluation.precision_and_recall_thresholds=[.3]',
      r'thresholds is \[0.3\]; .*task.model.output_softmax to True',
    ),
    (
      'task.evaluation.precision_and_recall_thresholds=[3],'
      'task.model.output_softmax=true',
      r'thresholds is \[3\]; .*0 to 1',
    ),
    (
      'task.evaluation.report_per_class_precision_and_recall=true',
      'is True; .*task.evaluation.precision_and_recall_thresholds',
    ),
    # Accuracy needs images without maps.
    (
      'trainer.best_checkpoint_export_subdir=best,'
      'trainer.best_checkpoint_eval_metric=accuracy,'
      'task.validation_data.input_path=,'
      'task.mapped_validation_data.input_path=a',
      "eval_metric is 'accuracy'; .*'clickme_accuracy'",
    ),
  )
  def test_stops(self, override, message):
    with self.assertRaisesRegex((KeyError, ValueError), message):
      _parse(params_override=override)

  @parameterized.parameters(
    'trainer.best_checkpoint_export_subdir=best,'
    'trainer.best_checkpoint_eval_metric=alignment_low,'
    'task.mapped_validation_data.input_path=a',
    'trainer.best_checkpoint_export_subdir=best,'
    'trainer.best_checkpoint_eval_metric=alignment_specific,'
    'task.mapped_validation_data.input_path=a',
    'runtime.mixed_precision_dtype=bfloat16,'
    'trainer.optimizer_config.ema.average_decay=0.9',
    'task.harmonization.warmup_steps=100,trainer.train_steps=100',
    'task.evaluation.precision_and_recall_thresholds=[.3],'
    'task.model.output_softmax=true',
    '{task: {harmonization: {levels: 2, weight: 3}}}',
  )
  def test_goes_on(self, override):
    _parse(params_override=override)

  def test_metric_of_a_stock_experiment(self):
    best = (
      'trainer.best_checkpoint_export_subdir=best,'
      'trainer.best_checkpoint_eval_metric='
    )
    _parse('resnet_imagenet', params_override=best + 'accuracy')
    _parse('resnet_imagenet', params_override=best + 'validation_loss')
    with self.assertRaisesRegex(ValueError, "metric is 'alignment'; "):
      _parse('resnet_imagenet', params_override=best + 'alignment')

  def test_an_experiment_that_is_not_known(self):
    with self.assertRaisesRegex(
      ValueError,
      '--experiment=harmonised_resnet_imagenet .*one of .*'
      'maxvit_imagenet, .*Did you mean harmonized_resnet_imagenet',
    ):
      _parse('harmonised_resnet_imagenet')

  def test_a_field_that_is_not_known(self):
    with self.assertRaisesRegex(
      ValueError,
      '--params_override: task.harmonization.wieght is not a '
      'field.*Did you mean weight',
    ):
      _parse(params_override='task.harmonization.wieght=1')

  def test_files_as_editors_write_them(self):
    text = 'task: {harmonization: {weight: 3}}'
    for encoding in ('utf-8', 'utf-8-sig', 'utf-16'):
      path = self._write('')
      with open(path, 'wb') as f:
        f.write(text.encode(encoding))
      for flags in (dict(config_file=[path]), dict(params_override=path)):
        self.assertEqual(_parse(**flags).task.harmonization.weight, 3)

  def test_an_address_in_a_file_stays(self):
    path = self._write('runtime: {tpu: local}')
    self.assertEqual(_parse(config_file=[path]).runtime.tpu, 'local')

  @parameterized.parameters(
    ('', 'params.yaml: .*empty'),
    ('- 1', r'params.yaml: .*\[1\]'),
    ('task: {}\ntask: {}', "params.yaml: line 2, .*'task' is given twice"),
    ('a: [1', 'params.yaml: line 1'),
    ('? [a]\n: 1', 'is not a name'),
    ('task: !!binary aGk=', 'task is a byt'),
    ('tsak: {}', 'tsak'),
    ('task: {harmonization: {wieght: 1}}', 'wieght'),
    ('task: {mapped_data: {aug_type: {typ: randaug}}}', 'typ'),
    ('task: {harmonization: {weight: "1"}}', "weight is '1'"),
    ('trainer: 5', 'params.yaml: trainer is 5'),
    (
      'task: {harmonization: {levels: -1}}',
      'params.yaml: task.harmonization.levels is -1',
    ),
  )
  def test_yaml_stops(self, text, message):
    with self.assertRaisesRegex((KeyError, ValueError), message):
      _parse(config_file=[self._write(text)])


class GinChecksTest(_Case):
  @parameterized.parameters(
    ('scope/harmonize.weight = 3.', 'gin binds scope/harmonize.weight'),
    ('harmonize.config = 3', 'gin binds harmonize.config'),
    ('weight = 3.', 'gin binds weight, .*harmonize.weight'),
    ('my.weight = 3.', 'No configurable matching'),
    ('harmonize.wieght = 3.', 'wieght'),
    ("harmonize.weight = 'ten'", "task.harmonization.weight is 'ten'"),
  )
  def test_what_nothing_reads_stops(self, binding, message):
    with self.assertRaisesRegex(ValueError, message):
      gin.parse_config(binding)
      _parse()

  def test_what_is_read_goes_on(self):
    gin.parse_config(
      [
        'strength = 3.',
        'harmonize.weight = %strength',
        "harmonize.input_path = ['a', 'b']",
      ]
    )
    self.assertEqual(_parse().task.harmonization.weight, 3.0)


class ReplacedBindingsTest(_Case):
  """Bindings that another layer replaces are logged."""

  def _logged(self, *bindings, **flags):
    with self.assertLogs('absl', 'WARNING') as logs:
      experiment_parser.logging.warning('start')
      with gin.unlock_config():
        gin_settings.parse([], list(bindings))
      _parse(**flags)
    return logs.output[1:]

  def test_by_a_flag_and_by_a_file(self):
    path = self._write('task: {harmonization: {weight: .3, levels: 3}}')
    found = self._logged(
      'harmonize.weight = 5',
      'harmonize.levels = 3',
      "harmonize.map_decoder = 'canonical'",
      'harmonize.label_offset = 1',
      config_file=[path],
      params_override='task.mapped_validation_data.map_decoder=clickme',
    )
    self.assertLen(found, 2)
    self.assertRegex(
      found[0],
      'harmonize.weight to 5, but task.harmonization.'
      f'weight is 0.3: {path} replaces it',
    )
    self.assertRegex(
      found[1],
      "harmonize.map_decoder to 'canonical', but task."
      "mapped_validation_data.map_decoder is 'clickme': --param",
    )

  def test_by_a_macro_and_by_gin_itself(self):
    found = self._logged(
      'strength = 4.',
      'harmonize.weight = %strength',
      params_override='task.harmonization.weight=2',
    )
    self.assertRegex(' '.join(found), r'harmonize.weight to 4.0, but .* is 2')
    gin.clear_config()
    found = self._logged('harmonize.weight = 4', 'harmonize.weight = 2')
    self.assertRegex(
      ' '.join(found),
      '--gin_params=harmonize.weight = 4 binds '
      'harmonize.weight to 4; --gin_params=harmonize.weight = 2 .* with 2',
    )
    gin.clear_config()
    self.assertRegex(
      ' '.join(self._logged('harmonize.label_offset = None')),
      'label_offset to None, which has no effect',
    )

  def test_what_stays_is_not_named(self):
    self.assertEmpty(
      self._logged(
        'harmonize.weight = 5',
        "harmonize.input_path = 'a'",
        params_override='task.harmonization.weight=5,'
        'task.harmonization.levels=3',
      )
    )

  @parameterized.parameters(
    'harmonize.saliency = abs_max',
    'harmonize.enabled = true',
    'harmonize.input_path = gs://a/b*',
    'harmonize.weight 5',
    'harmonize.weight =',
  )
  def test_gin_that_cannot_be_parsed(self, binding):
    with self.assertRaisesRegex(
      ValueError,
      rf'--gin_params={re.escape(binding)}: .*'
      'text in quotes',
    ):
      gin_settings.parse([], [binding])

  def test_a_value_names_the_last_file_that_sets_it(self):
    first = self._write('task: {harmonization: {weight: -1}}')
    other = self._write('trainer: {train_steps: 5}')
    with self.assertRaisesRegex(
      ValueError, f'^{first}: task.harmonization.weight is -1'
    ):
      _parse(config_file=[first, other])
    with self.assertRaisesRegex(
      ValueError, '^--params_override: task.harmonization.weight is -2'
    ):
      _parse(
        config_file=[first], params_override='task.harmonization.weight=-2'
      )

  @parameterized.parameters(
    ('harmonise.weight = 5', 'harmonise .*mean harmonize'),
    ('harmonize.weight = @foo()', 'foo is not known'),
    ('import no_such_module', "named 'no_such_module'"),
  )
  def test_gin_of_an_unknown_name(self, binding, message):
    with self.assertRaisesRegex(
      ValueError, rf'^--gin_params={re.escape(binding)}: .*{message}'
    ):
      gin_settings.parse([], [binding])
    path = self._write(binding)
    with self.assertRaisesRegex(ValueError, f'^--gin_file={path}: .*{message}'):
      gin_settings.parse([path], [])

  def test_gin_of_an_unknown_macro(self):
    with self.assertRaisesRegex(ValueError, '%foo is not defined'):
      gin_settings.parse([], ['harmonize.weight = %foo'])

  def test_gin_files_that_do_not_exist(self):
    with self.assertRaisesRegex(
      ValueError,
      '^--gin_file=harmonise.gin .*released_form.gin.*mean harmonize.gin',
    ):
      gin_settings.parse(['harmonise.gin'], [])
    path = self._write("include 'nowhere.gin'")
    with self.assertRaisesRegex(ValueError, f'^--gin_file={path}: .*nowhere'):
      gin_settings.parse([path], [])

  def test_gin_of_an_unknown_argument(self):
    with self.assertRaisesRegex(
      ValueError,
      '--gin_params=harmonize.wieght = 5: harmonize.wieght is '
      'not an argument.*levels.*Did you mean harmonize.weight',
    ):
      gin_settings.parse([], ['harmonize.wieght = 5'])


class TrustTest(_Case):
  """A YAML file is data and never runs code."""

  def test_another_loader_would_run_it(self):
    path, marker = self._evil()
    with open(path) as f:
      yaml.unsafe_load(f)
    os.rmdir(marker)

  def _evil(self):
    marker = os.path.join(self.get_temp_dir(), 'ran')
    path = self._write(f'task: !!python/object/apply:os.mkdir [{marker!r}]\n')
    return path, marker

  @parameterized.parameters('config_file', 'params_override')
  def test_of_a_configuration(self, flag):
    path, marker = self._evil()
    value = [path] if flag == 'config_file' else path
    with self.assertRaisesRegex(ValueError, 'apply:os.mkdir'):
      _parse(**{flag: value})
    self.assertFalse(os.path.exists(marker))

  @parameterized.parameters(
    ('', 'params.yaml.*empty'),
    ('task: {', 'expected YAML'),
    ('task: 5', 'params.yaml is not the configuration of an image'),
    ('task: {modle: {}}', 'modle'),
  )
  def test_a_damaged_folder(self, text, message):
    self._write(text)
    with self.assertRaisesRegex(ValueError, f'{self.folder}.*{message}'):
      runs.load_config(self.folder)

  def test_of_a_runs_folder(self):
    _, marker = self._evil()
    with self.assertRaisesRegex(ValueError, 'params.yaml: .*apply:os.mkdir'):
      runs.load_config(self.folder)
    self.assertFalse(os.path.exists(marker))


if __name__ == '__main__':
  tf.test.main()
