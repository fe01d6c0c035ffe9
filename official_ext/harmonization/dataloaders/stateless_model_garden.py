# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Model Garden's augmentation with stateless random numbers.

`official.vision.ops.augment` and `preprocess_ops` use `tf.random`, whose state
all examples share: with parallel calls, the same seed would give different
images in each run. This module holds copies of them, and of
`classification_input`, which calls them, whose random numbers come from a seed
of each example:

  with stateless_model_garden.seeded(example['seed'], stream=0):
    image = stateless_model_garden.preprocess_ops.color_jitter(image, ...)

The copies are made by executing the modules' code once more, with `tf` and `np`
replaced. Alternatives are worse: the operations take no generator or seed;
replacing `tf.random` for a while would also affect other threads; making
`tf.data` deterministic would run all examples one after the other; and copying
the source would miss Model Garden's fixes. Model Garden's own modules stay as
they are.
"""

import contextlib
import importlib.util
import threading
from typing import Any

import numpy as np
import tensorflow as tf


class _StatelessRandom(threading.local):
  """Replaces `tf.random` in the copies of Model Garden's modules."""

  def __init__(self):
    self._seed = None
    self._count = 0

  def _next(self):
    if self._seed is None:
      raise RuntimeError(
        'A random number was used outside of `stateless_model_garden.seeded`.'
      )
    # Each number has a different seed, whose second part counts the numbers.
    self._count += 1
    return self._seed + [0, self._count]

  def uniform(self, shape, minval=0, maxval=None, dtype=tf.float32, seed=None):
    """`tf.random.uniform` from the example's seed; `seed` is ignored."""
    del seed
    if dtype.is_floating and maxval is None:
      maxval = 1.0
    return tf.random.stateless_uniform(
      shape, self._next(), minval, maxval, dtype
    )

  def normal(self, shape, mean=0.0, stddev=1.0, dtype=tf.float32, seed=None):
    """`tf.random.normal` from the example's seed; `seed` is ignored."""
    del seed
    return tf.random.stateless_normal(shape, self._next(), mean, stddev, dtype)

  def gamma(self, shape, alpha, beta=None, dtype=tf.float32, seed=None):
    """`tf.random.gamma` from the example's seed; `seed` is ignored."""
    del seed
    return tf.random.stateless_gamma(shape, self._next(), alpha, beta, dtype)

  def sample_distorted_bounding_box(
    self, image_size, bounding_boxes, seed=0, **kwargs
  ):
    """As in `tf.image`, from the example's seed; `seed` is ignored."""
    del seed
    return tf.image.stateless_sample_distorted_bounding_box(
      image_size, bounding_boxes, self._next(), **kwargs
    )

  def random_flip_left_right(self, image, seed=None):
    """As in `tf.image`, from the example's seed; `seed` is ignored."""
    del seed
    return tf.image.stateless_random_flip_left_right(image, self._next())

  @contextlib.contextmanager
  def starting_at(self, seed, count):
    """A context in which numbers come from `seed`, at a position `count`."""
    before = self._seed, self._count
    self._seed, self._count = seed, count
    try:
      yield
    finally:
      self._seed, self._count = before

  def with_same_numbers(self, first, second):
    """Calls two functions with the same random numbers.

    Args:
      first: a function without arguments.
      second: another, which uses as many random numbers as the first.

    Returns:
      A tuple of the two results.
    """
    with self.starting_at(self._seed, self._count):
      result = first()
    return result, second()


class _CentreOfRange:
  """Replaces `numpy.random`, which Model Garden uses while it traces."""

  def uniform(self, low, high):
    """The centre; a random number would be fixed for the run, and unseeded."""
    return (low + high) / 2.0


class _ModuleWith:
  """A module with some of its names replaced."""

  def __init__(self, module, **names):
    self.__dict__.update(names)
    self._module = module

  def __getattr__(self, name):
    return getattr(self._module, name)


_RANDOM = _StatelessRandom()
_TF = _ModuleWith(
  tf,
  random=_RANDOM,
  image=_ModuleWith(
    tf.image,
    sample_distorted_bounding_box=_RANDOM.sample_distorted_bounding_box,
    random_flip_left_right=_RANDOM.random_flip_left_right,
  ),
)


def copy(name: str, **names):
  """Returns a copy of a module with stateless random numbers.

  Args:
    name: full name of a module.
    **names: other global variables of the copy.
  """
  spec: Any = importlib.util.find_spec(name)
  module: Any = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.tf = _TF
  module.np = _ModuleWith(np, random=_CentreOfRange())
  vars(module).update(names)
  return module


augment = copy('official.vision.ops.augment')
preprocess_ops = copy('official.vision.ops.preprocess_ops')
classification_input = copy(
  'official.vision.dataloaders.classification_input',
  augment=augment,
  preprocess_ops=preprocess_ops,
)

with_same_numbers = _RANDOM.with_same_numbers


def seeded(seed: tf.Tensor, stream: int):
  """A context in which the copies take random numbers from an example's seed.

  Operations that are traced inside may run any number of times and in parallel;
  the same seed gives the same numbers.

  Args:
    seed: int `Tensor` (2,), the example's seed.
    stream: index of one of the example's independent streams of numbers.

  Returns:
    The context manager.
  """
  # A million numbers apart, no stream reaches the next.
  return _RANDOM.starting_at(seed, 1_000_000 * (stream + 1))
