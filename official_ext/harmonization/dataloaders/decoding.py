# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Base class and functions of the decoders of records with human maps."""

import abc
from collections.abc import Callable
from typing import Any

from official.vision.dataloaders import decoder
import tensorflow as tf

# An integer that stands for a missing field; no record contains it.
MISSING = tf.int64.min

# Pillow's limit against decompression bombs. TensorFlow would decode larger
# images, which take gigabytes as float32.
MAX_PIXELS = 89_478_485

_DEFAULTS = {tf.string: '', tf.int64: MISSING}
_MEANINGS = {'heatmap': 'heatmap (the human map)'}


def _attempt(
  function: Callable[[tf.Tensor], Any],
  argument: tf.Tensor,
  otherwise: Callable[[tf.Tensor], Any],
) -> Any:
  """Returns `function(argument)`, or `otherwise(argument)` if an op fails.

  An op that fails stops the whole pipeline without naming the record. In a
  dataset of one element, its error can be ignored.
  """
  argument = tf.data.Dataset.from_tensors(argument)
  result = argument.map(function).ignore_errors()
  return (
    result.concatenate(argument.map(otherwise)).take(1).get_single_element()
  )


class Decoder(decoder.Decoder):
  """Decodes records at full speed, and again if that fails to find the problem.

  A subclass implements `_decode`, which calls all operations that can fail
  through its argument `attempt`.

  Attributes:
    map_field: name of the record field with the human map.
  """

  map_field = 'heatmap'

  def decode(self, serialized_example: tf.Tensor) -> dict[str, tf.Tensor]:
    """Decodes one record, and describes what is wrong with it.

    Args:
      serialized_example: string scalar.

    Returns:
      A dict of `image` (H, W, 3), `heatmap` (h, w, 1), `label` int64 scalar as
      recorded, and `problem`, a string scalar that is empty if the record is
      good. Subclasses document dtypes and additional fields.
    """
    return _attempt(
      lambda s: self._decode(s, lambda function, x, otherwise: function(x)),
      serialized_example,
      lambda s: self._decode(
        s,
        lambda function, x, otherwise: _attempt(
          function, x, lambda _: otherwise
        ),
      ),
    )

  @abc.abstractmethod
  def _decode(self, serialized: tf.Tensor, attempt) -> dict[str, tf.Tensor]:
    """Implements `decode`.

    Args:
      serialized: string scalar.
      attempt: `attempt(function, argument, otherwise)` returns
        `function(argument)`. If that fails, the first call of `_decode` fails
        too, and the second call gets `otherwise`, which has the same dtypes and
        ranks.
    """


def _read(serialized, features):
  """Parses an example, after checking that this does not crash TensorFlow.

  A field length of 2 GB or more in a damaged record makes
  `tf.io.parse_single_example` abort the process (TensorFlow 2.20). Protocol
  buffers' own parser, which `sanitize` calls, refuses such a record.
  """
  sizes, _ = tf.io.decode_proto(
    serialized, 'tensorflow.Example', ['features'], [tf.string], sanitize=True
  )
  # The result must depend on the check; otherwise it is optimized away.
  serialized = tf.where(sizes[0] > 0, serialized, '')
  return (tf.io.parse_single_example(serialized, features), tf.constant(True))


def parse(
  serialized: tf.Tensor,
  required: dict[str, tf.DType],
  attempt,
  optional: dict[str, tf.DType] | None = None,
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
  """Reads the fields of a `tf.train.Example`, each with one value.

  Args:
    serialized: string scalar.
    required: fields and their dtypes, tf.string or tf.int64.
    attempt: the argument of `Decoder._decode`.
    optional: fields that may be missing.

  Returns:
    The fields, scalars that are '' or `MISSING` if the field is missing, and a
    problem: a string scalar, empty if the record can be parsed and is complete.
  """
  dtypes = {**required, **(optional or {})}
  features = {
    name: tf.io.FixedLenFeature((), dtype, default_value=_DEFAULTS[dtype])
    for name, dtype in dtypes.items()
  }
  fields, parsed = attempt(
    lambda s: _read(s, features),
    serialized,
    ({n: tf.constant(_DEFAULTS[d], d) for n, d in dtypes.items()}, False),
  )
  expected = ', '.join(f'{n} ({d.name})' for n, d in dtypes.items())
  return fields, first_problem(
    (
      ~parsed,
      'it is not a tf.train.Example with one value in each of the fields '
      f'{expected}',
    ),
    *(
      (fields[n] == _DEFAULTS[d], f'field {_MEANINGS.get(n, n)} is missing')
      for n, d in required.items()
    ),
  )


def bounded(pixels: tf.Tensor) -> tf.Tensor:
  """Returns pixels (H, W, channels); fails above `MAX_PIXELS`."""
  area = tf.reduce_prod(tf.shape(pixels, tf.int64)[:2])
  with tf.control_dependencies(
    [tf.debugging.assert_less_equal(area, tf.constant(MAX_PIXELS, tf.int64))]
  ):
    return tf.identity(pixels)


def decode_image(encoded: tf.Tensor, channels: int, attempt) -> tf.Tensor:
  """Decodes a JPEG, PNG, BMP or WebP, or the first frame of a GIF.

  Args:
    encoded: string scalar.
    channels: 1 or 3.
    attempt: the argument of `Decoder._decode`.

  Returns:
    uint8 (H, W, channels); (0, 0, channels) if it cannot be decoded or has more
    than `MAX_PIXELS`.
  """
  image = attempt(
    lambda e: bounded(tf.io.decode_image(e, channels, expand_animations=False)),
    encoded,
    tf.zeros([0, 0, channels], tf.uint8),
  )
  return tf.ensure_shape(image, [None, None, channels])


def first_problem(*cases: tuple[tf.Tensor, Any]) -> tf.Tensor:
  """Returns the text of the first (condition, text) that is true, or ''."""
  problem = tf.constant('')
  for found, what in reversed(cases):
    problem = tf.where(found, what, problem)
  return problem
