# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""ImageNet: top-1 and top-5 accuracy on labelled images without maps."""

from collections.abc import Container, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epy
import typing_extensions

from official_ext.harmonization import cli
from official_ext.harmonization.benchmark import protocol

with epy.lazy_imports():
  from official_ext.harmonization.benchmark import accuracy
  from official_ext.harmonization.benchmark import data_cards
  from official_ext.harmonization.benchmark import journal as journal_lib
  from official_ext.harmonization.benchmark import labelled_images
  from official_ext.harmonization.benchmark import results


@dataclasses.dataclass(frozen=True)
class ImageNetOptions:
  """Flags of the protocol."""

  imagenet: str = cli.flag(
    '',
    "Labelled ImageNet records with Model Garden's fields, paths or globs: the "
    'accuracy of the trade-off plot.',
  )
  imagenet_label_offset: int = cli.flag(
    -1, 'Added to the labels of --imagenet; -1 maps 1..1000 to 0..999.'
  )


class ImageNetProtocol(protocol.Protocol):
  """Top-1 and top-5 accuracy on ImageNet's validation set.

  Records have Model Garden's fields. The central 87.5 % of an image is resized
  to the model's input size (bilinear), as in Model Garden's evaluation.
  """

  name = 'imagenet'
  label = 'ImageNet'
  title = 'ImageNet: accuracy'
  version = 2
  Options = ImageNetOptions
  score_words = {'top1': 'top-1', 'top5': 'top-5'}
  headlines = ('top1',)
  accuracy_score = 'top1'
  reads_records = True
  image_values = {'top1': ('correct',), 'top5': ('top5',)}

  def __init__(self, dataset: 'labelled_images.Dataset', batch_size: int):
    """Initializes the protocol.

    Args:
      dataset: the records, without maps.
      batch_size: no score depends on it.
    """
    self._dataset = dataset
    self._batch_size = batch_size

  @classmethod
  @typing_extensions.override
  def from_options(
    cls, options: ImageNetOptions, run: protocol.RunOptions
  ) -> 'ImageNetProtocol':
    dataset = labelled_images.Dataset(
      input_path=labelled_images.working_paths(options.imagenet),
      map_decoder='canonical',
      label_offset=options.imagenet_label_offset,
      has_maps=False,
      center_crop=True,
      limit=run.limit,
    )
    labelled_images.require_records(dataset.input_path)
    dataset = labelled_images.compared_with_training(dataset, run, cls.name)
    return cls(dataset, run.batch_size)

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: ImageNetOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    if cls.name not in measured:
      yield 'without --imagenet', ('imagenet_label_offset',)

  @typing_extensions.override
  def total(self) -> int | None:
    return self._dataset.total()

  @typing_extensions.override
  def settings(self) -> dict[str, Any]:
    return self._dataset.settings()

  @typing_extensions.override
  def origin(self, digests) -> 'data_cards.Origin':
    return self._dataset.origin(digests)

  @typing_extensions.override
  def identity(self, digests) -> dict[str, Any]:
    return {
      'protocol': f'{self.name} {self.version}',
      'data': self._dataset.contents(digests),
      'options': self._dataset.options(),
    }

  @typing_extensions.override
  def run(self, adapter, progress, journal=None) -> 'results.Measurement':
    rows = journal_lib.kept(journal)
    for batch in labelled_images.batches(
      self._dataset,
      adapter.input_size,
      adapter.input_size,
      adapter.scored_classes,
      self._batch_size,
      start=len(rows),
    ):
      logits = adapter.logits(adapter.preprocess(batch.images))
      found = accuracy.decision_rows(batch, accuracy.predict(logits))
      # Fewer than six classes are always among the top five.
      if logits.shape[1] > 5:
        hits = accuracy.among_top(logits, batch.labels)
        for row, hit in zip(found, hits):
          row['top5'] = int(hit)
      rows += found
      if journal:
        journal.add(found)
      progress(len(found))
    if not rows:
      raise protocol.BadDataError(
        f'{self._dataset.input_path} does not contain any records.'
      )
    height, width = adapter.input_size
    preprocessing = (
      f'central 87.5 % resized to {height}x{width} (bilinear); '
      f'{adapter.preprocessing}'
    )
    details = {'limit': self._dataset.limit}
    score, warnings = accuracy.measure(
      [row['prediction'] for row in rows],
      [row['label'] for row in rows],
      preprocessing=preprocessing,
      model_preprocessing=adapter.preprocessing,
      details=details,
    )
    found = [score]
    if 'top5' in rows[0]:
      found.append(
        accuracy.proportion(
          'top5',
          [row['top5'] for row in rows],
          preprocessing=preprocessing,
          details=details,
        )
      )
    return results.Measurement(scores=found, rows=rows, warnings=warnings)

  @classmethod
  @typing_extensions.override
  def describe(cls, settings: Mapping[str, Any]) -> str:
    return (
      'Top-1 and top-5 accuracy. The central 87.5 % of each image is resized '
      "to the model's input size."
    )

  @classmethod
  @typing_extensions.override
  def facts(cls, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return protocol.facts_of(settings, labelled_images.FACTS)
