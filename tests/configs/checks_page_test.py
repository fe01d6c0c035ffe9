# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that docs/checks.md agrees with the tables of checks."""

# Bazel: data = ["//:checks_page"]

import os

from absl.testing import absltest

from official_ext.harmonization.configs import experiment_checks

_ROOT = os.path.dirname(
  os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
)


class ChecksPageTest(absltest.TestCase):
  def test_is_up_to_date(self):
    with open(os.path.join(_ROOT, 'docs', 'checks.md')) as f:
      self.assertEqual(f.read(), experiment_checks.as_markdown())


if __name__ == '__main__':
  absltest.main()
