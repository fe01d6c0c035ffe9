"""Recognizes the ClickMe release, whose human ceiling is known."""

from collections.abc import Callable, Sequence
import os

import tensorflow as tf

from official_ext.harmonization.data import download_clickme
from official_ext.harmonization.data.records import manifest


def is_release(
  paths: Sequence[str], digest: Callable[[str], str] = manifest.sha256
) -> bool:
  """Says whether files are shards of the release.

  They are if the manifest that `data.download_clickme` wrote beside each names
  it, as one that came from the release's address, and size and SHA-256 are
  those that were downloaded. Of a file that is not on a local disk (gs://) only
  the size is compared.

  Args:
    paths: of the files.
    digest: takes a local path and returns the SHA-256 of the file.

  Returns:
    Whether all of them are; False where there are none.
  """
  manifests = {}
  for path in paths:
    folder, name = os.path.split(path)
    if folder not in manifests:
      manifests[folder] = _shards(folder)
    shard = manifests[folder].get(name)
    if not shard or tf.io.gfile.stat(path).length != shard['bytes']:
      return False
    if '://' not in path and digest(path) != shard['sha256']:
      return False
  return bool(paths)


def _shards(folder: str) -> dict[str, dict]:
  """The release's shards that the folder's manifest lists, by name."""
  try:
    content = manifest.read(folder)
  except (FileNotFoundError, ValueError):
    return {}
  base, _, split = str(content.get('source')).rpartition('/')
  if base != download_clickme.BASE_URL:
    return {}
  names = {
    f'{split}-{i}.tfrecords'
    for i in range(download_clickme.SHARDS.get(split, 0))
  }
  return {
    shard['file']: shard
    for shard in content['shards']
    if shard['file'] in names
  }
