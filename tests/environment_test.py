"""Tests that the names that matter are the packages that are meant."""

import os
import sys

from absl.testing import absltest

import gin
from official_ext.harmonization import resources
from testing import released

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


class EnvironmentTest(absltest.TestCase):
  def test_gin_is_gin_config(self):
    self.assertTrue(hasattr(gin, 'configurable'))
    self.assertIn('site-packages', gin.__file__)

  def test_tests_and_library_are_ours(self):
    # Some packages install a top-level `tests`, which must not win.
    for module, place in (
      (released, ('tests',)),
      (resources, ('official_ext', 'harmonization')),
    ):
      self.assertEqual(
        os.path.dirname(os.path.realpath(module.__file__)),
        os.path.join(_ROOT, *place),
      )

  def test_interpreter_is_the_projects(self):
    # Bazel is told by .bazelrc.offline which one it has to be.
    expected = os.environ.get('HARMONIZATION_PYTHON')
    if expected is None:
      expected = os.path.join(_ROOT, '.venv', 'bin', 'python')
      if not os.path.exists(expected):
        self.skipTest(
          'There is no .venv, which make setup builds: the tests '
          "run in an environment of the user's own."
        )
    self.assertEqual(sys.prefix, os.path.dirname(os.path.dirname(expected)))


if __name__ == '__main__':
  absltest.main()
