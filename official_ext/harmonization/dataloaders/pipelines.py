"""Input pipelines that share the work: draws of their own, every image once.

A distribution strategy runs one input pipeline per host, and a tf.data service
one per worker. Model Garden's reader seeds all of them alike, so that they crop
and flip alike; and it deals files to them for evaluation, so that some have
more batches than others and the last of these are never taken.
"""

import contextlib
import hashlib
from typing import Any

from official.core import config_definitions as cfg
from official.core import input_reader
import tensorflow as tf

from official_ext.harmonization.dataloaders import records


def _process_seed() -> int | None:
  """Returns what `tf.random.set_seed` was given, None if nothing."""
  return tf.function(lambda: None).get_concrete_function().graph.seed


def number(input_context: tf.distribute.InputContext | None) -> int:
  """Returns which of the input pipelines this is; 0 if there is only one."""
  return input_context.input_pipeline_id if input_context else 0


def count(input_context: tf.distribute.InputContext | None) -> int:
  """Returns how many input pipelines there are."""
  return input_context.num_input_pipelines if input_context else 1


def own_seed(
  params: cfg.DataConfig,
  purpose: str,
  input_context: tf.distribute.InputContext | None,
) -> int | None:
  """Derives the seed of one pipeline's draws from that of all of them.

  Args:
    params: of the source. Its `seed` is that of all pipelines; None takes that
      of `tf.random.set_seed`.
    purpose: names what is drawn. Other names give other draws.
    input_context: says which pipeline this is.

  Returns:
    The first pipeline's is `params.seed` itself, another's is a number below
    2**31. None without any seed: then every process draws at random.
  """
  # All hosts must hand a tf.data service the same graph.
  if not number(input_context) or params.enable_tf_data_service:
    return params.seed
  seed = _process_seed() if params.seed is None else params.seed
  if seed is None:
    return None
  text = f'{purpose} {seed} {number(input_context)}'
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big') >> 1


@contextlib.contextmanager
def unseeded(params: cfg.DataConfig):
  """A context in which what a tf.data service runs is built without a seed.

  All workers of the service run the same graph. Seeds in it would have each of
  them shuffle and draw as the others do; without, each draws its own.

  Args:
    params: of the source. Without the service, nothing is changed.

  Yields:
    `params`, without its seed where the service is enabled.
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


def draws(seed: int | None) -> tf.data.Dataset:
  """Makes an endless dataset of seeds, one for each example.

  Args:
    seed: of them all.

  Returns:
    int64 (2,), for `tf.random.stateless_*`; others in every epoch.
  """
  return tf.data.Dataset.random(
    seed=seed, rerandomize_each_iteration=True
  ).batch(2)


def _share(
  dataset: tf.data.Dataset, input_context: tf.distribute.InputContext
) -> tf.data.Dataset:
  """Takes a pipeline's part of a dataset, as many records as any other's.

  Args:
    dataset: all records, in the same order in every pipeline.
    input_context: says which pipeline this is.

  Returns:
    A dataset of (record's number, record). Where the last round is too short
    for this pipeline, the round's first record takes its place: its number is
    then not this pipeline's, modulo how many pipelines there are.
  """

  def pick(*window):
    window = tf.data.Dataset.zip(window)
    own = window.skip(number(input_context))
    return own.concatenate(window).take(1).get_single_element()

  return (
    dataset.enumerate()
    .window(count(input_context))
    .map(pick, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  )


class Reader(input_reader.InputReader):
  """Model Garden's reader, for several pipelines.

  Training: the first pipeline reads as Model Garden's does, the others shuffle
  by seeds of their own. Files that are dealt to pipelines are in one order.

  Evaluation: every file is read once, however many patterns match it. With
  several pipelines, every one reads all files and takes every n-th record, and
  all have the same number of batches; the last ones may be short or empty.
  """

  def __init__(self, params: cfg.DataConfig, **kwargs: Any):
    """Initializes the reader.

    Args:
      params: of the source.
      **kwargs: of Model Garden's reader. In evaluation with several pipelines
        `decoder_fn` must return a dict, and the parser read what it needs.
    """
    super().__init__(params, **kwargs)
    self._params = params
    if self._matched_files and not self._is_training:
      self._matched_files = records.files(params.input_path)

  def _is_shared(self, input_context) -> bool:
    return not self._is_training and count(input_context) > 1

  def _read_data_source(self, matched_files, dataset_fn, input_context=None):
    if self._is_shared(input_context):
      # All pipelines must count alike, whatever the order of their listings.
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
    """Removes what is another pipeline's record from the batches."""
    decode, parse = self._decoder_fn, self._parser_fn
    pipelines, own = count(input_context), number(input_context)
    self._decoder_fn = lambda place, record: {
      **decode(record),
      'is_own': place % pipelines == own,
    }
    self._parser_fn = lambda decoded: (*parse(decoded), decoded['is_own'])
    self._postprocess_fn = lambda images, labels, is_own: tf.nest.map_structure(
      lambda x: tf.boolean_mask(x, is_own), (images, labels)
    )
