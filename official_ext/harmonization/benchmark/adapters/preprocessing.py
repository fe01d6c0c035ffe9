"""What networks want done to pixels, by name.

Wrong preprocessing lowers accuracy and alignment without an error, so every
score says which one it was taken with.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from official_ext.harmonization import choices

# Of ImageNet's training images, red first: on pixels in [0, 1], and of the
# Caffe models on 0..255 (`tf_keras.applications.imagenet_utils`, which has them
# blue first).
_MEAN, _STDDEV = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """A named preprocessing.

  Attributes:
    name: that users choose it by.
    description: what it does, on one line.
    apply: takes pixels (B, H, W, 3), float32, RGB in 0..255, to what the
      network takes, float32, and leaves its argument as it is.
  """

  name: str
  description: str
  apply: Callable[[np.ndarray], np.ndarray]

  def __str__(self):
    return f'{self.name}: {self.description}'


# As options have it.
Choice = str | Preprocessing


def scaled(
  name: str, mean: Sequence[float], stddev: Sequence[float]
) -> Preprocessing:
  """Returns (pixels / 255 - mean) / stddev, per channel.

  Args:
    name: of the preprocessing.
    mean: of red, green and blue, on pixels in [0, 1].
    stddev: likewise.
  """
  offset = np.asarray(mean, np.float32)
  scale = np.asarray(stddev, np.float32)
  tuples = [tuple(round(float(v), 6) for v in x) for x in (mean, stddev)]
  return Preprocessing(
    name,
    f'(RGB / 255 - {tuples[0]}) / {tuples[1]}',
    lambda pixels: (pixels / np.float32(255) - offset) / scale,
  )


def of_function(
  name: str, function: Callable[[np.ndarray], np.ndarray]
) -> Preprocessing:
  """Returns what a function does that may write over its argument."""
  return Preprocessing(
    name,
    'its own function',
    lambda pixels: np.asarray(function(pixels.copy()), np.float32),
  )


NAMED = {
  p.name: p
  for p in (
    Preprocessing(
      'caffe',
      f'RGB in 0..255 - {_CAFFE_MEAN}, then blue first',
      lambda pixels: (pixels - np.float32(_CAFFE_MEAN))[..., ::-1],
    ),
    Preprocessing(
      'tf', 'RGB / 127.5 - 1', lambda pixels: pixels / np.float32(127.5) - 1
    ),
    # Model Garden's MEAN_RGB and STDDEV_RGB are these times 255.
    scaled('torch', _MEAN, _STDDEV),
    Preprocessing('none', 'RGB in 0..255', np.array),
    Preprocessing('unit', 'RGB / 255', lambda pixels: pixels / np.float32(255)),
  )
}

# What is assumed of a network that does not say: what this project and the
# released harmonized models train with. The name of a network says nothing: a
# harmonized VGG16 does not take what Keras' own does.
DEFAULT = 'torch'


def get(name: Choice) -> Preprocessing:
  """Looks up a preprocessing.

  Args:
    name: one of `NAMED`, or a preprocessing itself.

  Returns:
    The preprocessing.

  Raises:
    ValueError: there is none of this name.
  """
  if isinstance(name, Preprocessing):
    return name
  choices.require('preprocessing', name, NAMED)
  return NAMED[name]


def affine(
  mean: Sequence[float], stddev: Sequence[float], scale: float
) -> Preprocessing:
  """Returns (pixels * scale - mean) / stddev, per channel.

  Args:
    mean: of red, green and blue, or one number for all, on scaled pixels.
    stddev: likewise.
    scale: of pixels in 0..255.

  Raises:
    ValueError: a number is not finite, a deviation or the scale is zero, or
      there are neither one nor three.
  """
  for option, values in (('mean', mean), ('std', stddev), ('scale', [scale])):
    if len(values) not in (1, 3) or not np.isfinite(values).all():
      raise ValueError(
        f'{option}={",".join(map(str, values))}; expected one '
        'finite number, or three: of red, green and blue.'
      )
    if option != 'mean' and min(values) <= 0:
      raise ValueError(
        f'{option}={",".join(map(str, values))}; expected only numbers above 0.'
      )

  def text(values):
    shown = [f'{v:.6g}' for v in values]
    return shown[0] if len(values) == 1 else f'({", ".join(shown)})'

  offset, deviation = np.float32(mean), np.float32(stddev)
  return Preprocessing(
    'custom',
    f'(RGB * {scale:.6g} - {text(mean)}) / {text(stddev)}',
    lambda pixels: (pixels * np.float32(scale) - offset) / deviation,
  )


# Black and white, as inputs that networks take.
_RANGES = {'none': (0, 255), 'unit': (0, 1), 'tf': (-1, 1)}
# How far apart they are for a network's first weights: where pixels were
# normalized, and where no more than their mean was subtracted.
_SPANS = (0.5, 30.0), (200.0, 300.0)
# At how many shades of gray it is checked that pixels are only scaled, and how
# far from it they may be, in parts of the range: as far as 16 bits round.
_POINTS, _BEND = 5, 0.02


def before_weights(
  first_inputs: Callable[[np.ndarray], np.ndarray | None], size: tuple[int, int]
) -> str | None:
  """Recognizes the pixels that a network which normalizes them itself takes.

  Args:
    first_inputs: takes images (B, h, w, 3) to what the network's first weights
      are given, or None.
    size: height and width of images.

  Returns:
    'none', 'unit' or 'tf', or None where the network does nothing to pixels,
    or nothing that is understood.
  """
  images = np.zeros((2, *size, 3), np.float32)
  images[1] = 1
  reached = first_inputs(images)
  if reached is None or len(reached) != 2:
    return None
  # Most of the numbers: a border of zeros may have been added.
  zero, one = (float(np.median(r)) for r in reached)
  if np.allclose((zero, one), (0, 1), atol=1e-6):
    return None
  for least, most in _SPANS:
    fitting = {}
    for name, inputs in _RANGES.items():
      low, high = sorted(zero + (one - zero) * x for x in inputs)
      span = high - low
      if least <= span <= most and low <= 0.1 * span and high >= -0.1 * span:
        fitting[name] = low, high
    # Pixels in 0..1 whose mean is 0 are more likely in -1..1.
    if {'unit', 'tf'} <= set(fitting):
      low, high = fitting['unit']
      if low > -0.05 * (high - low):
        del fitting['unit']
    for name in fitting:
      if _is_linear(first_inputs, size, _RANGES[name]):
        return name
  return None


def _is_linear(
  first_inputs: Callable[[np.ndarray], np.ndarray | None],
  size: tuple[int, int],
  ends: tuple[float, float],
) -> bool:
  """Whether pixels are only scaled and shifted, and not inverted.

  Args:
    first_inputs: as for `before_weights`.
    size: height and width of images.
    ends: the lowest and the highest pixels.
  """
  pixels = np.linspace(*ends, _POINTS, dtype=np.float32)
  reached = first_inputs(
    np.broadcast_to(pixels[:, None, None, None], (_POINTS, *size, 3)).copy()
  )
  if reached is None or len(reached) != _POINTS:
    return False
  values = [float(np.median(r)) for r in reached]
  span = values[-1] - values[0]
  return span > 0 and np.allclose(
    values,
    np.linspace(values[0], values[-1], _POINTS),
    rtol=0,
    atol=_BEND * span,
  )


def recognize(own: Preprocessing) -> Preprocessing:
  """Finds out which of the named ones a preprocessing is.

  Args:
    own: a preprocessing, whose function may write over its argument.

  Returns:
    The named one if there is one that does the same, else `own`.
  """
  pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, 3))
  pixels = pixels.astype(np.float32)
  result = np.asarray(own.apply(pixels.copy()))
  for candidate in NAMED.values():
    if np.allclose(candidate.apply(pixels), result, rtol=1e-5, atol=1e-3):
      return candidate
  return own
