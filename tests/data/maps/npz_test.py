# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that numpy's files and archives run nothing, and write nowhere."""

import io
import os
import pathlib
import zipfile

from absl.testing import parameterized
import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark import stored_results
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.maps import npz
from tests.data import building


class Code:
  """Unpickled, it makes a file."""

  def __init__(self, marker):
    self._marker = marker

  def __reduce__(self):
    return pathlib.Path.touch, (self._marker,)


class PickleTest(building.Case, parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.marker = self.folder / 'ran'
    self.array = np.array([Code(self.marker)], object)

  def test_a_pickle_would_run(self):
    np.load(io.BytesIO(building.npz(a=self.array)), allow_pickle=True)['a']
    self.assertTrue(self.marker.exists())

  def test_arrays_of_objects_are_refused(self):
    with self.assertRaisesRegex(PermissionError, 'heatmap of f.npz.*--trust'):
      npz.load(
        io.BytesIO(building.npz(heatmap=self.array)), 'f.npz', {'heatmap': True}
      )
    self.assertFalse(self.marker.exists())

  @parameterized.parameters('map.npy', 'map.npz')
  def test_maps_are_numbers(self, name):
    content = building.npz(heatmap=self.array)
    if name.endswith('.npy'):
      file = io.BytesIO()
      np.save(file, self.array, allow_pickle=True)
      content = file.getvalue()
    with self.assertRaises((ValueError, PermissionError)):
      map_files.read_map(self.write(name, content))
    with self.assertRaisesRegex(ValueError, 'not an np[yz] file'):
      map_files.read_map(self.write(name, self.array.dumps()))
    self.assertFalse(self.marker.exists())

  def test_headers_that_lie_are_named(self):
    fields = "{'descr': '%s', 'fortran_order': False, 'shape': (%d,)}"
    for header in (
      fields % ('<f8', 10**13),
      fields % ('<f8', 10**30),
      fields % ('<f8', -3),
      fields % ('??', 1),
      '{',
    ):
      array = (
        b'\x93NUMPY\x01\x00'
        + len(header).to_bytes(2, 'little')
        + header.encode()
      )
      with self.assertRaisesRegex(ValueError, 'map.npy is not an npy file'):
        map_files.read_map(self.write('map.npy', array))
      archive = io.BytesIO()
      with zipfile.ZipFile(archive, 'w') as z:
        z.writestr('heatmap.npy', array)
      with self.assertRaisesRegex(ValueError, 'map.npz'):
        map_files.read_map(self.write('map.npz', archive.getvalue()))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as z:
      z.writestr('heatmap', b'text')
    with self.assertRaisesRegex(ValueError, 'heatmap of .*not an array'):
      map_files.read_map(self.write('map.npz', archive.getvalue()))

  def test_pictures_of_a_benchmark(self):
    pictures = np.zeros((1, 2, 2), np.uint8)
    path = self.write(
      'examples.npz',
      building.npz(images=self.array, human=pictures, model=pictures),
    )
    for content in (None, self.array.dumps()):
      path = path if content is None else self.write('other.npz', content)
      with self.assertRaisesRegex(ValueError, 'pickle'):
        stored_results.read_examples(path)
    self.assertFalse(self.marker.exists())


class ArchiveTest(building.Case):
  def test_is_read_where_it_is(self):
    """Members whose names lead elsewhere become records like any other."""
    archive = str(self.folder / 'a.zip')
    # A path whose folders are not hidden: those would be skipped.
    elsewhere = '/tmp/harmonization/absolute.npz'
    with zipfile.ZipFile(archive, 'w') as z:
      for name in ('../out.npz', elsewhere, 'c/../../out.npz'):
        z.writestr(name, building.entry(0))
    before = set(os.listdir(self.folder))
    folder, totals = self.build('records', npz=archive, label_offset=0)
    self.assertEqual(totals['records'], 3)
    self.assertEqual(
      set(os.listdir(self.folder)) - before,
      {os.path.basename(os.path.normpath(folder))},
    )
    self.assertFalse(os.path.exists(elsewhere))
    self.assertFalse((self.folder.parent / 'out.npz').exists())


if __name__ == '__main__':
  tf.test.main()
