"""The source of images with human maps: from files to batches."""

from official.common import dataset_fn
import tensorflow as tf

from official_ext.harmonization.dataloaders import augmentation
from official_ext.harmonization.dataloaders import bad_records
from official_ext.harmonization.dataloaders import harmonization_input
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import mixing
from official_ext.harmonization.dataloaders import pipelines
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import registry

_NO_MAP = (
  'it has no human map to measure alignment with: move such records '
  'to task.validation_data'
)


def files(params) -> list[str]:
  """Names a source's files in the order that the batches' `records` count.

  Args:
    params: a `MappedDataConfig`.

  Returns:
    The paths, sorted.
  """
  return sorted(records.files(params.input_path))


def read(params, model, soft_labels: bool, input_context=None):
  """Reads, decodes, parses, batches and mixes records with human maps.

  Args:
    params: a `MappedDataConfig`.
    model: the model's configuration: its input size and number of classes.
    soft_labels: whether training labels are rows of coefficients.
    input_context: of the distribution strategy.

  Returns:
    A dataset of float images (B, H, W, 3) and a dict of `labels`, int32 (B,) or
    float32 (B, classes) where soft, `heatmaps` float32 (B, H, W) and
    `heatmap_weights` float32 (B,), 0 where a training record has no map. In
    evaluation the dict also has `records`, int32 (B, 2): the number of a
    record's file among `files`, and its position there. A record that cannot
    be used raises `tf.errors.InvalidArgumentError` with its
    file, position and the reason; where `params.on_bad_record` is 'skip' it is
    skipped, and the dict also has `bad_records` and `valid`, float32 (B,), as
    `bad_records.skip` describes them.
  """
  with pipelines.unseeded(params) as params:
    return _read(params, model, soft_labels, input_context)


def _read(params, model, soft_labels, input_context):
  """As `read`."""
  decoder = registry.get_decoder(params.map_decoder, params.raw_image_max)
  label_offset = labels.offset_with_map(params, model.num_classes)
  parser = harmonization_input.Parser(
    output_size=model.input_size[:2],
    num_classes=model.num_classes,
    label_offset=label_offset,
    blur=params.blur,
    map_resize=registry.map_resize(params.map_decoder, params.map_resize),
    blur_kernel=params.blur_kernel,
    min_max=params.min_max,
    aug_rand_hflip=params.aug_rand_hflip,
    aug_crop=params.aug_crop,
    crop_area_range=params.crop_area_range,
    center_crop_fraction=params.center_crop_fraction,
    tf_resize_method=params.tf_resize_method,
    dtype=params.dtype,
    augmenter=augmentation.build(params),
  )
  parse_one = parser.parse_fn(params.is_training)
  names = None if params.is_training else tf.constant(files(params))
  counts = ()
  if params.on_bad_record == 'skip':
    counts = ('bad_records',) + (() if params.is_training else ('valid',))

  def decode(record):
    decoded = {
      'has_map': tf.constant(True),
      **record,
      **decoder.decode(record['serialized']),
    }
    if not params.is_training:
      lacking = (decoded['problem'] == '') & ~decoded['has_map']
      decoded['problem'] = tf.where(lacking, _NO_MAP, decoded['problem'])
    return decoded

  def parse(decoded):
    images, batch = parse_one(decoded)
    weight = tf.cast(decoded['has_map'], tf.float32)
    batch = {
      **batch,
      'heatmap_weights': weight,
      **{k: decoded[k] for k in counts},
    }
    if not params.is_training:
      number = tf.argmax(tf.equal(names, decoded['file']), output_type=tf.int64)
      batch['records'] = tf.cast(tf.stack([number, decoded['index']]), tf.int32)
    return images, batch

  def sample(dataset):
    if counts:
      last_class = model.num_classes - 1 - label_offset
      dataset = bad_records.skip(
        dataset,
        params.max_bad_records,
        None if params.is_training else last_class,
      )
    return draw(dataset) if params.is_training else dataset

  def draw(dataset):
    # Every example carries its own random draw, so that the same seed gives
    # the same crops whatever the parallelism.
    seed = pipelines.own_seed(params, 'images with maps', input_context)
    return tf.data.Dataset.zip((dataset, pipelines.draws(seed))).map(
      lambda example, seed: {**example, 'seed': seed}
    )

  def mix(images, batch):
    batch = dict(batch)
    seed = batch.pop('seed')[0]
    counted = {k: batch.pop(k) for k in counts}
    if soft_labels:
      batch['labels'] = tf.one_hot(batch['labels'], model.num_classes)
    if params.mixup_and_cutmix:
      images, batch = mixing.mix(images, batch, seed, params.mixup_and_cutmix)
    return images, {**batch, **counted}

  return pipelines.Reader(
    params,
    dataset_fn=records.located(dataset_fn.pick_dataset_fn(params.file_type)),
    decoder_fn=decode,
    sample_fn=sample,
    parser_fn=parse,
    postprocess_fn=mix if params.is_training else None,
  ).read(input_context=input_context)
