"""Images and maps as bytes: the one decoder, and what a record holds of them.

Images are read as people see them: turned as their EXIF orientation says, with
16 bits brought to 8, on white where they are transparent. TensorFlow does none
of that, so `as_seen` writes such pictures anew before they go into a record.
"""

import io
import struct
from typing import NamedTuple
import zlib

import numpy as np
from PIL import ExifTags
from PIL import Image
import tensorflow as tf

# File names, in lower case, that are taken for pictures.
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

# What builders count where `as_seen` had to encode an image.
ANEW = 'images: encoded anew, as people see them'

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF')
_NAMES = 'JPEG or PNG, nor WebP, GIF, BMP or TIFF'
# Layouts of 8 bits or fewer a channel that Pillow can turn into RGB.
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr')
# Those of 16 and 32 bits, which it would cut off at 255.
_DEEP_MODES = ('I;16', 'I;16B', 'I;16L', 'I;16N', 'I', 'F')
# Levels that channels of a grey picture may differ by where colours are lossy.
_ROUNDING = 2
# zlib's fastest: four times as fast as its usual, for a tenth more bytes.
_COMPRESSION = 1
# What Pillow's readers are known to raise for damaged files.
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
# What a viewer does to an array of pixels, by EXIF orientation.
_TURNS = {
  2: np.fliplr,
  3: lambda pixels: np.rot90(pixels, 2),
  4: np.flipud,
  5: lambda pixels: np.swapaxes(pixels, 0, 1),
  6: lambda pixels: np.rot90(pixels, -1),
  7: lambda pixels: np.swapaxes(np.rot90(pixels, 2), 0, 1),
  8: np.rot90,
}
# Orientations that exchange height and width.
_SIDEWAYS = (5, 6, 7, 8)


class Shape(NamedTuple):
  """What an encoded picture says of itself, sizes in pixels."""

  height: int
  width: int
  channels: int
  format: str


def _unreadable(error: Exception) -> ValueError:
  # Pillow's own words would hold the address of an object.
  detail = (
    'unknown format'
    if isinstance(error, Image.UnidentifiedImageError)
    else error
  )
  return ValueError(f'not a readable {_NAMES} ({detail})')


def _open(encoded: bytes) -> Image.Image:
  """Opens a picture; what is wrong with one is a ValueError."""
  try:
    picture = Image.open(io.BytesIO(encoded), formats=_FORMATS)
  except _DAMAGE as e:
    raise _unreadable(e) from None
  if picture.format == 'MPO':  # A JPEG, with further ones behind it.
    picture.format = 'JPEG'
  return picture


def _load(encoded: bytes) -> Image.Image:
  """Opens and decodes a picture, so that a truncated one is found."""
  picture = _open(encoded)
  limit = Image.MAX_IMAGE_PIXELS
  if limit and picture.width * picture.height > limit:
    raise ValueError(
      f'a picture of {picture.width} x {picture.height} pixels; expected at '
      f'most {limit} in all'
    )
  try:
    frames = 1 if picture.format == 'JPEG' else getattr(picture, 'n_frames', 1)
    picture.load()
  except _DAMAGE as e:
    raise _unreadable(e) from None
  if frames > 1:
    raise ValueError(
      f'a {picture.format} of {frames} frames or pages; '
      'expected one picture. Save the one that people saw'
    )
  return picture


def _orientation(picture: Image.Image) -> int:
  """Returns the EXIF orientation; call it after `load`, which turns TIFFs."""
  try:
    return picture.getexif().get(ExifTags.Base.Orientation, 1)
  except _DAMAGE:  # Viewers, too, pass over EXIF data that are damaged.
    return 1


def _turn(pixels: np.ndarray, picture: Image.Image) -> np.ndarray:
  """Turns the pixels (H, W, ...) of a picture as a viewer does."""
  turn = _TURNS.get(_orientation(picture))
  return np.ascontiguousarray(turn(pixels)) if turn else pixels


def shape(encoded: bytes) -> Shape:
  """Reads a picture's header.

  Args:
    encoded: a picture.

  Returns:
    Its size as stored, channels and format ('JPEG', 'PNG', ...). An EXIF
    orientation is not taken into account: see `size_as_seen`.

  Raises:
    ValueError: it is not a picture.
  """
  picture = _open(encoded)
  return Shape(
    picture.height, picture.width, len(picture.getbands()), picture.format or ''
  )


def size_as_seen(encoded: bytes) -> tuple[int, int]:
  """Returns the height and width at which people see a picture.

  Args:
    encoded: a picture.

  Returns:
    Pixels, exchanged where the EXIF orientation turns the picture.

  Raises:
    ValueError: it is not a picture.
  """
  picture = _open(encoded)
  if picture.format != 'JPEG':  # Others may say it behind the pixels.
    picture = _load(encoded)
  if _orientation(picture) in _SIDEWAYS:
    return picture.width, picture.height
  return picture.height, picture.width


def _check_numbers(values: np.ndarray, what: str):
  """Refuses what cannot be compared with numbers."""
  if values.dtype.kind not in 'buif':
    raise ValueError(f'{what} of type {values.dtype}; expected real numbers')


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
  """Rounds numbers in [0, 255], or in [0, 1] times 255, to uint8."""
  _check_numbers(pixels, 'an image')
  if pixels.dtype == np.uint8:
    return pixels
  low, high = pixels.min(), pixels.max()
  # Not a comparison of `low < 0 or high > 255`: NaN must not pass.
  if not (low >= 0 and high <= 255):
    raise ValueError(
      f'an image with values from {low} to {high}; expected '
      'values in 0..255, or in 0..1'
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
  """Encodes an image that came as numbers.

  Args:
    pixels: (H, W), (H, W, 1) or (H, W, 3), uint8, or of any other real type
      with values in [0, 255], or all in [0, 1], which are then taken times 255.
    jpeg_quality: 1..100 for JPEG; 0 for PNG, which loses nothing.

  Returns:
    The encoded image.

  Raises:
    ValueError: these are not such numbers.
  """
  if pixels.ndim == 3 and pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  if pixels.size == 0 or not (
    pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[-1] == 3
  ):
    raise ValueError(f'an image of shape {pixels.shape}')
  return _encode(_as_bytes(pixels), jpeg_quality)


def _deep(picture: Image.Image) -> tuple[np.ndarray, int]:
  """Returns the numbers of a grey picture of more than 8 bits, and its white.

  A white of 0 means that the file does not say: numbers of 32 bits.
  """
  values = np.asarray(picture)
  values = values.astype(values.dtype.newbyteorder('='))
  tags = getattr(picture, 'tag_v2', {})
  # Older versions of Pillow read the 16 bits of a PNG as mode I.
  sixteen = picture.mode not in 'IF' or picture.format == 'PNG'
  white = 2 ** tags.get(258, (16,))[0] - 1 if sixteen else 0
  if tags.get(262) == 0:  # White is zero, which Pillow only heeds in 8 bits.
    if not white:
      raise ValueError(
        'a picture of 32 bits in which white is 0; expected black to be 0'
      )
    values = white - values
  return values, white


def _colours(picture: Image.Image) -> np.ndarray:
  """Returns the pixels of a picture, uint8 (H, W, 3), as stored."""
  if picture.mode in _DEEP_MODES:
    values, white = _deep(picture)
    # Below 4096 it could be 12 bits, or a little too much for 8.
    if not white and 4096 <= values.max() <= 65535:
      white = 65535
    if white:
      values = values * (255.0 / white)
      # Rounded already, so that a black picture is not taken for one in 0..1.
      values = np.round(values).clip(0, 255).astype(np.uint8)
    return np.stack([_as_bytes(values)] * 3, axis=-1)
  if picture.mode not in _MODES:
    raise ValueError(
      f'an image with {picture.mode} pixels; expected grey or colours'
    )
  if picture.has_transparency_data:
    white = Image.new('RGBA', picture.size, 'white')
    white.alpha_composite(picture.convert('RGBA'))
    picture = white
  return np.asarray(picture.convert('RGB'))


def decode_image(encoded: bytes) -> np.ndarray:
  """Decodes an image as people see it.

  Args:
    encoded: a picture: grey, colour, with a palette, CMYK, of any depth. It is
      turned by its EXIF orientation; what is transparent is shown on white.

  Returns:
    uint8 (H, W, 3), RGB.

  Raises:
    ValueError: it is not such a picture, or is an animation.
  """
  picture = _load(encoded)
  return _turn(_colours(picture), picture)


def as_seen(encoded: bytes, jpeg_quality: int = 0) -> bytes:
  """Makes an image that TensorFlow decodes as people see it.

  TensorFlow does not turn pictures, strips 16 bits of half, and has other ideas
  of CMYK and transparency.

  Args:
    encoded: a picture, as for `decode_image`.
    jpeg_quality: as for `encode_image`, where it must be encoded anew.

  Returns:
    The same bytes if they are a JPEG or PNG that is decoded alike everywhere,
    otherwise a new JPEG or PNG.

  Raises:
    ValueError: it is not such a picture.
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
  """Checks a human map, and brings it to numbers that can be worked with.

  Args:
    values: (H, W), (H, W, 1), (1, H, W), or with several equal channels at the
      end; real numbers of any type, finite and not negative.

  Returns:
    (H, W): uint8 and uint16 as they are (in the machine's byte order), others
    as float64 whose greatest value is 1, or 0 if all are.

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
        f'a map of shape {found}, whose channels differ; expected one '
        'channel, or equal ones: colours are not values'
      )
    values = values[..., 0]
  if values.ndim != 2 or not values.size:
    raise ValueError(f'a map of shape {found}; expected (height, width)')
  if not np.isfinite(values).all() or values.min() < 0:
    raise ValueError(
      f'a map with values from {values.min()} to '
      f'{values.max()}; expected finite ones from 0'
    )
  if values.dtype.kind == 'u' and values.dtype.itemsize <= 2:
    return values.astype(values.dtype.newbyteorder('='))
  # Widened and divided first: half precision ends at 65504, and 65535 over a
  # tiny maximum is infinite.
  wide = values.astype(np.result_type(values.dtype, np.float64))
  return (wide / (wide.max() or 1)).astype(np.float64)


def encode_map(values: np.ndarray) -> bytes:
  """Encodes a human map as a PNG of one channel.

  Whole numbers of 8 or 16 bits are kept as they are. Other numbers are scaled
  so that the greatest is 65535: a map's unit means nothing, its zeros and its
  order do, and 16 bits keep the order apart where 8 would make ties.

  Args:
    values: as for `as_map`.

  Returns:
    The encoded map.

  Raises:
    ValueError: it is not a map, or is constant as it would be stored.
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
          'in 16 bits; subtract the least'
        )
      )
    )
  return _encode(stored, 0)


def decode_map(encoded: bytes) -> np.ndarray:
  """Decodes a map that is a picture, turned by its EXIF orientation.

  Args:
    encoded: a picture that is grey: of one channel, or with a palette or
      channels that come to equal values.

  Returns:
    (H, W): uint8 or uint16; int32 or float32 where the file has these.

  Raises:
    ValueError: it is not such a picture.
  """
  picture = _load(encoded)
  if picture.mode in _DEEP_MODES:
    return _turn(_deep(picture)[0], picture)
  if picture.mode not in _MODES:
    raise ValueError(f'a map with {picture.mode} pixels; expected grey ones')
  if picture.format == 'PNG' and _depth_of_png(encoded) == 16:
    # Colours of 16 bits, of which Pillow keeps 8.
    channels = tf.io.decode_png(encoded, 0, tf.uint16).numpy()
    alpha = None
    if channels.shape[-1] in (2, 4):
      channels, alpha = channels[..., :-1], channels[..., -1] // 257
  else:
    rgba = np.asarray(picture.convert('RGBA'))
    channels, alpha = rgba[..., :3], rgba[..., 3]
  if alpha is not None and alpha.min() < 255:
    raise ValueError(
      'a map that is transparent in places; expected an opaque '
      'one. Save it without an alpha channel'
    )
  # Lossy formats round each channel for itself.
  slack = _ROUNDING if picture.format in ('JPEG', 'WEBP') else 0
  if np.ptp(channels, axis=-1).max() > slack:
    raise ValueError(
      'a map in colour; expected grey, or equal channels. Save '
      'its values, not a drawing of them'
    )
  return _turn(channels[..., channels.shape[-1] // 2], picture)
