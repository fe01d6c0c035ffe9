# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Configures pytest. (Bazel runs each test file in a separate process.)

A file whose tests are not fast says why, in a comment `# Bazel: tags = [...]`:

  training    runs training steps
  subprocess  starts processes
  networks    builds many or large networks
  graphs      traces many functions
  files       writes many files
  slow        takes minutes, so that CI does not repeat it under Bazel

`pytest --fast` (make test-fast) skips these files.
"""

import atexit
import functools
import gc
import os
import pathlib
import re
import shutil
import sys
import tempfile

import pytest

_TAGS = re.compile(r'^# Bazel: tags = \[(.*)\]', re.MULTILINE)


@functools.cache
def _tags(path: pathlib.Path) -> str:
  found = _TAGS.search(path.read_text(encoding='utf-8'))
  return found[1] if found else ''


def pytest_addoption(parser):
  parser.addoption(
    '--fast',
    action='store_true',
    help='run only files without a comment `# Bazel: tags = [...]`',
  )


def pytest_ignore_collect(collection_path: pathlib.Path, config) -> bool | None:
  """Skips, with --fast, files with a comment `# Bazel: tags = [...]`."""
  if not config.getoption('--fast') or collection_path.suffix != '.py':
    return None
  return True if _tags(collection_path) else None


def pytest_configure():
  """Quietens TensorFlow, and makes a temporary folder that the end removes.

  TensorFlow writes a file for each function that AutoGraph converts, and keeps
  it. Workers inherit TMPDIR, so that the first process removes their files too.
  """
  # TensorFlow logs a line about the processor at every start.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  folder = tempfile.mkdtemp(prefix='harmonization-tests-')
  os.environ['TMPDIR'] = tempfile.tempdir = folder
  # Registered first, so it runs last: TensorFlow also removes folders at exit.
  atexit.register(shutil.rmtree, folder, ignore_errors=True)


def pytest_collection_modifyitems(items):
  """Removes `test_session`, a method of tf.test.TestCase that is not a test.

  The slow files are moved to the front, so that no process waits for the other
  at the end.
  """
  items[:] = [item for item in items if item.name != 'test_session']
  items.sort(key=lambda item: ('slow' not in (t := _tags(item.path)), not t))


def pytest_collection_finish():
  """Excludes imported modules from garbage collection, which they slow down."""
  gc.collect()
  gc.freeze()


@pytest.fixture(scope='module', autouse=True)
def free_memory():
  """Frees networks and traced functions, which slow down later test files."""
  yield
  if 'tf_keras' in sys.modules:
    sys.modules['tf_keras'].backend.clear_session()
  gc.collect()
