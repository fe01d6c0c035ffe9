# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The interface of every evaluated network.

An adapter takes batches of images and returns logits and their gradients as
NumPy arrays, so that protocols do not depend on the network's framework. It
never holds more than one batch in memory.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import re
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark.adapters import fresh_weights
from official_ext.harmonization.benchmark.adapters import layer_access
from official_ext.harmonization.benchmark.adapters import layers
from official_ext.harmonization.benchmark.adapters import preprocessing

# Classes of ImageNet, and of Model Garden, which adds a background class 0.
IMAGENET_CLASSES = 1000
_WITH_BACKGROUND = 1001

# Tolerance for the sum of a row of probabilities: an absolute one, and one in
# units of the network's rounding error. The larger one counts.
_SUM_TOLERANCE, _SUM_ROUNDINGS = 1e-3, 10

# Tolerances, relative to the largest logit, for comparing one image's logits
# between a batch of one and a larger batch, and between two calls. In float32
# both are _DEPENDENCE. In 16 bits, results depend on how a batch is split, so
# they are _PIXEL_ROUNDINGS times the effect of rounding the pixels (batch
# statistics had 8 times that effect in bfloat16 and 100 times in float16), and
# _ROUNDINGS rounding errors.
_DEPENDENCE, _PIXEL_ROUNDINGS, _ROUNDINGS = 1e-4, 4, 4
# Relative rounding errors by number type. GPUs may use TensorFloat-32 where
# float32 is asked for.
ROUNDING = {
  'float32': 2.0**-23,
  'tensor_float_32': 2.0**-11,
  'float16': 2.0**-10,
  'bfloat16': 2.0**-7,
}

# Loss scaling for float16, which rounds small gradients to zero: scores are
# multiplied, and gradients divided, by the first of these powers of two for
# which an image's gradient is finite.
_SCALES = (4096.0, 64.0, 1.0)


class Unscorable(ValueError):
  """A network that cannot be scored; the message says why."""


def no_gradient(spec: str) -> Unscorable:
  """Returns the error for a network without gradients.

  Args:
    spec: the network's SPEC.
  """
  return Unscorable(
    f'{spec}: its logits have no gradient with respect to the images; '
    'expected a differentiable network. Look for no_grad, inference_mode, '
    'detach, stop_gradient or NumPy in it.'
  )


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes whole images, bilinearly and without antialiasing.

  The release resizes ClickMe's images to a network's input size in this way
  (`harmonization` 0.0.9, `common/clickme_dataset.py`).

  Args:
    images: (B, H, W, channels) or (H, W, channels), of any real dtype.
    size: height and width.

  Returns:
    float32 images of that size.
  """
  return tf.image.resize(images, size, method='bilinear').numpy()


class Adapter(layer_access.LayerAccess, abc.ABC):
  """A network under evaluation.

  Attributes:
    spec: the SPEC by which the user named the network.
    name: the name shown in tables.
    input_size: height and width of the images that the network takes.
    preprocessing: one line, recorded with every score.
    num_classes: number of the network's outputs.
    scored_classes: number of classes that are scored. A network of 1001 outputs
      is taken for a Model Garden network, whose background class 0 is dropped,
      so that 1000 classes are scored; otherwise num_classes.
  """

  def __init__(
    self,
    spec: str,
    name: str,
    input_size: tuple[int, int],
    prepare: preprocessing.Preprocessing,
    *,
    assumed: bool = False,
  ):
    """Initializes the adapter.

    A subclass calls this and then `_probe`, once its own fields are set.

    Args:
      spec: see the attribute.
      name: see the attribute.
      input_size: see the attribute.
      prepare: the preprocessing of the pixels.
      assumed: whether the preprocessing is a guess, which is then recorded in
        the attribute `preprocessing` and logged as a warning.
    """
    self.spec = spec
    self.name = name
    self.input_size = tuple(input_size)
    self._prepare = prepare
    height, width = self.input_size
    self.preprocessing = f'{height}x{width} pixels, {prepare}' + (
      ' (assumed)' if assumed else ''
    )
    if assumed:
      logging.warning(
        '%s: the preprocessing is unknown; assuming preprocessing=%s. A wrong '
        'one lowers every score. Choose one of %s.',
        spec,
        prepare.name,
        ', '.join(preprocessing.NAMED),
      )
    # `_probe` sets them.
    self.num_classes = self.scored_classes = 0

  @abc.abstractmethod
  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    """Returns all logits of the network, float32 (B, num_classes)."""

  @abc.abstractmethod
  def _logits_and_gradients(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """As `logits_and_gradients`, for all `num_classes` outputs."""

  @abc.abstractmethod
  def parameters(self) -> Iterator[np.ndarray]:
    """Yields the network's current weights, always in the same order."""

  def randomize(self, seed: int):
    """Draws the network's weights anew, in place; see `fresh_weights`.

    Args:
      seed: the same seed gives the same weights.

    Raises:
      fresh_weights.Unavailable: the weights cannot be drawn anew.
    """
    del seed
    raise fresh_weights.Unavailable(
      f'{self.spec}: this kind of network does not say how its weights were '
      'initialized.'
    )

  def _weights_by_layer(self) -> Sequence[Mapping[Any, Any]]:
    """Returns copies of the weights, by layer; empty if they are unknown."""
    return []

  def _assign(self, layers: Sequence[Mapping[Any, Any]]):
    """Sets weights to copies that `_weights_by_layer` returned."""
    if layers:
      raise NotImplementedError

  @contextlib.contextmanager
  def with_fresh_weights(self, seed: int, part: str = 'all') -> Iterator[None]:
    """Draws weights anew within a context, after which the old ones return.

      with adapter.with_fresh_weights(0, 'head'):
        logits = adapter.logits(inputs)

    Layers are in the order in which the network lists them, which is that of
    construction for PyTorch. With one seed, layers that are drawn anew have the
    same weights for all parts.

    Args:
      seed: of the weights, as in `randomize`.
      part: which layers, one of `fresh_weights.PARTS`.

    Raises:
      fresh_weights.Unavailable: the weights cannot be drawn anew.
    """
    trained = self._weights_by_layer()
    kept = fresh_weights.kept_layers(part, len(trained))
    try:
      self.randomize(seed)
      self._assign(trained[:kept])
      yield
    finally:
      self._assign(trained)

  def preprocess(self, images: np.ndarray) -> np.ndarray:
    """Converts pixels to the network's input.

    Args:
      images: (B, h, w, 3) at `input_size`, RGB in 0..255, any real dtype.

    Returns:
      float32 (B, h, w, 3).

    Raises:
      ValueError: the images have another shape.
    """
    images = np.asarray(images, np.float32)
    self._check_shape(images)
    return self._prepare.apply(images)

  def logits(self, inputs: np.ndarray) -> np.ndarray:
    """Computes the logits of the scored classes.

    Args:
      inputs: float32 (B, h, w, 3), from `preprocess`.

    Returns:
      float32 (B, scored_classes).

    Raises:
      ValueError: the inputs have another shape, the network fails, or a logit
        is not finite.
    """
    self._check_shape(inputs)
    return self._scored(self._call(self._logits, inputs))

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns only the gradients of `logits_and_gradients`."""
    return self.logits_and_gradients(inputs, labels)[1]

  def logits_and_gradients(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Computes logits and gradients in one pass.

    Args:
      inputs: float32 (B, h, w, 3), from `preprocess`.
      labels: (B, scored_classes), usually one-hot. The differentiated score is
        the sum over classes of label times logit.

    Returns:
      The logits, float32 (B, scored_classes), and the gradients of the scores
      with respect to the inputs, float32 (B, h, w, 3). Gradients that are not
      finite are returned unchanged; the score of such a map is undefined.

    Raises:
      ValueError: a shape is wrong, the network fails or has no gradient, or a
        logit is not finite.
    """
    logits, gradients = self._differentiate(
      inputs, self._own_labels(inputs, labels)
    )
    return self._scored(logits), gradients

  def _own_labels(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns labels of all outputs, (B, num_classes), after a check."""
    self._check_shape(inputs)
    expected = (len(inputs), self.scored_classes)
    if labels.shape != expected:
      raise ValueError(
        f'{self.name}: the labels have shape {labels.shape}; expected one-hot '
        f'labels of shape {expected}.'
      )
    background = self.num_classes - self.scored_classes
    return np.pad(np.asarray(labels, np.float32), ((0, 0), (background, 0)))

  def _differentiate(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """As `_logits_and_gradients`, with loss scaling for float16."""
    half = self._epsilon() == ROUNDING['float16']
    first, *others = _SCALES if half else (1.0,)
    logits, gradients = self._call(
      self._logits_and_gradients, inputs, labels * np.float32(first)
    )
    gradients = gradients / np.float32(first)
    for scale in others:
      bad = ~np.isfinite(gradients).all(axis=(1, 2, 3))
      if bad.any():
        gradients[bad] = self._call(
          self._logits_and_gradients,
          inputs[bad],
          labels[bad] * np.float32(scale),
        )[1] / np.float32(scale)
    if not gradients.any():
      self._refuse_no_gradient()
    return logits, gradients

  def _refuse_no_gradient(self):
    """Raises if the gradients are zero for noise images as well."""
    inputs = self.preprocess(self._noise())
    labels = np.zeros((len(inputs), self.num_classes), np.float32)
    labels[:, -1] = 1
    if not self._call(self._logits_and_gradients, inputs, labels)[1].any():
      raise Unscorable(
        f'{self.spec}: the gradients of its logits are all zero; expected a '
        'differentiable network. Look for rounding or thresholds in it.'
      )

  def _noise(self) -> np.ndarray:
    """Returns two images of noise."""
    return np.random.default_rng(0).uniform(0, 255, (2, *self.input_size, 3))

  def _epsilon(self) -> float:
    """Returns the relative rounding error of the network's number type."""
    return ROUNDING['float32']

  def _call(self, function, *arrays):
    """Calls the network and turns its exceptions into `Unscorable`."""
    try:
      return function(*arrays)
    except (Unscorable, layers.Unsuitable, MemoryError):
      raise
    except Exception as e:
      lines = [line.strip() for line in str(e).splitlines() if line.strip()]
      if lines[:1] == ['in user code:']:  # AutoGraph puts the error last.
        lines = lines[-1:]
      kind, message = type(e).__name__, lines[0] if lines else ''
      raise Unscorable(
        f'{self.name} ({self.spec}) fails on {len(arrays[0])} images of '
        f'{self.input_size[0]}x{self.input_size[1]} pixels: '
        f'{kind}: {message.removeprefix(f"{kind}: ")}'
      ) from e

  def _check_shape(self, images: np.ndarray):
    expected = (*self.input_size, 3)
    if images.ndim != 4 or images.shape[1:] != expected:
      raise ValueError(
        f'{self.name}: the images have shape {images.shape}; expected '
        f'(B, {", ".join(map(str, expected))}).'
      )

  def _scored(self, logits: np.ndarray) -> np.ndarray:
    """Drops the background class; refuses logits that are not finite."""
    finite = np.isfinite(logits).all(axis=-1)
    if not finite.all():
      raise ValueError(
        f'{self.name} ({self.spec}): {np.sum(~finite)} of {len(logits)} '
        'images have logits that are not finite; expected finite numbers. '
        f'Check the weights and the preprocessing ({self.preprocessing}).'
      )
    return logits[:, self.num_classes - self.scored_classes :]

  def _probe(self):
    """Determines the number of classes and checks the outputs, on noise.

    Raises:
      Unscorable: the output is not a matrix of logits, or an image's logits
        depend on the other images of its batch.
    """
    inputs = self.preprocess(self._noise())
    logits = self._call(self._logits, inputs)
    if logits.ndim != 2 or len(logits) != len(inputs):
      raise Unscorable(
        f'{self.spec}: the output has shape {logits.shape}; expected one '
        'logit for every image and class, (B, C).'
      )
    self.num_classes = logits.shape[-1]
    if self.num_classes < 2:
      raise Unscorable(
        f'{self.spec}: the output is a single number for each image; '
        'expected one logit for each of two or more classes. Give a network '
        'of two classes two outputs.'
      )
    self.scored_classes = (
      IMAGENET_CLASSES
      if self.num_classes == _WITH_BACKGROUND
      else self.num_classes
    )
    self._scored(logits)  # Raises if a logit is not finite.
    self._refuse_probabilities(logits)
    self._check_independence(inputs, logits)

  def _last_operation(self) -> str:
    """Names the function that squashes the logits; '' if none is found."""
    return ''

  def _refuse_probabilities(self, logits: np.ndarray):
    """Refuses outputs that are probabilities or their logarithms.

    Args:
      logits: outputs for noise images, (B, num_classes).
    """
    highest = logits.max(axis=-1, keepdims=True)
    log_sums = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=-1))
    tolerance = max(_SUM_TOLERANCE, _SUM_ROUNDINGS * self._epsilon())
    last = self._last_operation()
    if last:
      log = 'log-' if last.startswith('log') else ''
      found = (
        f'{log}probabilities'
        if re.search('softmax|sigmoid', last)
        else 'squashed'
      ) + f' (it ends with {last})'
    elif (logits >= 0).all() and np.allclose(
      logits.sum(axis=-1), 1, atol=tolerance
    ):
      found = 'probabilities (they sum to 1)'
    elif (logits <= tolerance).all() and np.allclose(
      log_sums, 0, atol=tolerance
    ):
      found = 'log-probabilities (their exponentials sum to 1)'
    else:
      return
    raise Unscorable(
      f'{self.spec}: the output is {found}; expected logits, because the '
      'gradient of a probability vanishes where the network is sure. Save '
      f'the network without its {re.sub("^log of ", "", last)}'
      f'{"" if last else "softmax or sigmoid"}.'
    )

  def _check_independence(self, inputs: np.ndarray, logits: np.ndarray):
    """Refuses networks whose logits depend on the batch or on chance.

    Args:
      inputs: preprocessed images.
      logits: their logits, computed in one batch.
    """
    largest = max(np.abs(logits).max(), np.finfo(np.float32).tiny)

    def difference(images):
      others = self._call(self._logits, images)
      return np.abs(others - logits[: len(others)]).max() / largest

    epsilon = self._epsilon()
    rounded = epsilon > ROUNDING['float32']
    noise = difference(inputs)
    if not noise <= max(_DEPENDENCE, rounded * _ROUNDINGS * epsilon):
      raise Unscorable(
        f'{self.spec}: two passes over the same images give different logits; '
        'expected equal ones. Turn off randomness in the network, such as '
        'dropout that stays on in evaluation mode.'
      )
    if rounded:
      signs = np.random.default_rng(1).choice([-1, 1], inputs.shape)
      noise = max(
        noise,
        *(
          difference((inputs * (1 + e * signs)).astype(np.float32))
          for e in (epsilon, -epsilon)
        ),
      )
    single = difference(inputs[:1])
    if not single <= max(
      _DEPENDENCE, rounded * epsilon, rounded * _PIXEL_ROUNDINGS * noise
    ):
      raise Unscorable(
        f'{self.spec}: the logits of an image differ by {single:.2g} of the '
        'largest logit between a batch of one and a batch of two; expected '
        'equal ones. A layer uses statistics of the batch: put batch '
        'normalization into evaluation mode.'
      )
