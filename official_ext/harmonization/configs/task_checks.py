# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The table of checks of a task, which run before anything is built."""

import math

from official_ext.harmonization.configs import checks
from official_ext.harmonization.configs import field_types
from official_ext.harmonization.dataloaders import augmentation
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import registry as map_decoders
from official_ext.harmonization.losses import harmonization as losses
from official_ext.harmonization.ops import blur
from official_ext.harmonization.ops import saliency as saliency_ops

_WITH_MAP = ('mapped_data', 'mapped_validation_data')
_WITHOUT_MAP = ('train_data', 'validation_data')
_TRAINING = ('train_data', 'mapped_data')
_DATASETS = _WITHOUT_MAP + _WITH_MAP
_BLURS = ('before_crop', 'after_crop', 'none')
_ON_BAD_RECORD = ('fail', 'skip')
_MODULES = ('all', 'backbone')
_DTYPES = ('float32', 'bfloat16', 'float16')
_RESIZE_METHODS = (
  'area',
  'bicubic',
  'bilinear',
  'gaussian',
  'lanczos3',
  'lanczos5',
  'mitchellcubic',
  'nearest',
)


# ---- Checks of every task ----


# Label smoothing and thresholds need one-hot or soft labels.
_CLASS_NUMBERS = checks.Condition(
  '`task.losses.one_hot` and `task.losses.soft_labels` are False',
  lambda _, c: not (c.task.losses.one_hot or c.task.losses.soft_labels),
)


_THRESHOLDS = 'task.evaluation.precision_and_recall_thresholds'

_EVALUATION = (
  checks.choice('task.init_checkpoint_modules', _MODULES),
  checks.at_least('task.evaluation.top_k', 1),
  checks.Check(
    'task.evaluation.report_per_class_precision_and_recall',
    lambda v, *_: not v,
    f'False, since it has no effect without {_THRESHOLDS}. Set that as well',
    when=checks.Condition(
      '`precision_and_recall_thresholds` is empty',
      lambda section, _: not section.precision_and_recall_thresholds,
    ),
  ),
  checks.Check(
    _THRESHOLDS,
    lambda v, *_: all(0 <= t <= 1 for t in v),
    'probabilities, from 0 to 1',
  ),
  checks.Check(
    _THRESHOLDS,
    lambda v, *_: not v,
    'none, since thresholds would be compared with logits. Set '
    'task.model.output_softmax to True, which affects only metrics',
    when=checks.Condition(
      '`task.model.output_softmax` is not True',
      # Not every model configuration has the field.
      lambda _, c: not getattr(c.task.model, 'output_softmax', False),
    ),
  ),
  checks.Check(
    _THRESHOLDS,
    lambda v, *_: not v,
    'none, since they have no effect on class numbers. Set '
    'task.losses.one_hot to True',
    when=_CLASS_NUMBERS,
  ),
)

_RANGES = (
  checks.fraction('task.model.norm_activation.norm_momentum'),
  checks.positive('task.model.norm_activation.norm_epsilon'),
  *(
    checks.fraction(f'task.{name}.random_erasing.{field}')
    for name in _TRAINING
    for field in ('probability', 'min_area', 'max_area')
  ),
)

_LEAST_OF_READING = dict(
  block_length=1,
  cycle_length=1,
  prefetch_buffer_size=0,
  shuffle_buffer_size=1,
)
_READING = tuple(
  checks.Check(
    f'task.{name}.{field}',
    # -1 means AUTOTUNE to tf.data.
    lambda v, *_, least=least: v >= least or v == -1,
    f'{least} or more',
    when=checks.Condition(
      'the dataset names its data', lambda data, _: checks.has_source(data)
    ),
  )
  for name in _DATASETS
  for field, least in _LEAST_OF_READING.items()
)


def _has_tfds_imagenet(classes: int, dataset: str) -> checks.Condition:
  """Holds if a dataset is TFDS's ImageNet, at a number of classes."""

  def holds(_, config):
    task = config.task
    return (
      task.model.num_classes == classes
      and task.harmonization.enabled
      and str(getattr(task, dataset).tfds_name).startswith('imagenet2012')
    )

  return checks.Condition(
    f'`task.model.num_classes` is {classes}, `task.{dataset}.tfds_name` begins '
    'with imagenet2012, and `task.harmonization.enabled` is True',
    holds,
  )


_LABEL_OFFSETS = tuple(
  row
  for dataset in _WITHOUT_MAP
  for field in [f'task.{dataset.removesuffix("_data")}_label_offset']
  for row in (
    checks.Check(
      field,
      lambda v, *_: not v,
      '0, since the stock task has no label offset. Set '
      'task.harmonization.enabled to True (and weight to 0 to train as the '
      'stock task does)',
      when=checks.Condition(
        '`task.harmonization.enabled` is False',
        lambda task, _: not task.harmonization.enabled,
      ),
    ),
    *(
      checks.Check(
        field,
        lambda v, *_, needed=needed: v == needed,
        f'{needed}: labels of TFDS imagenet2012 are 0..999, so {classes} '
        f'classes need {needed}',
        when=_has_tfds_imagenet(classes, dataset),
      )
      for classes, needed in labels.OFFSETS.items()
    ),
  )
)

TASK = _EVALUATION + _RANGES + _READING + _LABEL_OFFSETS


# ---- Checks of a task with harmonization.enabled ----


def _most_levels(task) -> int:
  """The number of pyramid levels that images of the task's size have."""
  # A level of one pixel cannot be halved.
  most = 1 + math.ceil(math.log2(min(task.model.input_size[:2])))
  if task.harmonization.standardization == 'per_level':
    most -= 1  # One pixel is always 0 after standardization.
  return max(most, 1)


_HARMONIZATION = (
  checks.choice('task.harmonization.standardization', losses.STANDARDIZATIONS),
  checks.choice('task.harmonization.normalization', losses.NORMALIZATIONS),
  checks.choice('task.harmonization.saliency', saliency_ops.REDUCTIONS),
  checks.choice('task.harmonization.saliency_target', saliency_ops.TARGETS),
  checks.choice('task.harmonization.batch_norm', saliency_ops.BATCH_NORMS),
  checks.at_least('task.harmonization.weight', 0),
  checks.at_least('task.harmonization.levels', 1),
  checks.at_least('task.harmonization.interval', 1),
  checks.Check(
    'task.harmonization.interval',
    lambda v, *_: v == 1,
    '1, since it has no effect with task.harmonization.weight 0',
    when=checks.Condition(
      '`task.harmonization.weight` is 0', lambda section, _: not section.weight
    ),
  ),
  checks.at_least('task.harmonization.warmup_steps', 0),
  checks.Check(
    'task.harmonization.ceiling',
    lambda v, *_: 0 < v <= 1,
    'a rank correlation above 0 and at most 1',
  ),
  checks.choice(
    'task.harmonization.evaluation_explainer',
    saliency_ops.EVALUATION_EXPLAINERS,
  ),
  checks.at_least('task.harmonization.explainer_samples', 1),
  checks.Check(
    'task.harmonization.mapped_fraction',
    lambda v, *_: 0 < v <= 1,
    'a number above 0 and at most 1. To train without maps, set '
    'task.harmonization.weight to 0',
  ),
  checks.Check(
    'task.model.input_size',
    lambda v, *_: (
      len(v) == 3 and v[2] == 3 and all(isinstance(n, int) and n > 0 for n in v)
    ),
    '[height, width, 3] in pixels',
  ),
  checks.at_least('task.model.num_classes', 2),
  checks.Check(
    'task.harmonization.levels',
    lambda v, _, c: v <= _most_levels(c.task),
    'at most the number of levels that are not constant at '
    'task.model.input_size',
    found=lambda v, _, c: (
      'images of {}x{} pixels'.format(*c.task.model.input_size)
      + f' have {_most_levels(c.task)}'
    ),
  ),
)

_REPORT = (
  checks.Check(
    'task.alignment_report.confidence',
    lambda v, *_: 0 < v < 1,
    'a number between 0 and 1',
  ),
  checks.at_least('task.alignment_report.resamples', 0),
  checks.at_least('task.alignment_report.panels', 0),
  checks.Check(
    'task.alignment_report.per_image',
    lambda v, *_: not v or v.endswith(('.csv', '.parquet')) and '/' not in v,
    "the name of a .csv or .parquet file in the run's folder, or '' for none",
  ),
)


def _smoothings(task) -> set[float]:
  """Label smoothings that mixup or cutmix would apply."""
  options = [getattr(task, name).mixup_and_cutmix for name in _TRAINING]
  return {o.label_smoothing for o in options if o}


_LABELS = (
  checks.Check(
    'task.train_data.is_multilabel',
    lambda v, *_: not v,
    'False, since harmonization needs one class per image',
  ),
  checks.Check(
    'task.losses.use_binary_cross_entropy',
    lambda v, *_: not v,
    'False, since harmonization needs a softmax loss',
  ),
  checks.Check(
    'task.losses.soft_labels',
    lambda v, *_: not v,
    'False with {task.losses.one_hot}. Set one of them to False',
    when=checks.Condition(
      '`task.losses.one_hot` is True', lambda losses, _: losses.one_hot
    ),
  ),
  checks.Check(
    'task.losses.label_smoothing',
    lambda v, *_: 0 <= v < 1,
    'a number from 0 to below 1',
  ),
  checks.Check(
    'task.losses.label_smoothing',
    lambda v, *_: not v,
    '0, since it has no effect on class numbers. Set task.losses.one_hot to '
    'True',
    when=_CLASS_NUMBERS,
  ),
  *(
    checks.Check(
      f'task.{name}.mixup_and_cutmix',
      lambda v, *_: not v,
      'none, since mixed labels are soft. Set task.losses.soft_labels to True '
      'and task.losses.one_hot to False',
      when=checks.Condition(
        '`task.losses.soft_labels` is False',
        lambda _, c: not c.task.losses.soft_labels,
      ),
    )
    for name in _TRAINING
  ),
  checks.Check(
    'task.mapped_data.mixup_and_cutmix.label_smoothing',
    lambda v, _, c: v == c.task.train_data.mixup_and_cutmix.label_smoothing,
    'the same as {task.train_data.mixup_and_cutmix.label_smoothing}',
    when=checks.Condition(
      '`task.train_data.mixup_and_cutmix` is set',
      lambda _, c: c.task.train_data.mixup_and_cutmix,
    ),
  ),
  checks.Check(
    'task.losses.label_smoothing',
    lambda v, _, c: v in {0, *_smoothings(c.task)},
    '0 or the label_smoothing of mixup_and_cutmix',
    found=lambda v, _, c: (
      f'mixed labels are smoothed by {min(_smoothings(c.task))}'
    ),
    when=checks.Condition(
      '`mixup_and_cutmix` of a dataset is set', lambda _, c: _smoothings(c.task)
    ),
  ),
)

_DATA_SERVICE = (
  checks.Check(
    'task.mapped_data.enable_tf_data_service',
    lambda v, *_: not v,
    'False, since it follows task.train_data. Set it there',
  ),
  *(
    checks.Check(
      f'task.{name}.enable_tf_data_service',
      lambda v, *_: not v,
      'False, since each worker of the service would return all images, and '
      'each image must count once',
    )
    for name in ('validation_data', 'mapped_validation_data')
  ),
)


def _is_clickme(classes: int) -> checks.Condition:
  """Holds for the release's records, at a number of classes."""
  return checks.Condition(
    f'`task.model.num_classes` is {classes} and `map_decoder` is clickme',
    lambda data, config: (
      data.map_decoder == 'clickme' and config.task.model.num_classes == classes
    ),
  )


def _checks_with_map(dataset: str) -> tuple[checks.Check, ...]:
  """Checks of one of the two datasets with maps."""

  def field(name: str) -> str:
    return f'task.{dataset}.{name}'

  return (
    checks.choice(field('map_decoder'), map_decoders.names()),
    checks.choice(field('blur'), _BLURS),
    checks.choice(field('map_resize'), blur.RESIZES, check_none=False),
    checks.choice(field('blur_kernel'), blur.KERNELS),
    checks.Check(
      field('blur_kernel'),
      lambda v, *_: v == 'released',
      "'released', since it has no effect when blur is 'none'",
      when=checks.Condition(
        '`blur` is none', lambda data, _: data.blur == 'none'
      ),
    ),
    checks.Check(
      field('label_offset'),
      lambda v, data, c: (
        labels.offset_with_map(data, c.task.model.num_classes) is not None
      ),
      "the number to add to the records' labels, 0 if they are the network's "
      'classes',
      check_none=True,
    ),
    *(
      checks.Check(
        field('label_offset'),
        lambda _, data, c, needed=needed: (
          labels.offset_with_map(data, c.task.model.num_classes) == needed
        ),
        f'{needed}: ClickMe labels are 0..999, so {classes} classes need '
        f'{needed}',
        when=_is_clickme(classes),
      )
      for classes, needed in labels.OFFSETS.items()
    ),
    checks.choice(field('on_bad_record'), _ON_BAD_RECORD),
    checks.Check(
      field('max_bad_records'),
      lambda v, *_: v >= 1,
      "1 or more. To allow no bad record, set on_bad_record to 'fail'",
    ),
    checks.positive(field('raw_image_max')),
    checks.Check(
      field('raw_image_max'),
      lambda v, *_: v == 255,
      '255, since the format of map_decoder is not raw',
      when=checks.Condition(
        'the format of `map_decoder` is not raw',
        lambda data, _: not map_decoders.is_raw(data.map_decoder),
      ),
    ),
    *(
      checks.Check(
        field(unsupported),
        lambda v, *_: not v,
        'no value, since images with maps do not support it',
      )
      for unsupported in (
        'repeated_augment',
        'is_multilabel',
        'tfds_name',
        'cache',
      )
    ),
    *(
      checks.Check(
        field(augmenting),
        lambda v, *_: not v,
        'no value, since it has no effect in evaluation',
        when=checks.Condition(
          '`is_training` is False', lambda data, _: not data.is_training
        ),
      )
      for augmenting in (
        'aug_type',
        'three_augment',
        'random_erasing',
        'color_jitter',
        'mixup_and_cutmix',
      )
    ),
    checks.choice(field('dtype'), _DTYPES),
    checks.choice(field('tf_resize_method'), _RESIZE_METHODS),
    checks.Check(
      field('input_path'),
      lambda v, *_: isinstance(v, (str, list, tuple)),
      'one list of files; a mixture of datasets is not supported',
    ),
    checks.Check(
      field('center_crop_fraction'),
      lambda v, *_: 0 < (v or 0) <= 1,
      'a number above 0 and at most 1',
      check_none=True,
    ),
    checks.Check(
      field('crop_area_range'),
      lambda v, *_: 0 < (v or (0, 0))[0] <= (v or (0, 0))[1] <= 1,
      'the smallest and largest fraction of the area, above 0 and at most 1',
      check_none=True,
    ),
    checks.Check(
      field('aug_type'),
      lambda v, *_: not v or not augmentation.problem(v),
      'an augmentation that can move maps with their images',
      found=lambda v, *_: augmentation.problem(v),
    ),
  )


_PAIRS = tuple(zip(_WITH_MAP, _WITHOUT_MAP))
_BOTH_DATASETS = (
  *(
    checks.Check(
      f'task.{with_map}.dtype',
      lambda v, _, c, other=without_map: v == getattr(c.task, other).dtype,
      f'the same as {{task.{without_map}.dtype}}, since both are in one batch',
      when=checks.Condition(
        'both datasets name their data',
        lambda data, c, other=without_map: (
          checks.has_source(data) and checks.has_source(getattr(c.task, other))
        ),
      ),
    )
    for with_map, without_map in _PAIRS
  ),
  *(
    checks.Check(
      f'task.{with_map}.global_batch_size',
      lambda v, _, c, other=without_map: (
        v in (0, getattr(c.task, other).global_batch_size)
      ),
      f'0, since it follows {{task.{without_map}.global_batch_size}}',
    )
    for with_map, without_map in _PAIRS
  ),
)

HARMONIZED_TASK = (
  _HARMONIZATION
  + _REPORT
  + _LABELS
  + _DATA_SERVICE
  + _checks_with_map('mapped_data')
  + _checks_with_map('mapped_validation_data')
  + _BOTH_DATASETS
)


def check(task):
  """Checks that a task can be trained and evaluated.

  Args:
    task: a `HarmonizedImageClassificationTask` configuration.

  Raises:
    ValueError: a field, or a combination of fields, is invalid. The message
      names the field, its value and what is expected.
  """
  field_types.check(task, 'task')
  checks.run(TASK, task=task)
  if task.harmonization.enabled:
    checks.run(HARMONIZED_TASK, task=task)
