# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Decodes and encodes images and maps.

Images are decoded as people see them: rotated by their EXIF orientation, with
16 bits converted to 8, and on white where they are transparent. TensorFlow does
none of this, so `as_seen` encodes such images again for a record.
"""

import io
import struct
from typing import NamedTuple
import zlib

import numpy as np
from PIL import ExifTags
from PIL import Image
import tensorflow as tf

# Extensions of image files, in lower case.
ENDINGS = (
  '.jpg',
  '.jpeg',
  '.jpe',
  '.jfif',
  '.mpo',
  '.png',
  '.webp',
  '.gif',
  '.bmp',
  '.tif',
  '.tiff',
)

# What builders count when `as_seen` encodes an image again.
ANEW = 'images: encoded anew, as people see them'

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF')
_NAMES = 'JPEG or PNG, nor WebP, GIF, BMP or TIFF'
# Modes with at most 8 bits per channel that Pillow can convert to RGB.
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr')
# Modes with 16 and 32 bits, which Pillow would clip at 255.
_DEEP_MODES = ('I;16', 'I;16B', 'I;16L', 'I;16N', 'I', 'F')
# How much channels of a grey image may differ in lossy formats.
_ROUNDING = 2
# zlib's fastest: four times as fast as the default, for a tenth more bytes.
_COMPRESSION = 1
# Errors that Pillow is known to raise for damaged files.
_DAMAGE = (
  OSError,
  SyntaxError,
  ValueError,
  TypeError,
  LookupError,
  EOFError,
  ArithmeticError,
  AttributeError,
  AssertionError,
  MemoryError,
  RuntimeError,
  struct.error,
  zlib.error,
  Image.DecompressionBombError,
)
# How a viewer transforms an array of pixels, by EXIF orientation.
_TURNS = {
  2: np.fliplr,
  3: lambda pixels: np.rot90(pixels, 2),
  4: np.flipud,
  5: lambda pixels: np.swapaxes(pixels, 0, 1),
  6: lambda pixels: np.rot90(pixels, -1),
  7: lambda pixels: np.swapaxes(np.rot90(pixels, 2), 0, 1),
  8: np.rot90,
}
# Orientations that swap height and width.
_SIDEWAYS = (5, 6, 7, 8)


class Shape(NamedTuple):
  """The size in pixels, channels and format in the header of an image."""

  height: int
  width: int
  channels: int
  format: str


def _unreadable(error: Exception) -> ValueError:
  # Pillow's message would contain the address of an object.
  detail = (
    'unknown format'
    if isinstance(error, Image.UnidentifiedImageError)
    else error
  )
  return ValueError(f'not a readable {_NAMES} ({detail})')


def _open(encoded: bytes) -> Image.Image:
  """Opens an image; raises ValueError if that fails."""
  try:
    picture = Image.open(io.BytesIO(encoded), formats=_FORMATS)
  except _DAMAGE as e:
    raise _unreadable(e) from None
  if picture.format == 'MPO':  # A JPEG, followed by further ones.
    picture.format = 'JPEG'
  return picture


def _load(encoded: bytes) -> Image.Image:
  """Opens and decodes an image, so that a truncated file is noticed."""
  picture = _open(encoded)
  limit = Image.MAX_IMAGE_PIXELS
  if limit and picture.width * picture.height > limit:
    raise ValueError(
      f'an image of {picture.width} x {picture.height} pixels; expected at '
      f'most {limit} pixels'
    )
  try:
    frames = 1 if picture.format == 'JPEG' else getattr(picture, 'n_frames', 1)
    picture.load()
  except _DAMAGE as e:
    raise _unreadable(e) from None
  if frames > 1:
    raise ValueError(
      f'a {picture.format} of {frames} frames or pages; expected one image. '
      'Save the one that people saw'
    )
  return picture


def _orientation(picture: Image.Image) -> int:
  """Returns the EXIF orientation after `load`, which rotates TIFFs itself."""
  try:
    return picture.getexif().get(ExifTags.Base.Orientation, 1)
  except _DAMAGE:  # Viewers ignore damaged EXIF data, too.
    return 1


def _turn(pixels: np.ndarray, picture: Image.Image) -> np.ndarray:
  """Rotates and flips the pixels (H, W, ...) of an image as viewers do."""
  turn = _TURNS.get(_orientation(picture))
  return np.ascontiguousarray(turn(pixels)) if turn else pixels


def shape(encoded: bytes) -> Shape:
  """Reads the header of an image.

  Args:
    encoded: an image.

  Returns:
    Its stored size, channels and format ('JPEG', 'PNG', ...). The EXIF
    orientation is ignored, see `size_as_seen`.

  Raises:
    ValueError: it is not an image.
  """
  picture = _open(encoded)
  return Shape(
    picture.height, picture.width, len(picture.getbands()), picture.format or ''
  )


def size_as_seen(encoded: bytes) -> tuple[int, int]:
  """Returns the height and width in pixels of an image as people see it.

  Args:
    encoded: an image; its EXIF orientation may swap height and width.

  Raises:
    ValueError: it is not an image.
  """
  picture = _open(encoded)
  if picture.format != 'JPEG':  # Other formats may store it after the pixels.
    picture = _load(encoded)
  if _orientation(picture) in _SIDEWAYS:
    return picture.width, picture.height
  return picture.height, picture.width


def _check_numbers(values: np.ndarray, what: str):
  """Raises ValueError unless the values are real numbers."""
  if values.dtype.kind not in 'buif':
    raise ValueError(f'{what} of type {values.dtype}; expected real numbers')


def check_finite(values: np.ndarray, what: str, expected: str):
  """Raises ValueError if values are NaN or infinite, and says how many.

  Args:
    values: of any shape.
    what: names them, such as 'a map'.
    expected: the range of valid values, for the message.
  """
  unusable = int(np.count_nonzero(~np.isfinite(values)))
  if unusable:
    raise ValueError(
      f'{what} in which {unusable} of {values.size} values are NaN or '
      f'infinite; expected {expected}'
    )


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
  """Rounds numbers in [0, 255], or in [0, 1] times 255, to uint8."""
  _check_numbers(pixels, 'an image')
  if pixels.dtype == np.uint8:
    return pixels
  expected = 'values in 0..255, or in 0..1'
  check_finite(pixels, 'an image', expected)
  low, high = pixels.min(), pixels.max()
  if low < 0 or high > 255:
    raise ValueError(
      f'an image with values from {low} to {high}; expected {expected}'
    )
  scale = 255.0 if high <= 1 else 1.0
  return np.round(pixels.astype(np.float64) * scale).astype(np.uint8)


def _encode(pixels: np.ndarray, jpeg_quality: int) -> bytes:
  """Encodes uint8 or uint16 pixels, as PNG or JPEG."""
  buffer = io.BytesIO()
  if jpeg_quality:
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=jpeg_quality)
  else:
    Image.fromarray(pixels).save(buffer, 'PNG', compress_level=_COMPRESSION)
  return buffer.getvalue()


def encode_image(pixels: np.ndarray, jpeg_quality: int = 0) -> bytes:
  """Encodes an image given as an array.

  Args:
    pixels: (H, W), (H, W, 1) or (H, W, 3); uint8, or any other real type with
      values in [0, 255]. If all are in [0, 1], they are multiplied by 255.
    jpeg_quality: 1..100 for JPEG; 0 for PNG, which is lossless.

  Returns:
    The encoded image.

  Raises:
    ValueError: the array has another shape, type or range.
  """
  if pixels.ndim == 3 and pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  if pixels.size == 0 or not (
    pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[-1] == 3
  ):
    raise ValueError(
      f'an image of shape {pixels.shape}; expected (height, width, 3)'
    )
  return _encode(_as_bytes(pixels), jpeg_quality)


def _deep(picture: Image.Image) -> tuple[np.ndarray, int]:
  """Returns the values of a grey image of more than 8 bits, and their maximum.

  A maximum of 0 means that it is unknown, as for values of 32 bits.
  """
  values = np.asarray(picture)
  values = values.astype(values.dtype.newbyteorder('='))
  tags = getattr(picture, 'tag_v2', {})
  # Older versions of Pillow read a PNG of 16 bits as mode I.
  sixteen = picture.mode not in 'IF' or picture.format == 'PNG'
  max_value = 2 ** tags.get(258, (16,))[0] - 1 if sixteen else 0
  if tags.get(262) == 0:  # White is zero; Pillow handles it only for 8 bits.
    if not max_value:
      raise ValueError(
        'an image of 32 bits in which white is 0; expected black to be 0'
      )
    values = max_value - values
  return values, max_value


def _colours(picture: Image.Image) -> np.ndarray:
  """Returns the stored pixels of an image, uint8 (H, W, 3)."""
  if picture.mode in _DEEP_MODES:
    values, max_value = _deep(picture)
    # A maximum below 4096 could mean 12 bits, or 8 bits slightly exceeded.
    if not max_value and 4096 <= values.max() <= 65535:
      max_value = 65535
    if max_value:
      values = values * (255.0 / max_value)
      # Rounded here: `_as_bytes` would scale an almost black image from 0..1.
      values = np.round(values).clip(0, 255).astype(np.uint8)
    return np.stack([_as_bytes(values)] * 3, axis=-1)
  if picture.mode not in _MODES:
    raise ValueError(
      f'an image with {picture.mode} pixels; expected grey or colours'
    )
  if picture.has_transparency_data:
    background = Image.new('RGBA', picture.size, 'white')
    background.alpha_composite(picture.convert('RGBA'))
    picture = background
  return np.asarray(picture.convert('RGB'))


def decode_image(encoded: bytes) -> np.ndarray:
  """Decodes an image as people see it.

  Args:
    encoded: an image in grey, colour, CMYK or with a palette, of any depth. It
      is rotated by its EXIF orientation; transparent parts become white.

  Returns:
    uint8 (H, W, 3), RGB.

  Raises:
    ValueError: it is not such an image, or is an animation.
  """
  picture = _load(encoded)
  return _turn(_colours(picture), picture)


def as_seen(encoded: bytes, jpeg_quality: int = 0) -> bytes:
  """Returns an encoded image that TensorFlow decodes as people see it.

  TensorFlow does not rotate images, drops half of 16 bits, and treats CMYK and
  transparency differently.

  Args:
    encoded: an image, as for `decode_image`.
    jpeg_quality: as for `encode_image`, if it must be encoded again.

  Returns:
    The same bytes if they are a JPEG or PNG that every decoder reads alike,
    otherwise a new JPEG or PNG.

  Raises:
    ValueError: it is not such an image.
  """
  picture = _load(encoded)
  plain = (
    picture.format == 'JPEG'
    or picture.format == 'PNG'
    and _depth_of_png(encoded) == 8
  )
  if (
    plain
    and picture.mode in ('L', 'RGB')
    and not picture.has_transparency_data
    and _orientation(picture) not in _TURNS
  ):
    return encoded
  return _encode(_turn(_colours(picture), picture), jpeg_quality)


def _depth_of_png(encoded: bytes) -> int:
  return encoded[24]


def as_map(values: np.ndarray) -> np.ndarray:
  """Checks a human map, and normalizes its shape and type.

  Args:
    values: (H, W), (H, W, 1), (1, H, W), or (H, W, C) with equal channels; real
      numbers of any type, finite and not negative.

  Returns:
    (H, W). uint8 and uint16 are unchanged except for the byte order; other
    types become float64 with a maximum of 1, or 0 if all values are.

  Raises:
    ValueError: it is not such a map.
  """
  _check_numbers(values, 'a map')
  found = values.shape
  if values.ndim == 3 and values.shape[0] == 1 and values.shape[-1] != 1:
    values = values[0]
  if values.ndim == 3 and values.size:
    if (values != values[..., :1]).any():
      raise ValueError(
        f'a map of shape {found} with different channels; expected one '
        'channel, or equal channels: colours are not values'
      )
    values = values[..., 0]
  if values.ndim != 2 or not values.size:
    raise ValueError(f'a map of shape {found}; expected (height, width)')
  expected = 'finite values that are not negative'
  check_finite(values, 'a map', expected)
  if values.min() < 0:
    raise ValueError(
      f'a map with values from {values.min()} to {values.max()}; expected '
      f'{expected}'
    )
  if values.dtype.kind == 'u' and values.dtype.itemsize <= 2:
    return values.astype(values.dtype.newbyteorder('='))
  # Divided in double precision: half precision ends at 65504, and 65535 divided
  # by a tiny maximum overflows.
  wide = values.astype(np.result_type(values.dtype, np.float64))
  return (wide / (wide.max() or 1)).astype(np.float64)


def encode_map(values: np.ndarray) -> bytes:
  """Encodes a human map as a PNG of one channel.

  Integers of 8 or 16 bits are unchanged. Other values are scaled to a maximum
  of 65535: the unit of a map has no meaning, but its zeros and the order of its
  values do, and 8 bits would make ties.

  Args:
    values: as for `as_map`.

  Returns:
    The encoded map.

  Raises:
    ValueError: it is not a map, or is constant when stored with 16 bits.
  """
  stored = as_map(values)
  if stored.dtype == np.float64:
    stored = np.round(stored * 65535.0).astype(np.uint16)
  if stored.min() == stored.max():
    constant = values.min() == values.max()
    raise ValueError(
      'a map without contrast'
      + (
        ''
        if constant
        else (
          f': its values, from {values.min()} to {values.max()}, are equal '
          'in 16 bits; subtract the minimum'
        )
      )
    )
  return _encode(stored, 0)


def decode_map(encoded: bytes) -> np.ndarray:
  """Decodes a map from an image, rotated by its EXIF orientation.

  Args:
    encoded: a grey image: with one channel, equal channels, or a palette of
      grey values.

  Returns:
    (H, W): uint8 or uint16; int32 or float32 if the file has these types.

  Raises:
    ValueError: it is not such an image.
  """
  picture = _load(encoded)
  if picture.mode in _DEEP_MODES:
    return _turn(_deep(picture)[0], picture)
  if picture.mode not in _MODES:
    raise ValueError(f'a map with {picture.mode} pixels; expected grey ones')
  if picture.format == 'PNG' and _depth_of_png(encoded) == 16:
    # Pillow would keep 8 bits of these colours.
    channels = tf.io.decode_png(encoded, 0, tf.uint16).numpy()
    alpha = None
    if channels.shape[-1] in (2, 4):
      channels, alpha = channels[..., :-1], channels[..., -1] // 257
  else:
    rgba = np.asarray(picture.convert('RGBA'))
    channels, alpha = rgba[..., :3], rgba[..., 3]
  if alpha is not None and alpha.min() < 255:
    raise ValueError(
      'a map with transparent pixels; expected an opaque one. Save it without '
      'an alpha channel'
    )
  # Lossy formats round each channel separately.
  slack = _ROUNDING if picture.format in ('JPEG', 'WEBP') else 0
  if np.ptp(channels, axis=-1).max() > slack:
    raise ValueError(
      'a map in colour; expected grey, or equal channels. Save its values, '
      'not a visualization of them'
    )
  return _turn(channels[..., channels.shape[-1] // 2], picture)
