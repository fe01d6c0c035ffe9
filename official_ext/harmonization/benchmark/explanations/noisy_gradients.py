# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Maps from the gradients of noisy copies of an image."""

from collections.abc import Callable, Iterator

import numpy as np

from official_ext.harmonization.benchmark.explanations import networks


def smoothgrad(
  network: networks.Network,
  *,
  samples: int = 50,
  noise: float = 0.15,
  seed: int = 0,
  reduction: str = 'abs_max',
) -> networks.Explainer:
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
    reduction: over channels, as in `gradient_maps.gradient`.

  Raises:
    ValueError: samples is less than 1, or noise is negative.
  """
  return _averaged(
    lambda gradients: gradients, network, samples, noise, seed, reduction
  )


def smoothgrad_squared(
  network: networks.Network,
  *,
  samples: int = 25,
  noise: float = 0.05,
  seed: int = 0,
  reduction: str = 'abs_max',
) -> networks.Explainer:
  """Returns the explainer that averages squared gradients of noisy copies.

  Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural
  Networks", NeurIPS 2019: for each pixel and channel the mean over samples i of
  (d score / dx at x + e_i)^2. The channels are reduced afterwards.

  Args:
    network: the network.
    samples: number of noisy copies of each image.
    noise: as for `smoothgrad`, like seed.
    seed: of the noise.
    reduction: over channels. Since no square is negative, 'abs_max' is their
      maximum, and 'sum' is the squared norm of the gradient.

  Raises:
    ValueError: samples is less than 1, or noise is negative.
  """
  return _averaged(np.square, network, samples, noise, seed, reduction)


def _averaged(
  of: Callable[[np.ndarray], np.ndarray],
  network: networks.Network,
  samples: int,
  noise: float,
  seed: int,
  reduction: str,
) -> networks.Explainer:
  """Returns the explainer that averages a function of the gradients."""
  networks.require_at_least('samples', samples, 1)
  networks.require_at_least('noise', noise, 0.0)

  def explainer(images, labels):
    total = np.zeros(images.shape, np.float32)
    for found in _gradients(network, images, labels, samples, noise, seed):
      total += of(found)
    return networks.reduce_channels(total / np.float32(samples), reduction)

  return explainer


def _gradients(
  network, images, labels, samples, noise, seed
) -> Iterator[np.ndarray]:
  """Yields the gradients of each noisy copy of the images, (B, H, W, 3)."""
  images = np.asarray(images, np.float32)
  generators = networks.generators(seed, images)
  scale = noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
  for _ in range(samples):
    inputs = np.empty_like(images)
    for generator, values in zip(generators, inputs):
      generator.standard_normal(dtype=np.float32, out=values)
    inputs *= scale
    inputs += images
    yield network.gradients(inputs, labels)
