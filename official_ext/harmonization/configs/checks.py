"""Checks of a harmonized task configuration, before anything is built."""

import math

from official.core import config_definitions as cfg

from official_ext.harmonization.configs import field_types
from official_ext.harmonization.dataloaders import augmentation
from official_ext.harmonization.dataloaders import labels
from official_ext.harmonization.dataloaders import registry as map_decoders
from official_ext.harmonization.losses import harmonization as losses
from official_ext.harmonization.ops import blur
from official_ext.harmonization.ops import saliency as saliency_ops

BLURS = ('before_crop', 'after_crop', 'none')
ON_BAD_RECORD = ('fail', 'skip')
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


def refuse(field: str, found, expected: str):
  """Raises a ValueError: a field, what was found in it and what to do."""
  raise ValueError(f'{field} is {found!r}: {expected}.')


def _check_choice(field: str, found, choices):
  if found not in choices:
    refuse(field, found, f'choose one of {sorted(choices)}')


def require_source(data: cfg.DataConfig, name: str):
  """Refuses a source that names no data.

  Args:
    data: the source.
    name: of its field.

  Raises:
    ValueError: it names none.
  """
  if not has_source(data):
    refuse(
      f'{name}.input_path',
      data.input_path,
      'name the files to train on (and see '
      'task.harmonization.mapped_fraction for how many images come from '
      'task.mapped_data, how many from task.train_data)',
    )


def per_replica_batch_size(
  data: cfg.DataConfig, name: str, replicas: int
) -> int:
  """Divides a batch among replicas.

  Args:
    data: the source that says how large it is.
    name: of its field.
    replicas: how many share it.

  Returns:
    The images of a replica.

  Raises:
    ValueError: they would not all have the same number, or none.
  """
  size = data.global_batch_size
  if size < 1 or size % replicas:
    refuse(
      f'{name}.global_batch_size',
      size,
      f'it must be a multiple of the {replicas} replicas, and more than 0',
    )
  return size // replicas


def has_source(data: cfg.DataConfig) -> bool:
  """Whether a data configuration names any data."""
  return bool(data.input_path or data.tfds_name)


def _check_harmonization(h):
  """Checks the values of one `Harmonization`."""
  name = 'task.harmonization.'
  _check_choice(
    name + 'standardization', h.standardization, losses.STANDARDIZATIONS
  )
  _check_choice(name + 'normalization', h.normalization, losses.NORMALIZATIONS)
  _check_choice(name + 'saliency', h.saliency, saliency_ops.REDUCTIONS)
  _check_choice(
    name + 'saliency_target', h.saliency_target, saliency_ops.TARGETS
  )
  _check_choice(name + 'batch_norm', h.batch_norm, saliency_ops.BATCH_NORMS)
  if h.weight < 0:
    refuse(name + 'weight', h.weight, 'it must be 0 or more')
  if h.levels < 1:
    refuse(name + 'levels', h.levels, 'it must be 1 or more')
  if h.interval < 1:
    refuse(name + 'interval', h.interval, 'it must be 1 or more')
  if h.interval > 1 and not h.weight:
    refuse(
      name + 'interval',
      h.interval,
      f'it has no effect with {name}weight 0, set it to 1',
    )
  if h.warmup_steps < 0:
    refuse(name + 'warmup_steps', h.warmup_steps, 'it must be 0 or more')
  if h.ceiling is not None and not 0 < h.ceiling <= 1:
    refuse(
      name + 'ceiling',
      h.ceiling,
      'it must be a rank correlation, more than 0 and at most 1',
    )
  if not 0 < h.mapped_fraction <= 1:
    refuse(
      name + 'mapped_fraction',
      h.mapped_fraction,
      'it must be more than 0 and at most 1; to train without maps set '
      'task.harmonization.weight to 0',
    )


def _check_model(task):
  """Checks that the network takes images, and that the pyramid fits them."""
  size = list(task.model.input_size)
  if (
    len(size) != 3
    or size[2] != 3
    or not all(isinstance(n, int) and n > 0 for n in size)
  ):
    refuse('task.model.input_size', size, 'give [height, width, 3] in pixels')
  if task.model.num_classes < 2:
    refuse(
      'task.model.num_classes', task.model.num_classes, 'it must be 2 or more'
    )
  levels = task.harmonization.levels
  # The last level but one must have something to be made smaller.
  most = 1 + math.ceil(math.log2(min(size[:2])))
  if task.harmonization.standardization == 'per_level':
    most -= 1  # One pixel, standardized, is 0 whatever it was.
  if levels > max(most, 1):
    refuse(
      'task.harmonization.levels',
      levels,
      f'images of {size[0]}x{size[1]} pixels (task.model.input_size) '
      f'have {max(most, 1)} that say something, set it to that or less',
    )


def _check_report(report):
  """Checks what an evaluation is asked to tell."""
  name = 'task.alignment_report.'
  if not 0 < report.confidence < 1:
    refuse(name + 'confidence', report.confidence, 'it must be between 0 and 1')
  for field in ('resamples', 'panels'):
    if getattr(report, field) < 0:
      refuse(name + field, getattr(report, field), 'it must be 0 or more')
  file = report.per_image
  if file and (not file.endswith(('.csv', '.parquet')) or '/' in file):
    refuse(
      name + 'per_image',
      file,
      'give the name of a .csv or .parquet '
      "file in the run's folder, or '' for none",
    )


def _check_mapped_data(task, name: str):
  """Checks one of the two mapped sources."""
  data = getattr(task, name)
  name = f'task.{name}.'
  _check_choice(name + 'map_decoder', data.map_decoder, map_decoders.names())
  _check_choice(name + 'blur', data.blur, BLURS)
  if data.map_resize is not None:
    _check_choice(name + 'map_resize', data.map_resize, blur.RESIZES)
  _check_choice(name + 'blur_kernel', data.blur_kernel, blur.KERNELS)
  if data.blur == 'none' and data.blur_kernel != 'released':
    refuse(
      name + 'blur_kernel',
      data.blur_kernel,
      f'it has no effect with {name}blur none, leave it at released',
    )
  offset = labels.mapped_offset(data, task.model.num_classes)
  if offset is None:
    refuse(
      name + 'label_offset',
      None,
      'say what to add to the labels of the records, 0 if they are the '
      "network's own classes",
    )
  expected = labels.OFFSETS.get(task.model.num_classes)
  if data.map_decoder == 'clickme' and expected not in (None, offset):
    refuse(
      name + 'label_offset',
      data.label_offset,
      f'ClickMe labels are 0..999, so {task.model.num_classes} classes '
      f'need {expected}',
    )
  _check_choice(name + 'on_bad_record', data.on_bad_record, ON_BAD_RECORD)
  if data.max_bad_records < 1:
    refuse(
      name + 'max_bad_records',
      data.max_bad_records,
      'it must be 1 or more; to let none pass set on_bad_record to fail',
    )
  if data.raw_image_max <= 0:
    refuse(name + 'raw_image_max', data.raw_image_max, 'it must be more than 0')
  if data.raw_image_max != 255 and not map_decoders.is_raw(data.map_decoder):
    refuse(
      name + 'raw_image_max',
      data.raw_image_max,
      f'the format {data.map_decoder} is not raw, leave it at 255',
    )
  for field in ('repeated_augment', 'is_multilabel', 'tfds_name', 'cache'):
    if getattr(data, field):
      refuse(
        name + field,
        getattr(data, field),
        'images with maps do not support it, leave it unset',
      )
  for field in (
    'aug_type',
    'three_augment',
    'random_erasing',
    'color_jitter',
    'mixup_and_cutmix',
  ):
    if getattr(data, field) and not data.is_training:
      refuse(
        name + field,
        getattr(data, field),
        'it has no effect in evaluation, leave it unset',
      )
  _check_choice(name + 'dtype', data.dtype, _DTYPES)
  _check_choice(
    name + 'tf_resize_method', data.tf_resize_method, _RESIZE_METHODS
  )
  if not isinstance(data.input_path, (str, list, tuple)):
    refuse(
      name + 'input_path',
      data.input_path.as_dict(),
      'images with maps come from one list of files, not from a mixture',
    )
  _check_crop(data, name)
  if data.aug_type:
    problem = augmentation.problem(data.aug_type)
    if problem:
      refuse(name + 'aug_type', data.aug_type.as_dict(), problem)


def _check_crop(data, name: str):
  """Checks how much of an image is shown."""
  if not 0 < (data.center_crop_fraction or 0) <= 1:
    refuse(
      name + 'center_crop_fraction',
      data.center_crop_fraction,
      'it must be more than 0 and at most 1',
    )
  low, high = data.crop_area_range or (0, 0)
  if not 0 < low <= high <= 1:
    refuse(
      name + 'crop_area_range',
      data.crop_area_range,
      'give the smallest and the largest part of the area, more than 0 '
      'and at most 1',
    )


def _check_dtypes(task):
  """Checks that both sources of a batch give images of the same dtype."""
  for mapped, plain in (
    ('mapped_data', 'train_data'),
    ('mapped_validation_data', 'validation_data'),
  ):
    found, other = (getattr(task, n) for n in (mapped, plain))
    if has_source(found) and has_source(other) and found.dtype != other.dtype:
      refuse(
        f'task.{mapped}.dtype',
        found.dtype,
        f'set it to {other.dtype}, that of task.{plain}',
      )


def _check_data_service(task):
  """Checks which sources are read by a tf.data service."""
  if task.mapped_data.enable_tf_data_service:
    refuse(
      'task.mapped_data.enable_tf_data_service',
      True,
      'it follows task.train_data, set it there',
    )
  for name in ('validation_data', 'mapped_validation_data'):
    if getattr(task, name).enable_tf_data_service:
      refuse(
        f'task.{name}.enable_tf_data_service',
        True,
        'every worker of the service would give every image, and each '
        'has to count once: leave it unset',
      )


def _check_plain_offsets(task):
  """Checks the label offsets of the two sources without maps."""
  classes = task.model.num_classes
  expected = labels.OFFSETS.get(classes)
  for source, name in (
    ('train_data', 'train_label_offset'),
    ('validation_data', 'validation_label_offset'),
  ):
    offset, data = getattr(task, name), getattr(task, source)
    if offset and not task.harmonization.enabled:
      refuse(
        f'task.{name}',
        offset,
        'the stock task knows no offset, set task.harmonization.enabled '
        'to True (and weight to 0 to train as the stock task does)',
      )
    if (
      task.harmonization.enabled
      and str(data.tfds_name).startswith('imagenet2012')
      and expected not in (None, offset)
    ):
      refuse(
        f'task.{name}',
        offset,
        f'labels of TFDS imagenet2012 are 0..999, so {classes} classes '
        f'need {expected}',
      )


def _check_labels(task):
  """Checks that labels, losses and mixing fit together."""
  if task.train_data.is_multilabel:
    refuse(
      'task.train_data.is_multilabel',
      True,
      'harmonization needs one class per image',
    )
  if task.losses.use_binary_cross_entropy:
    refuse(
      'task.losses.use_binary_cross_entropy',
      True,
      'harmonization needs a softmax loss',
    )
  if task.losses.one_hot and task.losses.soft_labels:
    refuse(
      'task.losses.soft_labels',
      True,
      'set task.losses.one_hot to False beside it',
    )
  if not 0 <= task.losses.label_smoothing < 1:
    refuse(
      'task.losses.label_smoothing',
      task.losses.label_smoothing,
      'it must be 0 or more and less than 1',
    )
  if task.losses.label_smoothing and not (
    task.losses.one_hot or task.losses.soft_labels
  ):
    refuse(
      'task.losses.label_smoothing',
      task.losses.label_smoothing,
      'it has no effect on class numbers, set task.losses.one_hot to True',
    )
  smoothings = set()
  for name in ('train_data', 'mapped_data'):
    mixing = getattr(task, name).mixup_and_cutmix
    if mixing and not task.losses.soft_labels:
      refuse(
        f'task.{name}.mixup_and_cutmix',
        mixing.as_dict(),
        'mixed labels are soft: set task.losses.soft_labels to True and '
        'task.losses.one_hot to False',
      )
    if mixing:
      smoothings.add(mixing.label_smoothing)
  if len(smoothings) > 1:
    refuse(
      'task.mapped_data.mixup_and_cutmix.label_smoothing',
      task.mapped_data.mixup_and_cutmix.label_smoothing,
      'it must equal that of task.train_data.mixup_and_cutmix',
    )
  if smoothings and task.losses.label_smoothing not in (0, *smoothings):
    refuse(
      'task.losses.label_smoothing',
      task.losses.label_smoothing,
      f'mixed labels are smoothed by {smoothings.pop()} '
      '(mixup_and_cutmix.label_smoothing), set it to that or to 0',
    )


def _check_evaluation(task):
  """Checks what evaluations report beside accuracy."""
  evaluation = task.evaluation
  if evaluation.top_k < 1:
    refuse('task.evaluation.top_k', evaluation.top_k, 'it must be 1 or more')
  name = 'task.evaluation.precision_and_recall_thresholds'
  thresholds = evaluation.precision_and_recall_thresholds
  if not thresholds:
    if evaluation.report_per_class_precision_and_recall:
      refuse(
        'task.evaluation.report_per_class_precision_and_recall',
        True,
        f'it has no effect without {name}, set that too',
      )
    return
  if not all(0 <= t <= 1 for t in thresholds):
    refuse(name, thresholds, 'they are probabilities, from 0 to 1')
  if not getattr(task.model, 'output_softmax', False):
    refuse(
      name,
      thresholds,
      'they would be compared with logits, set '
      'task.model.output_softmax to True, which only metrics follow',
    )
  if not (task.losses.one_hot or task.losses.soft_labels):
    refuse(
      name,
      thresholds,
      'they have no effect on class numbers, set task.losses.one_hot to True',
    )


def _check_ranges(task):
  """Checks numbers that Model Garden takes whatever they are."""
  norm = task.model.norm_activation
  ranges = {'model.norm_activation.norm_momentum': norm.norm_momentum}
  for name in ('train_data', 'mapped_data'):
    erasing = getattr(task, name).random_erasing
    if erasing:
      ranges.update(
        {
          f'{name}.random_erasing.{field}': getattr(erasing, field)
          for field in ('probability', 'min_area', 'max_area')
        }
      )
  for field, value in ranges.items():
    if not 0 <= value <= 1:
      refuse(f'task.{field}', value, 'it must be from 0 to 1')
  if norm.norm_epsilon <= 0:
    refuse(
      'task.model.norm_activation.norm_epsilon',
      norm.norm_epsilon,
      'it must be more than 0',
    )


def _check_reading(task):
  """Checks how records are read, where there are any."""
  least = dict(
    block_length=1,
    cycle_length=1,
    prefetch_buffer_size=0,
    shuffle_buffer_size=1,
  )
  for name in (
    'train_data',
    'mapped_data',
    'validation_data',
    'mapped_validation_data',
  ):
    data = getattr(task, name)
    if not has_source(data):
      continue
    for field, lowest in least.items():
      found = getattr(data, field)
      # -1 is AUTOTUNE to tf.data.
      if found is not None and found < lowest and found != -1:
        refuse(f'task.{name}.{field}', found, f'it must be {lowest} or more')


def check_batch_sizes(task):
  """Checks that batches hold images, which some experiments leave to the user.

  Args:
    task: a `HarmonizedImageClassificationTask` configuration.

  Raises:
    ValueError: a batch of a source that is read would hold none.
  """
  for name, mapped in (
    ('train_data', 'mapped_data'),
    ('validation_data', 'mapped_validation_data'),
  ):
    size = getattr(task, name).global_batch_size
    if size < 1 and any(has_source(getattr(task, n)) for n in (name, mapped)):
      refuse(f'task.{name}.global_batch_size', size, 'it must be 1 or more')


def check(task):
  """Checks that an enabled task configuration can be trained and evaluated.

  Args:
    task: a `HarmonizedImageClassificationTask` configuration.

  Raises:
    ValueError: a field, or a combination of fields, cannot work. The message
      names the field, what was found and what to do.
  """
  field_types.check(task, 'task')
  if task.init_checkpoint_modules not in _MODULES:
    refuse(
      'task.init_checkpoint_modules',
      task.init_checkpoint_modules,
      f'choose one of {list(_MODULES)}',
    )
  _check_evaluation(task)
  _check_ranges(task)
  _check_reading(task)
  _check_plain_offsets(task)
  if not task.harmonization.enabled:
    return
  _check_harmonization(task.harmonization)
  _check_model(task)
  _check_report(task.alignment_report)
  _check_labels(task)
  _check_data_service(task)
  _check_mapped_data(task, 'mapped_data')
  _check_mapped_data(task, 'mapped_validation_data')
  _check_dtypes(task)
  for mapped, plain in (
    ('mapped_data', 'train_data'),
    ('mapped_validation_data', 'validation_data'),
  ):
    batch_size = getattr(task, plain).global_batch_size
    if getattr(task, mapped).global_batch_size not in (0, batch_size):
      refuse(
        f'task.{mapped}.global_batch_size',
        getattr(task, mapped).global_batch_size,
        f'leave it 0, it follows task.{plain} ({batch_size})',
      )
