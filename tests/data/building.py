# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Builds small canonical records in a folder of a test's own."""

import csv
import io
import os
import pathlib
import zipfile

import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.harmonization.data.records import build_options
from official_ext.harmonization.data.records import clickme_builder
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.data.records import shard_builder


def arrays(seed, **other):
  """An image, a map and a label as an npz of the ClickMe archives has them."""
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (24, 32, 3), np.uint8),
    'heatmap': rng.integers(0, 65536, (24, 32)).astype(np.uint16),
    'label': np.int64(seed % 7),
    **other,
  }


def npz(**arrays):
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def entry(seed, **other):
  """An npz of the ClickMe archives; `other` replaces or adds arrays."""
  return npz(**arrays(seed, **other))


def png(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


def read(folder):
  """All records of a folder, by file name, as dicts of values."""
  found = {}
  for shard in manifest.read(folder)['shards']:
    path = os.path.join(folder, shard['file'])
    for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
      example = tf.train.Example.FromString(serialized)
      fields = {
        k: getattr(v, v.WhichOneof('kind')).value[0]
        for k, v in example.features.feature.items()
      }
      fields['serialized'] = serialized
      found[fields['image/filename'].decode()] = fields
  return found


def contents(folder):
  """Contents of what is built, but for notes."""
  return {
    p.name: p.read_bytes()
    for p in pathlib.Path(folder).iterdir()
    if p.is_file()
  }


class Case(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.get_temp_dir()) / self._testMethodName
    self.folder.mkdir()

  def write(self, name, content):
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)

  def archive(self, count, name='all.zip', **other):
    """A zip of `count` npz files; `other` replaces whole entries."""
    path = self.folder / name
    with zipfile.ZipFile(path, 'w') as z:
      for i in range(count):
        z.writestr(f'sub/{i:03d}.npz', other.get(f'n{i}', entry(i)))
    return str(path)

  def build(self, out='out', **options):
    options = build_options.Options(
      output_dir=str(self.folder / out), **{'workers': 1, **options}
    )
    totals = clickme_builder.build(options)
    return options.output_dir, totals

  def left_out(self, folder):
    with open(os.path.join(folder, shard_builder.LEFT_OUT)) as f:
      return list(csv.DictReader(f))
