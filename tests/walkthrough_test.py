# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that docs/walkthrough.ipynb runs."""

# Bazel: size = "large"
# Bazel: tags = ["slow"]
# Bazel: data = ["//:experiments", "//:walkthrough"]

import os
import subprocess
import sys
import tempfile
import unittest

import nbformat

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


class WalkthroughTest(unittest.TestCase):
  def test_all_cells_run(self):
    with tempfile.TemporaryDirectory() as folder:
      copy = os.path.join(folder, 'walkthrough.ipynb')
      source = os.path.join(_ROOT, 'docs', 'walkthrough.ipynb')
      nbformat.write(nbformat.read(source, as_version=4), copy)
      environment = {
        **os.environ,
        'WALKTHROUGH_STEPS': '2',
        'WALKTHROUGH_IMAGES': '160',
        'WALKTHROUGH_FOLDER': folder,
      }
      done = subprocess.run(
        [sys.executable, os.path.join(_ROOT, 'tools', 'run_notebook.py'), copy],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
      )
      self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
      notebook = nbformat.read(copy, as_version=4)
    outputs = [o for cell in notebook.cells for o in cell.get('outputs', [])]
    printed = ''.join(o['text'] for o in outputs if o.output_type == 'stream')
    pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
    self.assertRegex(printed, r'images scored +20\.000 +20\.000')
    self.assertEqual(len(pictures), 2)


if __name__ == '__main__':
  unittest.main()
