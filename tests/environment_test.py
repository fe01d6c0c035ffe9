# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that module names refer to the packages that are meant."""

import os
import sys

from absl.testing import absltest

import gin
from official_ext.harmonization import resources
from testing import released
from tests import samples

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


class EnvironmentTest(absltest.TestCase):
  def test_gin_is_gin_config(self):
    # gin/ of this repository has the same name.
    self.assertTrue(hasattr(gin, 'configurable'))
    self.assertIn('site-packages', gin.__file__)

  def test_tests_and_library_are_ours(self):
    # Some packages install top-level packages of these names.
    for module, folder in (
      (samples, ('tests',)),
      (released, ('testing',)),
      (resources, ('official_ext', 'harmonization')),
    ):
      self.assertEqual(
        os.path.dirname(os.path.realpath(module.__file__)),
        os.path.join(_ROOT, *folder),
      )

  def test_interpreter_is_the_projects(self):
    # Set by the Makefile, and by .bazelrc.offline for Bazel.
    expected = os.environ.get('HARMONIZATION_PYTHON')
    if expected is None:
      expected = os.path.join(_ROOT, '.venv', 'bin', 'python')
      if not os.path.exists(expected):
        self.skipTest('.venv does not exist. To build it, run: make setup')
    self.assertEqual(sys.prefix, os.path.dirname(os.path.dirname(expected)))


if __name__ == '__main__':
  absltest.main()
