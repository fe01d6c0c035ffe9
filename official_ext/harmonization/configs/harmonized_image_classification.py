# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Configuration of harmonized image classification.

`Harmonization` sets how a network is harmonized, `MappedDataConfig` describes
images with human maps, and `harmonize` turns any stock image-classification
experiment into one that has both.
"""

import dataclasses
import inspect
from typing import Any

from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.vision.configs import backbones as stock_backbones
from official.vision.configs import image_classification as stock

import gin
from official_ext.harmonization.configs import backbones

# "Average inter-rater alignment" of the ClickMe release: the mean Spearman
# correlation between people.
CLICKME_CEILING = 0.6575315343478081

# Fields that change a training image. A converted experiment treats images
# with a map as it treats those without.
_AUGMENTATION = (
  'aug_rand_hflip',
  'aug_crop',
  'aug_type',
  'three_augment',
  'color_jitter',
  'random_erasing',
  'mixup_and_cutmix',
  'tf_resize_method',
  'dtype',
)


@dataclasses.dataclass
class Harmonization(hyperparams.Config):
  """How a network is harmonized.

  Attributes:
    enabled: whether the task differs from the stock task at all.
    weight: factor of the harmonization loss (lambda_1 in the paper). With 0 the
      network trains as under the stock task, and alignment is still evaluated.
    levels: number of pyramid levels that the loss compares.
    standardization: 'before_pyramid' (released code) or 'per_level' (the
      paper's equation).
    normalization: 'batch' divides the loss by the batch size (released code);
      'mapped' divides it by the number of images with a map.
    saliency: how the gradient's colour channels are reduced to one map in
      training: 'signed_mean' (released code), 'abs_mean' or 'abs_max'.
    saliency_target: the score that is differentiated: 'logit' (released code),
      'centered_logit' or 'log_probability'.
    batch_norm: which batch statistics the saliency pass uses: 'batch' (released
      code), 'mapped' or 'inference'; see `ops.saliency.training_maps`. The
      three agree for networks without batch normalization and dropout; 'batch'
      and 'mapped' also agree when every image has a map.
    mapped_fraction: fraction of each training batch that comes from
      `task.mapped_data`; the rest comes from `task.train_data`.
    interval: the loss is computed every `interval` steps, with its weight
      multiplied by `interval` (lazy regularization).
    warmup_steps: the weight grows linearly from 0 over this many first steps.
    ceiling: the human score that `alignment` is divided by. None means the
      ceiling of the ClickMe release if `task.mapped_validation_data` is
      recognized as the release (see `data.records.clickme_release`), and 1, the
      raw score, for all other records.
    evaluation_explainer: the map that every alignment score of an evaluation
      refers to: 'gradient', the release's evaluation map, or
      'smoothgrad_squared' (see `ops.saliency.smoothgrad_squared`). The training
      map is set by `saliency`.
    explainer_samples: number of noisy copies of each image whose gradients
      'smoothgrad_squared' averages. One gradient has no samples.
  """

  enabled: bool = False
  weight: float = 1.0
  levels: int = 5
  standardization: str = 'before_pyramid'
  normalization: str = 'batch'
  saliency: str = 'signed_mean'
  saliency_target: str = 'logit'
  batch_norm: str = 'mapped'
  mapped_fraction: float = 1.0
  interval: int = 1
  warmup_steps: int = 0
  ceiling: float | None = None
  evaluation_explainer: str = 'gradient'
  explainer_samples: int = 25


@dataclasses.dataclass
class MappedDataConfig(stock.DataConfig):
  """A dataset of images with human maps.

  Attributes:
    map_decoder: the records' format: 'clickme' (the release), 'clickme_2018'
      (the archive of 2018), 'clickme_per_category' (clickme_test_1000) or
      'canonical' (Model Garden's ImageNet fields and a map, which is optional
      in training).
    label_offset: added to a record's label to give the network's class. None
      works for 'clickme' with ImageNet's 1000 or 1001 classes; all other
      combinations need a number.
    raw_image_max: the pixel value of white, 255 or 1, in the raw formats
      'clickme_2018' and 'clickme_per_category', which do not record it.
    on_bad_record: 'fail' stops at a record that cannot be used; 'skip' excludes
      it and counts it as `bad_records` in the logs (summed over replicas since
      the last log; a record that is read again is counted again). In both
      cases a label out of range or a damaged file (a CRC error) stops the run.
    max_bad_records: how many different records each worker may skip.
    blur: when the map is blurred as in the release: 'before_crop',
      'after_crop' or 'none'.
    map_resize: how a map is resized to the 64x64 cells that are blurred:
      'released' samples few of its pixels, so that single fixations vanish;
      'antialias' averages over all pixels. None means 'antialias' for
      'canonical' and 'released' for the other formats.
    blur_kernel: 'released', which shifts maps by (-1.6, -1.9) of 224 pixels (y,
      x), or 'centred'.
    min_max: whether the map is finally scaled to [0, 1].
    global_batch_size: 0 means that of `task.train_data` or
      `task.validation_data`. In training, the settings of the tf.data service
      are those of `task.train_data` too.
  """

  map_decoder: str = 'clickme'
  label_offset: int | None = None
  raw_image_max: float = 255.0
  on_bad_record: str = 'fail'
  max_bad_records: int = 100
  blur: str = 'after_crop'
  map_resize: str | None = None
  blur_kernel: str = 'released'
  min_max: bool = True


@dataclasses.dataclass
class AlignmentReport(hyperparams.Config):
  """What an evaluation reports about alignment besides mean scores.

  Attributes:
    confidence: level of the intervals in the logs, from a bootstrap over
      images.
    resamples: number of bootstrap resamples; 0 turns the intervals off.
    per_image: name of the file of per-image scores in the run's folder, ending
      in .csv or .parquet; '' for none. Each evaluation replaces it.
    panels: how many of the first images with a map are drawn, with their human
      and model maps, in alignment_panels.png in the run's folder and, with
      Model Garden's `task.allow_image_summary`, in TensorBoard. 0 for none.
  """

  confidence: float = 0.95
  resamples: int = 1000
  per_image: str = 'alignment_per_image.csv'
  panels: int = 6


@dataclasses.dataclass
class HarmonizedImageClassificationTask(stock.ImageClassificationTask):
  """The stock task's configuration with harmonization added.

  `train_data` is the dataset without maps (unused if mapped_fraction is 1), and
  `accuracy` is measured on `validation_data`. Either of the two validation
  datasets may be left empty. The defaults of `mapped_validation_data` are those
  of the release: the whole image and the blurred map, without min-max scaling.

  Attributes:
    model: the stock model, with a backbone of Model Garden's or of
      `configs.backbones`.
    harmonization: how the network is harmonized.
    alignment_report: what an evaluation reports besides mean scores.
    mapped_data: training images with maps.
    mapped_validation_data: images on which alignment is measured; each needs a
      map.
    train_label_offset: added to the labels of `train_data`: 1 maps 0..999
      (TFDS imagenet2012) to ImageNet's 1001 classes, -1 maps 1..1000 (Model
      Garden's records) to 1000 classes.
    validation_label_offset: the same for `validation_data`.
  """

  model: stock.ImageClassificationModel = dataclasses.field(
    default_factory=lambda: stock.ImageClassificationModel(
      backbone=backbones.Backbone(type='resnet')
    )
  )
  harmonization: Harmonization = dataclasses.field(
    default_factory=Harmonization
  )
  alignment_report: AlignmentReport = dataclasses.field(
    default_factory=AlignmentReport
  )
  mapped_data: MappedDataConfig = dataclasses.field(
    default_factory=lambda: MappedDataConfig(is_training=True)
  )
  mapped_validation_data: MappedDataConfig = dataclasses.field(
    default_factory=lambda: MappedDataConfig(
      is_training=False, aug_crop=False, min_max=False
    )
  )
  train_label_offset: int = 0
  validation_label_offset: int = 0


def label_smoothing(task: HarmonizedImageClassificationTask) -> float:
  """Returns the label smoothing of the cross-entropy on soft labels."""
  for data in (task.mapped_data, task.train_data):
    if data.mixup_and_cutmix:
      return data.mixup_and_cutmix.label_smoothing
  return task.losses.label_smoothing


def _fields(config: hyperparams.Config) -> dict[str, Any]:
  return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def convert(config: cfg.ExperimentConfig) -> cfg.ExperimentConfig:
  """Gives a stock experiment the harmonization settings, still disabled.

  Args:
    config: an experiment whose task configuration is exactly the stock one, or
      has been converted before. It is changed in place.

  Returns:
    `config` with a `HarmonizedImageClassificationTask`. If it had the stock
    task, `task.mapped_data` gets the augmentation of `task.train_data`, and
    the model can have a backbone of `configs.backbones`.

  Raises:
    ValueError: the task is not the stock image-classification task.
  """
  task = config.task
  if type(task) is HarmonizedImageClassificationTask:
    return config
  if type(task) is not stock.ImageClassificationTask:
    raise ValueError(
      f"The experiment's task is {type(task).__module__}."
      f'{type(task).__qualname__}; expected the stock image-classification '
      f'task, {stock.ImageClassificationTask.__module__}.'
      f'{stock.ImageClassificationTask.__qualname__}. A subclass cannot be '
      'harmonized, because its fields may have another meaning.'
    )
  mapped_data = MappedDataConfig(
    is_training=True,
    **{name: getattr(task.train_data, name) for name in _AUGMENTATION},
  )
  converted = HarmonizedImageClassificationTask(
    mapped_data=mapped_data, **_fields(task)
  )
  if type(task.model.backbone) is stock_backbones.Backbone:
    converted.model.backbone = backbones.Backbone(
      **_fields(task.model.backbone)
    )
  config.task = converted
  return config


def _settings() -> dict[str, tuple[str, ...]]:
  """Arguments of `harmonize`, and the fields that each of them sets."""
  stock_fields = {f.name for f in dataclasses.fields(stock.DataConfig)}
  of_maps = [
    f.name
    for f in dataclasses.fields(MappedDataConfig)
    if f.name not in stock_fields
  ]
  return {
    **{
      f.name: (f'task.harmonization.{f.name}',)
      for f in dataclasses.fields(Harmonization)
    },
    'input_path': ('task.mapped_data.input_path',),
    'validation_input_path': ('task.mapped_validation_data.input_path',),
    **{
      name: (f'task.mapped_data.{name}', f'task.mapped_validation_data.{name}')
      for name in of_maps
    },
  }


SETTINGS = _settings()


def harmonize(
  config: cfg.ExperimentConfig, **settings: Any
) -> cfg.ExperimentConfig:
  """Converts an experiment and applies the settings that gin binds.

  This is the one function that gin configures. Its arguments are the fields of
  `Harmonization` and those that `MappedDataConfig` adds to the stock
  configuration (set on both datasets with maps), `input_path` and
  `validation_input_path`:

    harmonize.weight = 10
    harmonize.input_path = 'clickme/train/*.tfrecords'

  Callers pass only the experiment, since an argument that is passed takes
  precedence over gin. To work with gin under Model Garden's own driver, a
  registered experiment ends with `return harmonize(config)`; this project's
  drivers call it themselves.

  Args:
    config: as for `convert`. It is changed in place.
    **settings: keys of `SETTINGS`; None keeps the experiment's value.

  Returns:
    `config`, converted.

  Raises:
    ValueError: as `convert`.
  """
  convert(config)
  for name, value in settings.items():
    if value is None:
      continue
    for path in SETTINGS[name]:
      section, _, field = path.removeprefix('task.').partition('.')
      getattr(config.task, section).override({field: value})
  if config.task.harmonization.enabled:
    # Every image of both validation datasets counts.
    config.trainer.validation_steps = -1
  return config


# gin reads the names that it accepts from the signature. With this one it
# refuses unknown names although the function takes **settings.
harmonize.__signature__ = inspect.Signature(
  [
    inspect.Parameter('config', inspect.Parameter.POSITIONAL_OR_KEYWORD),
    *(
      inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None
      )
      for name in SETTINGS
    ),
  ]
)
# gin's decorator is declared to return more than functions.
harmonize = gin.configurable(harmonize)  # pyright: ignore[reportAssignmentType]


def bindings() -> dict[str, Any]:
  """Returns the settings of `harmonize` that gin binds, macros unresolved."""
  bound = gin.get_bindings(harmonize, resolve_references=False)
  return {name: bound[name] for name in SETTINGS if name in bound}


def idle_bindings(config: cfg.ExperimentConfig) -> list[str]:
  """Returns the `harmonize.*` bindings that have no effect on an experiment.

  Args:
    config: the final experiment, after all overrides.

  Returns:
    All bindings but `harmonize.enabled` if the experiment is not harmonized;
    otherwise an empty list.
  """
  if config.task.harmonization.enabled:
    return []
  return [f'harmonize.{name}' for name in bindings() if name != 'enabled']
