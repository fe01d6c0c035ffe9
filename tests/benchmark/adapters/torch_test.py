# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of PyTorch modules, against an equal network in tf_keras."""

# Bazel: size = "large"
# Bazel: tags = ["networks"]

import collections
import dataclasses
import os
import sys
import tempfile
import types
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark.adapters import preprocessing
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.benchmark.adapters import tensorflow_model
from testing import optional
from tests.benchmark.adapters import networks

_SIZE = f'input_size={networks.SIZE}'


def torch_equivalent(model):
  """Builds `networks.network()` in PyTorch, with the same weights."""
  torch = optional.load('torch')
  nn = torch.nn
  first, norm, second, _, dense = model.layers

  class Equivalent(nn.Module):
    def __init__(self):
      super().__init__()
      self.first = nn.Conv2d(3, 6, 3, stride=2)
      # Keras calls momentum what PyTorch calls 1 - momentum.
      self.norm = nn.BatchNorm2d(6, eps=norm.epsilon)
      self.second = nn.Conv2d(6, 8, 3)
      self.dense = nn.Linear(8, dense.units)

    def forward(self, x):
      x = self.norm(nn.functional.silu(self.first(x)))
      x = nn.functional.relu(self.second(x))
      return self.dense(x.mean(dim=(2, 3)))

  equivalent = Equivalent()
  for ours, theirs in ((equivalent.first, first), (equivalent.second, second)):
    kernel, bias = theirs.get_weights()
    ours.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
    ours.bias.data = torch.tensor(bias)
  equivalent.norm.weight.data, equivalent.norm.bias.data = map(
    torch.tensor, norm.get_weights()[:2]
  )
  equivalent.norm.running_mean, equivalent.norm.running_var = map(
    torch.tensor, norm.get_weights()[2:]
  )
  equivalent.dense.weight.data = torch.tensor(dense.get_weights()[0].T)
  equivalent.dense.bias.data = torch.tensor(dense.get_weights()[1])
  return equivalent


def _module_of(function):
  """Puts a function under the import path my_models.net."""
  module = types.ModuleType('my_models')
  module.net = function
  return mock.patch.dict(sys.modules, my_models=module)


class TorchTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    optional.require('torch')
    self.model = networks.network()
    # Moving averages other than the initial values.
    self.model(networks.pixels(), training=True)

  def _check(self, adapter):
    """Checks an adapter against the model, in TensorFlow."""
    theirs = tensorflow_model.TensorFlowAdapter(
      'equivalent',
      'equivalent',
      adapter.input_size,
      preprocessing.get('torch'),
      self.model,
    )
    inputs = adapter.preprocess(networks.pixels())
    results = [
      a.logits_and_gradients(inputs, networks.labels())
      for a in (adapter, theirs)
    ]
    for ours, wanted in zip(*results):
      self.assertAllClose(ours, wanted, rtol=1e-5, atol=1e-6)
    self.assertGreater(np.abs(results[0][1]).max(), 1e-4)
    self.assertAllClose(adapter.logits(inputs), results[0][0])

  def test_equals_tensorflow(self):
    with _module_of(lambda: torch_equivalent(self.model)):
      adapter = spec.build(f'torch:my_models.net?preprocessing=torch&{_SIZE}')
    self.assertEqual(
      (adapter.name, adapter.num_classes, adapter.input_size),
      ('net', 5, (networks.SIZE, networks.SIZE)),
    )
    self._check(adapter)

  def test_activations(self):
    # The copy of the output is needed: the ReLU modifies it in place.
    torch = optional.load('torch')
    nn = torch.nn
    module = nn.Sequential(
      nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 5)
    )
    with _module_of(lambda: module):
      adapter = spec.build('torch:my_models.net?input_size=4')
    inputs, labels = networks.pixels(3, (4, 4)), networks.labels()
    found, gradients = adapter.activations(inputs, labels, '0')
    weights = module[3].weight.detach().numpy()
    expected = (labels @ weights).reshape(3, 4, 2, 2).transpose(0, 2, 3, 1)
    self.assertAllClose(gradients, expected * (found > 0))
    self.assertLess(found.min(), 0)
    last, gradients = adapter.activations(inputs, labels)  # The ReLU's.
    self.assertAllClose(last, np.maximum(found, 0))
    self.assertAllClose(gradients, expected)
    for layer, words in (('conv', 'no layer .conv'), ('3', 'no spatial')):
      with self.assertRaisesRegex(ValueError, f'my_models.net.*{words}'):
        adapter.activations(inputs, labels, layer)

  def test_attention_of_vision_transformers(self):
    torch = optional.load('torch')
    nn, functional = torch.nn, torch.nn.functional

    class Attention(nn.Module):
      """Attention as it is written without MultiheadAttention."""

      def __init__(self, is_fused):
        super().__init__()
        self.is_fused = is_fused
        self.qkv = nn.Linear(4, 12)

      def forward(self, x):
        batch, count, _ = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, 2, 2).permute(2, 0, 3, 1, 4)
        if self.is_fused:
          found = functional.scaled_dot_product_attention(*qkv)
        else:
          self.weights = (qkv[0] @ qkv[1].mT / 2**0.5).softmax(dim=-1)
          found = self.weights @ qkv[2]
        return x + found.transpose(1, 2).reshape(x.shape)

    class Network(nn.Module):
      """A class token, and one layer of each kind of attention."""

      def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.first, self.second = Attention(False), Attention(True)
        self.third = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 5)

      def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), 1, 4), x], 1)
        self.before_third = self.second(self.first(x))
        return self.head(self.third(self.before_third)[:, 0])

    module = Network()
    with _module_of(lambda: module):
      adapter = spec.build('torch:my_models.net?input_size=4x6')
    inputs = networks.pixels(3, (4, 6)) / 255
    found = adapter.attention(inputs)
    self.assertEqual((len(found.layers), found.grid), (3, (2, 3)))
    self.assertAllEqual(found.read, [1.0] + [0.0] * 6)
    self.assertAllClose(
      found.layers[0], module.first.weights.detach().mean(1), atol=1e-6
    )
    # The fused kernel has no weights, so they are those of the written form.
    module.second.is_fused = False
    self.assertAllClose(adapter.attention(inputs).layers[1], found.layers[1])
    x = module.before_third
    _, expected = module.third.self_attn(x, x, x)
    self.assertAllClose(found.layers[2], expected.detach(), atol=1e-6)
    self.assertEqual(adapter.patch_embedding(), 'patches')

  def test_the_module_is_not_modified(self):
    equivalent = torch_equivalent(self.model).train()
    before = {k: v.clone() for k, v in equivalent.state_dict().items()}
    with _module_of(lambda: equivalent):
      adapter = spec.build(f'torch:my_models.net?{_SIZE}')
    adapter.gradients(adapter.preprocess(networks.pixels()), networks.labels())
    self.assertFalse(equivalent.training)
    for key, value in equivalent.state_dict().items():
      self.assertAllEqual(value, before[key])
    self.assertTrue(all(p.grad is None for p in equivalent.parameters()))

  def test_parameters_are_those_in_memory(self):
    torch = optional.load('torch')
    equivalent = torch_equivalent(self.model)
    with _module_of(lambda: equivalent):
      adapter = spec.build(f'torch:my_models.net?{_SIZE}')
    self.assertEqual(
      [p.tobytes() for p in adapter.parameters()],
      [
        t.detach().numpy().tobytes()
        for t in (*equivalent.parameters(), *equivalent.buffers())
      ],
    )
    before = [p.tobytes() for p in adapter.parameters()]
    equivalent.norm.running_var[0] += 1
    changed = [p.tobytes() for p in adapter.parameters()]
    self.assertLen([i for i, p in enumerate(before) if p != changed[i]], 1)
    equivalent.to(torch.bfloat16)
    self.assertEqual(
      sum(p.size for p in adapter.parameters()) - 8,
      (sum(map(len, changed)) - 8) // 2,
    )

  def test_weights_of_a_file(self):
    torch = optional.load('torch')
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    path = os.path.join(folder, 'w.pt')
    torch.save(torch_equivalent(self.model).state_dict(), path)
    with _module_of(lambda: torch_equivalent(networks.network(seed=9))):
      self._check(spec.build(f'torch:my_models.net?{_SIZE}&weights={path}'))
      with self.assertRaisesRegex(FileNotFoundError, 'none.pt does not exist'):
        spec.build(f'torch:my_models.net?weights={folder}/none.pt')
      torch.save({'other': torch.ones(2)}, path)
      with self.assertRaisesRegex(ValueError, 'not contain weights of this'):
        spec.build(f'torch:my_models.net?weights={path}')

  def test_a_file_that_would_run_code_is_refused(self):
    torch = optional.load('torch')
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    path, made = (os.path.join(folder, f) for f in ('w.pt', 'made'))

    class Code:
      def __reduce__(self):
        return os.mkdir, (made,)

    torch.save({'first.weight': Code()}, path)
    with _module_of(lambda: torch_equivalent(self.model)):
      with self.assertRaisesRegex(ValueError, 'expected weights of this net'):
        spec.build(f'torch:my_models.net?weights={path}')
    self.assertFalse(os.path.exists(made))

  def test_outputs(self):
    torch = optional.load('torch')

    class Wrapped(torch.nn.Module):
      def __init__(self, inner, wrap):
        super().__init__()
        self.inner, self.wrap = inner, wrap

      def forward(self, x):
        return self.wrap(self.inner(x))

    def net(wrap):
      return lambda: Wrapped(torch_equivalent(self.model), wrap)

    with _module_of(net(lambda x: types.SimpleNamespace(logits=x))):
      self._check(spec.build(f'torch:my_models.net?{_SIZE}'))
    pair = collections.namedtuple('Pair', ['logits', 'features'])
    record = dataclasses.make_dataclass('Record', ['scores', 'features'])
    for wrap, options in (
      (lambda x: [x], ''),
      (lambda x: (x, None), ''),
      (lambda x: collections.OrderedDict(out=x), ''),
      (lambda x: {'logits': x, 'features': 2 * x}, ''),
      (lambda x: pair(x, 2 * x), ''),
      (lambda x: (2 * x, x), '&output=1'),
      (lambda x: {'heads': {'a': 2 * x, 'b': x}}, '&output=heads.b'),
      (lambda x: record(x, 2 * x), '&output=scores'),
    ):
      with _module_of(net(wrap)):
        self._check(spec.build(f'torch:my_models.net?{_SIZE}{options}'))
    for wrap, message in (
      (lambda x: (x, x), "output 'logits'; expected one of 0, 1"),
      (lambda x: None, 'the output is a NoneType without tensors'),
      (lambda x: x[:, :1], 'a single number'),
      (lambda x: x.log_softmax(-1), 'it ends with log_softmax'),
      (lambda x: x.softmax(-1).log(), 'it ends with log of softmax'),
      (lambda x: x.sigmoid().view(-1, 5), 'it ends with sigmoid'),
      (lambda x: torch.nn.functional.logsigmoid(x), 'ends with log_sigmoid'),
      (lambda x: x - x.logsumexp(1, keepdim=True), 'exponentials sum to 1'),
    ):
      with _module_of(net(wrap)):
        with self.assertRaisesRegex(ValueError, message):
          spec.build(f'torch:my_models.net?{_SIZE}')
    with _module_of(net(lambda x: x.softmax(-1))):
      with self.assertRaisesRegex(ValueError, 'probabilities'):
        spec.build(f'torch:my_models.net?{_SIZE}')

  def _wrapped(self, first=lambda x: x, model=None):
    """The equivalent network after a function of its images."""
    torch = optional.load('torch')

    class Wrapped(torch.nn.Module):
      def __init__(self, inner):
        super().__init__()
        self.inner = inner

      def forward(self, x):
        return self.inner(first(x))

    return Wrapped(torch_equivalent(model or self.model))

  def test_operations_in_place_on_the_images(self):
    torch = optional.load('torch')
    for first in (
      lambda x: x.add_(1).sub_(1),
      torch.nn.Identity(),
      lambda x: x.mul_(2).div_(2),
    ):
      with _module_of(lambda f=first: self._wrapped(f)):
        self._check(
          spec.build(f'torch:my_models.net?{_SIZE}&preprocessing=torch')
        )
    with _module_of(lambda: self._wrapped(torch.nn.ReLU(inplace=True))):
      adapter = spec.build(f'torch:my_models.net?{_SIZE}&preprocessing=torch')
    inputs = adapter.preprocess(networks.pixels())
    kept = inputs.copy()
    gradients = adapter.gradients(inputs, networks.labels())
    self.assertAllEqual(inputs, kept)
    wanted = networks.expected(
      lambda x, training: self.model(tf.nn.relu(x), training=training),
      inputs,
      networks.labels(),
    )
    self.assertAllClose(gradients, wanted[1], rtol=1e-5, atol=1e-6)

  def test_weights_of_16_and_64_bits(self):
    torch = optional.load('torch')
    for dtype, tolerance in (
      (torch.float16, 0.02),
      (torch.bfloat16, 0.15),
      (torch.float64, 1e-5),
    ):
      with _module_of(lambda d=dtype: torch_equivalent(self.model).to(d)):
        adapter = spec.build(f'torch:my_models.net?{_SIZE}&preprocessing=torch')
      inputs = adapter.preprocess(networks.pixels())
      found = adapter.logits_and_gradients(inputs, networks.labels())
      wanted = networks.expected(self.model, inputs, networks.labels())
      for ours, theirs in zip(found, wanted):
        self.assertEqual(ours.dtype, np.float32)
        self.assertAllClose(
          ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max()
        )

  def test_torchscript(self):
    torch = optional.load('torch')
    image = torch.zeros(1, 3, networks.SIZE, networks.SIZE)
    equivalent = torch_equivalent(self.model).eval()
    for script in (
      torch.jit.trace(equivalent, image),
      torch.jit.script(equivalent),
      torch.jit.freeze(torch.jit.trace(equivalent, image)),
    ):
      with _module_of(script):
        self._check(
          spec.build(f'torch:my_models.net?{_SIZE}&preprocessing=torch')
        )

  def test_a_class_and_a_module_in_place_of_a_function(self):
    torch = optional.load('torch')

    def equivalent():
      return torch_equivalent(self.model)

    class Net(torch.nn.Module):
      def __init__(self):
        super().__init__()
        self.inner = equivalent()

      def forward(self, x):
        return self.inner(x)

    for target in (Net, lambda: Net, equivalent()):
      with _module_of(target):
        self._check(spec.build(f'torch:my_models.net?{_SIZE}'))
    for target, message in (
      (lambda width, depth=2: None, 'needs the arguments width; expected'),
      (lambda: 1 / 0, 'fails: ZeroDivisionError: division by zero'),
      (lambda: {'a': 1}, 'my_models.net is a dict; expected a torch.nn'),
      (lambda: lambda x: x, 'is a function; expected'),
    ):
      with _module_of(target), self.assertRaisesRegex(ValueError, message):
        spec.build('torch:my_models.net')

  def test_networks_without_gradient_are_refused_by_name(self):
    torch = optional.load('torch')

    class NoGrad(torch.nn.Module):
      def __init__(self, inner, guard):
        super().__init__()
        self.inner, self.guard = inner, guard

      def forward(self, x):
        with self.guard():
          return self.inner(x)

    equivalent = torch_equivalent(self.model)
    for target in (
      NoGrad(equivalent, torch.no_grad),
      NoGrad(equivalent, torch.inference_mode),
      self._wrapped(lambda x: x.detach()),
      self._wrapped(torch.round),
    ):
      with _module_of(target):
        adapter = spec.build(f'torch:my_models.net?{_SIZE}')
      inputs = adapter.preprocess(networks.pixels())
      self.assertEqual(adapter.logits(inputs).shape, (3, 5))
      with self.assertRaisesRegex(ValueError, 'torch:my_models.net.*gradient'):
        adapter.gradients(inputs, networks.labels())

  def test_errors_of_a_network_are_one_sentence(self):
    torch = optional.load('torch')
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 5))
    with (
      _module_of(net),
      self.assertRaisesRegex(
        ValueError, r'net.*fails on 2 images of 16x16 pixels: RuntimeError: mat'
      ),
    ):
      spec.build(f'torch:my_models.net?{_SIZE}')

  def test_refuses_scores_that_depend_on_the_batch(self):
    torch = optional.load('torch')
    equivalent = torch_equivalent(self.model)
    equivalent.norm.train = lambda mode=True: equivalent.norm
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
      with (
        _module_of(equivalent.to(dtype)),
        self.assertRaisesRegex(
          ValueError, 'torch:my_models.net.*statistics of the batch'
        ),
      ):
        spec.build(f'torch:my_models.net?{_SIZE}')
    with _module_of(lambda: self._wrapped(torch.nn.functional.dropout)):
      with self.assertRaisesRegex(ValueError, 'two passes'):
        spec.build(f'torch:my_models.net?{_SIZE}')

  def test_normalization_inside_is_recognized(self):
    for first, found in (
      (lambda x: (x / 255 - 0.45) / 0.22, 'none'),
      (lambda x: (x - 0.45) / 0.22, 'unit'),
    ):
      with _module_of(lambda f=first: self._wrapped(f)):
        with self.assertNoLogs('absl', level='WARNING'):
          adapter = spec.build(f'torch:my_models.net?{_SIZE}')
      self.assertRegex(adapter.preprocessing, f', {found}: ')

  def test_import_errors_name_the_module(self):
    folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    for name, text in (
      ('needy', 'import a_package_of_nobody'),
      ('broken', 'def f(:'),
    ):
      with open(os.path.join(folder, f'{name}.py'), 'w') as f:
        f.write(text)
    with mock.patch.object(sys, 'path', [folder, *sys.path]):
      with self.assertRaisesRegex(
        ImportError, "needy fails: .*a_package_of_nobody'. Install"
      ):
        spec.build('torch:needy.net')
      with self.assertRaisesRegex(ImportError, 'broken fails: SyntaxError'):
        spec.build('torch:broken.net')
    with _module_of(len):
      with self.assertRaisesRegex(
        ImportError, "attribute 'other'; expected one of net"
      ) as error:
        spec.build('torch:my_models.other')
      self.assertNotIn('PYTHONPATH', str(error.exception))
    with self.assertRaisesRegex(
      ImportError, "No module named 'my_models'.*PYTHONPATH"
    ):
      spec.build('torch:my_models.net')
    with _module_of(len), self.assertRaisesRegex(ImportError, 'mean net?'):
      spec.check('torch:my_models.nett')
    with _module_of(None), self.assertRaisesRegex(ImportError, 'no attribute'):
      spec.build('torch:my_models.other')
    with self.assertRaisesRegex(ValueError, 'expected torch:PACKAGE.FUNCTION'):
      spec.build('torch:net')


class ZoosTest(tf.test.TestCase):
  """Stand-ins for timm and torchvision, of the functions that are called."""

  def setUp(self):
    super().setUp()
    optional.require('torch')
    self.calls = []

  def _timm(self, mean, stddev):
    timm, data = types.ModuleType('timm'), types.ModuleType('timm.data')

    def create_model(name, pretrained):
      if name != 'net':
        raise RuntimeError(f'Unknown model ({name})')
      self.calls.append((name, pretrained))
      return torch_equivalent(networks.network())

    timm.create_model = create_model
    timm.is_model = lambda name: name == 'net'
    timm.list_models = lambda: ['net']
    data.resolve_model_data_config = lambda module: {
      'input_size': (3, 16, 16),
      'mean': mean,
      'std': stddev,
      'interpolation': 'bicubic',
      'crop_pct': 0.9,
    }
    return mock.patch.dict(sys.modules, {'timm': timm, 'timm.data': data})

  def test_timm(self):
    with self._timm((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)):
      adapter = spec.build('timm:net')
      spec.build('timm:net?weights=none')
      for open_or_check in (spec.build, spec.check):
        with self.assertRaisesRegex(ValueError, "timm:nets: .*'nets'.*an net"):
          open_or_check('timm:nets')
      spec.check('timm:net')
    self.assertEqual(self.calls, [('net', True), ('net', False)])
    self.assertEqual(adapter.preprocessing, '16x16 pixels, tf: RGB / 127.5 - 1')
    self.assertAllClose(
      adapter.preprocess(networks.pixels()),
      networks.pixels() / 127.5 - 1,
      atol=1e-5,
    )

  def test_torchvision(self):
    transforms = types.SimpleNamespace(
      crop_size=[16],
      resize_size=[18],
      mean=(0.1, 0.2, 0.3),
      std=(1.0, 1.0, 2.0),
    )
    weights = types.SimpleNamespace(transforms=lambda: transforms)
    models = types.ModuleType('torchvision.models')
    models.get_model_weights = {
      'net': types.SimpleNamespace(DEFAULT=weights)
    }.__getitem__

    def get_model(name, weights):
      self.calls.append((name, weights))
      return torch_equivalent(networks.network())

    models.get_model = get_model
    models.list_models = lambda: ['net']
    modules = {
      'torchvision': types.ModuleType('torchvision'),
      'torchvision.models': models,
    }
    with mock.patch.dict(sys.modules, modules):
      adapter = spec.build('torchvision:net')
      spec.build('torchvision:net?weights=none')
      for open_or_check in (spec.build, spec.check):
        with self.assertRaisesRegex(ValueError, 'torchvision:nets: .*an net'):
          open_or_check('torchvision:nets')
      spec.check('torchvision:net')
    self.assertEqual(self.calls, [('net', weights), ('net', None)])
    self.assertEqual(
      adapter.preprocessing,
      '16x16 pixels, torchvision: (RGB / 255 - (0.1, 0.2, 0.3)) / (1.0, 1.0, '
      '2.0)',
    )


class MissingPackagesTest(tf.test.TestCase):
  def test_are_named(self):
    for package, text in (
      ('torch', 'torch:a.b'),
      ('timm', 'timm:net'),
      ('torchvision.models', 'torchvision:net'),
    ):
      with mock.patch.dict(sys.modules, {package: None}):
        with self.assertRaisesRegex(
          ImportError, f'{text} needs .*pip install {package.split(".")[0]}[.]$'
        ):
          spec.build(text)


if __name__ == '__main__':
  tf.test.main()
