# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The files of this repository, for the checks in this folder."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


def known_to_git(*patterns: str) -> list[pathlib.Path]:
  """Returns the files that match patterns and that git does not ignore.

  Args:
    *patterns: as for `git ls-files`, such as '*.py'.

  Returns:
    Paths of existing files, also of those that are not committed.
  """
  listed = subprocess.run(
    ['git', 'ls-files', '-co', '--exclude-standard', '--', *patterns],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  paths = [ROOT / name for name in listed.stdout.splitlines()]
  return [path for path in paths if path.exists()]
