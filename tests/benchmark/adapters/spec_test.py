# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the grammar of SPECs."""

import inspect
import types
from unittest import mock

from absl.testing import parameterized
import numpy as np
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import sizes
from official_ext.harmonization.benchmark.adapters import spec


class SpecTest(tf.test.TestCase, parameterized.TestCase):
  def test_parse(self):
    self.assertEqual(
      spec.parse('mg:gs://bucket/run'), ('mg', 'gs://bucket/run', {})
    )
    self.assertEqual(
      spec.parse('keras:a/b.h5?preprocessing=caffe&input_size=224&name=A=B'),
      (
        'keras',
        'a/b.h5',
        {'preprocessing': 'caffe', 'input_size': '224', 'name': 'A=B'},
      ),
    )

  @parameterized.parameters('vgg16', 'keras:', '', 'keras:?name=A')
  def test_text_without_kind_or_target_is_refused(self, text):
    with self.assertRaisesRegex(ValueError, 'is not a SPEC.*KIND:TARGET'):
      spec.parse(text)

  @parameterized.parameters('onnx:vgg.onnx', ':a', 'Keras:a.h5')
  def test_unknown_kinds_are_refused_with_the_known_ones(self, text):
    with self.assertRaisesRegex(ValueError, 'the kind is') as error:
      spec.parse(text)
    for kind in spec.KINDS:
      self.assertIn(kind, str(error.exception))

  def test_a_similar_kind_is_suggested(self):
    with self.assertRaisesRegex(ValueError, 'mean keras_app'):
      spec.parse('keras_ap:VGG16')

  @parameterized.parameters(
    'keras:a.h5?',
    'keras:a.h5?name',
    'keras:a.h5?=A',
    'keras:a.h5?name=',
    'keras:a.h5?name=A&name=B',
  )
  def test_invalid_options_are_refused(self, text):
    with self.assertRaisesRegex(ValueError, 'is not OPTION=VALUE'):
      spec.parse(text)

  def test_every_example_follows_the_grammar(self):
    for name, kind in spec.KINDS.items():
      parsed, target, options = spec.parse(kind.example)
      self.assertEqual(parsed, name)
      self.assertTrue(target)
      self.assertContainsSubset(options, spec.options_of(kind))
      self.assertIn('name', spec.options_of(kind))

  def test_the_options_are_those_of_the_functions(self):
    for name, kind in spec.KINDS.items():
      parameters = inspect.signature(kind.build).parameters.values()
      self.assertEqual(
        kind.options,
        tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
        name,
      )
      self.assertIn('preprocessing', kind.options)

  def test_options_are_replaced(self):
    for text, expected in (
      ('mg:a', 'mg:a?input_size=9'),
      ('timm:a?input_size=8&name=b', 'timm:a?input_size=9&name=b'),
    ):
      self.assertEqual(spec.replaced(text, input_size='9'), expected)
    for size in ('224', '160x96'):
      self.assertEqual(sizes.text(sizes.parse(size)), size)
    self.assertEqual(sizes.text(sizes.parse('8x8')), '8')

  def test_unknown_options_and_values_are_named(self):
    with self.assertRaisesRegex(
      ValueError, 'mg: has no option weights; .*name, checkpoint, ema'
    ):
      spec.build('mg:run?weights=a.h5')
    with self.assertRaisesRegex(ValueError, "ema: 'yes' is neither"):
      spec.build('mg:run', ema='yes')
    for size in ('big', '0', '1x2x3', '224x', '-3'):
      with self.assertRaisesRegex(ValueError, f"'{size}' is not a size"):
        spec.build(f'keras:a.h5?input_size={size}')
    with self.assertRaisesRegex(ValueError, 'classes: .*seven'):
      spec.build('keras_app:VGG16?classes=seven')
    for count in ('1.5', '-1', '0'):
      with self.assertRaisesRegex(
        ValueError, f"classes: '{count}' is not a whole number above 0.$"
      ):
        spec.build(f'keras_app:VGG16?classes={count}')

  @parameterized.parameters(
    ('keras_app:NoSuchNet', "'NoSuchNet'; expected one of .*ResNet50"),
    ('keras_app:ResNet50V3', 'mean ResNet50V2'),
    ('keras_app:VGG16?weight=none', 'no option weight; .*mean weights'),
    ('keras_app:VGG16?preprocessing=coffee', "'coffee'.*mean caffe"),
    ('keras_app:VGG16?input_size=big', "'big' is not a size"),
    ('keras:a.h5?classes=3', 'no option classes'),
    ('harmonized:vgg61', "'vgg61'.*mean vgg16"),
    ('torch:a.b?wrongopt=1', 'no option wrongopt'),
  )
  def test_what_is_wrong_is_found_without_opening_the_network(
    self, text, message
  ):
    with mock.patch.object(tf_keras, 'Model') as made:
      with self.assertRaisesRegex(ValueError, message):
        spec.check(text)
      made.assert_not_called()

  @parameterized.parameters(
    'mg:lost',
    'keras:lost.h5?input_size=8',
    'saved_model:lost',
    'keras_app:VGG16',
  )
  def test_files_may_appear_later(self, text):
    spec.check(text)

  def test_mean_deviation_and_scale_are_options_of_every_kind(self):
    for name in spec.KINDS:
      kind = spec.KINDS[name]._replace(
        module=types.SimpleNamespace(
          build=lambda spec, target, *, preprocessing: preprocessing
        ),
        function='build',
      )
      with mock.patch.dict(spec.KINDS, {name: kind}):
        made = [
          spec.build(f'{name}:a?{options}')
          for options in (
            'mean=127&std=128',  # EfficientNet-Lite's.
            'scale=1/255&mean=.5,.25,0&std=.5,1,2',
          )
        ]
      self.assertContainsSubset(
        ['mean', 'std', 'scale'], spec.options_of(spec.KINDS[name])
      )
      pixels = np.float32([[[[0, 51, 255]]]])
      self.assertAllClose(made[0].apply(pixels), (pixels - 127) / 128)
      self.assertAllClose(made[1].apply(pixels), [[[[-1, -0.05, 0.5]]]])
      self.assertEqual(str(made[0]), 'custom: (RGB * 1 - 127) / 128')

  @parameterized.parameters(
    ('mean=127&preprocessing=tf', 'preprocessing= excludes'),
    ('mean=a', "'a' is not a number"),
    ('std=2,3', 'std=2.0,3.0; expected'),
    ('std=0&scale=1', 'only numbers above'),
    ('std=0', 'only numbers above 0'),
    ('scale=1/0', "'1/0' is not"),
    ('scale=1,2,3', 'expected one number'),
    ('mean=nan', 'finite number'),
    # PyTorch's numbers, for pixels in 0..1.
    ('mean=.485,.456,.406&std=.229,.224,.225', 'add scale=1/255'),
    ('mean=.5', 'add scale=1/255'),
  )
  def test_invalid_numbers_of_a_preprocessing(self, options, message):
    with self.assertRaisesRegex(ValueError, f"'keras:a.h5.*{message}"):
      spec.build(f'keras:a.h5?{options}')


if __name__ == '__main__':
  tf.test.main()
