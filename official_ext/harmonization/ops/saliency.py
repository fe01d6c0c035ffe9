# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Saliency maps as differentiable functions.

A saliency map is the gradient of a class score with respect to the image. All
code that computes logits together with saliency is here. The results can be
differentiated again, so that a harmonization loss can train a network.
"""

from collections.abc import Callable
import functools
from typing import Any
import weakref

import tensorflow as tf
import tf_keras

from official_ext.harmonization import choices
from official_ext.harmonization.ops import double_backward
from official_ext.harmonization.ops import graph_walk
from official_ext.harmonization.ops import moving_averages
from official_ext.harmonization.ops import second_order
from official_ext.harmonization.ops import tensors

# How the gradient's colour channels are reduced to one map. The mean of the
# signed gradient is the released training map, the largest magnitude is the
# released evaluation map (`harmonization` 0.0.9, `training/loss.py`;
# `xplique`).
REDUCTIONS = {
  'signed_mean': lambda g: tf.reduce_mean(g, axis=-1),
  'abs_mean': lambda g: tf.reduce_mean(tf.abs(g), axis=-1),
  'abs_max': lambda g: tf.reduce_max(tf.abs(g), axis=-1),
}

# Which function of the logits is differentiated. Adding one function to all
# logits changes the gradient of a logit but no decision (Srinivas & Fleuret,
# "Rethinking the Role of Gradient-based Attribution Methods for Model
# Interpretability", ICLR 2021); the other two targets are invariant to it.
TARGETS = {
  'logit': lambda z: z,
  'centered_logit': lambda z: z - tf.reduce_mean(z, axis=-1, keepdims=True),
  'log_probability': tf.nn.log_softmax,
}

# How the saliency pass treats batch statistics; see `training_maps`.
BATCH_NORMS = ('batch', 'mapped', 'inference')

# Whose maps an evaluation scores.
EVALUATION_EXPLAINERS = ('gradient', 'smoothgrad_squared')


# Passes that were checked for steps that run eagerly, by model.
_checked = weakref.WeakKeyDictionary()


def _first_pass(
  model,
  images,
  targets,
  loss_scale,
  *,
  training,
  saliency_target,
  eager_graph=None,
):
  """Returns logits, the gradient of all images, and the ops before it."""
  score_of = TARGETS[saliency_target]
  with second_order.scope(eager_graph), tf.GradientTape() as tape:
    tape.watch(images)
    logits = tf.cast(model(images, training=training), images.dtype)
    scores = score_of(logits[: tf.shape(targets)[0]]) * targets
    score = tf.reduce_sum(scores)
    if loss_scale is not None:
      score *= loss_scale
    forward = (
      ()
      if tf.executing_eagerly()
      else frozenset(tf.compat.v1.get_default_graph().get_operations())
    )
    try:
      with tf.name_scope(graph_walk.GRADIENT):
        gradient = tape.gradient(score, images)
    except LookupError as e:
      raise ValueError(
        'The model has no saliency maps: one of its operations has no '
        f'gradient in TensorFlow ({str(e).strip().splitlines()[-1].strip()}); '
        'expected only operations with gradients. Replace the layer that uses '
        'it.'
      ) from e
  if gradient is None:
    raise ValueError(
      'The logits do not depend on the images; expected a differentiable '
      'model. Look for a stopped gradient in it.'
    )
  return logits, gradient, forward


def _check_by_tracing(model, first_pass, inputs):
  """Checks a pass that runs eagerly by tracing it into a graph."""
  key = (
    str(first_pass.keywords),
    *(t is not None and (t.dtype, *t.shape) for t in inputs),
  )
  try:
    known = _checked.setdefault(model, set())
  except TypeError:
    known = set()  # The model cannot be a key, so each pass is traced.
  if key in known:
    return

  def trace(*inputs):
    # An outer tape, since functions have other gradients under two tapes.
    with tf.GradientTape():
      _, gradient, forward = first_pass(
        model, *inputs, eager_graph=tf.compat.v1.get_default_graph()
      )
    double_backward.check_graph(gradient, forward, model)

  tf.function(trace).get_concrete_function(
    *(t if t is None else tf.TensorSpec(t.shape, t.dtype) for t in inputs)
  )
  known.add(key)


def logits_and_gradients(
  model: Callable[..., tf.Tensor],
  images: tf.Tensor,
  targets: tf.Tensor,
  *,
  training: bool,
  saliency_target: str = 'logit',
  loss_scale: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Computes logits and the gradient of their targets in one forward pass.

  The gradient of image b is d(sum_c targets[b, c] * f_c(x_b)) / dx_b (Fel et
  al., NeurIPS 2022). Both results can be differentiated with respect to the
  model's variables, in a training loop of any kind:

    with tf.GradientTape() as tape:
      logits, gradients = saliency.logits_and_gradients(
          model, images, one_hot, training=True)
      loss = tf.reduce_mean(gradients**2)
    found = tape.gradient(loss, model.trainable_variables)

  That derivative is either exact or refused: `ops.second_order` makes it exact,
  and `ops.double_backward` refuses models for which it would be wrong, when the
  gradients are differentiated.
  With training=True and batch normalization the gradient includes the paths
  through the batch statistics, as in the released code.

  Args:
    model: a callable `model(images, training=...)` that returns logits (B, C).
    images: float `Tensor` (B, H, W, channels), preprocessed for the model, or a
      value that converts to one. It is watched as float32, so that gradients do
      not underflow.
    targets: float `Tensor` (M, C), M <= B, or a value that converts to one: the
      one-hot labels, or mixing coefficients, of the first M images, but never
      smoothed labels.
    training: whether the model runs in training mode.
    saliency_target: 'logit', 'centered_logit' or 'log_probability'.
    loss_scale: a scalar by which the score is multiplied and the gradient
      divided, so that a float16 backward pass does not underflow.

  Returns:
    A tuple of logits (B, C) and the gradients of the first M images,
    (M, H, W, channels), both float32 (float64 for float64 images).

  Raises:
    ValueError: the saliency target is unknown, there are more targets than
      images, or the logits do not depend on the images or have no gradient.
      When the gradients are differentiated: as `double_backward.check_graph`,
      for which a pass in eager mode is traced once.
  """
  choices.require('saliency_target', saliency_target, TARGETS)
  images, targets = (tensors.floating(t) for t in (images, targets))
  with_map = targets.shape[0]
  if with_map is None:
    with_map = tf.shape(targets)[0]
  elif images.shape[0] is not None and with_map > images.shape[0]:
    raise ValueError(
      f'There are {with_map} targets for {images.shape[0]} images; expected at '
      'most one target per image.'
    )
  # A gradient narrower than float32 would lose precision or underflow.
  dtype = tf.float64 if images.dtype == tf.float64 else tf.float32
  images, targets = tf.cast(images, dtype), tf.cast(targets, dtype)
  if loss_scale is not None:
    loss_scale = tf.cast(loss_scale, dtype)
  first_pass = functools.partial(
    _first_pass, training=training, saliency_target=saliency_target
  )
  inputs = (images, targets, loss_scale)
  logits, gradient, forward = first_pass(model, *inputs)

  @tf.custom_gradient
  def checked(values):

    def backward(upstream):
      if hasattr(gradient, 'op'):
        double_backward.check_graph(gradient, forward, model)
      else:
        _check_by_tracing(model, first_pass, inputs)
      return upstream

    return tf.identity(values), backward

  gradient = checked(gradient)[:with_map]
  if loss_scale is not None:
    gradient /= loss_scale
  return logits, gradient


def saliency_maps(
  model: Callable[..., tf.Tensor],
  images: tf.Tensor,
  targets: tf.Tensor,
  *,
  reduction: str = 'signed_mean',
  **kwargs: Any,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Computes logits and saliency maps in one forward pass.

  Args:
    model: as for `logits_and_gradients`.
    images: as for `logits_and_gradients`.
    targets: as for `logits_and_gradients`.
    reduction: how the gradient's colour channels are reduced: 'signed_mean',
      'abs_mean' or 'abs_max'.
    **kwargs: `training`, `saliency_target` and `loss_scale` of
      `logits_and_gradients`.

  Returns:
    A tuple of logits (B, C) and the maps of the first M images, (M, H, W), both
    float32 (float64 for float64 images).

  Raises:
    ValueError: the reduction is unknown, or as `logits_and_gradients`.
  """
  choices.require('reduction', reduction, REDUCTIONS)
  logits, gradients = logits_and_gradients(model, images, targets, **kwargs)
  return logits, REDUCTIONS[reduction](gradients)


def training_maps(
  model: tf_keras.Model,
  images: tf.Tensor,
  targets: tf.Tensor,
  *,
  batch_norm: str = 'mapped',
  **kwargs: Any,
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
  """Computes a training step's logits, its saliency maps and auxiliary losses.

  With batch normalization the images of a batch depend on each other, so there
  are three ways to compute the maps of the first M < B images:

  * 'batch', as released: one pass over all B images, normalized together. The
    gradient of the M scores passes through the statistics to all images, and
    costs as much as B maps.
  * 'mapped': one pass over the M images and another over the remaining B - M,
    each normalized with its own statistics. The maps cost as much as M images,
    and no image is computed twice. The moving averages are updated once, with
    the statistics of all B images.
  * 'inference': one training pass over all B images, and one over the M images
    in inference mode for the maps: with moving averages and without dropout, as
    in evaluation. The M images are computed twice.

  The first two agree if M = B, and for networks without batch normalization.

  Args:
    model: the network, a callable that returns logits (B, C).
    images: float `Tensor` (B, H, W, channels) with static B.
    targets: float `Tensor` (M, C) of the first M images.
    batch_norm: 'batch', 'mapped' or 'inference'.
    **kwargs: other arguments of `saliency_maps`.

  Returns:
    The logits (B, C) in training mode and the maps (M, H, W), as in
    `saliency_maps`, and the model's auxiliary losses. If there are two training
    passes, the losses of each are weighted by its fraction of the images.

  Raises:
    ValueError: `batch_norm` is unknown, or as `saliency_maps`.
  """
  choices.require('batch_norm', batch_norm, BATCH_NORMS)
  images, targets = (tensors.floating(t) for t in (images, targets))
  with_map, size = targets.shape[0], images.shape[0]
  if batch_norm == 'batch' or (batch_norm == 'mapped' and with_map == size):
    logits, maps = saliency_maps(
      model, images, targets, training=True, **kwargs
    )
    return logits, maps, model.losses
  if batch_norm == 'mapped':
    averages = moving_averages.TwoParts(model, images)
    logits, maps = saliency_maps(
      model, images[:with_map], targets, training=True, **kwargs
    )
    losses = [with_map / size * loss for loss in model.losses]
    averages.between()
    others = tf.cast(model(images[with_map:], training=True), logits.dtype)
    averages.pool(with_map, size - with_map)
    losses += [(1.0 - with_map / size) * loss for loss in model.losses]
    return tf.concat([logits, others], axis=0), maps, losses
  _, maps = saliency_maps(
    model, images[:with_map], targets, training=False, **kwargs
  )
  logits = tf.cast(model(images, training=True), maps.dtype)
  return logits, maps, model.losses


def _noise(records, sample, shape):
  """Returns standard normal values (B, *shape) of each record and sample."""

  def of_image(record):
    file, position = tf.unstack(record)
    seed = tf.stack([position, file * 2**32 + sample])
    # Not the default, which depends on the device.
    return tf.random.stateless_normal(shape, seed, alg='philox')

  return tf.map_fn(
    of_image, tf.cast(records, tf.int64), fn_output_signature=tf.float32
  )


def smoothgrad_squared(
  model: Callable[..., tf.Tensor],
  images: tf.Tensor,
  targets: tf.Tensor,
  records: tf.Tensor,
  *,
  samples: int = 25,
  noise: float = 0.05,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Computes logits, and maps of squared gradients of noisy copies.

  Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural
  Networks", NeurIPS 2019: for each pixel and channel the mean over samples i of
  (d score / dx at x + e_i)^2, and then the maximum over channels. The explainer
  of this name in `benchmark.explainers` draws other noise.

  The noise of an image depends on its record and range only, not on the batch
  or the replica. A further sample leaves the noise of the earlier ones as it
  is. XLA's generator draws other values than TensorFlow's.

  One batch of noise and gradients is in memory at a time. The maps are for
  evaluation: the network runs in inference mode.

  Args:
    model: as for `logits_and_gradients`.
    images: as for `logits_and_gradients`, of static shape.
    targets: float32 (B, C), the one-hot labels.
    records: integers (B, 2) that identify an image, the numbers of its file and
      of its record in the file; see `dataloaders.joint_batches`.
    samples: number of noisy copies of each image.
    noise: standard deviation as a fraction of the image's range (its maximum
      minus its minimum).

  Returns:
    The logits of the images without noise (B, C) and the maps (B, H, W), both
    float32.

  Raises:
    ValueError: as `logits_and_gradients`.
  """
  images = tf.cast(images, tf.float32)
  pixels = (1, 2, 3)
  scale = noise * (
    tf.reduce_max(images, pixels, keepdims=True)
    - tf.reduce_min(images, pixels, keepdims=True)
  )

  def add_sample(sample, total):
    drawn = _noise(records, sample, images.shape[1:])
    _, gradients = logits_and_gradients(
      model, images + scale * drawn, targets, training=False
    )
    return sample + 1, total + tf.square(gradients)

  _, total = tf.while_loop(
    lambda sample, _: sample < samples,
    add_sample,
    (tf.constant(0, tf.int64), tf.zeros_like(images)),
    parallel_iterations=1,
  )
  logits = tf.cast(model(images, training=False), tf.float32)
  return logits, tf.reduce_max(total / samples, axis=-1)
