# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The dataset of images without maps, which Model Garden reads.

Model Garden's errors about an image name neither file nor record;
`first_unreadable` finds them.
"""

from collections.abc import Sequence
import functools
import re
import types
from typing import Any

from official.vision.dataloaders import classification_input
from official.vision.tasks import image_classification as stock
import tensorflow as tf
import tqdm

from official_ext.harmonization.dataloaders import pipelines
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import stateless_model_garden


def read(
  task: stock.ImageClassificationTask, params, input_context=None
) -> tf.data.Dataset:
  """Builds Model Garden's dataset so that several pipelines can share the work.

  Args:
    task: the task whose stock `build_inputs` is called.
    params: a `DataConfig` without mixing.
    input_context: `tf.distribute.InputContext`, if there is a strategy.

  Returns:
    Batches of images (B, H, W, 3) and class numbers int32 (B,). In training,
    those of the first pipeline equal Model Garden's bit for bit; the other
    pipelines, and the workers of a tf.data service, have random numbers of
    their own. Evaluation is as in `pipelines.Reader`.
  """
  with pipelines.unseeded(params) as params:
    needs_own_seed = params.is_training and bool(
      params.enable_tf_data_service or pipelines.number(input_context)
    )
    parsers = stateless_model_garden if needs_own_seed else stock
    make_reader = (
      _seeding_reader(input_context) if needs_own_seed else pipelines.Reader
    )
    label = task.task_config.train_data.label_field_key
    # `build_inputs` names its reader and its parser in global variables. They
    # are replaced in a copy of this one function, so that the stock module
    # stays as it is for everybody else.
    build = types.FunctionType(
      stock.ImageClassificationTask.build_inputs.__code__,
      {
        **vars(stock),
        'classification_input': parsers.classification_input,
        'input_reader_factory': types.SimpleNamespace(
          input_reader_generator=functools.partial(
            _reader_with_clipped_labels, make_reader, label
          )
        ),
      },
    )
    return build(task, params, input_context)


def _reader_with_clipped_labels(
  make_reader, field, params, *, decoder_fn, **kwargs
):
  """Makes a reader whose labels fit into Model Garden's int32.

  A larger label would wrap around to another number, possibly a valid class.
  """

  def decode(record):
    decoded = decoder_fn(record)
    label = tf.cast(decoded[field], tf.int64)
    return {**decoded, field: tf.clip_by_value(label, -1, tf.int32.max)}

  return make_reader(params, decoder_fn=decode, **kwargs)


def _seeding_reader(input_context):
  """Returns a function that makes readers with a seed per image."""

  def make(params, *, parser_fn, sample_fn=None, **kwargs):
    seed = pipelines.own_seed(params, 'images without maps', input_context)

    def sample(dataset):
      if sample_fn:
        dataset = sample_fn(dataset)
      return pipelines.with_example_seeds(dataset, seed)

    def parse(example):
      with stateless_model_garden.seeded(example['seed'], 0):
        return parser_fn(example)

    return pipelines.Reader(params, parser_fn=parse, sample_fn=sample, **kwargs)

  return make


def _reason(serialized: bytes, field: str, error: tf.errors.OpError) -> str:
  """Describes what is wrong with a record."""
  try:
    example = tf.train.Example.FromString(serialized)
  except Exception:  # protobuf raises several types.
    return 'it is not a tf.train.Example'
  values = example.features.feature[field].bytes_list.value
  if not values or not values[0]:
    return f'field {field} is missing (task.train_data.image_field_key)'
  # The dataset puts its own name before the message of the operation.
  words = re.sub(r'.*Iterator::\S+: ', '', error.message.partition('\n')[0])
  return f'field {field} is not an image that can be read ({words.strip()})'


def first_unreadable(files: Sequence[str], data, keys, size) -> str:
  """Reads records as Model Garden does until one fails.

  Args:
    files: TFRecord files.
    data: the dataset's `DataConfig`.
    keys: names of the record fields of image and label.
    size: (height, width) of the network's images.

  Returns:
    File, position and problem of the first bad record; '' if all can be read.
  """
  image_key, label_key = keys
  decoder = classification_input.Decoder(image_key, label_key)
  parse: Any = classification_input.Parser(
    output_size=list(size),
    num_classes=1,
    image_field_key=image_key,
    label_field_key=label_key,
    decode_jpeg_only=data.decode_jpeg_only,
  ).parse_fn(is_training=False)
  located = records.located(tf.data.TFRecordDataset)(list(files))
  # The result depends on the pixels; otherwise none would be decoded.
  read = located.map(
    lambda record: tf.reduce_max(
      parse(decoder.decode(record['serialized']))[0]
    ),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  count = 0
  try:
    for _ in tqdm.tqdm(
      read, desc='searching for the bad record', unit=' records', disable=None
    ):
      count += 1
  except tf.errors.InvalidArgumentError as e:
    record = next(located.skip(count).as_numpy_iterator())
    return (
      f'{record["file"].decode()}, record {record["index"]} (counted '
      f'from 0): {_reason(record["serialized"], image_key, e)}'
    )
  return ''
