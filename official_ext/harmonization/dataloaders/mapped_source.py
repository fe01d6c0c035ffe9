"""The source of images with human maps: from files to batches."""

import tensorflow as tf, tf_keras

from official.common import dataset_fn
from official.core import input_reader
from official_ext.harmonization.dataloaders import augmentation
from official_ext.harmonization.dataloaders import harmonization_input
from official_ext.harmonization.dataloaders import mixing
from official_ext.harmonization.dataloaders import records
from official_ext.harmonization.dataloaders import registry


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
    `heatmap_weights` float32 (B,). A record that cannot be used raises
    `tf.errors.InvalidArgumentError` with its file, position and the reason.
  """
  decoder = registry.get_decoder(params.map_decoder)
  parser = harmonization_input.Parser(
      output_size=model.input_size[:2],
      num_classes=model.num_classes,
      label_offset=params.label_offset,
      blur=params.blur,
      min_max=params.min_max,
      aug_rand_hflip=params.aug_rand_hflip,
      aug_crop=params.aug_crop,
      crop_area_range=params.crop_area_range,
      center_crop_fraction=params.center_crop_fraction,
      tf_resize_method=params.tf_resize_method,
      dtype=params.dtype,
      augmenter=augmentation.build(params))

  def decode(record):
    return {**record, **decoder.decode(record['serialized'])}

  def draw(dataset):
    # Every example carries its own random draw, so that the same seed gives
    # the same crops whatever the parallelism.
    draws = tf.data.Dataset.random(
        seed=params.seed, rerandomize_each_iteration=True).batch(2)
    return tf.data.Dataset.zip((dataset, draws)).map(
        lambda example, seed: {**example, 'seed': seed})

  def mix(images, batch):
    batch = dict(batch)
    seed = batch.pop('seed')[0]
    if soft_labels:
      batch['labels'] = tf.one_hot(batch['labels'], model.num_classes)
    if params.mixup_and_cutmix:
      images, batch = mixing.mix(images, batch, seed, params.mixup_and_cutmix)
    return images, batch

  return input_reader.InputReader(
      params,
      dataset_fn=records.located(dataset_fn.pick_dataset_fn(params.file_type)),
      decoder_fn=decode,
      sample_fn=draw if params.is_training else None,
      parser_fn=parser.parse_fn(params.is_training),
      postprocess_fn=mix if params.is_training else None,
  ).read(input_context=input_context)
