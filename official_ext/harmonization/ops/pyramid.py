# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Binomial pyramids of saliency and human-importance maps."""

import numpy as np
import tensorflow as tf

from official_ext.harmonization.ops import tensors

_BINOMIAL = np.array([1.0, 4.0, 6.0, 4.0, 1.0], np.float64) / 16.0


def gaussian_pyramid(maps: tf.Tensor, levels: int) -> list[tf.Tensor]:
  """Builds a pyramid of maps, each level half the size of the previous one.

  Each level is the previous one filtered with the 5x5 binomial kernel
  (1, 4, 6, 4, 1) x (1, 4, 6, 4, 1) / 256 with zero padding ('SAME') and
  subsampled by two: P_1(h) = h, P_i(h) = down(P_{i-1}(h)) of Fel et al.,
  "Harmonizing the object recognition strategies of deep neural networks with
  humans", NeurIPS 2022, as in the authors' released code.

  Args:
    maps: float `Tensor` of shape (B, H, W), or a value that converts to one.
    levels: number of levels, at least 1.

  Returns:
    A list of `levels` tensors of shape (B, ceil(H / 2^i), ceil(W / 2^i)) and
    the dtype of `maps`. The first is `maps` itself.

  Raises:
    ValueError: `levels` is less than 1 or `maps` is not of rank 3.
  """
  if levels < 1:
    raise ValueError(f'levels is {levels}; expected 1 or more.')
  maps = tensors.floating(maps)
  maps.shape.assert_has_rank(3)
  kernel = tf.constant(
    np.outer(_BINOMIAL, _BINOMIAL)[:, :, np.newaxis, np.newaxis], maps.dtype
  )
  pyramid = [maps]
  for _ in range(levels - 1):
    coarser = tf.nn.conv2d(
      pyramid[-1][..., tf.newaxis], kernel, strides=2, padding='SAME'
    )
    pyramid.append(coarser[..., 0])
  return pyramid
