# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of folders as people have them: what is found, paired and named."""

import os
import unicodedata

from absl.testing import parameterized
import tensorflow as tf

from official_ext.harmonization import files
from official_ext.harmonization.data.maps import folders
from official_ext.harmonization.data.maps import map_index
from official_ext.harmonization.data.maps import pairs
from official_ext.harmonization.data.records import class_labels
from tests.data import building

_SYSTEM = (
  '.DS_Store',
  '.hidden/x.png',
  '._a.png',
  'Thumbs.db',
  'cat/._a.png',
  '__MACOSX/cat/a.png',
  'cat/@eaDir/a.png/s.png',
  '$RECYCLE.BIN/z.png',
  '$Recycle.bin/y.png',
  '.ipynb_checkpoints/a.png',
  'lost+found/b.png',
)


class _Case(building.Case):
  def link(self, target, name):
    os.symlink(target, self.folder / name)
    # TensorFlow follows links when it removes the folder.
    self.addCleanup(os.remove, self.folder / name)


class FoldersTest(_Case, parameterized.TestCase):
  def found(self, **options):
    return [
      path for path, _ in folders.find(str(self.folder), ('.png',), **options)
    ]

  def test_files_of_the_system_are_neither_images_nor_classes(self):
    for name in (*_SYSTEM, 'cat/a.png', 'dog/B.PNG', 'dog/c.heic', 'e.txt'):
      self.write(name, b'12345')
    with self.assertLogs(level='WARNING') as logs:
      found = folders.find(str(self.folder), ('.png',))
    self.assertEqual(found, [('cat/a.png', 5), ('dog/B.PNG', 5)])
    self.assertEqual(
      class_labels.folders(path for path, _ in found), ['cat', 'dog']
    )
    for part in (
      'hidden or system files (2: ._a.png, ...)',
      'hidden or system folders (7: $RECYCLE.BIN, ...)',
      'images of other types (1: dog/c.heic)',
    ):
      self.assertIn(part, logs.output[0])

  def test_a_hidden_folder_may_be_the_root(self):
    path = self.write('.cache/a.png', b'')
    self.assertEqual(
      folders.find(os.path.dirname(path), ('.png',)), [('a.png', 0)]
    )

  def test_links(self):
    self.write('cat/a.png', b'1')
    for target, link in (
      ('nowhere.png', 'cat/gone.png'),
      ('..', 'cat/up'),
      ('two.png', 'one.png'),
      ('one.png', 'two.png'),
      ('cat', 'dog'),
      ('gone', 'goner'),
    ):
      self.link(target, link)
    os.mkfifo(self.folder / 'pipe.png')
    with self.assertLogs(level='WARNING') as logs:
      found = folders.find(str(self.folder), ('.png',))
    self.assertEqual(
      found,
      [
        ('cat/a.png', 1),
        ('cat/gone.png', -1),
        ('dog/a.png', 1),
        ('dog/gone.png', -1),
        ('one.png', -1),
        ('two.png', -1),
      ],
    )
    self.assertIn(
      'links to a folder that contains them (2: cat/up', logs.output[0]
    )
    self.assertIn('pipes and devices (1: pipe.png)', logs.output[0])

  def test_names_that_are_not_text(self):
    self.write('a.png', b'')
    with open(os.fsencode(self.folder) + b'/caf\xe9.png', 'wb'):
      pass
    with self.assertLogs(level='WARNING') as logs:
      self.assertEqual(self.found(), ['a.png'])
    self.assertIn(r'caf\udce9.png', logs.output[0])

  def test_no_folder(self):
    path = self.write('a.png', b'')
    for wrong in (path, f'{path}/x'):
      with self.assertRaisesRegex(ValueError, 'is not a folder'):
        folders.find(wrong, ('.png',))

  @parameterized.parameters(
    ('cat/a.png', 'cat/a.png'),
    ('./cat//a.png', 'cat/a.png'),
    ('cat\\a.png', 'cat/a.png'),
    ('.\\cat\\x\\..\\a.png', 'cat/a.png'),
    ('cat/../../a', '../a'),
    ('//a', '/a'),
    ('', ''),
    ('.', ''),
    ('./', ''),
    ('e\u0301', '\xe9'),
    ('\u212b', '\xc5'),
  )
  def test_paths_have_one_writing(self, path, normal):
    self.assertEqual(files.normal(path), normal)
    self.assertEqual(files.normal(normal), normal)

  def test_paths_outside(self):
    for path in ('/a', '..', '../a', 'C:/a', 'C:\\a', '', '\\\\host\\a'):
      self.assertFalse(files.is_below(files.normal(path)), path)
    for path in ('a', '..a', 'a/b', 'C:', '...'):
      self.assertTrue(files.is_below(files.normal(path)), path)

  def test_a_name_in_another_writing_is_located(self):
    apart = unicodedata.normalize('NFD', 'été/é.png')
    path = self.write(apart, b'1')
    mixed = self.write(f'{unicodedata.normalize("NFD", "ö")}/ü.png', b'2')
    back = self.write('dog\\b.png', b'3')
    below = self.write('imagenet/train/n01/c.png', b'4')
    folder = str(self.folder)
    for name, expected in (
      ('été/é.png', path),
      ('ö/ü.png', mixed),
      ('dog/b.png', back),
      ('n01/c.png', below),
    ):
      found = folders.locate(folder, name, 'imagenet/train')
      self.assertTrue(os.path.samefile(found, expected), name)
    self.assertEqual(folders.locate(folder, 'no/é.png'), f'{folder}/no/é.png')


class PairsTest(_Case):
  def pairs(self, images, maps, **suffixes):
    folder = [str(self.folder / name) for name in (images, maps)]
    return {
      name: tuple(pair)
      for name, pair in pairs.find(*folder, **suffixes).named.items()
    }

  def test_by_the_path_below_the_folder(self):
    for name in ('i/Dog/1.jpg', 'i/Cat/1.jpg', 'm/Cat/1.NPY', 'm/Fox/1.png'):
      self.write(name, b'')
    self.assertEqual(
      self.pairs('i', 'm'),
      {
        'Cat/1': ('Cat/1.jpg', 'Cat/1.NPY'),
        'Dog/1': ('Dog/1.jpg', ''),
        'Fox/1': ('', 'Fox/1.png'),
      },
    )

  def test_unicode_forms_and_case(self):
    apart = unicodedata.normalize('NFD', 'é')
    for name in (f'i/{apart}.png', 'i/A.png', 'i/a.png', 'm/é.png', 'm/a.png'):
      self.write(name, b'')
    self.assertEqual(
      self.pairs('i', 'm'),
      {
        'A': ('A.png', ''),
        'a': ('a.png', 'a.png'),
        'é': (f'{apart}.png', 'é.png'),
      },
    )
    self.write('i/é.png', b'')
    with self.assertRaisesRegex(ValueError, 'Unicode form'):
      self.pairs('i', 'm')

  def test_one_folder(self):
    for name in ('a_image.png', 'a_map.png', 'b.png', 'b_map.png', 'readme'):
      self.write(f'f/{name}', b'')
    self.assertEqual(
      self.pairs('f', 'f', map_suffix='_map'),
      {
        'a': ('', 'a_map.png'),
        'a_image': ('a_image.png', ''),
        'b': ('b.png', 'b_map.png'),
      },
    )
    with self.assertLogs(level='WARNING') as logs:
      both = self.pairs('f', 'f/../f', image_suffix='_image', map_suffix='_map')
    self.assertEqual(
      both, {'a': ('a_image.png', 'a_map.png'), 'b': ('', 'b_map.png')}
    )
    self.assertIn('1 files that do not end in', logs.output[0])
    self.link('f', 'link')
    for maps in ('f', 'link'):
      with self.assertRaisesRegex(
        ValueError, '--image_suffix and --map_suffix'
      ):
        self.pairs('f', maps)
    # An array is never an image.
    self.write('f/b.npy', b'')
    self.assertEqual(self.pairs('f', 'f')['b'], ('b.png', 'b.npy'))

  def test_two_images_of_one_name(self):
    for name in ('i/a.png', 'i/a.JPG', 'm/a.png'):
      self.write(name, b'')
    with self.assertRaisesRegex(ValueError, 'holds a.JPG and a.png'):
      self.pairs('i', 'm')

  def test_one_folder_in_the_other(self):
    for name in ('cat/a.png', 'a_maps/cat/a.png', 'dog/b.png'):
      self.write(f'f/{name}', b'')
    self.assertEqual(
      self.pairs('f', 'f/a_maps'),
      {'cat/a': ('cat/a.png', 'cat/a.png'), 'dog/b': ('dog/b.png', '')},
    )

  def test_ids_of_maps(self):
    apart = unicodedata.normalize('NFD', 'é')
    self.write(f'm/x/{apart}.NPY', b'')
    self.write('m/__MACOSX/._é.npy', b'')
    self.assertEqual([*map_index.of_folder(str(self.folder / 'm'))], ['é'])
    self.assertEqual(map_index.image_id(f'a\\{apart}.JPEG'), 'é')


class ClassesTest(building.Case, parameterized.TestCase):
  def test_names_in_any_encoding(self):
    for content in ('é\nb', '\ufeffé\r\nb\r\n\r\n', 'é\rb\r'):
      for encoding in ('utf-8', 'utf-16', 'utf-16-be'):
        path = self.write('names.txt', content.encode(encoding))
        names = class_labels.read_names(path)
        self.assertEqual(names, ['é', 'b'])
        self.assertEqual(
          class_labels.Labels(names=names).of(
            unicodedata.normalize('NFD', 'é') + '/x.png'
          ),
          0,
        )

  def test_names_that_would_shift(self):
    for content, message in (
      (b'a\n\nb\n', 'line 2 is empty'),
      (b'\na\n', 'line 1 is empty'),
      (b'', 'is empty'),
      (b'a\nb\na\n', 'a 2 times'),
      (b'a\n\xe9\n', 'line 2: byte 0xe9'),
    ):
      with self.assertRaisesRegex(ValueError, f'names.txt.*{message}'):
        class_labels.read_names(self.write('names.txt', content))

  def test_table(self):
    text = "Label;image\n5.0;.\\cat\\a.png\nb'x';b'e\\xcc\\x81.png'\n"
    table = class_labels.read(self.write('t.csv', text.encode('utf-16')))
    self.assertEqual(table, {'cat/a.png': '5.0', 'é.png': 'x'})
    self.assertEqual(class_labels.Labels(table).of('cat//a.png'), 5)
    for row, message in (
      ('a.png,1\n./a.png,2', 'line 3: a.png has class 2'),
      (',1', 'line 2: the image is empty'),
      ('a,1,2', 'line 2: 3 cells'),
    ):
      with self.assertRaisesRegex(ValueError, f't.csv, {message}'):
        class_labels.read(self.write('t.csv', f'image,label\n{row}\n'.encode()))

  @parameterized.parameters(
    ('3', 'class 3 .*expected 0 to 2'),
    ('-1', 'neither'),
    ('x', 'neither'),
    ('²', 'neither'),
    ('1.5', 'neither'),
    ('', 'no class'),
  )
  def test_no_class_of_the_names(self, text, message):
    labels = class_labels.Labels(names='abc')
    self.assertEqual(
      [labels.of('i', t) for t in ('0', '2', 'c', ' b ')], [0, 2, 2, 1]
    )
    with self.assertRaisesRegex(ValueError, message):
      labels.of('i.png', text)

  def test_names_that_are_digits(self):
    labels = class_labels.Labels(names=['5', '3'])
    self.assertEqual(labels.of('3/a.png'), 1)
    with self.assertRaisesRegex(ValueError, 'class 0 is not one of the names'):
      labels.of('0/a.png')

  def test_folders(self):
    self.assertEqual(class_labels.folders(['b/1', 'a/1', 'x']), ['a', 'b'])
    self.assertEmpty(class_labels.folders(['7/1', '12/1']))
    self.assertEqual(
      class_labels.folders(['i/t/b/1', 'i\\t\\a\\1'], 'i/t/'), ['a', 'b']
    )
    with self.assertRaisesRegex(ValueError, r'numbers \(1\).*names \(cat\)'):
      class_labels.folders(['1/a', 'cat/a'])
    with self.assertRaisesRegex(ValueError, '01 and 1 are the same number'):
      class_labels.folders(['01/a', '1/a'])

  def test_all_in_one_class(self):
    check = class_labels.check_folders
    deep = ['imagenet/train/n01', 'imagenet/train/n02']
    with self.assertRaisesRegex(
      ValueError, 'class, imagenet;.*--strip_prefix=imagenet/train,'
    ):
      check(deep)
    with self.assertRaisesRegex(ValueError, '--strip_prefix=imagenet/train,'):
      check(deep, prefix='imagenet/val')
    with self.assertRaisesRegex(ValueError, '--strip_prefix=imagenet/train,'):
      check(deep, prefix='imagenet')
    check(deep, prefix='imagenet/train')
    check(deep, names=['imagenet', 'other'])
    with self.assertRaises(ValueError):
      check([*deep, ''])
    check(['dog'])
    check(['cat/a', 'dog/a'])
    check([''])


if __name__ == '__main__':
  tf.test.main()
