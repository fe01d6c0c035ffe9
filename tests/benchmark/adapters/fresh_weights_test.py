# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of networks whose weights are drawn anew."""

# Bazel: tags = ["networks"]

import os
import random
import sys
import types
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark.adapters import fresh_weights
from official_ext.harmonization.benchmark.adapters import spec
from testing import optional
from tests.benchmark.adapters import networks


def _copy(adapter):
  return [np.array(w) for w in adapter.parameters()]


def _saved(model, path):
  """Saves a model whose weights all differ from any initial value."""
  rng = np.random.default_rng(0)
  model.set_weights(
    [rng.uniform(0.1, 0.9, w.shape) for w in model.get_weights()]
  )
  model.save(path)
  return path


class FreshWeightsTest(tf.test.TestCase):
  def _check(self, text, head):
    original = spec.build(text)
    before = _copy(original)
    twins = [spec.randomized(text, seed) for seed in (1, 1, 2)]
    # Opening a network may draw from global generators, new weights may not.
    states = random.getstate(), np.random.get_state()[1].tolist()
    twins[2].randomize(2)
    self.assertEqual(
      states, (random.getstate(), np.random.get_state()[1].tolist())
    )
    first, again, other = map(_copy, twins)
    for i, weight in enumerate(before):
      self.assertFalse(np.array_equal(weight, first[i]), i)
      np.testing.assert_array_equal(first[i], again[i])
    self.assertTrue(any(not np.array_equal(a, b) for a, b in zip(first, other)))
    for a, b in zip(before, _copy(original)):
      np.testing.assert_array_equal(a, b)
    twin = twins[0]
    self.assertEqual(twin.name, f'random-{original.name}-1')
    self.assertEqual(twin.preprocessing, original.preprocessing)
    self.assertEqual(twin.num_classes, original.num_classes)
    inputs = original.preprocess(networks.pixels(size=original.input_size))
    results = [t.logits(inputs) for t in (original, *twins)]
    self.assertFalse(np.allclose(results[0], results[1]))
    np.testing.assert_array_equal(results[1], results[2])
    self.assertFalse(np.allclose(results[1], results[3]))
    self._check_parts(original, twin, head)
    return original, twin

  def _check_parts(self, adapter, twin, head):
    """Later layers change first, from `head` on, and trained weights return."""
    before, all_fresh = _copy(adapter), _copy(twin)
    inputs = adapter.preprocess(networks.pixels(size=adapter.input_size))
    logits = adapter.logits(inputs)
    kept = {}
    for part in fresh_weights.PARTS:
      with adapter.with_fresh_weights(1, part):
        inside = _copy(adapter)
        self.assertFalse(np.allclose(logits, adapter.logits(inputs)))
      is_kept = [np.array_equal(a, b) for a, b in zip(before, inside)]
      for is_same, weight, fresh in zip(is_kept, inside, all_fresh):
        if not is_same:
          np.testing.assert_array_equal(weight, fresh)
      kept[part] = {i for i, is_same in enumerate(is_kept) if is_same}
      np.testing.assert_array_equal(adapter.logits(inputs), logits)
    self.assertTrue(kept['head'] > kept['half'] > kept['all'])
    self.assertEmpty(kept['all'])
    self.assertIn(0, kept['half'])
    self.assertEqual({*range(len(before))} - kept['head'], head)
    with self.assertRaisesRegex(ValueError, 'thrid'):
      with adapter.with_fresh_weights(1, 'thrid'):
        pass

  def test_keras_2(self):
    path = os.path.join(self.get_temp_dir(), 'model.h5')
    _saved(networks.network(), path)
    _, twin = self._check(f'keras:{path}?preprocessing=unit', {8, 9})
    kernel, bias, gamma, beta, mean, variance, *_ = twin.parameters()
    for values, initial in (
      (bias, 0),
      (gamma, 1),
      (beta, 0),
      (mean, 0),
      (variance, 1),
    ):
      np.testing.assert_array_equal(values, initial)
    limit = np.sqrt(6 / (9 * 3 + 9 * 6))  # Glorot's uniform distribution.
    self.assertLessEqual(np.abs(kernel).max(), limit)
    self.assertGreater(np.abs(kernel).max(), 0.9 * limit)

  def test_keras_3(self):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
      [
        keras.Input((networks.SIZE, networks.SIZE, 3)),
        keras.layers.SeparableConv2D(6, 3, activation='relu'),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(5),
      ]
    )
    path = os.path.join(self.get_temp_dir(), 'model.keras')
    self._check(f'keras:{_saved(model, path)}?preprocessing=unit', {7, 8})

  def test_keras_app(self):
    text = 'keras_app:MobileNet?weights=none&classes=5&input_size=32'
    twins = [spec.randomized(text, seed) for seed in (1, 1, 2)]
    first, again, other = map(_copy, twins)
    for a, b, c in zip(first, again, other):
      np.testing.assert_array_equal(a, b)
      if a.ndim > 1:  # Kernels; vectors start at a constant.
        self.assertFalse(np.array_equal(a, c))

  def test_saved_model_is_unavailable(self):
    path = os.path.join(self.get_temp_dir(), 'exported')
    networks.network().export(path)
    self._check_unavailable(
      f'saved_model:{path}?preprocessing=unit', 'exported'
    )

  def _check_unavailable(self, text, reason):
    adapter = spec.build(text)
    with self.assertRaisesRegex(fresh_weights.Unavailable, reason):
      adapter.randomize(0)
    with self.assertRaisesRegex(fresh_weights.Unavailable, reason):
      with adapter.with_fresh_weights(0, 'head'):
        pass

  def _torch_spec(self, script=False):
    torch = optional.load('torch')
    nn = torch.nn

    class Scale(nn.Module):
      def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((6, 1, 1), 0.5))

      def forward(self, x):
        return x * (1 + self.gamma)

    def network():
      with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
          nn.Conv2d(3, 6, 3),
          nn.BatchNorm2d(6),
          Scale(),
          nn.ReLU(),
          nn.AdaptiveAvgPool2d(1),
          nn.Flatten(),
          nn.Linear(6, 5),
        )
        for tensor in (*model.parameters(), *model.buffers()):
          if tensor.is_floating_point():
            tensor.data.uniform_(0.1, 0.9)
          else:
            tensor.fill_(3)
      return torch.jit.script(model) if script else model

    module = types.ModuleType('my_models')
    module.net = network
    self.enterContext(mock.patch.dict(sys.modules, my_models=module))
    return f'torch:my_models.net?input_size={networks.SIZE}&preprocessing=unit'

  def test_torch(self):
    text = self._torch_spec()
    torch = optional.load('torch')
    state = torch.get_rng_state()
    # The weight and bias of the last layer; buffers follow.
    self._check(text, {5, 6})
    self.assertTrue(torch.equal(state, torch.get_rng_state()))

  def test_torchscript_is_unavailable(self):
    self._check_unavailable(self._torch_spec(script=True), 'TorchScript')


if __name__ == '__main__':
  tf.test.main()
