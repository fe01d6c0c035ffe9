# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The interface of a protocol: its flags, its scores and the words for them.

A protocol is one class in one module, named by one line in `registry`. It
measures any model on its data. The module must import TensorFlow and NumPy
lazily, because --help imports all protocols:

  with epy.lazy_imports():
    import numpy as np

  @dataclasses.dataclass(frozen=True)
  class Options:
    contrast: str = cli.flag('', 'Folder of images.', path=True)

  class ContrastProtocol(protocol.Protocol):
    name, label, title = 'contrast', 'Contrast', 'Contrast: how little suffices'
    Options = Options
    score_words = {'threshold': 'threshold (%)'}
    ...

tests/benchmark/toy_protocol.py is a complete example.
"""

import abc
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
import dataclasses
from typing import Any, TYPE_CHECKING

from official_ext.harmonization import cli

if TYPE_CHECKING:
  from official_ext.harmonization.benchmark import data_cards
  from official_ext.harmonization.benchmark import identity as identity_lib
  from official_ext.harmonization.benchmark import image_tables
  from official_ext.harmonization.benchmark import journal as journal_lib
  from official_ext.harmonization.benchmark import results
  from official_ext.harmonization.benchmark.report import blocks
  from official_ext.harmonization.evaluation import scores


class SettingsError(ValueError):
  """Flags contradict each other or the data."""


class BadDataError(ValueError):
  """Data cannot be scored, whatever the model; no record is skipped."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """Flags that all protocols share."""

  output_dir: str = cli.flag(
    'runs/alignment',
    'Folder of the results; earlier results in it are used again.',
    path=True,
  )
  batch_size: int = cli.flag(
    32, 'Images per batch. No score depends on it.', at_least=1
  )
  limit: int | None = cli.flag(
    None,
    'Score only the first LIMIT records of each dataset, as a trial.',
    at_least=1,
  )
  training_records: str = cli.flag(
    '',
    'Records that networks were trained on: paths or globs, of any format. '
    'Evaluated images that also occur in them, even if encoded again, '
    'resized or flipped, are reported.',
  )
  exclude: bool = cli.flag(
    False, 'Exclude images that occur in --training_records from all scores.'
  )


class Protocol(abc.ABC):
  """A protocol with its data and options, which can measure any model.

  Attributes:
    name: in flags, tables and file names; --<name> asks for the protocol. The
      name of a variant is that of its protocol, a dot and its own, such as
      'clickme.smoothgrad_squared'.
    Options: dataclass of its flags, made by `cli.flag`; one of them has the
      protocol's name. Protocols may share a class.
    label: before the score in column titles.
    title: of its section in the report.
    version: part of the identity of its results; increase it when the same
      data give other scores.
    score_words: titles of the scores, by name without the protocol's name.
    further_scores: scores of a table of their own, and what their values mean.
    headlines: the scores that the first table shows.
    alignment_scores: scores of alignment with people; the first that models
      have is what they are ranked by, and what the trade-off plot shows.
    accuracy_score: the score of accuracy for the trade-off plot, or None.
    image_values: what an image contributes to a score, by name of the score:
      columns of the table, the first minus the others. Scores without it are
      not compared between networks.
    has_controls: whether controls and random twins are measured; see
      `benchmark.controls`.
    people_label: of the row that holds the scores of people.
    reads_records: whether its images are in records, which are compared with
      those of training.
    pictures: names of the files that pictures of `sections` are written to.
  """

  name: str
  Options: type
  label: str
  title: str
  version = 1
  score_words: Mapping[str, str] = {}
  further_scores: Mapping[str, str] = {}
  headlines: Sequence[str] = ()
  alignment_scores: Sequence[str] = ()
  accuracy_score: str | None = None
  image_values: Mapping[str, Sequence[str]] = {}
  has_controls = False
  reads_records = False
  people_label = 'people'
  pictures: Sequence[str] = ()

  @classmethod
  @abc.abstractmethod
  def from_options(cls, options: Any, run: RunOptions) -> 'Protocol':
    """Makes the protocol that the flags describe.

    Args:
      options: an instance of `Options`.
      run: the flags that all protocols share.

    Returns:
      The protocol.

    Raises:
      SettingsError: a flag is missing or contradicts another.
    """

  @classmethod
  def all_from_options(cls, options: Any, run: RunOptions) -> 'list[Protocol]':
    """Makes the protocol that the flags describe, and its variants.

    Args:
      options: an instance of `Options`.
      run: the flags that all protocols share.

    Returns:
      The protocol that `from_options` makes, and those of variants.

    Raises:
      SettingsError: a flag is missing or contradicts another.
    """
    return [cls.from_options(options, run)]

  @classmethod
  def variant(cls, name: str) -> 'type[Protocol]':
    """Returns the class of a variant, whose results are kept apart.

    Args:
      name: after the protocol's name and a dot, as an explainer.

    Raises:
      ValueError: the protocol has no such variant.
    """
    raise ValueError(
      f'The protocol {cls.name!r} has no variant {name!r}; expected the name '
      'of a protocol.'
    )

  @classmethod
  def flags_without_effect(
    cls, options: Any, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    """Finds flags that nothing uses.

    Args:
      options: an instance of `Options`.
      measured: names of the protocols that the flags ask for.

    Yields:
      The end of a sentence, such as 'without --clickme', and the names of the
      flags that have no effect for this reason.
    """
    yield from ()

  @abc.abstractmethod
  def settings(self) -> dict[str, Any]:
    """Returns what a reader of the report must know of data and options."""

  @abc.abstractmethod
  def identity(self, digests: 'identity_lib.Digests') -> dict[str, Any]:
    """Returns all that the scores depend on except model and versions.

    Args:
      digests: of files' contents.

    Returns:
      The parts `protocol`, `data` and `options` of an identity.
    """

  @abc.abstractmethod
  def run(
    self,
    adapter,
    progress: Callable[[int], Any],
    journal: 'journal_lib.Journal | None' = None,
  ) -> 'results.Measurement':
    """Measures a model.

    Args:
      adapter: of the model, an `adapters.base.Adapter`.
      progress: called with the number of images of each batch.
      journal: items of this result that are already computed, and where to
        add more; None to start at the first image and keep nothing.

    Returns:
      Scores, a row per image or trial, and what belongs to them.
    """

  def total(self) -> int | None:
    """Returns the number of images for the progress; None if unknown."""
    return None

  def companions(self, models: Sequence[Any]) -> list[Any]:
    """Returns controls and random twins that are measured with the models.

    Args:
      models: that the user named, each a `model_specs.Model`.
    """
    return []

  def images_of_random_twins(self, images: int) -> int:
    """Returns how many of a network's images its random twins are shown."""
    return images

  def for_random_twins(self) -> 'Protocol':
    """Returns the protocol for networks with fresh weights."""
    return self

  def for_controls(self) -> 'Protocol':
    """Returns the protocol for controls; that of a variant may be another."""
    return self

  def for_model(self, model: 'results.ModelResults') -> 'Protocol':
    """Returns the protocol for a network, a random twin or a control."""
    if model.twin_of is not None:
      return self.for_random_twins()
    return self.for_controls() if model.is_control else self

  def cost(self, model: 'results.ModelResults') -> str:
    """Says what the measurement of a network will cost, before it starts.

    Args:
      model: the network, with its results of the protocols before this one.

    Returns:
      A sentence; '' if the cost is not worth mentioning.
    """
    del model
    return ''

  def present(
    self, stored: 'Mapping[str, scores.Score]'
  ) -> 'dict[str, scores.Score]':
    """Applies settings that change how a score is shown, not its value.

    Args:
      stored: scores by name.

    Returns:
      The same scores, or with another ceiling.
    """
    return dict(stored)

  def normalized(
    self, stored: 'results.StoredResult', output_dir: str
  ) -> 'results.StoredResult':
    """Adds scores that relate a result to people, without measuring again.

    Args:
      stored: the result, as measured.
      output_dir: that the paths of its files start from.

    Returns:
      The result as the report shows it.
    """
    del output_dir
    return stored

  def with_people(self, table: 'image_tables.Table') -> 'image_tables.Table':
    """Adds columns that relate the images of a model to people.

    Args:
      table: as measured.

    Returns:
      The table with columns of `image_values` that are not stored.
    """
    return table

  def origin(
    self, digests: 'identity_lib.Digests'
  ) -> 'data_cards.Origin | None':
    """Returns where the data come from, for their card; None if unknown.

    Args:
      digests: of files' contents.
    """
    return None

  # The report. These need no data: a stored result is enough.

  @classmethod
  @abc.abstractmethod
  def describe(cls, settings: Mapping[str, Any]) -> str:
    """Returns a few sentences on what was measured, given the settings."""

  @classmethod
  def facts(cls, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns terms and values that describe the data, given the settings."""
    return []

  @classmethod
  def scores_of(
    cls, result: 'results.StoredResult'
  ) -> 'dict[str, scores.Score]':
    """Returns the scores that tables show, by name."""
    return dict(result.scores)

  @classmethod
  def people(
    cls, found: 'Sequence[results.StoredResult]'
  ) -> 'dict[str, scores.Score]':
    """Returns scores of people, by the names of the models' scores.

    Args:
      found: the results of all models.

    Returns:
      The scores for the row of people; may be empty.
    """
    return {}

  @classmethod
  def sections(
    cls,
    found: 'Mapping[str, results.StoredResult]',
    twins: Sequence[tuple[str, str]],
  ) -> 'list[blocks.Block]':
    """Returns what the protocol's section holds below its table.

    Args:
      found: results by model.
      twins: names of baselines and of their harmonized twins.

    Returns:
      Pictures, tables and sentences.
    """
    return []


def facts_of(
  settings: Mapping[str, Any], labels: Mapping[str, str]
) -> list[tuple[str, Any]]:
  """Selects settings for the report.

  Args:
    settings: of a protocol.
    labels: for readers, by the name of the setting.

  Returns:
    Label and value of each setting that is not None, in the order of `labels`.
  """
  return [
    (label, settings[name])
    for name, label in labels.items()
    if settings.get(name) is not None
  ]
