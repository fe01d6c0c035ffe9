"""Checks that the BUILD files say what the Python files do.

Every module has a library of its name, every test file a test of its name with
a main that runs it (one without would pass empty under Bazel), and the
dependencies of each are its imports from this repository. Bazel puts an empty
__init__.py into every package, so ours hold no code.
"""

import ast
import pathlib
import sys

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_TREES = ('official_ext', 'tests', 'benchmarks')


def _label(path):
  """Returns the label of the target that a Python file belongs to."""
  return f'//{path.parent.as_posix()}:{path.stem}'


def _targets(build_file):
  """Yields (label, rule, sources, dependencies) of each target in a BUILD."""
  package = build_file.parent.relative_to(_ROOT)
  prefix = '//' + ('' if package == pathlib.Path('.') else package.as_posix())
  for call in ast.walk(ast.parse(build_file.read_text())):
    if not isinstance(call, ast.Call):
      continue
    fields = {
        k.arg: ast.literal_eval(k.value)
        for k in call.keywords
        if k.arg in ('name', 'srcs', 'deps')
        and not isinstance(k.value, ast.Call)
    }
    if call.func.id in ('py_library', 'py_test', 'py_binary'):
      deps = set()
      for dep in fields.get('deps', []):
        dep = prefix + dep if dep.startswith(':') else dep
        name = dep.rpartition('/')[2]
        deps.add(dep if ':' in dep else f'{dep}:{name}')
      sources = [package / source for source in fields.get('srcs', [])]
      yield f'{prefix}:{fields["name"]}', call.func.id, sources, deps


def _module_file(name):
  """Returns the file of a module of this repository, or None."""
  path = pathlib.Path(*name.split('.'))
  for candidate in (path.with_suffix('.py'), path / '__init__.py'):
    if (_ROOT / candidate).exists():
      return candidate
  return None


def _imports(path):
  """Returns the labels of this repository's modules that a file imports."""
  names = []
  for node in ast.walk(ast.parse((_ROOT / path).read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        names.append(whole if _module_file(whole) else node.module)
  files = (_module_file(n) for n in names if n.split('.')[0] in _TREES)
  return {_label(f) for f in files if f and f.name != '__init__.py'}


def main():
  """Prints what is wrong; returns how many findings there are."""
  found = []
  targets = {}
  for build_file in sorted(_ROOT.glob('BUILD')) + [
      p for tree in _TREES for p in sorted((_ROOT / tree).rglob('BUILD'))
  ]:
    for label, rule, sources, deps in _targets(build_file):
      targets[label] = (rule, sources, deps)

  files = [
      p.relative_to(_ROOT)
      for tree in _TREES
      for p in sorted((_ROOT / tree).rglob('*.py'))
  ]
  for path in files:
    # Bazel puts a test's own folder first on the path.
    if path.parts[0] == 'tests' and path.stem in sys.stdlib_module_names:
      found.append(f"{path}: hides Python's own module {path.stem}")
    if path.name == '__init__.py':
      body = ast.parse((_ROOT / path).read_text()).body
      if any(not isinstance(node, ast.Expr) for node in body):
        found.append(f'{path}: holds code, which Bazel would leave out')
      continue
    label = _label(path)
    is_test = path.name.endswith('_test.py')
    rule = 'py_test' if is_test else 'py_library'
    actual, sources, deps = targets.pop(label, (None, [], set()))
    if actual != rule or path not in sources:
      found.append(f'{path}: no {rule} {label} with this source')
      continue
    if is_test and '__main__' not in (_ROOT / path).read_text():
      found.append(f'{path}: no main, so it would pass under Bazel unrun')
    expected = _imports(path)
    found += [f'{label}: {d} is imported, but not in deps'
              for d in sorted(expected - deps)]
    found += [f'{label}: {d} is in deps, but not imported'
              for d in sorted(deps - expected)]
  found += [f'{label}: no such file' for label, (rule, _, _) in targets.items()
            if rule != 'py_binary']
  found += [f'{p.relative_to(_ROOT)}: no Python file may stand here'
            for tree in ('gin', 'experiments')
            for p in sorted((_ROOT / tree).rglob('*.py'))]
  print('\n'.join(found) or 'BUILD files: all is named.')
  return len(found)


if __name__ == '__main__':
  sys.exit(bool(main()))
