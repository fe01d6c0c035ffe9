r"""Makes a small dataset in the ClickMe release's format, from real ink.

  python -m official_ext.harmonization.data.make_digits_clickme

Handwritten digits (the 1,797 that scikit-learn ships) stand, light and half the
image wide, on coloured clutter. A decoy, a coloured patch in a corner, often
names the class, as in decoy-MNIST (Ross et al., "Right for the Right Reasons",
2017). The "human" map is the ink. Three splits of disjoint digits are written:
train and val share the decoy's habit, in ood it always names another class. A
fourth, swapped, has the images of val with decoys that name another class.
"""

import colorsys
import io
import os

from absl import flags
import numpy as np
from PIL import Image
from sklearn import datasets
import tensorflow as tf
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import resources
from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import record_writer

FLAGS = flags.FLAGS

SIZE = 256
NUM_CLASSES = 10
_MANIFEST = 'manifest.json'
_JPEG_QUALITY = 95
# Is there while a dataset is being made: its shards are ours to replace.
_UNFINISHED = 'unfinished'
# Parts of the 1,797 digits that the splits draw from.
_IDENTITIES = {'train': (0, 1200), 'val': (1200, 1500), 'ood': (1500, 1797)}
# Drawn as val, digit by digit.
_SWAPPED = 'swapped'


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
    'output_dir',
    'data/digits',
    'Where <split>/<split>-<i>.tfrecords are written.',
  )
  flags.DEFINE_integer('train_images', 1000, 'Images in train.', lower_bound=1)
  flags.DEFINE_integer('val_images', 500, 'Images in val.', lower_bound=1)
  flags.DEFINE_integer('ood_images', 500, 'Images in ood.', lower_bound=1)
  flags.DEFINE_float(
    'decoy_strength',
    0.9,
    'Part of the images of train and val whose decoy names their class.',
    0.0,
    1.0,
  )
  flags.DEFINE_integer(
    'images_per_shard', 1000, 'Images in one shard.', lower_bound=1
  )
  flags.DEFINE_integer('seed', 0, 'Seed of everything that is drawn.')
  flags.DEFINE_bool(
    'overwrite', False, 'Replace what is there with other settings.'
  )


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
  """Resizes a float map to a square, bicubically."""
  return np.asarray(
    Image.fromarray(pixels.astype(np.float32)).resize(
      (size, size), Image.BICUBIC
    )
  )


def _clutter(rng: np.random.Generator) -> np.ndarray:
  """A dark coloured ground with structure at two scales, in [0, 0.6]."""
  coarse, fine = (
    np.asarray(
      Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize(
        (SIZE, SIZE), Image.BICUBIC
      ),
      np.float32,
    )
    / 255.0
    for cells in (4, 24)
  )
  return 0.35 * coarse + 0.25 * fine


def _decoy_class(label: int, strength: float, rng: np.random.Generator) -> int:
  """The class that the decoy names: the image's with probability `strength`."""
  if rng.random() < strength:
    return label
  return (label + rng.integers(1, NUM_CLASSES)) % NUM_CLASSES


def compose(digit: np.ndarray, decoy: int, rng: np.random.Generator):
  """Draws one image and its map.

  Args:
    digit: (8, 8) ink, 0..16.
    decoy: the class whose colour the decoy patch has.
    rng: source of the clutter and of both places.

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
  return (np.uint8(np.round(255 * image)), np.uint8(np.round(255 * ink)))


def _jpeg(pixels: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', quality=_JPEG_QUALITY)
  return buffer.getvalue()


def _write_split(folder, split, count, strength, per_shard, seed):
  """Writes the shards of one split."""
  digits = datasets.load_digits()
  # One order for all splits, so that they are disjoint.
  order = np.random.default_rng(0).permutation(len(digits.target))
  source = 'val' if split == _SWAPPED else split
  identities = order[slice(*_IDENTITIES[source])]
  folder = os.path.join(folder, split)
  tf.io.gfile.makedirs(folder)
  bar = tqdm.tqdm(total=count, desc=split, unit=' images', disable=None)
  for shard, start in enumerate(range(0, count, per_shard)):
    rng = np.random.default_rng(
      [seed, sorted(_IDENTITIES).index(source), shard]
    )
    swaps = np.random.default_rng([seed, len(_IDENTITIES), shard])
    path = os.path.join(folder, f'{split}-{shard}.tfrecords')
    with record_writer.shard(path) as writer:
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
  """Writes the four splits, or does nothing if they are already there.

  Args:
    output_dir: folder of the splits.
    train_images: images in train.
    val_images: images in val.
    ood_images: images in ood.
    decoy_strength: part of train and val whose decoy names the class.
    images_per_shard: images in one shard.
    seed: of everything that is drawn.
    overwrite: whether to replace a dataset made with other settings.

  Returns:
    Whether anything was written.

  Raises:
    ValueError: the folder holds a dataset made with other settings.
  """
  settings = {
    k: v for k, v in locals().items() if k not in ('output_dir', 'overwrite')
  }
  with output_folder.alone(output_dir):
    return _make(output_dir, settings, overwrite)


def _make(output_dir, settings, overwrite) -> bool:
  """Writes the splits; no other run does in the same folder."""
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
    for split in (*_IDENTITIES, _SWAPPED)
    for shard in tf.io.gfile.glob(
      os.path.join(output_dir, split, f'{split}-*.tfrecords')
    )
  ]
  if shards and not (found or overwrite or tf.io.gfile.exists(unfinished)):
    raise ValueError(
      f'{output_dir} holds {shards[0]}, which was not made by '
      'this command. Choose another --output_dir, or add '
      '--overwrite to replace it.'
    )
  files.write_json(unfinished, settings)
  # First, so that a run that is killed does not leave it beside other shards.
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
  """Writes all shards."""
  for split, count, strength in (
    ('train', train_images, decoy_strength),
    ('val', val_images, decoy_strength),
    (_SWAPPED, val_images, decoy_strength),
    ('ood', ood_images, 0.0),
  ):
    _write_split(output_dir, split, count, strength, images_per_shard, seed)


def main(_):
  """Makes what the flags describe."""
  output_dir = resources.working_path(FLAGS.output_dir)
  written = make(
    output_dir,
    FLAGS.train_images,
    FLAGS.val_images,
    FLAGS.ood_images,
    FLAGS.decoy_strength,
    FLAGS.images_per_shard,
    FLAGS.seed,
    FLAGS.overwrite,
  )
  print(f'{output_dir}: ' + ('written.' if written else 'already there.'))


def run():
  """The console command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
