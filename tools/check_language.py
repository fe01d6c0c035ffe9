# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds phrases that CONTRIBUTING.md asks authors to avoid.

  python tools/check_language.py

The search is a last check; it does not replace reading a text aloud. To use a
phrase on purpose, end the line with the comment `language: <reason>`.
"""

import pathlib
import re
import sys

import source_files

_PATTERNS = (
  '*.py',
  '*.md',
  '*.sh',
  '*.yaml',
  '*.yml',
  '*.gin',
  '*.j2',
  '*.ipynb',
  '*.toml',
  'Makefile',
  '.ci/run',
)
# Phrase -> what to write instead, and how often the phrase may occur.
_PHRASES = {
  # "There is no ..." is plain English.
  r'(?<!\bthere )\b(?:is|are|was|were) no (?!longer)': ('is not a', 0),
  r'\bthere (?:is|are|was|were) none\b': ('does not exist', 0),
  r'\bto be had\b': ('is invalid, is missing', 0),
  r'\bstands? (?:in|there|under|beside|at|above|with)\b': ('is in', 0),
  r'\b(?:is|are|was|were) told\b': ('is reported, is logged', 0),
  r'\bwithout a word\b': ('silently', 0),
  r'\btyped again\b': ('run it again', 0),
  r'\bgoes on where\b': ('resumes', 0),
  r'\bleft out\b': ('skipped, excluded', 0),
  r'\bcome to\b': ('chosen', 0),
  r'\bsays? nothing\b': ('is constant, is empty', 0),
  # Not the Python expression.
  r'\bexpected is (?!not\b|None\b)': ('expected', 0),
  r'\bof a time before\b': ('earlier', 0),
  r'\bin the way that\b': ('as', 0),
  r'\bof its own\b': ('separate', 0),
  r'\bso many\b': ('as many', 0),
  r'\bsee there\b': ('name the place', 0),
  r"\bthe host's\b": ("Model Garden's", 0),
  r'\bread-out\b': ('linear probe', 0),
}


def occurrences() -> dict[str, list[str]]:
  """Returns the places of each phrase, as 'file:line: text'."""
  found = {phrase: [] for phrase in _PHRASES}
  for path in source_files.known_to_git(*_PATTERNS):
    if path.resolve() == pathlib.Path(__file__).resolve():
      continue
    name = path.relative_to(source_files.ROOT)
    lines = path.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, 1):
      if 'language: ' in line:
        continue
      for phrase, places in found.items():
        if re.search(phrase, line, re.IGNORECASE):
          places.append(f'{name}:{number}: {line.strip()}')
  return found


def main() -> int:
  """Prints phrases over their limits; returns the exit code."""
  failed = False
  for phrase, places in occurrences().items():
    advice, limit = _PHRASES[phrase]
    if len(places) > limit:
      failed = True
      print('\n'.join(places))
      print(
        f'  {len(places)} lines match {phrase!r}; expected at most {limit}. '
        f'Write, for example: {advice}.\n'
      )
    elif len(places) < limit:
      failed = True
      print(f'{phrase!r}: lower the limit from {limit} to {len(places)}.')
  if not failed:
    print('Language: no phrase is over its limit.')
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
