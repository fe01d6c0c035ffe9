# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads records with human maps without the decoders of this project.

Protocol buffers, Pillow, OpenCV and NumPy read what TensorFlow's ops and
`dataloaders` read, so that wrong values are detected.
"""

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL import ImageFile
import tensorflow as tf

_SIDES = {'clickme_2018': 256, 'clickme_per_category': 224}
# Weights of red, green and blue in grey: for JPEG, and TensorFlow's for PNG.
_LUMAS = ((0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722))


class Unreadable(Exception):
  """A record cannot be read, or is ambiguous."""


class Reading(NamedTuple):
  """The content of a record.

  Attributes:
    label: label as recorded.
    images: float32 (H, W, 3), white at 255: all valid readings of the image.
    heatmaps: float32 (h, w): all valid readings of the map; empty without one.
  """

  label: int
  images: list[np.ndarray]
  heatmaps: list[np.ndarray]


def _fields(serialized: bytes) -> dict[str, list[Any]]:
  try:
    example = tf.train.Example.FromString(serialized)
  except Exception as e:  # Pillow raises several types
    raise Unreadable(str(e)) from None
  return {
    name: list(getattr(feature, feature.WhichOneof('kind')).value)
    if feature.WhichOneof('kind')
    else []
    for name, feature in example.features.feature.items()
  }


def _one(fields, name: str, kind: type, optional: bool = False):
  """Returns the only value of a field, or None if it is optional and empty."""
  values = fields.get(name, [])
  if optional and not values:
    return None
  if len(values) != 1 or not isinstance(values[0], kind):
    raise Unreadable(f'{name} is not one {kind.__name__}')
  return values[0]


def _with_pillow(encoded: bytes) -> np.ndarray:
  """Returns the pixels, uint8 (H, W, 3), without transparency."""
  picture = Image.open(io.BytesIO(encoded))
  picture.load()
  if picture.mode.startswith('I'):
    grey = np.asarray(picture).astype(np.uint16) >> 8
    return np.repeat(grey[..., np.newaxis], 3, -1).astype(np.uint8)
  if picture.mode in ('P', 'PA', 'LA', 'RGBA'):
    return np.asarray(picture.convert('RGBA'))[..., :3]
  return np.asarray(picture.convert('RGB'))


def _with_opencv(encoded: bytes) -> np.ndarray | None:
  if not encoded:
    return None
  pixels = cv2.imdecode(
    np.frombuffer(encoded, np.uint8),
    cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
  )
  return None if pixels is None else pixels[..., ::-1]


def _cut_to_frame(gif: bytes) -> bytes:
  """Sets the size of a GIF to that of its first frame, as TensorFlow does."""
  place = 13 + (3 << (gif[10] & 7) + 1) * (gif[10] >> 7)
  while gif[place] == 0x21:  # An extension: blocks up to an empty one.
    place += 2
    while gif[place]:
      place += gif[place] + 1
    place += 1
  return gif[:6] + gif[place + 5 : place + 9] + gif[10:]


def _pictures(encoded: bytes) -> list[np.ndarray]:
  """Returns all valid readings of an encoded image, uint8 (H, W, 3)."""
  found = []
  if encoded.startswith(b'GIF'):
    try:
      encoded = _cut_to_frame(encoded)
    except IndexError:
      raise Unreadable('a GIF that ends before its first frame') from None
  # Some decoders accept wrong checksums outside the pixels of a PNG.
  for tolerant in {False, encoded.startswith(b'\x89PNG')}:
    ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
    try:
      found.append(_with_pillow(encoded))
    except Exception:  # decoders raise many types
      continue
    finally:
      ImageFile.LOAD_TRUNCATED_IMAGES = False
  try:
    found.append(_with_opencv(encoded))
  except cv2.error:
    pass
  found = [pixels for pixels in found if pixels is not None]
  if not found:
    raise Unreadable('not a valid image')
  return found + _with_fast_transform(encoded, found[0])


def _with_fast_transform(encoded: bytes, pixels: np.ndarray):
  """Decodes a JPEG with TensorFlow, if only its arithmetic may differ.

  By default TensorFlow uses libjpeg's fast transform in 16 bits, which
  overflows if a damaged table makes coefficients huge. Therefore its accurate
  transform must agree with the other decoders first.
  """
  if not encoded.startswith(b'\xff\xd8'):
    return []
  try:
    fast, accurate = (
      tf.io.decode_jpeg(encoded, 3, dct_method=method).numpy()
      for method in ('INTEGER_FAST', 'INTEGER_ACCURATE')
    )
  except tf.errors.InvalidArgumentError:
    return []
  alike = (
    accurate.shape == pixels.shape
    and np.abs(np.float32(accurate) - pixels).mean() < 1.0
  )
  return [fast] if alike else []


def _grey(pixels: np.ndarray) -> list[np.ndarray]:
  return [pixels.astype(np.float32) @ np.float32(luma) for luma in _LUMAS]


def _canonical_map(encoded: bytes) -> np.ndarray:
  """Returns the map of a grey PNG, white at 255; 16 bits keep fractions."""
  ImageFile.LOAD_TRUNCATED_IMAGES = True
  try:
    picture = Image.open(io.BytesIO(encoded), formats=['PNG'])
    picture = picture.convert('L') if picture.mode == '1' else picture
    values = np.asarray(picture)
  except Exception as e:  # decoders raise many types
    raise Unreadable(str(e)) from None
  finally:
    ImageFile.LOAD_TRUNCATED_IMAGES = False
  if values.ndim != 2:
    raise Unreadable('the map has colors')
  return values.astype(np.float32) / (
    1.0 if values.dtype == np.uint8 else 257.0
  )


def _raw(data: bytes, side: int, channels: int) -> np.ndarray:
  if len(data) != 4 * side * side * channels:
    raise Unreadable('wrong number of pixels')
  return np.frombuffer(data, '<f4').reshape(side, side, channels)


def read(record_format: str, serialized: bytes) -> Reading:
  """Reads a record.

  Args:
    record_format: one of `mutations.FORMATS`.
    serialized: the record.

  Raises:
    Unreadable: the record does not contain a complete pair.
  """
  fields = _fields(serialized)
  if record_format == 'canonical':
    heatmap = _one(fields, 'image/heatmap/encoded', bytes, optional=True)
    maps = [_canonical_map(heatmap)] if heatmap else []
    for i, name in enumerate(('height', 'width')):
      said = _one(fields, f'image/heatmap/{name}', int, optional=True)
      if said is not None and not (maps and maps[0].shape[i] == said):
        raise Unreadable('the map has another size than recorded')
    return Reading(
      _one(fields, 'image/class/label', int),
      _pictures(_one(fields, 'image/encoded', bytes)),
      maps,
    )
  label = _one(fields, 'label', int)
  image, heatmap = (_one(fields, n, bytes) for n in ('image', 'heatmap'))
  if record_format == 'clickme':
    return Reading(
      label, _pictures(image), [g for p in _pictures(heatmap) for g in _grey(p)]
    )
  side = _SIDES[record_format]
  return Reading(
    label, [_raw(image, side, 3)], [_raw(heatmap, side, 1)[..., 0]]
  )
