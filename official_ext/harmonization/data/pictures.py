"""Images and maps as bytes: what a record holds of them, without TensorFlow."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

# Pillow's names of the layouts that a one-channel map can have.
_MAP_TYPES = {'L': np.uint8, 'I;16': np.uint16, 'I;16B': np.uint16}
# Those of images, of 8 bits a channel.
_IMAGE_MODES = ('L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
_FORMATS = ('JPEG', 'PNG')
# zlib's fastest: four times as fast as its usual, for a tenth more bytes.
_COMPRESSION = 1


class Shape(NamedTuple):
  """What an encoded picture says of itself, sizes in pixels."""
  height: int
  width: int
  channels: int
  format: str


def _open(encoded: bytes) -> Image.Image:
  """Opens a JPEG or PNG; what is wrong with one is a ValueError."""
  try:
    return Image.open(io.BytesIO(encoded), formats=_FORMATS)
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    raise ValueError(f'not a readable JPEG or PNG ({e})') from None


def _load(encoded: bytes) -> Image.Image:
  """Opens and decodes a picture, so that a cut one is found."""
  picture = _open(encoded)
  try:
    picture.load()
  except (OSError, SyntaxError, ValueError) as e:
    raise ValueError(f'not a readable JPEG or PNG ({e})') from None
  return picture


def shape(encoded: bytes) -> Shape:
  """Reads a picture's header.

  Args:
    encoded: a JPEG or PNG.

  Returns:
    Its size, channels and format ('JPEG' or 'PNG').

  Raises:
    ValueError: it is neither.
  """
  picture = _open(encoded)
  return Shape(picture.height, picture.width, len(picture.getbands()),
               picture.format)


def check(encoded: bytes):
  """Decodes a picture to the end.

  Args:
    encoded: a JPEG or PNG.

  Raises:
    ValueError: it is neither, or damaged.
  """
  _load(encoded)


def encode_image(pixels: np.ndarray, jpeg_quality: int = 0) -> bytes:
  """Encodes an image that came as numbers.

  Args:
    pixels: (H, W), (H, W, 1) or (H, W, 3), uint8, or of any other type with
      values in [0, 255], or all in [0, 1], which are then taken times 255.
    jpeg_quality: 1..100 for JPEG; 0 for PNG, which loses nothing.

  Returns:
    The encoded image.

  Raises:
    ValueError: these are no such numbers.
  """
  if pixels.ndim == 3 and pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  if pixels.size == 0 or not (
      pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[-1] == 3):
    raise ValueError(f'an image of shape {pixels.shape}')
  if pixels.dtype != np.uint8:
    low, high = pixels.min(), pixels.max()
    # Not a comparison of `low < 0 or high > 255`: NaN must not pass.
    if not (low >= 0 and high <= 255):
      raise ValueError(f'an image with values from {low} to {high}')
    if np.issubdtype(pixels.dtype, np.floating) and high <= 1:
      pixels = pixels * 255.
    pixels = np.round(pixels).astype(np.uint8)
  buffer = io.BytesIO()
  if jpeg_quality:
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=jpeg_quality)
  else:
    Image.fromarray(pixels).save(buffer, 'PNG', compress_level=_COMPRESSION)
  return buffer.getvalue()


def decode_image(encoded: bytes) -> np.ndarray:
  """Decodes an image as a network is shown it.

  Args:
    encoded: a JPEG or PNG of 8 bits: grey, colour, with a palette or CMYK.
      Transparency is left out.

  Returns:
    uint8 (H, W, 3), RGB.

  Raises:
    ValueError: it is no such picture.
  """
  picture = _load(encoded)
  if picture.mode not in _IMAGE_MODES:
    raise ValueError(f'an image with {picture.mode} pixels instead of ones of '
                     '8 bits')
  return np.asarray(picture.convert('RGB'))


def encode_map(values: np.ndarray) -> bytes:
  """Encodes a human map as a PNG of one channel.

  Whole numbers of 8 or 16 bits are kept as they are. Other numbers are scaled
  so that the greatest is 65535: a map's unit means nothing, its zeros and its
  order do, and 16 bits keep the order apart where 8 would make ties.

  Args:
    values: (H, W) or (H, W, 1), not negative.

  Returns:
    The encoded map.

  Raises:
    ValueError: it is no map, or says nothing because all of it is equal.
  """
  if values.ndim == 3 and values.shape[-1] == 1:
    values = values[..., 0]
  if values.ndim != 2 or values.size == 0:
    raise ValueError(f'a map of shape {values.shape}')
  low, high = values.min(), values.max()
  if not (low >= 0 and np.isfinite(high)):
    raise ValueError(f'a map with values from {low} to {high}')
  if low == high:
    raise ValueError('a map without contrast')
  if values.dtype not in (np.uint8, np.uint16):
    values = np.round(values * (65535. / high)).astype(np.uint16)
  buffer = io.BytesIO()
  Image.fromarray(values).save(buffer, 'PNG', compress_level=_COMPRESSION)
  return buffer.getvalue()


def decode_map(encoded: bytes) -> np.ndarray:
  """Decodes a one-channel map.

  Args:
    encoded: a grey JPEG or PNG.

  Returns:
    uint8 or uint16 (H, W).

  Raises:
    ValueError: it is no such picture.
  """
  picture = _load(encoded)
  if picture.mode not in _MAP_TYPES:
    raise ValueError(
        f'a map with {picture.mode} pixels instead of grey ones of 8 or 16 bit')
  return np.asarray(picture).astype(_MAP_TYPES[picture.mode])
