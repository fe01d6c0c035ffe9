# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that opening a Keras file runs nothing that the file names."""

import json
import os
import sys
import tempfile
import zipfile

from absl.testing import parameterized
import h5py
import keras
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import keras_models
from official_ext.harmonization.benchmark.adapters import keras_safety
from tests.benchmark.adapters import networks

_HARMFUL = 'a_module_that_marks'


def _function(module, name):
  return {
    'module': module,
    'class_name': 'function',
    'config': name,
    'registered_name': 'function',
  }


def _class(module, cls, registered=None, **config):
  return {
    'module': module,
    'class_name': cls,
    'config': config,
    'registered_name': registered,
  }


class RefuseCodeTest(tf.test.TestCase, parameterized.TestCase):
  @parameterized.parameters(
    (_class('keras.layers', 'Lambda', name='twice'), "'twice' is a Lambda"),
    # Another path to the same class.
    (
      _class('tf_keras.src.layers.core.lambda_layer', 'X', 'Lambda'),
      'is a Lambda',
    ),
    (
      _class('tf_keras.src.layers.core', 'lambda_layer.Lambda'),
      "names 'lambda_layer.Lambda'",
    ),
    ({'class_name': '__lambda__', 'config': {'value': 'x'}}, '__lambda__'),
    (_class('keras.layers', 'TorchModuleWrapper'), 'TorchModuleWrapper'),
    (_class('keras.layers', 'TFSMLayer', filepath='x'), 'TFSMLayer'),
    (
      _class('keras.layers', 'StringLookup', vocabulary='/etc/passwd'),
      'StringLookup',
    ),
    (_class('os', 'System'), "module 'os'"),
    (_class(_HARMFUL, 'Layer'), f'module {_HARMFUL!r}'),
    (_class('kerasx.layers', 'Dense'), "module 'kerasx.layers'"),
    (_class('keras.utils', 'Sequence'), "module 'keras.utils'"),
    (_class('keras.models', 'load_model'), "names 'load_model'"),
    (_function('os', 'system'), "function 'system' of 'os'"),
    (_function('builtins', 'eval'), "function 'eval' of 'builtins'"),
    (_function('keras.utils', 'get_file'), "'get_file'"),
    (_function('keras.config', 'enable_unsafe_deserialization'), 'unsafe'),
    (_function('keras.models', 'load_model'), "'load_model'"),
    (
      _class(None, 'TFOpLambda', function='io.write_file'),
      "TensorFlow function 'io.write_file'",
    ),
    (_class(None, 'TFOpLambda', function='numpy_function'), 'numpy_function'),
    (_class(None, 'TFOpLambda', function='compat.v1.py_func'), 'py_func'),
    (_class(None, 'TFOpLambda', function='raw_ops.WriteFile'), 'WriteFile'),
    (_class('keras.src.export.tfsm_layer', 'Layer'), "module 'keras.src.exp"),
    (_class('tf_keras.src.export.export_lib', 'ReloadedLayer'), 'Reloaded'),
    (
      {
        'class_name': '__typespec__',
        'spec_name': 'X',
        'module': _HARMFUL,
        'config': [],
        'registered_name': None,
      },
      f'module {_HARMFUL!r}',
    ),
    # Registered under one name, but looked up by another.
    (_class(_HARMFUL, 'FixedDropout', 'a>Layer'), f'module {_HARMFUL!r}'),
    (_class(_HARMFUL, 'FixedDropout', None), f'module {_HARMFUL!r}'),
    (_class(_HARMFUL, '__tensor__'), f'module {_HARMFUL!r}'),
  )
  def test_refuses_anywhere_inside(self, item, message):
    config = {
      'class_name': 'Sequential',
      'config': {
        'layers': [{'class_name': 'Dense', 'config': {'activation': item}}]
      },
    }
    with self.assertRaisesRegex(
      ValueError, f'f.keras: .*{message}.* may run code.*SavedModel'
    ):
      keras_safety.refuse_code(config, 'f.keras', {'FixedDropout': None})

  @parameterized.parameters(
    (_class('keras.layers', 'Dense', 'Dense'),),
    (_class('keras.src.ops.numpy', 'Add'),),
    (_class('keras.src.models.functional', 'Functional', 'Functional'),),
    (_class('tf_keras.src.engine.functional', 'Functional', 'Functional'),),
    (_class('keras', 'DTypePolicy'),),
    (_class(None, 'Dense'),),
    (_class('efficientnet.model', 'FixedDropout', 'FixedDropout'),),
    (_class(None, 'TFOpLambda', function='math.truediv'),),
    (_class(None, 'TFOpLambda', function='__operators__.add'),),
    (_function('builtins', 'relu'),),
    (_function('keras.activations', 'silu'),),
    (_class(None, 'TFOpLambda', function='compat.v1.pad'),),
    (_class('keras.random', 'SeedGenerator', seed=1),),
    (_class('tensorflow.python.ops.init_ops_v2', 'Constant', 'Constant'),),
    (
      {
        'class_name': '__typespec__',
        'spec_name': 'TensorSpec',
        'config': [],
        'module': 'tensorflow.python.framework.tensor',
      },
    ),
    (_class('keras.src.applications.convnext', 'LayerScale', 'LayerScale'),),
    (_class('keras._legacy.layers', 'ThresholdedReLU'),),
    (_function('keras.ops', 'relu6'),),
    ({'class_name': '__tuple__', 'items': [1, 2]},),
    # Keras's current notations for data, and unknown ones.
    (_class(None, '__keras_tensor__', shape=[None], dtype='float32'),),
    (_class(None, '__slice__', start=None, stop=None, step=-1),),
    (_class(None, '__complex__', value='1j'),),
  )
  def test_accepts_networks(self, item):
    config = {
      'class_name': 'Sequential',
      'config': {'layers': [item]},
      # The model is not compiled, so this is not read.
      'compile_config': {'loss': _function('my_package', 'my_loss')},
    }
    keras_safety.refuse_code(config, 'f.keras', {'FixedDropout': None})


class FileTest(tf.test.TestCase, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    self.marker = os.path.join(self.folder, 'ran')
    with open(os.path.join(self.folder, f'{_HARMFUL}.py'), 'w') as f:
      f.write(f'import os\nos.mkdir({self.marker!r})\n')
    sys.path.insert(0, self.folder)
    self.addCleanup(sys.path.remove, self.folder)
    self.addCleanup(sys.modules.pop, _HARMFUL, None)

  def _change(self, config):
    """Makes the model a class of the harmful module."""
    return json.dumps(
      {
        **config,
        'module': _HARMFUL,
        'class_name': 'Network',
        'registered_name': 'Network',
      }
    )

  def _save(self, model, name):
    path = os.path.join(self.folder, name)
    model.save(path)
    return path

  def _harmful(self, model, ending):
    path = self._save(model, f'net.{ending}')
    if ending == 'h5':
      with h5py.File(path, 'r+') as f:
        f.attrs['model_config'] = self._change(
          json.loads(f.attrs['model_config'])
        )
      return path
    with zipfile.ZipFile(path) as old:
      parts = {name: old.read(name) for name in old.namelist()}
    parts['config.json'] = self._change(json.loads(parts['config.json']))
    with zipfile.ZipFile(path, 'w') as new:
      for name, content in parts.items():
        new.writestr(name, content)
    return path

  @parameterized.product(version=(2, 3), ending=('h5', 'keras'))
  def test_a_module_is_not_imported(self, version, ending):
    model = networks.network()
    if version == 3:
      model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(5)]
      )
    path = self._harmful(model, ending)
    with self.assertRaisesRegex(ValueError, f"of the module '{_HARMFUL}'"):
      keras_models.load(path)
    self.assertFalse(os.path.exists(self.marker))

  def test_the_configuration_checked_is_the_one_loaded(self):
    """A file that is HDF5 at its start and a harmless archive at its end."""
    path = self._harmful(networks.network(), 'h5')
    good = self._save(networks.network(), 'good.keras')
    with open(path, 'ab') as f, open(good, 'rb') as g:
      f.write(g.read())
    self.assertTrue(zipfile.is_zipfile(path))
    with self.assertRaisesRegex(ValueError, 'may run code'):
      keras_models.load(path)
    self.assertFalse(os.path.exists(self.marker))

  def test_keras_alone_would_run_the_code(self):
    """The refused files are accepted by Keras's safe mode."""
    path = self._harmful(networks.network(), 'keras')
    with self.assertRaises(TypeError):  # The class does not exist.
      tf_keras.models.load_model(path, compile=False, safe_mode=True)
    self.assertTrue(os.path.exists(self.marker))


if __name__ == '__main__':
  tf.test.main()
