"""What the decoders of records with human maps have in common."""

import abc
from collections.abc import Callable
from typing import Any

from official.vision.dataloaders import decoder
import tensorflow as tf

# An integer that no record holds: says that the field was not there.
MISSING = tf.int64.min

# Pillow's bound for what is no attack. TensorFlow decodes more, which would
# take gigabytes as float32.
MAX_PIXELS = 89_478_485

_DEFAULTS = {tf.string: '', tf.int64: MISSING}
_MEANINGS = {'heatmap': 'heatmap (the human map)'}


def _attempt(
  function: Callable[[tf.Tensor], Any],
  argument: tf.Tensor,
  otherwise: Callable[[tf.Tensor], Any],
) -> Any:
  """Returns `function(argument)`, or that of `otherwise` where an op fails.

  An op that fails takes the whole pipeline with it and cannot say which record
  it was; as the only element of a dataset its error can be set aside.
  """
  argument = tf.data.Dataset.from_tensors(argument)
  result = argument.map(function).ignore_errors()
  return (
    result.concatenate(argument.map(otherwise)).take(1).get_single_element()
  )


class Decoder(decoder.Decoder):
  """Decodes records at full speed, and a second time to say what is wrong.

  A subclass says how in `_decode`, and calls what may fail by its `attempt`.

  Attributes:
    map_field: the record's field that holds the human map.
  """

  map_field = 'heatmap'

  def decode(self, serialized_example: tf.Tensor) -> dict[str, tf.Tensor]:
    """Decodes one record, and says what is wrong with it.

    Args:
      serialized_example: string scalar.

    Returns:
      A dict of `image` (H, W, 3), `heatmap` (h, w, 1), `label` int64 scalar as
      recorded, and `problem`, a string scalar that is empty where the others
      can be relied on; the class says which dtypes, and what else.
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
    """As `decode`.

    Args:
      serialized: string scalar.
      attempt: a function (function, argument, otherwise) that returns
        `function(argument)`, or fails; or, the second time, returns
        `otherwise`, of the same dtypes and ranks, instead.
    """


def _read(serialized, features):
  """Parses an example, after a look whether TensorFlow survives it.

  A length of 2 GB or more in a damaged record ends the process of
  `tf.io.parse_single_example` (TensorFlow 2.20). Protocol buffers' own parser,
  which `sanitize` calls, refuses it.
  """
  sizes, _ = tf.io.decode_proto(
    serialized, 'tensorflow.Example', ['features'], [tf.string], sanitize=True
  )
  # The look must matter, or the graph is optimized and it never happens.
  serialized = tf.where(sizes[0] > 0, serialized, '')
  return (tf.io.parse_single_example(serialized, features), tf.constant(True))


def parse(
  serialized: tf.Tensor,
  required: dict[str, tf.DType],
  attempt,
  optional: dict[str, tf.DType] | None = None,
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
  """Reads the fields of a `tf.train.Example`, each of one value.

  Args:
    serialized: string scalar.
    required: fields and their dtypes, tf.string or tf.int64.
    attempt: as a `Decoder` is given it.
    optional: fields that may be missing.

  Returns:
    The fields, scalars, '' or `MISSING` where there is none, and a problem: a
    string scalar, empty where the record can be parsed and is complete.
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
      'it is not a tf.train.Example whose fields, each of one value, '
      f'are {expected}',
    ),
    *(
      (fields[n] == _DEFAULTS[d], f'field {_MEANINGS.get(n, n)} is missing')
      for n, d in required.items()
    ),
  )


def bounded(pixels: tf.Tensor) -> tf.Tensor:
  """Lets pixels (H, W, channels) pass unless they are too many, by an error."""
  area = tf.reduce_prod(tf.shape(pixels, tf.int64)[:2])
  with tf.control_dependencies(
    [tf.debugging.assert_less_equal(area, tf.constant(MAX_PIXELS, tf.int64))]
  ):
    return tf.identity(pixels)


def decode_image(encoded: tf.Tensor, channels: int, attempt) -> tf.Tensor:
  """Decodes a picture; uint8, (0, 0, channels) if that fails.

  JPEG, PNG, BMP, WebP, or a GIF's first frame, of at most `MAX_PIXELS`.

  Args:
    encoded: string scalar.
    channels: 1 or 3.
    attempt: as a `Decoder` is given it.

  Returns:
    uint8 (H, W, channels).
  """
  image = attempt(
    lambda e: bounded(tf.io.decode_image(e, channels, expand_animations=False)),
    encoded,
    tf.zeros([0, 0, channels], tf.uint8),
  )
  return tf.ensure_shape(image, [None, None, channels])


def first_problem(*cases: tuple[tf.Tensor, Any]) -> tf.Tensor:
  """Returns the text of the first (bool scalar, text) that holds, else ''."""
  problem = tf.constant('')
  for found, what in reversed(cases):
    problem = tf.where(found, what, problem)
  return problem
