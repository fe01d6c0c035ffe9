# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Makes handwritten digits in the format of the ClickMe release."""

import colorsys
import io
import os
from typing import Any

import numpy as np
from PIL import Image
from sklearn import datasets
import tensorflow as tf
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_writer

SIZE = 256
NUM_CLASSES = 10
_MANIFEST = 'manifest.json'
_JPEG_QUALITY = 95
# This file exists while a dataset is being made. Its shards can be replaced.
_UNFINISHED = 'unfinished'
# Ranges of the 1,797 digits that each split samples from.
IDENTITIES = {'train': (0, 1200), 'val': (1200, 1500), 'ood': (1500, 1797)}
# Has the digits, clutter and positions of val.
_SWAPPED = 'swapped'


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
  """Resizes a float map to a square, bicubically."""
  return np.asarray(
    Image.fromarray(pixels.astype(np.float32)).resize(
      (size, size), Image.Resampling.BICUBIC
    )
  )


def _clutter(rng: np.random.Generator) -> np.ndarray:
  """Returns a dark coloured background with two scales, in [0, 0.6]."""
  coarse, fine = (
    np.asarray(
      Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
      ),
      np.float32,
    )
    / 255.0
    for cells in (4, 24)
  )
  return 0.35 * coarse + 0.25 * fine


def _decoy_class(label: int, strength: float, rng: np.random.Generator) -> int:
  """Samples the decoy's class: `label` with probability `strength`."""
  if rng.random() < strength:
    return label
  return (label + rng.integers(1, NUM_CLASSES)) % NUM_CLASSES


def compose(digit: np.ndarray, decoy: int, rng: np.random.Generator):
  """Draws one image and its map.

  Args:
    digit: ink of the digit, (8, 8), in 0..16.
    decoy: the class whose colour the decoy patch has.
    rng: generator of the clutter and the positions.

  Returns:
    The image, uint8 (256, 256, 3), and the ink, uint8 (256, 256).
  """
  width = SIZE // 2
  ink = np.zeros((SIZE, SIZE), np.float32)
  top, left = rng.integers(0, SIZE - width, 2)
  ink[top : top + width, left : left + width] = np.clip(
    2.0 * _resize(digit / 16.0, width) - 0.4, 0.0, 1.0
  )
  image = _clutter(rng)
  side = SIZE // 6
  row, column = rng.integers(0, 2, 2) * (SIZE - side)
  image[row : row + side, column : column + side] = colorsys.hsv_to_rgb(
    decoy / NUM_CLASSES, 1.0, 0.8
  )
  ink_colour = rng.uniform(0.85, 1.0, 3).astype(np.float32)
  alpha = ink[..., np.newaxis]
  image = image * (1.0 - alpha) + ink_colour * alpha
  return (
    np.round(255 * image).astype(np.uint8),
    np.round(255 * ink).astype(np.uint8),
  )


def _jpeg(pixels: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', quality=_JPEG_QUALITY)
  return buffer.getvalue()


def _write_split(folder, split, count, strength, per_shard, seed):
  """Writes the shards of one split."""
  digits: Any = datasets.load_digits()
  # The same permutation for all splits makes them disjoint.
  order = np.random.default_rng(0).permutation(len(digits.target))
  sampled = 'val' if split == _SWAPPED else split
  identities = order[slice(*IDENTITIES[sampled])]
  folder = os.path.join(folder, split)
  tf.io.gfile.makedirs(folder)
  bar = tqdm.tqdm(total=count, desc=split, unit=' images', disable=None)
  for shard, start in enumerate(range(0, count, per_shard)):
    rng = np.random.default_rng(
      [seed, sorted(IDENTITIES).index(sampled), shard]
    )
    swaps = np.random.default_rng([seed, len(IDENTITIES), shard])
    path = os.path.join(folder, f'{split}-{shard}.tfrecords')
    with record_writer.open_shard(path) as writer:
      for _ in range(start, min(start + per_shard, count)):
        i = rng.choice(identities)
        label = int(digits.target[i])
        decoy = _decoy_class(label, strength, rng)
        if split == _SWAPPED:
          decoy = _decoy_class(label, 0.0, swaps)
        image, ink = compose(digits.images[i], decoy, rng)
        writer.write(
          record_writer.clickme_example(_jpeg(image), _jpeg(ink), label)
        )
        bar.update()
  bar.close()


def make(
  output_dir: str,
  train_images: int = 1000,
  val_images: int = 500,
  ood_images: int = 500,
  decoy_strength: float = 0.9,
  images_per_shard: int = 1000,
  seed: int = 0,
  overwrite: bool = False,
) -> bool:
  """Writes the four splits, unless they already exist.

  Args:
    output_dir: folder of the splits.
    train_images: number of images in train.
    val_images: number of images in val, and in swapped.
    ood_images: number of images in ood.
    decoy_strength: part of train and val whose decoy indicates the class.
    images_per_shard: number of images in a shard.
    seed: of everything that is random.
    overwrite: whether to replace a dataset with other settings.

  Returns:
    Whether anything was written.

  Raises:
    ValueError: the folder holds a dataset with other settings, or other files.
  """
  settings = {
    k: v for k, v in locals().items() if k not in ('output_dir', 'overwrite')
  }
  with output_folder.alone(output_dir):
    return _make(output_dir, settings, overwrite)


def _make(output_dir, settings, overwrite) -> bool:
  """Writes the splits to a folder that this process has locked."""
  manifest = os.path.join(output_dir, _MANIFEST)
  unfinished = output_folder.working_file(output_dir, _UNFINISHED)
  found = None
  if tf.io.gfile.exists(manifest):
    found = files.read_json(manifest, 'the settings of digits')
    if found and not overwrite:
      files.require_equal(
        output_dir,
        found,
        settings,
        'Choose another --output_dir, or add --overwrite.',
        expected='the settings of the digits in this folder',
      )
    if not files.differences(found, settings):
      return False
  shards = [
    shard
    for split in (*IDENTITIES, _SWAPPED)
    for shard in tf.io.gfile.glob(
      os.path.join(output_dir, split, f'{split}-*.tfrecords')
    )
  ]
  if shards and not (found or overwrite or tf.io.gfile.exists(unfinished)):
    raise ValueError(
      f'{output_dir} holds {shards[0]}, which was not made by this command. '
      'Choose another --output_dir, or add --overwrite to replace it.'
    )
  files.write_json(unfinished, settings)
  # Removed first: a killed run must not leave it next to other shards.
  if found:
    tf.io.gfile.remove(manifest)
  for shard in shards:
    tf.io.gfile.remove(shard)
  _write_splits(output_dir, **settings)
  files.write_json(manifest, settings)
  tf.io.gfile.remove(unfinished)
  return True


def _write_splits(
  output_dir,
  train_images,
  val_images,
  ood_images,
  decoy_strength,
  images_per_shard,
  seed,
):
  """Writes the shards of all splits."""
  for split, count, strength in (
    ('train', train_images, decoy_strength),
    ('val', val_images, decoy_strength),
    (_SWAPPED, val_images, decoy_strength),
    ('ood', ood_images, 0.0),
  ):
    _write_split(output_dir, split, count, strength, images_per_shard, seed)
