# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that imports do not load more than they need."""

# Bazel: tags = ["subprocess"]
# Bazel: deps = ["//official_ext/harmonization/losses:harmonization"]
# Bazel: deps = ["//official_ext/harmonization:train"]
# Bazel: deps = ["//official_ext/harmonization:export_saved_model"]
# Bazel: deps = ["//official_ext/harmonization:export_tflite"]

import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from testing import processes

_FAIL_IF_LOADED = (
  'import sys; {statement}; '
  "found = {{name.partition('.')[0] for name in sys.modules}} & {packages!r}; "
  'sys.exit(" ".join(sorted(found)) or None)'
)


class LightImportsTest(parameterized.TestCase):
  @parameterized.parameters(
    # The loss is for any training loop, not only Model Garden's.
    (
      'import official_ext.harmonization.losses.harmonization',
      {'official', 'tf_keras', 'gin'},
    ),
    # --help and wrong flags are answered before anything is built.
    (
      'from official_ext.harmonization import train; train.define_flags()',
      {'tensorflow', 'numpy', 'gin'},
    ),
    *(
      (
        f'from official_ext.harmonization import {name}',
        {'tensorflow', 'official', 'numpy', 'gin'},
      )
      for name in ('export_saved_model', 'export_tflite')
    ),
  )
  def test_does_not_load(self, statement, packages):
    code = _FAIL_IF_LOADED.format(statement=statement, packages=packages)
    done = subprocess.run(
      [sys.executable, '-c', code],
      capture_output=True,
      text=True,
      check=False,
      env=processes.environment(),
    )
    self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == '__main__':
  absltest.main()
