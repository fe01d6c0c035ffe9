# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Faithfulness: is a map what the network uses?

The maps that ClickMe compares with people are checked on some of its images;
see `benchmark.faithfulness`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epy
import typing_extensions

from official_ext.harmonization.benchmark import faithfulness_words
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import protocol_names
from official_ext.harmonization.benchmark.protocols import clickme
from official_ext.harmonization.benchmark.protocols import map_options

with epy.lazy_imports():
  from official_ext.harmonization import choices
  from official_ext.harmonization.benchmark import alignment
  from official_ext.harmonization.benchmark import data_cards
  from official_ext.harmonization.benchmark import explainer_cost
  from official_ext.harmonization.benchmark import explainers
  from official_ext.harmonization.benchmark import explanation_checks
  from official_ext.harmonization.benchmark import faithfulness
  from official_ext.harmonization.benchmark import labelled_images
  from official_ext.harmonization.benchmark import results
  from official_ext.harmonization.benchmark.report import explanations


class FaithfulnessProtocol(protocol.Protocol):
  """Deletion and insertion, randomized weights, and other classes' maps."""

  name = 'faithfulness'
  label = 'Faithfulness'
  title = 'Faithfulness: is the map what the network uses?'
  Options = map_options.ClickMeOptions
  score_words = faithfulness_words.TITLES
  image_values = {name: (name,) for name in faithfulness_words.TITLES}

  def __init__(self, measured: 'alignment.Alignment', images: int):
    """Initializes the protocol.

    Args:
      measured: says which maps ClickMe compares, on which records.
      images: number of images, drawn with a fixed seed.
    """
    self._images = images
    self._checks = explanation_checks.ExplanationChecks(
      dataclasses.replace(measured.dataset, sample=images),
      measured.batch_size,
      measured.explainer,
      measured.group_by,
      measured.samples,
    )

  @classmethod
  @typing_extensions.override
  def from_options(
    cls, options: map_options.ClickMeOptions, run: protocol.RunOptions
  ) -> 'FaithfulnessProtocol':
    return cls.all_from_options(options, run)[0]

  @classmethod
  @typing_extensions.override
  def all_from_options(
    cls, options: map_options.ClickMeOptions, run: protocol.RunOptions
  ) -> 'list[FaithfulnessProtocol]':
    if not options.clickme:
      raise protocol.SettingsError(
        f'--faithfulness={options.faithfulness} needs the images of ClickMe; '
        'expected --clickme. Add it.'
      )
    # What people reach is not needed here.
    options = dataclasses.replace(options, ceilings='')
    made = []
    for found in clickme.ClickMeProtocol.all_from_options(options, run):
      measured = found.alignment
      kind = cls.variant(measured.explainer) if made else cls
      made.append(kind(measured, options.faithfulness))
      print(made[-1].cost_in_words())
    return made

  @classmethod
  @typing_extensions.override
  def variant(cls, name: str) -> 'type[FaithfulnessProtocol]':
    return _variant(cls, name)

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: map_options.ClickMeOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    if 'clickme' not in measured and 'clicktionary' in measured:
      yield 'without --clickme', ('faithfulness',)

  def cost_in_words(self) -> str:
    """Says how many passes of a network the measurement takes."""
    images = choices.plural(self.total() or self._images, 'image')
    checks = self._checks
    found = explainer_cost.passes(checks.explainer, (224, 224), checks.samples)
    each = f' ({found.in_words()} each)' if found else ''
    return (
      f'{self.name}: each of {images} takes '
      f'{explanation_checks.FORWARD_PASSES} forward passes and '
      f'{explanation_checks.MAPS} maps by {checks.explainer}{each}.'
    )

  @typing_extensions.override
  def total(self) -> int | None:
    return self._checks.dataset.total()

  @typing_extensions.override
  def settings(self) -> dict[str, Any]:
    return {
      **self._checks.dataset.settings(),
      'explainer': self._checks.explainer,
      **self._samples(),
      'forward_passes': explanation_checks.FORWARD_PASSES,
      'maps': explanation_checks.MAPS,
    }

  def _samples(self) -> dict[str, int]:
    samples = self._checks.samples
    return {} if samples is None else {'explainer_samples': samples}

  @typing_extensions.override
  def origin(self, digests) -> 'data_cards.Origin':
    return self._checks.dataset.origin(digests)

  @typing_extensions.override
  def identity(self, digests) -> dict[str, Any]:
    return {
      'protocol': f'{protocol_names.family(self.name)} {self.version}',
      'data': self._checks.dataset.contents(digests),
      'options': {
        **self._checks.dataset.options(),
        'explainer': self._checks.explainer,
        **explainers.identity(self._checks.explainer),
        **self._samples(),
        'group_by': self._checks.group_by,
        'steps': faithfulness.STEPS,
        'fills': list(faithfulness.FILLS),
      },
    }

  @typing_extensions.override
  def run(self, adapter, progress, journal=None) -> 'results.Measurement':
    return self._checks.run(adapter, progress, journal)

  @classmethod
  @typing_extensions.override
  def scores_of(cls, result):
    return {
      name: result.scores[name]
      for name in cls.score_words
      if name in result.scores
    }

  @classmethod
  @typing_extensions.override
  def describe(cls, settings: Mapping[str, Any]) -> str:
    return faithfulness_words.describe(settings)

  @classmethod
  @typing_extensions.override
  def facts(cls, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return protocol.facts_of(
      settings,
      {
        **labelled_images.FACTS,
        'explainer': 'explanation',
        'forward_passes': 'forward passes per image',
        'maps': 'maps per image',
      },
    )

  @classmethod
  @typing_extensions.override
  def sections(cls, found, twins):
    return explanations.tables(found)


@functools.cache
def _variant(
  cls: type[FaithfulnessProtocol], explainer: str
) -> type[FaithfulnessProtocol]:
  """Makes the class for an explainer beyond the first."""
  return type(
    f'{cls.__name__}_{explainer}',
    (cls,),
    {
      'name': f'{cls.name}.{explainer}',
      'label': f'{cls.label} {explainer}',
      'title': f'{cls.title} By {explainer}',
    },
  )
