# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Maps of vision transformers: attention rollout and token gradients."""

import numpy as np

from official_ext.harmonization.benchmark.explanations import grad_cam
from official_ext.harmonization.benchmark.explanations import networks


def attention_rollout(network) -> networks.Explainer:
  """Returns the attention rollout explainer; it does not depend on the labels.

  Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020: with
  A_l the mean over heads of the attention of layer l, the rollout is the
  product of (A_l + I) / 2 over all layers, the last layer first. The map is the
  row of the token that the logits are read from, over the image's patches; the
  mean of the rows, if they are read from several.

  Args:
    network: an adapter, or anything else with `attention` as
      `adapters.base.Adapter.attention`.

  Raises:
    ValueError: when called: the network is not a vision transformer that this
      project can open.
  """

  def explainer(images, labels):
    del labels
    found = network.attention(images)
    identity = np.eye(found.layers[0].shape[-1], dtype=np.float32)
    # (B, 1, T): only the row that is needed is multiplied.
    row = np.broadcast_to(found.read, (len(images), 1, len(found.read)))
    for weights in reversed(found.layers):
      row = row @ ((weights + identity) / 2)
    height, width = found.grid
    patches = row[:, 0, -height * width :]
    return grad_cam.resized(
      patches.reshape(-1, height, width), images.shape[1:3]
    )

  return explainer


def token_gradients(network) -> networks.Explainer:
  """Returns the explainer that measures the gradient of each patch's token.

  The counterpart of `gradient` for patches: the Euclidean norm over features
  of the gradient of the score with respect to a patch's embedding, resized
  (bilinear) to the image. Li et al., "Visualizing and Understanding Neural
  Models in NLP", NAACL 2016, for words.

  Args:
    network: an adapter, or anything else with `activations` and
      `patch_embedding` as `adapters.base.Adapter`.

  Raises:
    ValueError: when called: the network does not begin with an embedding of
      patches, or this kind of network does not give access to its layers.
  """

  def explainer(images, labels):
    layer = network.patch_embedding()
    _, gradients = network.activations(images, labels, layer)
    return grad_cam.resized(
      np.linalg.norm(gradients, axis=-1), images.shape[1:3]
    )

  return explainer
