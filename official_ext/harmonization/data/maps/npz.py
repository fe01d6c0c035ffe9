"""Reads numpy's files without running what may be hidden in them."""

import io
import tokenize
from typing import Any, BinaryIO
import zipfile
import zlib

import numpy as np

_ZIP = b'PK\x03\x04'
# What numpy raises for arrays that are damaged, or larger than the memory.
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
    file: opened for reading at its start.
    name: of the file, for messages.
    fields: names of the arrays that are wanted, and whether the file is of no
      use without.
    trust_pickle: whether arrays of Python objects may be unpickled.

  Returns:
    Those of the arrays that the file has, by name.

  Raises:
    ValueError: the file is no npz or lacks an array.
    PermissionError: an array holds Python objects, and these are not trusted.
  """
  magic = file.read(len(_ZIP))
  file.seek(0)
  # numpy takes whatever is no array for a pickle.
  if magic != _ZIP:
    raise ValueError(f'{name} is no npz file')
  try:
    with np.load(file, allow_pickle=trust_pickle) as arrays:
      missing = [
        f for f, needed in fields.items() if needed and f not in arrays
      ]
      if missing:
        raise ValueError(
          f'{name} has no array {missing[0]}, only {", ".join(arrays.files)}'
        )
      return {f: _array(arrays, f, name) for f in fields if f in arrays}
  except (zipfile.BadZipFile, zlib.error, *_DAMAGE[1:]) as e:
    raise ValueError(f'{name} is no readable npz file ({e})') from None


def _array(arrays, field: str, name: str) -> np.ndarray:
  """Reads one array."""
  try:
    array = arrays[field]
  except _DAMAGE as e:
    if 'allow_pickle' in str(e):
      raise _untrusted(f'{field} of {name}') from None
    raise ValueError(f'{field} of {name} cannot be read ({e})') from None
  if not isinstance(array, np.ndarray):  # numpy returns other members as bytes.
    raise ValueError(f'{field} of {name} is not an array')
  return array


def _untrusted(what: str) -> PermissionError:
  return PermissionError(
    f'{what} holds Python objects, which only unpickling can read, and a '
    'pickle runs whatever code its author put into it: if you made the file '
    'yourself, or would run a program of the one who did, add '
    '--trust_pickle.'
  )


def single(array: bytes, name: str) -> np.ndarray:
  """Reads an npy file.

  Args:
    array: the file's content.
    name: of the file, for messages.

  Returns:
    The array.

  Raises:
    ValueError: this is no npy file, or one of Python objects.
  """
  try:
    return np.lib.format.read_array(io.BytesIO(array), allow_pickle=False)
  except _DAMAGE as e:
    raise ValueError(f'{name} is no npy file of numbers ({e})') from None
