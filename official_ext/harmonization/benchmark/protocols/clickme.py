# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""ClickMe: do models look where people look?

Models are compared by how much better their maps agree with the human maps of
the same images than with those of other images; see `benchmark.alignment`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import copy
import dataclasses
import functools
import os
import re
from typing import Any

from etils import epy
import typing_extensions

from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import alignment_words
from official_ext.harmonization.benchmark import model_specs
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark.adapters import sizes
from official_ext.harmonization.benchmark.protocols import map_options
from official_ext.harmonization.dataloaders import registry as decoders

with epy.lazy_imports():
  from official_ext.harmonization.benchmark import alignment
  from official_ext.harmonization.benchmark import data_cards
  from official_ext.harmonization.benchmark import explainer_cost
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

# Options are there for protocols that share them.
ClickMeOptions = map_options.ClickMeOptions
TWIN_IMAGES = map_options.TWIN_IMAGES


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
    comparison_size: int | None = map_options.RELEASED_SIZE,
    group_by: str = '',
    controls: bool = False,
    random_twins: int = 0,
    input_sizes: Sequence[str] = (),
    all_images: bool = False,
    ceilings: 'measured_ceilings.MeasuredCeilings | None' = None,
    metrics: str = 'none',
    samples: int | None = None,
    ranks: 'specific_alignment.HumanRanks | None' = None,
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
      all_images: whether these, and expensive explainers, are measured on all
        images, not on 500.
      ceilings: what people reach on these images, or None.
      metrics: further saliency metrics, one of
        `option_values.SALIENCY_METRICS`.
      samples: samples or steps of the explainer; None for its default.
      ranks: of the human maps, which protocols with the same data share.
    """
    if explainer not in option_values.CHEAP_EXPLAINERS and (
      not all_images and dataset.has_more_than(TWIN_IMAGES)
    ):
      dataset = dataclasses.replace(dataset, sample=TWIN_IMAGES)
    if not explainers.samples_option(explainer):
      samples = None
    self._alignment = alignment.Alignment(
      dataset,
      batch_size,
      explainer,
      comparison_size,
      ceiling,
      group_by,
      metrics,
      samples,
      ranks or specific_alignment.HumanRanks(),
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
    if self._all or self._alignment.dataset.sample is not None:
      return self
    if self._sampled is None:
      dataset = dataclasses.replace(self._alignment.dataset, sample=TWIN_IMAGES)
      self._sampled = copy.copy(self)
      self._sampled._alignment = dataclasses.replace(
        self._alignment, dataset=dataset
      )
    return self._sampled

  @typing_extensions.override
  def for_controls(self) -> 'ClickMeProtocol':
    # Controls have no explanation, and so the same results under each. Their
    # images are those of the networks, since the score of an image depends on
    # all the others.
    found = copy.copy(self)
    found._alignment = dataclasses.replace(
      self._alignment, explainer='gradient', samples=None
    )
    return found

  @typing_extensions.override
  def cost(self, model):
    if self._alignment.explainer in option_values.CHEAP_EXPLAINERS:
      return ''
    images = self.total()
    measured = model.results.get(protocol_names.family(self.name))
    if images is None and measured:
      score = measured.scores['spearman']
      sample = self._alignment.dataset.sample
      count = (score.n or 0) + (score.n_undefined or 0)
      images = count if sample is None else min(count, sample)
    return explainer_cost.before(
      model,
      self.name,
      self._alignment.explainer,
      images,
      self._alignment.samples,
    )

  @classmethod
  @typing_extensions.override
  def variant(cls, name: str) -> 'type[ClickMeProtocol]':
    return _variant(cls, name)

  @classmethod
  @typing_extensions.override
  def from_options(
    cls, options: ClickMeOptions, run: protocol.RunOptions
  ) -> 'ClickMeProtocol':
    return cls.all_from_options(options, run)[0]

  @classmethod
  @typing_extensions.override
  def all_from_options(
    cls, options: ClickMeOptions, run: protocol.RunOptions
  ) -> 'list[ClickMeProtocol]':
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
    """Makes a protocol for each explainer, of records and shared flags."""
    prefix = '' if cls.name == 'clickme' else f'{cls.name}_'
    if options.comparison_size == 1:
      raise protocol.SettingsError(
        '--comparison_size=1: maps of one pixel have no ranks; expected 0 for '
        "each model's input size, or at least 2, such as 224."
      )
    names = map_options.explainers_of(options)
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
    white = options.raw_image_max or 255.0
    is_given = map_decoder is not None
    if not is_given:
      labelled_images.require_records(path)
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
    if is_given:  # Otherwise they were read before they were recognized.
      labelled_images.require_records(path)
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
    images = dataset.names() if ceilings or options.group_by else []
    alignment.group_names(options.group_by, images)
    shared = {
      'batch_size': run.batch_size,
      'ceiling': None if ceiling == 1.0 else ceiling,
      'comparison_size': options.comparison_size or None,
      'group_by': options.group_by,
      'controls': options.controls,
      'random_twins': options.random_twins,
      'input_sizes': list(dict.fromkeys(input_sizes)),
      'all_images': options.all,
      'ceilings': cls._read_ceilings(ceilings, options, images)
      if ceilings
      else None,
      'metrics': options.metrics,
      'samples': options.explainer_samples,
    }
    # Human maps are ranked once for all explainers.
    shared['ranks'] = specific_alignment.HumanRanks()
    kinds = [cls, *map(cls.variant, names[1:])]
    return [
      kind(dataset, explainer=name, **shared)
      for kind, name in zip(kinds, names)
    ]

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
          'explainers',
          'explainer_samples',
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
    # Explainers of users are not imported before they are needed.
    if not any(
      name in option_values.SAMPLED_EXPLAINERS or '.' in name
      for name in options.explainers
    ):
      yield f'on {", ".join(options.explainers)}', ('explainer_samples',)
    if not options.random_twins and (
      {*options.explainers} <= {*option_values.CHEAP_EXPLAINERS}
    ):
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
      **self._samples(),
      'comparison_size': self._alignment.comparison_size or 'native',
      **({'input_sizes': list(self._input_sizes)} if self._input_sizes else {}),
    }

  def _samples(self) -> dict[str, int]:
    samples = self._alignment.samples
    return {} if samples is None else {'explainer_samples': samples}

  @typing_extensions.override
  def origin(self, digests) -> 'data_cards.Origin':
    return self._alignment.dataset.origin(digests)

  @typing_extensions.override
  def identity(self, digests) -> dict[str, Any]:
    # Results without these scores are as those of versions that had none.
    metrics = self._alignment.metrics
    return {
      'protocol': f'{protocol_names.family(self.name)} {self.version}',
      'data': self._alignment.dataset.contents(digests),
      # Without the ceiling, which only changes how a score is shown.
      'options': {
        **self._alignment.dataset.options(),
        'explainer': self._alignment.explainer,
        **explainers.identity(self._alignment.explainer),
        **self._samples(),
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
    if protocol_names.is_variant(cls.name):
      # Predictions do not depend on the explainer.
      found.pop('top1', None)
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


@functools.cache
def _variant(
  cls: type[ClickMeProtocol], explainer: str
) -> type[ClickMeProtocol]:
  """Makes the class of a protocol under another explainer than the first."""
  values = {k: v for k, v in cls.image_values.items() if k != 'top1'}
  return type(
    f'{cls.__name__}_{explainer}',
    (cls,),
    {
      'name': f'{cls.name}.{explainer}',
      'label': f'{cls.label} {explainer}',
      'title': f'{cls.title}, by {explainer}',
      'headlines': ('specific',),
      'accuracy_score': None,
      'image_values': values,
      'pictures': tuple(
        f'{cls.name}.{explainer}_ceilings.png' for _ in cls.pictures
      ),
    },
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
