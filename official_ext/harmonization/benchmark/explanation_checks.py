# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Measures on a network whether an explanation shows what the network uses.

For each of a few images: deletion and insertion in the order of several maps,
agreement of the map with that of the same network with fresh weights, and with
the map of another class. See `faithfulness` for the quantities.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import hashlib
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark import accuracy
from official_ext.harmonization.benchmark import alignment
from official_ext.harmonization.benchmark import baselines
from official_ext.harmonization.benchmark import explainers
from official_ext.harmonization.benchmark import faithfulness
from official_ext.harmonization.benchmark import faithfulness_scores
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import specific_alignment
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import fresh_weights

ORDERS = faithfulness_scores.ORDERS
# Of fresh weights. Maps and noise of an image have the seed of its position.
_SEED = 0
# Images between two writes to the journal, for which weights are drawn once.
_CHUNK = 4

# Passes per image: the image and its fills, the steps of deletion and insertion
# in each order, and those of insertion in the order of another class's map.
FORWARD_PASSES = 1 + len(faithfulness.FILLS) * (
  1 + (faithfulness.STEPS - 1) * (2 * len(ORDERS) + 1)
)
# Maps per image: of its class and another one, of its partner, and of the
# network after each of three draws of weights.
MAPS = 3 + len(fresh_weights.PARTS)


@dataclasses.dataclass(frozen=True)
class _Images:
  """All images, which fills and unrelated maps come from.

  Attributes:
    pixels: float32 (n, h, w, 3), RGB in 0..255, at the network's input size.
    human: float32 (n, h, w), human maps as recorded.
    rows: n dicts that say which image it is.
    groups: int (n,).
    partners: int (n,).
  """

  pixels: np.ndarray
  human: np.ndarray
  rows: Sequence[dict[str, Any]]
  groups: np.ndarray
  partners: np.ndarray


@dataclasses.dataclass(frozen=True)
class ExplanationChecks:
  """The checks, and the images on which they are made.

  Attributes:
    dataset: records with maps. All images are kept in memory.
    batch_size: of forward passes; no score depends on it.
    explainer: one of `explainers.EXPLAINERS`.
    group_by: as in `alignment.Alignment`.
    samples: of the explainer, as in `alignment.Alignment`.
  """

  dataset: labelled_images.Dataset
  batch_size: int
  explainer: str
  group_by: str
  samples: int | None = None

  def run(
    self,
    adapter: base.Adapter,
    progress: Callable[[int], None],
    journal: journal_lib.Journal | None = None,
  ) -> results.Measurement:
    """Measures a network.

    Args:
      adapter: of the network.
      progress: called with the number of images that were just measured.
      journal: of a measurement that may be resumed.

    Returns:
      The measurement.

    Raises:
      protocol.BadDataError: the files have no records, or all images belong to
        one group.
    """
    images = self._read(adapter)
    options = {
      'samples': self.samples,
      **baselines.of_records(self.explainer, self.dataset, adapter),
    }
    rows = journal_lib.kept(journal)
    for start in range(len(rows), len(images.rows), _CHUNK):
      chunk = np.arange(start, min(start + _CHUNK, len(images.rows)))
      found = self._measure(adapter, images, chunk, options, progress)
      rows += found
      if journal:
        journal.add(found)
    height, width = adapter.input_size
    return faithfulness_scores.measure(
      rows,
      explainer=self.explainer,
      preprocessing=f'whole image resized to {height}x{width} (bilinear); '
      f'{adapter.preprocessing}; map: {self.explainer}, {height}x{width}',
      limit=self.dataset.limit,
    )

  def _read(self, adapter) -> _Images:
    """Reads all images."""
    pixels, human, rows = [], [], []
    for batch in labelled_images.batches(
      self.dataset,
      adapter.input_size,
      adapter.input_size,
      adapter.scored_classes,
      self.batch_size,
    ):
      pixels.append(batch.images)
      human.append(batch.unblurred)
      rows += [
        {**row, 'name': name}
        for row, name in zip(
          accuracy.decision_rows(batch, None), batch.names or ()
        )
      ]
    if not rows:
      raise protocol.BadDataError(
        f'{self.dataset.input_path} does not contain any records.'
      )
    names = alignment.group_names(self.group_by, [row['name'] for row in rows])
    pixels = np.concatenate(pixels)
    groups = specific_alignment.groups(
      names, [hashlib.blake2b(image.tobytes()).hexdigest() for image in pixels]
    )
    try:
      partners = faithfulness.partners(groups)
    except ValueError as e:
      raise protocol.BadDataError(f'--faithfulness: {e}') from None
    return _Images(pixels, np.concatenate(human), rows, groups, partners)

  def _measure(self, adapter, images, chunk, options, progress):
    """Returns the rows of some images."""

    def explain(inputs, classes):
      return explainers.explain(
        explainers.get(self.explainer, adapter, **options),
        inputs,
        np.eye(adapter.scored_classes, dtype=np.float32)[classes],
      )

    inputs = adapter.preprocess(images.pixels[chunk])
    labels = np.array([images.rows[i]['label'] for i in chunk])
    logits = adapter.logits(inputs)
    others = faithfulness.highest_other_class(logits, labels)
    maps, of_other = explain(inputs, labels), explain(inputs, others)
    rows = [dict(images.rows[i]) for i in chunk]
    for row, index, other, prediction in zip(
      rows, chunk, others, accuracy.predict(logits)
    ):
      row['group'] = int(images.groups[index])
      row['prediction'] = int(prediction)
      row['other_class'] = int(other)
    _compare_maps(adapter, explain, images, chunk, maps, of_other, rows)
    for i, row in enumerate(rows):
      row.update(
        self._areas(adapter, images, chunk[i], labels[i], maps[i], of_other[i])
      )
      progress(1)
    return rows

  def _areas(
    self, adapter, images, index, label, saliency, of_other
  ) -> dict[str, float]:
    """Returns the areas of all orders and fills of an image."""

    def score(versions):
      found = [
        adapter.logits(adapter.preprocess(versions[i : i + self.batch_size]))
        for i in range(0, len(versions), self.batch_size)
      ]
      return faithfulness.class_scores(np.concatenate(found), label)

    image = images.pixels[index]
    fills = faithfulness.fills(image, images.pixels[images.partners[index]])
    ends = score(np.stack([image, *fills.values()]))
    row: dict[str, float] = {}
    row['probability'], row['logit'] = ends[0].tolist()
    for name, ranked in _orders(index, saliency, images.human[index]):
      for place, (fill, pixels) in enumerate(fills.items()):
        both = np.full((2, 2), np.nan)
        if ranked is not None:
          both = np.stack(
            faithfulness.areas(
              score, image, pixels, ranked, ends[[0, place + 1]]
            )
          )
        for direction, values in zip(('deletion', 'insertion'), both):
          row[f'{direction}_{name}_{fill}'] = float(values[0])
          row[f'logit_{direction}_{name}_{fill}'] = float(values[1])
    ranked = faithfulness.order(of_other, _rng(index))
    for place, (fill, pixels) in enumerate(fills.items()):
      value = float('nan')
      if ranked is not None:
        made = faithfulness.versions(image, pixels, ranked)[1]
        curve = [ends[[place + 1]], score(made), ends[:1]]
        value = float(faithfulness.area(np.concatenate(curve))[0])
      row[f'insertion_other_class_{fill}'] = value
    return row


# How maps are compared: as they are, by magnitude (maps may have a sign), and
# blurred as the maps that specific alignment compares.
_FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'rho': lambda maps: maps,
  'magnitude': np.abs,
  'blurred': lambda maps: specific_alignment.blur(
    maps, specific_alignment.RANKED
  ),
}


def _compare_maps(adapter, explain, images, chunk, maps, of_other, rows):
  """Adds rank correlations of maps to the rows."""
  partners = images.partners[chunk]
  inputs = adapter.preprocess(images.pixels[chunk])
  labels = np.array([row['label'] for row in rows])
  related = {
    'unrelated': explain(
      adapter.preprocess(images.pixels[partners]),
      np.array([images.rows[i]['label'] for i in partners]),
    ),
    'other_class': of_other,
  }
  reason = ''
  for part in fresh_weights.PARTS:
    try:
      with adapter.with_fresh_weights(_SEED, part):
        related[part] = explain(inputs, labels)
    except fresh_weights.Unavailable as e:
      related[part], reason = np.full_like(maps, np.nan), str(e)
  for name, compared in related.items():
    for form, change in _FORMS.items():
      for row, rho in zip(
        rows, faithfulness.correlations(change(maps), change(compared))
      ):
        row[f'{form}_{name}'] = float(rho)
  for row in rows:
    row['not_randomized'] = reason


def _rng(index: int) -> np.random.Generator:
  """Returns the generator of an image, the same for all networks."""
  return np.random.default_rng((_SEED, index))


def _orders(
  index: int, saliency: np.ndarray, human: np.ndarray
) -> Iterator[tuple[str, np.ndarray | None]]:
  """Yields the name of each order of pixels, and the order."""
  height, width = saliency.shape
  noise = _rng(index).standard_normal((1, height, width), np.float32)

  def smooth(maps):
    return specific_alignment.blur(maps, specific_alignment.RANKED)[0]

  for name, values in zip(
    ORDERS,
    (
      saliency,
      smooth(saliency[np.newaxis]),
      smooth(human[np.newaxis]),
      noise[0],
      smooth(noise),
    ),
    strict=True,
  ):
    yield name, faithfulness.order(values, _rng(index))
