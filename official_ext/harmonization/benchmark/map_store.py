# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Keeps the maps of a result on disk until its statistics are computed.

Statistics over pairs of images need all maps. They can then be computed at any
smoothness without explaining the network again, and a run that was killed has
its maps when it resumes.
"""

from collections.abc import Sequence
import os
import shutil
import tempfile

import numpy as np


class MapStore:
  """Maps of several kinds, one of each kind per image.

  Maps are float32 in one file per kind. Used in a with statement, it removes
  them at the end, unless an error or an interruption ended it.

  Attributes:
    size: (height, width) of all maps.
  """

  def __init__(
    self, folder: str | None, kinds: Sequence[str], size: Sequence[int]
  ):
    """Opens the store.

    Args:
      folder: where maps are kept; None or a remote one for a temporary folder,
        which does not outlive the process.
      kinds: names of the files.
      size: (height, width) of all maps.
    """
    self._is_temporary = not folder or '://' in folder
    self._folder = (
      tempfile.mkdtemp(prefix='maps')
      if not folder or self._is_temporary
      else folder
    )
    os.makedirs(self._folder, exist_ok=True)
    self._kinds, self.size = list(kinds), tuple(size)

  def __enter__(self) -> 'MapStore':
    return self

  def __exit__(self, kind, error, trace):
    if kind is None or self._is_temporary:
      shutil.rmtree(self._folder, ignore_errors=True)

  def _path(self, kind: str) -> str:
    return os.path.join(self._folder, f'{kind}.float32')

  @property
  def _bytes(self) -> int:
    """Size of a map."""
    return 4 * int(np.prod(self.size))

  def __len__(self) -> int:
    """The number of images with all maps."""
    return min(
      os.path.getsize(self._path(kind)) // self._bytes
      if os.path.exists(self._path(kind))
      else 0
      for kind in self._kinds
    )

  def keep(self, count: int):
    """Drops all but the maps of the first `count` images."""
    for kind in self._kinds:
      with open(self._path(kind), 'ab') as f:
        f.truncate(count * self._bytes)

  def add(self, **maps: np.ndarray):
    """Appends the maps of a batch, (B, H, W), by kind."""
    for kind in self._kinds:
      values = np.asarray(maps[kind], np.float32)
      if values.shape[1:] != self.size:
        raise ValueError(
          f'Maps {kind} are {values.shape[1:]}; expected {self.size}.'
        )
      with open(self._path(kind), 'ab') as f:
        f.write(values.tobytes())

  def read(self, kind: str) -> np.ndarray:
    """Returns all maps of a kind, float32 (n, H, W), read from disk on use."""
    count = len(self)
    if not count:
      return np.zeros((0, *self.size), np.float32)
    return np.memmap(
      self._path(kind), np.float32, 'r', shape=(count, *self.size)
    )

  def array(self, name: str, shape: Sequence[int]) -> np.ndarray:
    """Returns a new float32 array on disk, which the store removes."""
    return np.memmap(
      os.path.join(self._folder, f'{name}.array'),
      np.float32,
      'w+',
      shape=tuple(shape),
    )
