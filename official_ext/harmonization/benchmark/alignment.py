# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Measures how the maps of a network, or of a control, agree with human maps.

Maps of all images are computed batch by batch and stored, since the agreement
with other images' human maps needs all of them (`specific_alignment`). The rest
is computed with each batch (`map_alignment`).
"""

from collections.abc import Callable, Sequence
import dataclasses
import re
import time

import numpy as np

from official_ext.harmonization.benchmark import accuracy
from official_ext.harmonization.benchmark import baselines
from official_ext.harmonization.benchmark import controls
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import map_alignment
from official_ext.harmonization.benchmark import map_store
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark import results
from official_ext.harmonization.benchmark import saliency_scores
from official_ext.harmonization.benchmark import specific_alignment
from official_ext.harmonization.benchmark.adapters import base


@dataclasses.dataclass
class Alignment:
  """Alignment with the maps of a dataset, and accuracy on its images.

  Attributes:
    dataset: the records with maps.
    batch_size: no score depends on it.
    explainer: one of `explainers.EXPLAINERS`.
    comparison_size: height and width at which maps are compared; None for each
      model's input size.
    ceiling: the mean rank correlation that counts as 1; None if that of people
      is unknown.
    group_by: regular expression on the recorded names of images: those with the
      same match are not counted as different images; '' if names do not matter.
    metrics: further saliency metrics, one of `option_values.SALIENCY_METRICS`.
    samples: samples or steps of the explainer; None for its default.
    ranks: of the human maps of the dataset, which several measurements share.
  """

  dataset: labelled_images.Dataset
  batch_size: int
  explainer: str
  comparison_size: int | None
  ceiling: float | None
  group_by: str
  metrics: str = 'none'
  samples: int | None = None
  ranks: specific_alignment.HumanRanks = dataclasses.field(
    default_factory=specific_alignment.HumanRanks
  )

  def __post_init__(self):
    self._baselines_of: tuple | None = None
    self._found_baselines: dict[str, np.ndarray] = {}

  def run(
    self,
    adapter: base.Adapter,
    progress: Callable[[int], None],
    journal: journal_lib.Journal | None = None,
  ) -> results.Measurement:
    """Measures a network or a control.

    Args:
      adapter: of the network, or a `controls.Control`.
      progress: called with the number of images that were just measured.
      journal: of a measurement that may be resumed.

    Returns:
      The measurement.

    Raises:
      protocol.BadDataError: the files contain no records, or `group_by` matches
        no name of an image.
    """
    size = (
      adapter.input_size
      if self.comparison_size is None
      else (self.comparison_size,) * 2
    )
    kinds = [specific_alignment.HUMAN, specific_alignment.RELEASED]
    if _control(adapter) not in controls.FROM_MAPS:
      kinds.append(specific_alignment.MODEL)
    folder = journal.maps if journal else None
    with map_store.MapStore(folder, kinds, size) as store:
      rows, examples, seconds = self._explain_all(
        adapter, size, store, progress, journal
      )
      if not rows:
        raise protocol.BadDataError(
          f'{self.dataset.input_path} does not contain any records.'
        )
      found = self._measurement(adapter, rows, examples, size, store)
    return found if _control(adapter) else _timed(found, seconds)

  def _explain_all(self, adapter, size, store, progress, journal):
    """Computes maps and rows of all images, or of those not in the journal."""
    rows, examples, seconds = journal_lib.kept(journal), None, []
    if len(store) < len(rows):  # A temporary store does not survive.
      journal.restart()
      rows = []
    store.keep(len(rows))
    is_resumed = bool(rows)
    if is_resumed:  # The examples were lost with the process that ended.
      for batch in self._batches(adapter, size):
        maps, _ = self._explain(adapter, batch, size)
        examples = map_alignment.extend_examples(examples, batch, maps, size)
        if map_alignment.has_all_examples(examples):
          break
    for batch in self._batches(adapter, size, start=len(rows)):
      start = time.perf_counter()
      maps, predictions = self._explain(adapter, batch, size)
      seconds.append((time.perf_counter() - start) / len(batch.images))
      found = map_alignment.rows(batch, maps, predictions)
      store.add(human=batch.unblurred, released=batch.maps, model=maps)
      rows += found
      if journal:
        journal.add(found)
      if not is_resumed:
        examples = map_alignment.extend_examples(examples, batch, maps, size)
      progress(len(found))
    return rows, examples, seconds

  def _explain(self, adapter, batch, size):
    """Returns maps and predictions, each None where a control has none."""
    control = _control(adapter)
    if not control:
      options = {'samples': self.samples, **self._baselines(adapter)}
      return map_alignment.explain(
        adapter, batch, self.explainer, size, **options
      )
    if control in controls.FROM_MAPS:
      return None, None
    return controls.maps(control, batch.images, size[0]), None

  def _baselines(self, adapter):
    """Returns the option baselines, which is read once for each network."""
    # Not the adapter, whose memory could not be freed after its turn.
    key = (adapter.spec, adapter.input_size, adapter.preprocessing)
    if self._baselines_of != key:
      self._baselines_of = key
      self._found_baselines = baselines.of_records(
        self.explainer, self.dataset, adapter
      )
    return self._found_baselines

  def _batches(self, adapter, size, start: int = 0):
    return labelled_images.batches(
      self.dataset,
      adapter.input_size,
      size,
      adapter.scored_classes,
      self.batch_size,
      start,
    )

  def _images(self, rows) -> specific_alignment.Images:
    """Groups images by their names and pixels."""
    names = group_names(self.group_by, [row['name'] for row in rows])
    return specific_alignment.Images(
      specific_alignment.groups(names, [row['pixels'] for row in rows]),
      np.array([row['label'] for row in rows]),
    )

  def _measurement(self, adapter, rows, examples, size, store):
    """Computes the scores from the rows and maps of all images."""
    preprocessing = self.preprocessing(adapter, size)
    images = self._images(rows)
    control = _control(adapter)
    made_of_maps = control if control in controls.FROM_MAPS else ''
    explained, more = specific_alignment.measure(
      store, images, preprocessing, made_of_maps, self.ranks
    )
    rows = [{**row, **values} for row, values in zip(rows, more)]
    if self.metrics != 'none':
      further, more = saliency_scores.measure(
        store,
        images,
        preprocessing,
        made_of_maps,
        has_emd=self.metrics == 'all',
      )
      rows = [{**row, **values} for row, values in zip(rows, more)]
      explained = dataclasses.replace(
        explained, scores={**explained.scores, **further}
      )
    explainer = 'none' if control else self.explainer
    measured, warnings = [], []
    if made_of_maps:
      measured.append(
        dataclasses.replace(
          specific_alignment.published(
            store, images, preprocessing, control, self.ranks
          ),
          ceiling=self.ceiling,
        )
      )
    else:
      measured, warnings = map_alignment.measure(
        rows,
        ceiling=self.ceiling,
        preprocessing=preprocessing,
        details={
          'compared_at': list(size),
          'explainer': explainer,
          'limit': self.dataset.limit,
        },
      )
    if not control:
      top1, doubts = accuracy.measure(
        [row['prediction'] for row in rows],
        [row['label'] for row in rows],
        preprocessing=preprocessing,
        model_preprocessing=adapter.preprocessing,
        groups=images.groups,
        details={'limit': self.dataset.limit},
      )
      measured, warnings = [*measured, top1], doubts + warnings
    return results.Measurement(
      scores=measured,
      rows=rows,
      warnings=warnings,
      examples=examples,
      explainers={explainer: explained},
    )

  def preprocessing(self, adapter: base.Adapter, size: Sequence[int]) -> str:
    """Describes in one line how images and maps are preprocessed.

    Args:
      adapter: the network.
      size: (height, width) at which maps are compared.
    """
    dataset, blurred = self.dataset, ''
    if dataset.blur:
      blurred = '64x64, 10x10 Gaussian of sigma 10{}, '.format(
        ' (centred)' if dataset.blur_kernel == 'centred' else ''
      )
    if dataset.resize() == 'antialias':
      blurred = f'antialiased, {blurred}'
    return (
      'whole image resized to {}x{} (bilinear); '.format(*adapter.input_size)
      + f'{adapter.preprocessing}; human map: {blurred}'
      + '{}x{}; model map: {}, {}x{}'.format(*size, self.explainer, *size)
    )


def _timed(
  found: results.Measurement, seconds: Sequence[float]
) -> results.Measurement:
  """Adds the time per image, the median over batches.

  The first batch also traces and compiles the network.
  """
  if not seconds:
    return found
  median = float(np.median(seconds))
  return dataclasses.replace(
    found,
    explainers={
      name: dataclasses.replace(e, seconds_per_image=float(f'{median:.3g}'))
      for name, e in (found.explainers or {}).items()
    },
  )


def _control(adapter) -> str:
  """Returns the name of a control; '' for a network."""
  return adapter.control if isinstance(adapter, controls.Control) else ''


def group_names(pattern: str, names: Sequence[str]) -> list[str]:
  """Returns what images of one group share.

  Args:
    pattern: as `Alignment.group_by`.
    names: (n,), of the images, as recorded; '' where they have none.

  Returns:
    What each name shares with those of its group; '' if that is not known.

  Raises:
    protocol.BadDataError: there is a pattern, and no name matches.
  """
  matches = [pattern and n and re.search(pattern, n) or None for n in names]
  found = [m.group(m.re.groups and 1) if m else '' for m in matches]
  if pattern and names and not any(found):
    raise protocol.BadDataError(
      f'--group_by={pattern} matches no recorded name of an image, such as '
      f'{names[0]!r}; expected a match. Change or remove it.'
    )
  return found
