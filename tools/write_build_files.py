# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Writes the BUILD files of Python packages from the imports of their modules.

  python tools/write_build_files.py            # or: make build-files
  python tools/write_build_files.py --check    # list outdated files

Each module is a library and each test file a test. Their dependencies are their
imports from this repository. Other attributes are comments in the file:

  # Bazel: size = "large"
  # Bazel: data = ["//:train"]

Targets of data files (`filegroup`) in an existing BUILD file are kept.
"""

import argparse
import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREES = ('official_ext', 'performance', 'stress', 'studies', 'testing', 'tests')
_MARKER = re.compile(r'^# Bazel: (\w+) = (.*)$', re.MULTILINE)
_HEADER = """# Written by tools/write_build_files.py; filegroups are kept.
package(default_visibility = ["//visibility:public"])

licenses(["notice"])
"""


def _module_file(name):
  """Returns the file of a module of this repository, or None."""
  path = pathlib.Path(*name.split('.'))
  for candidate in (path.with_suffix('.py'), path / '__init__.py'):
    if (ROOT / candidate).exists():
      return candidate
  return None


def _imports(path, tree):
  """Returns the files of this repository that a Python file imports."""
  names = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        names.append(whole if _module_file(whole) else node.module)
  files = (_module_file(n) for n in names if n.split('.')[0] in TREES)
  return {f for f in files if f and f.name != '__init__.py' and f != path}


def _label(path, package):
  """Returns the label of a module, relative to the package of a BUILD file."""
  prefix = '' if path.parent == package else f'//{path.parent.as_posix()}'
  return f'{prefix}:{path.stem}'


def _order(label):
  """Sorts labels as buildifier does: those of the package first."""
  return (not label.startswith(':'), label.replace(':', '!'))


def _attribute(name, value):
  """Returns the lines of an attribute, in buildifier's format."""
  if not isinstance(value, list):
    return [f'    {name} = "{value}",']
  if len(value) == 1:
    return [f'    {name} = ["{value[0]}"],']
  return [f'    {name} = [', *(f'        "{v}",' for v in value), '    ],']


def _expand(label):
  """Yields a label; '//PACKAGE:*' is a label for each module of the package."""
  package, _, name = label.partition(':')
  if name != '*':
    yield label
    return
  for path in sorted((ROOT / package.lstrip('/')).glob('*.py')):
    if path.name != '__init__.py':
      yield f'{package}:{path.stem}'


def _target(path):
  """Returns the target of a Python file."""
  source = (ROOT / path).read_text(encoding='utf-8')
  found = {
    'deps': [_label(f, path.parent) for f in _imports(path, ast.parse(source))]
  }
  for name, value in _MARKER.findall(source):
    value = ast.literal_eval(value)
    if isinstance(value, list):
      value = found.get(name, []) + [v for one in value for v in _expand(one)]
    found[name] = value
  found['deps'].sort(key=_order)
  rule = 'py_test' if path.name.endswith('_test.py') else 'py_library'
  attributes = {
    'name': path.stem,
    'size': None,
    'srcs': [path.name],
    'data': None,
    'tags': None,
    **found,
  }
  lines = [f'{rule}(']
  for name, value in attributes.items():
    if value:
      lines += _attribute(name, value)
  return '\n'.join([*lines, ')']) + '\n'


def _filegroups(build_file):
  """Returns the targets of data files that a BUILD file has."""
  if not build_file.exists():
    return []
  text = build_file.read_text(encoding='utf-8')
  return [
    ast.get_source_segment(text, node) + '\n'
    for node in ast.parse(text).body
    if isinstance(node.value, ast.Call) and node.value.func.id == 'filegroup'
  ]


def content(package):
  """Returns the text of the BUILD file of a package, a path from the root."""
  modules = [
    p.relative_to(ROOT)
    for p in sorted((ROOT / package).glob('*.py'))
    if p.name != '__init__.py'
  ]
  return '\n'.join(
    [_HEADER, *_filegroups(ROOT / package / 'BUILD'), *map(_target, modules)]
  )


def packages():
  """Returns the folders with modules, as paths from the root."""
  return sorted(
    {
      path.parent.relative_to(ROOT)
      for tree in TREES
      for path in (ROOT / tree).rglob('*.py')
      if path.name != '__init__.py'
    }
  )


def _mistakes():
  """Yields mistakes in sources that Bazel would hide."""
  for tree in TREES:
    for path in sorted((ROOT / tree).rglob('*.py')):
      name, source = path.relative_to(ROOT), path.read_text(encoding='utf-8')
      if path.name == '__init__.py':
        # Bazel puts an empty __init__.py into every package.
        if any(not isinstance(n, ast.Expr) for n in ast.parse(source).body):
          yield f'{name}: contains code, which Bazel would skip'
      elif path.name.endswith('_test.py') and '__main__' not in source:
        yield f'{name}: has no main, so Bazel would pass it without running it'
      # Bazel puts the folder of a test first on the path.
      if tree == 'tests' and path.stem in sys.stdlib_module_names:
        yield f"{name}: hides Python's own module {path.stem}"
  for tree in ('gin', 'experiments'):
    for path in sorted((ROOT / tree).rglob('*.py')):
      yield f'{path.relative_to(ROOT)}: no Python file may be in {tree}/'


def main():
  """Writes or checks the files; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--check',
    action='store_true',
    help='write nothing; fail if a file is out of date',
  )
  check = parser.parse_args().check
  found = list(_mistakes())
  for package in packages():
    path, text = ROOT / package / 'BUILD', content(package)
    if path.exists() and path.read_text(encoding='utf-8') == text:
      continue
    if check:
      found.append(f'{package}/BUILD: out of date. Run `make build-files`.')
    else:
      path.write_text(text, encoding='utf-8')
      print(f'{package}/BUILD: written')
  print('\n'.join(found) or 'BUILD files: up to date.')
  return bool(found)


if __name__ == '__main__':
  sys.exit(main())
