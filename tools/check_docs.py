# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks that everything the documents refer to exists.

  python tools/check_docs.py

It checks links and their anchors, files in backticks, and the tests that tables
name, such as `ops/second_order_test::ScopeTest` or, for a second test of the
same file, `::test_small_and_large_gradients`. It also checks that
docs/results.md contains the tables of studies/results. It prints each missing
reference or table; the exit code is then 1.
"""

from collections.abc import Iterator
import contextlib
import io
import pathlib
import re
import sys

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PATTERNS = ('*.md', 'docs/**/*.md')
_FOLDERS = (
  '.github',
  'docs',
  'experiments',
  'gin',
  'official_ext',
  'performance',
  'stress',
  'studies',
  'testing',
  'tests',
  'tools',
)
_CODE_BLOCK = re.compile(r'^```.*?^```', re.M | re.S)
_LINK = re.compile(r'\]\(([^)\s]+)\)')
_QUOTED = re.compile(r'`([^`\n]+)`')
_FILE = re.compile(rf'(?:{"|".join(map(re.escape, _FOLDERS))})/[\w/.-]+')
_PACKAGE = _ROOT / 'official_ext/harmonization'
_MODULE = re.compile(r'\w+/[\w/]+(?<!_test)\.py')
_TEST_FILE = re.compile(r'([\w/]+_test)(?:\.py)?((?:(?:::|\.)\w+)*)')
_TEST_NAMES = re.compile(r'(?:::\w+)+|test_\w+|\w+Test')


def _anchors(path: pathlib.Path) -> set[str]:
  """Returns the anchors that GitHub gives to the headings of a document."""
  headings = re.findall(r'^#+ (.*)$', path.read_text(), re.M)
  return {
    re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')
    for heading in headings
  }


def missing_links(path: pathlib.Path, text: str) -> Iterator[str]:
  """Yields the links of a document that lead nowhere."""
  for link in _LINK.findall(text):
    if re.match(r'https?:|mailto:', link):
      continue
    name, _, anchor = link.partition('#')
    target = path.parent / name if name else path
    if not target.exists():
      yield f'{link} does not exist'
    elif anchor and anchor not in _anchors(target):
      yield f'{name} has no heading for #{anchor}'


def missing_files(text: str) -> Iterator[str]:
  """Yields the files in backticks that do not exist."""
  for quoted in _QUOTED.findall(text):
    if _FILE.fullmatch(quoted):
      found = (_ROOT / quoted).exists()
    elif _MODULE.fullmatch(quoted):  # Relative to the package, or part of it.
      found = bool(list(_PACKAGE.glob(f'**/{quoted}')))
    else:
      continue
    if not found:
      yield f'{quoted} does not exist'


def missing_tests(text: str) -> Iterator[str]:
  """Yields the tests that the rows of tables name and that do not exist."""
  for row in re.findall(r'^\|.*$', text, re.M):
    source = None
    for quoted in _QUOTED.findall(row):
      test = _TEST_FILE.fullmatch(quoted)
      if test:
        file = _ROOT / 'tests' / f'{test[1].removeprefix("tests/")}.py'
        source = file.read_text() if file.exists() else None
        if source is None:
          yield f'{quoted}: {file.relative_to(_ROOT)} does not exist'
        names = re.findall(r'\w+', test[2])
      elif source is not None and _TEST_NAMES.fullmatch(quoted):
        names = re.findall(r'\w+', quoted)
      else:
        continue
      for name in names if source is not None else ():
        if not re.search(rf'^ *(?:def|class) {name}\b', source, re.M):
          yield f'{quoted}: no {name} in {file.relative_to(_ROOT)}'


def missing_tables() -> Iterator[str]:
  """Yields the tables of the studies that docs/results.md does not contain."""
  sys.path.insert(0, str(_ROOT))
  from studies import study_report  # Imports NumPy and others.

  text = (_ROOT / 'docs/results.md').read_text(encoding='utf-8')
  for name in study_report.STUDIES:
    # The number of lines without a digest is of no interest here.
    with contextlib.redirect_stderr(io.StringIO()):
      runs = study_report.read(str(_ROOT / f'studies/results/{name}.jsonl'))
    tables = [study_report.table_of_differences(runs)]
    if name == 'twins':
      tables.append(study_report.table(runs))
    if any(table.strip() not in text for table in tables):
      yield f'docs/results.md differs from the tables of {name}.jsonl'


def main() -> int:
  """Checks all documents; returns the exit code."""
  found = []
  for path in sorted(p for pattern in _PATTERNS for p in _ROOT.glob(pattern)):
    text = _CODE_BLOCK.sub('', path.read_text())
    name = path.relative_to(_ROOT)
    found += [f'{name}: {problem}' for problem in missing_links(path, text)]
    found += [f'{name}: {problem}' for problem in missing_files(text)]
    found += [f'{name}: {problem}' for problem in missing_tests(text)]
  found += missing_tables()
  print('\n'.join(found) or 'Documents: all references exist.')
  return int(bool(found))


if __name__ == '__main__':
  sys.exit(main())
