# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Maps from the gradients on straight paths between images."""

import zlib

import numpy as np

from official_ext.harmonization.benchmark.explanations import networks


def integrated_gradients(
  network: networks.Network,
  *,
  steps: int = 50,
  baseline: float | np.ndarray = 0.0,
  reduction: str = 'sum',
) -> networks.Explainer:
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
    reduction: over channels, as in `gradient_maps.gradient`.

  Raises:
    ValueError: steps is less than 1.
  """
  networks.require_at_least('steps', steps, 1)
  baseline = np.asarray(baseline, np.float32)

  def explainer(images, labels):
    difference = images - baseline
    total = np.zeros(images.shape)
    for step in range(steps + 1):
      weight = (0.5 if step in (0, steps) else 1.0) / steps
      inputs = baseline + np.float32(step / steps) * difference
      total += weight * network.gradients(inputs, labels)
    return networks.reduce_channels(difference * total, reduction)

  return explainer


def expected_gradients(
  network: networks.Network,
  *,
  baselines: np.ndarray | None = None,
  samples: int = 50,
  seed: int = 0,
  reduction: str = 'sum',
) -> networks.Explainer:
  """Returns the explainer that averages over baselines and path positions.

  Erion et al., "Improving performance of deep learning models with axiomatic
  attribution priors and expected gradients", Nature Machine Intelligence 2021:
  the mean over samples of (x - x') * d score / dx at x' + a (x - x'), where the
  baseline x' is one of other images and the position a is uniform on [0, 1).
  In expectation, the map sums to the score of the image minus the mean score of
  the baselines.

  Args:
    network: the network.
    baselines: float32 (N, H, W, 3), preprocessed images. An image is never its
      own baseline. The map depends on all of them and on their order, so pass
      the same array with every batch.
    samples: number of draws of a baseline and a position for each image.
    seed: of the draws, which depend only on the seed and the image.
    reduction: over channels, as in `gradient_maps.gradient`.

  Raises:
    ValueError: samples is less than 1, or baselines is empty. When called:
      the baselines have another shape than the images, or an image has no
      baseline but itself.
  """
  networks.require_at_least('samples', samples, 1)
  if baselines is None or not len(baselines):
    raise ValueError(
      'expected_gradients has no baselines; expected other images, '
      'preprocessed for the network. Pass baselines=.'
    )
  baselines = np.asarray(baselines, np.float32)
  digests = np.array([zlib.crc32(image.tobytes()) for image in baselines])

  def explainer(images, labels):
    if images.shape[1:] != baselines.shape[1:]:
      raise ValueError(
        f'baselines has shape {baselines.shape} for images of shape '
        f'{images.shape}; expected images of the same size.'
      )
    images = np.asarray(images, np.float32)
    chosen, positions = [], []
    for image, generator in zip(images, networks.generators(seed, images)):
      others = np.flatnonzero(digests != zlib.crc32(image.tobytes()))
      if not len(others):
        raise ValueError(
          'baselines contains only the explained image; expected other '
          'images. Add some.'
        )
      chosen.append(generator.choice(others, samples))
      positions.append(generator.random(samples, np.float32))
    total = np.zeros(images.shape)
    for index, position in zip(np.transpose(chosen), np.transpose(positions)):
      start = baselines[index]
      difference = images - start
      inputs = start + position[:, None, None, None] * difference
      total += difference * network.gradients(inputs, labels)
    return networks.reduce_channels(total / samples, reduction)

  return explainer
