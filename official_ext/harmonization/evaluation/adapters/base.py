"""The interface that every evaluated network stands behind.

An adapter takes batches of images and returns logits and their gradients as
NumPy arrays, so that protocols need not know what a network was written in.
Its memory is bounded by the batch that it is given.
"""

import abc
from typing import Iterator, Tuple

from absl import logging
import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation.adapters import preprocessing

# ImageNet's classes, and Model Garden's with a background class before them.
IMAGENET_CLASSES = 1000
_WITH_BACKGROUND = 1001

# How far the sum of a row of probabilities may be from 1: of 16-bit ones.
_TOLERANCE = 1e-2


def resize(images: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
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

  def __init__(self, spec: str, name: str, input_size: Tuple[int, int],
               prepare: preprocessing.Preprocessing, *,
               assumed: bool = False):
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
        ' (assumed)' if assumed else '')
    if assumed:
      logging.warning(
          '%s does not say how it wants its pixels: preprocessing=%s is '
          'assumed. A wrong one lowers every score; say which of %s it is.',
          spec, prepare.name, ', '.join(preprocessing.NAMED))
    self.num_classes = self.scored_classes = None

  @abc.abstractmethod
  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    """Returns the network's own output, float32 (B, num_classes)."""

  @abc.abstractmethod
  def _logits_and_gradients(
      self, inputs: np.ndarray,
      labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
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
      ValueError: the shape is another, or a logit is not finite.
    """
    self._check_shape(inputs)
    return self._scored(self._logits(inputs))

  def gradients(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns gradients alone; see `logits_and_gradients`."""
    return self.logits_and_gradients(inputs, labels)[1]

  def logits_and_gradients(
      self, inputs: np.ndarray,
      labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
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
      ValueError: a shape is another, or a logit is not finite.
    """
    self._check_shape(inputs)
    expected = (len(inputs), self.scored_classes)
    if labels.shape != expected:
      raise ValueError(f'{self.name}: labels of shape {labels.shape}, where '
                       f'one-hot ones of shape {expected} are needed.')
    background = self.num_classes - self.scored_classes
    own = np.pad(np.asarray(labels, np.float32), ((0, 0), (background, 0)))
    logits, gradients = self._logits_and_gradients(inputs, own)
    return self._scored(logits), gradients

  def _check_shape(self, images: np.ndarray):
    expected = (*self.input_size, 3)
    if images.ndim != 4 or images.shape[1:] != expected:
      raise ValueError(f'{self.name}: images of shape {images.shape}, where '
                       f'(B, {", ".join(map(str, expected))}) is needed.')

  def _scored(self, logits: np.ndarray) -> np.ndarray:
    """Leaves the background out, and lets nothing through that is no logit."""
    finite = np.isfinite(logits).all(axis=-1)
    if not finite.all():
      raise ValueError(
          f'{self.name} ({self.spec}): {np.sum(~finite)} of {len(logits)} '
          'images have logits that are not finite: the weights are damaged, '
          f'or the preprocessing ({self.preprocessing}) is wrong.')
    return logits[:, self.num_classes - self.scored_classes:]

  def _probe(self):
    """Learns the number of classes from noise, and refuses probabilities."""
    noise = np.random.default_rng(0).uniform(0, 255, (2, *self.input_size, 3))
    logits = self._logits(self.preprocess(noise))
    if logits.ndim != 2:
      raise ValueError(
          f'{self.spec}: its output has shape {logits.shape}, where one logit '
          'for every image and class, (B, C), is needed.')
    sums = logits.sum(axis=-1)
    if (logits >= 0).all() and np.allclose(sums, 1, atol=_TOLERANCE):
      raise ValueError(
          f'{self.spec}: its output are probabilities (they sum to 1), and '
          'their gradient vanishes where the network is sure. Save it with '
          'logits as its output, without the softmax.')
    self.num_classes = logits.shape[-1]
    self.scored_classes = (
        IMAGENET_CLASSES
        if self.num_classes == _WITH_BACKGROUND else self.num_classes)
