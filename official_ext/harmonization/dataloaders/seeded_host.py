"""The host's augmentation, drawing from the seed of an example.

`official.vision.ops.augment` and `preprocess_ops` draw by `tf.random`, whose
state is shared by all examples: with parallel calls the same seed would give
other pictures in every run. Here are second instances of the two modules, whose
`tf.random` is stateless. The host's own stay what they are.
"""

import contextlib
import importlib.util
import threading

import numpy as np
import tensorflow as tf, tf_keras


class _Draws(threading.local):
  """Stands in for `tf.random` in the host's modules."""

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
      maxval = 1.
    return tf.random.stateless_uniform(shape, self._next(), minval, maxval,
                                       dtype)

  def normal(self, shape, mean=0., stddev=1., dtype=tf.float32, seed=None):
    """As `tf.random.normal`, from the example's seed; `seed` is not used."""
    del seed
    return tf.random.stateless_normal(shape, self._next(), mean, stddev, dtype)

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
    return (low + high) / 2.


class _But:
  """A module, but for its `random`."""

  def __init__(self, module, random):
    self._module = module
    self.random = random

  def __getattr__(self, name):
    return getattr(self._module, name)


_DRAWS = _Draws()


def _instance(name: str):
  """A second instance of a module, whose random numbers are ours."""
  spec = importlib.util.find_spec(name)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.tf = _But(tf, _DRAWS)
  module.np = _But(np, _Means())
  return module


augment = _instance('official.vision.ops.augment')
preprocess_ops = _instance('official.vision.ops.preprocess_ops')

twice = _DRAWS.twice


def draws_from(seed: tf.Tensor, stream: int):
  """A context in which the two modules draw from an example's seed.

  Args:
    seed: int `Tensor` (2,), the example's draw.
    stream: which of the example's independent streams of numbers.

  Returns:
    The context manager. What is traced in it can be run any number of times,
    in parallel, and gives the same for the same seed.
  """
  # Numbers of a stream do not reach the next one.
  return _DRAWS.starting(seed, 1_000_000 * (stream + 1))
