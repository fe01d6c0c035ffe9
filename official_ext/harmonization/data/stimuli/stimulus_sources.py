"""Images and people's maps for stimuli: pixels, from folders or records."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import os

import numpy as np
import tensorflow as tf

from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_sources
from official_ext.harmonization.data.records import record_reader
from official_ext.harmonization.data.records import shards
from official_ext.harmonization.dataloaders import registry


@dataclasses.dataclass(frozen=True)
class Item:
  """An image with its map, or why it is left out.

  Attributes:
    name: of the image in its source.
    label: its class; -1 where it is left out.
    load: returns the image, uint8 (H, W, 3), and the map, (h, w), not negative.
    reason: why it is left out; '' where it is not.
    detail: what was found.
  """

  name: str
  label: int = -1
  load: Callable[[], tuple[np.ndarray, np.ndarray]] = None
  reason: str = ''
  detail: str = ''


def of_maps(source, seed: int) -> Iterator[Item]:
  """Reads a source of `map_sources`, in an order that the seed gives.

  Args:
    source: has names and samples.
    seed: of the order.

  Yields:
    Its images.
  """
  for name in sorted(
    source.names(), key=lambda name: (shards.position(name, seed), name)
  ):
    try:
      sample = source.sample(name)
    except map_sources.Unusable as e:
      yield Item(name, reason=e.reason, detail=e.detail)
      continue
    yield Item(
      name,
      sample.label,
      lambda s=sample: (image_codec.decode_image(s.image), s.heatmap),
    )


def of_records(
  paths: Sequence[str], map_decoder: str, raw_image_max: float
) -> Iterator[Item]:
  """Reads records in the order in which they stand.

  Args:
    paths: of the files.
    map_decoder: the records' format, see `dataloaders.registry`.
    raw_image_max: the value of white, where pixels are raw.

  Yields:
    Their images, named by file and position.
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
        problem += f'; {record.unread} bytes from there are not read'
      if not problem:
        fields = decode(record.data)
        problem = fields['problem'].numpy().decode(errors='replace')
      if problem:
        yield Item(name, reason='bad record', detail=problem)
      elif not bool(fields.get('has_map', True)):
        yield Item(name, reason='image without a map')
      else:
        yield Item(name, int(fields['label']), lambda f=fields: _arrays(f))


def _arrays(fields):
  """Returns pixels and map of a decoded record; decoders have white at 255."""
  image = np.uint8(np.clip(np.round(fields['image'].numpy()), 0, 255))
  return image, fields['heatmap'].numpy()[..., 0]
