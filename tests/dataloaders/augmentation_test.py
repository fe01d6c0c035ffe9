# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests that image and map stay together under every augmentation."""

# Bazel: size = "large"
# Bazel: tags = ["networks"]

from unittest import mock

from absl.testing import parameterized
import numpy as np
from official.vision.configs import common
from official.vision.configs import image_classification as stock
from official.vision.ops import augment
import tensorflow as tf

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.dataloaders import augmentation
from official_ext.harmonization.dataloaders import harmonization_input
from official_ext.harmonization.dataloaders import images_with_maps
from official_ext.harmonization.dataloaders import stateless_model_garden
from testing import fixtures
from tests import samples

_SIZE = 64
_DARK, _BRIGHT = 40, 200
_MOVING = ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY']
_ALL = augment.RandAugment().available_ops


def _only(*names):
  """A RandAugment of two layers with only these operations."""
  return common.Augmentation(
    type='randaug',
    randaug=common.RandAugment(
      exclude_ops=[op for op in _ALL if op not in names]
    ),
  )


def _autoaug(name):
  return common.Augmentation(
    type='autoaug',
    autoaug=common.AutoAugment(augmentation_name=name, translate_const=20.0),
  )


def _parse(
  image, heatmap, seeds, window=False, blur='none', min_max=False, **fields
):
  """Runs the parser in a dataset, with one example per seed."""
  data = stock.DataConfig(is_training=True, **fields)
  parse = harmonization_input.Parser(
    [_SIZE, _SIZE],
    4,
    blur=blur,
    min_max=min_max,
    aug_rand_hflip=window,
    aug_crop=window,
    crop_area_range=(0.3, 1.0),
    augmenter=augmentation.build(data),
  ).parse_fn(is_training=True)
  record = {
    'image': tf.constant(image, tf.uint8),
    'heatmap': tf.constant(heatmap),
    'label': tf.constant(1, tf.int64),
    'problem': tf.constant(''),
    'file': tf.constant('a.tfrecords'),
    'index': tf.constant(7, tf.int64),
  }
  dataset = (
    tf.data.Dataset.range(seeds)
    .map(
      lambda seed: parse({**record, 'seed': tf.stack([seed, 1])}),
      num_parallel_calls=2,
    )
    .batch(seeds)
  )
  images, batch = next(iter(dataset))
  return images.numpy(), batch['heatmaps'].numpy()


def _painted(map_size, dtype=np.uint8):
  """Returns an image and a map with a bright square on a dark background."""
  image = np.full((160, 200, 3), _DARK, np.uint8)
  image[60:80, 120:140] = _BRIGHT
  heatmap = np.where(image[..., :1] == _BRIGHT, 255.0, 0.0).astype(np.float32)
  heatmap = tf.image.resize(heatmap, map_size, antialias=True).numpy()
  return image, np.round(heatmap).astype(dtype)


def _centroid(weights):
  weights = np.maximum(weights - 0.5 * weights.max(), 0.0)
  rows, columns = np.indices(weights.shape)
  return (
    np.array([(rows * weights).sum(), (columns * weights).sum()])
    / weights.sum()
  )


class TogetherTest(tf.test.TestCase, parameterized.TestCase):
  def _check_centroids(self, images, heatmaps, seen, places):
    """Checks that the image's marker is at the same place in the map."""
    count, found = 0, set()
    for image, heatmap in zip(images.astype(np.float64), heatmaps):
      marker = np.abs(image - np.median(image, axis=(0, 1))).sum(-1)
      edges = (marker[0], marker[-1], marker[:, 0], marker[:, -1])
      if marker.max() < 0.1 or max(e.max() for e in edges) > 0.1 * marker.max():
        continue  # It is cropped, or has the colour of the background.
      count += 1
      place = _centroid(marker)
      found.add(tuple(np.round(place)))
      self.assertAllClose(_centroid(np.float64(heatmap)), place, atol=1.0)
    self.assertGreater(count, seen)
    self.assertGreaterEqual(len(found), places)

  @parameterized.parameters(
    *zip(_MOVING, ((160, 200), (80, 80), (40, 50), (64, 64), (320, 100)))
  )
  def test_one_operation(self, name, map_size):
    images, heatmaps = _parse(*_painted(map_size), 200, aug_type=_only(name))
    # Not moved, or moved in one of two directions.
    self._check_centroids(images, heatmaps, seen=100, places=3)

  def _without_colours(self):
    """Keeps colours, so that the marker is visible, and random numbers."""
    same = {
      name: lambda image, *_: image
      for name in augmentation.augment.NAME_TO_FUNC
      if name not in _MOVING
    }
    self.enter_context(mock.patch.dict(augmentation.augment.NAME_TO_FUNC, same))

  @parameterized.parameters('v0', 'reduced_cifar10')
  def test_autoaugment(self, name):
    self._without_colours()
    images, heatmaps = _parse(
      *_painted((80, 80)), 300, window=True, aug_type=_autoaug(name)
    )
    self._check_centroids(images, heatmaps, seen=100, places=50)

  @parameterized.parameters(((160, 200),), ((64, 64),))
  def test_all_at_once(self, map_size):
    self._without_colours()
    images, heatmaps = _parse(
      *_painted(map_size),
      300,
      window=True,
      aug_type=common.Augmentation(type='randaug'),
      color_jitter=0.3,
    )
    self._check_centroids(images, heatmaps, seen=100, places=50)

  def test_float_maps_keep_their_values(self):
    image, heatmap = _painted((160, 200), np.float32)
    images, heatmaps = _parse(
      image, heatmap / 255e3, 100, aug_type=_only(*_MOVING)
    )
    self.assertAllClose(heatmaps.max(axis=(1, 2)), np.full([100], 1e-3))
    self._check_centroids(images, heatmaps, seen=50, places=5)

  def test_what_a_move_shows_twice_has_its_map_twice(self):
    # Model Garden reflects the image at the border, so the map is reflected
    # too.
    image = np.repeat(
      np.uint8(np.arange(64) * 4)[np.newaxis, :, np.newaxis], 64, axis=0
    )
    images, heatmaps = _parse(
      np.tile(image, [1, 1, 3]), image, 30, aug_type=_only('TranslateX')
    )
    plain, _ = _parse(np.tile(image, [1, 1, 3]), image, 1)
    values = dict(zip(np.round(plain[0, 0, :, 0], 4), image[0, :, 0]))
    self.assertGreater(np.ptp(heatmaps[:, 0, 0]), 0)
    for one, heatmap in zip(images, heatmaps):
      self.assertAllEqual(
        [values[v] for v in np.round(one[0, :, 0], 4)], heatmap[0]
      )

  @parameterized.parameters(
    {'aug_type': _only(*[op for op in _ALL if op not in _MOVING + ['Cutout']])},
    {'color_jitter': 0.4},
    {'three_augment': True},
  )
  def test_colours_leave_the_map_alone(self, **fields):
    image = fixtures.pixels(1, (_SIZE, _SIZE)).numpy()
    heatmap = fixtures.pixels(2, (_SIZE, _SIZE), channels=1).numpy()
    images, heatmaps = _parse(image, heatmap, 100, **fields)
    self.assertAllEqual(heatmaps, np.stack([heatmap[..., 0]] * 100))
    self.assertGreater(len({one.tobytes() for one in images}), 2)

  @parameterized.parameters(
    {'aug_type': _only('Cutout')},
    {'random_erasing': common.RandomErasing(probability=0.7)},
  )
  def test_what_is_hidden_is_not_important(self, **fields):
    image = np.full((_SIZE, _SIZE, 3), _DARK, np.uint8)
    heatmap = np.full((_SIZE, _SIZE, 1), 9, np.uint8)
    images, heatmaps = _parse(image, heatmap, 60, **fields)
    plain, _ = _parse(image, heatmap, 1)
    hidden = (np.abs(images - plain) > 1e-6).any(-1)
    self.assertAllEqual(heatmaps, np.where(hidden, 0.0, 9.0))
    some = hidden.any(axis=(1, 2))
    self.assertBetween(some.sum(), 10, 59)
    self.assertGreater(len({h.tobytes() for h in hidden[some]}), 5)

  @parameterized.product(
    fields=[
      {'aug_type': _only('Cutout')},
      {'random_erasing': common.RandomErasing(probability=0.7)},
    ],
    blur=['before_crop', 'after_crop'],
    min_max=[False, True],
  )
  def test_what_is_hidden_stays_hidden_from_the_blur(
    self, fields, blur, min_max
  ):
    image = np.full((_SIZE, _SIZE, 3), _DARK, np.uint8)
    heatmap = np.full((_SIZE, _SIZE, 1), 9, np.uint8)
    heatmap[20:40] = 200
    images, heatmaps = _parse(
      image, heatmap, 60, blur=blur, min_max=min_max, **fields
    )
    plain, whole = _parse(image, heatmap, 1, blur=blur)
    hidden = (np.abs(images - plain) > 1e-6).any(-1)
    self.assertBetween(hidden.any((1, 2)).sum(), 10, 59)
    self.assertAllEqual(heatmaps[hidden], np.zeros(hidden.sum()))
    self.assertGreater(whole.min(), 0.0)
    if not min_max:
      self.assertGreater(heatmaps[~hidden].min(), 0.0)

  def test_what_is_hidden_moves_along(self):
    # A translation after cutout also moves the grey box.
    image = np.full((_SIZE, _SIZE, 3), _DARK, np.uint8)
    heatmap = np.full((_SIZE, _SIZE, 1), 9, np.uint8)
    images, heatmaps = _parse(
      image,
      heatmap,
      60,
      blur='after_crop',
      aug_type=_only('Cutout', 'TranslateX'),
    )
    plain, _ = _parse(image, heatmap, 1)
    hidden = (np.abs(images - plain) > 1e-6).any(-1)
    self.assertAllEqual(heatmaps == 0.0, hidden)


class SeedTest(tf.test.TestCase):
  def _batches(self, seed, path):
    data = exp_cfg.MappedDataConfig(
      input_path=path,
      is_training=True,
      label_offset=0,
      seed=seed,
      global_batch_size=4,
      shuffle_buffer_size=1,
      deterministic=True,
      color_jitter=0.3,
      three_augment=True,
      # Tracing all operations would take most of a minute.
      aug_type=_only('Rotate', 'Posterize', 'Cutout'),
      random_erasing=common.RandomErasing(probability=0.5),
      mixup_and_cutmix=common.MixupAndCutmix(),
    )
    model = stock.ImageClassificationModel(
      num_classes=4, input_size=[32, 32, 3]
    )
    return np.stack(
      [
        tf.concat([images, batch['heatmaps'][..., tf.newaxis]], -1)
        for images, batch in images_with_maps.read(
          data, model, soft_labels=True
        ).take(4)
      ]
    )

  def test_the_same_seed_gives_the_same_pictures(self):
    path = fixtures.write_numbered(self.get_temp_dir(), 'a', 8)
    first, again = (self._batches(1, path) for _ in range(2))
    self.assertAllEqual(first, again)
    # A second pass over the records has other random numbers.
    self.assertNotAllClose(first[:2], first[2:])

  def test_model_garden_is_left_alone(self):
    self.assertIs(augment.NAME_TO_FUNC['Rotate'], augment.wrapped_rotate)
    self.assertIs(augment.tf, tf)
    self.assertIsNot(stateless_model_garden.augment, augment)

  def test_random_numbers_are_distributed_as_model_gardens(self):
    image = tf.zeros([8, 8, 3])
    names = augment.RandAugment().available_ops

    def moved(module, seed):
      policy = module.RandAugment(
        num_layers=1, exclude_ops=[n for n in names if n != 'Invert']
      )
      with stateless_model_garden.seeded(seed, 0):
        return tf.reduce_max(policy.distort(image))

    for module in (augment, stateless_model_garden.augment):
      values = tf.data.Dataset.range(400).map(
        lambda s, module=module: moved(module, tf.stack([s, 0]))
      )
      part = np.mean([v > 0 for v in values.as_numpy_iterator()])
      self.assertAllClose(part, 0.5, atol=0.1)  # Inverted or unchanged.


class RealPairsTest(tf.test.TestCase):
  def test_twenty_real_pairs(self):
    names, serialized = [], []
    for name, image, heatmap in samples.pairs():
      names.append(name)
      serialized.append(
        fixtures.record(
          label=len(names) % fixtures.CLASSES, image=image, heatmap=heatmap
        )
      )
    self.assertLen(names, 20)
    path = fixtures.write(self.get_temp_dir(), 'pairs', serialized)
    model = stock.ImageClassificationModel(
      num_classes=fixtures.CLASSES, input_size=[128, 128, 3]
    )
    for training in (True, False):
      data = exp_cfg.MappedDataConfig(
        input_path=path,
        is_training=training,
        label_offset=0,
        seed=1,
        global_batch_size=20,
        aug_crop=training,
        drop_remainder=False,
        aug_type=_only(*_MOVING) if training else None,
        mixup_and_cutmix=common.MixupAndCutmix() if training else None,
      )
      images, batch = next(iter(images_with_maps.read(data, model, training)))
      self.assertEqual(images.shape, [20, 128, 128, 3])
      self.assertEqual(batch['heatmaps'].shape, [20, 128, 128])
      for x in (images, batch['heatmaps']):
        self.assertTrue(np.isfinite(x).all())
        self.assertGreater(np.ptp(x, axis=(1, 2)).min(), 0.0)


if __name__ == '__main__':
  tf.test.main()
