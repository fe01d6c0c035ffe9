# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Chooses layers of a network by the shapes of their outputs.

Maps of activations need a layer with a spatial extent, and maps of attention
need to know which tokens are patches of the image. Both follow from the shapes
of all layers' outputs, for networks of Keras and of PyTorch.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from official_ext.harmonization import choices


class Unsuitable(ValueError):
  """A network without the layers that a map needs; the message says why."""


class Output(NamedTuple):
  """The output of a layer.

  Attributes:
    name: of the layer.
    grid: rows and columns of an output with a spatial extent, else None.
    tokens: number of tokens of an output (B, tokens, features), else 0.
    is_pooled: whether it is the output of a pooling layer.
  """

  name: str
  grid: tuple[int, int] | None = None
  tokens: int = 0
  is_pooled: bool = False


class Attention(NamedTuple):
  """The attention of a vision transformer for B images.

  Attributes:
    layers: of each layer in order, float32 (B, T, T): the weights with which
      each token (row) attends to all tokens, averaged over heads; rows sum to
      1. The last rows * columns of the T tokens are patches, row by row.
    read: float32 (T,), sums to 1: equal weights of the tokens of the last layer
      that the logits are read from, such as the class token.
    grid: rows and columns of the patches.
  """

  layers: list[np.ndarray]
  read: np.ndarray
  grid: tuple[int, int]


def inaccessible() -> Unsuitable:
  """Returns the error for a network whose layers cannot be observed."""
  return Unsuitable(
    'the layers of this kind of network are not accessible; expected a network '
    'of Keras, or of PyTorch with its code. Choose an explainer that only '
    'needs gradients, such as smoothgrad_squared.'
  )


def require_name(layer: str, names: Collection[str]):
  """Raises `Unsuitable` if a layer is not one of those of the network."""
  if layer not in names:
    raise Unsuitable(
      f'it has no layer {layer!r}; expected one of its {len(names)} layers, '
      f'such as {", ".join([*names][-3:])}.'
      + choices.did_you_mean(layer, names)
    )


def not_spatial(layer: str) -> Unsuitable:
  """Returns the error for a layer whose output has no spatial extent."""
  return Unsuitable(
    f'the output of the layer {layer} has no spatial extent; expected '
    '(B, rows, columns, channels). Name another layer.'
  )


def without_effect(layer: str) -> Unsuitable:
  """Returns the error for a layer that the logits do not depend on."""
  return Unsuitable(
    f'the logits do not depend on the output of the layer {layer}; expected a '
    'layer between the image and the logits. Name another layer.'
  )


def output(
  name: str,
  shape: Sequence[int | None],
  size: Sequence[int],
  *,
  channels_first: bool,
  is_pooled: bool,
) -> Output:
  """Describes the output of a layer.

  Args:
    name: of the layer.
    shape: of its output, with the batch.
    size: height and width of the image.
    channels_first: whether images are (B, channels, height, width).
    is_pooled: whether it is the output of a pooling layer.
  """
  if len(shape) == 3 and shape[1] and shape[1] > 1:
    return Output(name, tokens=shape[1])
  axis = spatial_axis(shape, size, channels_first)
  if axis:
    rows, columns = shape[axis : axis + 2]
    return Output(name, (rows or 0, columns or 0), is_pooled=is_pooled)
  return Output(name)


def spatial_axis(
  shape: Sequence[int | None], size: Sequence[int], channels_first: bool
) -> int:
  """Returns the axis of the rows; 0 if an output has no spatial extent.

  Some networks for channels first compute with channels last inside. An extent
  has the aspect of the image, up to rounding.

  Args:
    shape: of an output, with the batch.
    size: height and width of the image.
    channels_first: whether images are (B, channels, height, width).
  """
  if len(shape) == 4:
    for axis in (2, 1) if channels_first else (1,):
      rows, columns = shape[axis : axis + 2]
      if (
        rows
        and columns
        and rows * columns > 1
        and rows <= size[0]
        and abs(rows * size[1] - columns * size[0]) <= max(size)
      ):
        return axis
  return 0


def last_spatial(outputs: Sequence[Output]) -> str:
  """Returns the name of the last layer with a spatial extent.

  Pooling layers do not count: their activations are those of the layer before,
  in less detail.

  Args:
    outputs: of all layers, in the order in which they are computed.

  Raises:
    Unsuitable: no layer has a spatial extent, or the network works on tokens
      after it.
  """
  chosen = tokens = ''
  for found in outputs:
    if found.grid and not found.is_pooled:
      chosen, tokens = found.name, ''
    elif found.tokens:
      tokens = found.name
  if not chosen:
    raise Unsuitable(
      'no layer has a spatial extent; expected a convolutional network. Choose '
      'an explainer that only needs gradients, such as smoothgrad_squared.'
    )
  if tokens:
    raise Unsuitable(
      f'the layers after {chosen}, the last with a spatial extent, compute '
      f'tokens (such as {tokens}); expected a convolutional network. Choose '
      'attention_rollout or token_gradients, or name a layer.'
    )
  return chosen


def patch_embedding(outputs: Sequence[Output]) -> Output:
  """Returns the layer that embeds the patches of an image as tokens.

  It is the last layer with a spatial extent. The layers after it compute
  tokens, and those before it do not.

  Args:
    outputs: of all layers, in the order in which they are computed.

  Raises:
    Unsuitable: the network has no such layer.
  """
  found = next(_embeddings(outputs), None)
  if not found:
    raise Unsuitable(
      'it does not begin with an embedding of patches whose layers compute '
      'tokens (B, tokens, features); expected a vision transformer. Choose '
      'grad_cam or smoothgrad_squared.'
    )
  return found


def _embeddings(outputs: Sequence[Output]) -> Iterator[Output]:
  """Yields the embedding, unless a later layer has another extent again."""
  for i, found in enumerate(outputs):
    if found.tokens:
      return
    after = outputs[i + 1 :]
    tokens = next((o.tokens for o in after if o.tokens), 0)
    if (
      found.grid
      and tokens >= np.prod(found.grid)
      and not any(o.grid for o in after if o.grid != found.grid)
    ):
      yield found
      return


def attention(
  embedding: Output,
  weights: Sequence[np.ndarray],
  sensitivity: np.ndarray | None,
) -> Attention:
  """Checks and describes the attention of a vision transformer.

  Args:
    embedding: of the patches.
    weights: of each layer in order, (B, T, T), averaged over heads.
    sensitivity: (B, T), the magnitude of the logits' gradients with respect to
      each token after the last layer; None if it is not known.

  Raises:
    Unsuitable: the layers do not attend over the patches and a few tokens more.
  """
  expected = 'expected a vision transformer that attends over all patches'
  advice = 'Choose token_gradients or smoothgrad_squared.'
  patches = int(np.prod(embedding.grid or (0,)))
  if not weights or sensitivity is None:
    raise Unsuitable(
      f'no attention layer of a known kind was found; {expected}, with '
      "MultiHeadAttention of tf_keras, or PyTorch's MultiheadAttention, "
      f'scaled_dot_product_attention or softmax. {advice}'
    )
  shapes = sorted({w.shape[1:] for w in weights})
  count = shapes[0][-1]
  if len(shapes) > 1 or shapes[0] != (count, count) or count < patches:
    raise Unsuitable(
      f'its attention layers attend over {shapes}, and the image has {patches} '
      f'patches; {expected} in every layer. {advice}'
    )
  read = np.asarray((sensitivity > 0).any(axis=0), np.float32)
  if len(read) != count or not read.any():
    raise Unsuitable(
      f'the logits are not read from its {count} tokens; {expected}. {advice}'
    )
  return Attention(
    [np.asarray(w, np.float32) for w in weights],
    read / read.sum(),
    embedding.grid or (0, 0),
  )
