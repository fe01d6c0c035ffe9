"""The host's augmentation, drawing from the seed of an example.

`official.vision.ops.augment` and `preprocess_ops` draw by `tf.random`, whose
state is shared by all examples: with parallel calls the same seed would give
other pictures in every run. Here are second instances of these modules, and of
`classification_input`, which calls them; their random numbers are stateless.
The host's own stay what they are.
"""

import contextlib
import importlib.util
import threading

import numpy as np
import tensorflow as tf


class _Draws(threading.local):
  """Replaces `tf.random` in Model Garden's modules."""

  def __init__(self):
    self._seed = None
    self._count = 0

  def _next(self):
    if self._seed is None:
      raise RuntimeError('Draw inside `seeded_host.draws_from`.')
    self._count += 1
    return self._seed + [0, self._count]

  def uniform(self, shape, minval=0, maxval=None, dtype=tf.float32, seed=None):
    """As `tf.random.uniform`, from the example's seed; `seed` is not used."""
    del seed
    if dtype.is_floating and maxval is None:
      maxval = 1.0
    return tf.random.stateless_uniform(
      shape, self._next(), minval, maxval, dtype
    )

  def normal(self, shape, mean=0.0, stddev=1.0, dtype=tf.float32, seed=None):
    """As `tf.random.normal`, from the example's seed; `seed` is not used."""
    del seed
    return tf.random.stateless_normal(shape, self._next(), mean, stddev, dtype)

  def gamma(self, shape, alpha, beta=None, dtype=tf.float32, seed=None):
    """As `tf.random.gamma`, from the example's seed; `seed` is not used."""
    del seed
    return tf.random.stateless_gamma(shape, self._next(), alpha, beta, dtype)

  def sample_distorted_bounding_box(
    self, image_size, bounding_boxes, seed=0, **kwargs
  ):
    """As `tf.image`'s, from the example's seed; `seed` is not used."""
    del seed
    return tf.image.stateless_sample_distorted_bounding_box(
      image_size, bounding_boxes, self._next(), **kwargs
    )

  def random_flip_left_right(self, image, seed=None):
    """As `tf.image`'s, from the example's seed; `seed` is not used."""
    del seed
    return tf.image.stateless_random_flip_left_right(image, self._next())

  @contextlib.contextmanager
  def starting(self, seed, count):
    """All that is drawn inside comes from `seed`, from a number on."""
    before = self._seed, self._count
    self._seed, self._count = seed, count
    try:
      yield
    finally:
      self._seed, self._count = before

  def twice(self, first, second):
    """Calls two functions that draw the same numbers.

    Args:
      first: a function without arguments.
      second: another, that draws as often as the first.

    Returns:
      What the two return.
    """
    with self.starting(self._seed, self._count):
      one = first()
    return one, second()


class _Means:
  """Stands in for `numpy.random`, which the host asks while it traces."""

  def uniform(self, low, high):
    """The middle: a draw would be one for the whole run, and without a seed."""
    return (low + high) / 2.0


class _Replaced:
  """A module of which some names are replaced."""

  def __init__(self, module, **names):
    self.__dict__.update(names)
    self._module = module

  def __getattr__(self, name):
    return getattr(self._module, name)


_DRAWS = _Draws()
_TF = _Replaced(
  tf,
  random=_DRAWS,
  image=_Replaced(
    tf.image,
    sample_distorted_bounding_box=_DRAWS.sample_distorted_bounding_box,
    random_flip_left_right=_DRAWS.random_flip_left_right,
  ),
)


def _instance(name: str, **names):
  """A second instance of a module, whose random numbers are ours."""
  spec = importlib.util.find_spec(name)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.tf = _TF
  module.np = _Replaced(np, random=_Means())
  vars(module).update(names)
  return module


augment = _instance('official.vision.ops.augment')
preprocess_ops = _instance('official.vision.ops.preprocess_ops')
# With operations of its own: those above are made to take maps, in
# `augmentation`.
classification_input = _instance(
  'official.vision.dataloaders.classification_input',
  augment=_instance('official.vision.ops.augment'),
  preprocess_ops=preprocess_ops,
)

twice = _DRAWS.twice


def draws_from(seed: tf.Tensor, stream: int):
  """A context in which these modules draw from an example's seed.

  Args:
    seed: int `Tensor` (2,), the example's draw.
    stream: which of the example's independent streams of numbers.

  Returns:
    The context manager. What is traced in it can be run any number of times,
    in parallel, and gives the same for the same seed.
  """
  # Numbers of a stream do not reach the next one.
  return _DRAWS.starting(seed, 1_000_000 * (stream + 1))
