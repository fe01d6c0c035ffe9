# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The dataset of images with human maps: from files to batches."""

from typing import Any

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
  """Lists a dataset's files in the order to which `records` in batches refer.

  Args:
    params: a `MappedDataConfig`.

  Returns:
    The paths, sorted.
  """
  return sorted(records.files(params.input_path))


def read(
  params, model, soft_labels: bool, input_context=None
) -> tf.data.Dataset:
  """Reads, decodes, parses, batches and mixes records with human maps.

  Args:
    params: a `MappedDataConfig`.
    model: configuration of the model, for its input size and classes.
    soft_labels: whether training labels are rows of mixing coefficients.
    input_context: `tf.distribute.InputContext`, if there is a strategy.

  Returns:
    A dataset of float images (B, H, W, 3) and a dict of
      labels: int32 (B,), or float32 (B, classes) if soft;
      heatmaps: float32 (B, H, W);
      heatmap_weights: float32 (B,), 0 if a training record has no map;
      records: only in evaluation, int32 (B, 2), the index of a record's file in
        `files(params)` and the record's position in it;
      bad_records, valid: only if `params.on_bad_record` is 'skip', float32
        (B,), see `bad_records.skip`.
    If `params.on_bad_record` is 'fail', a record that cannot be used raises
    `tf.errors.InvalidArgumentError` with its file, position and the reason.
  """
  with pipelines.unseeded(params) as params:
    return _ImagesWithMaps(params, model, soft_labels, input_context).read()


class _ImagesWithMaps:
  """Builds the dataset; the methods are in the order in which data pass."""

  def __init__(self, params, model, soft_labels, input_context):
    self._params = params
    self._training = params.is_training
    self._num_classes = model.num_classes
    self._soft_labels = soft_labels
    self._input_context = input_context
    # Not None: the checks of the configuration refuse that.
    self._label_offset: Any = labels.offset_with_map(params, model.num_classes)
    self._decoder = registry.get_decoder(
      params.map_decoder, params.raw_image_max
    )
    self._parse_record: Any = harmonization_input.Parser(
      output_size=model.input_size[:2],
      num_classes=model.num_classes,
      label_offset=self._label_offset,
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
    ).parse_fn(self._training)
    # Fields that `bad_records.skip` adds and that are not mixed.
    self._counts: tuple[str, ...] = ()
    if params.on_bad_record == 'skip':
      self._counts = (
        ('bad_records',) if self._training else ('bad_records', 'valid')
      )
    if not self._training:
      self._files = tf.constant(files(params))

  def read(self) -> tf.data.Dataset:
    return pipelines.Reader(
      self._params,
      dataset_fn=records.located(
        dataset_fn.pick_dataset_fn(self._params.file_type)
      ),
      decoder_fn=self._decode,
      sample_fn=self._skip_and_seed,
      parser_fn=self._parse,
      postprocess_fn=self._mix if self._training else None,
    ).read(input_context=self._input_context)

  def _decode(self, record):
    decoded = {
      'has_map': tf.constant(True),
      **record,
      **self._decoder.decode(record['serialized']),
    }
    if not self._training:
      lacks_map = (decoded['problem'] == '') & ~decoded['has_map']
      decoded['problem'] = tf.where(lacks_map, _NO_MAP, decoded['problem'])
    return decoded

  def _skip_and_seed(self, dataset):
    """Skips bad records, if asked to, and gives each record a seed."""
    if self._counts:
      dataset = bad_records.skip(
        dataset,
        self._params.max_bad_records,
        blank_label=(
          None if self._training else self._num_classes - 1 - self._label_offset
        ),
      )
    if not self._training:
      return dataset
    # With a seed per example, the run's seed determines all crops, however many
    # calls run in parallel.
    seed = pipelines.own_seed(
      self._params, 'images with maps', self._input_context
    )
    return pipelines.with_example_seeds(dataset, seed)

  def _parse(self, decoded):
    images, batch = self._parse_record(decoded)
    batch = {
      **batch,
      'heatmap_weights': tf.cast(decoded['has_map'], tf.float32),
      **{name: decoded[name] for name in self._counts},
    }
    if not self._training:
      file_index = tf.argmax(
        tf.equal(self._files, decoded['file']), output_type=tf.int64
      )
      batch['records'] = tf.cast(
        tf.stack([file_index, decoded['index']]), tf.int32
      )
    return images, batch

  def _mix(self, images, batch):
    batch = dict(batch)
    seed = batch.pop('seed')[0]  # The first example's seed is the batch's.
    counts = {name: batch.pop(name) for name in self._counts}
    if self._soft_labels:
      batch['labels'] = tf.one_hot(batch['labels'], self._num_classes)
    options = self._params.mixup_and_cutmix
    if options:
      images, batch = mixing.mix(images, batch, seed, options)
    return images, {**batch, **counts}
