# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Faithfulness: is a map what the network uses?

The maps that ClickMe compares with people are checked on some of its images;
see `benchmark.faithfulness`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epy
import typing_extensions

from official_ext.harmonization.benchmark import faithfulness_words
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.protocols import clickme

with epy.lazy_imports():
  from official_ext.harmonization import choices
  from official_ext.harmonization.benchmark import alignment
  from official_ext.harmonization.benchmark import data_cards
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
  Options = clickme.ClickMeOptions
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
    )

  @classmethod
  @typing_extensions.override
  def from_options(
    cls, options: clickme.ClickMeOptions, run: protocol.RunOptions
  ) -> 'FaithfulnessProtocol':
    if not options.clickme:
      raise protocol.SettingsError(
        f'--faithfulness={options.faithfulness} needs the images of ClickMe; '
        'expected --clickme. Add it.'
      )
    # What people reach is not needed here.
    options = dataclasses.replace(options, ceilings='')
    measured = clickme.ClickMeProtocol.from_options(options, run).alignment
    found = cls(measured, options.faithfulness)
    print(found.cost_in_words())
    return found

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: clickme.ClickMeOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    if 'clickme' not in measured and 'clicktionary' in measured:
      yield 'without --clickme', ('faithfulness',)

  def cost_in_words(self) -> str:
    """Says how many passes of a network the measurement takes."""
    images = choices.plural(self.total() or self._images, 'image')
    return (
      f'{self.name}: each of {images} takes '
      f'{explanation_checks.FORWARD_PASSES} forward passes and '
      f'{explanation_checks.MAPS} maps by {self._checks.explainer}.'
    )

  @typing_extensions.override
  def total(self) -> int | None:
    return self._checks.dataset.total()

  @typing_extensions.override
  def settings(self) -> dict[str, Any]:
    return {
      **self._checks.dataset.settings(),
      'explainer': self._checks.explainer,
      'forward_passes': explanation_checks.FORWARD_PASSES,
      'maps': explanation_checks.MAPS,
    }

  @typing_extensions.override
  def origin(self, digests) -> 'data_cards.Origin':
    return self._checks.dataset.origin(digests)

  @typing_extensions.override
  def identity(self, digests) -> dict[str, Any]:
    return {
      'protocol': f'{self.name} {self.version}',
      'data': self._checks.dataset.contents(digests),
      'options': {
        **self._checks.dataset.options(),
        'explainer': self._checks.explainer,
        **explainers.identity(self._checks.explainer),
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
