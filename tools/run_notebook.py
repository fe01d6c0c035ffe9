r"""Runs a notebook in a kernel of its own and writes it with its results.

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
    path: of the notebook.
    timeout: seconds that one cell may take.

  Returns:
    The notebook with what its cells printed and drew; what went to the error
    stream, logs mostly, is left out.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  notebook = nbformat.read(path, as_version=4)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  # The kernel does not look where it was started.
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
    # When a cell ran says nothing, and would change with every run.
    cell.metadata.pop('execution', None)
    if cell.cell_type == 'code':
      cell.outputs = [
        output for output in cell.outputs if output.get('name') != 'stderr'
      ]
  return notebook


def main():
  """Runs what the command line names."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('notebook', help='it is replaced when all cells ran')
  path = parser.parse_args().notebook
  try:
    notebook = execute(path)
  except nbclient.exceptions.CellExecutionError as e:
    sys.exit(f'{path} was left as it is: {e}')
  partial = f'{path}.partial'
  nbformat.write(notebook, partial)
  os.replace(partial, path)
  print(f'Written: {path}')


if __name__ == '__main__':
  main()
