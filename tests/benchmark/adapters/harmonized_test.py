# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the released harmonized networks, with generated files."""

# Bazel: tags = ["networks"]

import functools
import http.server
import importlib
import inspect
import json
import os
import tempfile
import threading
from unittest import mock

from absl.testing import parameterized
import h5py
import numpy as np
from scipy import special
import tensorflow as tf
import tf_keras

from official_ext.harmonization.benchmark.adapters import harmonized
from official_ext.harmonization.benchmark.adapters import keras_models
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.data.records import shard_download
from testing import optional
from tests.benchmark.adapters import networks

_PACKAGES = {
  'vit-b16': 'vit_keras',
  'convnext_tiny': 'keras_cv_attention_models',
  'maxvit_tiny': 'keras_cv_attention_models',
  'levit_small': 'keras_cv_attention_models',
}


class WholeModelsTest(tf.test.TestCase, parameterized.TestCase):
  def _file(self, model, name='w.h5'):
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)
    model.save(path)
    return path

  @parameterized.parameters('vgg16', 'resnet50v2')
  def test_whole_model(self, name):
    model = networks.network()
    with self.assertNoLogs('absl', level='WARNING'):
      adapter = spec.build(f'harmonized:{name}?weights={self._file(model)}')
    self.assertEqual(adapter.name, f'{name} (harmonized)')
    self.assertRegex(adapter.preprocessing, r'torch: .*0.224, 0.225\)$')
    inputs = adapter.preprocess(networks.pixels())
    logits, gradients = adapter.logits_and_gradients(inputs, networks.labels())
    wanted = networks.expected(model, inputs, networks.labels())
    self.assertAllClose(logits, wanted[0], rtol=1e-5, atol=1e-6)
    self.assertAllClose(gradients, wanted[1], rtol=1e-5, atol=1e-7)

  def test_layers_of_the_package_that_built_efficientnet(self):
    layers = tf_keras.layers
    model = tf_keras.Sequential(
      [
        tf_keras.Input((16, 16, 3)),
        layers.Conv2D(4, 3, activation='swish'),
        layers.Dropout(0.2, noise_shape=(None, 1, 1, 1), name='drop'),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5),
      ]
    )
    path = self._file(model)
    with h5py.File(path, 'r+') as f:
      config = json.loads(f.attrs['model_config'])
      layer = next(
        x for x in config['config']['layers'] if x['class_name'] == 'Dropout'
      )
      layer['class_name'] = 'FixedDropout'
      layer.pop('registered_name', None)
      layer.pop('module', None)
      f.attrs['model_config'] = json.dumps(config)
    adapter = spec.build(f'harmonized:efficientnetB0?weights={path}')
    inputs = adapter.preprocess(networks.pixels())
    self.assertAllClose(
      adapter.logits(inputs), model(inputs, training=False), rtol=1e-5
    )
    with self.assertRaisesRegex(ValueError, 'FixedDropout'):
      keras_models.load(path)

  def test_unknown_names_list_the_known(self):
    with self.assertRaisesRegex(ValueError, 'one of .*levit_small.*vgg16'):
      spec.build('harmonized:vgg19')
    with self.assertRaisesRegex(FileNotFoundError, 'none.h5 does not exist'):
      spec.build('harmonized:vgg16?weights=none.h5')


class WeightsTest(tf.test.TestCase, parameterized.TestCase):
  def test_every_builder_takes_its_options(self):
    for name, package in _PACKAGES.items():
      optional.require(package)
      builder = harmonized.NETWORKS[name]
      with harmonized.tensorflow_keras_2():
        module = importlib.import_module(builder.module)
        real = inspect.signature(getattr(module, builder.function))
      with mock.patch.object(module, builder.function) as called:
        builder(name)
      bound = real.bind(**called.call_args.kwargs)
      bound.apply_defaults()
      # The released networks have 1000 logits.
      self.assertIn(bound.arguments.get('classifier_activation'), (None,))
      self.assertIn(bound.arguments.get('activation'), (None, 'linear'))
      self.assertFalse(bound.arguments['pretrained'])
      self.assertEqual(
        [v for k, v in bound.arguments.items() if 'classes' in k], [1000]
      )

  def _small_convnext(self):
    """ConvNeXt as its package builds it, with few and narrow blocks."""
    optional.require('keras_cv_attention_models')
    return harmonized.NETWORKS['convnext_tiny']._replace(
      function='ConvNeXt',
      options=dict(
        num_blocks=[1, 1, 1, 1],
        out_channels=[4, 6, 8, 8],
        input_shape=(32, 32, 3),
        num_classes=5,
        pretrained=None,
        classifier_activation=None,
      ),
    )

  def test_weights_of_a_builder(self):
    builder, before = self._small_convnext(), tf.keras
    model = builder('harmonized:convnext_tiny')
    self.assertIs(tf.keras, before)
    self.assertIsInstance(model, tf_keras.Model)
    # Initial gains close to zero would hide the layers behind them.
    rng = np.random.default_rng(0)
    model.set_weights(
      [
        w if w.ndim > 1 else rng.uniform(0.5, 1, w.shape)
        for w in model.get_weights()
      ]
    )
    path = os.path.join(self.get_temp_dir(), 'w.h5')
    model.save_weights(path)
    with mock.patch.dict(harmonized.NETWORKS, convnext_tiny=builder):
      adapter = spec.build(f'harmonized:convnext_tiny?weights={path}')
      inputs = adapter.preprocess(networks.pixels(2, (32, 32)))
      logits, gradients = adapter.logits_and_gradients(
        inputs, networks.labels(2)
      )
      wanted = networks.expected(model, inputs, networks.labels(2))
      self.assertAllClose(logits, wanted[0], rtol=1e-4, atol=1e-5)
      self.assertAllClose(gradients, wanted[1], rtol=1e-4, atol=1e-5)
      networks.network().save_weights(path)
      with self.assertRaisesRegex(ValueError, 'not contain weights of this'):
        spec.build(f'harmonized:convnext_tiny?weights={path}')

  def test_vit_takes_weights_of_keras_2(self):
    """vit_keras 0.2 uses Keras 3, but the released file is from Keras 2.

    Its layers and their weights are in the file in the order of vit_keras
    0.1.2: query, key, value, out, the two dense layers, the two norms.
    """
    optional.require('vit_keras')
    vit = importlib.import_module('vit_keras.vit')
    small = functools.partial(
      vit.build_model,
      image_size=32,
      patch_size=16,
      num_layers=2,
      hidden_size=12,
      num_heads=2,
      name='vit',
      mlp_dim=20,
      classes=5,
    )
    path = os.path.join(self.get_temp_dir(), 'vit.h5')
    weights = _write_vit_of_keras_2(path)
    with mock.patch.dict(
      harmonized.NETWORKS, {'vit-b16': lambda unused_spec: small()}
    ):
      adapter = spec.build(f'harmonized:vit-b16?weights={path}')
    inputs = adapter.preprocess(networks.pixels(2, (32, 32)))
    self.assertAllClose(
      adapter.logits(inputs), _vit(inputs, weights), rtol=1e-4, atol=1e-5
    )

  def test_a_missing_builder_is_named_before_the_download(self):
    with mock.patch.dict('sys.modules', {'vit_keras': None}):
      with self.assertRaisesRegex(ImportError, "pip install 'vit-keras>=0.2'"):
        spec.build('harmonized:vit-b16')


def _write_vit_of_keras_2(path, size=12, hidden=20, tokens=5, classes=5):
  """Writes weights as Keras 2 writes those of vit_keras 0.1.2."""
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32) * 0.3

  dense = [
    ('query', size, size),
    ('key', size, size),
    ('value', size, size),
    ('out', size, size),
    ('Dense_0', size, hidden),
    ('Dense_1', hidden, size),
  ]
  layers = {
    'input_1': {},
    'embedding': {'kernel': draw(16, 16, 3, size), 'bias': draw(size)},
    'reshape': {},
    'class_token': {'cls': draw(1, 1, size)},
    'Transformer/posembed_input': {'pos_embedding': draw(1, tokens, size)},
  }
  for i in range(2):
    block = {}
    for name, rows, columns in dense:
      block[f'{name}/kernel'] = draw(rows, columns)
      block[f'{name}/bias'] = draw(columns)
    for name in ('LayerNorm_0', 'LayerNorm_2'):
      block[f'{name}/gamma'], block[f'{name}/beta'] = draw(size), draw(size)
    layers[f'Transformer/encoderblock_{i}'] = block
  layers['Transformer/encoder_norm'] = {'gamma': draw(size), 'beta': draw(size)}
  layers['ExtractToken'] = {}
  layers['head'] = {'kernel': draw(size, classes), 'bias': draw(classes)}
  with h5py.File(path, 'w') as f:
    f.attrs['layer_names'] = list(layers)
    f.attrs['backend'], f.attrs['keras_version'] = 'tensorflow', '2.9.0'
    for layer, weights in layers.items():
      group = f.create_group(layer)
      group.attrs['weight_names'] = [f'{layer}/{w}:0' for w in weights]
      for name, value in weights.items():
        group[f'{layer}/{name}:0'] = value
  return layers


def _vit(images, layers, heads=2):
  """A vision transformer in NumPy (Dosovitskiy et al., ICLR 2021)."""

  def norm(x, weights, name=''):
    centered = x - x.mean(-1, keepdims=True)
    scale = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return centered / scale * weights[f'{name}gamma'] + weights[f'{name}beta']

  def dense(x, weights, name=''):
    return x @ weights[f'{name}kernel'] + weights[f'{name}bias']

  def split(x):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

  batch = len(images)
  patches = images.reshape(batch, 2, 16, 2, 16, 3).transpose(0, 1, 3, 2, 4, 5)
  kernel = layers['embedding']['kernel']
  x = patches.reshape(batch, 4, -1) @ kernel.reshape(-1, kernel.shape[-1])
  x += layers['embedding']['bias']
  token = np.repeat(layers['class_token']['cls'], batch, axis=0)
  x = np.concatenate([token, x], axis=1)
  x += layers['Transformer/posembed_input']['pos_embedding']
  for i in range(2):
    block = layers[f'Transformer/encoderblock_{i}']
    y = norm(x, block, 'LayerNorm_0/')
    query, key, value = (
      split(dense(y, block, f'{n}/')) for n in ('query', 'key', 'value')
    )
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
    y = special.softmax(scores, axis=-1) @ value
    y = y.transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + dense(y, block, 'out/')
    y = dense(norm(x, block, 'LayerNorm_2/'), block, 'Dense_0/')
    y = y * (1 + special.erf(y / np.sqrt(2))) / 2
    x = x + dense(y, block, 'Dense_1/')
  x = norm(x, layers['Transformer/encoder_norm'])
  return dense(x[:, 0], layers['head'])


class _Server:
  """Serves one file; the first response is cut short."""

  def __init__(self, contents):
    served = []

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        served.append((self.path, self.headers.get('Range')))
        start = int((self.headers.get('Range') or 'bytes=0-')[6:-1])
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(contents) - start))
        if start:
          self.send_header('Content-Range', f'bytes {start}-')
        self.end_headers()
        end = len(contents) // 2 if len(served) == 1 else len(contents)
        self.wfile.write(contents[start:end])

      def log_message(self, *args):
        pass

    self.served = served
    self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.url = f'http://127.0.0.1:{self._server.server_port}/models'
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def close(self):
    self._server.shutdown()
    self._server.server_close()


class DownloadTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    for patch in (
      mock.patch.dict(os.environ, XDG_CACHE_HOME=self.folder),
      mock.patch.object(shard_download, '_DELAY', 0.01),
    ):
      patch.start()
      self.addCleanup(patch.stop)

  def _serve(self, contents):
    server = _Server(contents)
    self.addCleanup(server.close)
    patch = mock.patch.object(harmonized, 'BASE_URL', server.url)
    patch.start()
    self.addCleanup(patch.stop)
    return server

  def test_a_download_resumes_and_is_not_repeated(self):
    path = os.path.join(self.folder, 'w.h5')
    networks.network().save(path)
    with open(path, 'rb') as f:
      contents = f.read()
    server = self._serve(contents)
    found = harmonized.fetch('vgg16')
    with open(found, 'rb') as f:
      self.assertEqual(f.read(), contents)
    self.assertEqual(harmonized.fetch('vgg16'), found)
    self.assertEqual(spec.build('harmonized:vgg16').num_classes, 5)
    self.assertEqual(
      server.served,
      [
        ('/models/vgg16_harmonized.h5', None),
        ('/models/vgg16_harmonized.h5', f'bytes={len(contents) // 2}-'),
      ],
    )

  def test_a_damaged_download_is_not_renamed_into_place(self):
    self._serve(b'<html>no weights here</html>')
    with mock.patch.object(harmonized, '_RETRIES', 1):
      with self.assertRaisesRegex(
        ConnectionError, 'not a complete HDF5.*.weights=FILE'
      ):
        spec.build('harmonized:vgg16')
    self.assertEmpty(os.listdir(harmonized.cache_dir()))


if __name__ == '__main__':
  tf.test.main()
