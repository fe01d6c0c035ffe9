# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Finds the gin and YAML files that ship with the project, by name."""

# Bazel: data = ["//:experiments", "//:gin"]

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# An installed package contains gin/ and experiments/; in a checkout they are at
# the root.
_ROOTS = (
  os.path.join(_PACKAGE, 'resources'),
  os.path.dirname(os.path.dirname(_PACKAGE)),
)


def working_path(path: str) -> str:
  """Resolves a path relative to the folder where the command was typed.

  `bazel run` changes the working directory and keeps the user's in the
  environment variable BUILD_WORKING_DIRECTORY.

  Args:
    path: absolute, relative or with a scheme such as gs://.

  Returns:
    The path; outside of Bazel it is unchanged.
  """
  base = os.environ.get('BUILD_WORKING_DIRECTORY', '')
  return path if '://' in path else os.path.join(base, path)


def search_path() -> list[str]:
  """Returns the folders that are searched for `gin/` and `experiments/`."""
  # gin/ is not enough: the package gin-config installs a folder of that name.
  has_files = [os.path.isdir(os.path.join(r, 'experiments')) for r in _ROOTS]
  return [root for root, has in zip(_ROOTS, has_files) if has]


def shipped(folder: str) -> list[str]:
  """Returns the names of the files that ship in a folder, sorted.

  Args:
    folder: 'gin' or 'experiments'.
  """
  return sorted(
    name
    for root in search_path()
    if os.path.isdir(os.path.join(root, folder))
    for name in os.listdir(os.path.join(root, folder))
    if name.endswith(('.gin', '.yaml'))
  )


def find(name: str, folder: str) -> str:
  """Finds a file by its path or by the name of a shipped file.

  Args:
    name: a path, or the name of a file that ships with the project, with or
      without its folder ('local_cpu.yaml', 'experiments/local_cpu.yaml').
    folder: 'gin' or 'experiments'.

  Returns:
    The path if that file exists, else the path of the shipped file. `name`
    itself if neither exists or if it has a scheme (gs://).
  """
  candidates = [working_path(name)]
  for root in search_path():
    candidates += [os.path.join(root, name), os.path.join(root, folder, name)]
  for candidate in candidates:
    if os.path.isfile(candidate):
      return candidate
  return name
