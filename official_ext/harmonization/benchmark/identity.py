# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Identifies what a result depends on.

An identity is a dict in JSON's types. It is stored with each result, and a
result is used again only if its identity has not changed (`differences`):

  network: a digest of the parameters in memory, and the response of the network
    to one fixed image, which detects changes of code (`network`).
  data: digests of the contents of records, tables and images (`Digests`).
  protocol: its name and version.
  options: all else that changes a score, but nothing that only changes how it
    is shown.
  versions: of this project and of the packages that compute (`versions`).
"""

# Bazel: data = ["//:project"]

from collections.abc import Mapping, Sequence
import datetime
import hashlib
from importlib import metadata
import json
import os
import sys
import time
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.data.records import manifest

if sys.version_info >= (3, 11):
  import tomllib
else:
  import tomli as tomllib  # pyright: ignore[reportMissingImports] only on 3.10

_RESPONSE = 'network.response'
# Relative tolerance of responses. Two runs on one machine differ by about 1e-7,
# a CPU and a GPU by up to 1e-5 in float32.
TOLERANCE = 1e-4
_DIRECTIONS = 16

_PRODUCT = 'official-ext-harmonization'
_PACKAGES = (
  'tf-models-official',
  'tensorflow',
  'tf_keras',
  'numpy',
  'scipy',
  'pillow',
)
# Further packages by kind of SPEC.
_OF_KINDS = {
  'keras': ('keras',),
  'harmonized': ('keras', 'vit-keras', 'keras-cv-attention-models'),
  'torch': ('torch',),
  'timm': ('torch', 'timm'),
  'torchvision': ('torch', 'torchvision'),
}

# Larger inputs, in bytes, and remote ones are sampled.
_WHOLE = 16 << 30
_BLOCKS, _BLOCK = 64, 64 << 10
# Seconds. A file that was just written may be written again within the same
# tick of the clock, so its digest is not stored.
_SETTLED = 2.0


def digests_path(output_dir: str) -> str:
  """Returns the path of the stored digests, see `Digests`."""
  return os.path.join(output_dir, 'digests.json')


def now() -> str:
  """Returns the local time with its zone, to the second."""
  return datetime.datetime.now().astimezone().isoformat(timespec='seconds')


def date(time_of: str) -> str:
  """Returns a time from `now` in the form for readers."""
  return time_of.replace('T', ' ')


def sha256(*parts: Any) -> str:
  """Computes a SHA-256 digest.

  Args:
    *parts: bytes, or values that JSON can hold, which are digested as canonical
      JSON.

  Returns:
    64 hexadecimal digits.
  """
  digest = hashlib.sha256()
  for part in parts:
    if not isinstance(part, bytes):
      part = json.dumps(part, sort_keys=True).encode()
    digest.update(len(part).to_bytes(8, 'big') + part)
  return digest.hexdigest()


def network(adapter) -> dict[str, Any]:
  """Identifies a network in memory.

  The response describes two vectors: the logits of one fixed noise image, and
  the gradient of a fixed combination of all logits. Of each it has the norm and
  the products with 16 fixed random directions. A relative change d of a vector
  changes some product by about d. The numbers are compared with `TOLERANCE`;
  digests of rounded numbers would differ by chance.

  The response repeats on one machine. Other machines and devices sum in another
  order: the difference is below the tolerance in float32, but not in 16 bits or
  with TF32, where the network counts as another one and is scored again.

  Args:
    adapter: of the network, an `adapters.base.Adapter`.

  Returns:
    The part `network` of an identity.
  """
  digest, count = hashlib.sha256(), 0
  for array in adapter.parameters():
    array = np.ascontiguousarray(array)
    digest.update(f'{array.shape} {array.dtype}\n'.encode())
    digest.update(array.tobytes())
    count += array.size
  rng = np.random.default_rng(0)
  image = rng.uniform(0, 255, (1, *adapter.input_size, 3))
  labels = rng.normal(size=(1, adapter.scored_classes))
  inputs = adapter.preprocess(image.astype(np.float32))
  try:
    logits, gradients = adapter.logits_and_gradients(
      inputs, labels.astype(np.float32)
    )
  except base.Unscorable:
    # Without gradients, decisions can still be scored.
    logits, gradients = adapter.logits(inputs), np.zeros_like(inputs)
  return {
    'parameters': digest.hexdigest(),
    'number of parameters': count,
    'response': [_projected(logits), _projected(gradients)],
    'preprocessing': adapter.preprocessing,
    'input size': list(adapter.input_size),
    'classes': int(adapter.scored_classes),
  }


def _projected(values: np.ndarray) -> list[float]:
  """Returns norm and products with random directions; NaN becomes 0."""
  values = np.asarray(values, np.float64).ravel()
  rng = np.random.default_rng(len(values))
  found = [float(np.linalg.norm(values))]
  for _ in range(_DIRECTIONS):
    found.append(float(rng.normal(size=len(values)) @ values))
  return [float(f'{v:.8g}') if np.isfinite(v) else 0.0 for v in found]


def _same_response(known: Any, present: Any) -> bool:
  try:
    pairs = [np.asarray(p, float) for p in (known, present)]
  except (TypeError, ValueError):
    return False
  if pairs[0].shape != pairs[1].shape:
    return False
  size = np.maximum(abs(pairs[0][:, 0]), abs(pairs[1][:, 0]))[:, np.newaxis]
  return bool((abs(pairs[0] - pairs[1]) <= TOLERANCE * size).all())


def versions(*specs: str) -> dict[str, str]:
  """Names the versions of what computes a result.

  Args:
    *specs: of networks, whose kinds may need more packages.

  Returns:
    Versions by package, of those that are installed.
  """
  found = {_PRODUCT: _product_version()}
  kinds = [spec.partition(':')[0] for spec in specs]
  for package in dict.fromkeys(
    [*_PACKAGES, *(p for kind in kinds for p in _OF_KINDS.get(kind, ()))]
  ):
    try:
      found[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      pass
  return found


def _product_version() -> str:
  """Returns the version of this checkout, or of the installed package."""
  root = os.path.abspath(__file__)
  for _ in range(4):
    root = os.path.dirname(root)
  try:
    with open(os.path.join(root, 'pyproject.toml'), 'rb') as f:
      project = tomllib.load(f)['project']
    if project['name'] == _PRODUCT:
      return project['version']
  except (OSError, KeyError, tomllib.TOMLDecodeError):
    pass
  try:
    return metadata.version(_PRODUCT)
  except metadata.PackageNotFoundError:
    return 'unknown'


def differences(known: Mapping[str, Any], present: Mapping[str, Any]) -> str:
  """Describes the differences of two identities.

  Args:
    known: of a stored result.
    present: of the result that would be computed now.

  Returns:
    For example 'options.limit was 8 and is now None'; '' if they are equal.
  """
  found = files.differences(known, present)
  response = found.pop(_RESPONSE, None)
  found = {k: tuple(map(_short, v)) for k, v in found.items()}
  words = [files.in_words(found)] if found else []
  if response and not _same_response(*response):
    words.append('the network returns other logits or gradients for one image')
  return '; '.join(words)


def _short(value: Any) -> Any:
  """Shortens digests to what a reader can compare."""
  is_digest = isinstance(value, str) and len(value) >= 64
  return f'{value[:20]}...' if is_digest else value


class Digests:
  """Digests of the contents of files, stored in a file.

  A digest is the SHA-256 of all bytes. A stored digest is used again if size,
  modification time and, on a local disk, change time and inode are unchanged.
  No program can reset the change time.

  Inputs of more than 16 GiB in total, and remote files (gs://), are sampled:
  the digest covers size, modification time and 64 evenly spaced blocks of
  64 KiB, including the first and the last bytes. It begins with 'sampled-'. It
  misses a change between the blocks that preserves size and modification time.

  Attributes:
    changed: paths whose contents differ from the stored digest.
  """

  def __init__(self, path: str | None = None):
    """Reads the stored digests.

    Args:
      path: of the JSON file that stores them; None to store none.
    """
    self._path = path
    self._kept: dict[str, Any] = {}
    self.changed: list[str] = []
    if path and tf.io.gfile.exists(path):
      try:
        kept = files.read_json(path)
        self._kept = {k: (list(s), str(d)) for k, (s, d) in kept.items()}
      except (AttributeError, TypeError, ValueError):
        logging.warning(
          '%s: not a table of digests; expected paths with their digests. The '
          'file is replaced.',
          path,
        )

  def of(
    self, paths: Sequence[str], names: Sequence[str] | None = None
  ) -> dict[str, Any]:
    """Identifies a set of files.

    Args:
      paths: of the files, in the order in which they are read.
      names: of the files, if results depend on them, as when they contain the
        class.

    Returns:
      `files`, their number, and `sha256`, a digest of all digests and names.

    Raises:
      OSError: a file cannot be read.
    """
    found = self.each(paths)
    return {'files': len(found), 'sha256': sha256(found, list(names or ()))}

  def each(self, paths: Sequence[str]) -> list[str]:
    """Returns the digest of each file; raises OSError as `of`."""
    stats = [_stat(path) for path in paths]
    sampled = sum(stat[0] for stat in stats) > _WHOLE
    found = [self._one(*pair, sampled) for pair in zip(paths, stats)]
    self._keep()
    return found

  def file(self, path: str) -> str:
    """Returns the digest of one file, which is not sampled if it is local."""
    return self._one(path, _stat(path), False)

  def _one(self, path: str, stat: list[int], sampled: bool) -> str:
    sampled = sampled or '://' in path
    kept_stat, digest = self._kept.get(path, ([], ''))
    if kept_stat == stat and digest.startswith('sampled-') == sampled:
      return digest
    fresh = _sample(path, stat) if sampled else manifest.sha256(path)
    if digest and digest != fresh:
      self.changed.append(path)
    self._kept[path] = stat, fresh
    return fresh

  def _keep(self):
    """Stores the digests of files that were not written just now."""
    if not self._path:
      return
    limit = (time.time() - _SETTLED) * 1e9
    kept = {
      path: entry
      for path, entry in self._kept.items()
      if max(entry[0][1:3]) < limit
    }
    tf.io.gfile.makedirs(os.path.dirname(self._path) or '.')
    files.write_json(self._path, kept, indent=0)


def _stat(path: str) -> list[int]:
  """Returns size, times in nanoseconds and, on a local disk, the inode."""
  if '://' in path:
    found = tf.io.gfile.stat(path)
    return [found.length, found.mtime_nsec]
  found = os.stat(path)
  return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _sample(path: str, stat: Sequence[int]) -> str:
  size = stat[0]
  digest = hashlib.sha256(f'{size} {stat[1]}\n'.encode())
  last = max(0, size - _BLOCK)
  starts = sorted({last * i // (_BLOCKS - 1) for i in range(_BLOCKS)})
  with tf.io.gfile.GFile(path, 'rb') as f:
    for start in starts:
      f.seek(start)
      digest.update(f.read(_BLOCK))
  return f'sampled-{digest.hexdigest()}'
