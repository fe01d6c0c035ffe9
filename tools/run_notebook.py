# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

r"""Runs a notebook in a new kernel and saves it with its output.

python tools/run_notebook.py docs/walkthrough.ipynb
"""

import argparse
import os
import pathlib
import sys

import nbclient
import nbformat

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def execute(path: str, timeout: int = 3600) -> nbformat.NotebookNode:
  """Runs a notebook at the root of the repository.

  Args:
    path: path of the notebook.
    timeout: seconds that a cell may take.

  Returns:
    The notebook with the output of its cells, except for standard error, which
    contains mostly logs.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  notebook = nbformat.read(path, as_version=4)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  # The working folder is not on the import path of the kernel.
  os.environ['PYTHONPATH'] = os.pathsep.join(
    [str(_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
  )
  nbclient.NotebookClient(
    notebook,
    timeout=timeout,
    kernel_name='python3',
    resources={'metadata': {'path': str(_ROOT)}},
  ).execute()
  for cell in notebook.cells:
    # Execution times would change the file with each run.
    cell.metadata.pop('execution', None)
    if cell.cell_type == 'code':
      cell.outputs = [
        output for output in cell.outputs if output.get('name') != 'stderr'
      ]
  return notebook


def main():
  """Runs the notebook of the command line; returns nothing."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    'notebook', help='it is replaced after all cells have run'
  )
  path = parser.parse_args().notebook
  try:
    notebook = execute(path)
  except nbclient.exceptions.CellExecutionError as e:
    sys.exit(f'{path} was not changed: {e}')
  partial = f'{path}.partial'
  nbformat.write(notebook, partial)
  os.replace(partial, path)
  print(f'Written: {path}')


if __name__ == '__main__':
  main()
