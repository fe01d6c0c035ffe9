"""Turns a source's images into canonical records, one by one."""

from collections.abc import Iterator, Sequence

import numpy as np

from official_ext.harmonization.data.maps import clicks
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_sources
from official_ext.harmonization.data.records import record_writer
from official_ext.harmonization.data.records import shards
from official_ext.harmonization.ops import blur

# A one-hot vector of more would not fit into memory.
_LABELS = 1 << 31
# The part of a map's mass that must be left where it is blurred.
_ENOUGH = 0.5


class Maker:
  """Makes canonical records of a source's images."""

  def __init__(
    self, source, label_offset: int = 0, map_resize: str = 'antialias'
  ):
    """Initializes the maker.

    Args:
      source: of the images.
      label_offset: is added to every label.
      map_resize: how maps will be brought to the cells that are blurred, see
        `ops.blur.to_cells`: a map that loses its mass there is counted.
    """
    self._source = source
    self._label_offset = label_offset
    self._map_resize = map_resize

  def __call__(self, images: Sequence[str]) -> Iterator[shards.Outcome]:
    """Yields the outcome of each image."""
    for name in images:
      yield self.outcome(name)

  def outcome(
    self, name: str, rows: Sequence[clicks.Row] | None = None
  ) -> shards.Outcome:
    """Makes one record, or says why there is none.

    Args:
      name: of the image.
      rows: its clicks, where these are at hand.

    Returns:
      What became of the image.
    """
    try:
      sample = (
        self._source.sample(name)
        if rows is None
        else self._source.from_rows(name, rows)
      )
      return self._made(name, sample)
    except map_sources.Unusable as e:
      return shards.Outcome(
        name, reason=e.reason, detail=e.detail, counts=e.counts, rows=e.rows
      )

  def _made(self, name: str, sample: map_sources.Sample) -> shards.Outcome:
    """Makes the record of an image that was loaded."""
    label = sample.label + self._label_offset
    if not 0 <= label < _LABELS:
      raise map_sources.Unusable(
        'no label',
        f'class {label} after --label_offset',
        sample.counts,
        sample.rows,
      )
    try:
      heatmap = image_codec.encode_map(sample.heatmap)
    except ValueError as e:
      raise map_sources.Unusable(
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
    return shards.Outcome(
      name, record, counts=counts, rows=sample.rows, label=label
    )

  def _loses_mass(self, values: np.ndarray, encoded: bytes) -> bool:
    """Whether less than half of a map is left of it where it is blurred."""
    stored = image_codec.decode_map(encoded)
    cells = blur.to_cells(
      stored[np.newaxis, ..., np.newaxis].astype(np.float32), self._map_resize
    ).numpy()
    # As parts of the maxima: the unit of what is stored is another one.
    left = cells.mean(dtype=np.float64) / stored.max()
    return left < _ENOUGH * values.mean(dtype=np.float64) / values.max()
