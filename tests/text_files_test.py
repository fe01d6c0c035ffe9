# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of text files as other programs save them."""

import csv
import io
import os

from absl.testing import parameterized
import tensorflow as tf

import gin
from official_ext.harmonization import text_files

_TEXT = 'image,label\ncat/é.png,5\ndog/b.png,"a, ""b"""\n'
_ROWS = [
  {'image': 'cat/é.png', 'label': '5'},
  {'image': 'dog/b.png', 'label': 'a, "b"'},
]


@gin.configurable
def _named(name=''):
  return name


class TextFilesTest(tf.test.TestCase, parameterized.TestCase):
  def _path(self, content):
    path = os.path.join(self.get_temp_dir(), 'table.csv')
    with open(path, 'wb') as f:
      f.write(content)
    return path

  def _table(self, content):
    with text_files.table(self._path(content)) as table:
      return table.columns, [*table.rows]

  @parameterized.product(
    encoding=(
      'utf-8',
      'utf-8-sig',
      'utf-16',
      'utf-16-le',
      'utf-16-be',
      'utf-32',
    ),
    end=('\n', '\r\n', '\r'),
  )
  def test_encodings_and_line_ends(self, encoding, end):
    content = _TEXT.replace('\n', end).encode(encoding)
    self.assertEqual(text_files.read(self._path(content)), _TEXT)
    columns, rows = self._table(content)
    self.assertEqual(columns, ['image', 'label'])
    self.assertEqual([row.cells for row in rows], _ROWS)
    self.assertEqual([row.line for row in rows], [2, 3])

  @parameterized.parameters('utf-8-sig', 'utf-16', 'utf-16-be')
  def test_gin_files(self, encoding):
    text_files.teach_gin()
    text_files.teach_gin()
    self.addCleanup(gin.clear_config)
    folder = self.get_temp_dir()
    for name, text in (
      ('inner.gin', "_named.name = 'é'\r\n"),
      ('outer.gin', "include 'inner.gin'\r\n"),
    ):
      with open(os.path.join(folder, name), 'wb') as f:
        f.write(text.encode(encoding))
    gin.add_config_file_search_path(folder)
    gin.parse_config_file(os.path.join(folder, 'outer.gin'))
    self.assertEqual(_named(), 'é')
    path = self._path('# é\n'.encode('latin-1'))
    with self.assertRaisesRegex(ValueError, 'table.csv, line 1: byte 0xe9'):
      gin.parse_config_file(path)

  def test_big_endian_with_a_mark(self):
    content = b'\xfe\xff' + _TEXT.encode('utf-16-be')
    self.assertEqual(text_files.read(self._path(content)), _TEXT)

  @parameterized.parameters(',', ';', '\t', '|')
  def test_separators_are_those_of_the_csv_module(self, separator):
    text = io.StringIO()
    rows = [('Image ', 'label'), ('a,;\t|"x"\n', 'b'), ('', 'c')]
    csv.writer(text, delimiter=separator).writerows(rows)
    for head in ('', f'sep={separator}\r\n'):
      columns, found = self._table((head + text.getvalue()).encode())
      self.assertEqual(columns, ['image', 'label'])
      self.assertEqual(
        [[*row.cells.values()] for row in found],
        [['a,;\t|"x"', 'b'], ['', 'c']],
      )

  def test_a_cell_of_many_clicks_and_empty_lines(self):
    cell = str([(i, i) for i in range(50000)])
    self.assertGreater(len(cell), 131072 * 2)
    _, rows = self._table(f'a,b\n\n,\n"{cell}",1\n\n'.encode())
    self.assertEqual([(row.line, row.cells['a']) for row in rows], [(4, cell)])

  def test_marks_in_joined_files(self):
    _, rows = self._table(2 * _TEXT.encode('utf-8-sig'))
    self.assertEqual(rows[2].cells, {'image': 'image', 'label': 'label'})

  def test_rows_of_other_lengths(self):
    _, rows = self._table(b'a,b\n1\n1,2,\n1,[(2, 3)]\n')
    self.assertEqual(
      [row.cells for row in rows[:2]],
      [{'a': '1', 'b': ''}, {'a': '1', 'b': '2'}],
    )
    self.assertEqual([bool(row.problem) for row in rows], [False, False, True])
    self.assertIn('3 cells under 2 columns', rows[2].problem)

  @parameterized.parameters(
    (_TEXT.encode('latin-1'), 'line 2: byte 0xe9 is not UTF-8'),
    (b'a,b\n' * 9999 + b'\xff', 'line 10000: byte 0xff is not UTF-8'),
    (_TEXT.encode('utf-16')[:-1], 'line 3: .* is not UTF-16'),
    (b'PK\x03\x04 x', 'spreadsheet'),
    (b'\x1f\x8b\x08', 'gzip'),
    (b'a,b\n\x00\x01\x02\x00,\x00\x00\x00', 'zero bytes'),
    (b'a,b\n1,2\n"x,3\n4,5\n', 'line 3, is not a line of CSV'),
    (b'a,b\n"x" y,3\n', 'line 2, is not a line of CSV'),
  )
  def test_refused_with_file_and_line(self, content, message):
    with self.assertRaisesRegex(ValueError, f'table.csv.*{message}'):
      self._table(content)

  def test_columns(self):
    table = text_files.Table('x.csv', ['a', 'b', 'b'], iter(()))
    table.check(['a'], ['c'])
    with self.assertRaisesRegex(ValueError, 'x.csv has no column c'):
      table.check(['a', 'c'])
    for columns in ((['b'],), (['a'], ['b'])):
      with self.assertRaisesRegex(ValueError, 'x.csv has 2 columns b'):
        table.check(*columns)

  @parameterized.parameters(
    ("b'cat.png'", 'cat.png'),
    ('b"it\'s"', "it's"),
    ("np.str_('a')", 'a'),
    ('np.int64(3)', '3'),
    ('cat.png', 'cat.png'),
    ("'a'", "'a'"),
    ('', ''),
    ('b', 'b'),
    ("b'", "b'"),
    ('(1)', '(1)'),
  )
  def test_notations_of_python(self, text, meant):
    self.assertEqual(text_files.plain(text), meant)


if __name__ == '__main__':
  tf.test.main()
