"""What the psychophysics experiment shows: a part of an image on its ground.

No released code contains the making of the stimuli: what stands here is this
project's own definition of it, from the paper's description (Fel et al., 2022;
Linsley et al., "Learning what and where to attend", ICLR 2019).
"""

import heapq

import numpy as np

# Weight of a pixel of value 0, as a part of the map's maximum: far below the
# smallest step of a 16-bit map, so that people's pixels come first.
FLOOR = 1e-9
# Pixels have 4 neighbours, or 8 with those at the corners.
CONNECTIVITIES = (4, 8)
# Rec. 601, as Pillow's mode L and JPEG have it.
_LUMA = np.array([0.299, 0.587, 0.114])


def grey(image: np.ndarray) -> np.ndarray:
  """Returns an image's brightness.

  Args:
    image: (H, W, 3), RGB.

  Returns:
    float64 (H, W), in the image's unit: .299 R + .587 G + .114 B.
  """
  return image @ _LUMA


def _steps(width: int, connectivity: int) -> list[int]:
  """Distances between neighbours in rows of `width` pixels after each other."""
  sides = [-1, 1, -width, width]
  corners = [-width - 1, -width + 1, width - 1, width + 1]
  return sides if connectivity == 4 else sides + corners


def growth_order(
  heatmap: np.ndarray, rng: np.random.Generator, connectivity: int = 4
) -> np.ndarray:
  """Grows a region from a map's maximum until it covers the image.

  The region starts as the first maximum in row-major order. Then, again and
  again, one pixel is added: of those beside the region and not in it, pixel p
  with probability w_p / (sum of their w), where w_p = max(value_p, `FLOOR`
  times the maximum). That w does not depend on how many sides a pixel touches.

  Every pixel is given a clock, which starts when the pixel comes to lie beside
  the region and rings after an Exponential time of rate w_p. Exponential times
  have no memory, so the first of them to ring is drawn with just these
  probabilities, and one pass over a heap adds all pixels.

  Args:
    heatmap: (H, W), not negative, finite, somewhere positive.
    rng: source of the draws.
    connectivity: 4 or 8 neighbours of a pixel.

  Returns:
    int (H * W,): row-major positions of the pixels, in the order in which they
    are added. The first k are the region of k pixels, so regions are nested.

  Raises:
    ValueError: the map or the connectivity is not so.
  """
  if connectivity not in CONNECTIVITIES:
    raise ValueError(f'connectivity is {connectivity}, not 4 or 8')
  if heatmap.ndim != 2 or heatmap.size == 0:
    raise ValueError(f'a map of shape {heatmap.shape}, not (H, W)')
  values = np.asarray(heatmap, np.float64)
  peak = values.max()
  if not (values.min() >= 0 and 0 < peak < np.inf):
    raise ValueError(
      f'a map with values from {values.min()} to {peak}: it is '
      'to be not negative, finite and somewhere positive'
    )
  waits = rng.standard_exponential(values.shape) / np.maximum(
    values / peak, FLOOR
  )
  # A border that is already taken keeps the walk inside.
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
    time, place = heapq.heappop(heap)
    order.append(place)
    for step in steps:
      beside = place + step
      if not taken[beside]:
        taken[beside] = True
        heapq.heappush(heap, (time + waits[beside], beside))
  rows, columns = np.divmod(np.array(order), padded_width)
  return (rows - 1) * width + columns - 1


def revealed_pixels(percent: float, pixels: int) -> int:
  """Returns how many pixels `percent` of them are: rounded, at least one."""
  return max(1, round(percent / 100.0 * pixels))


def scramble_phase(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Makes a ground that has an image's amplitude spectrum and mean, no more.

  The phases of white noise are added to those of the image. Noise is real, so
  its phases are odd and the result is real; the mean keeps its phase.

  Args:
    image: float (H, W).
    rng: source of the noise.

  Returns:
    float64 (H, W). Values may lie outside of the image's range.
  """
  phase = np.angle(np.fft.fft2(rng.standard_normal(image.shape)))
  phase[0, 0] = 0.0
  return np.fft.ifft2(np.fft.fft2(image) * np.exp(1j * phase)).real


def compose(
  image: np.ndarray, ground: np.ndarray, order: np.ndarray, count: int
) -> np.ndarray:
  """Shows the first pixels of an order on a ground.

  Args:
    image: float (H, W), 0..255.
    ground: float (H, W), the same unit.
    order: of `growth_order`.
    count: how many pixels are shown.

  Returns:
    uint8 (H, W), rounded, and cut to 0..255 where the ground goes beyond.
  """
  picture = ground.ravel().copy()
  shown = order[:count]
  picture[shown] = image.ravel()[shown]
  return np.uint8(np.clip(np.round(picture), 0, 255)).reshape(image.shape)
