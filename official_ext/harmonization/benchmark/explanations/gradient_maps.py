# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Maps from one gradient of the score with respect to the image."""

from official_ext.harmonization.benchmark.explanations import networks


def gradient(
  network: networks.Network, *, reduction: str = 'abs_max'
) -> networks.Explainer:
  """Returns the gradient explainer; by default the released evaluation map.

  Simonyan et al., "Deep Inside Convolutional Networks", 2013: the largest
  magnitude over channels.

  Args:
    network: the network.
    reduction: over channels: 'abs_max', 'abs_mean', 'signed_mean' or 'sum'.
  """

  def explainer(images, labels):
    return networks.reduce_channels(
      network.gradients(images, labels), reduction
    )

  return explainer


def training_map(network: networks.Network) -> networks.Explainer:
  """Returns the explainer of the harmonization loss: the mean gradient."""
  return gradient(network, reduction='signed_mean')


def gradient_x_input(
  network: networks.Network, *, reduction: str = 'sum'
) -> networks.Explainer:
  """Returns the explainer gradient times image.

  Shrikumar et al., "Not Just a Black Box", 2016. For a linear network without
  bias the map sums to the score.

  Args:
    network: the network.
    reduction: as in `gradient`.
  """

  def explainer(images, labels):
    return networks.reduce_channels(
      images * network.gradients(images, labels), reduction
    )

  return explainer
