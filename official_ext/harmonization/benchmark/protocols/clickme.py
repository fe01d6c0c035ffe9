# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""ClickMe: do models look where people look?

Models are compared by how much better their maps agree with the human maps of
the same images than with those of other images; see `benchmark.alignment`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import copy
import dataclasses
import os
import re
from typing import Any

from etils import epy
import typing_extensions

from official_ext.harmonization import cli
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import alignment_words
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.adapters import sizes
from official_ext.harmonization.dataloaders import registry as decoders

with epy.lazy_imports():
  from official_ext.harmonization.benchmark import alignment
  from official_ext.harmonization.benchmark import data_cards
  from official_ext.harmonization.benchmark import explainers
  from official_ext.harmonization.benchmark import identity as identity_lib
  from official_ext.harmonization.benchmark import labelled_images
  from official_ext.harmonization.benchmark import measured_ceilings
  from official_ext.harmonization.benchmark import results
  from official_ext.harmonization.benchmark import specific_alignment
  from official_ext.harmonization.benchmark.report import against_people
  from official_ext.harmonization.configs import (
    harmonized_image_classification as exp_cfg,
  )
  from official_ext.harmonization.data.records import clickme_release
  from official_ext.harmonization.evaluation import scores

# Height and width at which the release compares maps.
RELEASED_SIZE = 224

# Images on which random twins are measured.
TWIN_IMAGES = 500


@dataclasses.dataclass(frozen=True)
class ClickMeOptions:
  """Flags of ClickMe and Clicktionary."""

  clickme: str = cli.flag('', 'ClickMe records: paths or globs.')
  clicktionary: str = cli.flag('', 'Clicktionary records: paths or globs.')
  map_decoder: str | None = cli.flag(
    None,
    'Format of the records with maps. By default, it is recognized from the '
    'first record.',
    choices=decoders.names,
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
    'canonical records require the flag: -1 if the labels are 1..1000.',
  )
  clicktionary_label_offset: int | None = cli.flag(
    None,
    'Label offset of --clicktionary, if it differs from --label_offset.',
  )
  raw_image_max: float | None = cli.flag(
    None,
    'Maximum pixel value in formats of raw pixels: 255 or 1. The default is '
    '255, or recognized if --map_decoder is not set.',
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
  ceilings: str = cli.flag(
    '',
    'ceilings.json of ceiling, with images.csv next to it: what people reach '
    'on the same images. Adds controlled and controlled_person, the parts of '
    'it that a model reaches.',
    path=True,
  )
  clicktionary_ceilings: str = cli.flag(
    '', 'The same for the images of --clicktionary.', path=True
  )
  explainer: str = cli.flag(
    'gradient',
    "How a model's map is computed.",
    choices=option_values.EXPLAINERS,
  )
  faithfulness: int = cli.flag(
    0,
    'Number of images of --clickme, drawn with a fixed seed, on which it is '
    'checked whether maps show what the network uses; 0 for none. Each image '
    'takes about 300 forward passes and 6 maps.',
    at_least=0,
  )
  metrics: str = cli.flag(
    'standard',
    'Further saliency metrics, shown below the main table: standard for AUC, '
    'pointing, shuffled AUC, information gain, NSS, CC, KL and SIM; all adds '
    "the earth mover's distance; none skips them.",
    choices=option_values.SALIENCY_METRICS,
  )
  group_by: str = cli.flag(
    '',
    'Regular expression on the recorded names of images, such as '
    "'(.*)_[0-9]+'. Images with the same match (of its group, if it has one) "
    'belong together, such as frames of a video, and do not count as different '
    'images. Images with equal pixels always belong together.',
  )
  controls: bool = cli.flag(
    True,
    'Measure controls too: rows without a network that a network must beat.',
  )
  random_twins: int = cli.flag(
    3,
    'Number of networks with fresh weights that are measured for each model.',
    at_least=0,
  )
  input_sizes: tuple[str, ...] = cli.flag(
    (),
    'Input sizes, such as 160,224, at which each network is also measured, '
    'if it accepts them. The report shows whether the order of the networks '
    'depends on the input size. Each size costs as much as another network.',
  )
  all: bool = cli.flag(
    False,
    f'Measure random twins on all images instead of a random {TWIN_IMAGES}.',
  )


class ClickMeProtocol(protocol.Protocol):
  """Alignment with human maps, and accuracy on the same images."""

  name = 'clickme'
  label = 'ClickMe'
  title = 'ClickMe: where people look'
  Options = ClickMeOptions
  version = 2
  score_words = alignment_words.TITLES
  further_scores = alignment_words.MEANINGS
  headlines = ('top1', 'controlled', 'specific', 'own', 'shuffled', 'spearman')
  alignment_scores = ('controlled', 'specific', 'spearman')
  accuracy_score = 'top1'
  pictures = ('clickme_ceilings.png',)
  image_values = alignment_words.IMAGE_VALUES
  has_controls = True
  reads_records = True

  def __init__(
    self,
    dataset: 'labelled_images.Dataset',
    *,
    batch_size: int,
    ceiling: float | None = None,
    explainer: str = 'gradient',
    comparison_size: int | None = RELEASED_SIZE,
    group_by: str = '',
    controls: bool = False,
    random_twins: int = 0,
    input_sizes: Sequence[str] = (),
    all_images: bool = False,
    ceilings: 'measured_ceilings.MeasuredCeilings | None' = None,
    metrics: str = 'none',
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
      group_by: regular expression on the recorded names of images, see
        `ClickMeOptions`.
      controls: whether rows without a network are measured too.
      random_twins: the number of networks with fresh weights for each model.
      input_sizes: at which each model is measured too, such as '160'.
      all_images: whether these are measured on all images, not on 500.
      ceilings: what people reach on these images, or None.
      metrics: further saliency metrics, one of
        `option_values.SALIENCY_METRICS`.
    """
    self._alignment = alignment.Alignment(
      dataset,
      batch_size,
      explainer,
      comparison_size,
      ceiling,
      group_by,
      metrics,
    )
    self._controls, self._random_twins = controls, random_twins
    self._input_sizes = input_sizes
    self._all, self._ceilings = all_images, ceilings
    self._sampled: ClickMeProtocol | None = None
    # Ceilings of the images that were asked for last, by their names.
    self._people: dict[tuple[str, ...], Mapping[str, Any]] = {}

  @property
  def alignment(self) -> 'alignment.Alignment':
    """What is measured, and on which images."""
    return self._alignment

  @typing_extensions.override
  def companions(self, models):
    rows = model_specs.controls() if self._controls else []
    return [
      *model_specs.at_sizes(models, self._input_sizes),
      *rows,
      *model_specs.random_twins(models, self._random_twins),
    ]

  @typing_extensions.override
  def images_of_random_twins(self, images):
    return images if self._all else min(images, TWIN_IMAGES)

  @typing_extensions.override
  def for_random_twins(self) -> 'ClickMeProtocol':
    if self._all:
      return self
    if self._sampled is None:
      dataset = dataclasses.replace(self._alignment.dataset, sample=TWIN_IMAGES)
      self._sampled = copy.copy(self)
      self._sampled._alignment = dataclasses.replace(
        self._alignment, dataset=dataset
      )
    return self._sampled

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
      ceilings=options.ceilings,
    )

  @classmethod
  def _make(
    cls, options, run, path, *, map_decoder, label_offset, ceiling, ceilings
  ):
    """Makes a protocol of the flags for its records and the shared flags."""
    prefix = '' if cls.name == 'clickme' else f'{cls.name}_'
    if options.comparison_size == 1:
      raise protocol.SettingsError(
        '--comparison_size=1: maps of one pixel have no ranks; expected 0 for '
        "each model's input size, or at least 2, such as 224."
      )
    if ceiling is not None and not 0 < ceiling <= 1:
      raise protocol.SettingsError(
        f'--{prefix}ceiling={ceiling} is not a rank correlation of people; '
        'expected more than 0 and at most 1, such as 0.65753. Set 1 for raw '
        'scores.'
      )
    try:
      input_sizes = [sizes.text(sizes.parse(s)) for s in options.input_sizes]
    except ValueError as e:
      raise protocol.SettingsError(f'--input_sizes: {e}.') from None
    path = labelled_images.working_paths(path)
    labelled_images.require_records(path)
    white = options.raw_image_max or 255.0
    if map_decoder is None:
      map_decoder, recognized = labelled_images.recognized(path, cls.name)
      if not decoders.is_raw(map_decoder) and options.raw_image_max:
        raise protocol.SettingsError(
          f'--raw_image_max={options.raw_image_max:g} has no effect on {path}, '
          f'whose format is {map_decoder}; expected raw pixels. Omit it.'
        )
      white = options.raw_image_max or recognized
    if label_offset is None and map_decoder == 'canonical':
      raise protocol.SettingsError(
        f'--{prefix}label_offset is not set; canonical records require it. '
        "Set 0 if their labels are the model's classes, or -1 if they are "
        "Model Garden's 1..1000."
      )
    dataset = labelled_images.Dataset(
      input_path=path,
      map_decoder=map_decoder,
      label_offset=label_offset or 0,
      raw_image_max=white,
      blur=options.blur,
      map_resize=options.map_resize,
      blur_kernel=options.blur_kernel,
      limit=run.limit,
    )
    if ceiling is None:
      ceiling = _known_ceiling(dataset, run.output_dir)
    try:
      re.compile(options.group_by)
    except re.error as e:
      raise protocol.SettingsError(
        f'--group_by={options.group_by}: {e}; expected a regular expression.'
      ) from None
    dataset = labelled_images.compared_with_training(dataset, run, cls.name)
    # Otherwise, names that do not match would be found after measuring.
    names = dataset.names() if ceilings or options.group_by else []
    alignment.group_names(options.group_by, names)
    return cls(
      dataset,
      batch_size=run.batch_size,
      explainer=options.explainer,
      ceiling=None if ceiling == 1.0 else ceiling,
      comparison_size=options.comparison_size or None,
      group_by=options.group_by,
      controls=options.controls,
      random_twins=options.random_twins,
      input_sizes=list(dict.fromkeys(input_sizes)),
      all_images=options.all,
      ceilings=cls._read_ceilings(ceilings, options, names)
      if ceilings
      else None,
      metrics=options.metrics,
    )

  @classmethod
  def _read_ceilings(
    cls, path: str, options: ClickMeOptions, names: Sequence[str]
  ) -> 'measured_ceilings.MeasuredCeilings':
    """Reads ceilings of these images, of maps that are made as the ranked."""
    try:
      found = measured_ceilings.read(path)
      found.require(
        comparison_size=options.comparison_size,
        width=specific_alignment.RANKED,
        release_blur=False,
      )
      found.of(names)
    except ValueError as e:
      flag = 'ceilings' if cls.name == 'clickme' else f'{cls.name}_ceilings'
      raise protocol.SettingsError(f'--{flag}: {e}') from None
    return found

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: ClickMeOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    formats: list[str | None] = []
    if 'clickme' in measured:
      formats.append(options.map_decoder)
    if 'clicktionary' in measured:
      formats.append(options.clicktionary_map_decoder or options.map_decoder)
    known = [f for f in formats if f]
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
          'metrics',
          'group_by',
          'controls',
          'random_twins',
          'input_sizes',
          'all',
        ),
      )
    elif len(known) == len(formats) and not any(map(decoders.is_raw, known)):
      yield (
        f'on records of the format {" or ".join(dict.fromkeys(known))}, '
        'whose images are encoded',
        ('raw_image_max',),
      )
    if not options.random_twins:
      yield 'with --random_twins=0', ('all',)
    if not options.blur:
      yield 'with --noblur', ('map_resize', 'blur_kernel')
    if 'clickme' not in measured:
      yield 'without --clickme', ('ceiling', 'ceilings')

  @typing_extensions.override
  def total(self) -> int | None:
    return self._alignment.dataset.total()

  @typing_extensions.override
  def settings(self) -> dict[str, Any]:
    return {
      **self._alignment.dataset.settings(),
      'ceiling': self._alignment.ceiling,
      'explainer': self._alignment.explainer,
      'comparison_size': self._alignment.comparison_size or 'native',
    }

  @typing_extensions.override
  def origin(self, digests) -> 'data_cards.Origin':
    return self._alignment.dataset.origin(digests)

  @typing_extensions.override
  def identity(self, digests) -> dict[str, Any]:
    # Results without these scores are as those of versions that had none.
    metrics = self._alignment.metrics
    return {
      'protocol': f'{self.name} {self.version}',
      'data': self._alignment.dataset.contents(digests),
      # Without the ceiling, which only changes how a score is shown.
      'options': {
        **self._alignment.dataset.options(),
        'explainer': self._alignment.explainer,
        **explainers.identity(self._alignment.explainer),
        'comparison_size': self._alignment.comparison_size or 'native',
        'group_by': self._alignment.group_by,
        **({} if metrics == 'none' else {'metrics': metrics}),
      },
    }

  @typing_extensions.override
  def present(self, stored):
    spearman = dataclasses.replace(
      stored['spearman'], ceiling=self._alignment.ceiling
    )
    return {**stored, 'spearman': spearman}

  @typing_extensions.override
  def run(self, adapter, progress, journal=None) -> 'results.Measurement':
    return self._alignment.run(adapter, progress, journal)

  @typing_extensions.override
  def normalized(self, stored, output_dir):
    if self._ceilings is None or not stored.explainers:
      return stored
    rows = scores.read_rows(os.path.join(output_dir, stored.table))
    found, ceilings = self._related(rows)
    participants = self._ceilings.over_participants(found)
    made = {
      name: specific_alignment.score_of(
        name,
        ratio,
        len(rows),
        stored.scores['spearman'].preprocessing,
        reason=ratio.reason,
        denominator=ratio.denominator.value,
        ceilings=ceilings,
        participants_interval=participants.get(name),
      )
      for name, ratio in found.items()
    }
    reasons = dict.fromkeys(r.reason for r in found.values() if r.reason)
    if not found['controlled_person'].reason and self._ceilings.caution:
      reasons[self._ceilings.caution] = None
    return dataclasses.replace(
      stored,
      explainers={
        name: dataclasses.replace(e, scores={**e.scores, **made})
        for name, e in stored.explainers.items()
      },
      warnings=[*stored.warnings, *reasons],
    )

  def _related(self, rows):
    """Returns the ratios, and mean ceilings with their intervals, by name."""
    assert self._ceilings is not None
    names = tuple(row['name'] for row in rows)
    groups = [row['group'] for row in rows]
    # Most tables have the same images.
    if names not in self._people:
      self._people = {names: self._ceilings.of(names)}
    people = self._people[names]
    ratios = measured_ceilings.ratios(
      people, [float(row['influence']) for row in rows], groups
    )
    means = measured_ceilings.means(people, groups)
    return ratios, {n: [e.value, e.low, e.high] for n, e in means.items()}

  @typing_extensions.override
  def with_people(self, table):
    rows = list(table.values())
    if self._ceilings is None or not rows or 'influence' not in rows[0]:
      return table
    ratios, _ = self._related(rows)
    added = zip(*(ratio.values.tolist() for ratio in ratios.values()))
    return {
      key: {**table[key], **dict(zip(ratios, map(str, values)))}
      for key, values in zip(table, added)
    }

  @classmethod
  @typing_extensions.override
  def scores_of(cls, result):
    found = dict(result.scores)
    for explained in (result.explainers or {}).values():
      for name in (
        'controlled',
        'specific',
        'own',
        'shuffled',
        *cls.further_scores,
      ):
        if name in explained.scores:
          found[name] = explained.scores[name]
      break
    order = [*cls.score_words]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0])))

  @classmethod
  @typing_extensions.override
  def describe(cls, settings: Mapping[str, Any]) -> str:
    return alignment_words.describe(settings, specific_alignment.RANKED)

  @classmethod
  @typing_extensions.override
  def sections(cls, found, twins):
    return against_people.section(found, *cls.pictures)

  @classmethod
  @typing_extensions.override
  def facts(cls, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return protocol.facts_of(settings, labelled_images.FACTS)


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
