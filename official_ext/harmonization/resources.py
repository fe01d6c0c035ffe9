"""Finds the gin and YAML files that ship with the project, by name."""

# Bazel: data = ["//:experiments", "//:gin"]

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# An installed package carries gin/ and experiments/ inside; in a checkout they
# stand at the root.
_ROOTS = (
  os.path.join(_PACKAGE, 'resources'),
  os.path.dirname(os.path.dirname(_PACKAGE)),
)


def working_path(path: str) -> str:
  """A path as the user means it: relative to where the command was typed.

  `bazel run` starts a program elsewhere and tells in BUILD_WORKING_DIRECTORY
  where it was called.

  Args:
    path: absolute, relative or with a scheme such as gs://.

  Returns:
    The path, relative ones resolved under Bazel.
  """
  base = os.environ.get('BUILD_WORKING_DIRECTORY', '')
  return path if '://' in path else os.path.join(base, path)


def search_path() -> list[str]:
  """Returns the folders that `gin/` and `experiments/` are looked for in."""
  # gin/ alone would not tell: site-packages holds gin-config under that name.
  has_files = [os.path.isdir(os.path.join(r, 'experiments')) for r in _ROOTS]
  return [root for root, has in zip(_ROOTS, has_files) if has]


def find(name: str, folder: str) -> str:
  """Finds a file that the user named.

  Args:
    name: a path, or the name of a file that ships with the project, with or
      without its folder ('local_cpu.yaml', 'experiments/local_cpu.yaml').
    folder: 'gin' or 'experiments'.

  Returns:
    The first that exists of: the path itself, the shipped file. The name as it
    came if there is neither, or if it has a scheme (gs://).
  """
  candidates = [working_path(name)]
  for root in search_path():
    candidates += [os.path.join(root, name), os.path.join(root, folder, name)]
  for candidate in candidates:
    if os.path.isfile(candidate):
      return candidate
  return name
