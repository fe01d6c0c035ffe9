# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the command that draws saliency panels."""

# Bazel: tags = ["subprocess"]

import dataclasses
import json
import os
import tempfile
from unittest import mock

from absl import flags
from absl.testing import flagsaver
import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.harmonization import cli
from official_ext.harmonization import explain
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import spec
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.evaluation import panels
from tests.benchmark.adapters import networks

_CLASSES = 5


class ExplainTest(tf.test.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
    model = os.path.join(self.folder, 'net.keras')
    networks.network(classes=_CLASSES).save(model)
    self.model = f'keras:{model}?preprocessing=tf'
    self.pixels = networks.pixels(3, (20, 24)).astype(np.uint8)
    for i, name in enumerate(('a.png', 'b/c.PNG', 'd.png')):
      self._write(f'images/{name}', image_codec.encode_image(self.pixels[i]))
    self.human = np.arange(20 * 24).reshape(20, 24).astype(np.uint8)
    self._write('maps/b/c.png', image_codec.encode_map(self.human))

  def _path(self, *parts):
    return os.path.join(self.folder, *parts)

  def _write(self, name, contents):
    os.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
    with open(self._path(name), 'wb') as f:
      f.write(contents)

  def _options(self, **fields):
    defaults = dict(
      model=self.model,
      images=self._path('images'),
      output_dir=self._path('out'),
      rows=2,
    )
    return explain.Options(**{**defaults, **fields})

  def _drawn(self, **fields):
    """Draws panels; returns the arguments of each rendering, and the paths."""
    with mock.patch.object(panels, 'render', wraps=panels.render) as render:
      paths = list(explain.explain(self._options(**fields)))
    for path in paths:
      self.assertGreater(np.ptp(np.asarray(Image.open(path))), 0)
    return [call.args for call in render.call_args_list], paths

  def test_the_flag_lists_all_explainers(self):
    self.assertCountEqual(option_values.EXPLAINERS, explainers.EXPLAINERS)

  def test_panels_of_the_predicted_class(self):
    (first, second), paths = self._drawn(save_maps='npy')
    self.assertEqual(
      [os.path.basename(p) for p in paths],
      ['panels-0000.png', 'panels-0001.png'],
    )
    images = np.concatenate([first[0], second[0]])
    self.assertAllClose(images, base.resize(self.pixels, (16, 16)) / 255)

    adapter = spec.build(self.model)
    inputs = adapter.preprocess(base.resize(self.pixels, (16, 16)))
    predicted = np.argmax(adapter.logits(inputs), axis=-1)
    gradients = adapter.gradients(
      inputs, np.eye(_CLASSES, dtype=np.float32)[predicted]
    )
    wanted = np.abs(gradients).max(axis=-1)
    self.assertEqual([*first[1]], ['gradient'])
    self.assertAllClose(first[1]['gradient'], wanted[:2], rtol=1e-4, atol=1e-7)
    self.assertEqual(
      first[2] + second[2],
      [f'{n}\npredicted: {p}' for n, p in zip('acd', predicted)],
    )
    for name, values in zip(('a', 'b/c', 'd'), wanted):
      self.assertAllClose(
        np.load(self._path(f'out/maps/gradient/{name}.npy')),
        values,
        rtol=1e-4,
        atol=1e-7,
      )

  def test_human_maps_labels_and_several_explainers(self):
    self._write('labels.csv', b'image,label\na.png,4\nb/c,3\nd.png,0\n')
    (page, _), _ = self._drawn(
      maps=self._path('maps'),
      labels=self._path('labels.csv'),
      explainer=('training_map', 'gradient_x_input'),
      save_maps='png',
    )
    self.assertEqual(
      [*page[1]], ['human map', 'training map', 'gradient x input']
    )
    self.assertTrue(np.isnan(page[1]['human map'][0]).all())
    self.assertAllClose(
      page[1]['human map'][1],
      base.resize(self.human[..., None], (16, 16))[..., 0],
    )
    self.assertRegex(page[2][0], '^a\nclass 4, predicted: [0-4]$')
    adapter = spec.build(self.model)
    inputs = adapter.preprocess(base.resize(self.pixels[:1], (16, 16)))
    gradients = adapter.gradients(
      inputs, np.eye(_CLASSES, dtype=np.float32)[[4]]
    )
    self.assertAllClose(
      page[1]['training map'][0],
      gradients[0].mean(axis=-1),
      rtol=1e-3,
      atol=1e-7,
    )
    with open(self._path('out/maps/training_map/a.png'), 'rb') as f:
      saved = image_codec.decode_map(f.read())
    values = page[1]['training map'][0]
    self.assertEqual(saved.max(), 65535)
    self.assertAllClose(
      saved / 65535, (values - values.min()) / np.ptp(values), atol=1e-4
    )

  def test_maps_by_their_path_and_suffixes(self):
    other = self.human.max() - self.human
    for folder, values in (('Cat', self.human), ('Dog', other)):
      self._write(
        f'pets/{folder}/1_image.png', image_codec.encode_image(self.pixels[0])
      )
      self._write(f'pets/{folder}/1_map.PNG', image_codec.encode_map(values))
      self._write(f'pets/.thumbs/{folder}.png', b'hidden')
    self._write(
      'pets/Fox/1_image.png', image_codec.encode_image(self.pixels[1])
    )
    pets = self._path('pets')
    suffixes = dict(image_suffix='_image', map_suffix='_map')
    with self.assertLogs(level='WARNING') as logs:
      (page,), _ = self._drawn(images=pets, maps=pets, rows=3, **suffixes)
    self.assertIn('1 of 3 images have no map', ' '.join(logs.output))
    self.assertLen(page[0], 3)
    for drawn, values in zip(page[1]['human map'], (self.human, other)):
      self.assertAllClose(
        drawn, base.resize(values[..., None], (16, 16))[..., 0]
      )
    self.assertTrue(np.isnan(page[1]['human map'][2]).all())
    (page,), _ = self._drawn(
      images=f'{pets}/Dog/1_image.png',
      maps=f'{pets}/Dog',
      output_dir=self._path('one'),
      **suffixes,
    )
    self.assertAllClose(
      page[1]['human map'][0], base.resize(other[..., None], (16, 16))[..., 0]
    )
    with self.assertRaisesRegex(ValueError, '--image_suffix and --map_suffix'):
      self._drawn(images=pets, maps=pets, output_dir=self._path('o1'))
    # The path must be equal, not only the file name.
    with self.assertRaisesRegex(ValueError, 'such as Cat/1_map.png for Cat/'):
      self._drawn(
        images=pets, maps=f'{pets}/Dog', output_dir=self._path('o2'), **suffixes
      )
    os.makedirs(self._path('linked/Fox'))
    os.symlink(f'{pets}/Fox/1_image.png', self._path('linked/Fox/1_map.png'))
    with self.assertRaisesRegex(ValueError, '1_map.png: .*same file as its'):
      self._drawn(
        images=pets,
        maps=self._path('linked'),
        output_dir=self._path('o3'),
        **suffixes,
      )

  def test_resumes(self):
    _, paths = self._drawn()
    os.remove(paths[1])
    drawn, again = self._drawn()
    self.assertEqual(again, paths)
    self.assertLen(drawn, 1)
    self.assertEqual(drawn[0][2][0].split('\n')[0], 'd')
    with self.assertRaisesRegex(
      ValueError, 'explainer was .*; rows was 2 and is now 1'
    ):
      self._drawn(rows=1, explainer=('smoothgrad',))
    with open(self._path('out/settings.json')) as f:
      settings = json.load(f)
    self.assertEqual(
      settings['preprocessing'], '16x16 pixels, tf: RGB / 127.5 - 1'
    )
    self.assertContainsSubset(
      [f.name for f in dataclasses.fields(explain.Options)], settings
    )

  def test_slow_explainers_show_the_first_image_early(self):
    slow = ('gradient', 'expected_gradients')
    drawn, paths = self._drawn(explainer=slow, explainer_samples=3)
    self.assertEqual([len(images) for images, *_ in drawn], [1, 2, 1])
    for name, maps in drawn[0][1].items():
      self.assertAllClose(maps[0], drawn[1][1][name][0], rtol=1e-3)
    self.assertNotIn('first.png', os.listdir(self._path('out')))
    with open(self._path('out/settings.json')) as f:
      seconds = json.load(f)['panels']['panels-0000.png']['seconds_per_image']
    self.assertEqual(list(seconds), [*slow])
    self.assertGreater(min(seconds.values()), 0)
    os.remove(paths[1])
    again, _ = self._drawn(explainer=slow, explainer_samples=3)
    self.assertAllEqual(
      again[0][1]['expected gradients'], drawn[2][1]['expected gradients']
    )
    with self.assertRaisesRegex(ValueError, 'explainer_samples was 3 and is'):
      self._drawn(explainer=slow)
    with self.assertRaisesRegex(ValueError, 'samples=3 has no effect on grad'):
      self._drawn(explainer_samples=3)

  def _edit_settings(self, **fields):
    path = self._path('out/settings.json')
    with open(path) as f:
      settings = {**json.load(f), **fields}
    with open(path, 'w') as f:
      json.dump({k: v for k, v in settings.items() if v is not None}, f)

  def test_outdated_panels_are_drawn_again_and_kept(self):
    self._drawn(maps=self._path('maps'), save_maps='npy')

    def again(count, **fields):
      """Draws again; returns the folders in which earlier panels were kept."""
      kept = self._path('out/earlier')
      before = set(os.listdir(kept)) if os.path.exists(kept) else set()
      drawn, _ = self._drawn(maps=self._path('maps'), save_maps='npy', **fields)
      self.assertLen(drawn, count)
      new = set(os.listdir(kept)) - before if os.path.exists(kept) else set()
      self.assertLen(new, count)
      # Now all panels are up to date.
      self.assertEmpty(
        self._drawn(maps=self._path('maps'), save_maps='npy', **fields)[0]
      )
      return new

    again(0)
    again(0, model=f'{self.model}&name=Fine')
    self._write('images/a.png', image_codec.encode_image(self.pixels[2]))
    new = again(1)  # b/c.PNG is on the same panel.
    for name in ('panels-0000.png', 'maps/gradient/a.npy'):
      self.assertTrue(
        os.path.exists(self._path('out/earlier', *new, name)), name
      )
    self._write('maps/b/c.png', image_codec.encode_map(self.human[::-1]))
    again(1)
    networks.network(classes=_CLASSES, seed=3).save(self._path('net.keras'))
    again(2)
    with open(self._path('out/panels-0001.png'), 'ab') as f:
      f.write(b'edited')
    again(1)
    os.remove(self._path('out/maps/gradient/d.npy'))
    again(1)
    # The same images in another folder.
    os.rename(self._path('images'), self._path('photos'))
    again(0, images=self._path('photos'))

  def test_other_images_are_named(self):
    self._drawn()
    self._write('images/e.png', image_codec.encode_image(self.pixels[0]))
    with self.assertRaisesRegex(
      ValueError, r'the images have changed \(new: e.png\); expected .*Choose'
    ):
      self._drawn()
    os.remove(self._path('images/a.png'))
    with self.assertRaisesRegex(
      ValueError,
      r'\(missing: a.png; new: e.png\); rows was 2 and is now 3',
    ):
      self._drawn(rows=3)
    self._edit_settings(names=None)  # As an earlier version wrote them.
    with self.assertRaisesRegex(ValueError, 'equally many, with other names'):
      self._drawn()

  def test_folders_of_earlier_versions_are_unverified(self):
    self._drawn()
    self._edit_settings(panels=None)
    with mock.patch.object(explain.tqdm.tqdm, 'write') as write:
      self.assertEmpty(self._drawn()[0])
    self.assertRegex(write.call_args.args[0], '^2 of .*unverified')

  def test_dates_of_earlier_panels_are_reported(self):
    self._drawn()
    with mock.patch.object(explain.tqdm.tqdm, 'write') as write:
      self.assertEmpty(self._drawn()[0])
    self.assertRegex(
      write.call_args.args[0],
      r'^2 of the panels are from an earlier run of \d{4}-',
    )

  def test_damaged_settings_are_named(self):
    for text in ('', '{"rows"', '[]', '{"panels": 3}'):
      self._drawn()
      with open(self._path('out/settings.json'), 'w') as f:
        f.write(text)
      with mock.patch.object(explain.tqdm.tqdm, 'write') as write:
        drawn, _ = self._drawn()
      self.assertLen(drawn, 2)
      self.assertIn('out/settings.json: ', write.call_args_list[0].args[0])
    # The state after a kill between drawing a panel and recording it.
    self._edit_settings(panels={})
    self.assertLen(self._drawn()[0], 2)

  def test_one_image_by_the_command(self):
    self.enter_context(flagsaver.flagsaver())
    cli.define(explain.Options)
    flags.FLAGS(
      [
        'explain',
        f'--model={self.model}',
        '--explainer=smoothgrad',
        f'--images={self._path("images", "a.png")}',
        f'--output_dir={self._path("out")}',
      ]
    )
    explain.main(cli.parsed(explain.Options))
    self.assertTrue(os.path.exists(self._path('out/panels-0000.png')))
    flags.FLAGS.model = 'keras:'
    with self.assertRaisesRegex(ValueError, "'keras:' is not a SPEC"):
      explain.main(cli.parsed(explain.Options))
    flags.FLAGS['map_suffix'].parse('_map')
    with self.assertRaisesRegex(ValueError, '--map_suffix .*--maps'):
      explain.main(cli.parsed(explain.Options))

  def test_long_names_are_shortened(self):
    names = ('apple_618_100152_200078_00011', 'x' * 20)
    for name in names:
      self._write(f'long/{name}.png', image_codec.encode_image(self.pixels[0]))
    ((_, _, captions),), _ = self._drawn(images=self._path('long'))
    self.assertEqual(
      [c.split('\n')[0] for c in captions], ['apple_618…0078_00011', 'x' * 20]
    )

  def test_panels_do_not_mix_with_images(self):
    for output in (self._path('images'), self._path('images', 'out')):
      with self.assertRaisesRegex(ValueError, '--output_dir=.*of --images;'):
        self._drawn(output_dir=output)

  def test_invalid_inputs_are_named(self):
    with self.assertRaisesRegex(ValueError, 'none is neither an image nor'):
      self._drawn(images=self._path('none'))
    with self.assertRaisesRegex(ValueError, 'none is neither an image nor'):
      self._drawn(images='none', maps=self._path('maps'))
    with self.assertRaisesRegex(ValueError, 'no map with the name of an image'):
      self._drawn(
        maps=self._path('images', 'b'), images=self._path('images', 'a.png')
      )
    self._write('labels.csv', b'image,label\na.png,5\n')
    with self.assertRaisesRegex(ValueError, r'a.png has class 5.*0\.\.4'):
      self._drawn(labels=self._path('labels.csv'))
    self._write('labels.csv', b'image,label\na.png,4\n')
    with self.assertRaisesRegex(
      ValueError, 'b/c.PNG: .*--labels does not contain'
    ):
      self._drawn(labels=self._path('labels.csv'), output_dir=self._path('o'))
    self._write('images/d.jpg', b'')
    with self.assertRaisesRegex(ValueError, 'differ only in their ext'):
      self._drawn(save_maps='npy', output_dir=self._path('o1'))
    os.remove(self._path('images/d.jpg'))
    self._write('images/d.png', b'no picture')
    with self.assertRaisesRegex(ValueError, 'd.png: not a readable JPEG or P'):
      self._drawn(output_dir=self._path('o2'))

  def test_images_are_drawn_as_people_see_them(self):
    # A 16-bit grey image that is stored rotated; the map is upright.
    deep = np.uint16(np.arange(20 * 24).reshape(24, 20) * 136)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(deep).save(self._path('images/c.tif'), exif=exif)
    np.save(self._path('maps/c.npy'), np.float16(self.human))
    ((images, maps, _),) = self._drawn(
      images=self._path('images/c.tif'), maps=self._path('maps')
    )[0]
    seen = np.rot90(np.round(deep / 257.0), -1)
    self.assertAllClose(
      images[0, ..., 0],
      base.resize(seen[..., None], (16, 16))[..., 0] / 255,
      atol=1e-6,
    )
    expected = base.resize(self.human[..., None] / 255.0, (16, 16))[..., 0]
    self.assertAllClose(maps['human map'][0], expected, atol=1e-6)

  def test_a_map_of_another_shape_is_refused(self):
    os.remove(self._path('maps/b/c.png'))
    np.save(self._path('maps/b/c.npy'), self.human.T)
    with self.assertRaisesRegex(
      ValueError, r'c.npy: map of 24x20 .*20x24; its rows.*--framing'
    ):
      self._drawn(maps=self._path('maps'))
    self._drawn(
      maps=self._path('maps'),
      framing='stretched',
      output_dir=self._path('stretched'),
    )

  def test_single_fixations_are_drawn(self):
    image = np.zeros((200, 240, 3), np.uint8)
    self._write('images/b/c.PNG', image_codec.encode_image(image))
    fixation = np.zeros((200, 240), bool)
    fixation[100, 120] = True
    os.remove(self._path('maps/b/c.png'))
    np.save(self._path('maps/b/c.npy'), fixation)
    drawn, _ = self._drawn(maps=self._path('maps'))
    maps = drawn[0][1]['human map'][1]
    self.assertAllClose(maps.sum() * (200 / 16) * (240 / 16), 1.0, atol=1e-3)

  def test_a_constant_map_cannot_be_a_png_file(self):
    flat = np.zeros((3, 3), np.float32)
    panel = explain.Panel(['a.png'], None, [], {'gradient': [flat]}, {})
    with self.assertRaisesRegex(ValueError, 'a.png: gradient is .*=npy'):
      explain.write_maps(panel, self._options(save_maps='png'))
    explain.write_maps(panel, self._options(save_maps='npy'))
    self.assertAllEqual(np.load(self._path('out/maps/gradient/a.npy')), flat)


if __name__ == '__main__':
  tf.test.main()
