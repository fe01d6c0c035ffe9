# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Explainers: saliency maps by several definitions.

An explainer is a callable `explainer(images, labels) -> maps` with images
(B, H, W, 3), float32, preprocessed for the network; labels (B, C), float32,
one-hot; and maps (B, H, W). The functions of this module make an explainer from
`gradients(images, labels)`, a function of NumPy arrays that returns
d(sum_c labels[b, c] * f_c(x_b)) / dx_b, (B, H, W, 3), of a network f in
inference mode. They are the same for TensorFlow and PyTorch networks, and keep
at most one batch of images and gradients in memory.

  adapter = spec.build('keras_app:ResNet50V2')
  explainer = explainers.get('smoothgrad', adapter.gradients, samples=25)
  maps = explainers.explain(explainer, inputs, labels)
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

# The sum over channels preserves a pixel's share of the score. The other
# reductions are those of saliency maps.
_REDUCTIONS = {'sum': lambda g: g.sum(-1), **saliency.REDUCTIONS}


def _reduce(values: np.ndarray, reduction: str) -> np.ndarray:
  """Reduces (B, H, W, 3) over channels to float32 (B, H, W)."""
  choices.require('reduction', reduction, _REDUCTIONS)
  return np.asarray(_REDUCTIONS[reduction](values), np.float32)


def _at_least(name: str, value: float, least: float):
  if not value >= least:
    raise ValueError(f'{name} is {value}; expected at least {least}.')


def gradient(gradients: Gradients, *, reduction: str = 'abs_max') -> Explainer:
  """Returns the gradient explainer; by default the released evaluation map.

  Simonyan et al., "Deep Inside Convolutional Networks", 2013: the largest
  magnitude over channels.

  Args:
    gradients: see the top of this module, as in all functions below.
    reduction: over channels: 'abs_max', 'abs_mean', 'signed_mean' or 'sum'.
  """

  def explainer(images, labels):
    return _reduce(gradients(images, labels), reduction)

  return explainer


def training_map(gradients: Gradients) -> Explainer:
  """Returns the explainer of the harmonization loss: the mean gradient."""
  return gradient(gradients, reduction='signed_mean')


def gradient_x_input(
  gradients: Gradients, *, reduction: str = 'sum'
) -> Explainer:
  """Returns the explainer gradient times image.

  Shrikumar et al., "Not Just a Black Box", 2016. For a linear network without
  bias the map sums to the score.

  Args:
    gradients: see the top of this module.
    reduction: as in `gradient`.
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
  """Returns the explainer that averages gradients of noisy copies of an image.

  Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, who
  recommend 50 samples and noise of 0.1 to 0.2 of the input's range. The signed
  gradients are averaged.

  Args:
    gradients: see the top of this module.
    samples: number of noisy copies of each image.
    noise: standard deviation as a fraction of the image's range (its maximum
      minus its minimum).
    seed: of the noise. The noise depends only on the seed and the image, not on
      the batch.
    reduction: as in `gradient`.

  Raises:
    ValueError: samples is less than 1, or noise is negative.
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
  """Returns the explainer that integrates gradients from a baseline.

  Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017: the
  mean gradient on the straight path from a baseline to the image, by the
  trapezoidal rule, times their difference. Completeness: up to the error of the
  rule, the map sums to the score of the image minus that of the baseline.

  Args:
    gradients: see the top of this module.
    steps: number of intervals; the gradient is computed at steps + 1 points.
    baseline: a number, (3,) or (H, W, 3), in the units of the network's input.
      For standardized inputs 0 is the mean colour, not black.
    reduction: as in `gradient`.

  Raises:
    ValueError: steps is less than 1.
  """
  _at_least('steps', steps, 1)
  baseline = np.asarray(baseline, np.float32)

  def explainer(images, labels):
    difference = images - baseline
    total = np.zeros(images.shape)
    for step in range(steps + 1):
      weight = (0.5 if step in (0, steps) else 1.0) / steps
      position = np.float32(step / steps)
      total += weight * gradients(baseline + position * difference, labels)
    return _reduce(difference * total, reduction)

  return explainer


EXPLAINERS = {
  'gradient': gradient,
  'training_map': training_map,
  'gradient_x_input': gradient_x_input,
  'smoothgrad': smoothgrad,
  'integrated_gradients': integrated_gradients,
}


def get(name: str, gradients: Gradients, **options: Any) -> Explainer:
  """Returns a built-in explainer.

  Args:
    name: one of `EXPLAINERS`.
    gradients: see the top of this module.
    **options: keyword arguments of that function.

  Raises:
    ValueError: the name is unknown.
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
      f'The explainer returned maps of shape {maps.shape} for images of '
      f'shape {images.shape}; expected {expected}, one value per pixel.'
    )
  return maps


def score_operator(
  logits: Callable[[np.ndarray], np.ndarray], gradients: Gradients
) -> Callable[..., tf.Tensor]:
  """Returns an operator by which xplique explains any network.

  xplique's explainers accept an `operator(model, images, labels)` that computes
  the scores to differentiate. Through this operator, those that only need the
  gradient with respect to the image work for every network, also PyTorch's.

  Args:
    logits: function of NumPy arrays from images (B, H, W, 3) to float32 (B, C).
    gradients: see the top of this module.

  Returns:
    A function of a model, which it ignores, images (B, H, W, 3) and labels
    (B, C). It returns the scores sum_c labels[b, c] * f_c(x_b), a float32
    `Tensor` (B,) that can be differentiated once with respect to the images.
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
