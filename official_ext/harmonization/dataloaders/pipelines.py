# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Input pipelines that share the work: own random numbers, each image once.

A distribution strategy runs one input pipeline per machine, and a tf.data
service runs one per worker. Model Garden's reader gives all of them the same
seed, so that they crop and flip in the same way. For evaluation it distributes
files, so that some pipelines have more batches than others, and their last
batches are never read.
"""

import contextlib
import hashlib
from typing import Any

from official.core import config_definitions as cfg
from official.core import input_reader
import tensorflow as tf

from official_ext.harmonization.dataloaders import records


def _process_seed() -> int | None:
  """Returns the seed of `tf.random.set_seed`; None if it was not called."""
  return tf.function(lambda: None).get_concrete_function().graph.seed


def number(input_context: tf.distribute.InputContext | None) -> int:
  """Returns the index of this input pipeline; 0 without a context."""
  return input_context.input_pipeline_id if input_context else 0


def count(input_context: tf.distribute.InputContext | None) -> int:
  """Returns the number of input pipelines; 1 without a context."""
  return input_context.num_input_pipelines if input_context else 1


def own_seed(
  params: cfg.DataConfig,
  purpose: str,
  input_context: tf.distribute.InputContext | None,
) -> int | None:
  """Derives the seed of one pipeline from the seed of all pipelines.

  Args:
    params: configuration of the dataset. Its `seed` is that of all pipelines;
      None means the seed of `tf.random.set_seed`.
    purpose: what the random numbers are for. Different purposes give different
      numbers.
    input_context: identifies this pipeline.

  Returns:
    `params.seed` for the first pipeline, and a number below 2**31 for the
    others. None without any seed: random numbers then differ between processes.
  """
  # A tf.data service must get the same graph from all machines.
  if not number(input_context) or params.enable_tf_data_service:
    return params.seed
  seed = _process_seed() if params.seed is None else params.seed
  if seed is None:
    return None
  text = f'{purpose} {seed} {number(input_context)}'
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big') >> 1


@contextlib.contextmanager
def unseeded(params: cfg.DataConfig):
  """A context in which the graph of a tf.data service is built without a seed.

  All workers of the service run the same graph. With a seed in it, all would
  shuffle and augment in the same way; without, each has random numbers of its
  own.

  Args:
    params: configuration of the dataset.

  Yields:
    `params`, without its seed if the service is enabled.
  """
  if not params.enable_tf_data_service:
    yield params
    return
  seed = _process_seed()
  if seed is not None:
    tf.random.set_seed(None)
  try:
    yield params.replace(seed=None)
  finally:
    if seed is not None:
      tf.random.set_seed(seed)


def example_seeds(seed: int | None) -> tf.data.Dataset:
  """Makes an endless dataset of seeds, one per example.

  Args:
    seed: determines all of them; None for random seeds.

  Returns:
    A dataset of int64 (2,), for `tf.random.stateless_*`, different in each
    epoch.
  """
  return tf.data.Dataset.random(
    seed=seed, rerandomize_each_iteration=True
  ).batch(2)


def with_example_seeds(
  dataset: tf.data.Dataset, seed: int | None
) -> tf.data.Dataset:
  """Adds a field `seed`, as of `example_seeds`, to a dataset of dicts."""
  return tf.data.Dataset.zip((dataset, example_seeds(seed))).map(
    lambda example, seed: {**example, 'seed': seed}
  )


def _share(
  dataset: tf.data.Dataset, input_context: tf.distribute.InputContext
) -> tf.data.Dataset:
  """Takes one pipeline's share of a dataset; all shares have equal length.

  Args:
    dataset: all records, in the same order in every pipeline.
    input_context: identifies this pipeline.

  Returns:
    A dataset of (index, record): every n-th record, with n pipelines. If the
    last n records are incomplete and have none for this pipeline, it gets the
    first of them, whose index modulo n is another pipeline's.
  """

  def pick(*round_of_records):
    round_of_records = tf.data.Dataset.zip(round_of_records)
    own = round_of_records.skip(number(input_context))
    return own.concatenate(round_of_records).take(1).get_single_element()

  return (
    dataset.enumerate()
    .window(count(input_context))
    .map(pick, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  )


class Reader(input_reader.InputReader):
  """Model Garden's reader, for several pipelines.

  In training, the first pipeline reads as Model Garden's does, and the others
  shuffle with their own seeds. All pipelines agree on the order of the files
  that are distributed among them.

  In evaluation, each file is read once, even if several patterns match it. Each
  of n pipelines reads all files and takes every n-th record. All have the same
  number of batches; the last ones may be short or empty.
  """

  def __init__(self, params: cfg.DataConfig, **kwargs: Any):
    """Initializes the reader.

    Args:
      params: configuration of the dataset.
      **kwargs: arguments of Model Garden's reader. In evaluation with several
        pipelines, `decoder_fn` must return a dict, and `parser_fn` must accept
        additional fields.
    """
    super().__init__(params, **kwargs)
    self._params = params
    if self._matched_files and not self._is_training:
      self._matched_files = records.files(params.input_path)

  def _is_shared(self, input_context) -> bool:
    return not self._is_training and count(input_context) > 1

  def _read_data_source(self, matched_files, dataset_fn, input_context=None):
    if self._is_shared(input_context):
      # All pipelines must see the same order of files and records.
      self._deterministic = True
      return _share(
        super()._read_data_source(
          matched_files and sorted(matched_files), dataset_fn
        ),
        input_context,
      )
    if not self._sharding:
      self._seed = own_seed(self._params, 'files', input_context)
    return super()._read_data_source(matched_files, dataset_fn, input_context)

  def _decode_and_parse_dataset(self, dataset, batch_size, input_context=None):
    if self._is_shared(input_context):
      self._mark_repeated(input_context)
    else:
      self._seed = own_seed(self._params, 'shuffle', input_context)
    return super()._decode_and_parse_dataset(dataset, batch_size, input_context)

  def _mark_repeated(self, input_context):
    """Removes records of other pipelines from the batches."""
    decode: Any = self._decoder_fn
    parse: Any = self._parser_fn
    pipelines, own = count(input_context), number(input_context)
    self._decoder_fn = lambda index, record: {
      **decode(record),
      'is_own': index % pipelines == own,
    }
    self._parser_fn = lambda decoded: (*parse(decoded), decoded['is_own'])
    self._postprocess_fn = lambda images, labels, is_own: tf.nest.map_structure(
      lambda x: tf.boolean_mask(x, is_own), (images, labels)
    )
