# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Makes psychophysics stimuli: a region of an image on a scrambled background.

No released code makes these stimuli. This module defines them according to the
descriptions in Fel et al. (2022) and Linsley et al., "Learning what and where
to attend" (ICLR 2019).
"""

import heapq

import numpy as np

from official_ext.harmonization.data.maps import image_codec

# Weight of a pixel of value 0, relative to the map's maximum. It is far below
# the smallest step of a 16-bit map, so that pixels above 0 come first.
FLOOR = 1e-9
# Numbers of neighbours of a pixel, without and with those at its corners.
CONNECTIVITIES = (4, 8)
# Rec. 601, as in Pillow's mode L and in JPEG.
_LUMA = np.array([0.299, 0.587, 0.114])


def grey(image: np.ndarray) -> np.ndarray:
  """Returns the brightness of an image.

  Args:
    image: (H, W, 3), RGB.

  Returns:
    float64 (H, W), in the image's unit: .299 R + .587 G + .114 B.
  """
  return image @ _LUMA


def _steps(width: int, connectivity: int) -> list[int]:
  """Returns the offsets of neighbours in a flattened image of this width."""
  sides = [-1, 1, -width, width]
  corners = [-width - 1, -width + 1, width - 1, width + 1]
  return sides if connectivity == 4 else sides + corners


def growth_order(
  heatmap: np.ndarray, rng: np.random.Generator, connectivity: int = 4
) -> np.ndarray:
  """Grows a region from a map's maximum until it covers the image.

  The region starts at the first maximum in row-major order. Then one pixel at a
  time is added. Among the pixels next to the region, pixel p is chosen with
  probability w_p / (sum of their w), where w_p = max(value_p, `FLOOR` times the
  maximum). The number of sides at which a pixel touches the region is
  irrelevant.

  To sample this in one pass over a heap, each pixel waits for an exponential
  time with rate w_p from the moment when it becomes a neighbour of the region.
  Exponential times are memoryless, so that the next pixel whose time ends has
  exactly these probabilities.

  Args:
    heatmap: (H, W), not negative, finite, positive somewhere.
    rng: generator of random numbers.
    connectivity: number of neighbours of a pixel, 4 or 8.

  Returns:
    Row-major positions of the pixels, int (H * W,), in the order in which they
    are added. The first k form the region of k pixels, so regions are nested.

  Raises:
    ValueError: the map or the connectivity is invalid.
  """
  if connectivity not in CONNECTIVITIES:
    raise ValueError(f'connectivity is {connectivity}; expected 4 or 8')
  if heatmap.ndim != 2 or heatmap.size == 0:
    raise ValueError(f'a map of shape {heatmap.shape}; expected (H, W)')
  values = np.asarray(heatmap, np.float64)
  expected = 'finite values that are not negative, and a positive maximum'
  image_codec.check_finite(values, 'a map', expected)
  peak = values.max()
  if values.min() < 0 or peak <= 0:
    raise ValueError(
      f'a map with values from {values.min()} to {peak}; expected {expected}'
    )
  waits = rng.standard_exponential(values.shape) / np.maximum(
    values / peak, FLOOR
  )
  # A border of pixels that count as taken keeps the region inside.
  width = values.shape[1]
  padded_width = width + 2
  taken = np.pad(np.zeros(values.shape, bool), 1, constant_values=True)
  taken = bytearray(taken.tobytes())
  waits = np.pad(waits, 1).ravel().tolist()
  steps = _steps(padded_width, connectivity)
  row, column = divmod(int(values.argmax()), width)
  start = (row + 1) * padded_width + column + 1
  order, heap = [], [(0.0, start)]
  taken[start] = True
  while heap:
    time, position = heapq.heappop(heap)
    order.append(position)
    for step in steps:
      neighbour = position + step
      if not taken[neighbour]:
        taken[neighbour] = True
        heapq.heappush(heap, (time + waits[neighbour], neighbour))
  rows, columns = np.divmod(np.array(order), padded_width)
  return (rows - 1) * width + columns - 1


def revealed_pixels(percent: float, pixels: int) -> int:
  """Returns how many pixels a percentage is, rounded, but at least one."""
  return max(1, round(percent / 100.0 * pixels))


def scramble_phase(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Makes a background with an image's amplitude spectrum and random phases.

  The phases of white noise are added to those of the image. Since the noise is
  real, its phases are odd and the result is real. The mean is preserved.

  Args:
    image: float (H, W).
    rng: generator of the noise.

  Returns:
    float64 (H, W). Values may exceed the range of the image.
  """
  phase = np.angle(np.fft.fft2(rng.standard_normal(image.shape)))
  phase[0, 0] = 0.0
  return np.fft.ifft2(np.fft.fft2(image) * np.exp(1j * phase)).real


def compose(
  image: np.ndarray, background: np.ndarray, order: np.ndarray, count: int
) -> np.ndarray:
  """Shows the first pixels of an order on a background.

  Args:
    image: float (H, W), in 0..255.
    background: float (H, W), in the same unit.
    order: as from `growth_order`.
    count: number of pixels that are shown.

  Returns:
    uint8 (H, W), rounded and clipped to 0..255.
  """
  picture = background.ravel().copy()
  shown = order[:count]
  picture[shown] = image.ravel()[shown]
  return np.uint8(np.clip(np.round(picture), 0, 255)).reshape(image.shape)
