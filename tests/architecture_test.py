# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that packages import only what is in a layer below them.

`python -m tests.architecture_test` also prints the graph.
"""

# The test reads all sources, which Bazel would hide.
# Bazel: tags = ["manual"]

import ast
import graphlib
import pathlib

from absl.testing import absltest

from official_ext.harmonization import moved_modules

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGE = 'official_ext.harmonization.'
# From the top. A package or module may import those below it; packages of one
# layer may import each other if that makes no cycle.
_LAYERS = (
  {
    'ceiling',
    'compare',
    'evaluate',
    'explain',
    'export_saved_model',
    'export_tflite',
    'train',
  },
  {'benchmark'},
  {
    'building',
    'experiment_parser',
    'gin_settings',
    'input_checks',
    'run_folder',
    'runner',
  },
  {'registry_imports'},
  {'tasks'},
  {'configs', 'data', 'evaluation', 'modeling'},
  {'dataloaders', 'losses'},
  {'ops'},
)
_OUTSIDE = {'performance', 'stress', 'studies', 'testing', 'tests'}


def _imports(path):
  """Returns the names of all modules that a Python file imports."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      names.update(f'{node.module}.{alias.name}' for alias in node.names)
  return names


def _sources(*folders):
  """Yields module names and paths."""
  for folder in folders:
    for path in sorted((_ROOT / folder).rglob('*.py')):
      if path.name != '__init__.py':
        yield '.'.join(path.relative_to(_ROOT).with_suffix('').parts), path


def graph():
  """Returns what each package, or module outside of one, imports."""
  packages, modules = {}, {}
  for name, path in _sources('official_ext'):
    module = name.removeprefix(_PACKAGE)
    if module in moved_modules.MOVED:
      continue  # Import paths of earlier versions.
    found = {
      n.removeprefix(_PACKAGE) for n in _imports(path) if n.startswith(_PACKAGE)
    }
    modules[module] = found
    package = module.split('.')[0]
    packages.setdefault(package, set()).update(
      {n.split('.')[0] for n in found} - {package}
    )
  known = set(modules)
  return packages, {name: found & known for name, found in modules.items()}


class ArchitectureTest(absltest.TestCase):
  def test_imports_point_down(self):
    packages, modules = graph()
    layers = {name: i for i, layer in enumerate(_LAYERS) for name in layer}
    base = len(_LAYERS)  # Modules that every layer may use.
    for package, found in sorted(packages.items()):
      print(f'{package} -> {", ".join(sorted(found)) or "nothing"}')
      for name in found:
        self.assertLessEqual(
          layers.get(package, base),
          layers.get(name, base),
          f'{package} imports {name}, which is in a layer above it.',
        )
    self.assertContainsSubset(layers, packages)
    for dependencies in (packages, modules):
      # Raises CycleError.
      list(graphlib.TopologicalSorter(dependencies).static_order())

  def test_the_package_imports_nothing_outside_it(self):
    for name, path in _sources('official_ext'):
      found = {n.split('.')[0] for n in _imports(path)} & _OUTSIDE
      self.assertEmpty(found, name)

  def test_only_tests_import_tests(self):
    for name, path in _sources(*(_OUTSIDE - {'tests'})):
      self.assertNotIn('tests', {n.split('.')[0] for n in _imports(path)}, name)


if __name__ == '__main__':
  absltest.main()
