# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Encoded images of many kinds, valid and damaged."""

from collections.abc import Sequence
import io
import struct
import zlib

import numpy as np
from PIL import Image


def smooth(rng, size, channels) -> np.ndarray:
  """Returns a smooth random image, uint8, without axes of length 1."""
  coarse = rng.integers(0, 256, (5, 6, channels)).astype(np.uint8)
  picture = Image.fromarray(np.squeeze(coarse))
  return np.asarray(picture.resize(size[::-1], Image.BILINEAR))


def encode(
  pixels: np.ndarray, picture_format: str, mode: str = '', **options
) -> bytes:
  """Encodes an image with Pillow.

  Args:
    pixels: (H, W) or (H, W, C), uint8 or uint16.
    picture_format: 'JPEG', 'PNG', ...
    mode: Pillow mode to convert to before encoding.
    **options: options of `Image.save`.

  Returns:
    The content of the file.
  """
  picture = Image.fromarray(pixels)
  if mode:
    picture = picture.convert(mode)
  file = io.BytesIO()
  picture.save(file, picture_format, **options)
  return file.getvalue()


def flip(rng, data: bytes, places: Sequence[int]) -> bytes:
  """Changes 1 to 8 of the bytes at the given positions."""
  data = bytearray(data)
  for place in rng.choice(places, rng.integers(1, 9)):
    data[place] ^= int(rng.integers(1, 256))
  return bytes(data)


def cut(rng, data: bytes) -> bytes:
  return data[: rng.integers(0, len(data))]


def _flip_head(rng, data):
  return flip(rng, data, range(min(len(data), 200)))


def _tiny(rng, unused_data):
  size = [(1, 1), (1, 300), (300, 1), (2, 2)][rng.integers(0, 4)]
  channels = [1, 3][rng.integers(0, 2)]
  return encode(
    smooth(rng, size, channels), ['PNG', 'JPEG'][rng.integers(0, 2)]
  )


def _header_size(rng, unused_data):
  """Returns a small image whose header declares a huge one."""
  side = int([2**16 - 1, 2**31 - 1, 2**24, 0][rng.integers(0, 4)])
  kind = ['PNG', 'JPEG', 'GIF', 'BMP'][rng.integers(0, 4)]
  data = bytearray(encode(smooth(rng, (8, 8), 3), kind))
  if kind == 'PNG':
    data[16:24] = struct.pack('>II', side, side)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
  elif kind == 'JPEG':
    frame = data.index(b'\xff\xc0')
    data[frame + 5 : frame + 9] = struct.pack('>HH', *[side & 0xFFFF] * 2)
  elif kind == 'GIF':
    data[6:10] = struct.pack('<HH', *[side & 0xFFFF] * 2)
  else:
    data[18:26] = struct.pack('<ii', side, side)
  return bytes(data)


def bomb(rng, unused_data):
  """Returns a PNG of 144 million pixels in 150 kB."""
  del rng
  side = 12000
  line = zlib.compressobj()
  body = b''.join(line.compress(bytes(side + 1)) for _ in range(side))
  header = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
  chunks = [(b'IHDR', header), (b'IDAT', body + line.flush()), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    struct.pack('>I', len(content))
    + name
    + content
    + struct.pack('>I', zlib.crc32(name + content))
    for name, content in chunks
  )


def _twelve_bits(rng, unused_data):
  data = bytearray(encode(smooth(rng, (40, 48), 3), 'JPEG'))
  data[data.index(b'\xff\xc0') + 4] = 12
  return bytes(data)


def _animated(rng, unused_data):
  first, second = (Image.fromarray(smooth(rng, (40, 48), 3)) for _ in '12')
  file = io.BytesIO()
  first.save(file, 'GIF', save_all=True, append_images=[second])
  return file.getvalue()


def _as(picture_format, mode='', channels=3, **options):
  return lambda rng, unused_data: encode(
    smooth(rng, (40, 48), channels), picture_format, mode, **options
  )


def _sixteen_bits(rng, unused_data):
  deep = smooth(rng, (40, 48), 1).astype(np.uint16) * 257
  return encode(deep, 'PNG')


CHANGES = {
  'picture: bytes flipped': lambda rng, d: flip(rng, d, range(len(d))),
  'picture: header flipped': _flip_head,
  'picture: tail cut': cut,
  'picture: bytes after its end': lambda rng, d: (
    d + rng.bytes(rng.integers(1, 90))
  ),
  'picture: noise': lambda rng, d: rng.bytes(rng.integers(1, 300)),
  'picture: empty': lambda rng, d: b'',
  'picture: 1 or 2 pixels wide': _tiny,
  'picture: header says huge or 0': _header_size,
  'picture: 12-bit JPEG': _twelve_bits,
  'picture: CMYK JPEG': _as('JPEG', 'CMYK'),
  'picture: grey JPEG': _as('JPEG', 'L'),
  'picture: colour JPEG': _as('JPEG'),
  'picture: progressive JPEG': _as('JPEG', progressive=True),
  'picture: colour PNG': _as('PNG'),
  'picture: grey PNG': _as('PNG', channels=1),
  'picture: 16-bit PNG': _sixteen_bits,
  'picture: PNG with alpha': _as('PNG', 'RGBA'),
  'picture: grey PNG with alpha': _as('PNG', 'LA'),
  'picture: PNG with palette': _as('PNG', 'P'),
  'picture: 1-bit PNG': _as('PNG', '1'),
  'picture: GIF': _as('GIF', 'P'),
  'picture: animated GIF': _animated,
  'picture: BMP': _as('BMP'),
  'picture: WebP': _as('WEBP', lossless=True),
  'picture: TIFF': _as('TIFF'),
}
