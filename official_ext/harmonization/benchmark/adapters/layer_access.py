# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Access to the layers of a network, for explainers that need them."""

import contextlib
import functools
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark.adapters import layers


class Unavailable(ValueError):
  """A network whose layers are not as an explainer needs them."""


class LayerAccess:
  """What an adapter knows about its network's layers.

  A subclass that has layers overrides `_layer_outputs`, `_activations` and
  `_attention`. They raise `layers.Unsuitable`.
  """

  # Of `base.Adapter`.
  spec: str
  preprocess: Any
  _call: Any
  _check_shape: Any
  _noise: Any
  _own_labels: Any

  def activations(
    self, inputs: np.ndarray, labels: np.ndarray, layer: str = ''
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the output of a layer, and the gradients with respect to it.

    Args:
      inputs: as for `logits_and_gradients`, like labels.
      labels: (B, scored_classes).
      layer: name of the layer; '' for the last that has a spatial extent and is
        not a pooling layer, see `layers.last_spatial`.

    Returns:
      The activations, float32 (B, rows, columns, channels), and the gradients
      of the scores with respect to them, of the same shape.

    Raises:
      Unavailable: the network has no such layer, its layers are not accessible,
        or the scores do not depend on the layer.
      ValueError: as for `logits_and_gradients`.
    """
    own = self._own_labels(inputs, labels)
    with self._named():
      name = layer or layers.last_spatial(self._layers)
      return self._call(self._activations, inputs, own, name)

  def patch_embedding(self) -> str:
    """Returns the name of the layer that embeds patches as tokens.

    Raises:
      Unavailable: the network does not begin with one, or its layers are not
        accessible.
    """
    with self._named():
      return layers.patch_embedding(self._layers).name

  def attention(self, inputs: np.ndarray) -> layers.Attention:
    """Computes the attention of a vision transformer, see `layers.Attention`.

    Args:
      inputs: as for `logits`.

    Raises:
      Unavailable: the network is not a vision transformer, or its layers are
        not accessible.
      ValueError: as for `logits`.
    """
    self._check_shape(inputs)
    with self._named():
      embedding = layers.patch_embedding(self._layers)
      return layers.attention(embedding, *self._call(self._attention, inputs))

  @functools.cached_property
  def _layers(self) -> list[layers.Output]:
    """The outputs of all layers, in the order in which they are computed."""
    return self._call(self._layer_outputs, self.preprocess(self._noise()))

  def _layer_outputs(self, inputs: np.ndarray) -> list[layers.Output]:
    """Returns the outputs of all layers for some images."""
    raise layers.inaccessible()

  def _activations(
    self, inputs: np.ndarray, labels: np.ndarray, layer: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """As `activations`, for all `num_classes` outputs and a named layer."""
    raise layers.inaccessible()

  def _attention(
    self, inputs: np.ndarray
  ) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Returns the weights and the sensitivity for `layers.attention`."""
    raise layers.inaccessible()

  @contextlib.contextmanager
  def _named(self):
    """Adds the SPEC to the messages of errors."""
    try:
      yield
    except layers.Unsuitable as e:
      raise Unavailable(f'{self.spec}: {e}') from None
