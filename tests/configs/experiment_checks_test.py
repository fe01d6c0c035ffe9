"""Tests that what cannot work stops before anything is built."""

import os
import tempfile

from absl.testing import parameterized
import gin
import tensorflow as tf, tf_keras
import yaml

from official.core import train_utils
from official_ext.harmonization import train
from official_ext.harmonization.evaluation import runs

_NAME = 'harmonized_resnet_imagenet'


def _parse(experiment=_NAME, config_file=(), **flags):
  return train.parse_configuration(
      train_utils.ParseConfigOptions(experiment, list(config_file), tpu=None,
                                     **flags))


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
      # A key that there is not, at every depth.
      ('tsak.harmonization.weight=1', 'tsak'),
      ('task.harmonisation.weight=1', 'harmonisation'),
      ('task.harmonization.wieght=1', 'wieght'),
      ('task.mapped_data.mixup_and_cutmix.mixup_alfa=1', 'mixup_alfa'),
      ('trainer.optimizer_config.optimizer.sgd.momentun=1', 'momentun'),
      # Another type, or a value in the place of a section.
      ('task.harmonization.weight=ten', "weight is 'ten': .* finite number"),
      ('task.harmonization.weight=.nan', 'weight is nan: .* finite number'),
      ('task.harmonization.weight=.inf', 'weight is inf: .* finite number'),
      ('task.harmonization.levels=2.5', r'levels is 2.5: .* whole number'),
      ('task.harmonization.enabled=maybe', "enabled is 'maybe': .* true or"),
      ('task.harmonization.ceiling=true', 'ceiling is True: .* finite number'),
      ('task.harmonization=5', 'task.harmonization is 5: .*fields of its own'),
      ('task=5', 'experiment.task is 5: .*fields of its own'),
      ('trainer.train_steps=1e5', 'train_steps is 100000.0: .*not 1e5'),
      ('task.train_data.global_batch_size=many', "batch_size is 'many'"),
      # Something to choose.
      ('trainer.optimizer_config.optimizer.type=sdg',
       "optimizer.type is 'sdg': choose one of .*'sgd'"),
      ('task.model.backbone.type=resnett',
       "task.model.backbone.type is 'resnett': choose one of .*'resnet'"),
      ('runtime.mixed_precision_dtype=mixed_float16',
       "mixed_precision_dtype is 'mixed_float16': choose one of .*'float16'"),
      ('trainer.best_checkpoint_metric_comp=max',
       "best_checkpoint_metric_comp is 'max': choose one of .*'higher'"),
      # Two that do not go together.
      ('runtime.mixed_precision_dtype=float16,'
       'trainer.optimizer_config.ema.average_decay=0.9',
       'trainer.optimizer_config.ema .*float16: use bfloat16 or float32'),
      ('task.harmonization.warmup_steps=101,trainer.train_steps=100',
       'task.harmonization.warmup_steps is 101: .* after 100 steps'),
      ('trainer.validation_steps=7', 'validation_steps is 7: set it to -1'),
      ('trainer.best_checkpoint_export_subdir=best',
       "best_checkpoint_eval_metric is '': .* needs both"),
      ('trainer.best_checkpoint_eval_metric=alignment',
       "best_checkpoint_export_subdir is '': .* needs both"),
      ('trainer.best_checkpoint_export_subdir=best,'
       'trainer.best_checkpoint_eval_metric=alignmnt,'
       'task.mapped_validation_data.input_path=a',
       "eval_metric is 'alignmnt': .*choose one of .*'alignment_spearman_low'"),
      # Accuracy needs images to take it on.
      ('trainer.best_checkpoint_export_subdir=best,'
       'trainer.best_checkpoint_eval_metric=accuracy,'
       'task.validation_data.input_path=,'
       'task.mapped_validation_data.input_path=a',
       "eval_metric is 'accuracy': evaluation with these sources .*"
       "'clickme_accuracy'"))
  def test_stops(self, override, message):
    with self.assertRaisesRegex((KeyError, ValueError), message):
      _parse(params_override=override)

  @parameterized.parameters(
      'trainer.best_checkpoint_export_subdir=best,'
      'trainer.best_checkpoint_eval_metric=alignment_low,'
      'task.mapped_validation_data.input_path=a',
      'runtime.mixed_precision_dtype=bfloat16,'
      'trainer.optimizer_config.ema.average_decay=0.9',
      'task.harmonization.warmup_steps=100,trainer.train_steps=100',
      'task.harmonization.weight=3')
  def test_goes_on(self, override):
    _parse(params_override=override)

  def test_metric_of_a_stock_experiment(self):
    best = ('trainer.best_checkpoint_export_subdir=best,'
            'trainer.best_checkpoint_eval_metric=')
    _parse('resnet_imagenet', params_override=best + 'accuracy')
    _parse('resnet_imagenet', params_override=best + 'validation_loss')
    with self.assertRaisesRegex(ValueError, "metric is 'alignment': "):
      _parse('resnet_imagenet', params_override=best + 'alignment')

  @parameterized.parameters(
      ('tsak: {}', 'tsak'),
      ('task: {harmonization: {wieght: 1}}', 'wieght'),
      ('task: {mapped_data: {aug_type: {typ: randaug}}}', 'typ'),
      ('task: {harmonization: {weight: "1"}}', "weight is '1'"),
      ('trainer: 5', 'experiment.trainer is 5'))
  def test_yaml_stops(self, text, message):
    with self.assertRaisesRegex((KeyError, ValueError), message):
      _parse(config_file=[self._write(text)])


class GinChecksTest(_Case):

  @parameterized.parameters(
      ('scope/harmonize.weight = 3.', 'gin binds scope/harmonize.weight'),
      ('harmonize.config = 3', 'gin binds harmonize.config'),
      ('weight = 3.', 'gin binds weight, which .*harmonize.weight'),
      ('my.weight = 3.', 'No configurable matching'),
      ('harmonize.wieght = 3.', 'wieght'),
      ("harmonize.weight = 'ten'", "task.harmonization.weight is 'ten'"))
  def test_what_nothing_reads_stops(self, binding, message):
    with self.assertRaisesRegex(ValueError, message):
      gin.parse_config(binding)
      _parse()

  def test_what_is_read_goes_on(self):
    gin.parse_config(['strength = 3.', 'harmonize.weight = %strength',
                      "harmonize.input_path = ['a', 'b']"])
    self.assertEqual(_parse().task.harmonization.weight, 3.)


class TrustTest(_Case):
  """A YAML file is data: nothing in it runs."""

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
    with self.assertRaisesRegex(yaml.YAMLError, 'apply:os.mkdir'):
      _parse(**{flag: value})
    self.assertFalse(os.path.exists(marker))

  def test_of_a_runs_folder(self):
    _, marker = self._evil()
    with self.assertRaisesRegex(ValueError, 'params.yaml .*apply:os.mkdir'):
      runs.load_config(self.folder)
    self.assertFalse(os.path.exists(marker))


if __name__ == '__main__':
  tf.test.main()
