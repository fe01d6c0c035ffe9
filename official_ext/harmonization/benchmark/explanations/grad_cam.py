# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""GradCAM: activations of one layer, weighted by their mean gradients."""

import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark.explanations import networks


def grad_cam(network, *, layer: str = '') -> networks.Explainer:
  """Returns the GradCAM explainer.

  Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
  Gradient-based Localization", ICCV 2017: ReLU(sum_k w_k A_k), where A_k is
  channel k of the layer's activations and w_k the mean over positions of the
  gradient of the score with respect to A_k, resized (bilinear) to the image.

  Args:
    network: an adapter, or anything else with `activations` as
      `adapters.base.Adapter.activations`.
    layer: name of the layer; '' for the last that has a spatial extent and is
      not a pooling layer.

  Raises:
    ValueError: when called: the network has no such layer, or this kind of
      network does not give access to its layers.
  """

  def explainer(images, labels):
    found, gradients = network.activations(images, labels, layer)
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return resized(np.maximum((weights * found).sum(-1), 0), images.shape[1:3])

  return explainer


def resized(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
  """Resizes maps (B, h, w) to (height, width), bilinear; float32."""
  maps = np.asarray(maps, np.float32)[..., np.newaxis]
  return tf.image.resize(maps, size).numpy()[..., 0]
