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
import itertools
import multiprocessing
import os
import pathlib
import re
import shutil
import tempfile
import traceback

from _pytest import runner
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
  # Programs that run once take longer to optimize than to run. (Under Bazel,
  # they are optimized.)
  os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
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
  """Makes garbage collection cheap; it would take a tenth of the time.

  Imported modules are excluded from it, and it runs more rarely, because
  TensorFlow creates many objects that stay.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 100)


class _Fork:
  """A fork of a worker that runs the tests of one file.

  TensorFlow keeps what a process has traced: it slows down from file to file,
  and freeing that takes longer than to end the process. The worker only
  imports: once TensorFlow has run, its threads would be missing in a fork.
  """

  def __init__(self, items):
    self._path = items[0].path
    self._reports, reports = multiprocessing.Pipe(duplex=False)
    self._pid = os.fork()
    if not self._pid:
      try:
        _run(items, reports)
      except BaseException:
        traceback.print_exc()
      finally:
        os._exit(0)
    reports.close()

  def reports(self, item):
    """Returns the reports of the next test, whose item is given."""
    try:
      found = self._reports.recv()
    except EOFError:
      message = f'The process that ran {self._path} has died.'
      return [
        pytest.TestReport(
          item.nodeid, item.location, {}, 'failed', message, 'call'
        )
      ]
    hook = item.config.hook
    return [
      hook.pytest_report_from_serializable(config=item.config, data=data)
      for data in found
    ]

  def end(self):
    self._reports.close()
    os.waitpid(self._pid, 0)


class _Collector:
  """Keeps reports, also of subtests, that a fork cannot send to xdist."""

  def __init__(self, config):
    self._config = config
    self.found = []
    for plugin in config.pluginmanager.get_plugins():
      if type(plugin).__name__ == 'WorkerInteractor':
        config.pluginmanager.unregister(plugin)
    config.pluginmanager.register(self)

  def pytest_runtest_logreport(self, report):
    self.found.append(
      self._config.hook.pytest_report_to_serializable(
        config=self._config, report=report
      )
    )


def _run(items, reports):
  """Runs tests, and sends the list of its reports for each."""
  collector = _Collector(items[0].config)
  for item, following in itertools.zip_longest(items, items[1:]):
    runner.runtestprotocol(item, log=True, nextitem=following)
    reports.send(collector.found)
    collector.found = []


_forks: dict[pathlib.Path, _Fork] = {}


def pytest_runtest_protocol(item, nextitem):
  """Runs the tests of a file in a fork, if pytest uses several processes."""
  if 'PYTEST_XDIST_WORKER' not in os.environ:
    return None
  path = item.path
  if path not in _forks:
    _forks[path] = _Fork([i for i in item.session.items if i.path == path])
  hook = item.ihook
  hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
  for report in _forks[path].reports(item):
    hook.pytest_runtest_logreport(report=report)
  hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
  if nextitem is None or nextitem.path != path:
    _forks.pop(path).end()
  return True
