"""Networks that are TensorFlow callables."""

import functools
from typing import Callable, Tuple

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.harmonization.evaluation.adapters import base
from official_ext.harmonization.evaluation.adapters import preprocessing
from official_ext.harmonization.ops import saliency


class TensorFlowAdapter(base.Adapter):
  """A callable `model(images, training=...)` that returns logits (B, C)."""

  def __init__(self, spec: str, name: str, input_size: Tuple[int, int],
               prepare: preprocessing.Preprocessing,
               model: Callable[..., tf.Tensor], assumed: bool = False):
    """Traces the network once for logits; for gradients when first asked.

    Args:
      spec: as for `base.Adapter`, as the next two and the last.
      name: see there.
      input_size: see there.
      prepare: see there.
      model: takes float32 images and returns logits; it is differentiated.
      assumed: see there.

    Raises:
      ValueError: the output is no matrix of logits.
    """
    super().__init__(spec, name, input_size, prepare, assumed)
    # Traced functions do not keep variables alive.
    self._model = model
    self._probe()

  # Both leave the batch size open, so that a smaller last batch is no new
  # trace, and are concrete: TensorFlow would take several networks for one
  # function that is traced again and again.
  @functools.cached_property
  def _forward(self):
    return tf.function(
        lambda x: tf.cast(self._model(x, training=False), tf.float32)
    ).get_concrete_function(self._images)

  @functools.cached_property
  def _backward(self):
    return tf.function(
        lambda x, y: saliency.logits_and_gradients(
            self._model, x, y, training=False)).get_concrete_function(
                self._images, tf.TensorSpec([None, self.num_classes]))

  @property
  def _images(self):
    return tf.TensorSpec([None, *self.input_size, 3])

  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    return self._forward(tf.constant(inputs)).numpy()

  def _logits_and_gradients(
      self, inputs: np.ndarray,
      labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    logits, gradients = self._backward(tf.constant(inputs), tf.constant(labels))
    return logits.numpy(), gradients.numpy()
