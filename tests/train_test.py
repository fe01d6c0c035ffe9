# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the driver, from the command line to the report."""

# Bazel: size = "large"
# Bazel: tags = ["slow"]
# Bazel: data = ["//:train", "//official_ext/harmonization:compare"]

import functools
import json
import os
import subprocess
import sys
from unittest import mock

from absl.testing import parameterized
import numpy as np
import tensorflow as tf
import yaml

from official_ext.harmonization import compare
from official_ext.harmonization import input_checks
from official_ext.harmonization import run_folder
from official_ext.harmonization import train
from official_ext.harmonization.benchmark import runs
from testing import fixtures
from tests import forked

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_TINY = {
  'task': {
    'model': {
      'num_classes': 4,
      'input_size': [32, 32, 3],
      'backbone': {'resnet': {'model_id': fixtures.RESNET}},
    },
    'losses': {'one_hot': True, 'soft_labels': False},
    'harmonization': {'mapped_fraction': 1.0, 'weight': 1.0},
    'train_data': {'global_batch_size': 4, 'mixup_and_cutmix': None},
    'validation_data': {'global_batch_size': 4, 'input_path': ''},
    'mapped_data': {
      'label_offset': 0,
      'mixup_and_cutmix': None,
      'shuffle_buffer_size': 8,
    },
    'mapped_validation_data': {'label_offset': 0},
  },
  'trainer': {
    'train_steps': 2,
    'steps_per_loop': 1,
    'summary_interval': 1,
    'checkpoint_interval': 2,
    'validation_interval': 2,
  },
  'runtime': {'distribution_strategy': 'one_device', 'num_gpus': 0},
}


def _run(command, *flags):
  """Runs a command at the root, which also knows the network of the fixtures.

  Args:
    command: the arguments of Python.
    *flags: flags of a command that trains.

  Returns:
    The exit code, the output and the errors.
  """
  environment = {
    **os.environ,
    'TF_CPP_MIN_LOG_LEVEL': '2',
    'CUDA_VISIBLE_DEVICES': '',
    'PYTHONPATH': _ROOT,
  }
  environment.pop('BUILD_WORKING_DIRECTORY', None)
  done = subprocess.run(
    [
      sys.executable,
      *command,
      *flags,
      '--gin_params=import testing.fixtures',
    ],
    cwd=_ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


def _train(*flags):
  """Runs train.py in a fork, which does not import TensorFlow again."""
  return forked.command('train', *flags)


class DriverTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.get_temp_dir()
    self.mapped = fixtures.write_numbered(folder, 'mapped.tfrecords', 6)
    self.model_dir = os.path.join(folder, self.id().split('.')[-1])
    self.tiny = os.path.join(folder, 'tiny.yaml')
    with open(self.tiny, 'w') as f:
      yaml.safe_dump(_TINY, f)

  def _gin(self, *bindings):
    return [f'--gin_params={b}' for b in bindings]

  def _paths(self):
    return self._gin(
      f"harmonize.input_path = '{self.mapped}'",
      f"harmonize.validation_input_path = '{self.mapped}'",
    )

  def test_trains_evaluates_and_is_opened_again(self):
    baseline = os.path.join(self.get_temp_dir(), 'baseline')
    for train_run, folder, override in (
      (functools.partial(_run, ['train.py']), self.model_dir, ''),
      (_train, baseline, 'task.harmonization.weight=0'),
    ):
      code, output, errors = train_run(
        '--experiment=harmonized_resnet_imagenet',
        f'--config_file={self.tiny}',
        f'--model_dir={folder}',
        '--seed=1',
        f'--params_override={override}',
        *self._paths(),
      )
      self.assertEqual(code, 0, errors)
      for logged in (
        'alignment_spearman',
        'clickme_accuracy',
        'alignment_n',
        'alignment_low',
      ):
        self.assertIn(logged, output)
      self.assertEqual('harmonization_loss' in output, not override)
    for name in (
      'params.yaml',
      'config.gin',
      'versions.json',
      'command.txt',
      'operative_config.train_and_eval.gin',
      'checkpoint',
      'alignment_per_image.csv',
      'alignment_panels.png',
    ):
      self.assertTrue(os.path.exists(os.path.join(self.model_dir, name)), name)
    with open(os.path.join(self.model_dir, 'config.gin')) as f:
      self.assertIn('harmonize.input_path', f.read())

    self._other_settings_are_refused()
    run = runs.Run(self.model_dir)
    self.assertEqual(run.step, 2)
    scores = run.evaluate()
    self.assertEqual(scores['alignment_n'], 6)

    report = os.path.join(self.get_temp_dir(), 'report')
    code, output, errors = forked.command(
      'compare',
      f'--baseline={baseline}',
      f'--harmonized={self.model_dir}',
      f'--output_dir={report}',
    )
    self.assertEqual(code, 0, errors)
    self.assertIn('Spearman', output)
    with open(os.path.join(report, 'results.json')) as f:
      found = json.load(f)['scores']['harmonized']
    self.assertAllClose({k: found[k] for k in scores}, scores, rtol=1e-5)
    self._differences_are_paired(report, output)
    self.assertIn('these maps: gradient', output)
    self._other_maps_are_refused(baseline)
    with open(os.path.join(report, 'panels.png'), 'rb') as f:
      picture = tf.io.decode_png(f.read(), channels=3).numpy()
    # Four columns of pictures that are not blank.
    self.assertGreater(np.std(picture.astype(float), axis=(0, 1)).min(), 20.0)

  def _other_maps_are_refused(self, baseline):
    """Runs whose evaluations score different maps are not compared."""
    settings = run_folder.read_settings(baseline)
    settings['task']['harmonization']['evaluation_explainer'] = (
      'smoothgrad_squared'
    )
    other = os.path.join(self.get_temp_dir(), 'other_maps')
    os.makedirs(other)
    with open(os.path.join(other, 'params.yaml'), 'w') as f:
      yaml.safe_dump(settings, f)
    with self.assertRaisesRegex(
      ValueError, r'baseline: smoothgrad_squared, 25 .*harmonized: gradient'
    ):
      compare.main(compare.Options(baseline=other, harmonized=self.model_dir))

  def _differences_are_paired(self, report, output):
    """The images' differences have the differences of the logged means."""
    with open(os.path.join(report, 'results.json')) as f:
      results = json.load(f)
    runs_, found = results['scores'], results['differences']
    for name in (
      'clickme_accuracy',
      'alignment',
      'alignment_dice',
      'alignment_specific',
      'alignment_shuffled',
    ):
      expected = runs_['harmonized'][name] - runs_['baseline'][name]
      self.assertAllClose(found[name]['value'], expected, atol=2e-6, msg=name)
    difference = found['alignment_specific']
    self.assertEqual(difference['n'], 6)
    interval = f'[{difference["low"]:.3f}, {difference["high"]:.3f}]'
    self.assertIn(interval, output)

  def _other_settings_are_refused(self):
    """Other settings are refused in a folder with a checkpoint."""
    path = os.path.join(self.model_dir, 'params.yaml')
    with open(path) as f:
      before = f.read()
    code, output, errors = _train(
      '--experiment=harmonized_resnet_imagenet',
      '--seed=1',
      f'--config_file={self.tiny}',
      f'--model_dir={self.model_dir}',
      '--params_override=task.harmonization.weight=5',
      *self._paths(),
    )
    self.assertEqual(code, 1)
    self.assertNotIn('alignment_spearman', output)
    self.assertRegex(
      errors.strip().splitlines()[-1],
      f'^train.py: {path}: task.harmonization.weight was 1.0 and is now 5; '
      'expected .* step 2 was trained with.*--allow_changed_settings',
    )
    with open(path) as f:
      self.assertEqual(f.read(), before)

  def test_random_weights_are_not_evaluated(self):
    code, _, errors = _train(
      '--experiment=harmonized_resnet_imagenet',
      '--mode=eval',
      f'--config_file={self.tiny}',
      f'--model_dir={self.model_dir}',
      *self._paths(),
    )
    self.assertEqual(code, 1)
    self.assertRegex(
      errors.strip().splitlines()[-1],
      f'^train.py: --model_dir is {self.model_dir}, which has no checkp',
    )
    self.assertFalse(os.path.exists(self.model_dir))

  def test_stock_experiment_through_gin_alone(self):
    code, output, errors = _train(
      '--experiment=resnet_imagenet',
      '--mode=train',
      '--gin_file=harmonize.gin',
      f'--model_dir={self.model_dir}',
      f'--config_file={self.tiny}',
      *self._paths(),
      '--params_override=trainer.train_steps=1',
    )
    self.assertEqual(code, 0, errors)
    self.assertIn('harmonization_loss', output)

  def test_model_gardens_own_driver_runs_the_experiment(self):
    code, output, errors = _run(
      ['-m', 'official.vision.train'],
      '--experiment=harmonized_resnet_imagenet',
      '--mode=train_and_eval',
      f'--model_dir={self.model_dir}',
      f'--config_file={self.tiny}',
      '--gin_params=import official_ext.harmonization.registry_imports',
      *self._paths(),
      '--params_override=trainer.train_steps=2',
    )
    self.assertEqual(code, 0, errors)
    self.assertIn('harmonization_loss', output)
    self.assertIn('alignment_spearman', output)

  @parameterized.parameters(
    ('train', '--experiment', '--[no]dry_run', 'harmonize.enabled'),
    ('compare', '--baseline', 'panels.png'),
    (
      'export_saved_model',
      '--checkpoint_path',
      "run's size",
    ),
    (
      'export_tflite',
      '--quant_type',
      'task.mapped_data',
    ),
    (
      'data.make_digits_clickme',
      '--decoy_strength',
      'decoy-MNIST',
    ),
    (
      'data.download_clickme',
      '--base_url',
      '319 shards',
    ),
    (
      'data.verify_records',
      '--map_decoder',
      'checksums',
    ),
  )
  def test_help(self, command, *words):
    code, output, _ = forked.command(command, '--help')
    self.assertEqual(code, 0)
    for word in words:
      self.assertIn(word, output)

  def test_dry_run_resolves_in_order_and_touches_nothing(self):
    with open(self.tiny, 'w') as f:
      yaml.safe_dump(
        {
          **_TINY,
          'task': {
            **_TINY['task'],
            'harmonization': {
              'levels': 3,
              'weight': 2.0,
              'mapped_fraction': 1.0,
            },
          },
        },
        f,
      )
    code, output, errors = _train(
      '--experiment=harmonized_resnet_imagenet',
      '--dry_run',
      f'--model_dir={self.model_dir}',
      f'--config_file={self.tiny}',
      *self._gin(
        'harmonize.levels = 2',
        'harmonize.weight = 3.',
        "harmonize.saliency = 'abs_max'",
      ),
      '--params_override=task.harmonization.weight=4',
    )
    self.assertEqual(code, 0, errors)
    for name, bound, final in (('levels', 2, 3), ('weight', 3.0, 4)):
      self.assertRegex(errors, f'harmonize.{name} to {bound}, .* is {final}')
    self.assertNotIn('harmonize.saliency', errors)
    found = yaml.safe_load(output)['task']['harmonization']
    self.assertEqual(
      (found['saliency'], found['levels'], found['weight']), ('abs_max', 3, 4.0)
    )
    self.assertFalse(os.path.exists(self.model_dir))

  @parameterized.named_parameters(
    (
      'data',
      [],
      r"task.mapped_data.input_path is ''.*"
      'data.download_clickme --output_dir=.*local_cpu.yaml',
    ),
    (
      'files',
      ["--gin_params=harmonize.input_path = '/nowhere/*'"],
      'task.mapped_data.input_path.*/nowhere.*local_cpu.yaml',
    ),
    ('binding', ['--gin_params=harmonize.wieght = 1'], 'wieght'),
    (
      'idle',
      ['--experiment=resnet_imagenet', '--gin_params=harmonize.weight = 1'],
      'harmonize.weight.*harmonize.enabled = True',
    ),
    ('key', ['--params_override=task.harmonization.wieght=1'], 'wieght'),
    ('experiment', ['--experiment=harmonised'], 'harmonised'),
    ('subclass', ['--experiment=retinanet_resnetfpn_coco'], 'retinanet'),
    (
      'steps',
      ['--params_override=trainer.validation_steps=5'],
      'trainer.validation_steps is 5',
    ),
    (
      'value',
      ['--params_override=task.harmonization.levels=0'],
      'task.harmonization.levels is 0',
    ),
    ('yaml', ['--config_file=nowhere.yaml'], 'nowhere.yaml'),
  )
  def test_stops_with_a_sentence(self, flags, sentence):
    code, _, errors = _train(
      '--experiment=harmonized_resnet_imagenet',
      f'--model_dir={self.model_dir}',
      *flags,
    )
    self.assertNotEqual(code, 0)
    last = errors.strip().splitlines()[-1]
    self.assertRegex(last, 'train.py: .*' + sentence)
    self.assertFalse(os.path.exists(self.model_dir))


def _run_experiment(params, model_dir, mode='eval', **runner):
  """Runs an experiment whose runner is replaced."""
  with mock.patch.object(train.runner, 'Runner', **runner):
    train.run_experiment(
      params,
      experiment='harmonized_resnet_imagenet',
      mode=mode,
      model_dir=model_dir,
      enable_async_checkpointing=False,
    )


class StartTest(tf.test.TestCase):
  def test_a_start_that_fails_leaves_the_settings_of_a_run(self):
    folder = self.get_temp_dir()
    run_folder.write_start(fixtures.experiment(weight=2.0), folder, None)
    path = os.path.join(folder, 'params.yaml')
    error = tf.errors.UnavailableError(None, None, 'TPU not found')
    with self.assertRaises(tf.errors.UnavailableError):
      _run_experiment(
        fixtures.experiment(weight=3.0), folder, mode='train', side_effect=error
      )
    with open(path) as f:
      self.assertIn('weight: 2.0', f.read())
    runner = mock.MagicMock()
    runner.run.side_effect = KeyboardInterrupt  # After the run has started.
    with self.assertRaises(KeyboardInterrupt):
      _run_experiment(
        fixtures.experiment(weight=3.0),
        folder,
        mode='train',
        return_value=runner,
      )
    with open(path) as f:
      self.assertIn('weight: 3.0', f.read())


class NonFiniteTest(tf.test.TestCase):
  def _run(self, report):
    experiment = mock.Mock(spec=train.runner.Runner)
    experiment.run.side_effect = RuntimeError('The loss value is NaN')
    experiment.guard.report = report
    experiment.checkpoint_manager.latest_checkpoint = 'runs/x/ckpt-4'
    _run_experiment(
      fixtures.experiment(), self.get_temp_dir(), return_value=experiment
    )

  def test_is_named(self):
    with self.assertRaisesRegex(
      SystemExit,
      r'train.py: Step 7: logits is not finite\. .*runs/x/ckpt-4.*'
      'trainer.recovery_max_trials is 0',
    ):
      self._run('Step 7: logits is not finite.')

  def test_other_errors_stay_what_they_are(self):
    with self.assertRaisesRegex(RuntimeError, 'The loss value is NaN'):
      self._run('')


class BadRecordTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.get_temp_dir()
    self.good = fixtures.write_numbered(folder, 'good.tfrecords', 3)
    self.bad = fixtures.write_numbered(folder, 'bad.tfrecords', 3)
    with open(self.bad, 'r+b') as f:
      f.seek(-5, os.SEEK_END)
      f.write(b'#')
    with self.assertRaises(tf.errors.DataLossError) as caught:
      for _ in tf.data.TFRecordDataset([self.good, self.bad]):
        pass
    self.error = caught.exception

  @parameterized.parameters('mapped', 'validation', 'plain', 'plain_validation')
  def test_is_named(self, source):
    paths = {
      'mapped': self.good,
      'validation': self.good,
      'plain': '/nowhere/*',
      'plain_validation': '/nowhere/file',
    }
    paths[source] = os.path.join(self.get_temp_dir(), '*.tfrecords')
    with self.assertRaisesRegex(
      SystemExit,
      rf'train.py: Bad record: {self.bad}, record 2 .*at byte '
      r'\d+: the checksum .*verify_records',
    ):
      input_checks.stop_at_bad_record(
        fixtures.experiment(**paths).task, self.error
      )

  def test_the_driver_asks(self):
    params = fixtures.experiment(mapped=self.bad, validation=self.good)
    with self.assertRaisesRegex(SystemExit, self.bad):
      _run_experiment(params, self.get_temp_dir(), side_effect=self.error)

  def test_errors_with_good_files_are_raised(self):
    config = fixtures.experiment(mapped=self.good, validation=self.good)
    with (
      self.assertLogs('absl', level='ERROR') as logs,
      self.assertRaises(tf.errors.DataLossError),
    ):
      input_checks.stop_at_bad_record(config.task, self.error)
    self.assertIn('The 1 files', logs.output[-1])

  @parameterized.parameters('manifest.json', 'good.tfrecords.partial')
  def test_other_files_in_the_folder_are_not_shards(self, name):
    folder = os.path.join(self.get_temp_dir(), name)
    os.makedirs(folder)
    for file in (name, 'x.tfrecords'):
      with open(os.path.join(folder, file), 'w') as f:
        f.write('{}')
    with self.assertRaisesRegex(
      ValueError,
      rf'mapped_data.* matches .*{name}, which is not a '
      r'shard.*\*\.tfrecords',
    ):
      input_checks.check_data(
        fixtures.experiment(mapped=folder + '/*'), 'train'
      )
    input_checks.check_data(
      fixtures.experiment(mapped=folder + '/*.tfrecords'), 'train'
    )


if __name__ == '__main__':
  tf.test.main()
