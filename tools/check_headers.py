# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks that each source file starts with the copyright and the licence.

python tools/check_headers.py          # list the files without a header
python tools/check_headers.py --fix    # add it to them
"""

import argparse
import pathlib
import sys

import source_files

_HEADER = (
  '# Copyright The official-ext-harmonization authors.\n'
  '# SPDX-License-Identifier: Apache-2.0\n'
)
_PATTERNS = ('*.py', '*.pyi', '*.sh', '*.bzl', '.ci/run')


def without_header() -> list[pathlib.Path]:
  """Returns the source files, known to git, that lack the header."""
  return [
    file
    for file in source_files.known_to_git(*_PATTERNS)
    if (text := file.read_text(encoding='utf-8')).strip()
    and not _body(text)[1].startswith(_HEADER)
  ]


def _body(text: str) -> tuple[str, str]:
  """Splits a file after its #! line, if it has one."""
  if not text.startswith('#!'):
    return '', text
  first, rest = text.split('\n', 1)
  return f'{first}\n', rest


def main() -> int:
  """Checks or changes the files; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--fix', action='store_true', help='add the header')
  fix = parser.parse_args().fix
  found = without_header()
  for file in found:
    if fix:
      first, rest = _body(file.read_text(encoding='utf-8'))
      gap = '' if rest.startswith('#') else '\n'
      file.write_text(f'{first}{_HEADER}{gap}{rest}', encoding='utf-8')
    else:
      name = file.relative_to(source_files.ROOT)
      print(f'{name}: no licence header. Add it with --fix.')
  if not found:
    print('Headers: all source files have one.')
  return int(bool(found) and not fix)


if __name__ == '__main__':
  sys.exit(main())
