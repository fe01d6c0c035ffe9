# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that a place that cannot be read or written is one sentence, anywhere.

Each command is run on unreachable inputs and outputs; what a command needs
besides is small and valid.
"""

# Bazel: tags = ["subprocess"]

import os
import resource
import shutil

from absl.testing import parameterized
import numpy as np
from PIL import Image
import tensorflow as tf
import tf_keras

from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.records import record_files
from official_ext.harmonization.data.records import record_writer
from testing import fixtures
from tests import forked


def _fill_disk():
  """Lets no file have any content, as on a full disk."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


class PlacesTest(tf.test.TestCase, parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = os.path.join(tf.compat.v1.test.get_temp_dir(), 'places')
    for folder in ('images', 'maps', 'records'):
      os.makedirs(os.path.join(cls.root, folder))
    rng = np.random.default_rng(0)
    records = []
    for i, name in enumerate(('animal', 'vehicle')):
      image = rng.integers(0, 256, (40, 40, 3), np.uint8)
      heatmap = rng.integers(0, 256, (40, 40), np.uint8)
      for folder, pixels in (('images', image), ('maps', heatmap)):
        path = os.path.join(cls.root, folder, name, f'{i}.png')
        os.makedirs(os.path.dirname(path))
        Image.fromarray(pixels).save(path)
      records.append(
        record_writer.canonical_example(
          image_codec.encode_image(image),
          i,
          f'{i}.png',
          image_codec.encode_map(heatmap),
          'test',
        )
      )
    fixtures.write(os.path.join(cls.root, 'records'), 'train-0', records)
    with open(os.path.join(cls.root, 'clicks.csv'), 'w') as f:
      f.write(
        'image_path,clicks,user_id\n'
        + ''.join(
          f'animal/0.png,"[(5, 5), (9, 9), (7, 7), (4, 4), (3, 3)]",u{i}\n'
          for i in range(8)
        )
      )
    with open(os.path.join(cls.root, 'file'), 'w') as f:
      f.write('in the way')
    tf_keras.Sequential(
      [
        tf_keras.layers.Rescaling(1 / 255.0, input_shape=(32, 32, 3)),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(2),
      ]
    ).save(os.path.join(cls.root, 'model.keras'))

  def _flags(self, command):
    """Flags with which a command would work, but for the output."""
    root = self.root
    maps = (f'--image_dir={root}/images', f'--map_dir={root}/maps')
    return {
      'data.build_clickme_records': (*maps, '--workers=1'),
      'data.beam_clickme_records': maps,
      'data.make_psychophysics_stimuli': (*maps, '--size=32'),
      'data.merge_imagenet': (
        f'--imagenet={root}/records/train-*',
        '--workers=1',
        f'--map_records={root}/records/train-*',
      ),
      'data.make_digits_clickme': (
        '--train_images=2',
        '--val_images=1',
        '--ood_images=1',
      ),
      'data.download_clickme': (
        '--base_url=http://127.0.0.1:1',
        '--retries=0',
        '--shards=0',
      ),
      'ceiling': (
        f'--clicks={root}/clicks.csv',
        '--workers=1',
        f'--image_dir={root}/images',
      ),
      'explain': (
        f'--model=keras:{root}/model.keras',
        f'--images={root}/images',
      ),
      'evaluate': (
        f'--model=keras:{root}/model.keras',
        f'--clickme={root}/records/train-*',
        '--map_decoder=canonical',
        '--label_offset=0',
      ),
    }[command]

  def _assert_one_sentence(self, found, *words):
    self.assertEqual(found.code, 1, found)
    self.assertNotIn('Traceback', found.errors)
    said = found.errors.strip().splitlines()[-1]
    self.assertRegex(said, r'^[a-z_.]+: ')
    for word in words:
      self.assertIn(word, said)
    self.assertNotIn('.partial', said)
    self.assertNotRegex(said, '0x[0-9a-f]{6}')

  WRITERS = (
    'data.build_clickme_records',
    'data.make_psychophysics_stimuli',
    'data.merge_imagenet',
    'data.make_digits_clickme',
    'data.download_clickme',
    'ceiling',
    'explain',
    'evaluate',
  )

  @parameterized.parameters(*WRITERS)
  def test_outputs(self, command):
    flags = self._flags(command)
    for output, word in (
      ('s3://bucket/out', 's3://'),
      (f'{self.root}/file', f'{self.root}/file'),
      (f'{self.root}/file/out', f'{self.root}/file'),
      ('/sys/kernel/harmonization', '/sys/kernel'),
    ):
      found = forked.command(command, *flags, f'--output_dir={output}')
      with self.subTest(output):
        self._assert_one_sentence(found, word)
    self.assertFalse(os.path.exists('s3:'))

  # The other commands trace functions, for which TensorFlow writes files.
  @parameterized.parameters(
    'data.build_clickme_records',
    'data.make_psychophysics_stimuli',
    'data.merge_imagenet',
    'data.make_digits_clickme',
    'ceiling',
  )
  def test_full_disk(self, command):
    out = os.path.join(self.root, f'full_{command}')
    found = forked.command(
      command, *self._flags(command), f'--output_dir={out}', prepare=_fill_disk
    )
    self._assert_one_sentence(found, out)
    left = [
      os.path.join(folder, name)
      for folder, _, names in os.walk(out)
      for name in names
    ]
    self.assertEmpty([path for path in left if path.endswith('.partial')])
    self.assertEmpty([path for path in left if os.path.getsize(path)])

  @parameterized.parameters(
    ('data.build_clickme_records', 'npz'),
    ('data.build_clickme_records', 'image_dir'),
    ('data.build_clickme_records', 'clicks'),
    ('data.make_psychophysics_stimuli', 'records'),
    ('data.merge_imagenet', 'imagenet'),
    ('data.merge_imagenet', 'map_dir'),
    ('ceiling', 'clicks'),
    ('explain', 'images'),
    ('evaluate', 'clickme'),
  )
  def test_inputs(self, command, flag):
    flags = [
      f
      for f in self._flags(command)
      if flag in ('image_dir', 'clickme', 'imagenet', 'images')
      or not f.startswith((f'--{flag}', '--map', '--image_dir', '--clicks'))
    ]
    flags += [f'--image_dir={self.root}/images'] * (flag == 'clicks')
    for place in (
      's3://bucket/in',
      f'{self.root}/none',
      f'{self.root}/file/in',
    ):
      found = forked.command(
        command,
        *flags,
        f'--{flag}={place}',
        f'--output_dir={self.root}/out_{flag}',
      )
      with self.subTest(place):
        self._assert_one_sentence(found, place)

  def test_verify_records(self):
    for place in ('s3://bucket/in/*', f'{self.root}/none/*'):
      self._assert_one_sentence(
        forked.command('data.verify_records', place), place
      )
    found = forked.command(
      'data.verify_records',
      f'{self.root}/records',
      '--report=s3://bucket/report.json',
    )
    self._assert_one_sentence(found, 's3://bucket/report.json')

  @parameterized.parameters(
    ('compare', '--baseline=s3://bucket/a', '--harmonized=s3://bucket/b'),
    ('compare', '--baseline=/none/a', '--harmonized=/none/b'),
    (
      'train',
      '--experiment=harmonized_resnet_imagenet',
      '--config_file=/none/a.yaml',
    ),
    (
      'train',
      '--experiment=harmonized_resnet_imagenet',
      '--config_file=s3://bucket/a.yaml',
    ),
    (
      'train',
      '--experiment=harmonized_resnet_imagenet',
      '--params_override=task.mapped_data.input_path=s3://bucket/*',
    ),
    (
      'export_saved_model',
      '--experiment=harmonized_resnet_imagenet',
      '--config_file=/none/params.yaml',
      '--checkpoint_path=/none',
      '--export_dir=/none',
      '--batch_size=1',
      '--input_image_size=32,32',
    ),
    (
      'export_tflite',
      '--experiment=harmonized_resnet_imagenet',
      '--config_file=s3://bucket/params.yaml',
      '--saved_model_dir=/none',
      '--tflite_path=/none/a',
    ),
  )
  def test_runs(self, command, *flags):
    self._assert_one_sentence(forked.command(command, *flags))


class RecordFilesTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.get_temp_dir(), 'rec [1]')
    shutil.rmtree(self.folder, ignore_errors=True)
    self.records = [
      os.path.join(self.folder, n)
      for n in ('sub/val-0', 'train-0', 'train-1.tfrecords')
    ]
    for path in (
      *self.records,
      *(
        os.path.join(self.folder, n)
        for n in (
          'manifest.json',
          'left_out.csv',
          'stimuli.csv',
          '.build/lock',
          'maps_without_image.csv',
          'train-2.partial',
          '.train-3.h-1-2.partial',
        )
      ),
    ):
      os.makedirs(os.path.dirname(path), exist_ok=True)
      with open(path, 'w'):
        pass

  def test_side_files_and_folders_are_passed_over(self):
    root = self.get_temp_dir()
    for pattern in (self.folder, f'{self.folder}/'):
      self.assertEqual(
        [os.path.normpath(p) for p in record_files.expand([pattern])],
        self.records,
      )
    self.assertEqual(record_files.expand([f'{root}/rec*/*']), self.records[1:])
    self.assertEqual(
      record_files.expand([self.records[1]] * 2), [self.records[1]]
    )
    self.assertEqual(
      record_files.expand([','.join(self.records)]), self.records
    )

  def test_what_names_no_records_is_refused_by_name(self):
    for pattern, words in (
      (f'{self.folder}/manifest.json', 'no file but manifest.json'),
      (
        f'{self.get_temp_dir()}/rec*/left*',
        '--flag=.*no file but left_out.csv',
      ),
      (f'{self.folder}/none', 'does not exist'),
      (f'{self.folder}/none*', 'matches no file'),
    ):
      with self.assertRaisesRegex(ValueError, words):
        record_files.expand([pattern], 'flag')


if __name__ == '__main__':
  tf.test.main()
