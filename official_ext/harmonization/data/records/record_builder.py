# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Turns images and maps into canonical records, one by one."""

from collections.abc import Iterator, Sequence

import numpy as np

from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_readers
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.records import shard_builder
from official_ext.harmonization.ops import blur

# A one-hot vector for more classes would not fit into memory.
_LABELS = 1 << 31
# The part of a map's mass that must be left after resizing.
_ENOUGH = 0.5


class RecordBuilder:
  """Makes canonical records of the images of a reader."""

  def __init__(
    self, reader, label_offset: int = 0, map_resize: str = 'antialias'
  ):
    """Initializes the builder.

    Args:
      reader: one of those in `map_readers`.
      label_offset: added to every label.
      map_resize: how training will resize the maps before they are blurred, see
        `ops.blur.to_cells`. Maps that lose their mass by that are counted.
    """
    self._reader = reader
    self._label_offset = label_offset
    self._map_resize = map_resize

  def __call__(
    self, images: Sequence[str]
  ) -> Iterator[shard_builder.RecordOutcome]:
    """Yields the outcome of each image."""
    for name in images:
      yield self.outcome(name)

  def outcome(
    self, name: str, rows: Sequence[clicks.ParticipantClicks] | None = None
  ) -> shard_builder.RecordOutcome:
    """Makes one record, or describes why the image is skipped.

    Args:
      name: of the image.
      rows: its clicks, if the reader has no table of clicks.

    Returns:
      The record, or the reason.
    """
    try:
      sample = (
        self._reader.sample(name)
        if rows is None
        else self._reader.from_rows(name, rows)
      )
      return self._made(name, sample)
    except map_readers.SkippedImage as e:
      return shard_builder.RecordOutcome(
        name, reason=e.reason, detail=e.detail, counts=e.counts, rows=e.rows
      )

  def _made(
    self, name: str, sample: map_readers.Sample
  ) -> shard_builder.RecordOutcome:
    """Makes the record of a sample."""
    label = sample.label + self._label_offset
    if not 0 <= label < _LABELS:
      raise map_readers.SkippedImage(
        'no label',
        f'class {label} after --label_offset',
        sample.counts,
        sample.rows,
      )
    try:
      heatmap = image_codec.encode_map(sample.heatmap)
    except ValueError as e:
      raise map_readers.SkippedImage(
        'map not usable', e, sample.counts, sample.rows
      ) from None
    record = record_writer.canonical_example(
      sample.image,
      label,
      sample.filename,
      heatmap,
      sample.source,
      sample.clicks,
      sample.participants,
    )
    counts = dict(sample.counts)
    if self._loses_mass(sample.heatmap, heatmap):
      counts[
        f'maps: lose most of their mass (map_resize={self._map_resize})'
      ] = 1
    return shard_builder.RecordOutcome(
      name, record, counts=counts, rows=sample.rows, label=label
    )

  def _loses_mass(self, values: np.ndarray, encoded: bytes) -> bool:
    """Whether a map loses more than half of its mass when it is resized."""
    stored = image_codec.decode_map(encoded)
    cells = blur.to_cells(
      stored[np.newaxis, ..., np.newaxis].astype(np.float32), self._map_resize
    ).numpy()
    # Relative to the maxima, because the stored map has another unit.
    left = cells.mean(dtype=np.float64) / stored.max()
    return left < _ENOUGH * values.mean(dtype=np.float64) / values.max()
