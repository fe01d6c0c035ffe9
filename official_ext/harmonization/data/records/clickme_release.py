# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Recognizes the ClickMe release, whose human ceiling is known."""

from collections.abc import Callable, Sequence
import os

import tensorflow as tf

from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import release_layout


def is_release(
  paths: Sequence[str], digest: Callable[[str], str] | None = manifest.sha256
) -> bool:
  """Returns whether all files are shards of the release.

  A file is one if the manifest that `data.download_clickme` wrote next to it
  lists it, with the release's address, and its size and SHA-256 are those in
  the manifest. For remote files (gs://) only the size is compared.

  Args:
    paths: of the files.
    digest: takes a local path and returns the SHA-256 of the file; None to
      compare only sizes.

  Returns:
    Whether all files are; False for an empty sequence.
  """
  manifests = {}
  for path in paths:
    folder, name = os.path.split(path)
    if folder not in manifests:
      manifests[folder] = _shards(folder)
    shard = manifests[folder].get(name)
    if not shard or tf.io.gfile.stat(path).length != shard['bytes']:
      return False
    if digest and '://' not in path and digest(path) != shard['sha256']:
      return False
  return bool(paths)


def _shards(folder: str) -> dict[str, dict]:
  """Returns the release's shards that a folder's manifest lists, by name."""
  try:
    content = manifest.read(folder)
  except (FileNotFoundError, ValueError):
    return {}
  base, _, split = str(content.get('source')).rpartition('/')
  if base != release_layout.BASE_URL:
    return {}
  names = {
    f'{split}-{i}.tfrecords' for i in range(release_layout.SHARDS.get(split, 0))
  }
  return {
    shard['file']: shard
    for shard in content['shards']
    if shard['file'] in names
  }
