"""The interface that every evaluated network stands behind.

An adapter takes batches of images and returns logits and their gradients as
NumPy arrays, so that protocols need not know what a network was written in.
Its memory is bounded by the batch that it is given.
"""

import abc
from collections.abc import Iterator
import re

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization.benchmark.adapters import preprocessing

# ImageNet's classes, and Model Garden's with a background class before them.
IMAGENET_CLASSES = 1000
_WITH_BACKGROUND = 1001

# How far the sum of a row of probabilities may be from 1: at least, and in
# units of the network's rounding error.
_SUM_TOLERANCE, _SUM_ROUNDINGS = 1e-3, 10

# How far an image's logits may differ, relative to the largest: between a batch
# of one and a larger one, and between two times. Where numbers have fewer bits
# than float32, results depend on how a batch is split: there, in units of what
# rounding the pixels does (batch statistics did 8 times as much in bfloat16 and
# 100 times as much in float16), and of the rounding error.
_DEPENDENCE, _PIXEL_ROUNDINGS, _ROUNDINGS = 1e-4, 4, 4
# Rounding errors of types of numbers. TensorFloat-32 is what GPUs may compute
# with in place of float32.
ROUNDING = {
  'float32': 2.0**-23,
  'tensor_float_32': 2.0**-11,
  'float16': 2.0**-10,
  'bfloat16': 2.0**-7,
}

# Powers of two that scores are multiplied by, and gradients divided by, where
# float16 would round small gradients to zero: the first whose gradients are
# finite is taken, for each image.
_SCALES = (4096.0, 64.0, 1.0)


class Unscorable(ValueError):
  """A network that cannot be scored; its message says why."""


def no_gradient(spec: str) -> Unscorable:
  """Returns the error of a network whose logits ignore its images."""
  return Unscorable(
    f'{spec}: its logits have no gradient with respect to the images; '
    'expected a differentiable network. Look for no_grad, inference_mode, '
    'detach, stop_gradient or NumPy in it.'
  )


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes whole images, bilinearly and without antialiasing.

  This is how the release takes ClickMe's images to a network's input size
  (`harmonization` 0.0.9, `common/clickme_dataset.py`).

  Args:
    images: (B, H, W, channels) or (H, W, channels), of any real type.
    size: height and width.

  Returns:
    float32 images of that size.
  """
  return tf.image.resize(images, size, method='bilinear').numpy()


class Adapter(abc.ABC):
  """A network that is evaluated.

  Attributes:
    spec: what it was asked for by.
    name: for tables.
    input_size: height and width that it takes.
    preprocessing: one line, to be recorded with every score.
    num_classes: of its own output.
    scored_classes: of the output that is scored: 1000 for 1000 or 1001
      outputs, class 0 of 1001, the background, left out; else num_classes.
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
    """Describes the network; the subclass then calls `_probe`.

    Args:
      spec: as the attribute.
      name: as the attribute.
      input_size: as the attribute.
      prepare: the preprocessing.
      assumed: whether it is a guess, which its description then says, and a
        warning.
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
        '%s does not say how it wants its pixels: preprocessing=%s is '
        'assumed. A wrong one lowers every score; say which of %s it is.',
        spec,
        prepare.name,
        ', '.join(preprocessing.NAMED),
      )
    self.num_classes = self.scored_classes = None

  @abc.abstractmethod
  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    """Returns the network's own output, float32 (B, num_classes)."""

  @abc.abstractmethod
  def _logits_and_gradients(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """As `logits_and_gradients`, for the network's own classes."""

  @abc.abstractmethod
  def parameters(self) -> Iterator[np.ndarray]:
    """Yields the network's weights in memory, always in the same order."""

  def preprocess(self, images: np.ndarray) -> np.ndarray:
    """Takes pixels to what the network takes.

    Args:
      images: (B, h, w, 3) at `input_size`, RGB in 0..255, any real type.

    Returns:
      float32 (B, h, w, 3).

    Raises:
      ValueError: the shape is another.
    """
    images = np.asarray(images, np.float32)
    self._check_shape(images)
    return self._prepare.apply(images)

  def logits(self, inputs: np.ndarray) -> np.ndarray:
    """Returns logits.

    Args:
      inputs: float32 (B, h, w, 3), as `preprocess` returns them.

    Returns:
      float32 (B, scored_classes).

    Raises:
      ValueError: the shape is another, the network fails, or a logit is not
        finite.
    """
    self._check_shape(inputs)
    return self._scored(self._call(self._logits, inputs))

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns gradients alone; see `logits_and_gradients`."""
    return self.logits_and_gradients(inputs, labels)[1]

  def logits_and_gradients(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and the gradient of their labels' from one pass.

    Args:
      inputs: float32 (B, h, w, 3), as `preprocess` returns them.
      labels: (B, scored_classes), one-hot: what is differentiated is the sum
        over classes of label times logit.

    Returns:
      The logits, float32 (B, scored_classes), and the gradients with respect
      to the inputs, float32 (B, h, w, 3). A gradient that is not finite is
      returned as it is: a score of its map is then undefined.

    Raises:
      ValueError: a shape is another, the network fails or has no gradient, or
        a logit is not finite.
    """
    self._check_shape(inputs)
    expected = (len(inputs), self.scored_classes)
    if labels.shape != expected:
      raise ValueError(
        f'{self.name}: labels of shape {labels.shape}, where '
        f'one-hot ones of shape {expected} are needed.'
      )
    background = self.num_classes - self.scored_classes
    own = np.pad(np.asarray(labels, np.float32), ((0, 0), (background, 0)))
    logits, gradients = self._differentiate(inputs, own)
    return self._scored(logits), gradients

  def _differentiate(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """As `_logits_and_gradients`, and float16 gradients do not underflow."""
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
    """Refuses a network whose gradients are zero for noise, too."""
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
    """The relative rounding error of what the network computes with."""
    return ROUNDING['float32']

  def _call(self, function, *arrays: np.ndarray):
    """Calls the network, whose errors are of many kinds."""
    try:
      return function(*arrays)
    except (Unscorable, MemoryError):
      raise
    except Exception as e:
      lines = [line.strip() for line in str(e).splitlines() if line.strip()]
      if lines[:1] == ['in user code:']:  # AutoGraph's: the error comes last.
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
        f'{self.name}: images of shape {images.shape}, where '
        f'(B, {", ".join(map(str, expected))}) is needed.'
      )

  def _scored(self, logits: np.ndarray) -> np.ndarray:
    """Leaves the background out, and lets nothing through that is no logit."""
    finite = np.isfinite(logits).all(axis=-1)
    if not finite.all():
      raise ValueError(
        f'{self.name} ({self.spec}): {np.sum(~finite)} of {len(logits)} '
        'images have logits that are not finite: the weights are damaged, '
        f'or the preprocessing ({self.preprocessing}) is wrong.'
      )
    return logits[:, self.num_classes - self.scored_classes :]

  def _probe(self):
    """Learns the number of classes from noise, and refuses what has no logits.

    Raises:
      Unscorable: the output is not a matrix of logits, or an image's logits
        depend on the other images of its batch.
    """
    inputs = self.preprocess(self._noise())
    logits = self._call(self._logits, inputs)
    if logits.ndim != 2 or len(logits) != len(inputs):
      raise Unscorable(
        f'{self.spec}: its output has shape {logits.shape}; expected one '
        'logit for every image and class, (B, C).'
      )
    self.num_classes = logits.shape[-1]
    if self.num_classes < 2:
      raise Unscorable(
        f'{self.spec}: its output is a single number for each image; '
        'expected one logit for each of two or more classes. Give a network '
        'of two classes two outputs.'
      )
    self.scored_classes = (
      IMAGENET_CLASSES
      if self.num_classes == _WITH_BACKGROUND
      else self.num_classes
    )
    self._scored(logits)  # Are they finite?
    self._refuse_probabilities(logits)
    self._check_independence(inputs, logits)

  def _last_operation(self) -> str:
    """Names what squashes the logits at the network's end, if that is seen."""
    return ''

  def _refuse_probabilities(self, logits: np.ndarray):
    """Refuses probabilities and their logarithms.

    Args:
      logits: what the network gave for noise.
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
      f'{self.spec}: its output is {found}; expected logits, because the '
      'gradient of what is squashed vanishes where the network is sure. Save '
      f'the network without its {re.sub("^log of ", "", last)}'
      f'{"" if last else "softmax or sigmoid"}.'
    )

  def _check_independence(self, inputs: np.ndarray, logits: np.ndarray):
    """Refuses networks whose scores would depend on the batch.

    Args:
      inputs: preprocessed images.
      logits: of the images, from one batch.
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
        f'{self.spec}: the same images get other logits when they are shown '
        'again; expected the same. Turn off what is random in the network, '
        'such as dropout that stays on in evaluation mode.'
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
    alone = difference(inputs[:1])
    if not alone <= max(
      _DEPENDENCE, rounded * epsilon, rounded * _PIXEL_ROUNDINGS * noise
    ):
      raise Unscorable(
        f'{self.spec}: the logits of an image differ by {alone:.2g} of the '
        'largest between a batch of one and a batch of two; expected the '
        'same. Some layer uses statistics of the batch: put batch '
        'normalization into evaluation mode.'
      )
