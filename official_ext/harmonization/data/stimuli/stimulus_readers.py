# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads images and human maps for stimuli from folders or records."""

from collections.abc import Iterator, Sequence
import dataclasses
import os
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_readers
from official_ext.harmonization.data.records import record_checks
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.data.records import shard_builder
from official_ext.harmonization.dataloaders import registry


@dataclasses.dataclass(frozen=True)
class StimulusImage:
  """An image with its map, or the reason why it is skipped.

  Attributes:
    name: of the image in its folder or file of records.
    label: its class; -1 if it is skipped.
    load: returns the image, uint8 (H, W, 3), and the map, (h, w), which is
      not negative; None if the image is skipped.
    reason: why it is skipped, or ''.
    detail: what was found.
  """

  name: str
  label: int = -1
  load: Any = None
  reason: str = ''
  detail: str = ''


def from_maps(reader, seed: int) -> Iterator[StimulusImage]:
  """Yields the images of a reader, in an order that the seed gives.

  Args:
    reader: one of those in `map_readers`.
    seed: of the order.
  """
  for name in sorted(
    reader.names(), key=lambda name: (shard_builder.position(name, seed), name)
  ):
    try:
      sample = reader.sample(name)
    except map_readers.SkippedImage as e:
      yield StimulusImage(name, reason=e.reason, detail=e.detail)
      continue
    yield StimulusImage(
      name,
      sample.label,
      lambda s=sample: (image_codec.decode_image(s.image), s.heatmap),
    )


def from_records(
  paths: Sequence[str], map_decoder: str, raw_image_max: float
) -> Iterator[StimulusImage]:
  """Yields the images of records in their order, named by file and index.

  Args:
    paths: of the files.
    map_decoder: format of the records, see `dataloaders.registry`.
    raw_image_max: the value of white in raw pixels.
  """
  decoder = registry.get_decoder(map_decoder, raw_image_max)
  decode = tf.function(
    decoder.decode, input_signature=[tf.TensorSpec((), tf.string)]
  )
  for path in paths:
    for record in record_reader.read(path):
      name = f'{os.path.basename(path)}:{record.index}'
      problem = record.problem
      if record.unread:
        problem += f'; the {record.unread} bytes from there are not read'
      if not problem:
        fields = decode(record.data)
        problem = fields['problem'].numpy().decode(errors='replace')
        hint = problem and record_checks.other_format(record.data, map_decoder)
        problem += f'; {hint}' if hint else ''
      if problem:
        yield StimulusImage(name, reason='bad record', detail=problem)
      elif not bool(fields.get('has_map', True)):
        yield StimulusImage(name, reason='image without a map')
      else:
        yield StimulusImage(
          name, int(fields['label']), lambda f=fields: _arrays(f)
        )


def _arrays(fields):
  """Returns pixels and map of a decoded record, in which white is 255."""
  image = np.uint8(np.clip(np.round(fields['image'].numpy()), 0, 255))
  return image, fields['heatmap'].numpy()[..., 0]
