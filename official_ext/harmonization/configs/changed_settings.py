# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Which settings affect training, and which may change when a run resumes.

A run that is restarted in its folder resumes from its checkpoint. Scores of
that network must not be reported under other settings, so one rule below
decides for each field whether it affects training. A field without a rule, such
as one that a later release adds, counts as affecting training.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from official.core import config_definitions as cfg
from official.modeling import hyperparams

from official_ext.harmonization import files

_TRAINING_SOURCES = ('task.train_data', 'task.mapped_data')

# Maps sections to their fields. A field includes everything below it.
_TRAINED = {
  ('runtime',): ('loss_scale', 'mixed_precision_dtype'),
  ('task',): (
    'differential_privacy_config',
    'freeze_backbone',
    'init_checkpoint',
    'init_checkpoint_modules',
    'losses',
    'model_output_keys',
    'train_label_offset',
  ),
  ('task.harmonization',): (
    'batch_norm',
    'enabled',
    'interval',
    'levels',
    'mapped_fraction',
    'normalization',
    'saliency',
    'saliency_target',
    'standardization',
    'warmup_steps',
    'weight',
  ),
  ('task.model',): (
    'add_head_batch_norm',
    'backbone',
    'dropout_rate',
    'input_size',
    'kernel_initializer',
    'norm_activation',
    'num_classes',
  ),
  _TRAINING_SOURCES: (
    'aug_crop',
    'aug_policy',
    'aug_rand_hflip',
    'aug_type',
    'blur',
    'blur_kernel',
    'cache',  # It keeps the first crop of each image.
    'center_crop_fraction',
    'color_jitter',
    'crop_area_range',
    'decode_jpeg_only',
    'decoder',
    'drop_remainder',
    'dtype',
    'file_type',
    'global_batch_size',
    'image_field_key',
    'is_multilabel',
    'is_training',
    'label_field_key',
    'label_offset',
    'map_decoder',
    'map_resize',
    'min_max',
    'mixup_and_cutmix',
    'randaug_magnitude',
    'random_erasing',
    'raw_image_max',
    'repeated_augment',
    'seed',
    'shuffle_buffer_size',
    'tf_resize_method',
    'tfds_as_supervised',
    'tfds_name',
    'tfds_skip_decoding_feature',
    'tfds_split',
    'three_augment',
    'weights',
  ),
  ('trainer',): ('optimizer_config',),
}
_NOT_TRAINED = {
  # Devices, and how the work is divided among them.
  ('runtime',): (
    'all_reduce_alg',
    'batchnorm_spatial_persistent',
    'dataset_num_private_threads',
    'default_shard_dim',
    'distribution_strategy',
    'enable_xla',
    'gpu_thread_mode',
    'num_cores_per_replica',
    'num_gpus',
    'num_packs',
    'per_gpu_thread_count',
    'run_eagerly',
    'task_index',
    'tpu',
    'tpu_enable_xla_dynamic_padder',
    'use_tpu_mp_strategy',
    'worker_hosts',
  ),
  # Evaluation and its reports.
  ('task',): (
    'alignment_report',
    'allow_image_summary',
    'eval_input_partition_dims',
    'evaluation',
    'mapped_validation_data',
    'name',
    'train_input_partition_dims',
    'validation_data',
    'validation_label_offset',
  ),
  ('task.harmonization',): (
    'ceiling',
    'evaluation_explainer',
    'explainer_samples',
  ),
  ('task.model',): ('output_softmax',),
  # Where records are, and how fast they are read. Files may have moved, and a
  # bad record may have to be skipped.
  _TRAINING_SOURCES: (
    'apply_tf_data_service_before_batching',
    'autotune_algorithm',
    'block_length',
    'cycle_length',
    'deterministic',
    'enable_shared_tf_data_service_between_parallel_trainers',
    'enable_tf_data_service',
    'input_path',
    'max_bad_records',
    'on_bad_record',
    'prefetch_buffer_size',
    'ram_budget',
    'sharding',
    'tf_data_service_address',
    'tf_data_service_job_name',
    'tfds_data_dir',
    'trainer_id',
  ),
  # Length of training, intervals, and which checkpoints are kept.
  ('trainer',): (
    'allow_tpu_summary',
    'best_checkpoint_eval_metric',
    'best_checkpoint_export_subdir',
    'best_checkpoint_metric_comp',
    'checkpoint_interval',
    'continuous_eval_timeout',
    'eval_tf_function',
    'eval_tf_while_loop',
    'loss_upper_bound',
    'max_to_keep',
    'preemption_on_demand_checkpoint',
    'recovery_begin_steps',
    'recovery_max_trials',
    'steps_per_loop',
    'summary_interval',
    'train_steps',
    'train_tf_function',
    'train_tf_while_loop',
    'validation_interval',
    'validation_steps',
    'validation_summary_subdir',
  ),
}


class Changes(NamedTuple):
  """Settings that differ: dotted names to (old value, new value).

  Attributes:
    trained: settings that affect training.
    others: all other settings.
  """

  trained: dict[str, tuple[Any, Any]]
  others: dict[str, tuple[Any, Any]]


def rules(field: str) -> list[bool]:
  """Finds the rules for a field, of which there should be exactly one.

  Args:
    field: a dotted name, such as 'task.model.backbone.resnet.model_id'.

  Returns:
    For each rule, whether the field affects training.
  """
  found = []
  for table, trained in ((_TRAINED, True), (_NOT_TRAINED, False)):
    for sections, names in table.items():
      found += [
        trained
        for section in sections
        for name in names
        if f'{field}.'.startswith(f'{section}.{name}.')
      ]
  return found


def _like(
  default: hyperparams.Config, config: hyperparams.Config
) -> hyperparams.Config:
  """Gives the sections of a default configuration the types of `config`'s."""
  for field in dataclasses.fields(config):
    value, found = (getattr(c, field.name) for c in (config, default))
    if isinstance(value, hyperparams.Config) and isinstance(
      found, hyperparams.Config
    ):
      if type(found) is not type(value):
        setattr(default, field.name, type(value)())
      _like(getattr(default, field.name), value)
  return default


def compare(old: Mapping[str, Any], new: cfg.ExperimentConfig) -> Changes:
  """Compares a run's settings with those of an experiment that resumes it.

  Args:
    old: settings from the run's params.yaml. Missing fields have their default.
    new: the final experiment.

  Returns:
    The settings that differ.

  Raises:
    ValueError: `old` are not the settings of an experiment.
  """
  completed = _like(
    cfg.ExperimentConfig(
      task=type(new.task)(),
      trainer=type(new.trainer)(),
      runtime=type(new.runtime)(),
    ),
    new,
  )
  try:
    completed.override(dict(old), is_strict=False)
    found = files.differences(completed.as_dict(), new.as_dict())
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    raise ValueError(f'not the settings of an experiment ({e})') from None
  trained = {
    name: values for name, values in found.items() if rules(name) != [False]
  }
  return Changes(trained, {k: v for k, v in found.items() if k not in trained})
