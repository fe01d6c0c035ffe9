"""Explainers: where a network looks, by one of several definitions.

An explainer is a plain callable `explainer(images, labels) -> maps`: images
(B, H, W, 3) float32 as the network takes them, labels (B, C) float32, one-hot,
maps (B, H, W). Those below are made of a function `gradients(images, labels)`,
numpy in and out, that returns d(sum_c labels[b, c] * f_c(x_b)) / dx_b,
(B, H, W, 3), of a network f in inference mode; TensorFlow and PyTorch networks
share them. No more than one batch of images and of gradients is held at a time.
"""

from collections.abc import Callable
from typing import Any
import zlib

import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization.ops import saliency

Explainer = Callable[[np.ndarray, np.ndarray], np.ndarray]
Gradients = Callable[[np.ndarray, np.ndarray], np.ndarray]

# The sum over channels keeps what an attribution says of a pixel: its share in
# the score. The others are those of saliency maps.
_REDUCTIONS = {'sum': lambda g: g.sum(-1), **saliency.REDUCTIONS}


def _reduce(values: np.ndarray, reduction: str) -> np.ndarray:
  """Reduces (B, H, W, 3) over channels to float32 (B, H, W)."""
  choices.require('reduction', reduction, _REDUCTIONS)
  return np.asarray(_REDUCTIONS[reduction](values), np.float32)


def _at_least(name: str, value: float, least: float):
  if not value >= least:
    raise ValueError(f'{name} is {value}: give at least {least}.')


def gradient(gradients: Gradients, *, reduction: str = 'abs_max') -> Explainer:
  """The gradient; by default the released evaluation map.

  Simonyan et al., "Deep Inside Convolutional Networks", 2013: the largest
  magnitude over channels.

  Args:
    gradients: of the class scores, see above.
    reduction: over channels: 'abs_max', 'abs_mean', 'signed_mean' or 'sum'.

  Returns:
    The explainer.
  """

  def explainer(images, labels):
    return _reduce(gradients(images, labels), reduction)

  return explainer


def training_map(gradients: Gradients) -> Explainer:
  """The map that the harmonization loss sees: the mean of the signed gradient.

  Args:
    gradients: of the class scores, see above.

  Returns:
    The explainer.
  """
  return gradient(gradients, reduction='signed_mean')


def gradient_x_input(
  gradients: Gradients, *, reduction: str = 'sum'
) -> Explainer:
  """The gradient times the image.

  Shrikumar et al., "Not Just a Black Box", 2016. For a network that is linear
  without a bias, the map sums to the score.

  Args:
    gradients: of the class scores, see above.
    reduction: over channels, as of `gradient`.

  Returns:
    The explainer.
  """

  def explainer(images, labels):
    return _reduce(images * gradients(images, labels), reduction)

  return explainer


def smoothgrad(
  gradients: Gradients,
  *,
  samples: int = 50,
  noise: float = 0.15,
  seed: int = 0,
  reduction: str = 'abs_max',
) -> Explainer:
  """The mean of the gradients of noisy copies of the image.

  Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, who
  recommend 50 samples and noise of 0.1 to 0.2 of the input's range. The
  gradients are averaged with their signs.

  Args:
    gradients: of the class scores, see above.
    samples: noisy copies of each image.
    noise: standard deviation, as a part of the image's own range (its maximum
      minus its minimum).
    seed: of the noise. An image's noise depends on the seed and the image
      alone, never on the batch it comes in.
    reduction: over channels, as of `gradient`.

  Returns:
    The explainer.

  Raises:
    ValueError: there is no sample, or the noise is negative.
  """
  _at_least('samples', samples, 1)
  _at_least('noise', noise, 0.0)

  def explainer(images, labels):
    images = np.ascontiguousarray(images, np.float32)
    generators = [
      np.random.default_rng((seed, zlib.crc32(image))) for image in images
    ]
    scale = noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    total = np.zeros(images.shape)
    for _ in range(samples):
      drawn = np.stack(
        [g.standard_normal(images.shape[1:], np.float32) for g in generators]
      )
      total += gradients(images + scale * drawn, labels)
    return _reduce(total / samples, reduction)

  return explainer


def integrated_gradients(
  gradients: Gradients,
  *,
  steps: int = 50,
  baseline: float | np.ndarray = 0.0,
  reduction: str = 'sum',
) -> Explainer:
  """The gradient along the straight path from a baseline, times the way.

  Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, by
  the trapezoidal rule. Completeness: the map sums to the score of the image
  minus that of the baseline, but for the error of the rule.

  Args:
    gradients: of the class scores, see above.
    steps: intervals of the path; the gradient is taken at steps + 1 points.
    baseline: a number, (3,) or (H, W, 3), in the units of the network's input:
      0 is the mean colour where colours are standardized, not black.
    reduction: over channels, as of `gradient`.

  Returns:
    The explainer.

  Raises:
    ValueError: there is no step.
  """
  _at_least('steps', steps, 1)
  baseline = np.asarray(baseline, np.float32)

  def explainer(images, labels):
    way = images - baseline
    total = np.zeros(images.shape)
    for step in range(steps + 1):
      weight = (0.5 if step in (0, steps) else 1.0) / steps
      position = np.float32(step / steps)
      total += weight * gradients(baseline + position * way, labels)
    return _reduce(way * total, reduction)

  return explainer


EXPLAINERS = {
  'gradient': gradient,
  'training_map': training_map,
  'gradient_x_input': gradient_x_input,
  'smoothgrad': smoothgrad,
  'integrated_gradients': integrated_gradients,
}


def get(name: str, gradients: Gradients, **options: Any) -> Explainer:
  """Makes a built-in explainer.

  Args:
    name: one of `EXPLAINERS`.
    gradients: of the class scores, see above.
    **options: of that explainer.

  Returns:
    The explainer.

  Raises:
    ValueError: there is none of this name.
  """
  choices.require('explainer', name, EXPLAINERS)
  return EXPLAINERS[name](gradients, **options)


def explain(
  explainer: Explainer, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Calls any explainer, and checks what it returns.

  Args:
    explainer: one of these, or a callable of another package. Its maps may be
      tensors and may have a last axis of 1, as those of xplique have.
    images: float32 (B, H, W, 3), as the network takes them.
    labels: float32 (B, C), one-hot.

  Returns:
    float32 (B, H, W).

  Raises:
    ValueError: the maps have another shape.
  """
  maps = np.asarray(explainer(images, labels), np.float32)
  expected = images.shape[:3]
  if maps.shape == (*expected, 1):
    maps = maps[..., 0]
  if maps.shape != expected:
    raise ValueError(
      f'The explainer returned maps of shape {maps.shape} for '
      f'images of {images.shape}: {expected} is expected, one '
      'value per pixel.'
    )
  return maps


def score_operator(
  logits: Callable[[np.ndarray], np.ndarray], gradients: Gradients
) -> Callable[..., tf.Tensor]:
  """Lets TensorFlow differentiate the score of a network it knows nothing of.

  What this returns is an `operator` as xplique's explainers take it, so that
  those that differentiate the score by the image alone work on every network,
  PyTorch's included.

  Args:
    logits: from images (B, H, W, 3) to (B, C), numpy in and out, float32.
    gradients: of the class scores, see above.

  Returns:
    A function of a model, which is not looked at, of images (B, H, W, 3) and
    labels (B, C): the scores sum_c labels[b, c] * f_c(x_b), a float32 `Tensor`
    (B,), which can be differentiated once by the images.
  """

  def scores(images, labels):
    return np.sum(logits(images) * labels, axis=-1, dtype=np.float32)

  def operator(model, images, labels):
    del model

    @tf.custom_gradient
    def score(images):

      def backward(upstream):
        found = tf.numpy_function(gradients, [images, labels], tf.float32)
        return upstream[:, None, None, None] * tf.ensure_shape(
          found, images.shape
        )

      return tf.ensure_shape(
        tf.numpy_function(scores, [images, labels], tf.float32),
        images.shape[:1],
      ), backward

    return score(images)

  return operator
