# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Explainers: saliency maps by several definitions.

An explainer is a callable `explainer(images, labels) -> maps` with images
(B, H, W, 3), float32, preprocessed for the network; labels (B, C), float32,
one-hot; and maps (B, H, W). The functions of this module make an explainer of a
`Network`, which every adapter is. They are the same for TensorFlow and PyTorch
networks, and keep at most one batch of images and gradients in memory.

  adapter = spec.build('keras_app:ResNet50V2')
  explainer = explainers.get('smoothgrad', adapter, samples=25)
  maps = explainers.explain(explainer, inputs, labels)
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol
import zlib

import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization.ops import saliency

Explainer = Callable[[np.ndarray, np.ndarray], np.ndarray]
Gradients = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Network(Protocol):
  """A network f in inference mode, as functions of NumPy arrays."""

  def logits(self, inputs: np.ndarray) -> np.ndarray:
    """Returns f(x_b), float32 (B, C), for images (B, H, W, 3)."""
    ...

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns d(sum_c labels[b, c] * f_c(x_b)) / dx_b, float32 (B, H, W, 3)."""
    ...


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


def gradient(network: Network, *, reduction: str = 'abs_max') -> Explainer:
  """Returns the gradient explainer; by default the released evaluation map.

  Simonyan et al., "Deep Inside Convolutional Networks", 2013: the largest
  magnitude over channels.

  Args:
    network: the network, as in all functions below.
    reduction: over channels: 'abs_max', 'abs_mean', 'signed_mean' or 'sum'.
  """

  def explainer(images, labels):
    return _reduce(network.gradients(images, labels), reduction)

  return explainer


def training_map(network: Network) -> Explainer:
  """Returns the explainer of the harmonization loss: the mean gradient."""
  return gradient(network, reduction='signed_mean')


def gradient_x_input(network: Network, *, reduction: str = 'sum') -> Explainer:
  """Returns the explainer gradient times image.

  Shrikumar et al., "Not Just a Black Box", 2016. For a linear network without
  bias the map sums to the score.

  Args:
    network: the network.
    reduction: as in `gradient`.
  """

  def explainer(images, labels):
    return _reduce(images * network.gradients(images, labels), reduction)

  return explainer


def smoothgrad(
  network: Network,
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
    network: the network.
    samples: number of noisy copies of each image.
    noise: standard deviation as a fraction of the image's range (its maximum
      minus its minimum).
    seed: of the noise. The noise depends only on the seed and the image, not on
      the batch.
    reduction: as in `gradient`.

  Raises:
    ValueError: samples is less than 1, or noise is negative.
  """
  noisy = _noisy_gradients(network, samples, noise, seed)

  def explainer(images, labels):
    total = np.zeros(images.shape)
    for found in noisy(images, labels):
      total += found
    return _reduce(total / samples, reduction)

  return explainer


def smoothgrad_squared(
  network: Network,
  *,
  samples: int = 25,
  noise: float = 0.05,
  seed: int = 0,
  reduction: str = 'abs_max',
) -> Explainer:
  """Returns the explainer that averages squared gradients of noisy copies.

  Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural
  Networks", NeurIPS 2019: for each channel, the mean over samples i of
  (df / dx at x + e_i)^2. The channels are reduced afterwards.

  Args:
    network: the network.
    samples: number of noisy copies of each image.
    noise: as for `smoothgrad`, like seed.
    seed: of the noise.
    reduction: as in `gradient`. Since no square is negative, 'abs_max' is their
      maximum.

  Raises:
    ValueError: samples is less than 1, or noise is negative.
  """
  noisy = _noisy_gradients(network, samples, noise, seed)

  def explainer(images, labels):
    total = np.zeros(images.shape)
    for found in noisy(images, labels):
      total += np.square(found)
    return _reduce(total / samples, reduction)

  return explainer


def _noisy_gradients(
  network: Network, samples: int, noise: float, seed: int
) -> Callable[[np.ndarray, np.ndarray], Iterator[np.ndarray]]:
  """Returns a function that yields the gradients of each noisy copy.

  Args:
    network: the network.
    samples: number of copies.
    noise: standard deviation as a fraction of each image's range.
    seed: of the noise.

  Raises:
    ValueError: samples is less than 1, or noise is negative.
  """
  _at_least('samples', samples, 1)
  _at_least('noise', noise, 0.0)

  def gradients(images, labels):
    images = np.ascontiguousarray(images, np.float32)
    generators = [
      np.random.default_rng((seed, zlib.crc32(image))) for image in images
    ]
    scale = noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    for _ in range(samples):
      drawn = np.stack(
        [g.standard_normal(images.shape[1:], np.float32) for g in generators]
      )
      yield network.gradients(images + scale * drawn, labels)

  return gradients


def integrated_gradients(
  network: Network,
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
    network: the network.
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
      inputs = baseline + position * difference
      total += weight * network.gradients(inputs, labels)
    return _reduce(difference * total, reduction)

  return explainer


EXPLAINERS = {
  'gradient': gradient,
  'training_map': training_map,
  'gradient_x_input': gradient_x_input,
  'smoothgrad': smoothgrad,
  'smoothgrad_squared': smoothgrad_squared,
  'integrated_gradients': integrated_gradients,
}


def get(name: str, network: Network, **options: Any) -> Explainer:
  """Returns a built-in explainer.

  Args:
    name: one of `EXPLAINERS`.
    network: an adapter, or anything else with `logits` and `gradients`.
    **options: keyword arguments of that function.

  Raises:
    ValueError: the name is unknown.
  """
  choices.require('explainer', name, EXPLAINERS)
  return EXPLAINERS[name](network, **options)


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
    gradients: function of NumPy arrays, as `Network.gradients`.

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
