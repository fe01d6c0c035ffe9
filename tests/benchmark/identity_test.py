# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of identities and digests."""

import hashlib
import json
import os
import re
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.data.records import manifest
from tests.benchmark import fakes
from tests.benchmark.adapters import networks

_OTHER = 'the network returns other logits or gradients for one image'


class _Rectified(fakes.Adapter):
  """Has the same parameters and other code."""

  def network(self, inputs):
    hidden = tf.nn.relu(
      tf.nn.conv2d(inputs, self._filters, self._patch, 'VALID')
    )
    return tf.reshape(hidden, [len(inputs), -1]) @ self._linear


class NetworkTest(tf.test.TestCase):
  def _differ(self, a, b):
    # As after a round trip through a file.
    stored = json.loads(json.dumps(identity.network(a)))
    return identity.differences(
      {'network': stored}, {'network': identity.network(b)}
    )

  def test_same_network(self):
    self.assertEqual(
      self._differ(fakes.Adapter(spec='fake:a'), fakes.Adapter(spec='fake:b')),
      '',
    )

  def test_other_weights(self):
    self.assertRegex(
      self._differ(fakes.Adapter(), fakes.Adapter(seed=1)),
      f'^network.parameters was .*{_OTHER}$',
    )

  def test_other_code_with_the_same_weights(self):
    self.assertEqual(self._differ(fakes.Adapter(), _Rectified()), _OTHER)

  def test_tolerance_is_between_rounding_and_a_thousandth(self):
    for factor, found in ((1 + 1e-6, ''), (1 + 1e-3, _OTHER)):
      other = fakes.Adapter()
      plain = other.logits_and_gradients
      other.logits_and_gradients = lambda *a, p=plain, f=factor: [
        v * np.float32(f) for v in p(*a)
      ]
      self.assertEqual(self._differ(fakes.Adapter(), other), found)

  def test_one_changed_gradient(self):
    other = fakes.Adapter()
    plain = other.logits_and_gradients

    def shifted(*args):
      logits, gradients = plain(*args)
      return logits, np.roll(gradients, 1, axis=2)

    other.logits_and_gradients = shifted
    self.assertEqual(self._differ(fakes.Adapter(), other), _OTHER)

  def test_preprocessing(self):
    other = fakes.Adapter()
    other.preprocessing = 'pixels'
    self.assertEndsWith(self._differ(fakes.Adapter(), other), "is now 'pixels'")

  def test_a_keras_file_by_its_contents(self):
    path = os.path.join(self.get_temp_dir(), 'net.keras')
    found = []
    for seed in (0, 1, 0):
      networks.network(classes=5, seed=seed).save(path)
      found.append(spec.build(f'keras:{path}?preprocessing=tf'))
    self.assertEqual(self._differ(found[0], found[2]), '')
    self.assertEndsWith(self._differ(found[0], found[1]), _OTHER)
    self.assertGreater(identity.network(found[0])['number of parameters'], 100)


class DifferencesTest(tf.test.TestCase):
  def test_differences_are_named(self):
    known = {'options': {'limit': 8, 'blur': True}, 'protocol': 'a 1'}
    present = {
      'options': {'limit': None, 'blur': True},
      'protocol': 'a 1',
      'versions': {'numpy': '2'},
    }
    self.assertEqual(identity.differences(known, known), '')
    self.assertRegex(
      identity.differences(known, present),
      '^options.limit was 8 and is now None; versions',
    )

  def test_versions(self):
    with open('pyproject.toml', encoding='utf-8') as f:
      version = re.search(r'^version = "(.*)"$', f.read(), re.MULTILINE)[1]
    found = identity.versions('mg:x')
    self.assertEqual(found['official-ext-harmonization'], version)
    self.assertEqual(found['tensorflow'], tf.__version__)
    self.assertNotIn('torch', found)


class DigestsTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.get_temp_dir()
    self.table = os.path.join(self.folder, 'digests.json')
    self.paths = [self._write(f'{i}', f'{i}' * 100) for i in range(2)]

  def _write(self, name, content):
    path = os.path.join(self.folder, name)
    with open(path, 'w') as f:
      f.write(content)
    os.utime(path, (1, 1))
    return path

  def _of(self, *args):
    digests = identity.Digests(self.table)
    return digests.of(self.paths, *args), digests.changed

  def test_only_contents_count(self):
    found, _ = self._of()
    each = [hashlib.sha256(f'{i}'.encode() * 100).hexdigest() for i in (0, 1)]
    self.assertEqual(found, {'files': 2, 'sha256': identity.sha256(each, [])})
    os.utime(self.paths[0], (5, 5))
    self.paths[1] = os.rename(self.paths[1], f'{self.folder}/new') or (
      f'{self.folder}/new'
    )
    self.assertEqual(self._of(), (found, []))
    # Unless the names are given.
    self.assertNotEqual(self._of(['a', 'b'])[0], found)
    self.paths.reverse()
    self.assertNotEqual(self._of()[0], found)

  def test_a_change_of_the_same_size_and_time_is_noticed(self):
    with mock.patch.object(identity, '_SETTLED', -1.0):
      found, _ = self._of()
      self._write('1', '2' * 100)
      again, changed = self._of()
    self.assertNotEqual(again, found)
    self.assertEqual(changed, [self.paths[1]])

  def test_an_unchanged_file_is_not_read_again(self):
    with mock.patch.object(identity, '_SETTLED', -1.0):
      found, _ = self._of()
      with mock.patch.object(manifest, 'sha256') as read:
        self.assertEqual(self._of(), (found, []))
        read.assert_not_called()
    self._of()  # Digests of files that were just written are not stored.
    with open(self.table) as f:
      self.assertEqual(json.load(f), {})

  def test_large_inputs_are_sampled(self):
    with (
      mock.patch.object(identity, '_WHOLE', 100),
      mock.patch.object(identity, '_BLOCK', 4),
    ):
      found, _ = self._of()
      self._write('1', '1' * 96 + '2222')
      self.assertNotEqual(self._of()[0], found)
      self._write('1', '1' * 100)
      self.assertEqual(self._of()[0], found)
      os.utime(self.paths[1], (5, 5))
      self.assertNotEqual(self._of()[0], found)

  def test_a_damaged_table_is_replaced(self):
    for text in ('', '{"a"', '[]', '{"a": 1}'):
      with open(self.table, 'w') as f:
        f.write(text)
      with self.assertLogs('absl', 'WARNING') as logs:
        found, _ = self._of()
      self.assertIn('digests.json', logs.output[0])
      self.assertEqual(found['files'], 2)
      with open(self.table) as f:
        json.load(f)


if __name__ == '__main__':
  tf.test.main()
