"""The source of images without maps, which Model Garden reads.

Its errors about an image say neither file nor record: `first_unreadable` finds
them.
"""

from collections.abc import Sequence
import functools
import re
import types

from official.vision.dataloaders import classification_input
from official.vision.tasks import image_classification as stock
import tensorflow as tf
import tqdm

from official_ext.harmonization.dataloaders import pipelines
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import seeded_host


def read(
  task: stock.ImageClassificationTask, params, input_context=None
) -> tf.data.Dataset:
  """Builds Model Garden's dataset, for several pipelines.

  Args:
    task: whose `build_inputs` is called, but with our reader.
    params: a `DataConfig`, without mixing.
    input_context: of the distribution strategy.

  Returns:
    Batches of images (B, H, W, 3) and class numbers int32 (B,). In training the
    first pipeline's are Model Garden's own, bit for bit; the others, and the
    workers of a tf.data service, do the same with draws of their own.
    Evaluation is as of `pipelines.Reader`.
  """
  with pipelines.unseeded(params) as params:
    has_own_draws = params.is_training and bool(
      params.enable_tf_data_service or pipelines.number(input_context)
    )
    parsers = seeded_host if has_own_draws else stock
    # Only the names of this one function are replaced, not those of its module.
    code = stock.ImageClassificationTask.build_inputs.__code__
    make_reader = (
      _drawing_reader(input_context) if has_own_draws else pipelines.Reader
    )
    label = task.task_config.train_data.label_field_key
    build = types.FunctionType(
      code,
      {
        **vars(stock),
        'classification_input': parsers.classification_input,
        'input_reader_factory': types.SimpleNamespace(
          input_reader_generator=functools.partial(
            _bounded_labels, make_reader, label
          )
        ),
      },
    )
    return build(task, params, input_context)


def _bounded_labels(make_reader, field, params, *, decoder_fn, **kwargs):
  """A reader whose labels fit into the int32 that Model Garden makes of them.

  One beyond would become another number, and perhaps a class.
  """

  def decode(record):
    decoded = decoder_fn(record)
    label = tf.cast(decoded[field], tf.int64)
    return {**decoded, field: tf.clip_by_value(label, -1, tf.int32.max)}

  return make_reader(params, decoder_fn=decode, **kwargs)


def _drawing_reader(input_context):
  """A maker of readers that give every image a seed of its own."""

  def make(params, *, parser_fn, sample_fn=None, **kwargs):
    seed = pipelines.own_seed(params, 'images without maps', input_context)

    def sample(dataset):
      if sample_fn:
        dataset = sample_fn(dataset)
      return tf.data.Dataset.zip((dataset, pipelines.draws(seed))).map(
        lambda example, seed: {**example, 'seed': seed}
      )

    def parse(example):
      with seeded_host.draws_from(example['seed'], 0):
        return parser_fn(example)

    return pipelines.Reader(params, parser_fn=parse, sample_fn=sample, **kwargs)

  return make


def _reason(serialized: bytes, field: str, error: tf.errors.OpError) -> str:
  """Says in words what is wrong with a record."""
  try:
    example = tf.train.Example.FromString(serialized)
  except Exception:  # of several kinds
    return 'it is not a tf.train.Example'
  values = example.features.feature[field].bytes_list.value
  if not values or not values[0]:
    return f'field {field} is missing (task.train_data.image_field_key)'
  # Before its own words stand those of the dataset.
  words = re.sub(r'.*Iterator::\S+: ', '', error.message.partition('\n')[0])
  return f'field {field} is not an image that can be read ({words.strip()})'


def first_unreadable(files: Sequence[str], data, keys, size) -> str:
  """Reads records as the host does until one fails.

  Args:
    files: TFRecord files.
    data: the source's `DataConfig`.
    keys: the names of the fields of image and label.
    size: (height, width) of the network's images.

  Returns:
    The first bad record's file, position and fault; '' if all can be read.
  """
  image_key, label_key = keys
  decoder = classification_input.Decoder(image_key, label_key)
  parse = classification_input.Parser(
    output_size=list(size),
    num_classes=1,
    image_field_key=image_key,
    label_field_key=label_key,
    decode_jpeg_only=data.decode_jpeg_only,
  ).parse_fn(is_training=False)
  located = records.located(tf.data.TFRecordDataset)(list(files))
  # What comes out must depend on the pixels, or none are decoded.
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
      read, desc='looking for the bad record', unit=' records', disable=None
    ):
      count += 1
  except tf.errors.InvalidArgumentError as e:
    record = next(located.skip(count).as_numpy_iterator())
    return (
      f'{record["file"].decode()}, record {record["index"]} (counted '
      f'from 0): {_reason(record["serialized"], image_key, e)}'
    )
  return ''
