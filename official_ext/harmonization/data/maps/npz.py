# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads NumPy's files without executing pickled code in them."""

import io
import tokenize
from typing import Any, BinaryIO
import zipfile
import zlib

import numpy as np

_ZIP = b'PK\x03\x04'
# Errors of NumPy for arrays that are damaged, or do not fit into memory.
_DAMAGE = (
  ValueError,
  EOFError,
  MemoryError,
  OverflowError,
  TypeError,
  SyntaxError,
  LookupError,
  RuntimeError,
  tokenize.TokenError,
)


def load(
  file: BinaryIO, name: str, fields: dict[str, bool], trust_pickle: bool = False
) -> dict[str, Any]:
  """Reads arrays of an npz file.

  Args:
    file: opened for reading, at its start.
    name: of the file, for messages.
    fields: names of the arrays to read, and whether each is required.
    trust_pickle: whether arrays of Python objects may be unpickled.

  Returns:
    The arrays that were found, by name.

  Raises:
    ValueError: the file is not an npz file, or lacks a required array.
    PermissionError: an array holds Python objects, and `trust_pickle` is false.
  """
  magic = file.read(len(_ZIP))
  file.seek(0)
  # NumPy would read any other file as a pickle.
  if magic != _ZIP:
    raise ValueError(f'{name} is not an npz file')
  try:
    with np.load(file, allow_pickle=trust_pickle) as arrays:
      missing = [
        f for f, needed in fields.items() if needed and f not in arrays
      ]
      if missing:
        raise ValueError(
          f'{name} has the arrays {", ".join(arrays.files)}; expected '
          f'{missing[0]}'
        )
      return {f: _array(arrays, f, name) for f in fields if f in arrays}
  except (zipfile.BadZipFile, zlib.error, *_DAMAGE[1:]) as e:
    raise ValueError(f'{name} is not a readable npz file ({e})') from None


def _array(arrays, field: str, name: str) -> np.ndarray:
  """Reads one array."""
  try:
    array = arrays[field]
  except _DAMAGE as e:
    if 'allow_pickle' in str(e):
      raise _untrusted(f'{field} of {name}') from None
    raise ValueError(f'{field} of {name} cannot be read ({e})') from None
  if not isinstance(array, np.ndarray):  # Other members become bytes.
    raise ValueError(f'{field} of {name} is not an array')
  return array


def _untrusted(what: str) -> PermissionError:
  return PermissionError(
    f'{what} holds Python objects, which must be unpickled, and a pickle can '
    'run any code; expected numbers. If you made the file, or would run a '
    'program by its author, add --trust_pickle.'
  )


def single(array: bytes, name: str) -> np.ndarray:
  """Reads an npy file.

  Args:
    array: content of the file.
    name: of the file, for messages.

  Returns:
    The array.

  Raises:
    ValueError: it is not an npy file, or holds Python objects.
  """
  try:
    return np.lib.format.read_array(io.BytesIO(array), allow_pickle=False)
  except _DAMAGE as e:
    raise ValueError(f'{name} is not an npy file of numbers ({e})') from None
