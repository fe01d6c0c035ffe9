r"""Measures images per second of the input pipeline.

  python -m performance.input_pipeline

Three pipelines read the same shards in one run and take turns, round after
round, so that what else the machine does falls on all of them: ours, in
training mode with crop and flip; the stock parser of Model Garden, on the
images alone; and the loader of the released package (no crop, no flip, no
normalization). Reported are medians over the rounds, and medians of the
ratios within a round.

The shards are made on the spot, unless --input_path names some: photographs
that ship with scikit-learn, cut to 256x256 at random, with maps of soft discs.
"""

from collections.abc import Callable, Iterator
import io
import os
import tempfile
import time

from absl import flags
import numpy as np
from official.vision.configs import image_classification as stock
from official.vision.tasks import image_classification as stock_task
from PIL import Image
from sklearn import datasets
import tensorflow as tf
import tqdm

from official_ext.harmonization import cli
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.dataloaders import mapped_source
from performance import medians
from testing import released

FLAGS = flags.FLAGS

_SIZE = 256
_INPUT_SIZE = 224


def define_flags():
  """Defines the tool's flags."""
  flags.DEFINE_string(
    'input_path',
    '',
    "Shards in the ClickMe release's format, 256x256. "
    'Made on the spot by default.',
  )
  flags.DEFINE_string(
    'output',
    'runs/benchmarks/input_pipeline.json',
    'Where the results are written.',
  )
  flags.DEFINE_integer('batch_size', 64, 'Images in a batch.', lower_bound=1)
  flags.DEFINE_integer(
    'batches', 16, 'Timed batches of one turn.', lower_bound=1
  )
  flags.DEFINE_integer('rounds', 9, 'Turns of each pipeline.', lower_bound=1)
  flags.DEFINE_integer(
    'quality',
    90,
    'JPEG quality of shards made here.',
    lower_bound=1,
    upper_bound=100,
  )


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG', quality=quality)
  return buffer.getvalue()


def write_shards(
  folder: str, images: int, quality: int, shards: int = 4
) -> str:
  """Writes photographs and maps in the release's format.

  Args:
    folder: of the shards.
    images: how many, in all.
    quality: of the JPEGs.
    shards: how many files.

  Returns:
    The glob pattern of the files.
  """
  photographs = datasets.load_sample_images().images
  rng = np.random.default_rng(0)
  rows, columns = np.indices((_SIZE, _SIZE))
  for shard in range(shards):
    with record_writer.shard(
      os.path.join(folder, f'train-{shard}.tfrecords')
    ) as writer:
      for label in range(shard, images, shards):
        photograph = photographs[label % len(photographs)]
        y, x = (rng.integers(0, n - _SIZE) for n in photograph.shape[:2])
        centre = rng.uniform(0, _SIZE, 2)
        squared = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
        disc = np.uint8(255 * np.exp(-squared / (2 * 30.0**2)))
        writer.write(
          record_writer.clickme_example(
            _jpeg(photograph[y : y + _SIZE, x : x + _SIZE], quality),
            _jpeg(disc, quality),
            label % 1000,
          )
        )
  return os.path.join(folder, 'train-*.tfrecords')


def _ours(input_path: str, batch_size: int) -> tf.data.Dataset:
  model = stock.ImageClassificationModel(
    num_classes=1000, input_size=[_INPUT_SIZE, _INPUT_SIZE, 3]
  )
  return mapped_source.read(
    exp_cfg.MappedDataConfig(
      input_path=input_path,
      is_training=True,
      global_batch_size=batch_size,
      label_offset=0,
      shuffle_buffer_size=256,
    ),
    model,
    soft_labels=False,
  )


def _stock(input_path: str, batch_size: int) -> tf.data.Dataset:
  config = stock.ImageClassificationTask(
    model=stock.ImageClassificationModel(
      num_classes=1000, input_size=[_INPUT_SIZE, _INPUT_SIZE, 3]
    ),
    train_data=stock.DataConfig(
      input_path=input_path,
      is_training=True,
      global_batch_size=batch_size,
      image_field_key='image',
      label_field_key='label',
      shuffle_buffer_size=256,
    ),
  )
  task = stock_task.ImageClassificationTask(config)
  return task.build_inputs(config.train_data)


def _released(input_path: str, batch_size: int) -> tf.data.Dataset:
  loader = released.load('common.clickme_dataset')
  return loader.load_clickme(
    sorted(tf.io.gfile.glob(input_path)), batch_size
  ).repeat()


PIPELINES: dict[str, Callable[[str, int], tf.data.Dataset]] = {
  'ours': _ours,
  'stock': _stock,
  'released': _released,
}


_RATIOS = (
  ('rate, ours over released (aim: 1.5 or more)', 'ours', 'released'),
  ('time per image, ours over stock (aim: 1.2 or less)', 'stock', 'ours'),
)


def _rate(batches: Iterator, count: int, batch_size: int) -> float:
  """Images per second of the next batches."""
  start = time.perf_counter()
  for _ in range(count):
    next(batches)
  return count * batch_size / (time.perf_counter() - start)


def measure(
  input_path: str, batch_size: int, batches: int, rounds: int
) -> dict[str, list[float]]:
  """Lets the pipelines take turns.

  A pipeline is built anew for its turn, so that none works ahead while another
  is measured; its first batches, until its buffers are full, do not count.

  Args:
    input_path: of the shards.
    batch_size: images in a batch.
    batches: that are timed in one turn.
    rounds: turns of each pipeline.

  Returns:
    Names to images per second, one number a round.
  """
  rates = {name: [] for name in PIPELINES}
  bar = tqdm.tqdm(total=rounds * len(PIPELINES), unit=' turns', disable=None)
  for _ in range(rounds):
    for name, build in PIPELINES.items():
      iterator = iter(build(input_path, batch_size))
      _rate(iterator, max(2, batches // 4), batch_size)
      rates[name].append(_rate(iterator, batches, batch_size))
      bar.update()
      del iterator
  bar.close()
  return rates


def main(_):
  """Measures, prints and writes."""
  with tempfile.TemporaryDirectory() as folder:
    input_path = FLAGS.input_path or write_shards(
      folder, FLAGS.batch_size * FLAGS.batches, FLAGS.quality
    )
    rates = measure(input_path, FLAGS.batch_size, FLAGS.batches, FLAGS.rounds)
  settings = {
    name: FLAGS[name].value
    for name in ('input_path', 'quality', 'batch_size', 'batches', 'rounds')
  }
  summary = medians.summarize(rates, 'images per second', _RATIOS)
  medians.report(FLAGS.output, settings, summary, rates)


def run():
  """The command."""
  define_flags()
  cli.run(main, __name__)


if __name__ == '__main__':
  run()
