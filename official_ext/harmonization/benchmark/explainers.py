# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Explainers: saliency maps by several definitions.

An explainer is a callable `explainer(images, labels) -> maps` with images
(B, H, W, 3), float32, preprocessed for the network; labels (B, C), float32,
one-hot; and maps (B, H, W). `get` makes an explainer of a network by name. All
built-in explainers are the same for TensorFlow and PyTorch networks, and keep
at most one batch of images and gradients in memory. No map depends on the
other images of its batch.

  adapter = spec.build('keras_app:ResNet50V2')
  explainer = explainers.get('smoothgrad', adapter, samples=25)
  maps = explainers.explain(explainer, inputs, labels)
"""

from collections.abc import Callable
import inspect
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark.explanations import attention_maps
from official_ext.harmonization.benchmark.explanations import grad_cam
from official_ext.harmonization.benchmark.explanations import gradient_maps
from official_ext.harmonization.benchmark.explanations import networks
from official_ext.harmonization.benchmark.explanations import noisy_gradients
from official_ext.harmonization.benchmark.explanations import occlusion
from official_ext.harmonization.benchmark.explanations import path_gradients
from official_ext.harmonization.benchmark.explanations import user_explainers

Explainer = networks.Explainer
Network = networks.Network

EXPLAINERS: dict[str, Callable[..., Explainer]] = {
  'gradient': gradient_maps.gradient,
  'training_map': gradient_maps.training_map,
  'gradient_x_input': gradient_maps.gradient_x_input,
  'smoothgrad': noisy_gradients.smoothgrad,
  'smoothgrad_squared': noisy_gradients.smoothgrad_squared,
  'integrated_gradients': path_gradients.integrated_gradients,
  'expected_gradients': path_gradients.expected_gradients,
  'grad_cam': grad_cam.grad_cam,
  'occlusion': occlusion.occlusion,
  'attention_rollout': attention_maps.attention_rollout,
  'token_gradients': attention_maps.token_gradients,
}
# The options that the number of samples may be called.
_SAMPLES = ('samples', 'steps')


def factory(name: str) -> Callable[..., Explainer]:
  """Returns the function that makes an explainer of a network.

  Args:
    name: one of `EXPLAINERS`, or the import path of a function of the user.

  Raises:
    ImportError: the user's function cannot be imported.
    ValueError: the name is unknown.
  """
  if user_explainers.is_path(name):
    return user_explainers.lookup(name)
  choices.require('explainer', name, EXPLAINERS)
  return EXPLAINERS[name]


def options_of(name: str) -> list[str]:
  """Returns the names of an explainer's options; raises as `factory`."""
  return list(inspect.signature(factory(name)).parameters)[1:]


def samples_option(name: str) -> str:
  """Returns what an explainer calls its number of samples, '' for none.

    samples_option('smoothgrad')            # 'samples'
    samples_option('integrated_gradients')  # 'steps'
    samples_option('gradient')              # ''

  Args:
    name: as for `factory`, which says what this raises.
  """
  return next((o for o in _SAMPLES if o in options_of(name)), '')


def needs_baselines(name: str) -> bool:
  """Whether an explainer has the option baselines; raises as `factory`."""
  return 'baselines' in options_of(name)


def get(name: str, network: Network, **options: Any) -> Explainer:
  """Makes an explainer of a network.

  Args:
    name: one of `EXPLAINERS`, or the import path of a function
      `function(network) -> explainer` of the user.
    network: an adapter, or anything else with `logits` and `gradients`.
    **options: keyword arguments of that function. Those that are None keep
      their defaults. `samples` also sets `steps`.

  Raises:
    ImportError: the user's function cannot be imported.
    ValueError: the name or an option is unknown, or an option is invalid.
  """
  make = factory(name)
  options = {k: v for k, v in options.items() if v is not None}
  if 'samples' in options:
    option = samples_option(name)
    if not option:
      raise ValueError(
        f'The explainer {name} has no samples; expected one of '
        f'{", ".join(n for n in EXPLAINERS if samples_option(n))}. Omit the '
        'number of samples.'
      )
    options[option] = options.pop('samples')
  for option in options:
    choices.require(f'{name}: the option', option, options_of(name))
  return make(network, **options)


def identity(name: str) -> dict[str, str]:
  """Returns what an identity holds besides the name of an explainer.

  Args:
    name: as for `factory`, which says what this raises.

  Returns:
    The digest of the source of a user's function; {} for a built-in explainer,
    which the version of this project identifies.
  """
  if not user_explainers.is_path(name):
    return {}
  return {'explainer source': user_explainers.source_digest(name)}


def explain(
  explainer: Explainer, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Calls any explainer, and checks what it returns.

  Args:
    explainer: one of these, or a callable of another package. Its maps may be
      tensors and may have a last axis of 1, as those of xplique have.
    images: float32 (B, H, W, 3), as the network takes them.
    labels: float32 (B, C), one-hot.

  Returns:
    float32 (B, H, W).

  Raises:
    ValueError: the maps have another shape.
  """
  maps = np.asarray(explainer(images, labels), np.float32)
  expected = images.shape[:3]
  if maps.shape == (*expected, 1):
    maps = maps[..., 0]
  if maps.shape != expected:
    raise ValueError(
      f'The explainer returned maps of shape {maps.shape} for images of '
      f'shape {images.shape}; expected {expected}, one value per pixel.'
    )
  return maps


def score_operator(
  logits: Callable[[np.ndarray], np.ndarray],
  gradients: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[..., tf.Tensor]:
  """Returns an operator by which xplique explains any network.

  xplique's explainers accept an `operator(model, images, labels)` that computes
  the scores to differentiate. Through this operator, those that only need the
  gradient with respect to the image work for every network, also PyTorch's.

  Args:
    logits: function of NumPy arrays from images (B, H, W, 3) to float32 (B, C).
    gradients: function of NumPy arrays, as `Network.gradients`.

  Returns:
    A function of a model, which it ignores, images (B, H, W, 3) and labels
    (B, C). It returns the scores sum_c labels[b, c] * f_c(x_b), a float32
    `Tensor` (B,) that can be differentiated once with respect to the images.
  """

  def scores(images, labels):
    return np.sum(logits(images) * labels, axis=-1, dtype=np.float32)

  def operator(model, images, labels):
    del model

    @tf.custom_gradient
    def score(images):

      def backward(upstream):
        found = tf.numpy_function(gradients, [images, labels], tf.float32)
        return upstream[:, None, None, None] * tf.ensure_shape(
          found, images.shape
        )

      return tf.ensure_shape(
        tf.numpy_function(scores, [images, labels], tf.float32),
        images.shape[:1],
      ), backward

    return score(images)

  return operator
