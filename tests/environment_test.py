"""Tests that the names that matter are the packages that are meant."""

import os
import sys

from absl.testing import absltest
import gin

import official_ext.harmonization
import tests


class EnvironmentTest(absltest.TestCase):

  def test_gin_is_gin_config(self):
    self.assertTrue(hasattr(gin, 'configurable'))
    self.assertIn('site-packages', gin.__file__)

  def test_tests_are_ours(self):
    ours = os.path.dirname(os.path.realpath(__file__))
    self.assertEqual(os.path.realpath(os.path.dirname(tests.__file__)), ours)

  def test_library_is_ours(self):
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    self.assertEqual(
        os.path.realpath(os.path.dirname(official_ext.harmonization.__file__)),
        os.path.join(root, 'official_ext', 'harmonization'))

  def test_interpreter_is_the_projects(self):
    # Bazel is told by .bazelrc.offline which one it has to be.
    expected = os.environ.get('HARMONIZATION_PYTHON')
    if expected is None:
      root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
      expected = os.path.join(root, '.venv', 'bin', 'python')
      if not os.path.exists(expected):
        self.skipTest('There is no .venv, which make setup builds: the tests '
                      'run in an environment of the user\'s own.')
    self.assertEqual(sys.prefix, os.path.dirname(os.path.dirname(expected)))


if __name__ == '__main__':
  absltest.main()
