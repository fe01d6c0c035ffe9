# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the evaluate command, from flags to files."""

# Bazel: tags = ["subprocess"]
# Bazel: size = "large"

import csv
import json
import os
from unittest import mock

from absl import flags
from absl.testing import parameterized
import numpy as np
from PIL import Image
import tensorflow as tf
import tf_keras

from official_ext.harmonization import cli
from official_ext.harmonization import evaluate
from official_ext.harmonization.benchmark import ceilings as ceilings_lib
from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import measured_ceilings
from official_ext.harmonization.benchmark import registry
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.benchmark.protocols import clickme
from official_ext.harmonization.data.records import clickme_release
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.records import release_layout
from testing import fixtures

FLAGS = flags.FLAGS
_MODULE = 'evaluate_test'
_WAS_PARSED = FLAGS.is_parsed()


def setUpModule():
  for options in (*registry.option_classes(), evaluate.Options):
    cli.define(options, _MODULE)


def tearDownModule():
  # Other commands have flags of the same names.
  for flag in list(FLAGS.flags_by_module_dict()[_MODULE]):
    delattr(FLAGS, flag.name)
  if not _WAS_PARSED:
    FLAGS.unparse_flags()


def _save_model(path, seed):
  tf_keras.utils.set_random_seed(seed)
  layers = tf_keras.layers
  tf_keras.Sequential(
    [
      layers.InputLayer((16, 16, 3)),
      layers.Rescaling(1 / 127.5, offset=-1),
      layers.Conv2D(4, 3, 2, activation='relu'),
      layers.Flatten(),
      layers.Dense(fixtures.CLASSES),
    ]
  ).save(path)


def _write_stimuli(folder):
  os.makedirs(folder)
  rng = np.random.default_rng(0)
  for level in (0, 50, 100, 'full'):
    for name in ('panther1', 'panther2', 'airliner1'):
      pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
      Image.fromarray(pixels).save(os.path.join(folder, f'{level}_{name}.png'))


class EvaluateTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()
    self.output_dir = self._path('out')
    self.clickme = fixtures.write_numbered(self.folder, 'val.tfrecords', 5)
    self.models = [
      f'--model=keras:{self._path(name)}.keras' for name in ('base', 'twin')
    ]

  def _path(self, *names):
    return os.path.join(self.folder, *names)

  def _read(self, *names):
    with open(os.path.join(self.output_dir, *names)) as f:
      return f.read()

  def _evaluate(self, *given):
    """Runs the command; returns its exit code or message.

    Controls and a second explainer take most of the time, and are measured if
    `given` names them.
    """
    if any(g.startswith('--clickme') for g in given) and (
      not any('controls' in g for g in given)
    ):
      given = (*given, '--nocontrols', '--random_twins=0')
    if any('--click' in g for g in given) and (
      not any('--explainer' in g for g in given)
    ):
      given = (*given, '--explainers=gradient')
    values = {f.name: f.default for f in FLAGS.flags_by_module_dict()[_MODULE]}
    for name, value in values.items():
      FLAGS[name].value = value
      FLAGS[name].present = 0
    left = FLAGS(
      ['evaluate', f'--output_dir={self.output_dir}', '--batch_size=2', *given]
    )
    try:
      cli.guarded(
        lambda argv: evaluate.main(cli.parsed(evaluate.Options), argv[1:]),
        'evaluate',
      )(left)
    except SystemExit as e:
      return e.code
    return 0

  def test_from_models_to_report(self):
    for seed, name in enumerate(('base', 'twin')):
      _save_model(self._path(f'{name}.keras'), seed)
    _write_stimuli(self._path('stimuli'))
    image = tf.io.encode_png(fixtures.pixels(0)).numpy()
    imagenet = fixtures.write(
      self.folder,
      'valid',
      [record_writer.canonical_example(image, label) for label in (1, 4, 2)],
    )
    code = self._evaluate(
      *self.models,
      f'--model=keras:{self._path("lost.keras")}',
      f'--clickme={self.clickme}',
      f'--imagenet={imagenet}',
      f'--psychophysics={self._path("stimuli")}',
      '--animal_classes=0,1',
      '--twin=base:twin',
      '--controls',
      '--random_twins=1',
      '--comparison_size=32',  # The same code as at 224, in less time.
    )
    self.assertEqual(code, 1)
    results = json.loads(self._read('results.json'))
    self.assertEqual(
      [m['name'] for m in results['models']],
      ['base', 'twin']
      + [f'random-{name}-0' for name in ('base', 'twin')]
      + [f'control-{name}' for name in controls.NAMES],
    )
    self.assertEqual([f['name'] for f in results['failures']], ['lost'])
    self.assertEqual(
      results['left_out'],
      {name: f'no --{name}' for name in ('faithfulness', 'clicktionary')},
    )
    self.assertEqual(results['twins'], [['base', 'twin']])
    self.assertEqual(
      {(c['protocol'], c['first'], c['second']) for c in results['pairs']},
      {(name, 'base', 'twin') for name in ('clickme', 'imagenet')},
    )
    found = results['models'][0]['experiments']
    self.assertEqual(
      {
        name: e['scores'][score]['n']
        for name, e, score in (
          ('clickme', found['clickme'], 'spearman'),
          ('imagenet', found['imagenet'], 'top1'),
          ('psychophysics', found['psychophysics'], 'psychophysics_accuracy'),
        )
      },
      {'clickme': 5, 'imagenet': 3, 'psychophysics': 3},
    )
    for model in results['models']:
      for explained in model['experiments']['clickme']['explainers'].values():
        own, shuffled, specific = (
          explained['scores'][name]['value']
          for name in ('own', 'shuffled', 'specific')
        )
        self.assertAlmostEqual(own - shuffled, specific)
        self.assertEqual(explained['scores']['information_gain']['n'], 5)
    compared = {(c['model'], c['control']) for c in results['comparisons']}
    self.assertEqual(
      compared,
      {
        (name, control)
        for name in ('base', 'twin')
        for control in (
          f'random-{name}',
          *(f'control-{name}' for name in controls.NAMES),
        )
      },
    )
    # These records are not the release.
    self.assertIsNone(found['clickme']['scores']['spearman']['ceiling'])
    rows = list(
      csv.DictReader(self._read('models', 'base.clickme.csv').splitlines())
    )
    self.assertAllClose(
      np.mean([float(row['spearman']) for row in rows]),
      found['clickme']['scores']['spearman']['value'],
    )
    page = self._read('report.html')
    for words in (
      'base → twin',
      'Further metrics',
      'lost.keras does not exist',
      'Psychophysics',
      'data:image/png',
    ):
      self.assertIn(words, page)
    self._check_resuming()

  def _check_resuming(self):
    """Runs the command again with fewer, more and other flags."""
    given = (
      *self.models,
      f'--clickme={self.clickme}',
      '--comparison_size=32',
      '--nocontrols',
      '--random_twins=0',
    )

    def score(*more):
      self.assertEqual(self._evaluate(*given, *more), 0)
      experiments = json.loads(self._read('results.json'))['models'][1][
        'experiments'
      ]
      self.assertEqual(list(experiments), ['clickme'])
      return experiments['clickme']['scores']['spearman']

    with mock.patch.object(clickme.ClickMeProtocol, 'run') as run:
      raw = score('--batch_size=5')
      half = score('--ceiling=.5')
      run.assert_not_called()
    self.assertEqual(
      (raw['n'], raw['ceiling'], raw['normalized']), (5, None, None)
    )
    self.assertEqual(
      (half['value'], half['ceiling'], half['normalized']),
      (raw['value'], 0.5, raw['value'] / 0.5),
    )
    page = self._read('report.html')
    self.assertIn('from an earlier run of ', page)
    self.assertIn('from an earlier run of ', self._read('leaderboard.txt'))
    self.assertFalse(os.path.exists(self._path('out', 'curves.png')))
    self.assertEqual(score('--limit=2')['n'], 2)
    self.assertIn('limit was None and is now 2', self._read('report.html'))
    self.assertLen(
      [
        f
        for f in os.listdir(self._path('out/models/earlier'))
        if f.startswith('twin.clickme.')
      ],
      3,
    )
    # The same records in another order are other data.
    records = [*tf.data.TFRecordDataset(self.clickme).as_numpy_iterator()]
    with tf.io.TFRecordWriter(self.clickme) as writer:
      for record in records[::-1]:
        writer.write(record)
    self.assertEqual(score()['n'], 5)
    self.assertIn('data.sha256 was', self._read('report.html'))

  def test_only_the_release_has_a_known_ceiling(self):
    _save_model(self._path('base.keras'), 0)
    folder = self._path('val')
    os.makedirs(folder)
    shard = fixtures.write_numbered(folder, 'val-3.tfrecords', 2)

    def ceiling(*more):
      self.assertEqual(
        self._evaluate(self.models[0], f'--clickme={folder}/val-*', *more), 0
      )
      score = json.loads(self._read('results.json'))['models'][0][
        'experiments'
      ]['clickme']['scores']['spearman']
      return score['ceiling']

    self.assertIsNone(ceiling())

    def write(source):
      manifest.write(
        folder, source=source, shards=[manifest.describe(shard, 2)]
      )

    with mock.patch.object(clickme.ClickMeProtocol, 'run') as run:
      write('the digits')
      self.assertIsNone(ceiling())
      write(f'{release_layout.BASE_URL}/val')
      self.assertEqual(ceiling(), 0.6575315343478081)
      self.assertEqual(ceiling('--ceiling=.5'), 0.5)
      self.assertIsNone(ceiling('--ceiling=1'))
      run.assert_not_called()
    with open(
      shard, 'r+b'
    ) as f:  # Not even the checksum of the record changes.
      f.seek(-1, os.SEEK_END)
      f.write(b'x')
    self.assertFalse(clickme_release.is_release([shard]))

  @parameterized.parameters(
    ((), 'No model was given'),
    (
      ('--model=keras:a.keras',),
      'No protocol.*--imagenet, --clickme,',
    ),
    (('--model=keras:a.keras', '--clickme=none'), 'none does not exist'),
    (('--model=a.keras', '--clickme=x'), "'a.keras' is not a SPEC"),
    (('a.keras',), "'a.keras' is not a flag"),
    (
      ('--model=keras:a.keras', '--clickme=x', '--twin=a:b'),
      '--twin=a:b; expected the names of two models.* out of a',
    ),
    (
      ('--model=keras:a.keras', '--clickme=x', '--map_decoder=canonical'),
      '--label_offset is not set',
    ),
    (
      ('--model=keras:a.keras', '--clickme=x', '--ceiling=65.753'),
      '--ceiling=65.753 .* at most 1',
    ),
    (
      ('--model=keras:a.keras', '--clickme=x', '--ceiling=nan'),
      '--ceiling=nan',
    ),
    (
      ('--model=keras:a.keras', '--clickme=x', '--human_trials=h.csv'),
      '--human_trials has no effect without --psychophysics',
    ),
    (('--model=keras:a.keras', '--psychophysics=nowhere'), 'nowhere'),
    (
      (
        '--model=keras:a.keras',
        '--clickme=x',
        '--rule=mean_logit',
        '--animal_classes=1',
      ),
      '--rule, --animal_classes have no effect without --psychophysics',
    ),
    (
      ('--model=keras:a.keras', '--clickme=x', '--clicktionary_ceiling=.5'),
      '--clicktionary_ceiling has no effect without --clicktionary',
    ),
    (
      ('--model=keras:a.keras', '--psychophysics=x', '--raw_image_max=1'),
      '--raw_image_max has no effect without --clickme or --clicktionary',
    ),
    (
      (
        '--model=keras:a.keras',
        '--clickme=x',
        '--raw_image_max=1',
        '--map_decoder=clickme',
      ),
      '--raw_image_max has no effect on records of the format clickme',
    ),
    (
      (
        '--model=keras:a.keras',
        '--clickme=x',
        '--noblur',
        '--blur_kernel=centred',
      ),
      '--blur_kernel has no effect with --noblur',
    ),
    (
      ('--model=keras:a.keras', '--psychophysics=x', '--ceiling=.5'),
      '--ceiling has no effect without --clickme',
    ),
    (
      ('--model=keras:a.keras', '--clickme=x', '--input_sizes=96,big'),
      "--input_sizes: 'big' is not a size",
    ),
    (
      ('--model=keras:a.keras', '--psychophysics=x', '--training_records=t'),
      '--training_records has no effect without records',
    ),
    (
      ('--model=keras:a.keras', '--clickme=x', '--exclude'),
      '--exclude has no effect without --training_records',
    ),
    (
      (
        '--model=keras:a.keras',
        '--model=mg:b',
        '--clickme=x',
        '--twin=a:b',
        '--compare=b:a',
      ),
      'a:b and b:a are the same pair',
    ),
    # Names and options of all models are checked before one is opened.
    (
      ('--model=keras:a.keras', '--model=keras_app:VGG61', '--clickme=x'),
      "'VGG61'.*VGG16",
    ),
    (
      ('--model=mg:a', '--model=torch:a.b?wrongopt=1', '--clickme=x'),
      'no option wrongopt',
    ),
    (
      ('--model=keras:a.keras', '--model=mg:a', '--clickme=x'),
      "both be called 'a'",
    ),
  )
  def test_refuses_before_any_work(self, given, message):
    with mock.patch.object(spec, 'build') as build:
      self.assertRegex(self._evaluate(*given), '^evaluate: .*' + message)
      build.assert_not_called()

  def test_the_format_is_recognized(self):
    image = tf.io.encode_jpeg(fixtures.pixels(0)).numpy()
    record = record_writer.canonical_example(image, label=1)
    path = fixtures.write(self.folder, 'canonical', [record])
    with mock.patch.object(spec, 'build') as build:
      for given, message in (
        ((f'--clickme={path}',), 'label_offset is not set; canonical'),
        (
          (f'--clickme={path}', '--label_offset=0', '--raw_image_max=1'),
          'raw_image_max=1 has no effect on .*, whose format is canonical',
        ),
      ):
        self.assertRegex(self._evaluate(self.models[0], *given), message)
      build.assert_not_called()

  def test_names_and_people_are_checked_before_any_work(self):
    image = tf.io.encode_jpeg(fixtures.pixels(0)).numpy()
    path = fixtures.write(
      self.folder,
      'named',
      [
        record_writer.canonical_example(image, 1, filename=f'dog/{name}.png')
        for name in 'ab'
      ],
    )
    _write_stimuli(self._path('stimuli'))
    with open(self._path('people.csv'), 'w') as f:
      f.write('level,accuracy\n10,0.5\n')
    records = (f'--clickme={path}', '--label_offset=0')

    def ceilings(*names):
      values = dict.fromkeys(ceilings_lib.MEASURES, 0.5)
      return measured_ceilings.MeasuredCeilings(
        'c.json', 224, 10.0, False, {}, {name: values for name in names}
      )

    for given, found, message in (
      ((*records, '--group_by=x_[0-9]'), None, "matches no .*'dog/a.png'"),
      (
        (*records, '--ceilings=c.json'),
        ceilings('cat/c'),
        '--ceilings: c.json: none of the 2 images',
      ),
      (
        (*records, '--ceilings=c.json'),
        ceilings('dog/b', 'x/dog/a', 'y/dog/a'),
        "--ceilings: .*'dog/a.png' may be",
      ),
      (
        (
          f'--psychophysics={self._path("stimuli")}',
          f'--human_trials={self._path("people.csv")}',
        ),
        None,
        'Levels 10 are missing in the stimuli',
      ),
    ):
      with (
        mock.patch.object(spec, 'build') as build,
        mock.patch.object(measured_ceilings, 'read', return_value=found),
      ):
        self.assertRegex(self._evaluate(self.models[0], *given), message)
        build.assert_not_called()

  def test_training_records_have_images(self):
    path = fixtures.write(self.folder, 'empty', [])
    with mock.patch.object(spec, 'build') as build:
      self.assertRegex(
        self._evaluate(
          self.models[0],
          f'--clickme={self.clickme}',
          f'--training_records={path}',
        ),
        '^evaluate: --training_records=.*empty has no records',
      )
      build.assert_not_called()

  def test_no_report_if_every_model_failed(self):
    code = self._evaluate(
      f'--model=keras:{self._path("lost.keras")}', f'--clickme={self.clickme}'
    )
    self.assertRegex(code, '^evaluate: No model could be measured; lost ')
    self.assertIn('lost.failure.txt', code)
    self.assertNotIn('report.html', os.listdir(self.output_dir))
    self.assertNotIn('results.json', os.listdir(self.output_dir))

  def test_damaged_file_is_named(self):
    path = fixtures.write(self.folder, 'cut', [fixtures.record()])
    with open(path, 'r+b') as f:
      f.truncate(os.path.getsize(path) - 3)
    _save_model(self._path('base.keras'), 0)
    self.assertRegex(
      self._evaluate(self.models[0], f'--clickme={path}'),
      r'^evaluate: Bad record: .*cut, record 0 ',
    )


if __name__ == '__main__':
  tf.test.main()
