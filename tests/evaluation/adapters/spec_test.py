"""Tests of the grammar of SPECs."""

from absl.testing import parameterized
import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation.adapters import spec


class SpecTest(tf.test.TestCase, parameterized.TestCase):

  def test_is_taken_apart(self):
    self.assertEqual(spec.parse('mg:gs://bucket/run'),
                     ('mg', 'gs://bucket/run', {}))
    self.assertEqual(
        spec.parse('keras:a/b.h5?preprocessing=caffe&input_size=224&name=A=B'),
        ('keras', 'a/b.h5', {
            'preprocessing': 'caffe', 'input_size': '224', 'name': 'A=B'}))

  @parameterized.parameters('vgg16', 'onnx:vgg.onnx', 'keras:', ':a', '',
                            'keras:?name=A')
  def test_what_names_no_model_lists_the_grammar(self, text):
    with self.assertRaisesRegex(ValueError, 'names no model') as error:
      spec.parse(text)
    for kind in spec.KINDS.values():
      self.assertIn(kind.example, str(error.exception))

  @parameterized.parameters('keras:a.h5?', 'keras:a.h5?name', 'keras:a.h5?=A',
                            'keras:a.h5?name=', 'keras:a.h5?name=A&name=B')
  def test_what_is_no_option(self, text):
    with self.assertRaisesRegex(ValueError, 'no OPTION=VALUE, or stands there'):
      spec.parse(text)

  def test_every_example_follows_the_grammar(self):
    for name, kind in spec.KINDS.items():
      parsed, target, options = spec.parse(kind.example)
      self.assertEqual(parsed, name)
      self.assertTrue(target)
      self.assertContainsSubset(options, spec.options_of(kind))
      self.assertIn('name', spec.options_of(kind))

  def test_unknown_options_and_values_are_named(self):
    with self.assertRaisesRegex(ValueError, 'mg: has no option weights; it has'
                                ' name, checkpoint, ema'):
      spec.build('mg:run?weights=a.h5')
    with self.assertRaisesRegex(ValueError, "ema: 'yes' is neither"):
      spec.build('mg:run', ema='yes')
    for size in ('big', '0', '1x2x3', '224x', '-3'):
      with self.assertRaisesRegex(ValueError, f"input_size: '{size}' is no si"):
        spec.build(f'keras:a.h5?input_size={size}')
    with self.assertRaisesRegex(ValueError, 'classes: .*seven'):
      spec.build('keras_app:VGG16?classes=seven')


if __name__ == '__main__':
  tf.test.main()
