# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Control maps: rows of a benchmark that need no network.

A network's alignment with human maps is evidence only if it exceeds that of
maps that are blind to the image, and of maps made from the image without
learning. All maps are computed at the size at which maps are compared.

  maps = controls.maps('sobel', images, 224)  # (B, 224, 224)
  noise = controls.noise(seed=0, count=20, size=224)
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from official_ext.harmonization import choices
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark.adapters import base

BLIND = ('centre', 'mean-map', 'other-maps', 'noise')
FROM_IMAGE = ('sobel', 'contrast', 'colour')
NAMES = (*BLIND, *FROM_IMAGE)
# Not made from the image's pixels or places, but of maps of people, or drawn.
FROM_MAPS = ('mean-map', 'other-maps', 'noise')
# Before a name in results.
PREFIX = option_values.CONTROL_PREFIX

# Lengths in pixels of a map of 224 pixels: the standard deviation of the window
# of local contrast, and the width of the border whose mean colour is taken for
# the background.
_REFERENCE_SIZE, _CONTRAST_SIGMA, _BORDER = 224, 10.0, 8

# Part of the identity of results; increase it when the same images give other
# maps.
_VERSION = 1

# One sentence for each control, for reports.
DESCRIPTIONS = {
  'centre': (
    "Minus the distance from the image's centre; the same map for every "
    'image, so that its specific alignment is 0, or close to 0 where groups of '
    'images differ in size.'
  ),
  'mean-map': (
    'The mean human map of all other images; it does not depend on the image.'
  ),
  'other-maps': (
    'The human map of another image, averaged over all other images; it does '
    'not depend on the image.'
  ),
  'noise': (
    'White noise, drawn for each image; it does not depend on the image.'
  ),
  'sobel': (
    'The magnitude of the Sobel gradient of luminance (the mean of red, green '
    'and blue); made from the image without learning.'
  ),
  'contrast': (
    'The standard deviation of luminance (the mean of red, green and blue) in '
    f'a Gaussian window of {_CONTRAST_SIGMA:.0f} pixels at '
    f'{_REFERENCE_SIZE}x{_REFERENCE_SIZE}; made from the image without '
    'learning.'
  ),
  'colour': (
    "The Euclidean distance in RGB from the mean colour of the image's border "
    f'of {_BORDER} pixels at {_REFERENCE_SIZE}x{_REFERENCE_SIZE}; made from '
    'the image without learning.'
  ),
}


def _centre(images: np.ndarray) -> np.ndarray:
  count, height, width, _ = images.shape
  y = np.arange(height) - (height - 1) / 2
  x = np.arange(width) - (width - 1) / 2
  distance = np.hypot(y[:, np.newaxis], x)
  return np.broadcast_to(-distance, (count, height, width))


def _luminance(images: np.ndarray) -> np.ndarray:
  # Gaussian windows of differences of squares need float64.
  return images.mean(axis=-1, dtype=np.float64)


def _sobel(images: np.ndarray) -> np.ndarray:
  # Image by image: a filter of the whole array would smooth over the batch.
  return np.stack(
    [
      np.hypot(ndimage.sobel(image, axis=0), ndimage.sobel(image, axis=1))
      for image in _luminance(images)
    ]
  )


def _contrast(images: np.ndarray) -> np.ndarray:
  luminance = _luminance(images)
  # The variance does not change, and cancellation is smaller.
  luminance = luminance - luminance.mean(axis=(1, 2), keepdims=True)
  sigma = _CONTRAST_SIGMA * images.shape[1] / _REFERENCE_SIZE

  def window(values):
    return ndimage.gaussian_filter(values, (0, sigma, sigma))

  variance = window(luminance**2) - window(luminance) ** 2
  return np.sqrt(np.maximum(variance, 0))


def _colour(images: np.ndarray) -> np.ndarray:
  size = images.shape[1]
  width = max(1, round(_BORDER * size / _REFERENCE_SIZE))
  border = np.ones(images.shape[1:3], bool)
  border[width:-width, width:-width] = False
  mean = images[:, border].mean(axis=1, dtype=np.float64)
  return np.linalg.norm(images - mean[:, np.newaxis, np.newaxis], axis=-1)


_MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'centre': _centre,
  'sobel': _sobel,
  'contrast': _contrast,
  'colour': _colour,
}


def maps(name: str, images: np.ndarray, size: int) -> np.ndarray:
  """Computes the control maps of a batch of images.

  Args:
    name: 'centre', 'sobel', 'contrast' or 'colour'. The other controls are
      made from human maps, or by `noise`.
    images: (B, h, w, 3), RGB in 0..255, any real dtype. They are resized
      bilinearly to the size of the maps, as for a network.
    size: height and width of the maps.

  Returns:
    float32 (B, size, size). The map of an image does not depend on the others.

  Raises:
    ValueError: the name is not one of these four, or the shape is wrong.
  """
  choices.require('control', name, _MAPS)
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
      f'control {name}: the images have shape {images.shape}; expected '
      '(B, height, width, 3).'
    )
  if images.shape[1:3] != (size, size):
    images = base.resize(images, (size, size))
  return _MAPS[name](np.asarray(images, np.float32)).astype(np.float32)


def noise(seed: int, count: int, size: int) -> np.ndarray:
  """Draws maps of white noise.

  Args:
    seed: the same seed gives the same maps.
    count: number of maps.
    size: height and width of the maps.

  Returns:
    Standard normal values, float32 (count, size, size). The first maps do not
    depend on `count`.
  """
  return np.random.default_rng(seed).standard_normal(
    (count, size, size), np.float32
  )


class Control:
  """A control in place of a network.

  It has the attributes of `adapters.base.Adapter` that protocols with controls
  read, but neither logits nor gradients.
  """

  num_classes = 0
  # Labels of any data set are in range.
  scored_classes = 1 << 31

  def __init__(self, control: str):
    """Initializes it.

    Args:
      control: one of `NAMES`.

    Raises:
      ValueError: the name is unknown.
    """
    self.control = choices.require('control', control, NAMES)
    self.spec, self.name = f'control:{control}', PREFIX + control
    self.input_size = (_REFERENCE_SIZE, _REFERENCE_SIZE)
    self.preprocessing = 'none'

  def identity(self) -> dict[str, str]:
    """Returns what stands for the network in the identity of a result."""
    return {'control': f'{self.control} {_VERSION}'}
