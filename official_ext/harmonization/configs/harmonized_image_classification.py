"""Configuration of harmonized image classification.

`Harmonization` says how a network is harmonized, `MappedDataConfig` where human
maps come from, and `harmonize` turns any stock image-classification experiment
into one that knows both.
"""

import dataclasses
from typing import Any

from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.vision.configs import backbones as stock_backbones
from official.vision.configs import image_classification as stock

import gin
from official_ext.harmonization.configs import backbones

# "Average inter-rater alignment" of the ClickMe release: the mean Spearman
# correlation that counts as human.
CLICKME_CEILING = 0.6575315343478081

# Fields of both mapped sources that `harmonize` sets.
_MAPPED = ('map_decoder', 'label_offset', 'map_resize', 'blur_kernel')
# What changes a training image: images with a map are changed as those without.
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
    enabled: whether anything differs from the stock task at all.
    weight: factor of the harmonization loss (lambda_1 of the paper). 0 trains
      as the stock task does, and still evaluates alignment.
    levels: levels of the pyramid that the loss compares.
    standardization: 'before_pyramid' (the released code) or 'per_level' (the
      paper's equation).
    normalization: 'batch' divides by the batch size, as released, 'mapped' by
      the number of images with a map.
    saliency: how colour channels of the gradient are reduced in training:
      'signed_mean' (released), 'abs_mean' or 'abs_max'.
    saliency_target: what is differentiated: 'logit' (released),
      'centered_logit' or 'log_probability'.
    batch_norm: how the saliency pass treats batch statistics: 'batch'
      (released), 'mapped' or 'inference'; see `ops.saliency.training_maps`. All
      three are the same to a network without batch normalization and dropout,
      the first two also where every image is mapped.
    mapped_fraction: the part of every training batch that comes from
      `task.mapped_data`; the rest comes from `task.train_data`.
    interval: the loss is taken every so many steps, with the weight multiplied
      by as many (lazy regularization).
    warmup_steps: the weight grows linearly from 0 over these first steps.
    ceiling: human score that `alignment` is divided by. None takes that of the
      ClickMe release where `task.mapped_validation_data` is recognized as such
      (see `data.records.clickme_release`), and 1, the raw score, for all other
      records.
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


@dataclasses.dataclass
class MappedDataConfig(stock.DataConfig):
  """A source of images with human maps.

  Attributes:
    map_decoder: the records' format: 'clickme' (the release), 'clickme_2018'
      (the archive of 2018), 'clickme_per_category' (clickme_test_1000) or
      'canonical' (Model Garden's ImageNet fields and a map, which may be left
      out in training).
    label_offset: added to a record's label to give the network's class. None
      is right for 'clickme' on ImageNet's 1000 or 1001 classes; anything else
      needs a number.
    raw_image_max: the value of white where a format's pixels are raw, which
      'clickme_2018' and 'clickme_per_category' do not say: 255 or 1.
    on_bad_record: 'fail' stops at a record that cannot be used, 'skip' leaves
      it out and counts it as `bad_records` in the logs (of all replicas, since
      the last log; one met again is counted again). Either way a label outside
      the range or a damaged file (a CRC error) stops the run.
    max_bad_records: how many different records every worker may skip.
    blur: when the map is blurred as in the release: 'before_crop',
      'after_crop' or 'none'.
    map_resize: how a map comes to the 64x64 cells that are blurred: 'released'
      samples few of its pixels, so that single fixations vanish; 'antialias'
      averages over all. None is 'antialias' for 'canonical', else 'released'.
    blur_kernel: 'released', which moves maps by (-1.6, -1.9) of 224 pixels (y,
      x), or 'centred'.
    min_max: whether a map is scaled to [0, 1] at the end.
    global_batch_size: 0 follows `task.train_data` or `task.validation_data`;
      so does the tf.data service in training.
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
  """What an evaluation tells of alignment beside its mean scores.

  Attributes:
    confidence: of the intervals in the logs, a bootstrap over images.
    resamples: of that bootstrap; 0 leaves the intervals out.
    per_image: the file of the scores of every image, in the run's folder: one
      that ends in .csv or .parquet, '' for none. Each evaluation replaces it.
    panels: how many of the first mapped images are drawn, with their human and
      model maps, as alignment_panels.png in the run's folder and, with the
      host's `task.allow_image_summary`, for TensorBoard. 0 for none.
  """

  confidence: float = 0.95
  resamples: int = 1000
  per_image: str = 'alignment_per_image.csv'
  panels: int = 6


@dataclasses.dataclass
class HarmonizedImageClassificationTask(stock.ImageClassificationTask):
  """The stock task's configuration, and what harmonization adds.

  `train_data` is the stream without maps (unused at mapped_fraction 1) and
  `validation_data` the one that `accuracy` is measured on; either of the two
  validation sources may be left out. The defaults of `mapped_validation_data`
  are the release's: the whole image, the blurred map, no min-max.

  Attributes:
    model: the stock model, its backbone one of the host's or of
      `configs.backbones`.
    harmonization: how the network is harmonized.
    alignment_report: what an evaluation tells beside its mean scores.
    mapped_data: images with maps to train on.
    mapped_validation_data: images with maps to measure alignment on; every one
      needs its map.
    train_label_offset: added to the labels of `train_data`: 1 takes 0..999
      (TFDS imagenet2012) to ImageNet's 1001 classes, -1 takes 1..1000 (Model
      Garden's records) to 1000 classes.
    validation_label_offset: as that, of `validation_data`.
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
  """The label smoothing of the cross-entropy where labels are soft."""
  for data in (task.mapped_data, task.train_data):
    if data.mixup_and_cutmix:
      return data.mixup_and_cutmix.label_smoothing
  return task.losses.label_smoothing


def _fields(config: hyperparams.Config):
  """The fields of a configuration, by name."""
  return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def _with_harmonization(
  config: cfg.ExperimentConfig,
) -> HarmonizedImageClassificationTask:
  """The experiment's task configuration as one that can be harmonized."""
  task = config.task
  if type(task) is HarmonizedImageClassificationTask:
    return task
  if type(task) is not stock.ImageClassificationTask:
    raise ValueError(
      f"The experiment's task is {type(task).__module__}."
      f'{type(task).__qualname__}: only the stock image-classification task '
      f'({stock.ImageClassificationTask.__module__}.'
      f'{stock.ImageClassificationTask.__qualname__}) can be harmonized. A '
      'subclass may mean something else by its fields.'
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
  return converted


@gin.configurable
def harmonize(
  config: cfg.ExperimentConfig,
  enabled: bool | None = None,
  weight: float | None = None,
  levels: int | None = None,
  standardization: str | None = None,
  normalization: str | None = None,
  saliency: str | None = None,
  saliency_target: str | None = None,
  batch_norm: str | None = None,
  mapped_fraction: float | None = None,
  interval: int | None = None,
  warmup_steps: int | None = None,
  ceiling: float | None = None,
  input_path: str | None = None,
  validation_input_path: str | None = None,
  map_decoder: str | None = None,
  label_offset: int | None = None,
  map_resize: str | None = None,
  blur_kernel: str | None = None,
) -> cfg.ExperimentConfig:
  """Gives an image-classification experiment its harmonization option.

  This is the one function that gin binds (`harmonize.weight = 10`). Callers
  pass the experiment alone: an argument that is passed would win over gin.
  Arguments left None keep what the experiment has set.

  Args:
    config: an experiment whose task configuration is exactly the stock one, or
      one that came from here. It is changed in place.
    enabled: see `Harmonization`, as for the next eleven.
    weight: see `Harmonization`.
    levels: see `Harmonization`.
    standardization: see `Harmonization`.
    normalization: see `Harmonization`.
    saliency: see `Harmonization`.
    saliency_target: see `Harmonization`.
    batch_norm: see `Harmonization`.
    mapped_fraction: see `Harmonization`.
    interval: see `Harmonization`.
    warmup_steps: see `Harmonization`.
    ceiling: see `Harmonization`.
    input_path: of `task.mapped_data`.
    validation_input_path: of `task.mapped_validation_data`.
    map_decoder: of both mapped sources.
    label_offset: of both mapped sources.
    map_resize: of both mapped sources.
    blur_kernel: of both mapped sources.

  Returns:
    `config`, its task a `HarmonizedImageClassificationTask`. One that was the
    stock task before has the augmentation of `task.train_data` in
    `task.mapped_data` too, and may have a backbone of `configs.backbones`.

  Raises:
    ValueError: the experiment's task is not the stock image-classification one.
  """
  given = {k: v for k, v in locals().items() if k != 'config' and v is not None}
  task = _with_harmonization(config)
  config.task = task
  task = config.task  # The assignment copies.
  sources = (task.mapped_data, task.mapped_validation_data)
  for data, key in zip(sources, ('input_path', 'validation_input_path')):
    if key in given:
      data.input_path = given.pop(key)
  of_sources = {k: given.pop(k) for k in _MAPPED if k in given}
  for data in sources:
    data.override(of_sources)
  task.harmonization.override(given)
  if task.harmonization.enabled:
    # Every image of both validation sources counts.
    config.trainer.validation_steps = -1
  return config


# The parameters of `harmonize` and the fields that they set.
BOUND = {
  **{
    f.name: (f'task.harmonization.{f.name}',)
    for f in dataclasses.fields(Harmonization)
  },
  'input_path': ('task.mapped_data.input_path',),
  'validation_input_path': ('task.mapped_validation_data.input_path',),
  **{
    name: (f'task.mapped_data.{name}', f'task.mapped_validation_data.{name}')
    for name in _MAPPED
  },
}


def bindings() -> dict[str, Any]:
  """Returns the parameters of `harmonize` that gin binds, and their values."""
  bound = {}
  for name in BOUND:
    try:
      bound[name] = gin.query_parameter(f'harmonize.{name}')
    except ValueError:
      continue
  return bound


def idle_bindings(config: cfg.ExperimentConfig):
  """Names the `harmonize.*` bindings that have no effect on an experiment.

  Args:
    config: the final experiment, after all overrides.

  Returns:
    A list of the bound parameters if the experiment is not harmonized, else an
    empty list.
  """
  if config.task.harmonization.enabled:
    return []
  return [f'harmonize.{name}' for name in bindings() if name != 'enabled']
