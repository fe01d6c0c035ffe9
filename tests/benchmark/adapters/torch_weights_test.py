# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of PyTorch weights in the files of training scripts."""

# Bazel: tags = ["networks"]

import argparse
import collections
import copy
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark.adapters import torch_weights
from testing import optional


def _net(seed=0, width=4):
  torch = optional.load('torch')
  torch.manual_seed(seed)
  net = torch.nn.Sequential(
    collections.OrderedDict(
      conv=torch.nn.Conv2d(3, width, 3),
      norm=torch.nn.BatchNorm2d(width),
      flat=torch.nn.Flatten(),
      fc=torch.nn.Linear(width, 5),
    )
  )
  net.norm.running_mean.normal_()
  return net


def _prefixed(prefix, state):
  return collections.OrderedDict((prefix + k, v) for k, v in state.items())


class Settings(dict):
  """Resembles Lightning's AttributeDict."""


class TorchWeightsTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.torch = optional.load('torch')
    self.state, self.other = _net(1).state_dict(), _net(2).state_dict()

  def _load(self, content, key='', into=None):
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), 'w.pt')
    self.torch.save(content, path)
    net = _net() if into is None else into
    torch_weights.load('torch:a.b', net, path, key)
    return net.state_dict()

  def _check(self, *args, **kwargs):
    found = self._load(*args, **kwargs)
    for name, tensor in self.state.items():
      self.assertTrue(
        any(
          self.torch.equal(t, tensor)
          for n, t in found.items()
          if n.endswith(name)
        ),
        name,
      )

  def test_wrapped(self):
    optimizer = {'state': {0: {'exp_avg': self.torch.ones(2)}}}
    for key in ('state_dict', 'model', 'model_state_dict', 'model_ema', 'ema'):
      with self.assertLogs('absl', level='INFO') as logs:
        self._check({key: self.state, 'epoch': 3, 'optimizer': optimizer})
      self.assertIn(f'under {key} in', ''.join(logs.output))

  def test_prefixed(self):
    for prefix in (
      'module.',
      '_orig_mod.',
      'model.',
      'net.',
      'backbone.',
      'module._orig_mod.',
    ):
      self._check(_prefixed(prefix, self.state))
      self._check({'model': _prefixed(prefix, self.state)})

  def test_layouts(self):
    torch = self.torch
    self._check(
      {  # Lightning's.
        'state_dict': {
          **_prefixed('model.', self.state),
          'criterion.weight': torch.ones(5),
        },
        'pytorch-lightning_version': '2.1',
        'hyper_parameters': Settings(lr=0.1),
        'callbacks': {'Checkpoint': {'best': torch.tensor(0.5)}},
      }
    )
    self._check(
      {
        'model_ema': {  # torchvision's.
          'n_averaged': torch.tensor(3),
          **_prefixed('module.', self.state),
        }
      }
    )
    self._check(
      {
        'model': self.state,
        'best': np.float64(0.5),
        'hist': np.ones(3),
        'args': argparse.Namespace(lr=0.1, path=pathlib.Path('a')),
      }
    )
    self._check({k: v for k, v in self.state.items() if 'batches' not in k})
    self._check({'model': self.state, 'ema': copy.deepcopy(self.state)})

  def test_modules_in_wrappers(self):
    for wrap in (
      self.torch.nn.DataParallel,
      lambda net: self.torch.compile(net, backend='eager'),
    ):
      self._check(self.state, into=wrap(_net()))
      self._check(_prefixed('module.', self.state), into=wrap(_net()))

  def test_several_sets_of_weights_are_named(self):
    content = {'model': self.other, 'ema': self.state}
    with self.assertRaisesRegex(ValueError, 'model, ema; .*weights_key=ema'):
      self._load(content)
    self._check(content, key='ema')
    content = {
      **_prefixed('student.', self.other),
      **_prefixed('teacher.', self.state),
    }
    with self.assertRaisesRegex(ValueError, 'student, teacher; expected one'):
      self._load(content)
    self._check(content, key='teacher.')
    with self.assertRaisesRegex(ValueError, "under 'pupil': none of"):
      self._load(content, key='pupil')

  def test_weights_that_do_not_fit_are_named(self):
    renamed = {k.replace('fc', 'head'): v for k, v in self.state.items()}
    for content, message in (
      (renamed, r'missing: 2 .fc.weight, fc.bias. of 9, unknown: 2 .hea'),
      ({'model': _prefixed('net.', renamed)}, "under 'model.net', missing: 2"),
      (_net(1, 8).state_dict(), r'\(8, 3, 3, 3\); expected \(4, 3, 3, 3\)'),
      # A larger network with the same names does not fit.
      (
        {**self.state, 'more.bias': self.torch.ones(1)},
        'unknown: 1 .more.bias.',
      ),
      ([1, 2], "none of the network's 9 names"),
      (_net(1), 'a complete module'),
      ({'model': _net(1)}, "none of the network's 9 names"),
    ):
      with self.assertRaisesRegex(ValueError, f'w.pt .*{message}'):
        self._load(content)

  def test_files_without_weights(self):
    path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), 'w.pt')
    for content in (b'', b'junk', b'PK'):
      with open(path, 'wb') as f:
        f.write(content)
      with self.assertRaisesRegex(
        ValueError, 'w.pt .*weights of this net.*Save'
      ):
        torch_weights.load('torch:a.b', _net(), path)
    with self.assertRaisesRegex(FileNotFoundError, 'torch:a.b: .* not exist'):
      torch_weights.load('torch:a.b', _net(), os.path.dirname(path))

  def test_code_beside_weights_is_not_run(self):
    made = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), 'made')

    class Code:
      def __init__(self, *call):
        self._call = call

      def __reduce__(self):
        return self._call

    self._check(
      {
        'model': self.state,
        'x': Code(eval, (f'__import__("os").mkdir({made!r})',)),
      }
    )
    with self.assertRaisesRegex(ValueError, 'expected weights of this network'):
      self._load({'model': self.state, 'x': Code(os.mkdir, (made,))})
    self.assertFalse(os.path.exists(made))


if __name__ == '__main__':
  tf.test.main()
