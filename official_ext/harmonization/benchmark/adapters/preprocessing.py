# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Preprocessing of pixels: the named ones, and how to recognize them.

Wrong preprocessing lowers accuracy and alignment without an error, so every
score records the preprocessing that it was computed with.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from official_ext.harmonization import choices

# Means and deviations of ImageNet's training images, red first: of pixels in
# [0, 1], and of the Caffe models, of pixels in 0..255 (listed blue first in
# `tf_keras.applications.imagenet_utils`).
_MEAN, _STDDEV = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """A named preprocessing.

  Attributes:
    name: the value of the option `preprocessing`.
    description: a formula or phrase on one line.
    apply: converts pixels (B, H, W, 3), float32, RGB in 0..255, to the
      network's input, float32, without modifying its argument.
  """

  name: str
  description: str
  apply: Callable[[np.ndarray], np.ndarray]

  def __str__(self):
    return f'{self.name}: {self.description}'


# Values of the option `preprocessing`.
Choice = str | Preprocessing


def scaled(
  name: str, mean: Sequence[float], stddev: Sequence[float]
) -> Preprocessing:
  """Returns (pixels / 255 - mean) / stddev, per channel.

  Args:
    name: of the preprocessing.
    mean: of red, green and blue, for pixels in [0, 1].
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
  """Wraps a function, which may modify its argument, as a preprocessing."""
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
      lambda pixels: (pixels - np.array(_CAFFE_MEAN, np.float32))[..., ::-1],
    ),
    Preprocessing(
      'tf', 'RGB / 127.5 - 1', lambda pixels: pixels / np.float32(127.5) - 1
    ),
    # Model Garden's MEAN_RGB and STDDEV_RGB are these numbers times 255.
    scaled('torch', _MEAN, _STDDEV),
    Preprocessing('none', 'RGB in 0..255', np.array),
    Preprocessing('unit', 'RGB / 255', lambda pixels: pixels / np.float32(255)),
  )
}

# Assumed if a network does not reveal its preprocessing, because this project
# and the released harmonized models train with it. A network's name is not
# evidence: a harmonized VGG16 is not preprocessed as Keras's VGG16 is.
DEFAULT = 'torch'


def get(name: Choice) -> Preprocessing:
  """Looks up a preprocessing.

  Args:
    name: a key of `NAMED`, or a preprocessing, which is returned.

  Raises:
    ValueError: the name is unknown.
  """
  if isinstance(name, Preprocessing):
    return name
  choices.require(
    'preprocessing', name, NAMED, '; '.join(map(str, NAMED.values()))
  )
  return NAMED[name]


def affine(
  mean: Sequence[float], stddev: Sequence[float], scale: float
) -> Preprocessing:
  """Returns (pixels * scale - mean) / stddev, per channel.

  Args:
    mean: of red, green and blue, or one number for all, after scaling.
    stddev: likewise.
    scale: factor for pixels in 0..255.

  Raises:
    ValueError: a number is not finite, a deviation or the scale is not above 0,
      or the numbers are neither one nor three.
  """
  for option, values in (('mean', mean), ('std', stddev), ('scale', [scale])):
    if len(values) not in (1, 3) or not np.isfinite(values).all():
      raise ValueError(
        f'{option}={",".join(map(str, values))}; expected one finite number, '
        'or three for red, green and blue.'
      )
    if option != 'mean' and min(values) <= 0:
      raise ValueError(
        f'{option}={",".join(map(str, values))}; expected only numbers above 0.'
      )

  def text(values):
    shown = [f'{v:.6g}' for v in values]
    return shown[0] if len(values) == 1 else f'({", ".join(shown)})'

  offset, deviation = (np.array(v, np.float32) for v in (mean, stddev))
  return Preprocessing(
    'custom',
    f'(RGB * {scale:.6g} - {text(mean)}) / {text(stddev)}',
    lambda pixels: (pixels * np.float32(scale) - offset) / deviation,
  )


# (black, white) in the input of networks, by preprocessing.
_RANGES = {'none': (0, 255), 'unit': (0, 1), 'tf': (-1, 1)}
# How far black and white are apart at a network's first weights: where the
# network normalizes pixels, and where it only subtracts their mean.
_SPANS = (0.5, 30.0), (200.0, 300.0)
# Number of grey levels at which linearity is checked, and the tolerance as a
# fraction of the range, which allows for rounding to 16 bits.
_POINTS, _BEND = 5, 0.02


def before_weights(
  first_inputs: Callable[[np.ndarray], np.ndarray | None], size: tuple[int, int]
) -> str | None:
  """Recognizes the input range of a network that normalizes pixels itself.

  Args:
    first_inputs: maps images (B, h, w, 3) to the input of the network's first
      layer or operation with weights; it may return None.
    size: height and width of the images.

  Returns:
    'none', 'unit' or 'tf'; None if the network does not transform pixels, or
    in no way that is recognized.
  """
  images = np.zeros((2, *size, 3), np.float32)
  images[1] = 1
  reached = first_inputs(images)
  if reached is None or len(reached) != 2:
    return None
  # Medians, because the network may have padded the images with zeros.
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
    # If pixels in 0..1 would be centred on 0, they are more likely in -1..1.
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
    size: height and width of the images.
    ends: the values of black and white.
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
  """Replaces a preprocessing by the equivalent one of `NAMED`, if any.

  Args:
    own: a preprocessing, whose function may modify its argument.

  Returns:
    The named preprocessing with the same results on random pixels, else `own`.
  """
  pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, 3))
  pixels = pixels.astype(np.float32)
  result = np.asarray(own.apply(pixels.copy()))
  for candidate in NAMED.values():
    if np.allclose(candidate.apply(pixels), result, rtol=1e-5, atol=1e-3):
      return candidate
  return own
