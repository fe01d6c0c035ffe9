# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""ClickMe and Clicktionary: do models look where people look?

Alignment is the mean rank correlation of a model's maps with human maps,
divided by the score that people reach; see `benchmark.map_alignment`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epy
import typing_extensions

from official_ext.harmonization import cli
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.dataloaders import registry as decoders

with epy.lazy_imports():
  from official_ext.harmonization.benchmark import accuracy
  from official_ext.harmonization.benchmark import identity as identity_lib
  from official_ext.harmonization.benchmark import journal as journal_lib
  from official_ext.harmonization.benchmark import labelled_images
  from official_ext.harmonization.benchmark import map_alignment
  from official_ext.harmonization.benchmark import results
  from official_ext.harmonization.configs import (
    harmonized_image_classification as exp_cfg,
  )
  from official_ext.harmonization.data.records import clickme_release

# Height and width at which the release compares maps.
RELEASED_SIZE = 224

# What a map is, for the explainers whose name does not say it.
_MAPS = {
  'gradient': 'the largest magnitude over colour channels of the gradient of '
  "the label's logit with respect to the image",
  'training_map': 'the mean over colour channels of the gradient of the '
  "label's logit with respect to the image",
}


@dataclasses.dataclass(frozen=True)
class ClickMeOptions:
  """Flags of ClickMe and Clicktionary."""

  clickme: str = cli.flag('', 'ClickMe records: paths or globs.')
  clicktionary: str = cli.flag('', 'Clicktionary records: paths or globs.')
  map_decoder: str = cli.flag(
    'clickme', 'Format of the records with maps.', choices=decoders.names
  )
  clicktionary_map_decoder: str | None = cli.flag(
    None,
    'Format of --clicktionary, if it differs from --map_decoder.',
    choices=decoders.names,
  )
  label_offset: int | None = cli.flag(
    None,
    'Added to the labels of records with maps to give the classes that are '
    'scored, 0..999 for ImageNet. The default is 0, except that '
    '--map_decoder=canonical requires the flag: -1 if the labels are 1..1000.',
  )
  clicktionary_label_offset: int | None = cli.flag(
    None,
    'Label offset of --clicktionary, if it differs from --label_offset.',
  )
  raw_image_max: float = cli.flag(
    255.0, 'Maximum pixel value in formats of raw pixels: 255 or 1.'
  )
  blur: bool = cli.flag(True, 'Blur human maps as the ClickMe release does.')
  map_resize: str | None = cli.flag(
    None,
    'How human maps are resized before the blur: from the few pixels that the '
    'release samples, or from all. The default is antialias for canonical '
    'records, otherwise released.',
    choices=option_values.MAP_RESIZES,
  )
  blur_kernel: str = cli.flag(
    'released',
    'Kernel of --blur; the released one shifts maps by half a cell.',
    choices=option_values.BLUR_KERNELS,
  )
  comparison_size: int = cli.flag(
    RELEASED_SIZE,
    "Height and width at which maps are compared; 0 for each model's input "
    'size.',
    at_least=0,
  )
  ceiling: float | None = cli.flag(
    None,
    'Rank correlation among people, which counts as 1 in --clickme. The '
    "default is 0.65753 for ClickMe's release as downloaded by "
    'data.download_clickme, and 1, which gives raw scores, for other records.',
  )
  clicktionary_ceiling: float = cli.flag(
    1.0, 'Ceiling of --clicktionary; 1 gives raw scores.'
  )
  explainer: str = cli.flag(
    'gradient',
    "How a model's map is computed.",
    choices=option_values.EXPLAINERS,
  )


class ClickMeProtocol(protocol.Protocol):
  """Alignment with human maps, and accuracy on the same images."""

  name = 'clickme'
  label = 'ClickMe'
  title = 'ClickMe: where people look'
  Options = ClickMeOptions
  score_words = {
    'top1': 'top-1',
    'spearman': 'rho',
    'dice': 'Dice',
    'iou': 'IoU',
  }
  headlines = ('top1', 'spearman')
  alignment_score = 'spearman'
  accuracy_score = 'top1'

  def __init__(
    self,
    dataset: 'labelled_images.Dataset',
    *,
    batch_size: int,
    ceiling: float | None = None,
    explainer: str = 'gradient',
    comparison_size: int | None = RELEASED_SIZE,
  ):
    """Initializes the protocol.

    Args:
      dataset: the records with maps.
      batch_size: no score depends on it.
      ceiling: the mean rank correlation that counts as 1; None if that of
        people is unknown.
      explainer: one of `explainers.EXPLAINERS`.
      comparison_size: height and width at which maps are compared; None for
        each model's input size.
    """
    self._dataset = dataset
    self._batch_size = batch_size
    self._ceiling = ceiling
    self._explainer = explainer
    self._comparison_size = comparison_size

  @classmethod
  @typing_extensions.override
  def from_options(
    cls, options: ClickMeOptions, run: protocol.RunOptions
  ) -> 'ClickMeProtocol':
    return cls._make(
      options,
      run,
      options.clickme,
      map_decoder=options.map_decoder,
      label_offset=options.label_offset,
      ceiling=options.ceiling,
    )

  @classmethod
  def _make(cls, options, run, path, *, map_decoder, label_offset, ceiling):
    """Makes a protocol of the flags for its records and the shared flags."""
    prefix = '' if cls.name == 'clickme' else f'{cls.name}_'
    if label_offset is None and map_decoder == 'canonical':
      raise protocol.SettingsError(
        f'--{prefix}label_offset is not set; canonical records require it. '
        "Set 0 if their labels are the model's classes, or -1 if they are "
        "Model Garden's 1..1000."
      )
    if ceiling is not None and not 0 < ceiling <= 1:
      raise protocol.SettingsError(
        f'--{prefix}ceiling={ceiling} is not a rank correlation of people; '
        'expected more than 0 and at most 1, such as 0.65753. Set 1 for raw '
        'scores.'
      )
    dataset = labelled_images.Dataset(
      input_path=labelled_images.working_paths(path),
      map_decoder=map_decoder,
      label_offset=label_offset or 0,
      raw_image_max=options.raw_image_max,
      blur=options.blur,
      map_resize=options.map_resize,
      blur_kernel=options.blur_kernel,
      limit=run.limit,
    )
    if ceiling is None:
      ceiling = _known_ceiling(dataset, run.output_dir)
    return cls(
      dataset,
      batch_size=run.batch_size,
      explainer=options.explainer,
      ceiling=None if ceiling == 1.0 else ceiling,
      comparison_size=options.comparison_size or None,
    )

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: ClickMeOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    formats = []
    if 'clickme' in measured:
      formats.append(options.map_decoder)
    if 'clicktionary' in measured:
      formats.append(options.clicktionary_map_decoder or options.map_decoder)
    if not formats:
      yield (
        'without --clickme or --clicktionary',
        (
          'map_decoder',
          'label_offset',
          'raw_image_max',
          'blur',
          'map_resize',
          'blur_kernel',
          'comparison_size',
          'explainer',
        ),
      )
    elif not any(map(decoders.is_raw, formats)):
      yield (
        f'on records of the format {" or ".join(dict.fromkeys(formats))}, '
        'whose images are encoded',
        ('raw_image_max',),
      )
    if not options.blur:
      yield 'with --noblur', ('map_resize', 'blur_kernel')
    if 'clickme' not in measured:
      yield 'without --clickme', ('ceiling',)

  @typing_extensions.override
  def settings(self) -> dict[str, Any]:
    return {
      **self._dataset.settings(),
      'ceiling': self._ceiling,
      'explainer': self._explainer,
      'comparison_size': self._comparison_size or 'native',
    }

  @typing_extensions.override
  def identity(self, digests) -> dict[str, Any]:
    return {
      'protocol': f'{self.name} {self.version}',
      'data': self._dataset.contents(digests),
      # Without the ceiling, which only changes how a score is shown.
      'options': {
        **self._dataset.options(),
        'explainer': self._explainer,
        'comparison_size': self._comparison_size or 'native',
      },
    }

  @typing_extensions.override
  def present(self, stored):
    spearman = dataclasses.replace(stored['spearman'], ceiling=self._ceiling)
    return {**stored, 'spearman': spearman}

  @typing_extensions.override
  def run(self, adapter, progress, journal=None) -> 'results.Measurement':
    size = (
      adapter.input_size
      if self._comparison_size is None
      else (self._comparison_size,) * 2
    )
    rows, examples = journal_lib.kept(journal), None
    is_resumed = bool(rows)
    if is_resumed:  # The examples were lost with the process that ended.
      for batch in self._batches(adapter, size):
        maps, _ = map_alignment.explain(adapter, batch, self._explainer, size)
        examples = map_alignment.extend_examples(examples, batch, maps, size)
        if map_alignment.has_all_examples(examples):
          break
    for batch in self._batches(adapter, size, start=len(rows)):
      maps, predictions = map_alignment.explain(
        adapter, batch, self._explainer, size
      )
      found = map_alignment.rows(batch, maps, predictions)
      rows += found
      if journal:
        journal.add(found)
      if not is_resumed:
        examples = map_alignment.extend_examples(examples, batch, maps, size)
      progress(len(maps))
    if not rows:
      raise protocol.BadDataError(
        f'{self._dataset.input_path} does not contain any records.'
      )
    return self._measurement(adapter, rows, examples, size)

  def _batches(self, adapter, size, start: int = 0):
    return labelled_images.batches(
      self._dataset,
      adapter.input_size,
      size,
      adapter.scored_classes,
      self._batch_size,
      start,
    )

  def _measurement(self, adapter, rows, examples, size):
    """Computes the scores from the rows of all images."""
    preprocessing = self._preprocessing(adapter, size)
    measured, undefined = map_alignment.measure(
      rows,
      ceiling=self._ceiling,
      preprocessing=preprocessing,
      details={
        'compared_at': list(size),
        'explainer': self._explainer,
        'limit': self._dataset.limit,
      },
    )
    top1, warnings = accuracy.measure(
      [row['prediction'] for row in rows],
      [row['label'] for row in rows],
      preprocessing=preprocessing,
      model_preprocessing=adapter.preprocessing,
      details={'limit': self._dataset.limit},
    )
    return results.Measurement(
      scores=[*measured, top1],
      rows=rows,
      warnings=warnings + undefined,
      examples=examples,
    )

  def _preprocessing(self, adapter, size) -> str:
    """Describes in one line how images and maps were preprocessed."""
    dataset, blurred = self._dataset, ''
    if dataset.blur:
      blurred = '64x64, 10x10 Gaussian of sigma 10{}, '.format(
        ' (centred)' if dataset.blur_kernel == 'centred' else ''
      )
    if dataset.resize() == 'antialias':
      blurred = f'antialiased, {blurred}'
    return (
      'whole image resized to {}x{} (bilinear); '.format(*adapter.input_size)
      + f'{adapter.preprocessing}; human map: {blurred}'
      + '{}x{}; model map: {}, {}x{}'.format(*size, self._explainer, *size)
    )

  @classmethod
  @typing_extensions.override
  def describe(cls, settings: Mapping[str, Any]) -> str:
    size, ceiling = settings['comparison_size'], settings['ceiling']
    explainer = settings['explainer']
    return (
      f"Each model's map of an image ({_MAPS.get(explainer, explainer)}) is "
      'compared with the human map at '
      + (
        "the model's input size. "
        if size == 'native'
        else f'{size} x {size} pixels. '
      )
      + (
        'The human map is blurred as in the ClickMe release. '
        if settings['blur']
        else 'The human map is not blurred. '
      )
      + "rho is Spearman's rank correlation with average ranks for ties; Dice "
      "and IoU compare what lies above each map's 90th percentile. "
      + (
        'Scores are raw, because no human ceiling was given.'
        if ceiling is None
        else f'Alignment is the mean rho divided by the ceiling of '
        f'{ceiling:.4f}, the rank correlation among people.'
      )
    )

  @classmethod
  @typing_extensions.override
  def facts(cls, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return protocol.facts_of(settings, labelled_images.FACTS)


class ClicktionaryProtocol(ClickMeProtocol):
  """ClickMe's protocol on Clicktionary's records."""

  name = 'clicktionary'
  label = 'Clicktionary'
  title = 'Clicktionary: where people look'
  headlines = ('spearman',)

  @classmethod
  @typing_extensions.override
  def from_options(
    cls, options: ClickMeOptions, run: protocol.RunOptions
  ) -> 'ClicktionaryProtocol':
    offset = options.clicktionary_label_offset
    return cls._make(
      options,
      run,
      options.clicktionary,
      map_decoder=options.clicktionary_map_decoder or options.map_decoder,
      label_offset=options.label_offset if offset is None else offset,
      ceiling=options.clicktionary_ceiling,
    )

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: ClickMeOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    if cls.name not in measured:
      yield (
        'without --clicktionary',
        (
          'clicktionary_map_decoder',
          'clicktionary_label_offset',
          'clicktionary_ceiling',
        ),
      )


def _known_ceiling(
  dataset: 'labelled_images.Dataset', output_dir: str
) -> float:
  """Returns the published ceiling for the release's records, otherwise 1."""
  digests = identity_lib.Digests(identity_lib.digests_path(output_dir))
  if dataset.map_decoder == 'clickme' and clickme_release.is_release(
    dataset.files(), digests.file
  ):
    return exp_cfg.CLICKME_CEILING
  return 1.0
